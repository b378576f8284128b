//! Processes that authenticate with certificates, and processes that cannot.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flowright::Config;
use flowright::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};

use crate::lab::{Add, Lab, Suite, Sum, Task};
use crate::proxy::{Proxy, Weather};
use crate::support::{Process, joining, lab, node, program, start_at, times};

crate::tests![
    two_processes_need_only_what_certs_prints,
    works_in_other_places_talk_to_each_other_over_tls,
    whoever_has_no_certificate_that_counts_is_refused_and_both_sides_say_why,
    a_node_with_certificates_tells_a_head_without_apart,
    a_token_is_asked_for_inside_tls_as_well,
    a_break_loses_nothing_and_a_killed_node_is_noticed_at_once,
    those_who_begin_tls_and_never_end_are_let_go,
    a_certificate_that_expires_soon_is_warned_of,
    wrong_flags_and_files_say_what_is_wrong,
];

/// An address that nodes may listen at only with a token or certificates.
const EVERYWHERE: &str = "0.0.0.0:0";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A CA, and files of the certificates that it has signed.
pub(crate) struct Certs {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Certs {
    fn new(name: &str) -> Self {
        let directory = directory(name);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write(&directory.join("ca.pem"), &params.self_signed(&key).expect("a certificate").pem());
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a certificate that expires in `days` days, or expired that many days ago if negative.
    fn make(&self, name: &str, days: i32) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["flowright".to_owned()]).expect("a name");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock shows a time after 1970");
        let end = match days {
            0.. => now + DAY * days.unsigned_abs(),
            _ => now - DAY * days.unsigned_abs(),
        };
        params.not_after = date_time_ymd(1970, 1, 1) + end;
        let certificate = params.signed_by(&key, &self.issuer).expect("the CA signs the certificate");
        write(&self.file(&format!("{name}.pem")), &certificate.pem());
        write(&self.file(&format!("{name}-key.pem")), &key.serialize_pem());
    }

    pub(crate) fn config(&self, name: &str) -> Config {
        let key = self.file(&format!("{name}-key.pem"));
        times(500, 20_000).tls(self.file(&format!("{name}.pem")), key, self.file("ca.pem"))
    }

    pub(crate) fn flags(&self, name: &str) -> Vec<String> {
        let files = [
            ("cert", self.file(&format!("{name}.pem"))),
            ("key", self.file(&format!("{name}-key.pem"))),
            ("ca", self.file("ca.pem")),
        ];
        files.into_iter().flat_map(|(flag, file)| [format!("--tls-{flag}"), shown(&file)]).collect()
    }

    fn node(&self, certificate: &str, address: &str, name: &str) -> Process {
        let flags = self.flags(certificate);
        Process::node_with(address, name, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl Drop for Certs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Makes a CA and a valid certificate, `good`.
pub(crate) fn certs(name: &str) -> Certs {
    let certs = Certs::new(name);
    certs.make("good", 100);
    certs
}

fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("flowright-certs-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("there is a place for temporary files");
    directory
}

fn write(path: &Path, text: &str) {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the file is writable");
}

fn shown(path: &Path) -> String {
    path.to_str().expect("valid UTF-8").to_owned()
}

/// Starts the head as a process, so that its output can be read. Returns the address at which nodes join.
fn head(arguments: &[String]) -> (Process, String) {
    let mut command = program("suite");
    command.args(["--open-ui=false", "--without-server", "--listen", "0.0.0.0:0"]).args(arguments);
    let mut head = Process::start(command);
    let address = joined_at(&mut head);
    (head, address)
}

fn joined_at(head: &mut Process) -> String {
    let line = head.expect("nodes join at 0.0.0.0:");
    format!("127.0.0.1:{}", line.rsplit(':').next().expect("there is a port"))
}

fn serve() -> Suite {
    Suite::new(lab(node("n")), lab(Placement::Thread), |suite, _| {
        suite.a.run(Task::Serve);
        Ok(())
    })
}

/// Asserts that the node prints why it cannot join, and tries again: the refusing peer has not proved itself.
fn refused(mut node: Process, said: &str) {
    let line = node.expect(said);
    assert!(line.contains("trying again until the head is there"), "{line}");
}

fn two_processes_need_only_what_certs_prints() {
    let directory = directory("printed");
    let mut command = program("suite");
    command.arg("certs").arg("--dir").arg(&directory).args(["head", "n"]);
    let (code, lines) = Process::start(command).end();
    assert_eq!(code, Some(0), "{lines:#?}");
    let commands: Vec<_> = lines.iter().filter(|line| line.contains("--tls-cert")).collect();
    let [for_head, for_node] = &commands[..] else { panic!("{lines:#?}") };
    assert!(for_head.contains("--listen 0.0.0.0:7502"), "{for_head}");
    assert!(for_node.contains(" node --join ") && for_node.contains(":7502 --name n "), "{for_node}");
    // Splits the line as a shell does. The test needs free ports and no browser.
    let shell = |line: String| {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("exec {}", line.trim()));
        for (key, value) in program("suite").get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        Process::start(shell)
    };
    let mut head = shell(for_head.replace(":7502", ":0") + " --open-ui=false --without-server");
    let address = joined_at(&mut head);
    let (before, after) = for_node.split_once(" --join ").expect("the command has --join");
    let (_, after) = after.split_once(' ').expect("the command goes on");
    let mut node = shell(format!("{before} --join {address} {after}"));
    node.expect("work `a` runs here");
    head.expect("[a on n] it serves");
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
}

fn works_in_other_places_talk_to_each_other_over_tls() {
    const NUMBERS: u32 = 3000;
    let certs = certs("talk");
    for (a, b) in [("m", "n"), ("n", "process"), ("thread", "n/pool")] {
        let placed = move |place: &str| lab(place.parse().expect("the placement is valid"));
        let app = start_at(EVERYWHERE, certs.config("good"), move || {
            Suite::new(placed(a), placed(b), |suite, cx| {
                suite.b.run(Task::Serve);
                if suite.b.is_running() {
                    let a = suite.a.run(Task::Send(suite.b.addr(), NUMBERS)).finished()?;
                    assert_eq!(a.sum, Some((0..u64::from(NUMBERS)).sum()));
                    if suite.b.received.len() == NUMBERS as usize {
                        assert!(suite.b.received.iter().copied().eq(0..NUMBERS), "in order, each once");
                        cx.stop("seen");
                    }
                }
                Ok(())
            })
        });
        let address = joining(&app);
        // Without certificates, nothing may listen at the address at which these nodes are reached.
        let nodes = ["m", "n"].map(|name| {
            let flags = [certs.flags("good"), vec!["--listen".to_owned(), "0.0.0.0:0".to_owned()]].concat();
            Process::node_with(&address, name, &flags.iter().map(String::as_str).collect::<Vec<_>>())
        });
        let exit = app.wait_for_exit();
        assert!(exit.result.is_ok(), "{a} to {b}: {:?}", exit.result);
        drop(nodes);
    }
}

fn whoever_has_no_certificate_that_counts_is_refused_and_both_sides_say_why() {
    let (certs, others) = (certs("counts"), certs("counts-not"));
    certs.make("expired", -3);
    // A new head each time: a head logs one refusal for each address and minute.
    let fresh = || head(&certs.flags("good"));

    let (mut head, address) = fresh();
    let with_token = certs.file("token");
    write(&with_token, "a secret of some length");
    refused(
        Process::node_with(&address, "n", &["--token-file", &shown(&with_token)]),
        "the listener takes TLS only and the dialer speaks without it",
    );
    head.expect_again("the listener takes TLS only and the dialer speaks without it");

    // Without any proof of the head, the node sends it nothing.
    let mut waiting = Process::node(&address, "n");
    let said = waiting.expect("has not proved that it is a process of this user");
    assert!(said.contains("--tls-cert"), "{said}");
    drop(waiting);

    let (mut head, address) = fresh();
    refused(
        others.node("good", &address, "n"),
        "its certificate was not signed by the CA that is given here with --tls-ca",
    );
    head.expect_again("it does not know the CA that signed the certificate of this process");

    // A node checks its own certificate first, and does not dial the head.
    let (code, lines) = certs.node("expired", &address, "n").end();
    let said = "expired.pem cannot be used for TLS: the certificate expired at";
    assert!(code == Some(1) && lines.iter().any(|line| line.contains(said)), "{code:?}: {lines:#?}");
    let (mut head, address) = fresh();
    assert_eq!(call(&address, &certs, Some("expired")), "CertificateExpired");
    head.expect_again("its certificate expired at");

    let (mut head, address) = fresh();
    assert_eq!(call(&address, &certs, None), "CertificateRequired");
    head.expect_again("it has no certificate");

    let _node = certs.node("good", &address, "n");
    head.expect_again("[a on n] it serves");
}

/// Returns the alert with which the head answers a TLS client that presents this certificate.
fn call(address: &str, certs: &Certs, name: Option<&str>) -> String {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(certs.file("ca.pem")).expect("the file was written");
    roots.add(ca).expect("the certificate is that of a CA");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has a version")
        .with_root_certificates(roots);
    let config = match name {
        Some(name) => {
            let cert = CertificateDer::from_pem_file(certs.file(&format!("{name}.pem")))
                .expect("the file was written");
            let key = PrivateKeyDer::from_pem_file(certs.file(&format!("{name}-key.pem")))
                .expect("the file was written");
            config
                .with_client_auth_cert(vec![cert], key)
                .expect("the certificate and the key belong together")
        }
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("flowright").expect("the name is valid");
    let client = ClientConnection::new(Arc::new(config), name).expect("the configuration is valid");
    let stream = TcpStream::connect(address).expect("the server listens");
    let mut stream = StreamOwned::new(client, stream);
    let error = stream.read(&mut [0]).expect_err("the connection is refused").to_string();
    error.rsplit(' ').next().expect("a word").to_owned()
}

fn a_node_with_certificates_tells_a_head_without_apart() {
    let certs = certs("apart");
    let mut command = program("suite");
    command.args(["--open-ui=false", "--without-server", "--listen", "127.0.0.1:0"]);
    let mut head = Process::start(command);
    let line = head.expect("nodes join at 127.0.0.1:");
    let address = line.rsplit(' ').next().expect("there is an address");
    refused(certs.node("good", address, "n"), "it does not speak TLS");
    head.expect("it began with TLS, and there is none here");
}

fn a_token_is_asked_for_inside_tls_as_well() {
    let certs = certs("token");
    let token = certs.file("token");
    write(&token, "a secret of some length");
    let with_token = || [certs.flags("good"), vec!["--token-file".to_owned(), shown(&token)]].concat();
    let (mut head, address) = head(&with_token());
    refused(certs.node("good", &address, "n"), "the listener has a token and the dialer has none");
    head.expect("the listener has a token and the dialer has none");
    let flags = with_token();
    let _node = Process::node_with(&address, "n", &flags.iter().map(String::as_str).collect::<Vec<_>>());
    head.expect("[a on n] it serves");
}

fn a_break_loses_nothing_and_a_killed_node_is_noticed_at_once() {
    const NUMBERS: u32 = 10_000;
    let certs = certs("break");
    // A grace period that is longer than the test.
    let config = certs.config("good").node_grace(Duration::from_secs(600));
    let app = start_at(EVERYWHERE, config, serve);
    let proxy = Proxy::to(&joining(&app));
    let node = certs.node("good", proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    app.block_on(async {
        for number in 0..NUMBERS {
            a.tell(Add(number)).await.expect("the node is not lost");
            if number % 2000 == 1000 {
                proxy.set(Weather::Cut);
                proxy.set(Weather::Fair);
            }
        }
        assert_eq!(a.ask(Sum).await.expect("the Work answers"), (0..u64::from(NUMBERS)).sum::<u64>());
    });
    let received: Vec<u32> = app.wait_for_state("a.received", |received: &Vec<u32>| !received.is_empty());
    assert!(received.into_iter().eq(0..NUMBERS), "in order, each once");
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1, "nothing was started again");
    node.signal("KILL");
    app.wait_for_stage("a", Stage::Pending);
}

fn those_who_begin_tls_and_never_end_are_let_go() {
    let certs = certs("idle");
    let app = start_at(EVERYWHERE, certs.config("good"), serve);
    let address = joining(&app);
    let mut idle: Vec<TcpStream> = Vec::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(&address).expect("the server listens");
        match number % 3 {
            0 => {}
            // The start of a TLS record, and of the first message in it. Connections over the limit are already closed.
            1 => drop(stream.write_all(&[0x16])),
            _ => drop(stream.write_all(&[0x16, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3])),
        }
        idle.push(stream);
    }
    let _node = certs.node("good", &address, "n");
    app.wait_for_stage("a", Stage::Running);
    for mut stream in idle {
        // The other side closes each connection in the end.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves"), 0);
}

fn a_certificate_that_expires_soon_is_warned_of() {
    let certs = certs("soon");
    certs.make("soon", 10);
    let (mut head, address) = head(&certs.flags("good"));
    let mut node = certs.node("soon", &address, "n");
    node.expect("soon.pem expires at");
    head.expect("[a on n] it serves");
}

fn wrong_flags_and_files_say_what_is_wrong() {
    let certs = certs("wrong");
    let open = certs.file("open-key.pem");
    std::fs::copy(certs.file("good-key.pem"), &open).expect("the key can be copied");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("the path belongs to the test");
    let flags = certs.flags("good");
    let with_key = |key: &Path| [&flags[..3], &[shown(key)], &flags[4..]].concat();
    let node = |flags: &[String]| {
        let join = ["node", "--join", "127.0.0.1:1"].map(str::to_owned);
        [&join[..], flags].concat()
    };
    let run = |flags: &[String]| [&["--without-server".to_owned()][..], flags].concat();
    for (arguments, code, said) in [
        (node(&flags[..2]), 2, "--tls-cert needs --tls-key and --tls-ca as well"),
        (run(&flags[..4]), 2, "--tls-cert and --tls-key need --tls-ca as well"),
        (node(&with_key(&open)), 1, "others may read the file; run `chmod 600 "),
        (run(&with_key(&open)), 1, "others may read the file; run `chmod 600 "),
        (run(&with_key(&certs.file("nowhere.pem"))), 1, "nowhere.pem cannot be used for TLS: No such file"),
        (run(&["--listen".to_owned(), "0.0.0.0:0".to_owned()]), 1, "--tls-cert, --tls-key and --tls-ca"),
        (["certs", "ca"].map(str::to_owned).to_vec(), 2, "is not `ca`"),
        (["certs", "../up"].map(str::to_owned).to_vec(), 2, "begins with a letter or digit"),
        (["certs", "a", "a"].map(str::to_owned).to_vec(), 2, "certs a is given twice"),
    ] {
        let mut command = program("suite");
        command.args(&arguments);
        let (ended, lines) = Process::start(command).end();
        assert!(lines.iter().any(|line| line.contains(said)), "{arguments:?}: {lines:#?}");
        assert_eq!(ended, Some(code), "{arguments:?}: {lines:#?}");
    }
}
