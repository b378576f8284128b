//! What proves processes to each other, and how much is borne from those who have not proved themselves.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::error::TransportError;
use super::tls::Tls;

/// A secret that all processes of an App share. It is never sent, and never shown.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

/// The shortest that counts as a secret, in bytes.
const SHORTEST: usize = 16;

impl Token {
    /// A token from text; white space around it does not count.
    ///
    /// # Errors
    /// When it is shorter than 16 bytes.
    pub fn new(text: &str) -> Result<Self, TransportError> {
        Self::from("that was given", text)
    }

    /// The token in a file, which only its owner may read.
    ///
    /// # Errors
    /// When the file cannot be read, can be read by others, or is too short.
    pub fn read(path: &Path) -> Result<Self, TransportError> {
        let whence = format!("in {}", path.display());
        match read_secret(path) {
            Ok(text) => Self::from(&whence, &text),
            Err(why) => Err(TransportError::Token { whence, why }),
        }
    }

    fn from(whence: &str, text: &str) -> Result<Self, TransportError> {
        let text = text.trim();
        if text.len() < SHORTEST {
            let why = format!(
                "it has {} bytes and needs at least {SHORTEST}; `head -c 32 /dev/urandom | base64` makes a good one",
                text.len()
            );
            return Err(TransportError::Token { whence: whence.to_owned(), why });
        }
        Ok(Self(text.as_bytes().into()))
    }

    fn mac(&self, parts: [&[u8]; 4]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        parts.into_iter().for_each(|part| mac.update(part));
        mac
    }

    pub(super) fn proof(&self, parts: [&[u8]; 4]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Takes the same time whatever is wrong.
    pub(super) fn proves(&self, parts: [&[u8]; 4], proof: &[u8; 32]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The text in a file that only its owner may read, else what is wrong.
pub(crate) fn read_secret(path: &Path) -> Result<String, String> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    let mut file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("others may read the file; `chmod 600 {}` mends that", path.display()));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// What proves two processes to each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    token: Option<Token>,
    tls: Option<Tls>,
}

impl Security {
    pub(crate) fn new(token: Option<Token>, tls: Option<Tls>) -> Self {
        Self { token, tls }
    }

    pub(super) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// For TCP: what stays on this machine, over a Unix socket, does without.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Whether it keeps strangers out.
    pub(super) fn keeps_strangers_out(&self) -> bool {
        self.token.is_some() || self.tls.is_some()
    }
}

/// How much is borne from others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The largest frame, in bytes.
    pub(crate) max_frame: usize,
    /// How long a handshake may take.
    pub(crate) handshake: Duration,
    /// How many may be under way.
    pub(crate) handshakes: usize,
    /// How many connections there may be.
    pub(crate) connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_frame: 16 << 20, handshake: Duration::from_secs(5), handshakes: 256, connections: 1024 }
    }
}
