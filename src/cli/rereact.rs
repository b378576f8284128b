//! `journal rereact`: what the program asks for now on what its Flows saw then.

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use super::journal_text::{pretty, time};
use crate::app::rereact::{Decision, Differing, Missing, Rereacted};
use crate::printable::one_line;

/// What is shown of reactions that differ, as text or JSON.
pub(super) struct Shown<'o> {
    out: &'o mut dyn Write,
    /// The reactions so far, for JSON.
    items: Option<Vec<Json>>,
    failure: Option<io::Error>,
}

impl<'o> Shown<'o> {
    pub(super) fn new(json: bool, out: &'o mut dyn Write) -> Self {
        Self { out, items: json.then(Vec::new), failure: None }
    }

    /// Shows a reaction. Returns false if that is not possible.
    pub(super) fn add(&mut self, differing: &Differing) -> bool {
        let added = match &mut self.items {
            Some(items) => {
                items.push(item(differing));
                Ok(())
            }
            None => write_one(differing, self.out),
        };
        self.failure = added.err();
        self.failure.is_none()
    }

    /// Shows the counts.
    ///
    /// # Errors
    /// The first error of writing.
    pub(super) fn finish(self, found: &Rereacted) -> io::Result<()> {
        match (self.failure, self.items) {
            (Some(failure), _) => Err(failure),
            (None, Some(items)) => pretty(self.out, &to_json(found, items)),
            (None, None) => write_counts(found, self.out),
        }
    }
}

fn missing_name(missing: Missing) -> &'static str {
    match missing {
        Missing::State => "states",
        Missing::Work => "works",
        Missing::Payload => "payloads",
    }
}

fn item(differing: &Differing) -> Json {
    let Differing { position, wall, flow, number, then, now } = differing;
    let all = |decisions: &[Decision]| decisions.iter().map(Decision::to_json).collect::<Vec<_>>();
    json!({
        "position": position,
        "time": time(*wall),
        "flow": flow,
        "reaction": number,
        "then": all(then),
        "now": all(now),
    })
}

fn to_json(found: &Rereacted, items: Vec<Json>) -> Json {
    let Rereacted { positions, reactions, differing, missing } = found;
    let parts: serde_json::Map<_, _> =
        missing.iter().map(|(missing, count)| (missing_name(*missing).to_owned(), (*count).into())).collect();
    json!({
        "from": positions.map(|(from, _)| from),
        "to": positions.map(|(_, to)| to),
        "reactions": reactions,
        "differ": differing,
        "not_recorded_in_full": missing.values().sum::<u64>(),
        "missing": parts,
        "items": items,
    })
}

fn write_one(differing: &Differing, out: &mut dyn Write) -> io::Result<()> {
    let Differing { position, wall, flow, number, then, now } = differing;
    let flow = if flow.is_root() { "root" } else { flow.as_str() };
    let head = format!("{position:>6}  {}  {flow}  reaction {number}", time(*wall));
    writeln!(out, "{}", one_line(&head))?;
    for (word, decisions) in [("then", then), ("now", now)] {
        if decisions.is_empty() {
            writeln!(out, "  {word:>4}: nothing")?;
        }
        for decision in decisions {
            writeln!(out, "  {word:>4}: {}", one_line(&decision.to_string()))?;
        }
    }
    Ok(())
}

fn write_counts(found: &Rereacted, out: &mut dyn Write) -> io::Result<()> {
    let Rereacted { reactions, differing, missing, .. } = found;
    for (missing, count) in missing {
        let what = match missing {
            Missing::State => "a state that another one replaced in the same commit",
            Missing::Work => "a Work of which not everything is recorded",
            Missing::Payload => "the value of a payload",
        };
        writeln!(out, "not recorded in full: {} that could see {what}", grouped(*count))?;
    }
    let (differing, not_in_full) = (grouped(*differing), grouped(missing.values().sum()));
    writeln!(out, "{}, {differing} differ, {not_in_full} not recorded in full", counted(*reactions))
}

fn counted(reactions: u64) -> String {
    if reactions == 1 { "1 reaction".to_owned() } else { format!("{} reactions", grouped(reactions)) }
}

/// Returns a number with its thousands separated.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        assert_eq!([0, 7, 999, 1000, 1_234_567].map(grouped), ["0", "7", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2193].map(counted), ["1 reaction", "2,193 reactions"]);
    }
}
