//! `node`: hosts Works of an App that runs elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::error::{UsageError, wrong_usage};
#[cfg(feature = "tls")]
use super::shared_args::TlsArgs;
use super::shared_args::{PayloadArgs, log_level};
use crate::app::{App, AppError, Config, NodeArguments, known_gpus, resources, run_as_node};
use crate::descriptors;
use crate::duration::{parse_duration, parse_positive_duration, write_duration};
use crate::entry::{ONE_SIGNAL, Signals, catch, exit_code, report, say, unblock};
use crate::machine::machine_name;
use crate::remote::Lifetime;
use crate::trace::export;
use crate::transport::{Advertised, Endpoint};
use crate::work::{Resources, check_labels, check_node_name};

/// The arguments of `node`.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// The address at which the head of the App listens
    #[arg(long, value_name = "HOST:PORT")]
    join: String,

    /// The name by which Works are placed on this node [default: the host name]
    #[arg(long)]
    name: Option<String>,

    /// A label by which Works are placed on this node; may be repeated [default: none]
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,

    /// The number of processor cores that Works may reserve [default: all]
    #[arg(long)]
    cpus: Option<u32>,

    /// The number of GPUs that Works may reserve [default: all]
    #[arg(long)]
    gpus: Option<u32>,

    /// The memory that Works may reserve, in MiB [default: all]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,

    /// The address at which other nodes reach this one [default: any port of the address that reaches the head]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,

    /// The address that other nodes are told, with NAT or forwarded ports [default: the one this node listens at]
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,

    /// The time without a head after which this node ends, such as 90s, 5m or 1h30m [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration)]
    without_head: Option<Duration>,

    /// The time from its start after which this node is ended from outside, such as 4h; Works that run longer are not placed
    /// here [default: unknown]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration)]
    lifetime: Option<Duration>,

    /// The time before the end of its lifetime at which this node begins to leave [default: 5m, or a quarter of the
    /// lifetime if that is less]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    drain_before: Option<Duration>,

    /// A file with the secret that all processes share [default: the secret in FLOWRIGHT_TOKEN, or the one that a head of the
    /// same user and machine has made]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The directory in which the head keeps this process for the case that it is started again; for processes that a head
    /// starts
    #[arg(long, value_name = "DIR", hide = true)]
    kept_in: Option<PathBuf>,

    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    payload: PayloadArgs,

    /// The log level: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value_t = log::LevelFilter::Info, value_parser = log_level)]
    pub(super) log_level: log::LevelFilter,
}

impl NodeArgs {
    /// Returns true for the process of a single Work, which its head on this machine has started.
    pub(super) fn is_process(&self) -> bool {
        matches!(self.join.parse::<Endpoint>(), Ok(Endpoint::Unix(_)))
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, UsageError> {
        let mut labels = BTreeMap::new();
        for text in &self.label {
            let (key, value) = text
                .split_once('=')
                .filter(|(key, value)| !key.is_empty() && !value.is_empty())
                .ok_or_else(|| UsageError::Label(text.clone()))?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(labels)
    }

    fn arguments(&self) -> Result<NodeArguments, UsageError> {
        let endpoint = |text: &String| text.parse::<Endpoint>().unwrap_or_else(|never| match never {});
        let join = endpoint(&self.join);
        if let Some(fault) = join.fault() {
            return Err(UsageError::Join(self.join.clone(), fault));
        }
        let name = self.name.clone().unwrap_or_else(machine_name);
        check_node_name(&name)?;
        let labels = self.labels()?;
        check_labels(&labels)?;
        let there_is = resources();
        let resources = Resources {
            cpus: self.cpus.unwrap_or(there_is.cpus),
            gpus: known_gpus(self.gpus).unwrap_or(0),
            memory: self.memory.map_or(there_is.memory, |mib| mib << 20),
        };
        let listen = self.listen.as_ref().map(endpoint);
        let advertise = match &self.advertise {
            Some(text) => {
                Some(Advertised::parse(text).map_err(|why| UsageError::Advertise(text.clone(), why))?)
            }
            None => None,
        };
        if let (Some(text), None) = (&self.advertise, &listen)
            && advertise.as_ref().is_some_and(Advertised::has_port)
        {
            let why = "it has a port, but this node listens at any port; give --listen with the port it is forwarded to";
            return Err(UsageError::Advertise(text.clone(), why));
        }
        let kept_in = self.kept_in.clone();
        let without_head = self.without_head;
        if let (Some(lifetime), Some(drain_before)) = (self.lifetime, self.drain_before)
            && drain_before >= lifetime
        {
            return Err(UsageError::DrainBefore(write_duration(drain_before), write_duration(lifetime)));
        }
        let lifetime = Lifetime::new(Instant::now(), self.lifetime, self.drain_before);
        Ok(NodeArguments {
            join,
            name,
            labels,
            resources,
            listen,
            advertise,
            kept_in,
            without_head,
            lifetime,
        })
    }
}

impl App {
    pub(super) fn node(self, args: &NodeArgs) -> ExitCode {
        let arguments = match args.arguments() {
            Ok(arguments) => arguments,
            Err(error) => return wrong_usage(&error),
        };
        let config = Config { token_file: args.token_file.clone(), ..args.payload.config() };
        #[cfg(feature = "tls")]
        let config = config.or(args.tls.config());
        let app = self.config(config);
        descriptors::raise_limit();
        let is_process = matches!(arguments.join, Endpoint::Unix(_));
        let (runtime, signals) = match catch() {
            Ok(caught) => caught,
            Err(error) => {
                report(&AppError::Signals(error));
                return ExitCode::FAILURE;
            }
        };
        if is_process {
            unblock();
        }
        let leave = Arc::new(Notify::new());
        let told = leave.clone();
        let watch = move || match is_process {
            true => ignore(&runtime, signals),
            false => watch(&runtime, signals, &told),
        };
        if let Err(error) = std::thread::Builder::new().name("signals".to_owned()).spawn(watch) {
            report(&AppError::Thread(error));
            return ExitCode::FAILURE;
        }
        let exporting = export();
        let code = match run_as_node(&app, arguments, leave) {
            Ok(over) => {
                if !is_process {
                    say(&match over {
                        Some(why) => format!("This node ends: {why}."),
                        None => "This node has left the App.".to_owned(),
                    });
                }
                0
            }
            Err(error) => {
                report(&error);
                i32::from(exit_code(&error))
            }
        };
        exporting.end();
        // Exits at once: a Work that blocks its thread must not keep the process.
        std::process::exit(code)
    }
}

/// Makes the node leave the App at the first signal, and ends the process at the second.
fn watch(runtime: &Runtime, mut signals: Signals, leave: &Notify) {
    runtime.block_on(async {
        signals.next().await;
        leave.notify_one();
        let asked = Instant::now();
        loop {
            signals.next().await;
            // A process and its group may be signalled together, as by `timeout`; that is one signal.
            if asked.elapsed() >= ONE_SIGNAL {
                std::process::exit(0);
            }
        }
    });
}

/// Ignores every signal. The head stops the Work of this process gracefully when it is signalled itself.
fn ignore(runtime: &Runtime, mut signals: Signals) {
    runtime.block_on(async {
        loop {
            let name = signals.next().await;
            log::debug!("{name} ignored: the head stops this Work");
        }
    });
}
