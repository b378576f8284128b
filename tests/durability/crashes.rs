//! Crash loops, and the safe mode in which an App starts after one.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value as Json, json};

use crate::breaker::{ARMED, IN_FLOW, IN_WORK};
use crate::editions::{Directory, Shop, begun, line, start};
use crate::http::Answer;

crate::tests![
    crash_loop_of_a_flow_leads_to_safe_mode,
    crash_loop_of_a_work_leads_to_safe_mode,
    suspect_stopped_in_safe_mode_stays_stopped,
    app_that_crashes_after_resume_is_safe_again,
    safe_mode_survives_a_kill_and_not_a_clean_end,
    killed_app_without_progress_is_in_no_crash_loop,
];

/// Makes a journal whose third run is under way, and lets the program crash in each of the next three starts.
fn crashed(program: &str) -> Directory {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let directory = Directory::new(&format!("crashed-{}", MADE.fetch_add(1, Ordering::Relaxed)));
    let shop = Shop::open(program, &directory);
    shop.state(|state| state["counter"]["total"] == 3);
    until_begun(&directory, 3);
    shop.close();
    std::fs::write(directory.join(ARMED), "").expect("the directory can be written");
    crash(program, &directory, 3);
    directory
}

fn crash(program: &str, directory: &Directory, times: usize) {
    for _ in 0..times {
        let (code, lines) = start(program, directory).end();
        assert_eq!(code, None, "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("safe mode")), "{lines:#?}");
    }
}

/// Removes the reason of the crashes.
fn mend(directory: &Directory) {
    std::fs::remove_file(directory.join(ARMED)).expect("the file exists");
}

/// Opens the App, and asserts that it is in safe mode because of `suspect`.
fn opens_safe(program: &str, directory: &Directory, suspect: &str) -> Shop {
    let shop = Shop::open(program, directory);
    let app = shop.get("status")["app"].clone();
    assert_eq!(app["stage"], "safe_mode", "{app:#}");
    assert_eq!(app["safe_mode"]["suspects"], json!([suspect]), "{app:#}");
    let reason = app["safe_mode"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("3 times") && reason.contains(suspect), "{reason}");
    shop
}

/// Returns the status code of the answer to a POST request.
fn posted(shop: &Shop, path: &str) -> u16 {
    match shop.post(path) {
        Answer::Status(status, _) => status,
        answer => panic!("{path}: {answer:?}"),
    }
}

fn is_loop_of(program: &str, suspect: &str) {
    let directory = crashed(program);
    let before = begun(&directory);
    let shop = opens_safe(program, &directory, suspect);
    // Everything is there, and nothing goes on.
    let state = shop.get("state")["state"].clone();
    assert_eq!(state["counter"]["total"], 3, "{state:#}");
    assert_eq!(shop.get("works/counter")["runs"]["succeeded"], 2);
    assert!(matches!(shop.probe("readyz"), Answer::Status(503, _)));
    assert!(matches!(shop.probe("healthz"), Answer::Status(200, _)));
    for action in ["start", "restart"] {
        assert_eq!(posted(&shop, &format!("works/counter/{action}")), 409);
    }
    assert_eq!(shop.get("status")["works"]["counter"]["is_up"], Json::Bool(false));
    assert_eq!(shop.get("status")["app"]["reactions"], 0);
    assert_eq!(begun(&directory), before, "a run has begun in safe mode");
    mend(&directory);
    assert_eq!(posted(&shop, "app/resume"), 202);
    let reactions = state["reactions"].as_u64();
    shop.state(|state| state["reactions"].as_u64() > reactions);
    assert_eq!(shop.get("status")["app"]["safe_mode"], Json::Null);
    assert_eq!(posted(&shop, "app/resume"), 409);
    until_begun(&directory, before.len() + 1);
    let lines = shop.close();
    line(&lines, "safe mode: ");
    line(&lines, "the App is resumed from safe mode");
    // Nothing is left of the loop.
    let shop = Shop::open(program, &directory);
    assert_eq!(shop.get("status")["app"]["stage"], "running");
    shop.close();
}

/// Waits until this number of runs have begun.
fn until_begun(directory: &Directory, number: usize) {
    let deadline = std::time::Instant::now() + crate::process::LIMIT;
    while begun(directory).len() < number {
        assert!(std::time::Instant::now() < deadline, "hung: {:?}", begun(directory));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn crash_loop_of_a_flow_leads_to_safe_mode() {
    is_loop_of(IN_FLOW, "flow `root`");
}

fn crash_loop_of_a_work_leads_to_safe_mode() {
    is_loop_of(IN_WORK, "work `counter`");
}

/// The crash that the operator has made impossible does not come back, while the rest of the App goes on.
fn suspect_stopped_in_safe_mode_stays_stopped() {
    let directory = crashed(IN_WORK);
    let shop = opens_safe(IN_WORK, &directory, "work `counter`");
    assert_eq!(posted(&shop, "works/counter/stop?by=alice"), 202);
    assert_eq!(posted(&shop, "app/resume"), 202);
    shop.state(|state| state["reactions"].as_u64() > Some(1));
    let counter = shop.get("works/counter");
    assert_eq!((&counter["held"]["by"], &counter["is_up"]), (&json!("alice"), &json!(false)), "{counter:#}");
    assert_eq!(shop.get("works/idle")["is_up"], true);
    shop.close();
}

/// One more crash after the resumption leads back to safe mode.
fn app_that_crashes_after_resume_is_safe_again() {
    let directory = crashed(IN_FLOW);
    let shop = opens_safe(IN_FLOW, &directory, "flow `root`");
    // The answer may be lost in the crash.
    let _ = shop.post("app/resume");
    let (code, lines) = shop.process.end();
    assert_eq!(code, None, "{lines:#?}");
    opens_safe(IN_FLOW, &directory, "flow `root`").close();
}

fn safe_mode_survives_a_kill_and_not_a_clean_end() {
    let directory = crashed(IN_WORK);
    let before = begun(&directory);
    for _ in 0..2 {
        opens_safe(IN_WORK, &directory, "work `counter`").kill();
    }
    opens_safe(IN_WORK, &directory, "work `counter`").close();
    assert_eq!(begun(&directory), before);
    // It tries again, as often as at first.
    crash(IN_WORK, &directory, 3);
    opens_safe(IN_WORK, &directory, "work `counter`").close();
}

/// The run waits, and nothing else happens: none of the kills hits code that executes.
fn killed_app_without_progress_is_in_no_crash_loop() {
    let directory = Directory::new("killed-without-progress");
    for life in 1..6 {
        let app = start("errand_that_waits", &directory);
        until_begun(&directory, life);
        // The body waits a moment after it has begun.
        std::thread::sleep(std::time::Duration::from_millis(50));
        app.signal("KILL");
        let (code, lines) = app.end();
        assert_eq!(code, None, "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("safe mode")), "{lines:#?}");
        assert_eq!(lines.iter().any(|line| line.contains("resumed at")), life > 1, "{lines:#?}");
    }
}
