//! Trees of Flows and Works, and of the state.

use std::collections::BTreeMap;

use super::api::{Api, cleaned, escape};
use super::error::ClientError;
use super::model::{Graph, Place};
use super::show::as_json;
use super::table::{colours, paint, type_name};
use super::watch::Picture;
use crate::cli::state_text::state_text;
use crate::printable::one_line;

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

pub(super) fn state(api: &Api, path: Option<&str>, at: Option<&str>, json: bool) -> Picture {
    let path_query = path.map(|path| format!("?path={}", escape(path))).unwrap_or_default();
    let answer = match at {
        Some(at) => {
            let separator = if path.is_some() { '&' } else { '?' };
            api.past(&format!("state{path_query}{separator}at={}", escape(at)))?
        }
        None => {
            let unknown = || ClientError::NoState { path: path.unwrap_or_default().to_owned() };
            api.find_raw(&format!("state{path_query}"))?.ok_or_else(unknown)?
        }
    };
    let state = answer.get("state").unwrap_or(&answer);
    if json {
        return Ok(as_json(state));
    }
    Ok(state_text(state))
}

#[cfg(test)]
mod tests {
    use super::*;

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
