//! The states and inputs of an App that refer to payloads.

use bytes::Bytes;

use super::Driver;
use crate::payload::{PayloadId, Reference};
use crate::state::Value;

/// A state or an input that refers to payloads, and its owner.
pub(in crate::app) struct Referring {
    pub(in crate::app) who: String,
    pub(in crate::app) what: What,
}

pub(in crate::app) enum What {
    State(Value),
    Input(Bytes),
}

impl Driver {
    /// Returns the states and inputs that refer to payloads.
    pub(in crate::app) fn referring(&self) -> Vec<Referring> {
        let mut found = Vec::new();
        for record in self.tree.members() {
            let record = record.lock();
            let path = &record.path;
            if !record.holds().is_empty() {
                found.push(Referring {
                    who: format!("{path} (state)"),
                    what: What::State(record.state.clone()),
                });
            }
            for (run, input) in record.ledger.inputs().filter(|(_, input)| !input.holds().is_empty()) {
                let who = match run {
                    Some(run) => format!("{path} (run {run})"),
                    None => format!("{path} (waiting)"),
                };
                found.push(Referring { who, what: What::Input(input.bytes.clone()) });
            }
        }
        found
    }

    /// Returns the names of the nodes that hold the value of a payload.
    pub(in crate::app) fn holders(&self, id: PayloadId) -> Vec<String> {
        self.hosts.holders(id)
    }
}

/// Calls `found` with each reference in a value, in the form of states as well as of MessagePack.
pub(in crate::app) fn references(value: &Value, found: &mut impl FnMut(Reference)) {
    match value {
        Value::Map(entries) => {
            let is_one = entries.len() == 5
                && ["id", "hash", "length", "of", "origin"]
                    .iter()
                    .all(|name| entries.iter().any(|(key, _)| matches!(key, Value::Str(key) if key == name)));
            match is_one.then(|| value.decode::<Reference>()) {
                Some(Ok(reference)) => found(reference),
                _ => entries.iter().for_each(|(_, value)| references(value, found)),
            }
        }
        Value::Seq(items) => match &items[..] {
            [
                Value::Bytes(id),
                Value::Bytes(hash),
                Value::U64(length),
                Value::Str(of),
                Value::Str(origin),
            ] => {
                if let Some(reference) = Reference::from_parts(id, hash, *length, of, origin) {
                    found(reference);
                }
            }
            items => items.iter().for_each(|value| references(value, found)),
        },
        _ => {}
    }
}
