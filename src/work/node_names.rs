//! Valid names and labels of nodes.

use std::collections::BTreeMap;

use thiserror::Error;

/// Longest name of a node, in characters.
const LONGEST_NAME: usize = 64;

/// Longest key or value of a label, in characters.
const LONGEST_LABEL: usize = 256;

/// Reserved names, which have a meaning of their own in placements and in output.
const TAKEN: [&str; 5] = ["head", "thread", "pool", "process", "*"];

/// Error returned for an invalid name or label of a node.
#[derive(Debug, Error)]
pub(crate) enum BadNode {
    #[error(
        "a node cannot be called {0:?}: a name has 1 to {LONGEST_NAME} characters, none of them `=`, `/` or a control character, \
         does not begin or end with a space, and is not `head`, `thread`, `pool`, `process` or `*`; choose another with --name"
    )]
    Name(String),
    #[error(
        "a node cannot have the label {0:?}: its key and its value have 1 to {LONGEST_LABEL} characters, none of them a control \
         character"
    )]
    Label(String),
}

/// Checks the name of a node: it must not equal a reserved name, look like a label, or garble the output that shows it.
///
/// # Errors
/// [`BadNode::Name`] with the rules.
pub(crate) fn check_node_name(name: &str) -> Result<(), BadNode> {
    let is_good = has_length(name, LONGEST_NAME)
        && !TAKEN.contains(&name)
        && name.trim() == name
        && !name.chars().any(|c| c.is_control() || matches!(c, '=' | '/'));
    if is_good { Ok(()) } else { Err(BadNode::Name(shortened(name))) }
}

/// Checks the labels of a node.
///
/// # Errors
/// [`BadNode::Label`] with the first invalid label.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), BadNode> {
    let is_good = |word: &str| has_length(word, LONGEST_LABEL) && !word.chars().any(char::is_control);
    match labels.iter().find(|(key, value)| !is_good(key) || !is_good(value) || key.contains('=')) {
        Some((key, value)) => Err(BadNode::Label(shortened(&format!("{key}={value}")))),
        None => Ok(()),
    }
}

fn has_length(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.chars().take(longest + 1).count())
}

/// Returns at most the first [`LONGEST_NAME`] characters of a text, with an ellipsis if it is longer.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_NAME) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Host names are valid; reserved names, labels, control characters and names of excessive length are not.
    #[test]
    fn node_names_are_checked() {
        for good in ["n", "gpu-1", "host.example.org", "process-1", "Büro 3", &"x".repeat(64)] {
            check_node_name(good).unwrap();
        }
        let long = "ü".repeat(65);
        for bad in [
            "", "head", "*", "pool", "thread", "process", "zone=w", "n/pool", "a\nb", "\x1b[31m", "\u{9b}m",
            " n", "n ", &long,
        ] {
            let why = check_node_name(bad).unwrap_err().to_string();
            assert!(why.contains("--name") && !why.contains(char::is_control) && why.len() < 500, "{why}");
        }
    }

    /// Labels of any text are valid if they are short, non-empty and printable and their key has no `=`.
    #[test]
    fn labels_are_checked() {
        let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        check_labels(&labels("zone", "west=1")).unwrap();
        for (key, value) in [("", "x"), ("x", ""), ("a=b", "c"), ("x", "a\tb"), ("x", &"y".repeat(257))] {
            check_labels(&labels(key, value)).unwrap_err();
        }
    }
}
