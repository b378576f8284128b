//! More values than memory and disk hold.

use super::office::{Errand, open, summary, value};

crate::tests![
    more_values_than_there_is_memory_for_wait_on_disk,
    pipes_of_others_in_the_directory_are_not_waited_for,
    without_room_the_error_says_what_to_do,
];

/// A directory that is removed on drop.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn argument(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn more_values_than_there_is_memory_for_wait_on_disk() {
    let scratch = Scratch::new("spill");
    let directory = scratch.argument();
    let arguments = ["--payload-memory", "10", "--payload-dir", &directory];
    let open = open(["m", "n", "thread"], &arguments, |office, _| {
        let made =
            office.a.run(Errand::Make { count: 100, length: 1_000_000, seed: 1 }).finished()?.made.clone();
        if !made.is_empty() {
            let read = &office.b.run(Errand::Read(made)).finished()?.read;
            let expected = (0..100).map(|n| summary(&value(1_000_000, 1 + n)));
            assert!(read.iter().copied().eq(expected));
            office.c.run(Errand::Forget).finished()?;
            office.a.run(Errand::Forget);
        }
        Ok(())
    });
    open.app.wait_for_work("c", |work| work.successes == 1);
    open.app.wait_for_work("a", |work| work.successes == 2);
    for clerk in ["a", "b"] {
        open.until(clerk, |usage| usage.memory == 0 && usage.disk == 0);
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "no file is left");
    open.app.stop().result.unwrap();
}

/// Foreign files in the directory for payloads are not opened: opening a pipe would block.
fn pipes_of_others_in_the_directory_are_not_waited_for() {
    let scratch = Scratch::new("pipes");
    let theirs = scratch.0.join("flowright-payloads-0000000000000000");
    std::fs::create_dir(&theirs).unwrap();
    let made = std::process::Command::new("mkfifo").arg(theirs.join("lock")).status();
    assert!(made.unwrap().success());
    let directory = scratch.argument();
    let arguments = ["--payload-memory", "1", "--payload-dir", &directory];
    let open = open(["m", "thread", "thread"], &arguments, |office, _| {
        office.a.run(Errand::Make { count: 5, length: 1_000_000, seed: 1 });
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 1);
    open.until("a", |usage| usage.disk >= 4_000_000);
    open.app.stop().result.unwrap();
}

fn without_room_the_error_says_what_to_do() {
    let limits = ["--payload-memory", "2", "--payload-disk", "1"];
    let open = open(["m", "thread", "thread"], &limits, |office, _| {
        office.a.run(Errand::Make { count: 5, length: 1_000_000, seed: 1 });
        Ok(())
    });
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    for part in ["no room", "1000000 bytes, made by work `a`", "--payload-memory", "--payload-disk"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
