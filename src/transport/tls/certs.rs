//! Creation of a small CA and of certificates that it signs, for users who have none.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::diagnostics::day;
use super::files::{Material, certificates};
use super::{NAME, Verifiers};
use crate::secret_file::read_secret;
use crate::transport::error::TransportError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Tolerated difference between the clocks of two machines: certificates are valid from so much earlier on.
const SKEW: Duration = DAY;
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const LIFE: Duration = Duration::from_secs(2 * 365 * 24 * 60 * 60);

/// The files that `certs` has created.
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    /// True if the CA was created, false if it existed before.
    pub(crate) ca_is_new: bool,
    pub(crate) made: Vec<Certificate>,
    /// The last day on which the certificates are valid.
    pub(crate) until: String,
}

pub(crate) struct Certificate {
    pub(crate) name: String,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Creates a certificate for each name in `directory`, and the CA that signs them if there is none yet. Existing files
/// are not overwritten, and on failure all files of this attempt are removed.
pub(crate) fn make_certificates(directory: &Path, names: &[String]) -> Result<Certificates, TransportError> {
    let mut directories = std::fs::DirBuilder::new();
    directories
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| TransportError::directory(directory, source))?;
    let made: Vec<_> = names
        .iter()
        .map(|name| Certificate {
            name: name.clone(),
            cert: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}-key.pem")),
        })
        .collect();
    for file in made.iter().flat_map(|made| [&made.cert, &made.key]) {
        if file.exists() {
            return Err(unmade(
                file,
                "it is there already; move it and its other half away to make new ones",
            ));
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut files = Files::default();
    let (ca, ca_key) = (directory.join("ca.pem"), directory.join("ca-key.pem"));
    let (authority, ca_is_new) = match (ca.exists(), ca_key.exists()) {
        (false, false) => (Authority::make(now, &ca, &ca_key, &mut files)?, true),
        (true, true) => (Authority::read(now, &ca, &ca_key)?, false),
        (true, false) => {
            return Err(unmade(
                &ca_key,
                "it is not there, and without it the CA in ca.pem can sign nothing: bring it back, or make a new CA in \
                 another directory",
            ));
        }
        (false, true) => {
            return Err(unmade(
                &ca,
                "it is not there, but its key ca-key.pem is: bring it back, or make a new CA in another directory",
            ));
        }
    };
    for Certificate { name, cert, key } in &made {
        authority.sign(now, name, cert, key, &mut files)?;
    }
    files.keep();
    Ok(Certificates { ca, ca_is_new, made, until: day(UnixTime::since_unix_epoch(now + LIFE)) })
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
    /// The file of its certificate, for messages.
    ca: PathBuf,
}

impl Authority {
    fn make(now: Duration, ca: &Path, ca_key: &Path, files: &mut Files) -> Result<Self, TransportError> {
        let key = KeyPair::generate().map_err(|error| unmade(ca_key, error))?;
        let params = ca_params(now, &key);
        let certificate = params.self_signed(&key).map_err(|error| unmade(ca, error))?;
        files.write(ca_key, &key.serialize_pem(), 0o600)?;
        files.write(ca, &certificate.pem(), 0o644)?;
        let roots = roots([certificate.der().clone()], ca)?;
        Ok(Self { issuer: Issuer::new(params, key), roots, ca: ca.to_owned() })
    }

    fn read(now: Duration, ca: &Path, ca_key: &Path) -> Result<Self, TransportError> {
        let key = read_secret(ca_key).map_err(|why| unmade(ca_key, why))?;
        let key = KeyPair::from_pem(&key)
            .map_err(|error| unmade(ca_key, format!("there is no key in it: {error}")))?;
        let roots = roots(certificates(ca)?, ca)?;
        Ok(Self { issuer: Issuer::new(ca_params(now, &key), key), roots, ca: ca.to_owned() })
    }

    fn sign(
        &self,
        now: Duration,
        name: &str,
        cert: &Path,
        key: &Path,
        files: &mut Files,
    ) -> Result<(), TransportError> {
        let pair = KeyPair::generate().map_err(|error| unmade(key, error))?;
        let certificate = node_params(now, name)
            .and_then(|params| params.signed_by(&pair, &self.issuer))
            .map_err(|error| unmade(cert, error))?;
        let private = pair.serialize_pem();
        let material = Material {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::from_pem_slice(private.as_bytes()).map_err(|error| unmade(key, error))?,
            roots: self.roots.clone(),
        };
        // Checked as peers check it: a CA that was not created here may be unable to sign such certificates.
        let accepted = Verifiers::new(&material)
            .is_ok_and(|verifiers| material.verify(&verifiers, UnixTime::since_unix_epoch(now)).is_ok());
        if !accepted {
            let why = "its key is not the one in ca-key.pem, or another program has made it: have that program make the \
                       other certificates as well, or make a new CA in another directory";
            return Err(unmade(&self.ca, why));
        }
        files.write(key, &private, 0o600)?;
        files.write(cert, &certificate.pem(), 0o644)
    }
}

/// Returns the parameters of a CA, which follow from its key: the name is derived from the key, so that two CAs never
/// have the same name.
fn ca_params(now: Duration, key: &KeyPair) -> CertificateParams {
    let number = blake3::hash(&key.subject_public_key_info()).to_hex();
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("flowright CA {}", &number[..16]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, CA_LIFE);
    params
}

fn node_params(now: Duration, name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new([NAME.to_owned()])?;
    params.distinguished_name = common_name(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, LIFE);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now: Duration, life: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + life;
}

fn common_name(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

fn roots(
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ca: &Path,
) -> Result<Arc<RootCertStore>, TransportError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| unmade(ca, error))?;
    }
    Ok(Arc::new(roots))
}

fn unmade(file: &Path, why: impl ToString) -> TransportError {
    TransportError::Certificates { file: file.display().to_string(), why: why.to_string() }
}

/// The files that were written. Removes them on drop unless all were written.
#[derive(Default)]
struct Files {
    written: Vec<PathBuf>,
}

impl Files {
    fn write(&mut self, path: &Path, text: &str, mode: u32) -> Result<(), TransportError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let mut file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => unmade(path, "it is there already, and is not overwritten"),
            _ => unmade(path, error),
        })?;
        self.written.push(path.to_owned());
        file.write_all(text.as_bytes()).map_err(|error| unmade(path, error))
    }

    fn keep(mut self) {
        self.written.clear();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.written {
            let _ = std::fs::remove_file(path);
        }
    }
}
