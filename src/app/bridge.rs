//! The App and other processes that take part in it: feature `remote`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use super::config::Config;
use super::control::Control;
use super::driver::Driver;
use super::error::AppError;
use super::hosts::SharedHead;
use super::launch::App;
use crate::descriptors;
use crate::flow::Kinds;
use crate::program::this_program;
use crate::remote::{BridgeOptions, HeadOptions, ProcessCommand, Program};
use crate::transport::{Limits, TransportError};
use crate::work::{Placement, WorkType};

pub(super) type ProcessProgram = Arc<dyn Fn() -> std::io::Result<Command> + Send + Sync>;

impl Config {
    /// Refuses to place Works on nodes when no node can join.
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
    /// Takes nodes in at this address, such as `127.0.0.1:7502`, at port 0 at a free one. Beyond the machine itself it
    /// needs a secret or certificates; see [`Config::token_file`] and [`Config::tls_cert`].
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.listen = Some(address.into());
        self
    }

    /// Sets the command that starts the program again for a Work with a process of its own; `node --join …` is added to the
    /// arguments. By default it is this program without other arguments, which does the right thing when its `main`
    /// calls [`App::main`].
    pub fn process(mut self, command: impl Fn() -> std::io::Result<Command> + Send + Sync + 'static) -> Self {
        self.process = Some(Arc::new(command));
        self
    }

    /// Options that all processes of the App must have in common.
    pub(super) fn bridge_options(&self) -> Result<BridgeOptions, TransportError> {
        let works = self
            .works()
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), kind.messages().into_iter().map(str::to_owned).collect()));
        let (name, version) = (self.name.to_owned(), self.version.clone());
        let settings = self.config.session_settings();
        Ok(BridgeOptions {
            program: Program { name, version, works: works.collect() },
            security: self.config.security()?,
            limits: Limits {
                max_frame: settings.max_frame,
                connections: descriptors::share(Limits::default().connections, 4),
                // Those who do not end theirs, or do not greet then, leave room for others.
                handshakes: descriptors::share(Limits::default().handshakes, 12),
                ..Limits::default()
            },
            settings,
        })
    }

    /// The types of Work that there can be in it.
    pub(super) fn works(&self) -> BTreeMap<&'static str, &'static WorkType> {
        let mut kinds = Kinds::default();
        (self.kinds)(&mut kinds);
        kinds.into_works()
    }

    pub(super) fn head_options(&self) -> Result<HeadOptions, TransportError> {
        let program = self.process.clone().unwrap_or_else(|| Arc::new(this_program));
        let arguments = self.config.for_processes();
        let mut bridge = self.bridge_options()?;
        bridge.security = bridge.security.of_head();
        Ok(HeadOptions { bridge, process: ProcessCommand { program, arguments } })
    }
}

impl Driver {
    /// Takes nodes in, before anything runs.
    pub(super) async fn listen(&mut self, endpoint: &str) -> Result<(), AppError> {
        let head = self.hosts.start_head(&self.ready_queue).map_err(AppError::Node)?;
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

    /// Refuses an address to be told where nothing listens.
    pub(super) fn nothing_is_advertised(&self) -> Result<(), AppError> {
        match &self.config.advertise {
            Some(address) => Err(AppError::Advertise {
                address: address.clone(),
                why: "nothing listens for nodes; give --listen as well",
            }),
            None => Ok(()),
        }
    }
}

/// Shows each new state to the processes that watch.
pub(super) async fn show_watchers(control: Control, head: SharedHead) {
    let mut changes = control.changes();
    while changes.changed().await.is_ok() {
        let version = *changes.borrow_and_update();
        let Some(head) = head.get().filter(|head| head.has_watchers()) else { continue };
        if let Ok(state) = control.state().await {
            head.show(version, state);
        }
    }
}
