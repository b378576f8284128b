//! Trees of Flows and Works, and of the state.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::api::{Api, cleaned, escape};
use super::error::ClientError;
use super::model::{Graph, Place};
use super::show::as_json;
use super::table::{colours, paint, type_name};
use super::watch::Picture;
use crate::printable::{self, one_line};

pub(super) fn graph(api: &Api, json: bool) -> Picture {
    let value = api.get_raw("graph")?;
    if json {
        return Ok(as_json(&value));
    }
    let strange = |error: serde_json::Error| {
        ClientError::Refused(format!("the App's answer is not understood: {error}"))
    };
    let graph: Graph = serde_json::from_value(cleaned(value)).map_err(strange)?;
    Ok(drawn(&graph.items, colours()))
}

fn drawn(items: &[Place], colours: bool) -> String {
    let mut children: BTreeMap<Option<&str>, Vec<&Place>> = BTreeMap::new();
    for item in items {
        children.entry(item.parent.as_deref()).or_default().push(item);
    }
    let mut text = String::new();
    for root in children.get(&None).into_iter().flatten() {
        branch(root, &children, "", "", colours, &mut text);
    }
    text
}

fn branch(
    item: &Place,
    children: &BTreeMap<Option<&str>, Vec<&Place>>,
    lead: &str,
    below: &str,
    colours: bool,
    text: &mut String,
) {
    let parent = item.parent.as_deref().unwrap_or_default();
    let name = item.path.strip_prefix(parent).unwrap_or(&item.path).trim_start_matches('.');
    let name = if name.is_empty() { "root" } else { name };
    let stage = paint(&one_line(&item.stage.replace('_', " ")), &item.stage, colours);
    let place = item.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    text.push_str(&format!(
        "{lead}{} ({}) {stage}{}\n",
        one_line(name),
        one_line(&type_name(&item.type_name)),
        one_line(&place)
    ));
    // Only Flows have children. In an App of a single Work, the Work has an empty path, which is also its parent's.
    let below_it = if item.kind == "flow" { children.get(&Some(item.path.as_str())) } else { None };
    let below_it = below_it.map(Vec::as_slice).unwrap_or_default();
    for (index, child) in below_it.iter().enumerate() {
        let (turn, on) = if index + 1 == below_it.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(child, children, &format!("{below}{turn}"), &format!("{below}{on}"), colours, text);
    }
}

pub(super) fn state(api: &Api, path: Option<&str>, json: bool) -> Picture {
    let query = path.map(|path| format!("?path={}", escape(path))).unwrap_or_default();
    let unknown = || ClientError::NoState { path: path.unwrap_or_default().to_owned() };
    let answer = api.find_raw(&format!("state{query}"))?.ok_or_else(unknown)?;
    let state = answer.get("state").unwrap_or(&answer);
    if json {
        return Ok(as_json(state));
    }
    let mut text = String::new();
    match state {
        Json::Object(_) | Json::Array(_) => fields(state, 0, &mut text),
        leaf => text = format!("{}\n", written(leaf)),
    }
    Ok(text)
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
        let mut text = String::new();
        fields(
            &json!({ "train": { "step": 7, "history": [1, 2] }, "teams": [{ "name": "a" }] }),
            0,
            &mut text,
        );
        assert_eq!(text, "teams:\n  0:\n    name: a\ntrain:\n  history: [1,2]\n  step: 7\n");
    }

    #[test]
    fn a_graph_is_drawn_with_its_branches() {
        let place = |path: &str, kind: &str, parent: Option<&str>| Place {
            path: path.to_owned(),
            kind: kind.to_owned(),
            type_name: "demo::Thing".to_owned(),
            parent: parent.map(str::to_owned),
            node: (kind == "work").then(|| "head".to_owned()),
            stage: "running".to_owned(),
        };
        let items = [
            place("", "flow", None),
            place("team", "flow", Some("")),
            place("team.train", "work", Some("team")),
            place("report", "work", Some("")),
        ];
        assert_eq!(
            drawn(&items, false),
            "root (Thing) running\n├─ team (Thing) running\n│  └─ train (Thing) running on head\n└─ report (Thing) running on head\n"
        );
    }
}
