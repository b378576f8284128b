//! The arguments of the program, and those of `run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{FromArgMatches, Parser};

#[cfg(feature = "tls")]
use super::certs::CertsArgs;
#[cfg(feature = "http")]
use super::client::Client;
use super::error::UsageError;
#[cfg(feature = "journal")]
use super::journal::{JournalArgs, JournalCommand};
#[cfg(feature = "remote")]
use super::node::NodeArgs;
use super::own_args::{OwnArgs, Unread};
#[cfg(feature = "tls")]
use super::shared_args::TlsArgs;
use super::shared_args::{PayloadArgs, log_level};
use crate::app::Config;
#[cfg(feature = "remote")]
use crate::fleet::Groups;
use crate::work::{EncodedArguments, Placement};

/// The command line of an App's program.
#[derive(Debug, Parser)]
#[command(about = "A Flowright App: runs until its Flows stop it, it fails, or Ctrl-C", version = None)]
#[command(args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(flatten)]
    args: Args,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the App; the default
    Run(Args),
    #[cfg(feature = "remote")]
    /// Host Works of an App that runs on another machine
    Node(NodeArgs),
    #[cfg(feature = "tls")]
    /// Make a CA and certificates for --tls-cert, --tls-key and --tls-ca
    Certs(CertsArgs),
    #[cfg(feature = "journal")]
    /// Check, repair and read the journal of an App that does not run
    #[command(subcommand)]
    Journal(JournalCommand),
    #[cfg(feature = "http")]
    #[command(flatten)]
    Client(Client),
    /// Write completions of this command line for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
}

/// The parsed command line.
#[derive(Debug)]
pub(super) enum Asked {
    Run(Args),
    #[cfg(feature = "remote")]
    Node(NodeArgs),
    #[cfg(feature = "tls")]
    Certs(CertsArgs),
    #[cfg(feature = "journal")]
    Journal(JournalCommand),
    #[cfg(feature = "http")]
    Client(Client),
    Completions(clap_complete::Shell),
}

/// The arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[cfg(feature = "http")]
    /// Open the App's page in the browser [default: true on a terminal with a display]
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1)]
    #[arg(require_equals = true, action = clap::ArgAction::Set)]
    pub(super) open_ui: Option<bool>,

    #[cfg(feature = "http")]
    /// The address to serve the API and the page on [default: 127.0.0.1]
    #[arg(long)]
    host: Option<String>,

    #[cfg(feature = "http")]
    /// The port of the API and the page, 0 for any free port; if the port is taken, a free one is used [default: 7501]
    #[arg(long)]
    port: Option<u16>,

    #[cfg(feature = "http")]
    /// A file with the token that clients of the API have to send; required beyond the loopback address [default: none]
    #[arg(long, value_name = "FILE")]
    http_token_file: Option<PathBuf>,

    #[cfg(feature = "http")]
    /// Let pages of this origin use the API, such as https://example.org; may be repeated [default: none]
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    #[cfg(feature = "http")]
    /// Accept this name in requests as well, such as the one that a reverse proxy forwards; may be repeated [default: none]
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    /// Write the log to rotated files in this directory, too [default: none]
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,

    #[cfg(feature = "http")]
    /// Run without the API and the page
    #[arg(long)]
    pub(super) without_server: bool,

    /// Set an environment variable for the App; may be repeated [default: none]
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,

    #[cfg(feature = "remote")]
    /// Accept nodes at this address, with port 0 at any free port; beyond the loopback address only with a token or TLS [default: no nodes]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,

    #[cfg(feature = "remote")]
    /// The address at which nodes reach this process, with NAT or forwarded ports [default: the address of --listen]
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,

    #[cfg(feature = "remote")]
    /// A file with the secret that all processes share [default: the secret in FLOWRIGHT_TOKEN, or one that only processes of
    /// the same user and machine find]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    payload: PayloadArgs,

    #[cfg(feature = "drive")]
    /// The directory of the drives [default: .flowright/drives]
    #[arg(long, value_name = "DIR")]
    drive_dir: Option<PathBuf>,

    #[cfg(feature = "journal")]
    #[command(flatten)]
    journal: JournalArgs,

    /// The placement of a Work: thread, pool, process, or a node by name or label; may be repeated [default: that of the code]
    #[arg(long, value_name = "PATH=PLACEMENT")]
    place: Vec<String>,

    #[cfg(feature = "remote")]
    /// Have this engine start a node whenever a Work waits for one: process, slurm or command; a configuration file has
    /// more than one group [default: no fleet]
    #[arg(long, value_name = "ENGINE")]
    fleet: Option<String>,

    #[cfg(feature = "remote")]
    /// A setting of --fleet, such as nodes=0..20, brings.gpus=4 or time=4h; may be repeated [default: those of the engine]
    #[arg(long, value_name = "KEY=VALUE", requires = "fleet")]
    fleet_set: Vec<String>,

    #[cfg(feature = "remote")]
    /// The limit on connections of other processes, as far as the limit on open files permits [default: 1024]
    #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(4..))]
    max_connections: Option<u32>,

    #[cfg(feature = "remote")]
    /// The limit on handshakes in progress, as far as the limit on open files permits [default: 256]
    #[arg(long, value_name = "HANDSHAKES", value_parser = clap::value_parser!(u32).range(4..))]
    max_handshakes: Option<u32>,

    /// The number of GPUs that Works may reserve on this machine [default: all]
    #[arg(long)]
    gpus: Option<u32>,

    /// The log level: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value_t = log::LevelFilter::Info, value_parser = log_level)]
    pub(super) log_level: log::LevelFilter,

    /// Read a configuration file (TOML) [default: none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Asked {
    /// True for commands that run Works, as the App's head or as a node.
    pub(super) fn hosts_works(&self) -> bool {
        match self {
            Self::Run(_) => true,
            #[cfg(feature = "remote")]
            Self::Node(_) => true,
            _ => false,
        }
    }

    /// Parses the command line, and the program's own arguments where the App is to run. On an error it prints the error and
    /// exits with code 2.
    pub(super) fn from_command_line(own: Option<OwnArgs>) -> (Self, Option<EncodedArguments>) {
        parse_from(own, std::env::args_os()).unwrap_or_else(|error| error.exit())
    }
}

fn command_line(own: Option<OwnArgs>) -> clap::Command {
    let command = <CommandLine as clap::CommandFactory>::command();
    match own {
        Some(own) => {
            // Needed by no command but `run`.
            let command = own.add_to(command).subcommand_negates_reqs(true);
            command.mut_subcommand("run", |run| own.add_to(run))
        }
        None => command,
    }
}

fn parse_from(
    own: Option<OwnArgs>,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(Asked, Option<EncodedArguments>), clap::Error> {
    use clap::error::ErrorKind::Format;

    if let Some(own) = own {
        own.check(&command_line(None)).map_err(|why| clap::Error::raw(Format, format!("{why}\n")))?;
    }
    let mut command = command_line(own);
    let matches = command.try_get_matches_from_mut(arguments)?;
    let asked =
        CommandLine::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?.into_asked();
    let (Some(own), Asked::Run(_)) = (own, &asked) else { return Ok((asked, None)) };
    let encoded = own.read(matches.subcommand_matches("run").unwrap_or(&matches));
    let encoded = encoded.map_err(|unread| match unread {
        Unread::Usage(error) => error.format(&mut command),
        Unread::Codec(error) => clap::Error::raw(Format, format!("{error}\n")),
    })?;
    Ok((asked, Some(encoded)))
}

impl Args {
    /// Returns the configuration given by the arguments and the configuration file. The arguments win.
    pub(super) fn config(&self) -> Result<Config, UsageError> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None => Config::default(),
        };
        let mut arguments = Config {
            #[cfg(feature = "http")]
            host: self.host.clone(),
            #[cfg(feature = "http")]
            port: self.port,
            #[cfg(feature = "http")]
            http_token_file: self.http_token_file.clone(),
            #[cfg(feature = "http")]
            allow_origin: self.allow_origin.clone(),
            #[cfg(feature = "http")]
            allow_host: self.allow_host.clone(),
            log_dir: self.log_dir.clone(),
            #[cfg(feature = "remote")]
            listen: self.listen.clone(),
            #[cfg(feature = "remote")]
            advertise: self.advertise.clone(),
            #[cfg(feature = "remote")]
            max_connections: self.max_connections,
            #[cfg(feature = "remote")]
            max_handshakes: self.max_handshakes,
            gpus: self.gpus,
            #[cfg(feature = "remote")]
            token_file: self.token_file.clone(),
            #[cfg(feature = "drive")]
            drive_dir: self.drive_dir.clone(),
            ..self.payload.config()
        };
        #[cfg(feature = "tls")]
        {
            arguments = arguments.or(self.tls.config());
        }
        #[cfg(feature = "journal")]
        {
            arguments = arguments.or(self.journal.config());
        }
        #[cfg(feature = "remote")]
        if let Some(engine) = &self.fleet {
            arguments.fleet = fleet_of(engine, &self.fleet_set)?;
        }
        for place in &self.place {
            let (path, name) = place
                .split_once('=')
                .filter(|(path, _)| !path.is_empty())
                .ok_or_else(|| UsageError::Place(place.clone()))?;
            let placement: Placement =
                name.parse().map_err(|source| UsageError::Placement { path: path.to_owned(), source })?;
            if arguments.place.insert(path.to_owned(), placement).is_some() {
                return Err(UsageError::PlaceTwice(path.to_owned()));
            }
        }
        Ok(arguments.or(file))
    }

    /// Returns the environment variables given by `--env`.
    pub(super) fn environment(&self) -> Result<Vec<(String, String)>, UsageError> {
        let mut variables: Vec<(String, String)> = Vec::new();
        for text in &self.env {
            let (key, value) = text
                .split_once('=')
                .filter(|(key, _)| is_name(key))
                .ok_or_else(|| UsageError::Env(text.clone()))?;
            if variables.iter().any(|(earlier, _)| earlier == key) {
                return Err(UsageError::EnvTwice(key.to_owned()));
            }
            variables.push((key.to_owned(), value.to_owned()));
        }
        Ok(variables)
    }
}

impl CommandLine {
    fn into_asked(self) -> Asked {
        match self.command {
            Some(Command::Run(args)) => Asked::Run(args),
            #[cfg(feature = "remote")]
            Some(Command::Node(args)) => Asked::Node(args),
            #[cfg(feature = "tls")]
            Some(Command::Certs(args)) => Asked::Certs(args),
            #[cfg(feature = "journal")]
            Some(Command::Journal(command)) => Asked::Journal(command),
            #[cfg(feature = "http")]
            Some(Command::Client(command)) => Asked::Client(command),
            Some(Command::Completions { shell }) => Asked::Completions(shell),
            None => Asked::Run(self.args),
        }
    }
}

/// Returns the completions for `shell`, under the name by which the program was called.
pub(super) fn completions(shell: clap_complete::Shell, own: Option<OwnArgs>) -> Vec<u8> {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or(&called).to_string_lossy().into_owned();
    completions_as(shell, &name, own)
}

fn completions_as(shell: clap_complete::Shell, name: &str, own: Option<OwnArgs>) -> Vec<u8> {
    let generated = |name: &str| {
        let mut text = Vec::new();
        let mut command = command_line(own);
        clap_complete::generate(shell, &mut command, name, &mut text);
        text
    };
    if shell != clap_complete::Shell::Bash || name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return generated(name);
    }
    // The generator derives identifiers from the name in two ways, which differ when the name has a hyphen. The script
    // is therefore generated for a plain name, and registered for the program's own.
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = format!("app{plain}");
    let text = String::from_utf8_lossy(&generated(&plain)).into_owned();
    let quoted = format!("'{}'", name.replace('\'', "'\\''"));
    let lines =
        text.split_inclusive('\n').map(|line| match line.trim_end().strip_suffix(&format!(" {plain}")) {
            Some(rest) if rest.trim_start().starts_with("complete -F") => format!("{rest} {quoted}\n"),
            _ => line.to_owned(),
        });
    lines.collect::<String>().into_bytes()
}

/// Returns the group that `--fleet` and `--fleet-set` describe, which has the name of its engine.
#[cfg(feature = "remote")]
fn fleet_of(engine: &str, settings: &[String]) -> Result<Groups, UsageError> {
    let mut text = format!("[{0}]\nengine = {0}\n", serde_json::Value::from(engine));
    for setting in settings {
        let is_key = |key: &str| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte))
        };
        let (key, value) = setting
            .split_once('=')
            .filter(|(key, _)| is_key(key))
            .ok_or_else(|| UsageError::FleetSetting(setting.clone()))?;
        let is_toml = !value.contains('\n') && format!("x = {value}").parse::<toml::Table>().is_ok();
        let value = if is_toml { value.to_owned() } else { serde_json::Value::from(value).to_string() };
        text.push_str(&format!("{key} = {value}\n"));
    }
    toml::from_str(&text)
        .map_err(|source| UsageError::Fleet { engine: engine.to_owned(), source: Box::new(source) })
}

fn is_name(key: &str) -> bool {
    let mut bytes = key.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn read(path: &Path) -> Result<Config, UsageError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| UsageError::ConfigFile { path: name.clone(), source })?;
    toml::from_str(&text).map_err(|source| UsageError::Config { path: name, source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printable::chain;

    /// The help of each option that takes a value and may be left out states the default.
    #[test]
    fn help_states_the_default_of_each_option() {
        let mut commands = vec![<CommandLine as clap::CommandFactory>::command()];
        let mut seen = 0;
        while let Some(command) = commands.pop() {
            for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let is_stated = help.contains("[default: ") || !arg.get_default_values().is_empty();
                let name = arg.get_id();
                assert!(arg.is_required_set() || arg.is_hide_set() || is_stated, "{name}: {help}");
                seen += 1;
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn running_is_what_it_does_unless_told_otherwise() {
        assert_eq!(args(&["run", "--open-ui"]).open_ui, Some(true));
        assert_eq!(args(&["--open-ui=false"]).open_ui, Some(false));
        assert_eq!(args(&[]).open_ui, None);
    }

    /// Bash itself completes the commands and flags of a program, whatever its name.
    #[test]
    fn bash_completes_programs_of_any_name() {
        for name in ["app", "my-app", "my_app.v2"] {
            let script = String::from_utf8(completions_as(clap_complete::Shell::Bash, name, None)).unwrap();
            let test = format!(
                "{script}\n\
                 complete -p '{name}' || exit 1\n\
                 name=$(complete -p '{name}' | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
                 COMP_WORDS=('{name}' statu); COMP_CWORD=1; $name '{name}' statu '{name}'; echo \"${{COMPREPLY[*]}}\"\n\
                 COMP_WORDS=('{name}' status --wat); COMP_CWORD=2; $name '{name}' --wat status; echo \"${{COMPREPLY[*]}}\"\n"
            );
            let output = std::process::Command::new("bash").arg("-c").arg(test).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let said: Vec<_> = said.lines().collect();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(said[1..], ["status", "--watch"], "{name}: {said:?}");
        }
    }

    #[test]
    fn an_unknown_level_is_told_with_those_there_are() {
        let error = CommandLine::try_parse_from(["app", "--log-level", "loud"]).unwrap_err().to_string();
        assert!(error.contains("loud") && error.contains("off, error, warn"), "{error}");
    }

    /// Own arguments are parsed with those of Flowright, for `run` only, and shown by its help.
    #[test]
    fn own_arguments_are_parsed_with_ours() {
        #[derive(clap::Args, serde::Serialize, serde::Deserialize, Debug, PartialEq)]
        /// Not the purpose of the command.
        struct Own {
            /// The learning rate
            #[arg(long)]
            rate: f64,
            #[arg(long, short)]
            verbose: bool,
            files: Vec<String>,
        }

        let own = OwnArgs::of::<Own>();
        command_line(Some(own)).debug_assert();
        let parsed = |arguments: &[&str]| parse_from(Some(own), arguments.iter().map(OsString::from));
        let read = |arguments: &[&str]| {
            let (asked, encoded) = parsed(arguments).unwrap();
            let found = crate::work::Arguments::default();
            found.set(encoded.unwrap());
            (asked, found.read::<Own>().unwrap())
        };
        let whole = Own { rate: 0.5, verbose: true, files: vec!["a".to_owned(), "b".to_owned()] };
        let (asked, own_args) = read(&["app", "--rate", "0.5", "--log-level=debug", "-v", "a", "b"]);
        assert_eq!(own_args, whole);
        assert!(matches!(asked, Asked::Run(args) if args.log_level == log::LevelFilter::Debug));
        assert_eq!(read(&["app", "run", "-v", "a", "--rate=0.5", "b"]).1, whole);
        assert!(matches!(parsed(&["app", "completions", "bash"]), Ok((Asked::Completions(_), None))));
        let missing = parsed(&["app"]).unwrap_err().to_string();
        assert!(missing.contains("--rate"), "{missing}");
        for help in [&["app", "--help"][..], &["app", "run", "--help"]] {
            let help = parsed(help).unwrap_err().to_string();
            assert!(help.contains("Options of this App:") && help.contains("The learning rate"), "{help}");
            assert!(!help.contains("Not the purpose") && help.contains("--log-level"), "{help}");
        }
    }

    /// An own argument with the name of one of Flowright's is refused by name.
    #[test]
    fn own_argument_with_a_name_of_ours_is_refused() {
        #[derive(clap::Args, serde::Serialize, serde::Deserialize)]
        struct Own {
            #[arg(long = "log-level")]
            level: u32,
        }

        let error = parse_from(Some(OwnArgs::of::<Own>()), ["app".into()]).unwrap_err().to_string();
        assert!(error.contains("`level`") && error.contains("rename it"), "{error}");
    }

    fn args(arguments: &[&str]) -> Args {
        match CommandLine::try_parse_from([&["app"], arguments].concat()).unwrap().into_asked() {
            Asked::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn malformed_and_duplicate_variables_are_refused_by_name() {
        for bad in ["KEY", "=value", "1KEY=value", "A B=value", ""] {
            let error = args(&["--env", bad]).environment().unwrap_err().to_string();
            assert!(error.contains("KEY=VALUE") && error.contains(bad), "{error}");
        }
        let error = args(&["--env", "A=1", "--env", "A=2"]).environment().unwrap_err().to_string();
        assert!(error.contains("--env A is given twice"), "{error}");
        let good = args(&["--env", "A=1=2", "--env", "_b="]).environment().unwrap();
        assert_eq!(good, [("A".to_owned(), "1=2".to_owned()), ("_b".to_owned(), String::new())]);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = std::env::temp_dir().join(format!("flowright-args-{}.toml", std::process::id()));
        std::fs::write(&file, "port = 1\nhost = \"::1\"\n[place]\na = \"pool\"\nb = \"pool\"\n").unwrap();
        let config =
            args(&["--config", file.to_str().unwrap(), "--port", "2", "--place", "b=thread"]).config();
        std::fs::remove_file(&file).unwrap();
        let config = config.unwrap();
        assert_eq!((config.port, config.host.as_deref()), (Some(2), Some("::1")));
        assert_eq!(config.place["a"], Placement::Pool);
        assert_eq!(config.place["b"], Placement::Thread);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        let file = std::env::temp_dir().join(format!("flowright-bad-{}.toml", std::process::id()));
        std::fs::write(&file, "prot = 1\n").unwrap();
        let error = chain(&args(&["--config", file.to_str().unwrap()]).config().unwrap_err());
        std::fs::remove_file(&file).unwrap();
        assert!(error.contains("prot") && error.contains("line 1"), "{error}");
        let error = args(&["--config", "/nowhere.toml"]).config().unwrap_err().to_string();
        assert!(error.contains("/nowhere.toml"), "{error}");
    }

    #[test]
    fn an_unknown_placement_is_told_with_those_there_are() {
        let error = chain(&args(&["--place", "train=mo on"]).config().unwrap_err());
        assert!(error.contains("train") && error.contains("`mo on`") && error.contains("pool"), "{error}");
        assert!(args(&["--place", "train"]).config().is_err());
    }
}
