//! The past of an App as text, for people: from the journal of an App that does not run, or from one that
//! runs. Both give the same documents.

use serde_json::{Value as Json, json};

use crate::printable::{brief, one_line};

/// Largest number of characters of a value.
const BRIEF: usize = 200;

fn text<'j>(json: &'j Json, name: &str) -> &'j str {
    json[name].as_str().unwrap_or_default()
}

fn name(path: &str) -> &str {
    if path.is_empty() { "root" } else { path }
}

fn items<'j>(json: &'j Json, name: &str) -> &'j [Json] {
    json[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns an event as one line.
pub(super) fn event_line(event: &Json) -> String {
    let position = event["position"].as_u64().unwrap_or_default();
    let (time, path, words) = (text(event, "time"), name(text(event, "path")), text(event, "text"));
    one_line(&format!("{position:>6}  {time}  {path}  {words}")).into_owned()
}

/// Returns the document of the differences between two moments: of stages, and of parts of the state.
pub(super) fn diff_document(a: u64, b: u64, stages: Vec<Json>, state: Vec<Json>) -> Json {
    json!({ "a": a, "b": b, "state": state, "stages": stages })
}

/// Returns the differences between two moments as lines: stages, then parts of the state.
pub(super) fn diff_text(document: &Json) -> String {
    let (stages, state) = (items(document, "stages"), items(document, "state"));
    let mut lines = String::new();
    for stage in stages {
        let word =
            |name: &str| stage[name].as_str().map_or_else(|| "-".to_owned(), |word| word.replace('_', " "));
        let (path, before, after) = (name(text(stage, "path")), word("before"), word("after"));
        lines.push_str(&format!("{}\n", one_line(&format!("{path}  {before} -> {after}"))));
    }
    for part in state {
        let value = |name: &str| {
            part.get(name).map_or_else(|| "-".to_owned(), |value| brief(&value.to_string(), BRIEF))
        };
        let (path, before, after) = (one_line(name(text(part, "path"))), value("before"), value("after"));
        lines.push_str(&format!("{path}: {before} -> {after}\n"));
    }
    if lines.is_empty() {
        lines = format!("the states at positions {} and {} are the same\n", document["a"], document["b"]);
    }
    lines
}

/// Returns a chain of runs, each of which led to the one before it, as lines.
pub(super) fn why_text(document: &Json) -> String {
    let mut lines = String::new();
    let mut line = |line: String| lines.push_str(&(line + "\n"));
    for because in items(document, "items") {
        let path = name(text(because, "path"));
        line(one_line(&format!("run {} of {path}", because["run"])).into_owned());
        if because["request"].is_null() {
            line("  was requested before the history begins".to_owned());
            continue;
        }
        line(format!("  {}", event_line(&because["request"])));
        let causes = items(because, "causes");
        if causes.is_empty() {
            line(
                "  nothing else is recorded with it: a wake-up, an operator, or a later call of the Flow"
                    .to_owned(),
            );
        }
        for cause in causes.iter().rev() {
            line(format!("  because {}", event_line(cause)));
        }
        match because["left_out"].as_u64() {
            None | Some(0) => {}
            Some(left_out) => line(format!("  and {left_out} other events of the same transaction")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part that is absent is told from one that is null.
    #[test]
    fn diff_with_an_absent_part_shows_a_dash() {
        let stages = vec![json!({ "path": "", "before": "not_started", "after": "running" })];
        let state = vec![
            json!({ "path": "a.b", "before": null, "after": 1 }),
            json!({ "path": "c", "after": "x\u{1b}[2J" }),
        ];
        assert_eq!(
            diff_text(&diff_document(1, 2, stages, state)),
            "root  not started -> running\na.b: null -> 1\nc: - -> \"x\\u001b[2J\"\n"
        );
        let same = diff_document(1, 2, Vec::new(), Vec::new());
        assert_eq!(diff_text(&same), "the states at positions 1 and 2 are the same\n");
    }
}
