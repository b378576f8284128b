//! The start of the part of the App that takes nodes in (feature `remote`).

use std::sync::Arc;

use super::super::error::AppError;
use super::super::fleet;
use super::Driver;
use crate::remote::{Head, ProcessProgram};

impl Driver {
    /// Waits for the processes of single Works that an earlier head has started, before any Work starts.
    pub(in crate::app) async fn expect_back(&mut self) -> Result<(), AppError> {
        let kept = self.hosts.take_kept();
        if !kept.is_empty()
            && let Err(error) = self.start_head()?.expect_back(kept).await
        {
            // Their Works start again when they have not returned in time.
            log::error!("processes that an earlier head has started cannot return: {error}");
        }
        Ok(())
    }

    /// Starts the head side of the connection to other processes, which knows the Works that are to return.
    fn start_head(&mut self) -> Result<Arc<Head>, AppError> {
        let head = self.hosts.start_head(self.wake_ups.ready_queue()).map_err(AppError::Node)?;
        head.set_awaited(self.tree.members().filter_map(|record| {
            let record = record.lock();
            record.ledger.awaited().map(|_| record.path.clone())
        }));
        Ok(head)
    }

    /// Starts accepting nodes, before any Work starts.
    pub(in crate::app) async fn listen(&mut self, endpoint: &str) -> Result<(), AppError> {
        let head = self.start_head()?;
        let endpoint = endpoint.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
        let advertised = self.config.advertised()?;
        let endpoint = head.listen(endpoint, advertised).await?;
        self.adoptions.listening();
        match head.joining() {
            Some(joining) if *joining != endpoint => {
                log::info!("nodes join at {joining}; this head listens at {endpoint}");
            }
            _ => log::info!("nodes join at {endpoint}"),
        }
        Ok(())
    }

    /// Starts the fleet, if the App has groups of nodes that engines start.
    pub(in crate::app) fn start_fleet(&mut self, process: Option<&ProcessProgram>) -> Result<(), AppError> {
        if self.config.fleet.0.is_empty() {
            return Ok(());
        }
        let head = self.start_head()?;
        self.hosts.board().rings(self.wake_ups.ready_queue());
        fleet::start(&self.config, &self.runtime, &head, self.hosts.board(), process)
    }

    /// Refuses an advertised address when the App does not listen for nodes.
    pub(in crate::app) fn nothing_is_advertised(&self) -> Result<(), AppError> {
        match &self.config.advertise {
            Some(address) => Err(AppError::Advertise {
                address: address.clone(),
                why: "nothing listens for nodes; give --listen as well",
            }),
            None => Ok(()),
        }
    }
}
