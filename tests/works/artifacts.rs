//! Files and directories that are passed from Work to Work by reference.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use flowright::ArtifactError;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::stories::{Place, Story, Teller, bytes, tell};
use crate::support::two;

/// Writes a checkpoint of several files, one of them larger than a read buffer.
fn make_checkpoint(at: &Path, seed: u8) {
    fs::create_dir_all(at.join("layers/deep")).unwrap();
    fs::write(at.join("weights"), bytes(3_000_000, seed)).unwrap();
    fs::write(at.join("layers/deep/empty"), "").unwrap();
    fs::write(at.join("layers/run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("layers/run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../weights", at.join("layers/latest")).unwrap();
}

/// A Work that makes artifacts of checkpoints.
#[derive(Default, Serialize, Deserialize)]
struct Trainer {
    checkpoint: Option<Artifact>,
}

impl Work for Trainer {
    type Input = (PathBuf, u8);

    async fn run(&mut self, (place, seed): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        let directory = place.join(format!("made-{seed}"));
        make_checkpoint(&directory, seed % 2);
        self.checkpoint = Some(cx.artifact(&directory)?);
        // The artifact has the content from the time it was made.
        fs::remove_dir_all(&directory)?;
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Server {
    fetched: Vec<PathBuf>,
}

impl Work for Server {
    type Input = (PathBuf, Artifact);

    async fn run(&mut self, (place, artifact): Self::Input, _: &mut WorkContext<Self>) -> Result<()> {
        let into = place.join(format!("fetched/{}", self.fetched.len()));
        assert!(artifact.exists().await);
        artifact.fetch(&into).await?;
        assert_eq!(artifact.progress().received, artifact.len());
        assert_eq!(artifact.origin(), "a");
        self.fetched.push(into);
        Ok(())
    }
}

#[test]
fn a_directory_goes_from_work_to_work_as_it_was() {
    let place = Place::new();
    let path = place.0.clone();
    let flow = move || {
        two(WorkRef::<Trainer>::default(), WorkRef::<Server>::default(), move |trainer, server, cx| {
            let made =
                trainer.run((path.clone(), 1)).finished()?.checkpoint.clone().expect("the value was made");
            let fetched = &server.run((path.clone(), made)).finished()?.fetched;
            let into = &fetched[0];
            let mode = |name: &str| into.join(name).metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(fs::read(into.join("weights")).unwrap(), bytes(3_000_000, 1));
            assert_eq!(fs::read(into.join("layers/latest")).unwrap(), bytes(3_000_000, 1));
            assert_eq!(fs::read_link(into.join("layers/latest")).unwrap(), Path::new("../weights"));
            assert_eq!(fs::read(into.join("layers/deep/empty")).unwrap(), b"");
            assert_eq!(mode("layers/run.sh"), 0o750);
            cx.stop("it has");
            Ok(())
        })
    };
    TestApp::start(flow).wait_for_exit().result.unwrap();
}

#[test]
fn equal_content_is_the_same_input_whenever_it_was_made() {
    let place = Place::new();
    let path = place.0.clone();
    let mut asked = 0;
    let flow = move || {
        two(WorkRef::<Trainer>::default(), WorkRef::<Server>::default(), move |trainer, server, cx| {
            for (seed, fetched) in [(1, 1), (3, 1), (2, 2)].into_iter().skip(asked) {
                let made = trainer
                    .run((path.clone(), seed))
                    .finished()?
                    .checkpoint
                    .clone()
                    .expect("the value was made");
                assert_eq!(
                    server.run((path.clone(), made)).finished()?.fetched.len(),
                    fetched,
                    "seed {seed}"
                );
                // The state has the newest artifact.
                asked += 1;
            }
            cx.stop("it is");
            Ok(())
        })
    };
    TestApp::start(flow).wait_for_exit().result.unwrap();
}

#[derive(Default)]
struct Refusals;

impl Story for Refusals {
    async fn tell(place: &Path, cx: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let told = |error: ArtifactError| format!("{:#}", Error::from(error));
        let error = told(cx.artifact(place.join("nothing")).unwrap_err());
        assert!(error.contains("there is nothing at") && error.contains("relative path"), "{error}");
        let tree = place.join("tree");
        make_checkpoint(&tree, 1);
        symlink("../..", tree.join("layers/out")).unwrap();
        let error = told(cx.artifact(&tree).unwrap_err());
        assert!(error.contains("layers/out points to ../.., which is outside of the tree"), "{error}");
        fs::remove_file(tree.join("layers/out"))?;

        let artifact = cx.artifact(&tree)?;
        let into = place.join("into");
        fs::write(&into, "mine")?;
        let error = told(artifact.fetch(&into).await.unwrap_err());
        assert!(error.contains("into exists already") && error.contains(".overwrite(true)"), "{error}");
        assert_eq!(fs::read_to_string(&into)?, "mine");
        artifact.fetch(&into).overwrite(true).await?;
        assert!(into.join("weights").exists());
        // Several fetches at once: each succeeds, and nothing is left of the directories that others have replaced.
        let fetches = (0..4).map(|_| artifact.fetch(&into).overwrite(true).into_future());
        futures::future::try_join_all(fetches).await?;
        let hidden = fs::read_dir(place)?.filter_map(Result::ok);
        assert_eq!(hidden.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".")).count(), 0);
        let error = told(artifact.fetch(place.join("..")).await.unwrap_err());
        assert!(error.contains("has no last component"), "{error}");
        let error = told(artifact.fetch(into.join("weights/below")).await.unwrap_err());
        assert!(error.contains("cannot be written"), "{error}");

        // A file is an artifact as well.
        let file = cx.artifact(tree.join("weights"))?;
        assert_ne!(file, artifact);
        file.fetch(place.join("a/b/file")).await?;
        assert_eq!(fs::read(place.join("a/b/file"))?, bytes(3_000_000, 1));
        let left: Vec<_> = fs::read_dir(place.join("a/b"))?.collect();
        assert_eq!(left.len(), 1, "nothing is left beside it");
        Ok(())
    }
}

#[test]
fn what_cannot_be_made_or_fetched_says_why_and_changes_nothing() {
    tell::<Refusals>();
}

#[derive(Default)]
struct References;

impl Story for References {
    async fn tell(place: &Path, cx: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let name = "a very long name of a directory, longer than anything that a reference has room for, of which there is none";
        let tree = place.join(name);
        make_checkpoint(&tree, 1);
        let artifact = cx.artifact(&tree)?;
        let text = serde_json::to_string(&artifact)?;
        assert!(text.len() < 300, "{text}");
        let back: Artifact = serde_json::from_str(&text)?;
        assert_eq!(back, artifact);
        assert_eq!(format!("{back:?}"), format!("{artifact:?}"));
        drop(artifact);
        assert!(back.exists().await);
        back.fetch(place.join("copy")).await?;
        drop(back);
        let gone: Artifact = serde_json::from_str(&text)?;
        assert!(!gone.exists().await);
        let error = format!("{:#}", Error::from(gone.fetch(place.join("none")).await.unwrap_err()));
        assert!(
            error.contains("nothing referred to it any more") && error.contains("directory `a very"),
            "{error}"
        );
        Ok(())
    }
}

#[test]
fn it_lives_while_anything_refers_to_it() {
    tell::<References>();
}
