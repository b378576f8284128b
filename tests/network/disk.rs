//! Full disks.

use std::path::PathBuf;
use std::process::Command;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, DriveError, PayloadUsage};

use crate::{LIMIT, run};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("a_full_disk_is_said_and_nothing_is_left_there", a_full_disk_is_said_and_nothing_is_left_there)];

/// A small disk; unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    fn of_mib(size: u32) -> Self {
        let place = std::env::temp_dir().join(format!("flowright-disk-{}", std::process::id()));
        std::fs::create_dir(&place).expect("the directory is new");
        let disk = Self(place);
        let options = format!("size={size}m");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", disk.0.to_str().expect("valid UTF-8")]);
        disk
    }

    /// The number of files and directories on it.
    fn parts(&self) -> usize {
        let mut left = vec![self.0.clone()];
        let mut parts = 0;
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).expect("the directory can be read").flatten() {
                parts += 1;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(entry.path());
                }
            }
        }
        parts
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A Work that fills a disk of 8 MiB in every possible way.
#[derive(Default, Serialize, Deserialize)]
struct Filler;

impl Work for Filler {
    /// A directory on the small disk, and one on another.
    type Input = (PathBuf, PathBuf);

    async fn run(&mut self, (disk, large): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        const LENGTH: usize = 20 << 20;
        let told = |error: Error| format!("{error:#}");
        let drive = Drive::new("small");
        std::fs::write(large.join("it"), vec![1; LENGTH])?;

        let error = drive.put("it", large.join("it")).await.unwrap_err();
        let is_said = matches!(&error, DriveError::NoRoom { .. });
        assert!(is_said && error.to_string().contains("--drive-dir"), "{error:?}");
        assert!(drive.list("").await?.is_empty(), "nothing is seen of it");
        drive.put_bytes("small", vec![1; 1000]).await?;
        drive.delete("small").await?;

        let elsewhere = Drive::from_url(format!("file://{}", large.join("drive").display()))?;
        elsewhere.put("it", large.join("it")).await?;
        let error = told(elsewhere.get("it", disk.join("got")).await.unwrap_err().into());
        assert!(error.contains("got cannot be written") && error.contains("No space left"), "{error}");

        let error = told(cx.artifact(large.join("it")).unwrap_err().into());
        assert!(
            error.contains("there is no room for the artifact") && error.contains("--payload-dir"),
            "{error}"
        );
        std::fs::write(large.join("small"), vec![1; 5 << 20])?;
        let artifact = cx.artifact(large.join("small"))?;
        let error = told(artifact.fetch(disk.join("fetched")).await.unwrap_err().into());
        assert!(error.contains("fetched cannot be written") && error.contains("nothing is left"), "{error}");
        artifact.fetch(large.join("fetched")).await?;
        drop(artifact);

        let mut made = Vec::new();
        let error = loop {
            match cx.payload(vec![made.len() as u8; 1 << 20]) {
                Ok(payload) => made.push(payload),
                Err(error) => break told(error.into()),
            }
        };
        assert!(error.contains("No space left") && error.contains("made by work `filler`"), "{error}");
        assert!(error.contains("--payload-dir") && !error.contains("Serialize"), "{error}");
        // Two values are in memory, and the disk has room for some of the others.
        assert!((3..=10).contains(&made.len()), "{}", made.len());
        made.truncate(3);
        for (n, payload) in made.iter().enumerate() {
            assert!(payload.value().await?.iter().all(|byte| *byte == n as u8), "{n}");
        }
        drop(made);
        assert_eq!(PayloadUsage::here(), PayloadUsage::default());
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Filling {
    filler: WorkRef<Filler>,
    #[serde(skip)]
    places: (PathBuf, PathBuf),
}

impl Flow for Filling {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.filler.run(self.places.clone()).finished()?;
        cx.stop("it was full");
        Ok(())
    }
}

fn a_full_disk_is_said_and_nothing_is_left_there() {
    let disk = Disk::of_mib(8);
    let large = std::env::temp_dir().join(format!("flowright-large-{}", std::process::id()));
    std::fs::create_dir(&large).expect("the directory is new");
    let config = Config::new()
        .payload_dir(disk.0.join("payloads"))
        .payload_memory_mib(2)
        .drive_dir(disk.0.join("drives"));
    let places = (disk.0.clone(), large.clone());
    let flow = move || Filling { filler: WorkRef::default(), places };
    let exit = TestApp::start_app(App::new(flow).config(config)).limit(LIMIT).wait_for_exit();
    let _ = std::fs::remove_dir_all(&large);
    if let Err(error) = exit.result {
        panic!("{error}");
    }
    // The directories of payloads, of drives, and of the drive.
    assert_eq!(disk.parts(), 3, "nothing else is left");
}
