//! Arguments that `run` and `node` share.

use std::path::PathBuf;

use crate::app::Config;

#[cfg(feature = "tls")]
/// The arguments for TLS, shared by `run` and `node`.
#[derive(Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// The certificate that this process presents over TLS (PEM); `certs` makes one [default: none]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The private key of the certificate in --tls-cert (PEM) [default: none]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The CA that has signed the certificates of all processes (PEM) [default: none]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

#[cfg(feature = "tls")]
impl TlsArgs {
    pub(super) fn config(&self) -> Config {
        Config {
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            tls_ca: self.tls_ca.clone(),
            ..Config::default()
        }
    }
}

/// The arguments for payload storage, shared by `run` and `node`.
#[derive(Debug, clap::Args)]
pub(super) struct PayloadArgs {
    /// The memory for payload values, in MiB [default: a quarter of the machine's]
    #[arg(long, value_name = "MIB")]
    payload_memory: Option<u64>,

    /// The directory for payload values that do not fit into memory [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    payload_dir: Option<PathBuf>,

    /// The disk space for payload values, in MiB [default: no limit]
    #[arg(long, value_name = "MIB")]
    payload_disk: Option<u64>,
}

impl PayloadArgs {
    /// Returns the configuration given by these arguments.
    pub(super) fn config(&self) -> Config {
        Config {
            payload_memory_mib: self.payload_memory,
            payload_dir: self.payload_dir.clone(),
            payload_disk_mib: self.payload_disk,
            ..Config::default()
        }
    }
}

pub(super) fn log_level(name: &str) -> Result<log::LevelFilter, &'static str> {
    name.parse().map_err(|_| "the levels are off, error, warn, info, debug and trace")
}
