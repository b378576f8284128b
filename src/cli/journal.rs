//! The arguments for the journal of an App.

use std::path::PathBuf;

use crate::app::{Config, JournalSync};

/// The arguments of `run` for the journal.
#[derive(Debug, clap::Args)]
pub(super) struct JournalArgs {
    /// Record the App in this directory, so that it goes on where it was when it is started again, whatever ended it
    /// [default: no journal]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// What the journal survives: `process` for the end of the process in any way, `disk` for a loss of power as well
    /// [default: disk]
    #[arg(long, value_name = "SYNC", value_parser = sync)]
    journal_sync: Option<JournalSync>,

    /// How many days the history in the journal is kept, 0 for no history [default: 7]
    #[arg(long, value_name = "DAYS")]
    journal_history_days: Option<u32>,

    /// The size to which the history in the journal grows, in MiB, 0 for no history [default: 1024]
    #[arg(long, value_name = "MIB")]
    journal_history: Option<u64>,
}

impl JournalArgs {
    /// Returns the configuration given by these arguments.
    pub(super) fn config(&self) -> Config {
        Config {
            journal: self.journal.clone(),
            journal_sync: self.journal_sync,
            journal_history_days: self.journal_history_days,
            journal_history_mib: self.journal_history,
            ..Config::default()
        }
    }
}

fn sync(name: &str) -> Result<JournalSync, &'static str> {
    match name {
        "process" => Ok(JournalSync::Process),
        "disk" => Ok(JournalSync::Disk),
        _ => Err("the journal survives the end of the `process`, or a loss of power (`disk`)"),
    }
}
