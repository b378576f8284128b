//! An App as a process: its output and its end.

use crate::support::*;
use crate::tests;

tests![
    it_says_that_it_starts_and_where_to_look,
    ctrl_c_stops_the_works_in_reverse_order_and_ends_with_0,
    sigterm_ends_with_0,
    a_second_signal_ends_it_at_once,
    a_failure_is_told_at_once_with_its_chain_and_ends_with_1,
    an_app_of_one_work_ends_with_it,
    flow_that_does_not_return_is_seen_and_ended_by_one_signal,
    constructor_that_does_not_return_is_ended_by_one_signal,
    work_that_blocks_its_thread_is_ended_by_one_signal,
];

fn it_says_that_it_starts_and_where_to_look() {
    let mut app = Process::start("service", &["--port", "0"]);
    let address = app.address();
    app.expect("second serves");
    assert_eq!(get(address, "/healthz").status, 200);
    app.signal("INT");
    let (code, lines) = app.end();
    assert_eq!(code, Some(0));
    let started = format!("err| INFO: Your app has started. View it in your browser: http://{address}/view");
    // Lines from two streams have no order between them.
    let first = lines.iter().find(|line| line.starts_with("out| "));
    assert_eq!(first.map(String::as_str), Some("out| Your Flowright App is starting. This won't take long."));
    assert_line(&lines, &started);
    assert_line(&lines, "out| Your Flowright App has been stopped successfully!");
}

fn ctrl_c_stops_the_works_in_reverse_order_and_ends_with_0() {
    let mut app = Process::start("service", &["--port", "0"]);
    app.expect("first serves");
    app.expect("second serves");
    app.signal("INT");
    let (code, lines) = app.end();
    assert_eq!(code, Some(0));
    let stops: Vec<_> = lines.iter().filter(|line| line.ends_with(" stops")).collect();
    assert_eq!(stops, ["out| second stops", "out| first stops"]);
}

fn sigterm_ends_with_0() {
    let mut app = Process::start("service", &["--without-server"]);
    app.expect("second serves");
    app.signal("TERM");
    let (code, lines) = app.end();
    assert_eq!(code, Some(0));
    assert_line(&lines, "first stops");
}

fn a_second_signal_ends_it_at_once() {
    let mut app = Process::start("stuck", &["--without-server"]);
    app.expect("slow is ready");
    app.signal("INT");
    app.expect("slow is asked to stop");
    // A signal right after the first is merged with it.
    app.signal_until("INT", "a second Ctrl-C");
    let (code, lines) = app.end();
    assert_eq!(code, Some(0));
    for part in ["slow has stopped", "did not stop in time"] {
        assert!(!lines.iter().any(|line| line.contains(part)), "{lines:#?}");
    }
}

fn a_failure_is_told_at_once_with_its_chain_and_ends_with_1() {
    let mut app = Process::start("failing", &["--without-server"]);
    // The other Work stops only when it gets a line.
    let error = app.expect("ERROR");
    assert_eq!(
        error,
        "err| ERROR: flow `team` failed: work `team.trainer` failed (error): the model cannot be built: layers: \
         invalid digit found in string"
    );
    app.expect("slow is asked to stop");
    app.send_line();
    app.expect("slow has stopped");
    let (code, lines) = app.end();
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("stopped successfully")), "{lines:#?}");
}

fn an_app_of_one_work_ends_with_it() {
    let (code, lines) = Process::start("finished", &["--without-server"]).end();
    assert_eq!(code, Some(0));
    assert_line(&lines, "out| hello");
}

/// The name of the Flow is in the log and in `/healthz`, and the API answers an error instead of waiting.
fn flow_that_does_not_return_is_seen_and_ended_by_one_signal() {
    let mut app = Process::start("endless", &["--port", "0"]);
    let address = app.address();
    assert_eq!(get(address, "/healthz").status, 200);
    app.expect("flow `team` has kept the App's thread for 10 s");
    let health = get(address, "/healthz");
    assert_eq!(health.status, 503);
    assert!(health.body.contains("flow `team`"), "{}", health.body);
    assert_eq!(get(address, "/api/v1/status").status, 503);
    assert_eq!(get(address, "/api/v1/logs").status, 200);
    // The first signal, and the only one.
    app.signal("TERM");
    let (code, lines) = app.end();
    assert_eq!(code, Some(1), "{lines:#?}");
    let told = lines.iter().find(|line| line.contains("ends without stopping its Works"));
    assert!(told.is_some_and(|line| line.starts_with("err| ERROR: flow `team`")), "{lines:#?}");
}

fn constructor_that_does_not_return_is_ended_by_one_signal() {
    let mut app = Process::start("unmade", &["--port", "0"]);
    app.expect("it is never made");
    app.signal("TERM");
    assert_eq!(app.end().0, Some(0));
}

/// The App waits for neither the thread of a Work nor that of the pool longer than the grace period.
fn work_that_blocks_its_thread_is_ended_by_one_signal() {
    for place in ["thread", "pool", "process"] {
        let mut app = Process::start("blocking", &["--without-server", "--place", &format!("work={place}")]);
        app.expect("work blocks");
        app.signal("TERM");
        let (code, lines) = app.end();
        assert_eq!(code, Some(0), "{place}: {lines:#?}");
        assert_line(&lines, "work `work` did not stop in time and is ended by force");
    }
}
