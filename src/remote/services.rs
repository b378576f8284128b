//! The parts of every process that use the connections of its bridge, and that the bridge does not know.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::bridge::{Bridge, DialError, Services};
#[cfg(feature = "drive")]
use super::drives::serve_drive;
use super::inbox::Inbox;
use super::link::{Inbound, Link};
use super::protocol::Role;
use super::transfers::serve_pulls;
use crate::transport::Connection;

/// The services of a process of an App.
pub(super) struct ProcessServices;

impl Services for ProcessServices {
    fn inbox(&self, bridge: &Arc<Bridge>, link: &Arc<Link>) -> Box<dyn Inbound> {
        Box::new(Inbox::new(bridge.clone(), link.clone()))
    }

    fn serve(
        &self,
        bridge: Arc<Bridge>,
        role: Role,
        connection: Connection,
    ) -> LocalBoxFuture<'static, Result<(), DialError>> {
        match role {
            #[cfg(feature = "drive")]
            Role::Drive => serve_drive(bridge.runtime().cloned(), connection).boxed_local(),
            _ => serve_pulls(bridge, connection).boxed_local(),
        }
    }
}
