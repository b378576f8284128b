//! Test certificates of all kinds, and two ends that use them.

mod files;
mod peers;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tokio::net::TcpListener;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::transport::connection::Stream;
use crate::transport::security::Security;
use crate::transport::{dial, listener};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A modification of the parameters of a test certificate.
type Change = fn(&mut CertificateParams);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970")
}

/// Makes the certificate expire yesterday.
fn expired(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(1970, 1, 1) + (now() - DAY);
}

/// Makes the certificate valid from the day after tomorrow.
fn future(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(1970, 1, 1) + (now() + 2 * DAY);
}

fn only_listens(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

fn only_dials(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, name: &str, change: Change) -> (Material, [String; 2]) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        let pem = [certificate.pem(), key.serialize_pem()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (Material { chain: vec![certificate.der().clone()], key, roots: self.roots() }, pem)
    }

    fn material(&self, name: &str, change: Change) -> Material {
        self.issue(name, change).0
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("it is a CA");
        Arc::new(roots)
    }

    fn tls(&self, name: &str, change: Change) -> Tls {
        self.trusting(self, name, change)
    }

    /// Returns settings without the check of the own certificate, to test peers that do not accept it.
    fn trusting(&self, trusted: &Self, name: &str, change: Change) -> Tls {
        let material = Material { roots: trusted.roots(), ..self.material(name, change) };
        let verifiers = Verifiers::new(&material).expect("it has a CA");
        Tls::new(material, verifiers).expect("it fits together")
    }

    fn good(&self) -> Tls {
        self.tls(NAME, |_| {})
    }
}

fn with(tls: Tls) -> Security {
    Security::new(None, Some(tls))
}

/// Returns the two ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dialed = TcpStream::connect(listener.local_addr().expect("an address"));
    let (dialed, accepted) = tokio::join!(dialed, listener.accept());
    (dialed.expect("it is there"), accepted.expect("it was dialed").0)
}

/// Performs a handshake and returns the errors of the dialer and of the listener.
async fn meet(dialer: &Security, listener: &Security) -> (Option<String>, Option<String>) {
    let (dialed, accepted) = pair().await;
    let (here, there) = tokio::join!(
        dial::prove(Stream::Tcp(dialed), dialer, "L"),
        listener::prove(Stream::Tcp(accepted), listener, "D"),
    );
    (here.err().map(|error| error.to_string()), there.err().map(|error| error.to_string()))
}
