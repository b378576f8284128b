//! The search for cycles of asks, in one process.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::graph::Graph;
use super::slow_ask::{SlowAsk, WaitRegister};
use super::{AskId, WaitOrder, WaitReport};
use crate::id::IdMap;

/// Number of the process of the head in its own graph. Other processes have random numbers.
const HERE: u64 = 0;

/// The search for cycles of asks, as a part of the [`Runtime`](crate::runtime::Runtime) of an App. That of the head has
/// the graph of all waits.
pub(crate) struct AskCycles {
    /// The reported waits of this process.
    waits: Mutex<IdMap<AskId, Weak<SlowAsk>>>,
    graph: Mutex<Graph>,
    /// The moment from which the graph counts time.
    start: Instant,
    elsewhere: Mutex<Elsewhere>,
}

/// The other processes of the App.
enum Elsewhere {
    /// None that is known.
    Nowhere,
    /// The head, to which waits are reported.
    #[cfg(feature = "remote")]
    Head(Weak<dyn HeadOfWaits>),
    /// The processes from which the head gets reports.
    #[cfg(feature = "remote")]
    Members(Weak<dyn WaitsElsewhere>),
}

/// The head of an App, for a process that has joined it.
#[cfg(feature = "remote")]
pub(crate) trait HeadOfWaits: Send + Sync {
    fn report(&self, report: WaitReport);
}

/// The other processes of an App, for the head.
#[cfg(feature = "remote")]
pub(crate) trait WaitsElsewhere: Send + Sync {
    fn order(&self, process: u64, order: WaitOrder);
}

impl Default for AskCycles {
    fn default() -> Self {
        Self {
            waits: Mutex::default(),
            graph: Mutex::default(),
            start: Instant::now(),
            elsewhere: Mutex::new(Elsewhere::Nowhere),
        }
    }
}

impl WaitRegister for AskCycles {
    fn add(&self, ask: AskId, wait: &Arc<SlowAsk>) {
        self.waits.lock().insert(ask, Arc::downgrade(wait));
    }

    fn end(&self, ask: AskId) {
        self.waits.lock().remove(&ask);
        self.report(WaitReport::Ended { ask });
    }

    fn report(&self, report: WaitReport) {
        #[cfg(feature = "remote")]
        {
            let head = match &*self.elsewhere.lock() {
                Elsewhere::Head(head) => Some(head.clone()),
                _ => None,
            };
            if let Some(head) = head {
                if let Some(head) = head.upgrade() {
                    head.report(report);
                }
                return;
            }
        }
        self.arrived(HERE, report);
    }
}

impl AskCycles {
    /// Has waits reported to this head.
    #[cfg(feature = "remote")]
    pub(crate) fn report_to(&self, head: Weak<dyn HeadOfWaits>) {
        *self.elsewhere.lock() = Elsewhere::Head(head);
    }

    /// Sets the processes whose waits are reported here.
    #[cfg(feature = "remote")]
    pub(crate) fn coordinate(&self, members: Weak<dyn WaitsElsewhere>) {
        *self.elsewhere.lock() = Elsewhere::Members(members);
    }

    /// Takes a report of a process, in the head.
    pub(crate) fn arrived(&self, process: u64, report: WaitReport) {
        let orders = self.graph.lock().reported(process, report, self.start.elapsed());
        for (process, order) in orders {
            if process == HERE {
                self.obey(order);
                continue;
            }
            #[cfg(feature = "remote")]
            {
                let members = match &*self.elsewhere.lock() {
                    Elsewhere::Members(members) => members.upgrade(),
                    _ => None,
                };
                if let Some(members) = members {
                    members.order(process, order);
                }
            }
        }
    }

    /// Forgets the waits of a process that is lost, in the head.
    #[cfg(feature = "remote")]
    pub(crate) fn lost(&self, process: u64) {
        self.graph.lock().lost(process);
    }

    /// Carries out an order of the head that concerns a wait of this process.
    pub(crate) fn obey(&self, order: WaitOrder) {
        let (WaitOrder::Check { ask, .. } | WaitOrder::Fail { ask, .. }) = &order;
        // One that has ended has reported so.
        let Some(wait) = self.waits.lock().get(ask).and_then(Weak::upgrade) else { return };
        match order {
            WaitOrder::Check { round, asker, .. } => wait.check(round, asker),
            WaitOrder::Fail { cycle, .. } => wait.fail(cycle),
        }
    }
}
