//! Pages of events.

use std::collections::VecDeque;

use super::events::{Event, Retelling};
use crate::id::ActorPath;
use crate::journal::{Change, HistoryFilter, HistoryPart, RecordedTransaction};

/// Number of groups that are read first; each further reading takes twice as many.
const FIRST: usize = 64;

/// Number of groups after which a page ends, however few events it has, if it is to be short.
pub(super) const MOST: usize = 4096;

/// Size of the parts that are read at once, in encoded bytes.
pub(super) const PART_BYTES: u64 = 4 << 20;

/// Size of the parts of a page after which it ends, if it is to be short.
const PAGE_BYTES: u64 = 16 << 20;

/// The events that are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Events of this actor and of those below it.
    pub(crate) path: Option<ActorPath>,
    /// Positions from this one: the oldest of these events. Without it, the newest events are wanted.
    pub(crate) from: Option<u64>,
    /// Positions up to this one.
    pub(crate) to: Option<u64>,
    /// The number of events after which the page ends, with whole transactions; at least one transaction.
    pub(crate) limit: usize,
    /// True if not more than a part of the history is to be read at once.
    pub(crate) is_short: bool,
}

/// Events, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Page {
    pub(crate) events: Vec<Event>,
    /// The position up to which there may be older events.
    pub(crate) older: Option<u64>,
    /// The position from which there may be newer ones.
    pub(crate) newer: Option<u64>,
}

/// Collects a page from parts of the history: [`next`](Self::next) says which part is read, and
/// [`add`](Self::add) takes it, until there is no next.
pub(crate) struct Paging {
    wanted: Wanted,
    transactions: VecDeque<RecordedTransaction>,
    /// Number of groups of the next part.
    size: usize,
    read: usize,
    /// Number of parts that ended by their size in bytes.
    cut: u64,
    /// The position at which the next part begins, or ends if pages go back in time.
    next: Option<u64>,
    /// Number of wanted events so far. An upper bound if pages go back in time.
    count: usize,
    retelling: Retelling,
    page: Page,
    is_complete: bool,
    /// True once the context before the first position has been read.
    has_context: bool,
}

fn is_wanted(wanted: Option<&ActorPath>, path: &ActorPath) -> bool {
    wanted.is_none_or(|wanted| {
        let rest = path.as_str().strip_prefix(wanted.as_str());
        wanted.is_root() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

impl Paging {
    pub(crate) fn new(wanted: Wanted) -> Self {
        let has_context = wanted.from.is_none_or(|from| from <= 1);
        Self {
            wanted,
            transactions: VecDeque::new(),
            size: FIRST,
            read: 0,
            cut: 0,
            next: None,
            count: 0,
            retelling: Retelling::default(),
            page: Page::default(),
            is_complete: false,
            has_context,
        }
    }

    /// Returns the part of the history to read next.
    pub(crate) fn next(&self) -> Option<HistoryFilter> {
        if self.is_complete {
            return None;
        }
        let (to, limit) = (self.wanted.to, self.size);
        let filter = HistoryFilter { to, limit, bytes: PART_BYTES, ..HistoryFilter::default() };
        Some(match self.wanted.from {
            Some(from) if !self.has_context => {
                HistoryFilter { to: Some(from - 1), limit: 1, newest_first: true, ..filter }
            }
            Some(from) => HistoryFilter { from: Some(self.next.unwrap_or(from)), ..filter },
            None => HistoryFilter { to: self.next.or(to), newest_first: true, ..filter },
        })
    }

    /// Takes the part that was read.
    pub(crate) fn add(&mut self, part: HistoryPart) {
        let HistoryPart { entries, next } = part;
        if !self.has_context {
            self.has_context = true;
            for transaction in entries.iter().flat_map(|entry| &entry.transactions) {
                self.retelling.tell(transaction);
            }
            return;
        }
        let is_last = next.is_none();
        self.next = next;
        self.read += entries.len();
        self.cut += u64::from(!is_last && entries.len() < self.size);
        self.size = (self.size * 2).min(1024);
        let is_large = self.cut >= PAGE_BYTES / PART_BYTES;
        let is_enough = self.wanted.is_short && (self.read >= MOST || is_large);
        if self.wanted.from.is_some() {
            for transaction in entries.into_iter().flat_map(|entry| entry.transactions) {
                if self.count >= self.wanted.limit {
                    self.is_complete = true;
                    return;
                }
                self.page.newer = Some(transaction.position + 1);
                self.tell(&transaction);
            }
            self.is_complete = is_last || is_enough;
            if is_last {
                self.page.newer = None;
            }
            return;
        }
        for entry in entries {
            for transaction in entry.transactions.into_iter().rev() {
                let names = |path: &&ActorPath| is_wanted(self.wanted.path.as_ref(), path);
                let changes = transaction.changes.iter().map(Change::path);
                self.count += usize::from(changes.chain(&transaction.merged).any(|path| names(&path)));
                self.transactions.push_front(transaction);
            }
        }
        // Most transactions that name an actor make an event of it, and many make several.
        if !(is_last || is_enough || self.count > 2 * self.wanted.limit) {
            return;
        }
        self.is_complete = true;
        let mut told = VecDeque::new();
        let oldest = self.transactions.front().map(|first| first.position);
        for transaction in std::mem::take(&mut self.transactions) {
            let mut events = self.retelling.tell(&transaction);
            events.retain(|event| is_wanted(self.wanted.path.as_ref(), &event.path));
            told.push_back((transaction.position, events));
        }
        let mut total: usize = told.iter().map(|(_, events)| events.len()).sum();
        self.page.older = oldest.filter(|_| !is_last).map(|oldest| oldest.saturating_sub(1));
        while total > self.wanted.limit && told.iter().filter(|(_, events)| !events.is_empty()).count() > 1 {
            let Some((position, events)) = told.pop_front() else { break };
            total -= events.len();
            if !events.is_empty() {
                self.page.older = Some(position);
            }
        }
        self.page.events = told.into_iter().flat_map(|(_, events)| events).collect();
    }

    fn tell(&mut self, transaction: &RecordedTransaction) {
        let mut events = self.retelling.tell(transaction);
        events.retain(|event| is_wanted(self.wanted.path.as_ref(), &event.path));
        self.count += events.len();
        self.page.events.append(&mut events);
    }

    pub(crate) fn finish(self) -> Page {
        self.page
    }
}
