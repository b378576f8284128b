//! The secret that all processes of an App share.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::error::TransportError;
use crate::secret_file::read_secret;

/// A secret that all processes of an App share. It is never sent, and never shown.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

/// Minimum length of a token, in bytes.
const SHORTEST: usize = 16;

impl Token {
    /// Creates a token from text; surrounding white space is ignored.
    ///
    /// # Errors
    /// When the text is shorter than 16 bytes.
    pub fn new(text: &str) -> Result<Self, TransportError> {
        Self::from("that was given", text)
    }

    /// Reads the token in a file, which only its owner may read.
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

    /// Returns the text from which the token was made, to hand it to a process in a private file.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn mac(&self, parts: [&[u8]; 4]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        parts.into_iter().for_each(|part| mac.update(part));
        mac
    }

    pub(super) fn proof(&self, parts: [&[u8]; 4]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Verifies a proof in constant time.
    pub(super) fn proves(&self, parts: [&[u8]; 4], proof: &[u8; 32]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
