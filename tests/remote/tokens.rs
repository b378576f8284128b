//! The token that a head on a loopback address makes, found and proved without the code of the crate.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The directories that docs/protocol.md names.
fn directories() -> Vec<PathBuf> {
    let user = std::fs::metadata("/proc/self").expect("this is Linux").uid();
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join("flowright"));
    let mut directories: Vec<_> = runtime.into_iter().collect();
    directories.push(format!("/run/user/{user}/flowright").into());
    for temporary in [std::env::temp_dir(), "/tmp".into()] {
        directories.push(temporary.join(format!("flowright-{user}")));
    }
    directories
}

/// The file with the token of the head at this address, if there is one.
pub(crate) fn token_file(address: &str) -> Option<PathBuf> {
    let files = directories().into_iter().map(|directory| directory.join(format!("{address}.token")));
    files.into_iter().find(|file| file.exists())
}

/// The token of the head at this address.
#[track_caller]
pub(crate) fn token(address: &str) -> String {
    let file = token_file(address).expect("a head on a loopback address has written it");
    std::fs::read_to_string(file).expect("the path belongs to the test").trim().to_owned()
}

/// The token file of a head under another address, which leads to that head. Removed on drop.
pub(crate) struct Forwarded {
    path: PathBuf,
    /// Locked, as the file of a head is: a file without a lock is stale.
    _locked: File,
}

impl Forwarded {
    pub(crate) fn new(from: &str, to: &str) -> Option<Self> {
        let text = std::fs::read(token_file(to)?).expect("the path belongs to the test");
        let path = token_file(to)?.with_file_name(format!("{from}.token"));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .expect("the path belongs to the test");
        file.lock().expect("nobody else has it");
        file.write_all(&text).expect("the disk has room");
        Some(Self { path, _locked: file })
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // The directory may be gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The preface of a dialer; with `flags` 1 it has a token.
pub(crate) fn preface(flags: u8) -> [u8; 43] {
    let mut preface = [7; 43];
    preface[..11].copy_from_slice(&[&b"FLOWRITE"[..], &[0, 11, flags]].concat());
    preface
}

/// The proof of one end.
pub(crate) fn proof(token: &str, role: &str, dialer: &[u8], listener: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key of any length will do");
    for part in [role.as_bytes(), dialer, listener] {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// Proves knowledge of the token as a dialer, and checks the proof of the listener.
pub(crate) fn prove(stream: &mut TcpStream, token: &str) -> io::Result<()> {
    let mine = preface(1);
    stream.write_all(&mine)?;
    let mut theirs = [0; 43];
    stream.read_exact(&mut theirs)?;
    stream.write_all(&proof(token, "flowright dialer", &mine, &theirs))?;
    let mut answer = [0; 33];
    stream.read_exact(&mut answer)?;
    match answer[0] == 0 && answer[1..] == proof(token, "flowright listener", &mine, &theirs) {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::PermissionDenied, "it was refused")),
    }
}

/// Proves knowledge of the token as a listener to a dialer that knows it.
pub(crate) fn accept(stream: &mut TcpStream, token: &str) -> io::Result<()> {
    let mut theirs = [0; 43];
    stream.read_exact(&mut theirs)?;
    let mine = preface(1);
    stream.write_all(&mine)?;
    let mut said = [0; 32];
    stream.read_exact(&mut said)?;
    if said[..] != proof(token, "flowright dialer", &theirs, &mine) {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it does not know the token"));
    }
    stream.write_all(&[&[0][..], &proof(token, "flowright listener", &theirs, &mine)].concat())
}

/// A connection to the head at this address, after mutual proof.
#[track_caller]
pub(crate) fn proved(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    prove(&mut stream, &token(address)).expect("the head knows its own token");
    stream
}
