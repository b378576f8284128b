//! Which payloads there are: those that the states of Works and the inputs of runs refer to.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::control::Control;
use super::driver::Driver;
use super::error::AppError;
use super::snapshot::HEAD;
use crate::flow::lock;
use crate::payload::{self, PayloadId, Reference};
use crate::state::Value;
use crate::wire;

/// One payload, and what is known of it here.
pub(crate) struct PayloadSeen {
    pub(crate) reference: Reference,
    pub(crate) held_by: Vec<String>,
    /// The nodes that have the value.
    pub(crate) nodes: Vec<String>,
    /// Whether it is here, and in memory.
    pub(crate) is_here: bool,
    pub(crate) is_in_memory: bool,
}

/// What refers to payloads, and who has it.
struct Referring {
    who: String,
    what: What,
}

enum What {
    State(Value),
    Input(Bytes),
}

impl Driver {
    fn referring(&self) -> Vec<Referring> {
        let mut found = Vec::new();
        for record in self.tree.order.iter().filter_map(|id| self.tree.works.get(id)) {
            let record = lock(record);
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

    fn holders(&self, id: PayloadId) -> Vec<String> {
        match self.hosts.head().get() {
            Some(head) => head.holders(id),
            None => vec![HEAD.to_owned()],
        }
    }
}

impl Control {
    /// The payloads that something in the App refers to, in the order of their numbers.
    pub(crate) async fn payloads(&self) -> Result<Vec<PayloadSeen>, AppError> {
        let referring = self.call(|driver| driver.referring()).await?;
        let mut seen: BTreeMap<String, PayloadSeen> = BTreeMap::new();
        for Referring { who, what } in referring {
            let value = match what {
                What::State(value) => value,
                What::Input(bytes) => wire::decode(&bytes).unwrap_or_default(),
            };
            find(&value, &mut |reference| {
                let entry = seen.entry(reference.id.to_string()).or_insert_with(|| PayloadSeen {
                    reference,
                    held_by: Vec::new(),
                    nodes: Vec::new(),
                    is_here: false,
                    is_in_memory: false,
                });
                if entry.held_by.last() != Some(&who) {
                    entry.held_by.push(who.clone());
                }
            });
        }
        let mut seen: Vec<_> = seen.into_values().collect();
        let ids: Vec<_> = seen.iter().map(|payload| payload.reference.id).collect();
        let nodes =
            self.call(move |driver| ids.into_iter().map(|id| driver.holders(id)).collect::<Vec<_>>()).await?;
        for (payload, nodes) in seen.iter_mut().zip(nodes) {
            payload.nodes = nodes;
            if let Some(hold) = payload::find(payload.reference.id) {
                (payload.is_here, payload.is_in_memory) =
                    (hold.entry().is_here(), hold.entry().is_in_memory());
            }
        }
        Ok(seen)
    }
}

/// Calls `found` with each reference in a value, as states have them or as MessagePack does.
fn find(value: &Value, found: &mut impl FnMut(Reference)) {
    match value {
        Value::Map(entries) => {
            let is_one = entries.len() == 5
                && ["id", "hash", "length", "of", "origin"]
                    .iter()
                    .all(|name| entries.iter().any(|(key, _)| matches!(key, Value::Str(key) if key == name)));
            match is_one.then(|| value.decode::<Reference>()) {
                Some(Ok(reference)) => found(reference),
                _ => entries.iter().for_each(|(_, value)| find(value, found)),
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
            items => items.iter().for_each(|value| find(value, found)),
        },
        _ => {}
    }
}
