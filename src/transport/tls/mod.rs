//! Mutual TLS: both ends have a certificate of the same CA.
//!
//! # What is checked
//! TLS 1.3. The certificate of the peer is verified in both directions and for each connection anew: that a CA of
//! `--tls-ca` has signed it, that it is valid now, that its key usages (if it has any) allow its use by this end, and
//! that it is for the DNS name `flowright`. Addresses and host names are not checked: a process may be reached by any
//! of them, and a certificate proves that a process belongs to the App, not which of the App's processes it is.

mod certs;
mod diagnostics;
mod files;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub(crate) use self::certs::{Certificates, make_certificates};
pub(super) use self::diagnostics::explain;
use self::files::Material;
pub(crate) use self::files::TlsFiles;
use super::close::close_refused;
use super::connection::Encrypted;
use super::error::TransportError;

/// The DNS name in the certificates of all processes.
pub(super) const NAME: &str = "flowright";

/// The first byte of a connection that begins with TLS.
pub(super) const HANDSHAKE: u8 = 0x16;

/// The channel binding: a value that only the two ends of a TLS connection know (RFC 9266).
type Binding = [u8; 32];
const BINDING: &[u8] = b"EXPORTER-Channel-Binding";

/// The TLS settings of a process: its certificate, and the CA for verifying others.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Tls {
    /// Reads the files and verifies that peers will accept the certificate.
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, TransportError> {
        let material = files.read()?;
        let verifiers = Verifiers::new(&material).map_err(|error| files.unusable_ca(&error))?;
        files.check(&material, &verifiers)?;
        Self::new(material, verifiers).map_err(|error| files.unusable_key(&error))
    }

    fn new(material: Material, verifiers: Verifiers) -> Result<Self, rustls::Error> {
        let Material { chain, key, .. } = material;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifiers.client)
            .with_single_cert(chain.clone(), key.clone_key())?;
        // Session resumption is disabled, since it would skip the verification.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(verifiers.server)
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() })
    }

    /// Performs the dialer's side.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        peer: &str,
    ) -> Result<(Encrypted, Binding), TransportError> {
        let stream = self.connector.connect(name(), stream).await.map_err(|error| explain(peer, error))?;
        let binding = stream.get_ref().1.export_keying_material([0; 32], BINDING, Some(&[]));
        let binding = binding.map_err(|error| no_binding(peer, &error))?;
        Ok((Box::new(TlsStream::from(stream)), binding))
    }

    /// Performs the listener's side. Also returns the objection to the peer, if any, which can be sent over the
    /// connection.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        peer: &str,
    ) -> Result<(Encrypted, Binding, Option<String>), TransportError> {
        match self.acceptor.accept(stream).into_fallible().await {
            Ok(stream) => {
                let tls = stream.get_ref().1;
                let binding = tls.export_keying_material([0; 32], BINDING, Some(&[]));
                let binding = binding.map_err(|error| no_binding(peer, &error))?;
                let objection = objection(tls.peer_certificates());
                Ok((Box::new(TlsStream::from(stream)), binding, objection))
            }
            Err((error, mut stream)) => {
                close_refused(&mut stream).await;
                Err(explain(peer, error))
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

/// The verifiers for certificates of listeners and of dialers.
struct Verifiers {
    server: Arc<WebPkiServerVerifier>,
    client: Arc<dyn rustls::server::danger::ClientCertVerifier>,
}

impl Verifiers {
    fn new(material: &Material) -> Result<Self, rustls::server::VerifierBuilderError> {
        let roots = &material.roots;
        Ok(Self {
            server: WebPkiServerVerifier::builder_with_provider(roots.clone(), provider()).build()?,
            client: WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build()?,
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("it is a DNS name")
}

fn no_binding(peer: &str, error: &rustls::Error) -> TransportError {
    TransportError::Refused {
        peer: peer.to_owned(),
        why: format!("TLS provides no channel binding: {error}"),
    }
}

/// Returns the objection to a dialer whose certificate TLS has accepted: TLS does not check the name of a client.
fn objection(certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let checked = match certificates.and_then(<[_]>::first) {
        Some(certificate) => {
            ParsedCertificate::try_from(certificate).and_then(|parsed| verify_server_name(&parsed, &name()))
        }
        None => Err(rustls::Error::NoCertificatesPresented),
    };
    checked.err().map(|error| diagnostics::objection(&error))
}
