//! The cases: each is a process that prints its figures.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{floor, load, messages, nodes};

pub struct Case {
    pub name: &'static str,
    /// The program that has it, where it is not this one.
    pub program: Option<PathBuf>,
    /// Once in a run, not in every round: it lasts long, or counts over a long time.
    pub once: bool,
}

const OWN: &[(&str, fn(&str), bool)] = &[
    ("floor", floor::measure, false),
    ("floor-compact", floor::measure, false),
    ("floor-unbatched", floor::measure, false),
    ("floor-unix", floor::measure, false),
    ("wake-ups", |_| floor::wake_ups(), false),
    ("flowright-pool", messages::measure, false),
    ("flowright-thread", messages::measure, false),
    ("flowright-process", messages::measure, false),
    ("flowright-join", |_| nodes::join(), false),
    ("flowright-loss", |_| nodes::loss(), true),
    ("flowright-load", load::measure, true),
    ("flowright-overload", load::measure, true),
];

const PEERS: &[&str] = &["elfo", "kameo", "ractor_cluster", "tonic", "erlang"];

/// All of them; those of the peers where their program is.
pub fn all(peers: Option<PathBuf>) -> Vec<Case> {
    let own = OWN.iter().map(|(name, _, once)| Case { name, program: None, once: *once });
    let peers = peers.map(|program| {
        PEERS.iter().map(move |name| Case { name, program: Some(program.clone()), once: false })
    });
    own.chain(peers.into_iter().flatten()).collect()
}

/// Runs one of this program's own in this process.
pub fn run(name: &str) {
    let (_, run, _) = OWN.iter().find(|(known, ..)| *known == name).expect("the parent knows the cases");
    run(name);
}

impl Case {
    /// Runs it in a process of its own; its figures, by measure.
    pub fn measure(&self) -> Result<Vec<(String, f64)>, String> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|error| error.to_string())?,
        };
        let output = Command::new(program)
            .args(["case", self.name])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("it ended with {}", output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        // A library may have printed something of its own.
        Ok(text
            .lines()
            .filter_map(|line| {
                let (measure, value) = line.split_once(' ')?;
                Some((measure.to_owned(), value.parse().ok()?))
            })
            .collect())
    }
}
