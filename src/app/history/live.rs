//! Looking back while the App runs: its journal is read on the thread of the journal, between commits.

use std::collections::BTreeMap;

use thiserror::Error;
use tokio::sync::oneshot;

use super::tree::{flow_statuses, statuses};
use super::{At, Page, Paging, Wanted, state_tree};
use crate::app::control::Control;
use crate::app::error::AppError;
use crate::flow::RowError;
use crate::id::ActorPath;
use crate::journal::{Journal, JournalError, Moment};
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
            journal.live_at(position, move |read| {
                let past = |(moment, live)| {
                    let (works, flows) = (statuses(&live), flow_statuses(&live));
                    Ok(Past { moment, state: state_tree(&live)?, works, flows })
                };
                drop(reply.send(read.map_err(NoPast::from).and_then(past)));
            });
        };
        self.look_back(read).await?
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

type Reply<R> = oneshot::Sender<R>;
