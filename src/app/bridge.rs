//! The connection between an App and the other processes that take part in it (feature `remote`).

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::error::AppError;
use super::launch::App;
use crate::descriptors;
use crate::flow::Kinds;
use crate::program::{this_program, version_or_build};
use crate::remote::{BridgeOptions, HeadOptions, ProcessCommand, ProcessHome, Program};
use crate::transport::{Limits, TransportError};
use crate::work::{Placement, WorkType};

impl Config {
    /// Returns the limits for other processes, as far as the limit on open files permits them.
    pub(super) fn limits(&self) -> Limits {
        let default = Limits::default();
        let most = |given: Option<u32>, default: usize| given.map_or(default, |most| most as usize).max(4);
        Limits {
            max_frame: self.session_settings().max_frame,
            connections: descriptors::share(most(self.max_connections, default.connections), 4),
            // Limits unfinished handshakes, so that peers that never finish theirs leave descriptors for others.
            handshakes: descriptors::share(most(self.max_handshakes, default.handshakes), 12),
            handshake: self.handshake.unwrap_or(default.handshake).max(Duration::from_millis(1)),
        }
    }

    /// Refuses placements on nodes when no node can join.
    pub(super) fn check_nodes(&self) -> Result<(), AppError> {
        if self.listen.is_some() {
            return Ok(());
        }
        for (path, placement) in &self.place {
            if let Placement::Node(selector) = placement {
                return Err(AppError::NoNodes { path: path.clone(), node: selector.describe() });
            }
        }
        Ok(())
    }
}

impl App {
    /// Accepts nodes at this address, such as `127.0.0.1:7502`; port 0 is any free port. An address that is not a
    /// loopback address needs a secret or certificates; see [`Config::token_file`] and [`Config::tls`].
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.listen = Some(address.into());
        self
    }

    /// Sets the command that starts the program again for a Work with a process of its own; `node --join …` is appended
    /// to its arguments. The default is this program without other arguments, which is right when its `main` calls
    /// [`App::main`].
    pub fn process(mut self, command: impl Fn() -> std::io::Result<Command> + Send + Sync + 'static) -> Self {
        self.process = Some(Arc::new(command));
        self
    }

    /// Returns the options that all processes of the App share.
    pub(super) fn bridge_options(&self) -> Result<BridgeOptions, TransportError> {
        let works = self
            .works()
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), kind.messages().into_iter().map(str::to_owned).collect()));
        let (name, version) = (self.name.to_owned(), version_or_build(self.version.as_deref()));
        let settings = self.config.session_settings();
        Ok(BridgeOptions {
            program: Program { name, version, works: works.collect() },
            security: self.config.security()?,
            limits: self.config.limits(),
            settings,
            epoch: 0,
        })
    }

    /// Returns the types of Work that the tree can contain.
    pub(super) fn works(&self) -> BTreeMap<&'static str, &'static WorkType> {
        let mut kinds = Kinds::default();
        (self.kinds)(&mut kinds);
        self.hosted.iter().for_each(|add| add(&mut kinds));
        kinds.into_works()
    }

    /// Returns the options of a head that has opened its journal as number `epoch`.
    pub(super) fn head_options(&self, epoch: u64) -> Result<HeadOptions, TransportError> {
        let program = self.process.clone().unwrap_or_else(|| Arc::new(this_program));
        let arguments = self.config.for_processes();
        let mut bridge = self.bridge_options()?;
        #[cfg(feature = "journal")]
        let home = self.config.journal.as_deref().and_then(ProcessHome::below);
        #[cfg(not(feature = "journal"))]
        let home: Option<ProcessHome> = None;
        bridge.security = bridge.security.of_head(|| home.as_ref()?.token());
        bridge.epoch = epoch;
        Ok(HeadOptions { bridge, process: ProcessCommand { program, arguments }, home })
    }
}
