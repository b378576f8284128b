//! Credentials of processes.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::endpoint::Endpoint;
use super::error::TransportError;
use super::local_token::{self, TokenFile};
use super::tls::Tls;
use super::token::Token;

/// The environment variable that may hold the token. Processes of Works do not inherit it.
pub(crate) const TOKEN_VARIABLE: &str = "FLOWRIGHT_TOKEN";

/// The credentials of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    proof: Proof,
    tls: Option<Tls>,
}

#[derive(Debug, Clone, Default)]
enum Proof {
    /// No token; TLS may authenticate.
    #[default]
    Absent,
    /// A token that all processes of the App were given.
    Given(Token),
    /// The head's generated token, for this machine only: processes of the same user find it in a file.
    Own(Token),
    /// The token that the head has written. It is read again for each connection to the head, which may have been
    /// restarted.
    OfHead { head: Endpoint, found: Arc<Mutex<Option<Token>>> },
}

impl Security {
    pub(crate) fn new(token: Option<Token>, tls: Option<Tls>) -> Self {
        Self { proof: token.map_or(Proof::Absent, Proof::Given), tls }
    }

    /// Returns the credentials of a head: without a token and certificates it generates a token.
    /// `kept` returns the one that an earlier head of the App has generated, if that is known.
    pub(crate) fn of_head(self, kept: impl FnOnce() -> Option<Token>) -> Self {
        match self.proof {
            Proof::Absent if self.tls.is_none() => {
                Self { proof: Proof::Own(kept().unwrap_or_else(Token::random)), tls: None }
            }
            _ => self,
        }
    }

    /// Returns the credentials of a process that joins `head`: without a token and certificates it uses that of the
    /// head, if both are on one machine.
    pub(crate) fn of_node(self, head: &Endpoint) -> Self {
        match (&self.proof, head) {
            (Proof::Absent, Endpoint::Tcp(_)) if self.tls.is_none() => {
                Self { proof: Proof::OfHead { head: head.clone(), found: Arc::default() }, tls: None }
            }
            _ => self,
        }
    }

    /// Returns the token that this process shares with the others.
    pub(crate) fn token(&self) -> Option<Token> {
        match &self.proof {
            Proof::Absent => None,
            Proof::Given(token) | Proof::Own(token) => Some(token.clone()),
            Proof::OfHead { found, .. } => found.lock().clone(),
        }
    }

    /// Returns the settings of TLS, which is used for TCP only: Unix sockets stay on this machine.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Returns `true` if the credentials keep strangers out, also those of other machines.
    pub(super) fn keeps_strangers_out(&self) -> bool {
        matches!(self.proof, Proof::Given(_)) || self.tls.is_some()
    }

    /// Returns `true` if the token belongs to the head, which may have another one at the next attempt: a refusal is
    /// not final.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self.proof, Proof::OfHead { .. })
    }

    /// Returns the reason why no peer can be authenticated now: the token of the head is not known yet.
    pub(super) fn objection(&self) -> Option<String> {
        let lacks = matches!(&self.proof, Proof::OfHead { found, .. } if found.lock().is_none());
        lacks.then(|| "this node has not joined an App yet".to_owned())
    }

    /// Writes the generated token, if there is one, for processes of this user that dial a listener.
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
                Ok(Some(token)) => *found.lock() = Some(token),
                // The token that was read before still authenticates the head.
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
