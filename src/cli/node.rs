//! `node`: this machine hosts Works of an App that runs elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::sync::Notify;

#[cfg(feature = "tls")]
use super::args::TlsArgs;
use super::args::{PayloadArgs, UsageError, log_level};
use super::run::{report, say};
use super::signals::{ONE_SIGNAL, Signals, catch, unblock};
use crate::app::{App, AppError, Config, NodeArguments, known_gpus, resources, run_as_node};
use crate::descriptors;
use crate::machine::machine_name;
use crate::trace::export;
use crate::transport::{Advertised, Endpoint};
use crate::work::{Resources, check_labels, check_node_name};

/// How this machine takes part.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// Where the head of the App listens
    #[arg(long, value_name = "HOST:PORT")]
    join: String,

    /// The name by which Works are placed here [default: the machine's]
    #[arg(long)]
    name: Option<String>,

    /// A label by which Works are placed here; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,

    /// How many processor cores Works may need here [default: what there is]
    #[arg(long)]
    cpus: Option<u32>,

    /// How many graphics processors [default: what there is]
    #[arg(long)]
    gpus: Option<u32>,

    /// How much memory, in MiB [default: what there is]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,

    /// Where other nodes reach this one [default: any port of the address that reaches the head]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,

    /// The address that other nodes are told, where that is another one than it listens at (NAT, forwarded ports)
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,

    /// A file with the secret that all processes share [env: FLOWRIGHT_TOKEN has it otherwise]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    payload: PayloadArgs,

    /// How much to log: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value_t = log::LevelFilter::Info, value_parser = log_level)]
    pub(super) log_level: log::LevelFilter,
}

impl NodeArgs {
    /// Whether it is started by a head on this machine, for a single Work.
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
            let why = "it has a port, and this node listens at any: give --listen with the port to which that one leads";
            return Err(UsageError::Advertise(text.clone(), why));
        }
        Ok(NodeArguments { join, name, labels, resources, listen, advertise })
    }
}

impl App {
    pub(super) fn node(self, args: &NodeArgs) -> ExitCode {
        let arguments = match args.arguments() {
            Ok(arguments) => arguments,
            Err(error) => return super::run::wrong_usage(&error),
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
                        Some(why) => format!("This node is done: {why}."),
                        None => "This node has left the App.".to_owned(),
                    });
                }
                0
            }
            Err(error) => {
                report(&error);
                i32::from(super::run::exit_code(&error))
            }
        };
        exporting.end();
        // A Work that blocks its thread must not keep the process.
        std::process::exit(code)
    }
}

/// Has the node leave at the first signal, and ends it at the second.
fn watch(runtime: &Runtime, mut signals: Signals, leave: &Notify) {
    runtime.block_on(async {
        signals.next().await;
        leave.notify_one();
        let asked = Instant::now();
        loop {
            signals.next().await;
            // Whoever signals a process and its group, as `timeout` does, means one signal.
            if asked.elapsed() >= ONE_SIGNAL {
                std::process::exit(0);
            }
        }
    });
}

/// Leaves every signal to the head, which stops the Work of this process in good order when it is signalled itself.
fn ignore(runtime: &Runtime, mut signals: Signals) {
    runtime.block_on(async {
        loop {
            let name = signals.next().await;
            log::debug!("{name} is left to the head");
        }
    });
}
