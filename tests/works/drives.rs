//! Folders that all Works share, in one process.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, DriveError, Transferred};
use futures::{FutureExt, TryStreamExt};

use crate::stories::{Place, Story, Teller, bytes, tell};

/// Length of a file that is written in several parts.
const LARGE: usize = 9 << 20;

#[derive(Default)]
struct Everything;

impl Story for Everything {
    async fn tell(place: &Path, _: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let drive = Drive::new("reports");
        assert!(drive.list("").await?.is_empty());
        let large = bytes(LARGE, 1);
        fs::write(place.join("large"), &large)?;
        drive.put("2024/large", place.join("large")).await?;
        drive.put_bytes("2024/small ä.txt", "all is well").await?;
        drive.put_bytes("top", "").await?;

        let names: Vec<_> = drive.list("").await?.into_iter().map(|file| (file.name, file.size)).collect();
        let all = [("2024/large", LARGE as u64), ("2024/small ä.txt", 11), ("top", 0)];
        assert_eq!(names, all.map(|(name, size)| (name.to_owned(), size)));
        assert_eq!(drive.list("2024").await?.len(), 2);
        assert_eq!(drive.list("20").await?.len(), 0, "directories are whole names");
        // The drive is a directory with the files.
        assert_eq!(fs::read(place.join("drives/reports/2024/large"))?, large);

        drive.get("2024/large", place.join("back/large")).await?;
        assert_eq!(fs::read(place.join("back/large"))?, large);
        assert_eq!(fs::read_dir(place.join("back"))?.count(), 1, "nothing is left beside it");
        assert_eq!(drive.read("2024/small ä.txt").await?, "all is well");
        assert_eq!(drive.read("top").await?, "");
        let part: Vec<_> = drive.stream("2024/large", 1000..3_000_000).await?.try_collect().await?;
        assert_eq!(part.concat(), large[1000..3_000_000]);
        let end: Vec<_> = drive.stream("2024/large", LARGE as u64 - 7..).await?.try_collect().await?;
        assert_eq!(end.concat(), large[LARGE - 7..]);
        let none: Vec<_> = drive.stream("2024/large", 5..5).await?.try_collect().await?;
        assert_eq!(none.concat(), b"");

        assert!(drive.exists("top").await?);
        drive.delete("top").await?;
        assert!(!drive.exists("top").await?);
        assert!(!drive.exists("2024").await?, "a directory is no file");
        let other = Drive::new("other");
        assert!(other.list("").await?.is_empty(), "each drive has its own");
        Ok(())
    }
}

#[test]
fn what_is_put_can_be_listed_got_and_deleted() {
    tell::<Everything>();
}

#[derive(Default)]
struct Refusals;

impl Story for Refusals {
    async fn tell(place: &Path, _: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let drive = Drive::new("reports");
        for (name, why) in [
            ("", "empty"),
            ("/a", "absolute"),
            ("a/../b", "`..`"),
            ("a//b", "two slashes"),
            ("a#1", "number"),
        ] {
            let errors = [
                drive.put_bytes(name, "x").await.unwrap_err(),
                drive.read(name).await.unwrap_err(),
                drive.delete(name).await.unwrap_err(),
                drive.exists(name).await.unwrap_err(),
            ];
            for error in errors {
                assert!(
                    matches!(error, DriveError::BadName { .. }) && error.to_string().contains(why),
                    "{error}"
                );
            }
        }
        for (drive, why) in [
            ("a/b", "without `/`"),
            ("lit://a", "Drive::new(\"a\")"),
            ("s3://a", "Drive::from_url"),
            ("..", "dot"),
        ] {
            let error = Drive::new(drive).list("").await.unwrap_err();
            if drive.starts_with("s3") && cfg!(feature = "s3") {
                continue;
            }
            assert!(matches!(error, DriveError::BadDrive { .. }), "{error}");
            assert!(error.to_string().contains(why) || drive.starts_with("s3"), "{error}");
        }

        let missing = drive.read("none").await.unwrap_err().to_string();
        assert!(missing.contains("there is no `none` in the drive `reports`"), "{missing}");
        assert!(matches!(drive.delete("none").await, Err(DriveError::NotFound { .. })));
        let error = drive.put("it", place.join("nothing")).await.unwrap_err().to_string();
        assert!(error.contains("nothing cannot be read"), "{error}");
        let error = drive.put("it", place).await.unwrap_err().to_string();
        assert!(error.contains("is a directory"), "{error}");
        assert!(!drive.exists("it").await?);

        for length in [10, LARGE] {
            drive.put_bytes("it", bytes(length, 1)).overwrite(false).await?;
            let again = drive.put_bytes("it", bytes(length, 2)).overwrite(false).await.unwrap_err();
            assert!(
                matches!(again, DriveError::Exists { .. }) && again.to_string().contains(".overwrite(true)")
            );
            assert_eq!(drive.read("it").await?, bytes(length, 1));
            drive.put_bytes("it", bytes(length, 2)).await?;
            assert_eq!(drive.read("it").await?, bytes(length, 2));
            assert_eq!(drive.list("").await?.len(), 1, "nothing is seen of what was put");
            drive.delete("it").await?;
        }

        // Opening a pipe would block, wherever it is.
        let pipes = [place.join("pipe"), place.join("drives/reports/pipe")];
        for pipe in &pipes {
            assert!(std::process::Command::new("mkfifo").arg(pipe).status()?.success());
        }
        let errors = [
            drive.put("it", &pipes[0]).await.unwrap_err(),
            drive.read("pipe").await.unwrap_err(),
            drive.exists("pipe").await.unwrap_err(),
            drive.delete("pipe").await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
        pipes.iter().try_for_each(fs::remove_file)?;

        drive.put_bytes("it", "new").await?;
        fs::write(place.join("mine"), "mine")?;
        let error = drive.get("it", place.join("mine")).await.unwrap_err().to_string();
        assert!(error.contains("mine exists already") && error.contains(".overwrite(true)"), "{error}");
        assert_eq!(fs::read_to_string(place.join("mine"))?, "mine");
        drive.get("it", place.join("mine")).overwrite(true).await?;
        assert_eq!(fs::read_to_string(place.join("mine"))?, "new");
        Ok(())
    }
}

#[test]
fn what_cannot_be_done_says_why_and_changes_nothing() {
    tell::<Refusals>();
}

#[derive(Default)]
struct Progress;

impl Story for Progress {
    async fn tell(place: &Path, _: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let drive = Drive::new("reports");
        let seen = Arc::new(Mutex::new(Vec::<Transferred>::new()));
        let note = || {
            let seen = seen.clone();
            move |now| seen.lock().unwrap().push(now)
        };
        drive.put_bytes("it", bytes(LARGE, 1)).on_progress(note()).await?;
        let put = std::mem::take(&mut *seen.lock().unwrap());
        drive.get("it", place.join("it")).on_progress(note()).await?;
        let got = std::mem::take(&mut *seen.lock().unwrap());
        for seen in [put, got] {
            assert!(seen.len() > 10, "{seen:?}");
            assert!(seen.windows(2).all(|two| two[0].bytes < two[1].bytes));
            let last = seen.last().map(|last| (last.bytes, last.total));
            assert_eq!(last, Some((LARGE as u64, Some(LARGE as u64))));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Directories;

impl Story for Directories {
    async fn tell(place: &Path, _: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let drive = Drive::new("reports");
        // A directory is part of the names of files, as in a bucket: without files it does not exist.
        for name in ["d/x", "d/y/z", "d", "d/x/y"] {
            drive.put_bytes(name, name).await?;
            assert_eq!(drive.read(name).await?, name);
            drive.delete(name).await?;
            assert!(!place.join("drives/reports/d").exists(), "{name}");
        }
        // Nor does a directory exist that another program has made.
        fs::create_dir_all(place.join("drives/reports/d/e/f"))?;
        drive.put_bytes("d", "file").await?;
        assert_eq!(drive.read("d").await?, "file");
        drive.delete("d").await?;

        drive.put_bytes("d/x", "x").await?;
        assert!(drive.put_bytes("d", "file").await.is_err(), "there is a file below");
        assert_eq!(drive.read("d/x").await?, "x");
        Ok(())
    }
}

/// A name can be that of a file once the files below it were deleted.
#[test]
fn directories_without_files_are_not_in_the_way() {
    tell::<Directories>();
}

#[test]
fn how_far_it_is_is_told() {
    tell::<Progress>();
}

#[derive(Default)]
struct HalfWritten;

impl Story for HalfWritten {
    async fn tell(_: &Path, _: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let drive = Drive::new("shared");
        for length in [100_000, LARGE] {
            drive.put_bytes("it", vec![0; length]).await?;
            let write = async {
                for round in 1..6_u8 {
                    drive.put_bytes("it", vec![round; length]).await?;
                }
                Ok::<_, DriveError>(())
            };
            let read = async {
                let mut last = 0;
                while last < 5 {
                    let it = drive.read("it").await?;
                    assert!(
                        it.len() == length && it.iter().all(|byte| *byte == it[0]),
                        "half of it was read"
                    );
                    assert_eq!(drive.list("").await?.len(), 1, "nothing is seen of what is under way");
                    assert!(it[0] >= last);
                    last = it[0];
                }
                Ok::<_, DriveError>(())
            };
            futures::future::try_join(write, read).await?;

            // A cancelled `put` stores nothing.
            let mut giving_up = Box::pin(drive.put_bytes("it", vec![9; length]).into_future());
            // It may complete at once: then the whole file is stored.
            let _ = (&mut giving_up).now_or_never();
            drop(giving_up);
            assert!(drive.read("it").await?.iter().all(|byte| *byte == 5 || *byte == 9));
        }
        Ok(())
    }
}

#[test]
fn nobody_reads_half_of_a_file() {
    tell::<HalfWritten>();
}

#[derive(Default)]
struct ByUrl;

impl Story for ByUrl {
    async fn tell(place: &Path, _: &mut WorkContext<Teller<Self>>) -> Result<()> {
        let url = format!("file://{}/shared", place.display());
        let drive = Drive::from_url(&url)?;
        let sent = serde_json::to_string(&drive)?;
        assert_eq!(sent, format!("{url:?}"));
        drive.put_bytes("a/b", "x").await?;
        let arrived: Drive = serde_json::from_str(&sent)?;
        assert_eq!(arrived.read("a/b").await?, "x");
        assert_eq!(fs::read_to_string(place.join("shared/a/b"))?, "x");
        assert_eq!(arrived, drive);
        for url in ["file://relative", "ftp://host/x", "reports", "file:///a/../b"] {
            let error = Drive::from_url(url).unwrap_err().to_string();
            assert!(error.contains(url) && error.contains("file:///"), "{error}");
        }
        #[cfg(not(feature = "s3"))]
        assert!(Drive::from_url("s3://bucket").unwrap_err().to_string().contains("feature `s3`"));
        Ok(())
    }
}

#[test]
fn a_url_is_a_directory_anywhere() {
    tell::<ByUrl>();
}

#[derive(Default)]
struct InSeveral;

impl Story for InSeveral {
    async fn tell(_: &Path, cx: &mut WorkContext<Teller<Self>>) -> Result<()> {
        Drive::new("mine").put_bytes("it", cx.path().to_string()).await?;
        // The same drive, opened a second time.
        let other = Drive::new("mine").read("it").await?;
        assert_eq!(other, cx.path().as_str());
        Ok(())
    }
}

#[test]
fn each_app_has_its_own() {
    let place = Place::new();
    let apps = ["one", "two"].map(|name| {
        let config = Config::new().drive_dir(place.0.join(name));
        TestApp::start_app(App::of_work(Teller::<InSeveral>::default).config(config))
    });
    // The root of each App is a Work, which runs once.
    for app in apps {
        app.wait_for_exit().result.unwrap();
    }
    for name in ["one", "two"] {
        assert!(place.0.join(name).join("mine/it").exists(), "{name}");
    }
}
