//! A process that hosts Works for an App whose Flows run elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, System};
use tokio::sync::Notify;

use super::error::AppError;
use super::hosts::spawner;
use super::launch::App;
use crate::payload::{MemoryBudget, never_wait_here};
use crate::printable::one_line;
use crate::recorder;
use crate::remote::{Farewell, Lifetime, NodeOptions, Parent, run_node, tidy_up};
use crate::transport::{Advertised, Endpoint};
use crate::work::Resources;

/// The arguments of a process that joins an App as a node.
pub(crate) struct NodeArguments {
    pub(crate) join: Endpoint,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) resources: Resources,
    pub(crate) listen: Option<Endpoint>,
    pub(crate) advertise: Option<Advertised>,
    /// The directory of this process, if its head has a journal.
    pub(crate) kept_in: Option<PathBuf>,
    /// The time without a head after which the node ends.
    pub(crate) without_head: Option<Duration>,
    /// The end of the node's allocation.
    pub(crate) lifetime: Lifetime,
}

/// Hosts Works until the App ends or no head is found, which returns the reason, or until `leave` is notified, which returns
/// `None`.
pub(crate) fn run_as_node(
    app: &App,
    arguments: NodeArguments,
    leave: Arc<Notify>,
) -> Result<Option<String>, AppError> {
    let NodeArguments { join, name, labels, resources, listen, advertise, kept_in, without_head, lifetime } =
        arguments;
    let is_kept = kept_in.is_some();
    let parent = Parent::current();
    let system = System::new();
    let mut bridge = app.bridge_options()?;
    bridge.security = bridge.security.of_node(&join);
    let options = NodeOptions {
        bridge,
        spawner: spawner(Arbiter::current()),
        kinds: app.works(),
        join,
        name,
        labels,
        resources,
        listen,
        advertise,
        kept_in,
        without_head,
        lifetime: Arc::new(lifetime),
        pool: app.config.pool_size(),
        budget: MemoryBudget::new(app.config.store_settings()),
    };
    never_wait_here();
    recorder::install();
    let head = options.join.clone();
    let farewell = system.block_on(async move { run_node(options, &leave).await });
    if let Endpoint::Unix(socket) = head {
        // The next head uses what belongs to its journal.
        if !is_kept {
            tidy_up(&socket);
        }
        if matches!(farewell, Ok(Farewell::HeadLost(_))) {
            parent.end_group_of_orphan();
        }
    }
    match farewell {
        Ok(Farewell::Over(why) | Farewell::HeadLost(why) | Farewell::WithoutHead(why)) => Ok(Some(why)),
        Ok(Farewell::Left) => Ok(None),
        Ok(Farewell::Expiring) => Ok(Some("its time is over (--lifetime)".to_owned())),
        Ok(Farewell::SentAway(why)) => Ok(Some(format!("the head has sent it away ({})", one_line(&why)))),
        Err(error) => Err(AppError::Node(error.to_string())),
    }
}
