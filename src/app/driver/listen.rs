//! The start of the part of the App that takes nodes in (feature `remote`).

use super::super::error::AppError;
use super::Driver;

impl Driver {
    /// Starts accepting nodes, before any Work starts.
    pub(in crate::app) async fn listen(&mut self, endpoint: &str) -> Result<(), AppError> {
        let head = self.hosts.start_head(self.wake_ups.ready_queue()).map_err(AppError::Node)?;
        head.set_awaited(self.tree.members().filter_map(|record| {
            let record = record.lock();
            record.ledger.awaited().map(|_| record.path.clone())
        }));
        let endpoint = endpoint.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
        let advertised = self.config.advertised()?;
        let endpoint = head.listen(endpoint, advertised).await?;
        match head.joining() {
            Some(joining) if *joining != endpoint => {
                log::info!("nodes join at {joining}; this head listens at {endpoint}");
            }
            _ => log::info!("nodes join at {endpoint}"),
        }
        Ok(())
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
