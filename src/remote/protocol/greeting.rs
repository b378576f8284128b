//! Greetings: the identity of two processes, and the check that they are compatible.
//!
//! # Guarantees
//! - Processes of different programs, or of different versions of one, are told the difference.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::process_id::ProcessId;
use crate::id::AppId;
use crate::program::BUILD_PREFIX;
use crate::transport::Endpoint;
use crate::work::{EncodedArguments, Resources};

/// The identity of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeCard {
    /// Random number, different at each start of the process.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) resources: Resources,
    /// Endpoints at which other processes reach it.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Identity of the process on its machine, by which others there can prove its end; may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessId>,
    /// The time until the node's allocation ends, in milliseconds at the moment of the greeting; may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ends_in_ms: Option<u64>,
    /// The time before that at which the node begins to leave, in milliseconds; may be absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) drain_before_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The properties that two processes must have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The types of Work, with the messages that each accepts from other processes.
    pub(crate) works: BTreeMap<String, Vec<String>>,
}

impl Program {
    /// Returns a description of the first difference between two programs.
    pub(in crate::remote) fn difference(&self, there: &Self) -> Option<String> {
        if self.name != there.name {
            return Some(format!("this is the program `{}`, and that is `{}`", self.name, there.name));
        }
        if self.version != there.version {
            let is_build = |version: &str| version.starts_with(BUILD_PREFIX);
            if is_build(&self.version) && is_build(&there.version) {
                return Some(format!(
                    "this is {}, and that is {}; run the same binary everywhere, or give the App a version (`App::version`, \
                     `app!`), which is compared instead",
                    self.version, there.version
                ));
            }
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

/// The purpose for which a process dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Host Works of the App whose head it has dialed.
    Node,
    /// Send messages to Works of the same App.
    Peer,
    /// Watch the state of the App.
    Watcher,
    /// Pull values, without a session.
    Puller,
    /// Use a drive of the head, without a session.
    Drive,
}

/// The greeting of the dialing process, which is the first message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) role: Role,
    pub(crate) program: Program,
    pub(crate) node: NodeCard,
    /// The App, if the process knows it already.
    pub(crate) app: Option<AppId>,
    /// The session that this connection resumes or begins; a random number.
    pub(crate) session: u64,
    /// True if the session begins.
    pub(crate) fresh: bool,
    /// Number of the last message of the session that arrived at the dialing process.
    pub(crate) received: u64,
    /// Time for which the process has waited for the loss of another node with its name, in milliseconds; may be
    /// absent.
    #[serde(default)]
    pub(crate) waited_ms: u64,
    /// The highest epoch of a head of the App that the process has seen; 0 if there was none. May be absent.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// The process number of the head with that epoch; 0 if there was none. May be absent.
    #[serde(default)]
    pub(crate) head: u64,
}

/// The answer that accepts a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) app: AppId,
    pub(crate) node: NodeCard,
    /// Number of the last message of the session that arrived at the listening process.
    pub(crate) received: u64,
    pub(crate) heartbeat_ms: u64,
    pub(crate) grace_ms: u64,
    /// The epoch of the head: the number of times that it opened its journal. 0 without a journal; may be absent.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// The App's own arguments, absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) args: Option<EncodedArguments>,
}

/// The answer that refuses a connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// True if the session was given up, so that another may begin.
    pub(crate) lost: bool,
    /// True if the dialing process may repeat the greeting: another node has its name but is silent, and may be lost
    /// soon. May be absent.
    #[serde(default)]
    pub(crate) wait: bool,
    /// The epoch of the head, if the dialing process belongs to its App; may be absent.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// True if the dialing process knows another head that has replaced this one, or has a copy of its journal. May be
    /// absent.
    #[serde(default)]
    pub(crate) outdated: bool,
}

impl Refusal {
    /// Returns a refusal that another attempt does not change.
    pub(in crate::remote) fn for_good(reason: String) -> Self {
        Self { reason, ..Self::default() }
    }

    /// Returns a refusal for a session that was given up.
    pub(in crate::remote) fn lost(reason: String) -> Self {
        Self { reason, lost: true, ..Self::default() }
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
        let [one, two] =
            ["build 1", "build 2"].map(|build| Program { version: build.to_owned(), ..here.clone() });
        assert!(one.difference(&two).unwrap().contains("build 1, and that is build 2; run the same binary"));
        let mut other = here.clone();
        other.works.get_mut("B").unwrap().push("Predict".to_owned());
        assert!(here.difference(&other).unwrap().contains("the messages of Work `B`"));
    }
}
