//! The cases. Each runs as a process that prints its figures.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{floor, load, messages, nodes};

pub struct Case {
    pub name: &'static str,
    /// The program that runs the case; `None` for this one.
    pub program: Option<PathBuf>,
    /// Set for a case that is run once instead of in every round, because it takes or averages over a long time.
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

/// Returns all cases; those of the peers only if their program is given.
pub fn all(peers: Option<PathBuf>) -> Vec<Case> {
    let own = OWN.iter().map(|(name, _, once)| Case { name, program: None, once: *once });
    let peers = peers.map(|program| {
        PEERS.iter().map(move |name| Case { name, program: Some(program.clone()), once: false })
    });
    own.chain(peers.into_iter().flatten()).collect()
}

/// Runs a case of this program in this process.
pub fn run(name: &str) {
    let (_, run, _) = OWN.iter().find(|(known, ..)| *known == name).expect("the parent knows the cases");
    run(name);
}

impl Case {
    /// Runs the case in a new process and returns its figures by measure.
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
        // Other lines are ignored, since a library may have printed some.
        Ok(text
            .lines()
            .filter_map(|line| {
                let (measure, value) = line.split_once(' ')?;
                Some((measure.to_owned(), value.parse().ok()?))
            })
            .collect())
    }
}
