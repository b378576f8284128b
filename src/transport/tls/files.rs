//! The certificate files of a process, and the check that peers will accept them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore};

use super::diagnostics::{date, fault};
use super::{Verifiers, name};
use crate::secret_file::read_secret;
use crate::transport::error::TransportError;

/// Remaining validity below which a warning is logged.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The paths of the certificate of a process, its key, and the CA that signs the certificates of all processes; PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

/// The content of the files.
pub(super) struct Material {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) roots: Arc<RootCertStore>,
}

impl TlsFiles {
    pub(super) fn read(&self) -> Result<Material, TransportError> {
        let chain = certificates(&self.cert)?;
        let key = private_key(&self.key)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|error| unusable(&self.ca, format!("not a CA: {error}")))?;
        }
        Ok(Material { chain, key, roots: Arc::new(roots) })
    }

    /// Checks the certificate as peers do, so that problems are reported here first.
    pub(super) fn check(&self, material: &Material, verifiers: &Verifiers) -> Result<(), TransportError> {
        let now = UnixTime::now();
        material.verify(verifiers, now).map_err(|error| {
            let why = match &error {
                rustls::Error::InvalidCertificate(error) => {
                    let ca = format!("the CA in {}", self.ca.display());
                    format!("the certificate {}", fault(error, &ca))
                }
                error => format!("the certificate cannot be used: {error}"),
            };
            unusable(&self.cert, why)
        })?;
        let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + SOON);
        if let Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after, ..
        })) = material.verify(verifiers, soon)
        {
            log::warn!(
                "the certificate in {} expires at {}: make another with the command `certs` before that, and start this \
                 process anew with it",
                self.cert.display(),
                date(not_after)
            );
        }
        Ok(())
    }

    pub(super) fn unusable_ca(&self, error: &rustls::server::VerifierBuilderError) -> TransportError {
        unusable(&self.ca, error.to_string())
    }

    pub(super) fn unusable_key(&self, error: &rustls::Error) -> TransportError {
        let why = match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "the key does not belong to the certificate in {}: give the two that were made together",
                self.cert.display()
            ),
            error => error.to_string(),
        };
        unusable(&self.key, why)
    }
}

impl Material {
    /// Verifies the certificate as peers do.
    pub(super) fn verify(&self, verifiers: &Verifiers, now: UnixTime) -> Result<(), rustls::Error> {
        let [certificate, intermediates @ ..] = &self.chain[..] else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        verifiers.server.verify_server_cert(certificate, intermediates, &name(), &[], now)?;
        verifiers.client.verify_client_cert(certificate, intermediates, now)?;
        Ok(())
    }
}

fn unusable(path: &Path, why: String) -> TransportError {
    TransportError::Tls { file: path.display().to_string(), why }
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let bytes = std::fs::read(path).map_err(|error| unusable(path, error.to_string()))?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            let why = match PrivateKeyDer::from_pem_slice(&bytes) {
                Ok(_) => "there is no certificate in it, but a private key: have two files been exchanged?",
                Err(_) => "there is no certificate in it; it has to be PEM (`-----BEGIN CERTIFICATE-----`)",
            };
            Err(unusable(path, why.to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(path, format!("it is damaged: {error}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TransportError> {
    let text = read_secret(path).map_err(|why| unusable(path, why))?;
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        let why = match error {
            pem::Error::NoItemsFound if text.contains("BEGIN ENCRYPTED PRIVATE KEY") => {
                "the key is encrypted with a passphrase; `openssl pkey -in FILE -out NEW` takes that away"
                    .to_owned()
            }
            pem::Error::NoItemsFound if text.contains("BEGIN CERTIFICATE") => {
                "there is no private key in it, but a certificate: have two files been exchanged?".to_owned()
            }
            pem::Error::NoItemsFound => {
                "there is no private key in it; it has to be PEM (`-----BEGIN PRIVATE KEY-----`)".to_owned()
            }
            error => format!("it is damaged: {error}"),
        };
        unusable(path, why)
    })
}
