//! Programs that have changed since the journal was written.

use std::path::Path;

use serde_json::json;

use crate::editions::{Directory, Shop, begun, command, line, start, start_moved, start_with};

crate::tests![
    added_field_with_a_default_is_restored,
    added_field_without_a_default_is_refused,
    removed_field_is_dropped_with_a_warning,
    field_of_another_type_is_refused,
    renamed_field_is_refused_with_the_advice,
    removed_work_is_parked_and_comes_back,
    root_of_another_type_is_told_once,
    added_work_starts_beside_the_recorded_ones,
    work_that_cannot_be_read_is_parked_if_wanted,
    work_that_cannot_be_read_is_dropped_if_wanted,
    fields_of_a_flow_that_cannot_be_read_begin_anew,
    damage_is_refused_whatever_is_wanted,
    parked_record_is_moved_back,
];

/// Makes a journal with the first edition.
fn recorded(name: &str) -> Directory {
    let directory = Directory::new(name);
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 1);
    shop.close();
    directory
}

/// Asserts that the edition refuses the journal with a message that has all of `parts`, and that it has changed nothing.
#[track_caller]
fn refuses(edition: &str, directory: &Path, parts: &[&str]) {
    let before = begun(directory);
    let (code, lines) = start(edition, directory).end();
    assert_eq!(code, Some(1), "{lines:#?}");
    let said = lines.join("\n");
    for part in parts {
        assert!(said.contains(part), "{edition}: {part:?} is not in {said}");
    }
    assert_eq!(begun(directory), before, "{edition}");
}

/// The recorded Works and Flows that the program does not have, as the API tells.
fn parked(shop: &Shop) -> Vec<String> {
    let parked = shop.get("status")["app"]["journal"]["parked"].clone();
    serde_json::from_value(parked).expect("it is a list of paths")
}

/// The numbers of the runs of `keeper` that have begun.
fn numbers(directory: &Path, keeper: &str) -> Vec<u64> {
    begun(directory).into_iter().filter(|(path, _)| path == keeper).map(|(_, number)| number).collect()
}

/// Asserts that the first edition goes on where it was.
#[track_caller]
fn goes_on(directory: &Path, began: u64) {
    let shop = Shop::open("first", directory);
    let state = shop.until_open(2, began);
    assert_eq!(state["first"]["total"], 3, "{state:#}");
    let lines = shop.close();
    line(&lines, "after a clean end: 3 Works, 1 run under way starts again");
    let runs = begun(directory).into_iter().filter(|(path, _)| path == "first" || path == "second");
    assert_eq!(runs.count(), 4);
}

fn added_field_with_a_default_is_restored() {
    let directory = recorded("with-defaults");
    let shop = Shop::open("with_defaults", &directory);
    let state = shop.until_open(2, 2);
    assert_eq!(state["first"], json!({"total": 3, "label": "", "weight": 0.0}));
    assert_eq!(state["place"], "");
    shop.close();
    // The older program drops them again.
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 3);
    let lines = shop.close();
    line(&lines, "the recorded field `weight` of `first`");
    line(&lines, "the recorded field `place` of");
}

fn added_field_without_a_default_is_refused() {
    let directory = recorded("added");
    let advice = "#[serde(default)]";
    refuses("work_field_added", &directory, &["`first`", "`second`", "weight", advice]);
    refuses("flow_field_added", &directory, &["`place`", advice]);
    goes_on(&directory, 2);
}

fn removed_field_is_dropped_with_a_warning() {
    let directory = recorded("removed");
    let shop = Shop::open("fields_removed", &directory);
    let state = shop.until_open(2, 2);
    assert_eq!(state["first"], json!({"total": 3}));
    let lines = shop.close();
    let warning = line(&lines, "the recorded field `label` of `first`");
    assert!(warning.contains("WARN"), "{warning}");
    line(&lines, "the recorded field `label` of `second`");
    line(&lines, "the recorded field `title` of");
}

/// Nothing is changed: the older program goes on.
fn field_of_another_type_is_refused() {
    let directory = recorded("changed");
    for life in 2..4 {
        refuses("work_field_changed", &directory, &["`first`", "`second`", "label"]);
        refuses("flow_field_changed", &directory, &["`title`"]);
        goes_on(&directory, life);
    }
}

fn renamed_field_is_refused_with_the_advice() {
    let directory = recorded("renamed");
    refuses("work_field_renamed", &directory, &["`first`", "`name`", "#[serde(alias = \"label\")]"]);
    refuses("flow_field_renamed", &directory, &["`heading`", "#[serde(alias = \"title\")]"]);
    goes_on(&directory, 2);
}

fn removed_work_is_parked_and_comes_back() {
    let directory = recorded("work-removed");
    for life in [2, 3] {
        let shop = Shop::open("work_removed", &directory);
        let state = shop.until_open(1, life);
        assert_eq!(state["second"], json!(null));
        let lines = shop.close();
        line(&lines, "`second` is recorded and not part of the program any more: it is parked");
    }
    goes_on(&directory, 4);
}

/// The root of each edition is a type of its own.
fn root_of_another_type_is_told_once() {
    let directory = recorded("another-root");
    let told = |life| {
        let shop = Shop::open("work_removed", &directory);
        shop.until_open(1, life);
        shop.close()
            .into_iter()
            .filter(|line| line.contains("the journal is that of an App with the root"))
            .count()
    };
    assert_eq!([told(2), told(3)], [1, 0]);
}

fn added_work_starts_beside_the_recorded_ones() {
    let directory = recorded("work-added");
    let shop = Shop::open("work_added", &directory);
    let state = shop.until_open(3, 2);
    assert_eq!([&state["first"]["total"], &state["third"]["total"]], [3, 3]);
    shop.close();
    let third = begun(&directory).into_iter().filter(|(path, _)| path == "third");
    assert_eq!(third.map(|(_, number)| number).collect::<Vec<_>>(), [1, 2]);
    // The older program has it parked.
    goes_on(&directory, 3);
}

/// Everything else goes on, and the parked record stays.
fn work_that_cannot_be_read_is_parked_if_wanted() {
    let directory = recorded("parked");
    let shop = Shop::open_with("work_field_changed", &directory, &["--on-mismatch", "park"]);
    let state = shop.until_open(2, 2);
    assert_eq!(state["first"], json!({"total": 3, "label": 0}));
    let lines = shop.close();
    let said = line(&lines, "`first` begins anew, because work `first` cannot be restored");
    assert!(said.contains("the record is parked at `first~"), "{said}");
    for keeper in ["first", "second"] {
        assert_eq!(numbers(&directory, keeper), [1, 2, 1, 2]);
    }
    // From then on it is read as it is, and the parked record stays.
    let shop = Shop::open("work_field_changed", &directory);
    shop.until_open(2, 3);
    let parked = parked(&shop);
    assert!(
        parked.len() == 2 && parked[0].starts_with("first~") && parked[1].starts_with("second~"),
        "{parked:?}"
    );
    shop.close();
    assert_eq!(numbers(&directory, "first").len(), 4);
}

fn work_that_cannot_be_read_is_dropped_if_wanted() {
    let directory = recorded("dropped");
    let shop = Shop::open_with("work_field_changed", &directory, &["--on-mismatch=fresh"]);
    shop.until_open(2, 2);
    assert!(parked(&shop).is_empty());
    let lines = shop.close();
    line(&lines, "`second` begins anew, because work `second` cannot be restored");
    line(&lines, "the record is dropped");
    assert_eq!(numbers(&directory, "second"), [1, 2, 1, 2]);
    let shop = Shop::open("work_field_changed", &directory);
    shop.until_open(2, 3);
    assert!(parked(&shop).is_empty());
    shop.close();
}

/// Its children are not affected.
fn fields_of_a_flow_that_cannot_be_read_begin_anew() {
    for (how, is_parked) in [("park", true), ("fresh", false)] {
        let directory = recorded(&format!("flow-{how}"));
        let shop = Shop::open_with("flow_field_changed", &directory, &["--on-mismatch", how]);
        let state = shop.until_open(2, 2);
        assert_eq!((&state["title"], &state["first"]["total"]), (&json!(0), &json!(3)));
        assert_eq!(parked(&shop).len(), usize::from(is_parked));
        let lines = shop.close();
        line(&lines, "the own fields of flow `root` begin anew, because flow `root` cannot be restored");
        assert_eq!(numbers(&directory, "first"), [1, 2]);
        let shop = Shop::open("flow_field_changed", &directory);
        shop.until_open(2, 3);
        assert_eq!(parked(&shop).len(), usize::from(is_parked));
        shop.close();
    }
}

fn damage_is_refused_whatever_is_wanted() {
    let directory = recorded("mismatch-damaged");
    let file = directory.join("journal").join("journal.db");
    let mut bytes = std::fs::read(&file).expect("there is a journal");
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(&file, bytes).expect("the journal can be written");
    for how in ["park", "fresh"] {
        let (code, lines) = start_with("first", &directory, &["--on-mismatch", how]).end();
        assert_eq!(code, Some(1), "{lines:#?}");
        line(&lines, "damaged");
    }
}

/// A program that can read a parked record goes on with it, once what began anew at its path is dropped. No run of it
/// starts again, and the move may stay in the program.
fn parked_record_is_moved_back() {
    let directory = recorded("moved-back");
    let shop = Shop::open_with("work_field_changed", &directory, &["--on-mismatch", "park"]);
    shop.until_open(2, 2);
    let parked_paths = parked(&shop);
    shop.close();
    let moves: Vec<_> = parked_paths
        .iter()
        .map(|path| format!("{path}={}", path.split_once('~').expect("it is a parked path").0))
        .collect();
    assert_eq!(moves.len(), 2, "{parked_paths:?}");
    let moves = moves.join(" ");
    // What began anew keeps its place, and this program cannot read it.
    let (code, lines) = start_moved("first", &directory, &moves).end();
    assert_eq!(code, Some(1), "{lines:#?}");
    line(&lines, "`first`");
    for path in ["first", "second"] {
        let (code, said) = command("first", &directory, &["drop", path]);
        assert_eq!((code, said.as_str()), (Some(0), &*format!("dropped {path}\n")));
    }
    for life in [3, 4] {
        let shop = Shop::open_moved("first", &directory, &moves);
        let state = shop.until_open(2, life);
        assert_eq!(state["first"], json!({"total": 3, "label": ""}));
        assert_eq!(state["second"], json!({"total": 3, "label": ""}));
        assert!(parked(&shop).is_empty());
        shop.close();
    }
    for keeper in ["first", "second"] {
        assert_eq!(numbers(&directory, keeper), [1, 2, 1, 2], "those of the program that could not read it");
    }
}
