//! Support for tests whose processes must end by SIGHUP, when the tests run under something that ignores it, such as
//! `nohup`.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Starts this test binary again with the default handling of SIGHUP, if its parent has made it ignore that signal: its
/// child processes would inherit that.
pub(crate) fn handle_hangup() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    // SIGHUP is the lowest bit of the mask.
    if ignored & 1 == 0 {
        return;
    }
    let mut arguments = std::env::args_os();
    arguments.next();
    let this = std::env::current_exe().expect("the path of the test binary is known");
    let error = Command::new("env").arg("--default-signal=HUP").arg(this).args(arguments).exec();
    panic!("SIGHUP is ignored, and `env --default-signal` cannot be run: {error}");
}
