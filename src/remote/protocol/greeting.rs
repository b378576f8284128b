//! Who two processes are, and whether they understand each other.
//!
//! # Guarantees
//! - Processes of different programs, or of different versions of one, are told what is different.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::process_id::ProcessId;
use crate::id::AppId;
use crate::transport::Endpoint;
use crate::work::Resources;

/// Who a process is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeCard {
    /// Another one each time it is started.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) resources: Resources,
    /// Where other processes reach it.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Which process of its machine it is, so that others there can prove its end; may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessId>,
}

/// What two processes must have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The types of Work, and the messages that each takes from other processes.
    pub(crate) works: BTreeMap<String, Vec<String>>,
}

impl Program {
    /// What is different there, in words.
    pub(in crate::remote) fn difference(&self, there: &Self) -> Option<String> {
        if self.name != there.name {
            return Some(format!("this is the program `{}`, and that is `{}`", self.name, there.name));
        }
        if self.version != there.version {
            return Some(format!("this is version {}, and that is version {}", self.version, there.version));
        }
        let list = |names: BTreeSet<&String>| {
            names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        };
        let (here, far): (BTreeSet<_>, BTreeSet<_>) =
            (self.works.keys().collect(), there.works.keys().collect());
        let (only_here, only_there) = (list(&here - &far), list(&far - &here));
        match (only_here.is_empty(), only_there.is_empty()) {
            (true, true) => {}
            (false, true) => return Some(format!("only this one has the Works {only_here}")),
            (true, false) => return Some(format!("only that one has the Works {only_there}")),
            (false, false) => {
                return Some(format!("only this one has the Works {only_here}, only that one {only_there}"));
            }
        }
        let other = self.works.iter().find(|(name, messages)| there.works.get(*name) != Some(messages));
        other.map(|(name, _)| format!("the messages of Work `{name}` are not the same"))
    }
}

/// What a dialer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// To host Works of the App whose head it has dialed.
    Node,
    /// To bring messages from Works of the same App.
    Peer,
    /// To be shown the App's state.
    Watcher,
    /// To pull values; there is no session.
    Puller,
    /// To do something with a drive of the head; there is no session.
    Drive,
}

/// The first thing that a dialer says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) role: Role,
    pub(crate) program: Program,
    pub(crate) node: NodeCard,
    /// The App, if it is known already.
    pub(crate) app: Option<AppId>,
    /// The session that goes on with this connection; another number each time one begins.
    pub(crate) session: u64,
    /// Whether it begins.
    pub(crate) fresh: bool,
    /// The last message of the session that arrived at the dialer.
    pub(crate) received: u64,
    /// How long it has been waiting for another node of its name to be lost, in milliseconds; may be missing.
    #[serde(default)]
    pub(crate) waited_ms: u64,
}

/// The listener takes the connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) app: AppId,
    pub(crate) node: NodeCard,
    /// The last message of the session that arrived at the listener.
    pub(crate) received: u64,
    pub(crate) heartbeat_ms: u64,
    pub(crate) grace_ms: u64,
}

/// The listener does not take it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// Whether the session was given up, so that another may begin.
    pub(crate) lost: bool,
    /// Whether the dialer may try again with the same greeting: another node has its name and is silent, so that it may be
    /// lost soon. May be missing.
    #[serde(default)]
    pub(crate) wait: bool,
}

impl Refusal {
    /// One that trying again does not change.
    pub(in crate::remote) fn for_good(reason: String) -> Self {
        Self { reason, lost: false, wait: false }
    }

    /// The session was given up.
    pub(in crate::remote) fn lost(reason: String) -> Self {
        Self { reason, lost: true, wait: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(works: &[&str]) -> Program {
        let works = works.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        Program { name: "app".to_owned(), version: "1".to_owned(), works }
    }

    #[test]
    fn a_refusal_names_the_difference() {
        let here = program(&["A", "B"]);
        assert_eq!(here.difference(&here), None);
        assert!(here.difference(&program(&["A"])).unwrap().contains("only this one has the Works `B`"));
        assert!(
            here.difference(&program(&["A", "B", "C"])).unwrap().contains("only that one has the Works `C`")
        );
        let newer = Program { version: "2".to_owned(), ..here.clone() };
        assert!(here.difference(&newer).unwrap().contains("version 1, and that is version 2"));
        let mut other = here.clone();
        other.works.get_mut("B").unwrap().push("Predict".to_owned());
        assert!(here.difference(&other).unwrap().contains("the messages of Work `B`"));
    }
}
