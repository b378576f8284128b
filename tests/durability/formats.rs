//! Journals that earlier versions have written.
//!
//! `format_N` has what a killed App of the edition `first` has left in the format N: history, an image and folded rows of
//! its first life, which ended in good order, and a log of its second one.

use std::fs;
use std::path::Path;

use crate::editions::{Directory, Shop, begun, command, line};

crate::tests![journal_of_format_2_goes_on];

/// Copies the journal of a format.
fn written_in(format: u64) -> Directory {
    let directory = Directory::new(&format!("format-{format}"));
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/durability/format_{format}"));
    let journal = directory.join("journal");
    fs::create_dir(&journal).expect("the directory for temporary files can be written");
    for file in ["journal.db", "journal.db-wal", "journal.lock"] {
        fs::copy(files.join(file), journal.join(file)).expect("the journal is there");
    }
    directory
}

/// Returns what a command says that succeeds.
#[track_caller]
fn said(directory: &Path, arguments: &[&str]) -> String {
    let (code, said) = command("first", directory, arguments);
    assert_eq!(code, Some(0), "{said}");
    said
}

/// The commands read it, the App goes on where it was, and the file has rows of both formats then.
fn journal_of_format_2_goes_on() {
    let directory = written_in(2);
    let checked = said(&directory, &["check"]);
    assert!(checked.contains("format 2") && checked.contains("sound"), "{checked}");
    let before = said(&directory, &["history"]);
    for event in ["run 2 succeeded after", "run 2 started, attempt 1", "state: began = 2"] {
        assert!(before.contains(event), "{event:?} is not in {before}");
    }
    let state = said(&directory, &["state", "--at", "2", "--json"]);
    assert!(state.contains(r#""counted": 2"#), "{state}");

    let shop = Shop::open("first", &directory);
    let state = shop.until_open(2, 3);
    assert_eq!(state["first"]["total"], 3, "{state:#}");
    let lines = shop.close();
    line(&lines, "resumed at position 6 after an unclean end: 3 Works, 1 run under way starts again");
    assert!(begun(&directory).iter().all(|(path, _)| path == "waiter"), "remembered runs were repeated");

    let checked = said(&directory, &["check"]);
    assert!(checked.contains("format 3") && checked.contains("sound"), "{checked}");
    let after = said(&directory, &["history"]);
    assert!(after.starts_with(&before) && after.contains("state: began = 3"), "{after}");
    let why = said(&directory, &["why", "second", "1"]);
    assert!(why.contains("second  run requested with 1"), "{why}");
    // Both runs were requested in one reaction.
    let why = said(&directory, &["why", "second", "2"]);
    assert!(why.contains("second  run requested with 2"), "{why}");
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 4);
    shop.close();
}
