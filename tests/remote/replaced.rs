//! Works that take the path of others, which are still ending.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use flowright::Messages;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::support::{Process, joining, program, signal, times, until, until_gone};

crate::tests![
    successors_are_reached_while_replaced_works_end,
    successors_are_reached_when_replaced_works_are_killed,
];

const LIMIT: Duration = Duration::from_secs(120);

/// A Work that does not end until a file of the test exists.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Heir {
    generation: u32,
    directory: PathBuf,
    told: Vec<u32>,
}

impl Heir {
    fn file(&self, what: &str) -> PathBuf {
        self.directory.join(format!("{what}-{}", self.generation))
    }
}

impl Work for Heir {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        cx.serve_forever(self).await?;
        Ok(())
    }

    async fn on_stop(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        std::fs::write(self.file("stopping"), format!("{}.", std::process::id()))?;
        while !self.file("go-on").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::write(self.file("ended"), "")?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Add>().accept::<Told>();
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Add(u32);

impl Handle<Add> for Heir {
    type Reply = ();

    async fn handle(&mut self, Add(number): Add, _: &mut WorkContext<Self>) {
        self.told.push(number);
    }
}

/// A question for the generation of an [`Heir`] and the numbers that it received.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Told;

impl Handle<Told> for Heir {
    type Reply = (u32, Vec<u32>);

    async fn handle(&mut self, _: Told, _: &mut WorkContext<Self>) -> Self::Reply {
        (self.generation, self.told.clone())
    }
}

/// A Work that gets the address of each [`Heir`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Asker {
    heir: Option<WorkAddr<Heir>>,
    /// The generation of the Heir whose address it got last.
    knows: u32,
    /// The generation that the Flow is to have.
    wanted: u32,
}

impl Work for Asker {
    type Input = (u32, WorkAddr<Heir>);

    async fn run(&mut self, (generation, heir): Self::Input, _: &mut WorkContext<Self>) -> Result<()> {
        (self.knows, self.heir) = (generation, Some(heir));
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Replace>().accept::<Pass>();
    }
}

/// A message that has the Flow replace the Heir.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Replace(u32);

impl Handle<Replace> for Asker {
    type Reply = ();

    async fn handle(&mut self, Replace(generation): Replace, cx: &mut WorkContext<Self>) {
        self.wanted = generation;
        cx.publish(self);
    }
}

/// Tells the Heir a number and asks for those that it received.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pass(u32);

impl Handle<Pass> for Asker {
    type Reply = Result<(u32, Vec<u32>), String>;

    async fn handle(&mut self, Pass(number): Pass, _: &mut WorkContext<Self>) -> Self::Reply {
        let heir = self.heir.as_ref().ok_or("it was given no address")?;
        heir.tell(Add(number)).await.map_err(|error| format!("tell: {error}"))?;
        heir.ask(Told).timeout(LIMIT / 2).await.map_err(|error| format!("ask: {error}"))
    }
}

type Make = Box<dyn Fn(u32) -> WorkRef<Heir> + Send>;

#[derive(Serialize, Children)]
pub(crate) struct Line {
    heir: WorkRef<Heir>,
    asker: WorkRef<Asker>,
    generation: u32,
    #[serde(skip)]
    make: Make,
}

impl Line {
    fn new(make: Make, asker: &str) -> Self {
        let asker = WorkRef::from(Asker::default()).placed(asker.parse().expect("the placement is valid"));
        Self { heir: make(1), asker, generation: 1, make }
    }
}

impl Flow for Line {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        let wanted = self.asker.wanted;
        if wanted > self.generation {
            self.generation = wanted;
            self.heir = (self.make)(wanted);
        }
        self.heir.run(());
        if self.heir.path().is_some() {
            self.asker.run((self.generation, self.heir.addr()));
        }
        Ok(())
    }
}

/// The program of nodes and processes.
pub(crate) fn line() -> App {
    App::new(|| Line::new(Box::new(|_| WorkRef::from(Heir::default())), "thread"))
}

/// An App with a [`Line`], and the nodes that it needs.
struct Scene {
    app: TestApp,
    _nodes: Vec<Process>,
    directory: PathBuf,
    /// Text for failed assertions.
    places: String,
    generation: u32,
    told: Vec<u32>,
}

impl Scene {
    /// Starts the App. `heirs` are the places of the generations, in order; later ones are in the last place.
    fn new(heirs: &'static [&'static str], asker: &'static str) -> Self {
        let places = format!("{heirs:?} and {asker}");
        let name = format!("flowright-replaced-{}-{}-{asker}", std::process::id(), heirs.join("-"));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("there is a temporary directory");
        let of_heirs = directory.clone();
        let make: Make = Box::new(move |generation| {
            let heir = Heir { generation, directory: of_heirs.clone(), told: Vec::new() };
            let place = heirs.get(generation as usize - 1).or(heirs.last()).expect("the list has an heir");
            WorkRef::from(heir).placed(place.parse().expect("the placement is valid")).grace(LIMIT * 10)
        });
        let app = App::new(move || Line::new(make, asker)).listen("127.0.0.1:0");
        let app = app.process(|| Ok(program("line"))).config(times(1000, 60_000));
        let app = TestApp::start_app(app).limit(LIMIT);
        let address = joining(&app);
        let nodes = ["m", "n", "o"].into_iter().filter(|node| *node == asker || heirs.contains(node));
        let nodes: Vec<_> = nodes.map(|name| Process::node_of("line", &address, name, &[])).collect();
        until("the nodes", || app.status().nodes.len() == nodes.len());
        let mut scene = Self { app, _nodes: nodes, directory, places, generation: 1, told: Vec::new() };
        scene.app.wait_for_stage("heir", flowright::Stage::Running);
        scene.is_reached();
        scene
    }

    fn asker(&self) -> WorkAddr<Asker> {
        self.app.work("asker")
    }

    /// Has the next generation take the path. Returns the process of the previous one, which is asked to end and does
    /// not yet.
    #[track_caller]
    fn replace(&mut self) -> u32 {
        let before = self.generation;
        (self.generation, self.told) = (before + 1, Vec::new());
        self.app.block_on(self.asker().tell(Replace(self.generation))).expect("the Work runs");
        let mut process = None;
        until("the end of the one before", || {
            let text = std::fs::read_to_string(self.directory.join(format!("stopping-{before}")));
            process = text.unwrap_or_default().strip_suffix('.').and_then(|id| id.parse().ok());
            process.is_some()
        });
        process.expect("the loop above has set it")
    }

    /// Asserts that the newest generation receives its messages, in order, and answers.
    #[track_caller]
    fn is_reached(&mut self) {
        let generation = self.generation;
        self.app.wait_for_state("asker.knows", |knows: &u32| *knows == generation);
        let number = self.told.len() as u32;
        self.told.push(number);
        let answer = self.app.block_on(self.asker().ask(Pass(number)).timeout(LIMIT)).expect("the Work runs");
        assert_eq!(answer, Ok((generation, self.told.clone())), "{}", self.places);
    }

    /// Asserts the same for a second, so that late events have happened.
    #[track_caller]
    fn stays_reached(&mut self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            self.is_reached();
        }
    }

    fn let_go(&self, generation: u32) {
        std::fs::write(self.directory.join(format!("go-on-{generation}")), "").expect("the file is writable");
    }

    #[track_caller]
    fn end(&self, generation: u32) {
        self.let_go(generation);
        until("its end", || self.directory.join(format!("ended-{generation}")).exists());
    }

    /// Ends the App, which ends the last generation as well.
    #[track_caller]
    fn finish(self) {
        (1..=self.generation).for_each(|generation| self.let_go(generation));
        self.app.stop().result.expect("nothing has failed");
        std::fs::remove_dir_all(&self.directory).expect("nobody uses it");
    }
}

/// A Work is replaced at its path, and so is its successor, while both are still ending: messages to the address of the
/// newest reach it, before and after the others have ended.
fn successors_are_reached_while_replaced_works_end() {
    for asker in ["thread", "n"] {
        for heirs in [&["thread"][..], &["process"], &["m"], &["m", "thread", "process"], &["thread", "m"]] {
            let mut scene = Scene::new(heirs, asker);
            scene.replace();
            scene.is_reached();
            scene.replace();
            scene.is_reached();
            scene.end(1);
            scene.stays_reached();
            scene.end(2);
            scene.stays_reached();
            scene.finish();
        }
    }
}

/// As above, when the process or node of a replaced Work is killed before the Work has ended.
fn successors_are_reached_when_replaced_works_are_killed() {
    for asker in ["thread", "n"] {
        for heirs in
            [&["process"][..], &["process", "thread"], &["m", "o"], &["m", "thread"], &["m", "process"]]
        {
            let mut scene = Scene::new(heirs, asker);
            let process = scene.replace();
            scene.is_reached();
            signal(process, "KILL");
            until_gone(process);
            until("the loss of the node", || !scene.app.status().nodes.contains_key("m"));
            scene.stays_reached();
            scene.finish();
        }
    }
}
