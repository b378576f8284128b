//! Looking back while the App runs: its journal is read on the thread of the journal, between commits.
//!
//! # Guarantees
//! - A reading is done in parts, between which commits go on; what is read is put together on other threads.
//! - The memory for moments of the past is bounded by the size of the live data: few requests have them at a time, and
//!   others wait ([`Control::turn_to_look_back`]).

use std::collections::BTreeMap;

use thiserror::Error;
use tokio::sync::oneshot;

use super::tree::{TABLES, flow_statuses, statuses};
use super::{At, Chain, Diff, Page, Paging, Side, Tracing, Wanted, state_tree};
use crate::app::control::Control;
use crate::app::error::AppError;
use crate::flow::RowError;
use crate::id::ActorPath;
use crate::journal::{Extent, Journal, JournalError, Live, Moment};
use crate::state::Value;
use crate::work::Status;

/// An App as it was at a moment.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) moment: Moment,
    /// The state tree.
    pub(crate) state: Value,
    /// The last status of each Work, and of each Flow.
    pub(crate) works: BTreeMap<ActorPath, Status>,
    pub(crate) flows: BTreeMap<ActorPath, Status>,
}

/// Error returned when the past of an App cannot be shown.
#[derive(Debug, Error)]
pub(crate) enum NoPast {
    /// The App has no journal.
    #[error("this App has no journal; start it with `--journal DIR`")]
    NoJournal,
    /// The journal begins later.
    #[error("the journal begins after that time")]
    TooEarly,
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Row(#[from] RowError),
    #[error(transparent)]
    App(#[from] AppError),
}

impl NoPast {
    /// Returns true if nothing is there, and nothing is wrong.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::NoJournal | Self::TooEarly | Self::Journal(JournalError::NoPosition { .. }))
    }
}

impl Control {
    /// Returns a page of events, all of which are durable.
    pub(crate) async fn history(&self, wanted: Wanted) -> Result<Page, NoPast> {
        let mut paging = Paging::new(wanted);
        while let Some(filter) = paging.next() {
            let read = |journal: &Journal, reply: Reply<_>| {
                journal.history(filter, move |read| drop(reply.send(read)));
            };
            paging.add(self.look_back(read).await??);
        }
        Ok(paging.finish())
    }

    /// Returns the App as it was at a moment.
    pub(crate) async fn state_at(&self, at: At) -> Result<Past, NoPast> {
        let _turn = self.turn_to_look_back().await;
        let (moment, live) = self.live_at(at).await?;
        aside(move || {
            let (works, flows) = (statuses(&live), flow_statuses(&live));
            Ok(Past { moment, state: state_tree(&live)?, works, flows })
        })
        .await
    }

    /// Compares two moments at the path of a Flow, Work or field, and below it. The second one is the last that is durable
    /// unless it is given. `None` if there is nothing at this path.
    pub(crate) async fn diff(&self, from: At, to: Option<At>, path: &str) -> Result<Option<Diff>, NoPast> {
        let _turn = self.turn_to_look_back().await;
        let to = match to {
            Some(to) => to,
            None => {
                let last = |journal: &Journal, reply: Reply<_>| {
                    let _ = reply.send(journal.durable());
                };
                At::Position(self.look_back(last).await?)
            }
        };
        let mut sides = Vec::with_capacity(2);
        for at in [from, to] {
            let (moment, live) = self.live_at(at).await?;
            let path = path.to_owned();
            sides.push(aside(move || Ok(Side::new(moment, &live, &path)?)).await?);
        }
        aside(move || Ok(Diff::between(&sides[0], &sides[1]))).await
    }

    /// Returns the runs that led to one, as far as [`Tracing`] tells.
    pub(crate) async fn why(&self, mut tracing: Tracing) -> Result<Chain, NoPast> {
        while let Some(filter) = tracing.next() {
            let read = |journal: &Journal, reply: Reply<_>| {
                journal.history(filter, move |read| drop(reply.send(read)));
            };
            tracing.add(self.look_back(read).await??);
        }
        Ok(tracing.finish())
    }

    /// Reads what the state tree and the statuses are made of.
    async fn live_at(&self, at: At) -> Result<(Moment, Live), NoPast> {
        let position = match at {
            At::Position(position) => position,
            At::Time(wall) => {
                let read = move |journal: &Journal, reply: Reply<_>| {
                    journal.position_at(wall, move |read| drop(reply.send(read)));
                };
                self.look_back(read).await??.ok_or(NoPast::TooEarly)?
            }
        };
        let read = move |journal: &Journal, reply: Reply<_>| {
            journal.live_at(position, Extent::Tables(TABLES), move |read| drop(reply.send(read)));
        };
        Ok(self.look_back(read).await??)
    }

    async fn look_back<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Journal, Reply<R>) + Send + 'static,
    ) -> Result<R, NoPast> {
        let (reply, answer) = oneshot::channel();
        let has_journal =
            self.call(move |driver| driver.journal().map(|journal| read(journal, reply))).await?;
        has_journal.ok_or(NoPast::NoJournal)?;
        // The journal is closed together with the App.
        answer.await.map_err(|_| NoPast::App(AppError::Ended))
    }
}

/// Does what takes long on a thread where it holds nobody up.
async fn aside<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, NoPast> + Send + 'static,
) -> Result<R, NoPast> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime shuts down.
        Err(_) => Err(NoPast::App(AppError::Ended)),
    })
}

type Reply<R> = oneshot::Sender<R>;
