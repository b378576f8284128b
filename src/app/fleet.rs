//! The fleet of an App: the demand of its Works on one side, the groups of nodes and their engines on the other.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::config::Config;
use super::demand::DemandBoard;
use super::error::AppError;
use super::hosts::spawner;
use crate::duration::write_duration;
use crate::fleet::{
    Engine, EngineSettings, Fleet, FleetHost, GroupPlan, GroupSettings, NodeCommand, ProcessEngine, Request,
    Slurm,
};
use crate::id::unique;
use crate::machine::machine_name;
use crate::program;
use crate::remote::{Head, ProcessProgram};
use crate::runtime::Runtime;
use crate::transport::Endpoint;
use crate::work::{Demand, NodeRoom, start_arbiter};

/// The fleet of an App, once it has started. A part of its [`Runtime`].
#[derive(Default)]
pub(crate) struct AppFleet(OnceLock<Fleet>);

impl AppFleet {
    /// Returns the fleet; `None` if the App has no groups.
    #[cfg(feature = "http")]
    pub(crate) fn get(&self) -> Option<&Fleet> {
        self.0.get()
    }

    /// Ends all nodes that engines have started, at the end of the App.
    pub(super) async fn end(&self) {
        if let Some(fleet) = self.0.get() {
            fleet.stop().await;
        }
    }
}

/// The App as its fleet sees it.
struct Host {
    head: Arc<Head>,
    board: Arc<DemandBoard>,
}

impl FleetHost for Host {
    fn nodes(&self) -> Vec<NodeRoom> {
        self.head.rooms()
    }

    fn demand(&self) -> BTreeMap<Demand, usize> {
        self.board.demand()
    }

    fn drain(&self, node: &str, why: &str, if_idle: bool) -> bool {
        match if_idle {
            true => self.head.drain_if_idle(node, why),
            false => self.head.drain(node, why),
        }
    }

    fn set_deadline(&self, node: &str, deadline: Instant) {
        self.head.set_deadline(node, Some(deadline));
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        self.board.changed().boxed()
    }

    fn explain(&self, reasons: BTreeMap<Demand, String>, is_changed: bool) {
        self.board.explain(reasons, is_changed);
    }
}

/// Returns the address to listen at for the nodes of the fleet, if none is given.
///
/// # Errors
/// [`AppError::Fleet`], if the nodes of a group could not reach a loopback address.
pub(super) fn listen_address(config: &Config) -> Result<Option<String>, AppError> {
    let mut groups = config.fleet.0.iter();
    if config.listen.is_some() || config.fleet.0.is_empty() {
        return Ok(config.listen.clone());
    }
    match groups.find(|(_, group)| group.engine != EngineSettings::Process) {
        None => Ok(Some("127.0.0.1:0".to_owned())),
        Some((group, _)) => Err(AppError::Fleet {
            group: group.clone(),
            why: "its nodes need an address at which they reach this machine: give --listen ADDRESS:PORT, such as \
                  0.0.0.0:7502"
                .to_owned(),
        }),
    }
}

/// Starts the fleet of an App on a thread of its own, if it has groups.
pub(super) fn start(
    config: &Config,
    runtime: &Arc<Runtime>,
    head: &Arc<Head>,
    board: &Arc<DemandBoard>,
    process: Option<&ProcessProgram>,
) -> Result<(), AppError> {
    if config.fleet.0.is_empty() {
        return Ok(());
    }
    let tag = format!("{:08x}", runtime.app().number() >> 32);
    let mut engines = Engines { tag, by_list: BTreeMap::new() };
    let command = command_of(process).map_err(AppError::Thread)?;
    let plan = |(name, group): &(String, GroupSettings)| {
        plan_of(config, head, &mut engines, command.clone(), name, group)
    };
    let groups = config.fleet.0.iter().map(plan);
    let groups = groups.collect::<Result<Vec<_>, _>>()?;
    let host = Arc::new(Host { head: head.clone(), board: board.clone() });
    let (fleet, run) = Fleet::new(host, groups, unique());
    let arbiter = start_arbiter(runtime).map_err(AppError::Thread)?;
    spawner(arbiter.handle())(run);
    if let Some(slot) = runtime.part::<AppFleet>() {
        let _ = slot.0.set(fleet);
    }
    Ok(())
}

/// Returns the command that starts this program again, which [`App::process`](super::launch::App::process) may have set.
fn command_of(process: Option<&ProcessProgram>) -> std::io::Result<NodeCommand> {
    let Some(process) = process else {
        return Ok(NodeCommand { program: program::path()?, arguments: Vec::new(), environment: Vec::new() });
    };
    let command = process()?;
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let variable = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
        (name.to_owned(), value.map(ToOwned::to_owned))
    };
    Ok(NodeCommand {
        program: command.get_program().into(),
        arguments: command.get_args().map(text).collect(),
        environment: command.get_envs().map(variable).collect(),
    })
}

/// The engines of an App.
struct Engines {
    tag: String,
    /// The engines whose lists are asked for, by what they list.
    by_list: BTreeMap<String, Arc<dyn Engine>>,
}

impl Engines {
    /// Returns the engine of a group, and the name of the list that has its allocations.
    fn of(
        &mut self,
        settings: &EngineSettings,
        config: &Config,
    ) -> Result<(Arc<dyn Engine>, String), String> {
        let list = settings.name().to_owned();
        match settings {
            EngineSettings::Process => {
                let directory = std::env::temp_dir().join(format!("flowright-fleet-{}", self.tag));
                let make =
                    || -> Arc<dyn Engine> { Arc::new(ProcessEngine::new(self.tag.clone(), directory)) };
                Ok((self.by_list.entry(list.clone()).or_insert_with(make).clone(), list))
            }
            EngineSettings::Slurm(settings) => {
                // The token that a head on a loopback address makes is found by the nodes of this machine themselves.
                let token = config.security().map_err(|error| error.to_string())?.token();
                let token = token.map(|token| token.text());
                let engine = Slurm::new(settings.clone(), self.tag.clone(), token)?;
                Ok((Arc::new(engine), list))
            }
        }
    }
}

fn plan_of(
    config: &Config,
    head: &Arc<Head>,
    engines: &mut Engines,
    mut command: NodeCommand,
    name: &str,
    group: &GroupSettings,
) -> Result<GroupPlan, AppError> {
    let wrong = |why: String| AppError::Fleet { group: name.to_owned(), why };
    let limits = group.limits(name);
    let join = head.joining().map(|endpoint| join_address(endpoint, &group.engine)).unwrap_or_default();
    command.arguments.extend(["node".to_owned(), "--join".to_owned(), join]);
    let mut add = |flag: &str, value: String| command.arguments.extend([flag.to_owned(), value]);
    for (key, value) in &limits.labels {
        add("--label", format!("{key}={value}"));
    }
    add("--cpus", limits.brings.cpus.to_string());
    add("--gpus", limits.brings.gpus.to_string());
    if limits.brings.memory > 0 {
        add("--memory", (limits.brings.memory >> 20).to_string());
    }
    add("--without-head", write_duration(group.without_head));
    if let Some(time) = limits.time {
        add("--lifetime", write_duration(time));
        add("--drain-before", write_duration(limits.drain));
    }
    if let (Some(file), EngineSettings::Process) = (&config.token_file, &group.engine) {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        add("--token-file", file.display().to_string());
    }
    command.arguments.extend(config.for_processes());
    let (brings, time, drain) = (limits.brings, limits.time, limits.drain);
    let request = Request { command, brings, time, drain };
    let (engine, list) = engines.of(&group.engine, config).map_err(wrong)?;
    Ok(GroupPlan { name: name.to_owned(), limits, request, engine, list })
}

/// Returns the address at which the nodes of an engine reach a listener. One that listens at every address of this machine
/// is reached by its host name from other machines.
fn join_address(endpoint: &Endpoint, engine: &EngineSettings) -> String {
    let text = endpoint.to_string();
    match (text.parse::<std::net::SocketAddr>(), engine) {
        (Ok(address), EngineSettings::Process) if address.ip().is_unspecified() => {
            format!("127.0.0.1:{}", address.port())
        }
        (Ok(address), EngineSettings::Slurm(_)) if address.ip().is_unspecified() => {
            format!("{}:{}", machine_name(), address.port())
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes on other machines are not told an address of their own machine.
    #[test]
    fn join_address_is_that_of_this_machine() {
        let of = |text: &str, engine: &EngineSettings| {
            let endpoint = text.parse().unwrap_or_else(|never| match never {});
            join_address(&endpoint, engine)
        };
        let slurm: GroupSettings = serde_json::from_str(r#"{ "engine": "slurm" }"#).unwrap();
        let slurm = slurm.engine;
        for any in ["0.0.0.0:7502", "[::]:7502"] {
            assert_eq!(of(any, &EngineSettings::Process), "127.0.0.1:7502");
            assert_eq!(of(any, &slurm), format!("{}:7502", machine_name()));
        }
        for given in ["head.example.org:7502", "192.0.2.1:7502"] {
            assert_eq!(of(given, &EngineSettings::Process), given);
            assert_eq!(of(given, &slurm), given);
        }
    }
}
