//! Tests of reading certificate files, and of the files that `certs` creates.

use std::path::PathBuf;

use super::*;

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
    // The same CA signs further certificates later.
    let ca = std::fs::read(folder.file("ca.pem")).expect("it is there");
    let more = folder.make(&["gpu-1"]).expect("the CA is reused");
    assert!(!more.ca_is_new);
    assert_eq!(std::fs::read(folder.file("ca.pem")).expect("it is there"), ca);
    let tls = |name| with(Tls::read(&folder.files(name)).expect("it was just made"));
    for (dialer, listener) in [("node", "head"), ("head", "node"), ("gpu-1", "node")] {
        assert_eq!(meet(&tls(dialer), &tls(listener)).await, (None, None));
    }
    // Certificates of another CA, created in the same way, are refused.
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
    // The second name cannot be written: not even the new CA is left.
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
