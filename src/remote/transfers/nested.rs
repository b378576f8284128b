//! The values to which a pulled value refers (nested values).
//!
//! # Guarantees
//! - Before a value is present in this process, the values that it refers to are held for this process, over the
//!   session with the source of the pull: the source has the value, and so keeps its nested values alive.
//! - Answers have a bounded size; the next one is requested once the previous one has arrived.

use std::sync::Arc;

use super::super::bridge::Bridge;
use super::super::link::Link;
use super::super::protocol::{Control, Source};
use super::ask::NotGiven;
use crate::payload::{PayloadGuards, PayloadId, Store};

/// Limit on the references in one answer.
const AT_ONCE: usize = 1000;

/// Has the values to which a value of `source` refers held for this process.
pub(super) async fn nested(
    bridge: &Arc<Bridge>,
    source: &Source,
    id: PayloadId,
) -> Result<PayloadGuards, NotGiven> {
    let unreachable = || NotGiven::Unreachable("there is no session with its process".to_owned());
    let link = bridge.link_to(source).ok_or_else(unreachable)?;
    let (answer, is_first) = link.nested().ask(id);
    if is_first {
        link.control(&Control::WhatRefers { id, from: 0 });
    }
    if link.is_over() {
        link.nested().clear();
    }
    match tokio::time::timeout(bridge.settings().grace, answer).await {
        Ok(Ok(Some(nested))) => Ok(nested),
        Ok(Ok(None)) => Err(NotGiven::HasItNot("it no longer has the value".to_owned())),
        Ok(Err(_)) | Err(_) => Err(unreachable()),
    }
}

/// Tells the peer to which values a value of this process refers, and holds these for the peer.
pub(in crate::remote) fn tell_nested(store: &Store, link: &Link, id: PayloadId, from: u64) {
    let Some(blob) = store.entry_of(id).and_then(|entry| entry.blob()) else {
        return link.reply(&Control::Refers { id, there: false, more: false });
    };
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let mut left = blob.nested.iter().skip(from);
    let nested: PayloadGuards = left.by_ref().take(AT_ONCE).cloned().collect();
    let more = left.next().is_some();
    link.reply_with(&nested, &Control::Refers { id, there: true, more });
}
