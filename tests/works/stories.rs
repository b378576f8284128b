//! Works that run the code of one test, with a directory of their own.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use flowright::Config;
use flowright::prelude::*;
use flowright::testing::TestApp;

/// The code of a test that runs in a Work.
pub(crate) trait Story: Default + 'static {
    async fn tell(place: &Path, cx: &mut WorkContext<Teller<Self>>) -> Result<()>;
}

#[derive(Default, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Teller<S>(PhantomData<S>);

impl<S: Story> Work for Teller<S> {
    type Input = PathBuf;

    async fn run(&mut self, place: PathBuf, cx: &mut WorkContext<Self>) -> Result<()> {
        S::tell(&place, cx).await
    }
}

#[derive(Serialize, Children)]
#[serde(bound = "")]
struct Telling<S: Story> {
    teller: WorkRef<Teller<S>>,
    #[serde(skip)]
    place: PathBuf,
}

impl<S: Story> Flow for Telling<S> {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.teller.run(self.place.clone()).finished()?;
        cx.stop("it is told");
        Ok(())
    }
}

/// Runs the story, and panics with its error. The drives are in `drives` below its place.
#[track_caller]
pub(crate) fn tell<S: Story>() {
    let place = Place::new();
    let path = place.0.clone();
    let config = Config::new().drive_dir(path.join("drives"));
    let flow = move || Telling::<S> { teller: WorkRef::new(Teller(PhantomData)), place: path };
    let exit = TestApp::start_app(App::new(flow).config(config)).wait_for_exit();
    if let Err(error) = exit.result {
        panic!("{error}");
    }
}

/// A directory that is removed on drop.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("flowright-works-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `length` pseudo-random bytes.
pub(crate) fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 12) as u8) ^ seed).collect()
}
