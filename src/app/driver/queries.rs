//! Queries that the driver answers between reactions: state, status and snapshots.

use std::time::Instant;

use super::super::histogram::Histogram;
use super::super::snapshot::{FlowSnapshot, RunsPage, ServiceSnapshot, Snapshot, WorkSnapshot};
use super::super::status::{AppStage, AppStatus, JournalStatus, SafeMode, WorkStatus};
use super::Driver;
use crate::flow::{FlowError, Record};
use crate::state::Value;
use crate::work::{DeadLetters, Status};

impl Driver {
    fn journal_status(&self) -> Option<JournalStatus> {
        #[cfg(feature = "journal")]
        let status = self.journaling.status().map(|status| {
            #[cfg(feature = "remote")]
            let (adopted, adoption_time) = self.adoptions.status();
            #[cfg(not(feature = "remote"))]
            let (adopted, adoption_time) = Default::default();
            let parked = self.resumed.parked.iter().map(ToString::to_string).collect();
            let unread = self.resumed.unread.by_path.iter();
            let unread_inputs = unread.map(|(path, inputs)| (path.to_string(), *inputs)).collect();
            let unstable_inputs = self.resumed.first.unstable.iter().map(ToString::to_string).collect();
            JournalStatus { parked, unread_inputs, unstable_inputs, adopted, adoption_time, ..status }
        });
        #[cfg(not(feature = "journal"))]
        let status = None;
        status
    }

    /// Returns why the App is in safe mode, while it is.
    fn safe_mode(&self) -> Option<SafeMode> {
        self.safe_mode.clone().filter(|_| self.stage() == AppStage::SafeMode)
    }

    /// Returns the limit on the encoded state of one Work, in bytes.
    pub(in crate::app) fn state_limit(&self) -> usize {
        self.config.state_limit()
    }

    pub(in crate::app) fn state(&self) -> Result<Value, FlowError> {
        self.root.state()
    }

    /// Returns the journal, to look back.
    #[cfg(all(feature = "http", feature = "journal"))]
    pub(in crate::app) fn journal(&self) -> Option<&crate::journal::Journal> {
        self.journaling.journal()
    }

    /// Returns the number of reactions of all Flows.
    fn reactions(&self) -> u64 {
        self.reaction_times.values().map(Histogram::count).sum()
    }

    pub(in crate::app) fn status(&self) -> AppStatus {
        let works = self.tree.members().map(|record| {
            let record = record.lock();
            let status = WorkStatus {
                status: self.explained(&record, record.ledger.status()),
                type_name: record.kind.name(),
                placement: record.placement,
                is_up: record.ledger.is_up(),
                successes: record.ledger.successes(),
                waiting_messages: record.mailbox.depth(),
            };
            (record.path.to_string(), status)
        });
        let flows = self.tree.flows().map(|(_, entry)| {
            let status = entry.link.status.lock().clone();
            (entry.link.path.to_string(), status)
        });
        AppStatus {
            stage: self.stage(),
            safe_mode: self.safe_mode(),
            reactions: self.reactions(),
            works: works.collect(),
            flows: flows.collect(),
            nodes: self.hosts.nodes(),
            listening: self.hosts.listening(),
            journal: self.journal_status(),
        }
    }

    pub(in crate::app) fn snapshot(&self) -> Snapshot {
        let began = Instant::now();
        let dead_letters = DeadLetters::of(&self.runtime);
        let works = self.tree.members();
        let works = works.map(|record| self.snapshot_of(&record.lock(), &dead_letters)).collect();
        let flows = self.tree.flows().map(|(_, entry)| {
            let service = entry.service();
            let status = entry.link.status.lock().clone();
            FlowSnapshot {
                path: entry.link.path.clone(),
                parent: entry
                    .parent
                    .and_then(|parent| self.tree.flow(parent))
                    .map(|entry| entry.link.path.clone()),
                type_name: entry.type_name,
                status,
                service,
            }
        });
        let flows = flows.collect();
        Snapshot {
            version: self.observers.version(),
            stage: self.stage(),
            safe_mode: self.safe_mode(),
            reactions: self.reactions(),
            reaction_times: self.reaction_times.clone(),
            listening: self.hosts.listening(),
            journal: self.journal_status(),
            state: self.state(),
            works,
            flows,
            nodes: self.hosts.nodes(),
            resources: self.hosts.resources(),
            runtime: self.runtime.clone(),
            processes: self.hosts.load_of_processes(),
            recorded: self.hosts.recorded(),
            took: began.elapsed(),
        }
    }

    /// Returns the services, by path.
    pub(in crate::app) fn services(&self) -> Vec<ServiceSnapshot> {
        let mut services: Vec<_> = self.tree.flows().filter_map(|(_, entry)| entry.service()).collect();
        services.sort_by(|a, b| a.path.cmp(&b.path));
        services
    }

    /// Returns the service at `path`.
    pub(in crate::app) fn service(&self, path: &str) -> Option<ServiceSnapshot> {
        let mut flows = self.tree.flows();
        flows.find(|(_, entry)| entry.link.path.as_str() == path).and_then(|(_, entry)| entry.service())
    }

    pub(in crate::app) fn work_snapshot(&mut self, path: &str) -> Option<WorkSnapshot> {
        let dead_letters = DeadLetters::of(&self.runtime);
        self.record(path).map(|record| self.snapshot_of(&record.lock(), &dead_letters))
    }

    fn snapshot_of(&self, record: &Record, dead_letters: &DeadLetters) -> WorkSnapshot {
        let mut snapshot = WorkSnapshot::of(record, dead_letters);
        snapshot.status = self.explained(record, snapshot.status);
        snapshot
    }

    /// Adds to the status of a Work that waits for a node what the fleet does about it.
    fn explained(&self, record: &Record, mut status: Status) -> Status {
        if record.ledger.is_unplaced()
            && let Some(message) = &mut status.message
            && let Some(why) = self.hosts.fleet_reason(record)
        {
            message.push_str("; ");
            message.push_str(&why);
        }
        status
    }

    pub(in crate::app) fn runs(&mut self, path: &str, skip: usize, take: usize) -> Option<RunsPage> {
        let (total, runs) = self.record(path)?.lock().ledger.runs(skip, take);
        Some(RunsPage { total, runs })
    }
}
