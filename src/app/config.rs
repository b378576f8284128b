//! The configuration of an App.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

#[cfg(feature = "remote")]
use super::error::AppError;
#[cfg(feature = "remote")]
use crate::fleet::Groups;
#[cfg(feature = "journal")]
use crate::journal::{JournalSettings, Recorded, Sync};
use crate::payload::StoreSettings;
#[cfg(feature = "remote")]
use crate::remote::SessionSettings;
#[cfg(feature = "remote")]
use crate::transport::{Advertised, Security, TOKEN_VARIABLE, Token, TransportError};
#[cfg(feature = "tls")]
use crate::transport::{Tls, TlsFiles};
use crate::work::{DEFAULT_MAX_STATE_BYTES, Placement};

/// The configuration of an App. The command line takes precedence over a configuration file, and the file over the
/// code.
///
/// Code sets with methods of [`App`](crate::App) what concerns the App: [`grace`](crate::App::grace),
/// [`listen`](crate::App::listen), [`max_state_bytes`](crate::App::max_state_bytes), [`place`](crate::App::place),
/// [`pool_threads`](crate::App::pool_threads) and [`serve`](crate::App::serve). What concerns the machine that it runs on
/// is set here:
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::Config;
/// # #[derive(Default, Serialize, Children)]
/// # struct Hello;
/// # impl Flow for Hello {
/// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
/// # }
/// let config = Config::new().payload_memory_mib(4096).payload_dir("/var/tmp");
/// let app = App::new(Hello::default).config(config);
/// ```
///
/// A configuration file is TOML, with all keys optional:
///
/// ```toml
/// host = "127.0.0.1"
/// port = 7501
/// http_token_file = "http-token"
/// allow_origin = ["https://example.org"]
/// allow_host = ["app.example.org"]
/// log_dir = "logs"
/// max_state_bytes = 1048576
/// pool_threads = 2
/// gpus = 4
/// grace_seconds = 10
/// listen = "127.0.0.1:7502"
/// advertise = "head.example.org:7502"
/// token_file = "token"
/// tls_cert = "certs/head.pem"
/// tls_key = "certs/head-key.pem"
/// tls_ca = "certs/ca.pem"
/// heartbeat_ms = 1000
/// node_grace_ms = 10000
/// max_connections = 1024
/// max_handshakes = 256
/// handshake_ms = 5000
/// payload_memory_mib = 4096
/// payload_disk_mib = 100000
/// payload_dir = "/var/tmp"
/// drive_dir = "/srv/drives"
/// journal = "journal"
/// journal_sync = "disk"
/// journal_history_days = 7
/// journal_history_mib = 1024
/// on_mismatch = "refuse"
/// journal_payloads = "small"
///
/// [place]
/// "workers.3" = "pool"
///
/// [fleet.local]
/// engine = "process"
/// brings = { cpus = 2, memory_mib = 4096 }
/// nodes = "0..4"
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "a configuration does nothing until `App::config` gets it"]
pub struct Config {
    /// The address that the HTTP server listens on; 127.0.0.1 by default.
    #[cfg(feature = "http")]
    pub(crate) host: Option<String>,
    /// The port of the HTTP server; 7501 by default.
    #[cfg(feature = "http")]
    pub(crate) port: Option<u16>,
    #[cfg(feature = "http")]
    pub(crate) http_token_file: Option<PathBuf>,
    #[cfg(feature = "http")]
    #[serde(default)]
    pub(crate) allow_origin: Vec<String>,
    #[cfg(feature = "http")]
    #[serde(default)]
    pub(crate) allow_host: Vec<String>,
    #[cfg(feature = "cli")]
    pub(crate) log_dir: Option<PathBuf>,
    pub(crate) max_state_bytes: Option<usize>,
    pub(crate) pool_threads: Option<usize>,
    pub(crate) gpus: Option<u32>,
    /// In a file a number of seconds that may have a fraction.
    #[serde(rename = "grace_seconds", default, deserialize_with = "seconds")]
    pub(crate) grace: Option<Duration>,
    #[cfg(feature = "remote")]
    pub(crate) listen: Option<String>,
    #[cfg(feature = "remote")]
    pub(crate) advertise: Option<String>,
    #[cfg(feature = "remote")]
    pub(crate) token_file: Option<PathBuf>,
    #[cfg(feature = "tls")]
    pub(crate) tls_cert: Option<PathBuf>,
    #[cfg(feature = "tls")]
    pub(crate) tls_key: Option<PathBuf>,
    #[cfg(feature = "tls")]
    pub(crate) tls_ca: Option<PathBuf>,
    #[cfg(feature = "remote")]
    #[serde(rename = "heartbeat_ms", default, deserialize_with = "milliseconds")]
    pub(crate) heartbeat: Option<Duration>,
    #[cfg(feature = "remote")]
    #[serde(rename = "node_grace_ms", default, deserialize_with = "milliseconds")]
    pub(crate) node_grace: Option<Duration>,
    #[cfg(feature = "remote")]
    pub(crate) max_connections: Option<u32>,
    #[cfg(feature = "remote")]
    pub(crate) max_handshakes: Option<u32>,
    #[cfg(feature = "remote")]
    #[serde(rename = "handshake_ms", default, deserialize_with = "milliseconds")]
    pub(crate) handshake: Option<Duration>,
    pub(crate) payload_memory_mib: Option<u64>,
    pub(crate) payload_disk_mib: Option<u64>,
    pub(crate) payload_dir: Option<PathBuf>,
    #[cfg(feature = "drive")]
    pub(crate) drive_dir: Option<PathBuf>,
    #[cfg(feature = "journal")]
    pub(crate) journal: Option<PathBuf>,
    #[cfg(feature = "journal")]
    pub(crate) journal_sync: Option<JournalSync>,
    #[cfg(feature = "journal")]
    pub(crate) journal_history_days: Option<u32>,
    #[cfg(feature = "journal")]
    pub(crate) journal_history_mib: Option<u64>,
    #[cfg(feature = "journal")]
    pub(crate) on_mismatch: Option<OnMismatch>,
    #[cfg(feature = "journal")]
    pub(crate) journal_payloads: Option<JournalPayloads>,
    /// The placements of Works by path. A path also applies to all Works below it.
    #[serde(default)]
    pub(crate) place: BTreeMap<String, Placement>,
    /// The groups of nodes that engines start.
    #[cfg(feature = "remote")]
    #[serde(default)]
    pub(crate) fleet: Groups,
}

impl Config {
    /// Creates a configuration that sets nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the file with the token that HTTP clients have to send. A server beyond the loopback address needs one; there
    /// is none by default. Only the owner may read the file.
    #[cfg(feature = "http")]
    pub fn http_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.http_token_file = Some(path.into());
        self
    }

    /// Allows the pages of this origin, such as `https://example.org`, to use the API; no origin but that of the API
    /// itself is allowed by default. Each call allows one more.
    #[cfg(feature = "http")]
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.allow_origin.push(origin.into());
        self
    }

    /// Allows requests to a server on the loopback address to use this name, such as the one that a reverse proxy
    /// forwards; by default only the names of that address are allowed. Each call allows one more.
    #[cfg(feature = "http")]
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.allow_host.push(host.into());
        self
    }

    /// Sets the directory for log files of [`App::main`](crate::App::main); there are none by default.
    #[cfg(feature = "cli")]
    pub fn log_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.log_dir = Some(path.into());
        self
    }

    /// Sets the number of GPUs that Works on the head's machine may reserve; all that are found by default.
    pub fn gpus(mut self, gpus: u32) -> Self {
        self.gpus = Some(gpus);
        self
    }

    /// Sets the address at which nodes reach the head, where it is not the one at which the head listens, as with address
    /// translation or forwarded ports. Without a port it gets the port at which the head listens.
    #[cfg(feature = "remote")]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Sets the file with the secret that all processes share; the variable `FLOWRIGHT_TOKEN` may hold the secret instead.
    /// Without either, and without certificates, a head on a loopback address makes a secret that nodes of the same
    /// user on its machine find.
    #[cfg(feature = "remote")]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Sets the PEM files by which this process authenticates itself over TLS, which encrypts all connections to other
    /// machines; there are none by default.
    ///
    /// - `cert` is its certificate, for the DNS name `flowright`. Works with processes of their own use that of the head.
    /// - `key` is the private key of `cert`, which only its owner may read.
    /// - `ca` is the certificate of the CA that has signed the certificates of all processes. Every owner of a certificate
    ///   of this CA can take part, so use it for this App only.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>, ca: impl Into<PathBuf>) -> Self {
        (self.tls_cert, self.tls_key, self.tls_ca) = (Some(cert.into()), Some(key.into()), Some(ca.into()));
        self
    }

    /// Sets the heartbeat interval between processes; 1 second by default, and at least a millisecond. A connection is
    /// given up and made again after three silent intervals.
    #[cfg(feature = "remote")]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// Sets the grace period of an unreachable node, after which its Works are given up; 10 seconds by default, and at
    /// least the heartbeat interval.
    #[cfg(feature = "remote")]
    pub fn node_grace(mut self, grace: Duration) -> Self {
        self.node_grace = Some(grace);
        self
    }

    /// Sets the limit on connections of other processes to this one; 1,024 by default, and at least 4. A limit on open files
    /// may permit fewer: a quarter of them is for connections.
    #[cfg(feature = "remote")]
    pub fn max_connections(mut self, most: u32) -> Self {
        self.max_connections = Some(most);
        self
    }

    /// Sets the limit on handshakes in progress, beyond which the oldest one is given up; 256 by default, and at least 4. A
    /// limit on open files may permit fewer: a twelfth of them is for handshakes.
    #[cfg(feature = "remote")]
    pub fn max_handshakes(mut self, most: u32) -> Self {
        self.max_handshakes = Some(most);
        self
    }

    /// Sets the time limit for a handshake; 5 seconds by default.
    #[cfg(feature = "remote")]
    pub fn handshake(mut self, time: Duration) -> Self {
        self.handshake = Some(time);
        self
    }

    /// Sets the memory budget for payload values in each process, in MiB; a quarter of the machine's memory by default.
    /// Each App in a process has a budget of its own.
    pub fn payload_memory_mib(mut self, mib: u64) -> Self {
        self.payload_memory_mib = Some(mib);
        self
    }

    /// Sets the disk budget for payload values that do not fit into memory, in MiB; unlimited by default.
    pub fn payload_disk_mib(mut self, mib: u64) -> Self {
        self.payload_disk_mib = Some(mib);
        self
    }

    /// Sets the directory for payload values on disk; the directory for temporary files by default.
    pub fn payload_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.payload_dir = Some(path.into());
        self
    }

    /// Sets the directory of the drives on the head; by default `.flowright/drives` below its working directory.
    #[cfg(feature = "drive")]
    pub fn drive_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.drive_dir = Some(path.into());
        self
    }

    /// Sets the directory of the journal, which is made if there is none; there is no journal by default. An App with a
    /// journal survives the death of its process: started again with the same directory, it goes on where it was.
    #[cfg(feature = "journal")]
    pub fn journal(mut self, path: impl Into<PathBuf>) -> Self {
        self.journal = Some(path.into());
        self
    }

    /// Sets what the journal survives; [`JournalSync::Disk`] by default.
    #[cfg(feature = "journal")]
    pub fn journal_sync(mut self, sync: JournalSync) -> Self {
        self.journal_sync = Some(sync);
        self
    }

    /// Sets how much history the journal keeps, in days and in MiB, whichever is less; 7 days and 1024 MiB by default. With 0
    /// for either it keeps none. What an App needs to go on is no history and is always kept.
    #[cfg(feature = "journal")]
    pub fn journal_history(mut self, days: u32, mib: u64) -> Self {
        (self.journal_history_days, self.journal_history_mib) = (Some(days), Some(mib));
        self
    }

    /// Sets what is done with a record in the journal that the program cannot read, because it has changed;
    /// [`OnMismatch::Refuse`] by default.
    #[cfg(feature = "journal")]
    pub fn on_mismatch(mut self, on_mismatch: OnMismatch) -> Self {
        self.on_mismatch = Some(on_mismatch);
        self
    }

    /// Sets which values of payloads the journal keeps; [`JournalPayloads::Small`] by default.
    #[cfg(feature = "journal")]
    pub fn journal_payloads(mut self, payloads: JournalPayloads) -> Self {
        self.journal_payloads = Some(payloads);
        self
    }

    /// Takes the settings that this configuration lacks from `other`.
    pub fn or(mut self, other: Self) -> Self {
        let mut place = other.place;
        place.append(&mut self.place);
        Self {
            #[cfg(feature = "http")]
            host: self.host.or(other.host),
            #[cfg(feature = "http")]
            port: self.port.or(other.port),
            #[cfg(feature = "http")]
            http_token_file: self.http_token_file.or(other.http_token_file),
            #[cfg(feature = "http")]
            allow_origin: if self.allow_origin.is_empty() { other.allow_origin } else { self.allow_origin },
            #[cfg(feature = "http")]
            allow_host: if self.allow_host.is_empty() { other.allow_host } else { self.allow_host },
            #[cfg(feature = "cli")]
            log_dir: self.log_dir.or(other.log_dir),
            max_state_bytes: self.max_state_bytes.or(other.max_state_bytes),
            pool_threads: self.pool_threads.or(other.pool_threads),
            gpus: self.gpus.or(other.gpus),
            grace: self.grace.or(other.grace),
            #[cfg(feature = "remote")]
            listen: self.listen.or(other.listen),
            #[cfg(feature = "remote")]
            advertise: self.advertise.or(other.advertise),
            #[cfg(feature = "remote")]
            token_file: self.token_file.or(other.token_file),
            #[cfg(feature = "tls")]
            tls_cert: self.tls_cert.or(other.tls_cert),
            #[cfg(feature = "tls")]
            tls_key: self.tls_key.or(other.tls_key),
            #[cfg(feature = "tls")]
            tls_ca: self.tls_ca.or(other.tls_ca),
            #[cfg(feature = "remote")]
            heartbeat: self.heartbeat.or(other.heartbeat),
            #[cfg(feature = "remote")]
            node_grace: self.node_grace.or(other.node_grace),
            #[cfg(feature = "remote")]
            max_connections: self.max_connections.or(other.max_connections),
            #[cfg(feature = "remote")]
            max_handshakes: self.max_handshakes.or(other.max_handshakes),
            #[cfg(feature = "remote")]
            handshake: self.handshake.or(other.handshake),
            payload_memory_mib: self.payload_memory_mib.or(other.payload_memory_mib),
            payload_disk_mib: self.payload_disk_mib.or(other.payload_disk_mib),
            payload_dir: self.payload_dir.or(other.payload_dir),
            #[cfg(feature = "drive")]
            drive_dir: self.drive_dir.or(other.drive_dir),
            #[cfg(feature = "journal")]
            journal: self.journal.or(other.journal),
            #[cfg(feature = "journal")]
            journal_sync: self.journal_sync.or(other.journal_sync),
            #[cfg(feature = "journal")]
            journal_history_days: self.journal_history_days.or(other.journal_history_days),
            #[cfg(feature = "journal")]
            journal_history_mib: self.journal_history_mib.or(other.journal_history_mib),
            #[cfg(feature = "journal")]
            on_mismatch: self.on_mismatch.or(other.on_mismatch),
            #[cfg(feature = "journal")]
            journal_payloads: self.journal_payloads.or(other.journal_payloads),
            place,
            #[cfg(feature = "remote")]
            fleet: if self.fleet.0.is_empty() { other.fleet } else { self.fleet },
        }
    }

    /// Returns the arguments that configure the processes of Works on this machine, without the token. They include the
    /// certificates, since other nodes pull payloads from these processes as they do from the head.
    #[cfg(feature = "remote")]
    pub(super) fn for_processes(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let number = |number: &Option<u64>| number.as_ref().map(u64::to_string);
        let all = [
            #[cfg(feature = "tls")]
            ("--tls-cert", path(&self.tls_cert)),
            #[cfg(feature = "tls")]
            ("--tls-key", path(&self.tls_key)),
            #[cfg(feature = "tls")]
            ("--tls-ca", path(&self.tls_ca)),
            ("--payload-memory", number(&self.payload_memory_mib)),
            ("--payload-disk", number(&self.payload_disk_mib)),
            ("--payload-dir", path(&self.payload_dir)),
        ];
        let given = all.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
        given.flatten().collect()
    }

    /// Returns the budgets for payload values.
    pub(super) fn store_settings(&self) -> StoreSettings {
        StoreSettings {
            memory: self.payload_memory_mib.map(|mib| mib.saturating_mul(1 << 20)),
            disk: self.payload_disk_mib.map(|mib| mib.saturating_mul(1 << 20)),
            directory: self.payload_dir.clone(),
        }
    }

    /// Returns the directory of the drives as an absolute path.
    #[cfg(feature = "drive")]
    pub(super) fn drives(&self) -> PathBuf {
        let directory = self.drive_dir.clone().unwrap_or_else(|| PathBuf::from(".flowright/drives"));
        // A later change of the working directory must not move the drives.
        std::path::absolute(&directory).unwrap_or(directory)
    }

    /// Returns the settings of the journal.
    #[cfg(feature = "journal")]
    pub(super) fn journal_settings(&self) -> JournalSettings {
        let default = JournalSettings::default();
        let day = Duration::from_secs(24 * 60 * 60);
        JournalSettings {
            sync: match self.journal_sync.unwrap_or_default() {
                JournalSync::Process => Sync::Process,
                JournalSync::Disk => Sync::Disk,
            },
            history_age: self
                .journal_history_days
                .map_or(default.history_age, |days| day.saturating_mul(days)),
            history_bytes: self
                .journal_history_mib
                .map_or(default.history_bytes, |mib| mib.saturating_mul(1 << 20)),
            payloads: match self.journal_payloads.unwrap_or_default() {
                JournalPayloads::Small => Recorded::Small,
                JournalPayloads::All => Recorded::All,
            },
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn host_or_default(&self) -> &str {
        self.host.as_deref().unwrap_or("127.0.0.1")
    }

    #[cfg(feature = "http")]
    pub(crate) fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(7501)
    }

    pub(super) fn state_limit(&self) -> usize {
        self.max_state_bytes.unwrap_or(DEFAULT_MAX_STATE_BYTES)
    }

    pub(super) fn pool_size(&self) -> usize {
        self.pool_threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |threads| threads.get()))
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace.unwrap_or(Duration::from_secs(10))
    }

    /// Returns the address that nodes are told.
    #[cfg(feature = "remote")]
    pub(super) fn advertised(&self) -> Result<Option<Advertised>, AppError> {
        let Some(text) = &self.advertise else { return Ok(None) };
        let parsed = Advertised::parse(text).map(Some);
        parsed.map_err(|why| AppError::Advertise { address: text.clone(), why })
    }

    /// Returns the credentials by which processes authenticate each other.
    ///
    /// # Errors
    /// When the token or the TLS files cannot be read, or only some of the TLS files are given.
    #[cfg(feature = "remote")]
    pub(super) fn security(&self) -> Result<Security, TransportError> {
        let token = match (&self.token_file, std::env::var(TOKEN_VARIABLE)) {
            (Some(file), _) => Some(Token::read(file)?),
            (None, Ok(text)) => Some(Token::new(&text)?),
            (None, Err(_)) => None,
        };
        #[cfg(feature = "tls")]
        let tls = match self.tls_files()? {
            Some(files) => Some(Tls::read(&files)?),
            None => None,
        };
        #[cfg(not(feature = "tls"))]
        let tls = None;
        Ok(Security::new(token, tls))
    }

    #[cfg(feature = "tls")]
    fn tls_files(&self) -> Result<Option<TlsFiles>, TransportError> {
        let all = [("cert", &self.tls_cert), ("key", &self.tls_key), ("ca", &self.tls_ca)];
        if let [(_, Some(cert)), (_, Some(key)), (_, Some(ca))] = all {
            return Ok(Some(TlsFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone() }));
        }
        let named = |given: bool| {
            let names = all.iter().filter(|(_, file)| file.is_some() == given);
            names.map(|(name, _)| format!("--tls-{name}")).collect::<Vec<_>>().join(" and ")
        };
        match named(true) {
            none if none.is_empty() => Ok(None),
            given => Err(TransportError::TlsIncomplete { given, missing: named(false) }),
        }
    }

    #[cfg(feature = "remote")]
    pub(super) fn session_settings(&self) -> SessionSettings {
        let default = SessionSettings::default();
        let heartbeat = self.heartbeat.unwrap_or(default.heartbeat).max(Duration::from_millis(1));
        // A connection that is silent for three heartbeats needs time to reconnect.
        let grace = self.node_grace.unwrap_or(default.grace).max(heartbeat);
        SessionSettings { heartbeat, grace, ..default }
    }

    /// Returns how long the nodes of a head that was started again have to return; `None` if it takes in no nodes.
    #[cfg(feature = "journal")]
    pub(super) fn time_to_return(&self) -> Option<Duration> {
        #[cfg(feature = "remote")]
        return self.listen.is_some().then(|| self.session_settings().grace);
        #[cfg(not(feature = "remote"))]
        None
    }

    /// Returns how long the head waits for the end of processes that do not return to it. It sees to their end before.
    #[cfg(feature = "journal")]
    pub(super) fn time_for_processes(&self) -> Duration {
        self.time_for_others().saturating_mul(2).saturating_add(Duration::from_secs(60))
    }

    /// Returns how long other processes have to return to a head that was started again.
    #[cfg(feature = "journal")]
    pub(super) fn time_for_others(&self) -> Duration {
        #[cfg(feature = "remote")]
        return self.session_settings().grace;
        #[cfg(not(feature = "remote"))]
        Duration::ZERO
    }

    /// Returns the placement configured for the Work at `path`: its own, or that of the longest path above it.
    pub(super) fn placement_of(&self, path: &str) -> Option<Placement> {
        let mut prefix = path;
        loop {
            if let Some(placement) = self.place.get(prefix) {
                return Some(*placement);
            }
            prefix = prefix.rsplit_once('.')?.0;
        }
    }
}

/// Durability of the commits of a journal.
#[cfg(feature = "journal")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JournalSync {
    /// The end of the process in any way, as by `kill -9`. Each transaction is written, and the system syncs it later.
    Process,
    /// The end of the process and a loss of power. Each group of transactions is synced before it counts. The default.
    #[default]
    Disk,
}

/// Handling of a part of the record in a journal that the program cannot read.
#[cfg(feature = "journal")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OnMismatch {
    /// The start is refused, and nothing is changed. The default.
    #[default]
    Refuse,
    /// The Work begins anew, or the Flow with the own fields that its constructor gives. Its record is kept in the journal at
    /// a path of its own, such as `train~4711`.
    Park,
    /// As [`Park`](Self::Park), and the record is dropped. It stays in the history for as long as that is kept.
    Fresh,
}

/// The values of payloads that a journal keeps, so that they survive the end of every process.
#[cfg(feature = "journal")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JournalPayloads {
    /// Values of up to 64 KiB, and those that were made with [`Payload::durable`](crate::Payload::durable). The default.
    #[default]
    Small,
    /// All values to which a state, an input or a step refers. Each is written to the disk of the head once.
    All,
}

/// Reads a number of seconds, which may have a fraction.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(feature = "remote")]
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_places_what_is_below_it_and_the_nearest_counts() {
        let config = Config {
            place: [("team".to_owned(), Placement::Pool), ("team.lead".to_owned(), Placement::Thread)].into(),
            ..Config::default()
        };
        assert_eq!(config.placement_of("team.worker.3"), Some(Placement::Pool));
        assert_eq!(config.placement_of("team.lead"), Some(Placement::Thread));
        assert_eq!(config.placement_of("teams"), None);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_needs_all_its_files_and_says_which_are_missing() {
        let with = |cert: bool, key: bool, ca: bool| {
            let file = |given: bool| given.then(|| PathBuf::from("file.pem"));
            Config { tls_cert: file(cert), tls_key: file(key), tls_ca: file(ca), ..Config::default() }
                .tls_files()
        };
        assert!(matches!(with(false, false, false), Ok(None)));
        assert!(matches!(with(true, true, true), Ok(Some(_))));
        for (given, missing) in [
            ((true, false, false), "--tls-cert needs --tls-key and --tls-ca"),
            ((false, true, true), "--tls-key and --tls-ca need --tls-cert"),
        ] {
            let error = with(given.0, given.1, given.2).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[cfg(feature = "http")]
    #[test]
    fn the_first_configuration_wins() {
        let first = Config { port: Some(1), ..Config::default() };
        let second = Config { port: Some(2), grace: Some(Duration::from_secs(3)), ..Config::default() };
        let both = first.or(second);
        assert_eq!((both.port, both.grace), (Some(1), Some(Duration::from_secs(3))));
    }

    #[cfg(feature = "remote")]
    #[test]
    fn limits_for_peers_are_configurable_and_never_too_small_to_work() {
        let read = |text: &str| toml::from_str::<Config>(text).unwrap().limits();
        let limits = read("max_connections = 12\nmax_handshakes = 7\nhandshake_ms = 1500");
        assert_eq!((limits.connections, limits.handshakes), (12, 7));
        assert_eq!(limits.handshake, Duration::from_millis(1500));
        let least = read("max_connections = 0\nmax_handshakes = 1");
        assert_eq!((least.connections, least.handshakes), (4, 4));
        let default = Config::default().limits();
        assert!(default.connections <= 1024 && default.handshakes <= 256);
        let overridden = Config::new().max_connections(20).or(Config::new().max_connections(30)).limits();
        assert_eq!(overridden.connections, 20);
    }
}
