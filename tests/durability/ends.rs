//! Ends in good order and by SIGKILL, and what the next start says of them.

use std::time::{Duration, Instant};

use crate::editions::{Directory, Shop, begun, line, start};
use crate::process::LIMIT;
use crate::record;

crate::tests![
    app_that_was_stopped_goes_on,
    app_that_was_killed_goes_on,
    app_that_is_idle_ends_at_once,
    app_that_has_ended_ends_again_without_a_run,
    app_that_failed_tries_again,
    work_stopped_by_an_operator_stays_stopped,
];

/// The position of a line "resumed at position …".
fn position(line: &str) -> u64 {
    let rest = line.split("position ").nth(1).expect("the line has a position");
    rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a position is a number")
}

/// The run under way starts again, as the same attempt; those that have succeeded do not.
fn goes_on(name: &str, end: impl Fn(Shop) -> Vec<String>, said: &str) {
    let directory = Directory::new(name);
    let shop = Shop::open("first", &directory);
    let before = shop.until_open(2, 1);
    let lines = end(shop);
    assert!(!lines.iter().any(|line| line.contains("resumed")), "{lines:#?}");

    let mut positions = Vec::new();
    for life in 2..5 {
        let shop = Shop::open("first", &directory);
        let mut after = shop.until_open(2, life);
        after["waiter"] = before["waiter"].clone();
        assert_eq!(after, before);
        let lines = end(shop);
        let resumed = line(&lines, "resumed at position");
        let rest = format!("after {said} end: 3 Works, 1 run under way starts again");
        assert!(resumed.ends_with(&rest), "{resumed}");
        positions.push(position(resumed));
    }
    assert!(positions.is_sorted() && positions[0] > 0, "{positions:?}");
    let mut begun = begun(&directory);
    begun.sort();
    let once = ["first", "second"].map(|keeper| [1, 2].map(|number| (keeper.to_owned(), number))).concat();
    let waiter = (1..5).map(|life| ("waiter".to_owned(), life));
    assert_eq!(begun, once.into_iter().chain(waiter).collect::<Vec<_>>());
    let record = record::read(&directory.join("record"));
    assert!(record.iter().all(|line| line.attempt == 1), "{record:#?}");
}

fn app_that_was_stopped_goes_on() {
    goes_on("stopped", Shop::close, "a clean");
}

fn app_that_was_killed_goes_on() {
    goes_on("killed", Shop::kill, "an unclean");
}

/// The end of an App that nobody watches waits for no further commit.
fn app_that_is_idle_ends_at_once() {
    let directory = Directory::new("idle");
    for life in 1..4 {
        let app = start("first", &directory);
        let deadline = Instant::now() + LIMIT;
        while !begun(&directory).contains(&("waiter".to_owned(), life)) {
            assert!(Instant::now() < deadline, "the run does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        app.signal("TERM");
        let (code, lines) = app.end();
        assert_eq!(code, Some(0), "{lines:#?}");
    }
}

/// It ends with the same code, since its Flow sees the same.
fn app_that_has_ended_ends_again_without_a_run() {
    let directory = Directory::new("ended");
    for life in 1..4 {
        let (code, lines) = start("errand", &directory).end();
        assert_eq!(code, Some(0), "{lines:#?}");
        line(&lines, "the App ends: all is done");
        assert_eq!(
            lines.iter().any(|line| line.contains("after a clean end: 1 Work, no run was under way")),
            life > 1
        );
        assert_eq!(begun(&directory), [("errand".to_owned(), 1)]);
    }
}

/// The failure that ended an App is tried again when the App is started again, as its operator wants.
fn app_that_failed_tries_again() {
    let directory = Directory::new("failed");
    for life in 1..3 {
        let (code, lines) = start("errand_that_fails_twice", &directory).end();
        assert_eq!(code, Some(1), "{lines:#?}");
        assert_eq!(begun(&directory).len(), life);
    }
    let (code, lines) = start("errand_that_fails_twice", &directory).end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert_eq!(begun(&directory).len(), 3);
}

fn work_stopped_by_an_operator_stays_stopped() {
    let directory = Directory::new("operator");
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 1);
    shop.post("works/waiter/stop?by=alice").ok().expect("the stop is accepted");
    shop.kill();
    for end in [Shop::close, Shop::kill, Shop::close] {
        let shop = Shop::open("first", &directory);
        let waiter = shop.get("works/waiter");
        assert_eq!(waiter["held"]["by"], "alice", "{waiter:#}");
        assert_eq!(shop.until_open(2, 1)["waiter"]["began"], 1);
        end(shop);
    }
    let shop = Shop::open("first", &directory);
    // It is served before it has started, and takes no command until then.
    shop.until_open(2, 1);
    shop.post("works/waiter/start").ok().expect("the start is accepted");
    shop.until_open(2, 2);
    shop.close();
}
