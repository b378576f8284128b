//! `journal rereact`: what the program asks for now on what its Flows saw then.

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use super::journal_text::{pretty, time};
use crate::app::rereact::{Decision, Differing, Missing, Rereacted};
use crate::printable::one_line;

/// Writes how reactions differ, as text or JSON.
pub(super) fn write(found: &Rereacted, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json { pretty(out, &to_json(found)) } else { write_text(found, out) }
}

fn missing_name(missing: Missing) -> &'static str {
    match missing {
        Missing::State => "states",
        Missing::Work => "works",
        Missing::Payload => "payloads",
    }
}

fn to_json(found: &Rereacted) -> Json {
    let Rereacted { positions, reactions, differing, missing } = found;
    let all = |decisions: &[Decision]| decisions.iter().map(Decision::to_json).collect::<Vec<_>>();
    let items = differing.iter().map(|differing| {
        let Differing { position, wall, flow, number, then, now } = differing;
        json!({
            "position": position,
            "time": time(*wall),
            "flow": flow,
            "reaction": number,
            "then": all(then),
            "now": all(now),
        })
    });
    let items: Vec<_> = items.collect();
    let parts: serde_json::Map<_, _> =
        missing.iter().map(|(missing, count)| (missing_name(*missing).to_owned(), (*count).into())).collect();
    json!({
        "from": positions.map(|(from, _)| from),
        "to": positions.map(|(_, to)| to),
        "reactions": reactions,
        "differ": items.len(),
        "not_recorded_in_full": missing.values().sum::<u64>(),
        "missing": parts,
        "items": items,
    })
}

fn write_text(found: &Rereacted, out: &mut dyn Write) -> io::Result<()> {
    for Differing { position, wall, flow, number, then, now } in &found.differing {
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
    }
    let Rereacted { reactions, differing, missing, .. } = found;
    for (missing, count) in missing {
        let what = match missing {
            Missing::State => "a state that another one replaced in the same commit",
            Missing::Work => "a Work of which not everything is recorded",
            Missing::Payload => "the value of a payload that the journal does not have",
        };
        writeln!(out, "not recorded in full: {} that could see {what}", grouped(*count))?;
    }
    let not_in_full = missing.values().sum();
    writeln!(
        out,
        "{}, {} differ, {} not recorded in full",
        counted(*reactions),
        grouped(differing.len() as u64),
        grouped(not_in_full)
    )
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
