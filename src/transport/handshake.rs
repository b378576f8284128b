//! The handshake by which the two ends of a connection authenticate each other; the documentation of the module
//! `transport` specifies it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::close::close_refused;
use super::error::TransportError;
use super::tls;
use super::token::Token;
use crate::printable::one_line;

const MAGIC: &[u8; 8] = b"FLOWRITE";
pub(super) const VERSION: u16 = 11;
const PREFACE: usize = 8 + 2 + 1 + 32;
const HAS_TOKEN: u8 = 1;
const TAKES_TLS: u8 = 2;

/// Limit on the length of a reason that is read, in bytes.
const LONGEST_REASON: usize = 500;

/// TLS alert `protocol_version`, fatal: the answer to a TLS peer when this process has no TLS.
const NO_TLS: &[u8] = &[0x15, 3, 3, 0, 2, 2, 70];

type Preface = [u8; PREFACE];

/// The local parameters of a handshake.
#[derive(Default)]
pub(super) struct HandshakeParams<'a> {
    token: Option<&'a Token>,
    takes_tls: bool,
    binding: Vec<u8>,
    objection: Option<String>,
}

impl<'a> HandshakeParams<'a> {
    /// Returns parameters for a connection without TLS.
    pub(super) fn plain(token: Option<&'a Token>) -> Self {
        Self { token, ..Self::default() }
    }

    /// Returns parameters for a connection without TLS, with an objection to any peer.
    pub(super) fn objecting(token: Option<&'a Token>, objection: Option<String>) -> Self {
        Self { token, objection, ..Self::default() }
    }

    /// Returns parameters for a handshake inside TLS. `binding` is known to the two ends of the TLS connection alone;
    /// `objection` is the reason to refuse the peer, if there is one.
    pub(super) fn inside_tls(token: Option<&'a Token>, binding: [u8; 32], objection: Option<String>) -> Self {
        Self { token, takes_tls: true, binding: binding.to_vec(), objection }
    }

    /// Returns parameters for refusing a peer that speaks without TLS where TLS is required. The refusal is sent
    /// without TLS.
    pub(super) fn without_tls(token: Option<&'a Token>) -> Self {
        let objection = Some(needs_tls("listener", "dialer"));
        Self { token, takes_tls: true, binding: Vec::new(), objection }
    }

    fn parts<'b>(&'b self, role: &'b [u8], dialer: &'b Preface, listener: &'b Preface) -> [&'b [u8]; 4] {
        [role, dialer, listener, &self.binding]
    }
}

fn needs_tls(with: &str, without: &str) -> String {
    format!(
        "the {with} takes TLS only and the {without} speaks without it: give both certificates of the same CA \
         with --tls-cert, --tls-key and --tls-ca (the command `certs` makes some)"
    )
}

fn preface(params: &HandshakeParams<'_>) -> Preface {
    let mut preface = [0; PREFACE];
    preface[..8].copy_from_slice(MAGIC);
    preface[8..10].copy_from_slice(&VERSION.to_be_bytes());
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    preface[10] = flag(params.token.is_some(), HAS_TOKEN) | flag(params.takes_tls, TAKES_TLS);
    getrandom::fill(&mut preface[11..]).expect("the system gives random bytes");
    preface
}

/// Returns the reason to refuse a peer because of its preface, if there is one.
fn mismatch(theirs: &Preface, params: &HandshakeParams<'_>, here: &str, there: &str) -> Option<String> {
    let version = u16::from_be_bytes([theirs[8], theirs[9]]);
    if version != VERSION {
        return Some(format!(
            "the {here} speaks version {VERSION} of the protocol, the {there} version {version}"
        ));
    }
    if let Some(objection) = &params.objection {
        return Some(objection.clone());
    }
    if theirs[10] & TAKES_TLS != 0 && !params.takes_tls {
        return Some(needs_tls(there, here));
    }
    let give = "give both the same with --token-file or FLOWRIGHT_TOKEN";
    match (params.token.is_some(), theirs[10] & HAS_TOKEN != 0) {
        (true, false) => Some(format!("the {here} has a token and the {there} has none: {give}")),
        (false, true) => Some(format!("the {there} has a token and the {here} has none: {give}")),
        _ => None,
    }
}

const DIALER: &[u8] = b"flowright dialer";
const LISTENER: &[u8] = b"flowright listener";
const WRONG: &str = "the tokens are not the same";

/// Performs the listener's side of the handshake.
pub(super) async fn server_handshake<S>(
    stream: &mut S,
    params: &HandshakeParams<'_>,
    peer: &str,
) -> Result<(), TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error| tls::explain(peer, error);
    let mine = preface(params);
    let mut theirs: Preface = [0; PREFACE];
    // A peer of another protocol is recognised by its first bytes, and gets no bytes of this protocol.
    stream.read_exact(&mut theirs[..8]).await.map_err(broken)?;
    if theirs[..8] != MAGIC[..] {
        if speaks_tls(&theirs) {
            stream.write_all(NO_TLS).await.map_err(broken)?;
            close_refused(stream).await;
        }
        return Err(foreign(peer, &theirs[..8]));
    }
    stream.write_all(&mine).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    stream.read_exact(&mut theirs[8..]).await.map_err(broken)?;
    let mut wrong = mismatch(&theirs, params, "listener", "dialer");
    let mut proof = None;
    if let (None, Some(token)) = (&wrong, params.token) {
        let mut theirs_proof = [0; 32];
        stream.read_exact(&mut theirs_proof).await.map_err(broken)?;
        if token.proves(params.parts(DIALER, &theirs, &mine), &theirs_proof) {
            proof = Some(token.proof(params.parts(LISTENER, &theirs, &mine)));
        } else {
            wrong = Some(WRONG.to_owned());
        }
    }
    let mut answer = Vec::new();
    match &wrong {
        None => {
            answer.push(0);
            answer.extend(proof.into_iter().flatten());
        }
        Some(why) => {
            answer.push(1);
            answer.extend(u16::try_from(why.len()).unwrap_or(0).to_be_bytes());
            answer.extend(why.as_bytes());
        }
    }
    stream.write_all(&answer).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    match wrong {
        None => Ok(()),
        Some(why) => {
            close_refused(stream).await;
            Err(TransportError::Refused { peer: peer.to_owned(), why })
        }
    }
}

/// Performs the dialer's side of the handshake.
pub(super) async fn client_handshake<S>(
    stream: &mut S,
    params: &HandshakeParams<'_>,
    peer: &str,
) -> Result<(), TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error| tls::explain(peer, error);
    let refused = |why: String| TransportError::Refused { peer: peer.to_owned(), why };
    let mine = preface(params);
    stream.write_all(&mine).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut theirs: Preface = [0; PREFACE];
    stream.read_exact(&mut theirs).await.map_err(broken)?;
    if theirs[..8] != MAGIC[..] {
        return Err(foreign(peer, &theirs[..8]));
    }
    if let Some(why) = mismatch(&theirs, params, "dialer", "listener") {
        return Err(refused(why));
    }
    if let Some(token) = params.token {
        stream.write_all(&token.proof(params.parts(DIALER, &mine, &theirs))).await.map_err(broken)?;
    }
    stream.flush().await.map_err(broken)?;
    if stream.read_u8().await.map_err(broken)? != 0 {
        let length = usize::from(stream.read_u16().await.map_err(broken)?).min(LONGEST_REASON);
        let mut reason = vec![0; length];
        stream.read_exact(&mut reason).await.map_err(broken)?;
        return Err(refused(one_line(&String::from_utf8_lossy(&reason)).into_owned()));
    }
    if let Some(token) = params.token {
        let mut proof = [0; 32];
        stream.read_exact(&mut proof).await.map_err(broken)?;
        if !token.proves(params.parts(LISTENER, &mine, &theirs), &proof) {
            return Err(refused(WRONG.to_owned()));
        }
    }
    Ok(())
}

fn foreign(peer: &str, bytes: &[u8]) -> TransportError {
    let why = match bytes {
        [b'G', b'E', b'T', b' ', ..] | [b'P', b'O', b'S', b'T', ..] | [b'H', b'E', b'A', b'D', ..] => {
            "it sent an HTTP request; the page and the API are at another port".to_owned()
        }
        bytes if speaks_tls(bytes) => {
            "it began with TLS, and there is none here: give both certificates of the same \
            authority with --tls-cert, --tls-key and --tls-ca, or neither"
                .to_owned()
        }
        _ => format!("it began with {:?}", String::from_utf8_lossy(bytes)),
    };
    TransportError::Foreign { peer: peer.to_owned(), why }
}

/// Returns `true` if the bytes begin a TLS handshake.
fn speaks_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(&[tls::HANDSHAKE, 3])
}

/// Runs both sides of the handshake on arbitrary input.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let token = Token::new("a secret of some length").expect("it is long enough");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        for params in [
            HandshakeParams::plain(None),
            HandshakeParams::plain(Some(&token)),
            HandshakeParams::without_tls(Some(&token)),
            HandshakeParams::inside_tls(Some(&token), [7; 32], None),
        ] {
            for dialer in [false, true] {
                let (mut here, mut there) = tokio::io::duplex(1 << 16);
                let _ = there.write_all(&data[..data.len().min(1 << 15)]).await;
                let _ = there.shutdown().await;
                let _ = if dialer {
                    client_handshake(&mut here, &params, "a peer").await
                } else {
                    server_handshake(&mut here, &params, "a peer").await
                };
            }
        }
    });
}
