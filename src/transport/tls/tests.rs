use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpListener;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::transport::connection::Stream;
use crate::transport::security::{Limits, Security, Token};
use crate::transport::{Connection, Endpoint, Listener, dial, listener};
use crate::wire::Frame;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a test changes of a certificate.
type Change = fn(&mut CertificateParams);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970")
}

/// Ends yesterday.
fn expired(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(1970, 1, 1) + (now() - DAY);
}

/// Begins the day after tomorrow.
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

    /// Without the look at its own certificate: what if others do not accept it?
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

fn token(text: &str) -> Option<Token> {
    Some(Token::new(text).expect("it is long enough"))
}

const TOKEN: &str = "a secret of some length";

/// The two ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dialed = TcpStream::connect(listener.local_addr().expect("an address"));
    let (dialed, accepted) = tokio::join!(dialed, listener.accept());
    (dialed.expect("it is there"), accepted.expect("it was dialed").0)
}

/// What each end says of the other: the dialer, then the listener.
async fn meet(dialer: &Security, listener: &Security) -> (Option<String>, Option<String>) {
    let (dialed, accepted) = pair().await;
    let (here, there) = tokio::join!(
        dial::prove(Stream::Tcp(dialed), dialer, "L"),
        listener::prove(Stream::Tcp(accepted), listener, "D"),
    );
    (here.err().map(|error| error.to_string()), there.err().map(|error| error.to_string()))
}

#[tokio::test]
async fn frames_of_any_size_go_both_ways_and_the_end_is_one() {
    let ca = Ca::new("one");
    let any = Endpoint::Tcp("127.0.0.1:0".to_owned());
    let limits = Limits::default();
    let mut listener = Listener::bind(&any, with(ca.good()), limits).await.expect("it listens");
    let (dialer, endpoint) = (with(ca.good()), listener.endpoint());
    let (dialed, mut accepted) = tokio::join!(dial(&endpoint, &dialer, &limits), listener.accept());
    let mut dialed = dialed.expect("both have certificates");
    for size in [0, 1, 16 << 10, 1 << 20, (16 << 20) - 100] {
        let frame = Frame::Bye(Bytes::from(vec![7; size]));
        // Each end writes more than the system keeps before the other reads.
        let (sent, arrived) = tokio::join!(dialed.write_frame(&frame), accepted.read_frame());
        sent.expect("it is sent");
        assert_eq!(arrived.expect("it arrives"), Some(Frame::Bye(Bytes::from(vec![7; size]))));
        let (sent, arrived) = tokio::join!(accepted.write_frame(&frame), dialed.read_frame());
        sent.expect("it is sent");
        assert_eq!(arrived.expect("it arrives"), Some(frame));
    }
    // A process that is killed says nothing.
    drop(dialed);
    assert_eq!(accepted.read_frame().await.expect("that is no error"), None);
}

#[tokio::test]
async fn nothing_is_to_be_read_on_the_way() {
    let ca = Ca::new("one");
    let (dialed, mut outside) = pair().await;
    let (mut inside, accepted) = pair().await;
    let tapped = tokio::spawn(async move {
        let mut seen = Vec::new();
        let (mut from, mut to) = outside.split();
        let (mut back_from, mut back_to) = inside.split();
        let tap = async {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..read]);
                if back_to.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
        };
        tokio::join!(tap, tokio::io::copy(&mut back_from, &mut to)).1.ok();
        seen
    });
    let (dialer, listener) = (with(ca.good()), with(ca.good()));
    let (here, there) = tokio::join!(
        dial::prove(Stream::Tcp(dialed), &dialer, "L"),
        listener::prove(Stream::Tcp(accepted), &listener, "D"),
    );
    let connection = |stream| Connection::new(stream, String::new(), &Limits::default(), None);
    let (mut here, mut there) = (connection(here.expect("good")), connection(there.expect("good")));
    let secret = Frame::Bye(Bytes::from_static(b"what nobody else may know"));
    here.write_frame(&secret).await.expect("it is sent");
    assert_eq!(there.read_frame().await.expect("it arrives"), Some(secret));
    drop((here, there));
    let seen = tapped.await.expect("it was passed on");
    let contains = |part: &[u8]| seen.windows(part.len()).any(|window| window == part);
    assert!(seen.len() > 500 && !contains(b"nobody else") && !contains(b"FLOWRITE"), "{seen:?}");
}

#[tokio::test]
async fn whoever_is_refused_hears_why_and_so_does_the_other_side() {
    let (ca, other, namesake) = (Ca::new("one"), Ca::new("two"), Ca::new("one"));
    let good = || with(ca.good());
    let stranger = |ca: &Ca, trusted: &Ca| with(ca.trusting(trusted, NAME, |_| {}));
    let plain = Security::default;
    let cases = [
        ("nobody is refused", good(), good(), "", ""),
        (
            "an expired dialer",
            with(ca.tls(NAME, expired)),
            good(),
            "the certificate of this process has expired",
            "its certificate expired at",
        ),
        (
            "an expired listener",
            good(),
            with(ca.tls(NAME, expired)),
            "its certificate expired at",
            "the certificate of this process has expired",
        ),
        ("a dialer of tomorrow", with(ca.tls(NAME, future)), good(), "not valid yet", "set the clock"),
        ("a listener of tomorrow", good(), with(ca.tls(NAME, future)), "set the clock", "not valid yet"),
        (
            "a dialer of another CA",
            stranger(&other, &ca),
            good(),
            "does not know the CA",
            "was not signed by the CA that is given here with --tls-ca",
        ),
        (
            "a listener of another CA",
            good(),
            stranger(&other, &ca),
            "was not signed by the CA that is given here with --tls-ca",
            "does not know the CA",
        ),
        (
            "a dialer of another CA with the same name",
            stranger(&namesake, &ca),
            good(),
            "does not accept the certificate of this process",
            "but by another of the same name",
        ),
        (
            "a dialer that is somebody else",
            with(ca.tls("example.org", |_| {})),
            good(),
            "the certificate of the dialer is not for the DNS name `flowright`",
            "its names: DnsName(\"example.org\")",
        ),
        (
            "a listener that is somebody else",
            good(),
            with(ca.tls("127.0.0.1", |_| {})),
            "its certificate is not for the DNS name `flowright`",
            "does not accept the certificate of this process",
        ),
        (
            "a dialer that may only listen",
            with(ca.tls(NAME, only_listens)),
            good(),
            "does not accept the certificate of this process",
            "both `serverAuth` and `clientAuth`",
        ),
        (
            "a listener that may only dial",
            good(),
            with(ca.tls(NAME, only_dials)),
            "both `serverAuth` and `clientAuth`",
            "does not accept the certificate of this process",
        ),
        (
            "a dialer without TLS",
            plain(),
            good(),
            "the listener takes TLS only and the dialer speaks without it",
            "the listener takes TLS only and the dialer speaks without it",
        ),
        (
            "a dialer with a token in place of TLS",
            Security::new(token(TOKEN), None),
            good(),
            "the listener takes TLS only and the dialer speaks without it",
            "the listener takes TLS only and the dialer speaks without it",
        ),
        (
            "a listener without TLS",
            good(),
            plain(),
            "it does not speak TLS",
            "it began with TLS, and there is none here",
        ),
        (
            "a dialer without the token",
            good(),
            Security::new(token(TOKEN), Some(ca.good())),
            "the listener has a token and the dialer has none",
            "the listener has a token and the dialer has none",
        ),
        (
            "a dialer with another token",
            Security::new(token("another of some length"), Some(ca.good())),
            Security::new(token(TOKEN), Some(ca.good())),
            "the tokens are not the same",
            "the tokens are not the same",
        ),
        (
            "the same token and certificates",
            Security::new(token(TOKEN), Some(ca.good())),
            Security::new(token(TOKEN), Some(ca.good())),
            "",
            "",
        ),
    ];
    for (what, dialer, listener, here, there) in cases {
        let (dialer, listener) = meet(&dialer, &listener).await;
        for (said, expected) in [(dialer, here), (listener, there)] {
            let said = said.unwrap_or_default();
            assert!(said.contains(expected), "{what}: {said:?} and not {expected:?}");
            assert_eq!(said.is_empty(), expected.is_empty(), "{what}: {said:?}");
        }
    }
}

/// A TLS client of its own, without what Flowright does.
async fn call(ca: &Ca, client: Option<Material>, listener: &Security) -> (std::io::Result<[u8; 1]>, String) {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).expect("1.3");
    let builder = builder.with_root_certificates(ca.roots());
    let config = match client {
        Some(Material { chain, key, .. }) => {
            builder.with_client_auth_cert(chain, key).expect("it fits together")
        }
        None => builder.with_no_client_auth(),
    };
    let (dialed, accepted) = pair().await;
    let dial = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name(), dialed).await?;
        let mut byte = [0];
        stream.write_all(b"FLOWRITE").await?;
        stream.read_exact(&mut byte).await?;
        Ok(byte)
    };
    let (read, refused) = tokio::join!(dial, listener::prove(Stream::Tcp(accepted), listener, "D"));
    (read, refused.err().map(|error| error.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_nothing_but_an_alert() {
    let ca = Ca::new("one");
    let (read, refused) = call(&ca, None, &with(ca.good())).await;
    assert!(read.unwrap_err().to_string().contains("CertificateRequired"));
    assert!(refused.contains("it has no certificate: give both"), "{refused}");
    // With one it would have gone on to the preface; this one hangs up after the first bytes of it.
    let (read, refused) = call(&ca, Some(ca.material(NAME, |_| {})), &with(ca.good())).await;
    assert_eq!(&read.expect("the preface of the listener"), b"F");
    assert!(refused.contains("closed during the handshake"), "{refused}");
}

#[tokio::test]
async fn who_speaks_plainly_is_not_taken_in_by_saying_that_it_takes_tls() {
    let ca = Ca::new("one");
    for flags in 0..=255_u8 {
        let (mut dialed, accepted) = pair().await;
        let listener = with(ca.good());
        let dial = async move {
            dialed
                .write_all(&[&b"FLOWRITE"[..], &[0, 1, flags], &[7; 32]].concat())
                .await
                .expect("it listens");
            let mut answer = Vec::new();
            dialed.read_to_end(&mut answer).await.expect("it answers");
            answer
        };
        let (answer, refused) = tokio::join!(dial, async {
            listener::prove(Stream::Tcp(accepted), &listener, "D").await.map(drop)
        });
        assert_eq!(answer[43], 1, "a verdict that is a refusal");
        assert!(refused.is_err());
    }
}

#[tokio::test]
async fn whatever_begins_like_tls_is_refused() {
    let ca = Ca::new("one");
    let listener = with(ca.good());
    let huge = [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat();
    let endless = [&[HANDSHAKE, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 16_380]].concat();
    let alert = [0x15, 3, 3, 0, 2, 2, 40];
    for bytes in [&[HANDSHAKE][..], &[HANDSHAKE; 4096], &huge, &endless, &alert] {
        let (mut dialed, accepted) = pair().await;
        let dial = async move {
            // It may have been refused already.
            let _ = dialed.write_all(bytes).await;
            let _ = dialed.shutdown().await;
            let mut answer = Vec::new();
            let _ = dialed.read_to_end(&mut answer).await;
            answer
        };
        let (answer, refused) = tokio::join!(dial, listener::prove(Stream::Tcp(accepted), &listener, "D"));
        assert!(refused.is_err() && answer.len() < 100, "{answer:?}");
    }
}

#[tokio::test]
async fn nobody_with_a_certificate_can_pass_on_the_proof_of_a_token() {
    let ca = Ca::new("one");
    let both = || Security::new(token(TOKEN), Some(ca.good()));
    let (dialer, listener, middle) = (both(), both(), ca.good());
    let (dialed, outside) = pair().await;
    let (inside, accepted) = pair().await;
    let pass_on = tokio::spawn(async move {
        let (from, to) = tokio::join!(middle.accept(outside, "D"), middle.connect(inside, "L"));
        let (mut from, mut to) = (from.expect("it has a certificate").0, to.expect("it has a certificate").0);
        let _ = copy_bidirectional(&mut from, &mut to).await;
    });
    let (here, there) = tokio::join!(
        dial::prove(Stream::Tcp(dialed), &dialer, "L"),
        listener::prove(Stream::Tcp(accepted), &listener, "D"),
    );
    pass_on.abort();
    for refused in [here.err(), there.err()] {
        let refused = refused.expect("the two are not at the ends of one connection").to_string();
        assert!(refused.contains("the tokens are not the same"), "{refused}");
    }
}

// ---- files ----

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-tls-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("there is a place for temporary files");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).expect("it can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("it is ours");
        path
    }

    fn make(&self, names: &[&str]) -> Result<Certificates, TransportError> {
        make_certificates(&self.0, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    fn files(&self, name: &str) -> TlsFiles {
        let [cert, key] = [format!("{name}.pem"), format!("{name}-key.pem")].map(|file| self.file(&file));
        TlsFiles { cert, key, ca: self.file("ca.pem") }
    }

    fn listing(&self) -> Vec<(String, u32)> {
        let mut all: Vec<_> = std::fs::read_dir(&self.0)
            .expect("it is there")
            .map(|entry| {
                let entry = entry.expect("it can be read");
                let metadata = entry.metadata().expect("it can be read");
                let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
                (entry.file_name().into_string().expect("ASCII"), mode & 0o777)
            })
            .collect();
        all.sort();
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn what_certs_makes_is_accepted_by_each_other_and_only_the_owner_reads_the_keys() {
    let folder = Folder::new("made");
    let made = folder.make(&["head", "node"]).expect("there is nothing yet");
    assert!(made.ca_is_new);
    let of = |mode| move |name: &str| (name.to_owned(), mode);
    let (secret, open) = (of(0o600), of(0o644));
    assert_eq!(
        folder.listing(),
        [
            secret("ca-key.pem"),
            open("ca.pem"),
            secret("head-key.pem"),
            open("head.pem"),
            secret("node-key.pem"),
            open("node.pem")
        ]
    );
    // The CA signs more of them later on.
    let ca = std::fs::read(folder.file("ca.pem")).expect("it is there");
    let more = folder.make(&["gpu-1"]).expect("the CA is reused");
    assert!(!more.ca_is_new);
    assert_eq!(std::fs::read(folder.file("ca.pem")).expect("it is there"), ca);
    let tls = |name| with(Tls::read(&folder.files(name)).expect("it was just made"));
    for (dialer, listener) in [("node", "head"), ("head", "node"), ("gpu-1", "node")] {
        assert_eq!(meet(&tls(dialer), &tls(listener)).await, (None, None));
    }
    // Of another CA of the same making nobody is accepted.
    let other = Folder::new("made-elsewhere");
    other.make(&["node"]).expect("there is nothing yet");
    let stranger = with(Tls::read(&other.files("node")).expect("it was just made"));
    let (here, there) = meet(&stranger, &tls("head")).await;
    assert!(here.expect("refused").contains("was not signed by the CA"));
    assert!(there.expect("refused").contains("does not know the CA"));
}

#[test]
fn certs_overwrites_nothing_and_leaves_nothing_half_made() {
    let folder = Folder::new("again");
    folder.make(&["head"]).expect("there is nothing yet");
    let before = folder.listing();
    let refused = |names: &[&str], words: &str| {
        let error = folder.make(names).err().expect("it is refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&["other", "head"], "head.pem: it is there already");
    assert_eq!(folder.listing(), before);
    let key = std::fs::read_to_string(folder.file("ca-key.pem")).expect("it is there");
    folder.write("ca-key.pem", &key, 0o644);
    refused(&["node"], "chmod 600");
    folder.write("ca-key.pem", "nothing", 0o600);
    refused(&["node"], "there is no key in it");
    folder.write("ca-key.pem", &KeyPair::generate().expect("a key").serialize_pem(), 0o600);
    refused(&["node"], "its key is not the one in ca-key.pem");
    std::fs::remove_file(folder.file("ca-key.pem")).expect("it is there");
    refused(&["node"], "without it the CA in ca.pem can sign nothing");
    folder.write("ca-key.pem", &key, 0o600);
    std::fs::remove_file(folder.file("ca.pem")).expect("it is there");
    refused(&["node"], "ca.pem: it is not there, but its key");
    std::fs::remove_file(folder.file("ca-key.pem")).expect("it is there");
    // The second name cannot be written: not even the new CA stays.
    std::os::unix::fs::symlink("/nowhere/at/all", folder.file("node-key.pem")).expect("it can be made");
    refused(&["first", "node"], "node-key.pem");
    assert!(
        ["ca.pem", "ca-key.pem", "first.pem", "first-key.pem"].iter().all(|name| !folder.file(name).exists())
    );
}

#[test]
fn files_that_cannot_be_used_are_told_with_what_is_wrong() {
    let folder = Folder::new("bad");
    folder.make(&["head", "node"]).expect("there is nothing yet");
    let ca = Ca::new("one");
    let of_mine = |name: &str, of: &str, change: Change| {
        let (_, [cert, key]) = ca.issue(of, change);
        folder.write(&format!("{name}.pem"), &cert, 0o644);
        folder.write(&format!("{name}-key.pem"), &key, 0o600);
        TlsFiles { ca: folder.file("mine.pem"), ..folder.files(name) }
    };
    folder.write("mine.pem", &ca.certificate.pem(), 0o644);
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
    let good = || folder.files("node");
    let file = |name: &str, text: &str| folder.write(name, text, 0o600);
    let node_key = std::fs::read_to_string(folder.file("node-key.pem")).expect("it is there");
    let cases = [
        (
            TlsFiles { cert: folder.file("nowhere.pem"), ..good() },
            "nowhere.pem cannot be used for TLS: No such file",
        ),
        (
            TlsFiles { ca: folder.file("nowhere.pem"), ..good() },
            "nowhere.pem cannot be used for TLS: No such file",
        ),
        (
            TlsFiles { key: folder.file("nowhere.pem"), ..good() },
            "nowhere.pem cannot be used for TLS: No such file",
        ),
        (
            TlsFiles { cert: file("empty.pem", ""), ..good() },
            "there is no certificate in it; it has to be PEM",
        ),
        (TlsFiles { ca: file("empty.pem", ""), ..good() }, "there is no certificate in it; it has to be PEM"),
        (
            TlsFiles { key: file("empty.pem", ""), ..good() },
            "there is no private key in it; it has to be PEM",
        ),
        (TlsFiles { cert: folder.file("node-key.pem"), ..good() }, "have two files been exchanged?"),
        (
            TlsFiles { key: file("cert.pem", &pem("CERTIFICATE")), ..good() },
            "but a certificate: have two files been exchanged?",
        ),
        (TlsFiles { key: folder.write("open.pem", &node_key, 0o640), ..good() }, "chmod 600"),
        (TlsFiles { key: folder.file("head-key.pem"), ..good() }, "does not belong to the certificate in"),
        (TlsFiles { key: file("x.pem", &pem("ENCRYPTED PRIVATE KEY")), ..good() }, "passphrase"),
        (TlsFiles { key: file("noise.pem", &pem("PRIVATE KEY")), ..good() }, "noise.pem cannot be used"),
        (
            TlsFiles { cert: file("half.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n"), ..good() },
            "it is damaged",
        ),
        (TlsFiles { cert: file("n.pem", &pem("CERTIFICATE")), ..good() }, "n.pem cannot be used for TLS"),
        (
            TlsFiles { ca: file("n.pem", &pem("CERTIFICATE")), ..good() },
            "n.pem cannot be used for TLS: not a CA",
        ),
        (TlsFiles { ca: folder.file("mine.pem"), ..good() }, "was not signed by the CA in"),
        (
            TlsFiles { cert: folder.file("ca.pem"), key: folder.file("ca-key.pem"), ..good() },
            "is that of a CA: a process needs one of its own",
        ),
        (of_mine("expired", NAME, expired), "expired.pem cannot be used for TLS: the certificate expired at"),
        (of_mine("future", NAME, future), "set the clock"),
        (of_mine("named", "example.org", |_| {}), "is not for the DNS name `flowright`"),
        (of_mine("server", NAME, only_listens), "both `serverAuth` and `clientAuth`"),
    ];
    for (files, words) in cases {
        let error = Tls::read(&files).err().unwrap_or_else(|| panic!("{files:?} are good")).to_string();
        assert!(error.contains(words), "{error:?} and not {words:?}");
        assert!(!error.contains("BEGIN PRIVATE KEY-----\n"), "nobody is shown a key: {error}");
    }
    Tls::read(&good()).expect("nothing is wrong with those");
}
