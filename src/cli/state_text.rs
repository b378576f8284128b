//! States as text, for people.

use serde_json::Value as Json;

use crate::printable::{self, one_line};

/// Returns a state as lines, one for each field, or one for a state without fields.
pub(super) fn state_text(state: &Json) -> String {
    let mut text = String::new();
    match state {
        Json::Object(_) | Json::Array(_) => fields(state, 0, &mut text),
        leaf => text = format!("{}\n", written(leaf)),
    }
    text
}

/// Writes one field per line, with nested fields indented below it.
fn fields(value: &Json, depth: usize, text: &mut String) {
    let members: Vec<(String, &Json)> = match value {
        Json::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Json::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in members {
        let indent = "  ".repeat(depth);
        let inner = match value {
            Json::Object(fields) => !fields.is_empty(),
            // Lists of plain values fit on one line.
            Json::Array(items) => items.iter().any(|item| item.is_object() || item.is_array()),
            _ => false,
        };
        if inner {
            text.push_str(&format!("{indent}{}:\n", one_line(&name)));
            fields(value, depth + 1, text);
        } else {
            text.push_str(&format!("{indent}{}: {}\n", one_line(&name), written(value)));
        }
    }
}

fn written(value: &Json) -> String {
    match value {
        Json::String(text) => one_line(text).into_owned(),
        other => printable::json(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_one_field_a_line() {
        let state = json!({ "train": { "step": 7, "history": [1, 2] }, "teams": [{ "name": "a" }] });
        assert_eq!(state_text(&state), "teams:\n  0:\n    name: a\ntrain:\n  history: [1,2]\n  step: 7\n");
    }
}
