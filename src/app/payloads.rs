//! The payloads of an App: those that states of Works and inputs of runs refer to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::control::Control;
use super::driver::{Referring, What, references};
use super::error::AppError;
use crate::payload::{PayloadId, Reference, Store};
use crate::wire;

/// A payload or artifact that the state of a Work or the input of a run refers to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PayloadStatus {
    /// The id, as in error messages.
    pub id: String,
    /// The Rust type of the value.
    pub type_name: String,
    /// The length of the encoded value, in bytes.
    pub bytes: u64,
    /// The path of the Work that made the payload.
    pub made_by: String,
    /// The nodes that have the complete value; empty when it is lost.
    pub nodes: Vec<String>,
    /// The states and runs that refer to the payload.
    pub held_by: Vec<String>,
    /// True when the App's own process has the value.
    pub is_here: bool,
    /// True when the App's own process has the value in memory, not on disk.
    pub is_in_memory: bool,
}

impl PayloadStatus {
    fn new(reference: Reference, store: &Store) -> Self {
        let hold = store.find(reference.id);
        let entry = hold.as_ref().map(|hold| hold.entry());
        Self {
            id: reference.id.to_string(),
            type_name: reference.of,
            bytes: reference.length,
            made_by: reference.origin,
            nodes: Vec::new(),
            held_by: Vec::new(),
            is_here: entry.is_some_and(|entry| entry.is_here()),
            is_in_memory: entry.is_some_and(|entry| entry.is_in_memory()),
        }
    }
}

impl Control {
    /// Returns the payloads that states and runs of the App refer to, ordered by id.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended.
    pub async fn payloads(&self) -> Result<Vec<PayloadStatus>, AppError> {
        let referring = self.call(|driver| driver.referring()).await?;
        let store = Store::of(self.runtime());
        let mut seen: BTreeMap<String, (PayloadId, PayloadStatus)> = BTreeMap::new();
        for Referring { who, what } in referring {
            let value = match what {
                What::State(value) => value,
                What::Input(bytes) => wire::decode(&bytes).unwrap_or_default(),
            };
            references(&value, &mut |reference| {
                let id = reference.id;
                let (_, payload) =
                    seen.entry(id.to_string()).or_insert_with(|| (id, PayloadStatus::new(reference, &store)));
                if payload.held_by.last() != Some(&who) {
                    payload.held_by.push(who.clone());
                }
            });
        }
        self.call(move |driver| {
            let with_holders = |(id, mut payload): (PayloadId, PayloadStatus)| {
                payload.nodes = driver.holders(id);
                payload
            };
            seen.into_values().map(with_holders).collect()
        })
        .await
    }
}
