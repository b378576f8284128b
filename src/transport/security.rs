//! What proves processes to each other, and how much is borne from those who have not proved themselves.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::endpoint::Endpoint;
use super::error::TransportError;
use super::local_token::{self, TokenFile};
use super::tls::Tls;
use crate::secret_file::read_secret;

/// A secret that all processes of an App share. It is never sent, and never shown.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

/// The environment variable that may hold the secret that all processes share. Processes of Works do not inherit it.
pub(crate) const TOKEN_VARIABLE: &str = "FLOWRIGHT_TOKEN";

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

/// What proves two processes to each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    proof: Proof,
    tls: Option<Tls>,
}

#[derive(Debug, Clone, Default)]
enum Proof {
    /// None, or that of TLS only.
    #[default]
    Absent,
    /// A token that all processes of the App were given.
    Given(Token),
    /// The head's own token, for this machine only: processes of the same user find it in a file.
    Own(Token),
    /// The token that the head has written. It is read anew for each connection to the head, which may be another process than
    /// before.
    OfHead { head: Endpoint, found: Arc<Mutex<Option<Token>>> },
}

impl Security {
    pub(crate) fn new(token: Option<Token>, tls: Option<Tls>) -> Self {
        Self { proof: token.map_or(Proof::Absent, Proof::Given), tls }
    }

    /// What this comes to at a head: without a token and certificates it makes a token of its own.
    pub(crate) fn of_head(self) -> Self {
        match self.proof {
            Proof::Absent if self.tls.is_none() => Self { proof: Proof::Own(Token::random()), tls: None },
            _ => self,
        }
    }

    /// What this comes to at a process that joins `head`: without a token and certificates it has that of the head, if both are on
    /// one machine.
    pub(crate) fn of_node(self, head: &Endpoint) -> Self {
        match (&self.proof, head) {
            (Proof::Absent, Endpoint::Tcp(_)) if self.tls.is_none() => {
                Self { proof: Proof::OfHead { head: head.clone(), found: Arc::default() }, tls: None }
            }
            _ => self,
        }
    }

    /// The token that this process shares with the others.
    pub(crate) fn token(&self) -> Option<Token> {
        match &self.proof {
            Proof::Absent => None,
            Proof::Given(token) | Proof::Own(token) => Some(token.clone()),
            Proof::OfHead { found, .. } => lock(found).clone(),
        }
    }

    /// For TCP: what stays on this machine, over a Unix socket, does without.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Whether it keeps strangers out, also those of other machines.
    pub(super) fn keeps_strangers_out(&self) -> bool {
        matches!(self.proof, Proof::Given(_)) || self.tls.is_some()
    }

    /// Whether the token is that of another process, which may have another one by the next attempt: a refusal is not final.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self.proof, Proof::OfHead { .. })
    }

    /// Why nobody can be proved now, if that is so: the token of the head is not known yet.
    pub(super) fn objection(&self) -> Option<String> {
        let lacks = matches!(&self.proof, Proof::OfHead { found, .. } if lock(found).is_none());
        lacks.then(|| "this node has not joined an App yet".to_owned())
    }

    /// Lets processes of this user prove themselves at a listener, if they have no other way.
    pub(super) fn announce(&self, address: SocketAddr) -> Result<Option<TokenFile>, TransportError> {
        let Proof::Own(token) = &self.proof else { return Ok(None) };
        TokenFile::write(address, token)
            .map(Some)
            .map_err(|why| TransportError::Announce { endpoint: Endpoint::Tcp(address.to_string()), why })
    }

    /// Reads the token of the head again if this is a connection to it.
    pub(super) fn look_up(&self, endpoint: &Endpoint, peer: SocketAddr) -> Result<(), TransportError> {
        let Proof::OfHead { head, found } = &self.proof else { return Ok(()) };
        if head == endpoint && peer.ip().to_canonical().is_loopback() {
            match local_token::find(peer) {
                Ok(Some(token)) => *lock(found) = Some(token),
                // One that is known already still proves the head.
                Ok(None) => {}
                Err(why) => return Err(TransportError::NoToken { endpoint: endpoint.clone(), why }),
            }
        }
        match self.objection() {
            None => Ok(()),
            Some(_) if peer.ip().to_canonical().is_loopback() => {
                let why = format!("there is no {}", local_token::places(peer));
                Err(TransportError::NoToken { endpoint: endpoint.clone(), why })
            }
            Some(_) => Err(TransportError::NoTokenBeyond { endpoint: endpoint.clone() }),
        }
    }
}

fn lock(found: &Mutex<Option<Token>>) -> MutexGuard<'_, Option<Token>> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
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
