//! Programs that have changed since the journal was written.

use std::path::Path;

use serde_json::json;

use crate::editions::{Directory, Shop, begun, line, start};

crate::tests![
    added_field_with_a_default_is_restored,
    added_field_without_a_default_is_refused,
    removed_field_is_dropped_with_a_warning,
    field_of_another_type_is_refused,
    renamed_field_is_refused_with_the_advice,
    removed_work_is_parked_and_comes_back,
    added_work_starts_beside_the_recorded_ones,
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
