//! Wall clocks that are wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::all_arrive;
use crate::process::Process;
use crate::program;

pub(crate) const TESTS: &[(&str, fn())] =
    &[("clocks_that_are_wrong_and_are_set_change_nothing", clocks_that_are_wrong_and_are_set_change_nothing)];

/// A file that sets the time of a process, and changes it while the process runs.
struct Clock(PathBuf);

impl Clock {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("flowright-clock-{name}-{}", std::process::id())))
    }

    /// Sets the offset in the format of `libfaketime`: `+3600` is an hour ahead.
    fn set(&self, seconds: &str) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, seconds).expect("there is a place for temporary files");
        std::fs::rename(&next, &self.0).expect("the path belongs to the test");
    }

    /// Makes the process use this wall clock. Monotonic clocks do not change.
    fn rules(&self, command: &mut Command) {
        assert!(Path::new("/usr/bin/faketime").exists(), "this test needs faketime (on Debian a package)");
        command
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One clock is an hour ahead and the other an hour behind, and the other way round in mid-run, while the grace period
/// passes.
fn clocks_that_are_wrong_and_are_set_change_nothing() {
    let (here, there) = (Clock::new("head"), Clock::new("node"));
    here.set("+3600");
    there.set("-3600");
    let listen = ["--open-ui=false", "--without-server", "--listen", "127.0.0.1:0"];
    let mut head = program("patient", &listen);
    here.rules(&mut head);
    let mut head = Process::start(head);
    let line = head.expect("nodes join at ");
    let (_, address) = line.rsplit_once(' ').expect("the line has the address");
    let mut node = program("patient", &["node", "--join", address, "--name", "n"]);
    there.rules(&mut node);
    let node = Process::start(node);
    head.expect("`a` serves, attempt 1, -2 hours from here");
    all_arrive(&mut head);
    node.signal("STOP");
    head.expect("the connection to node `n` broke");
    here.set("-3600");
    there.set("+3600");
    head.expect("the clock here was set by -2 hours");
    node.signal("CONT");
    head.expect("node `n` is connected again; nothing was lost");
    // The Work is asked once more.
    head.expect("`a` serves, attempt 1, +2 hours from here");
    all_arrive(&mut head);
}
