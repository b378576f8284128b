//! Recorded reactions, carried out again by the program that made them and by programs that have changed.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::editions::{Directory, Shop, begun, command, start};
use crate::process::LIMIT;

crate::tests![
    same_program_asks_for_the_same,
    tree_of_flows_asks_for_the_same,
    changed_program_is_compared_by_name,
    record_that_cannot_be_read_is_counted,
    range_that_is_none_is_refused,
];

/// Makes a journal with the first edition, in two processes.
fn recorded(name: &str) -> Directory {
    let directory = Directory::new(name);
    for life in [1, 2] {
        let shop = Shop::open("first", &directory);
        shop.until_open(2, life);
        if life == 1 {
            shop.kill();
        } else {
            shop.close();
        }
    }
    directory
}

fn rereact(edition: &str, directory: &Path, options: &[&str]) -> (Option<i32>, Json) {
    let arguments = [&["rereact", "--json", "--at"][..], options].concat();
    let (code, said) = command(edition, directory, &arguments);
    (code, serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}")))
}

fn same_program_asks_for_the_same() {
    let directory = recorded("rereact-same");
    let before = begun(&directory);
    let files = || {
        let journal = directory.join("journal");
        ["journal.db", "journal.db-wal"].map(|name| std::fs::read(journal.join(name)).unwrap_or_default())
    };
    let bytes = files();
    let (code, found) = rereact("first", &directory, &["1.."]);
    assert_eq!(
        (code, &found["different"], &found["unreadable"]),
        (Some(0), &0.into(), &0.into()),
        "{found:#}"
    );
    // Each of four runs ended in a reaction of its own at least, or was conflated with others; and each process began.
    assert!(found["equal"].as_u64() >= Some(3), "{found:#}");
    // No run has begun, and nothing was written.
    assert_eq!(begun(&directory), before);
    assert!(files() == bytes, "the journal has changed");
    let (code, said) = command("first", &directory, &["rereact", "--at", "1"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        said,
        "positions 1 to 1: 1 reaction compared, 1 equal, 0 different; 0 cannot be read, 0 are not recorded in full\n"
    );
}

/// Flows in Flows, children that join and leave, Works of all kinds, failures, restarts, a schedule, and a process that
/// is killed: only the Flow that reads the clock differs from itself.
fn tree_of_flows_asks_for_the_same() {
    let directory = Directory::new("rereact-tree");
    for life in [1, 2] {
        let process = start("plant", &directory);
        let deadline = Instant::now() + LIMIT;
        while begun(&directory).len() < 150 * life {
            assert!(Instant::now() < deadline, "the runs do not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        process.signal("KILL");
        process.end();
    }
    let (code, found) = rereact("plant", &directory, &["1.."]);
    let items = found["items"].as_array().expect("there are items");
    let others: Vec<_> = items.iter().filter(|item| item["flow"] != "below").collect();
    assert!(others.is_empty(), "{others:#?}");
    // A beat is requested when the clock shows its time.
    assert_eq!(code, Some(1), "{found:#}");
    assert!(found["equal"].as_u64() >= Some(30) && found["unreadable"] == 0, "{found:#}");
}

fn changed_program_is_compared_by_name() {
    let directory = recorded("rereact-other");
    let (code, found) = rereact("other_numbers", &directory, &["1..1"]);
    assert_eq!((code, &found["different"]), (Some(1), &1.into()), "{found:#}");
    let item = &found["items"][0];
    assert_eq!((&item["position"], &item["flow"]), (&1.into(), &"".into()), "{found:#}");
    assert_eq!(item["then_only"], serde_json::json!(["run first with 2", "run second with 2"]));
    assert_eq!(item["now_only"], serde_json::json!(["run first with 3", "run second with 3"]));
    let (code, said) = command("other_numbers", &directory, &["rereact", "--at", "1"]);
    assert_eq!(code, Some(1), "{said}");
    let line = said.lines().next().expect("there is a difference");
    assert!(line.starts_with("     1  20") && line.contains("  root  "), "{line}");
    let both = "asked then, not now: run first with 2, run second with 2; asks now, not then: run first with 3, run second \
                with 3";
    assert!(line.ends_with(both), "{line}");
    // A Work that the program does not have any more was asked then.
    let (code, found) = rereact("work_removed", &directory, &["1"]);
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(found["items"][0]["then_only"], serde_json::json!(["run second with 1", "run second with 2"]));
    // The first edition is the older program, and goes on.
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 3);
    shop.close();
}

fn record_that_cannot_be_read_is_counted() {
    let directory = recorded("rereact-unreadable");
    let (code, found) = rereact("work_field_changed", &directory, &["2.."]);
    assert_eq!((code, &found["different"]), (Some(1), &0.into()), "{found:#}");
    assert!(found["unreadable"].as_u64() >= Some(1), "{found:#}");
    let error = found["items"][0]["error"].as_str().expect("it says why");
    assert!(error.contains("`first`") && error.contains("label"), "{error}");
}

fn range_that_is_none_is_refused() {
    let directory = recorded("rereact-range");
    for range in ["", "soon", "9..3", "1..soon"] {
        let (code, said) = command("first", &directory, &["rereact", "--at", range]);
        assert_eq!(code, Some(2), "{range}: {said}");
        assert!(said.contains("17..42"), "{range}: {said}");
    }
    for range in ["999999", "2001-01-01T00:00:00Z"] {
        let (code, said) = command("first", &directory, &["rereact", "--at", range]);
        assert_eq!(code, Some(1), "{range}: {said}");
        assert!(said.starts_with("error: "), "{range}: {said}");
    }
    let (code, said) = command("first", &directory, &["rereact", "--at", "2001-01-01T00:00:00Z.."]);
    assert_eq!(code, Some(0), "{said}");
}
