//! How two ends of a connection prove themselves; the module docs above say it byte by byte.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::TransportError;
use super::security::Security;

const MAGIC: &[u8; 8] = b"FLOWRITE";
const VERSION: u16 = 1;
const PREFACE: usize = 8 + 2 + 1 + 32;
const HAS_TOKEN: u8 = 1;

/// The longest reason that is listened to, in bytes.
const LONGEST_REASON: usize = 500;

type Preface = [u8; PREFACE];

fn preface(security: &Security) -> Preface {
    let mut preface = [0; PREFACE];
    preface[..8].copy_from_slice(MAGIC);
    preface[8..10].copy_from_slice(&VERSION.to_be_bytes());
    preface[10] = if security.token().is_some() { HAS_TOKEN } else { 0 };
    getrandom::fill(&mut preface[11..]).expect("the system gives random bytes");
    preface
}

/// What is wrong with the preface of a peer, if anything is.
fn mismatch(theirs: &Preface, security: &Security, here: &str, there: &str) -> Option<String> {
    let version = u16::from_be_bytes([theirs[8], theirs[9]]);
    if version != VERSION {
        return Some(format!(
            "the {here} speaks version {VERSION} of the protocol, the {there} version {version}"
        ));
    }
    let give = "give both the same with --token-file or FLOWRIGHT_TOKEN";
    match (security.token().is_some(), theirs[10] & HAS_TOKEN != 0) {
        (true, false) => Some(format!("the {here} has a token and the {there} has none: {give}")),
        (false, true) => Some(format!("the {there} has a token and the {here} has none: {give}")),
        _ => None,
    }
}

fn parts<'a>(role: &'a [u8], dialer: &'a Preface, listener: &'a Preface) -> [&'a [u8]; 3] {
    [role, dialer, listener]
}

const DIALER: &[u8] = b"flowright dialer";
const LISTENER: &[u8] = b"flowright listener";
const WRONG: &str = "the tokens are not the same";

/// Proves the listener's end.
pub(super) async fn accept<S>(stream: &mut S, security: &Security, peer: &str) -> Result<(), TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error| TransportError::broken(peer, error);
    let mine = preface(security);
    let mut theirs: Preface = [0; PREFACE];
    // Whoever speaks another language is told from its first bytes, and hears nothing.
    stream.read_exact(&mut theirs[..8]).await.map_err(broken)?;
    if theirs[..8] != MAGIC[..] {
        return Err(foreign(peer, &theirs[..8]));
    }
    stream.write_all(&mine).await.map_err(broken)?;
    stream.read_exact(&mut theirs[8..]).await.map_err(broken)?;
    let mut wrong = mismatch(&theirs, security, "listener", "dialer");
    let mut proof = None;
    if let (None, Some(token)) = (&wrong, security.token()) {
        let mut theirs_proof = [0; 32];
        stream.read_exact(&mut theirs_proof).await.map_err(broken)?;
        if token.proves(parts(DIALER, &theirs, &mine), &theirs_proof) {
            proof = Some(token.proof(parts(LISTENER, &theirs, &mine)));
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
        Some(why) => Err(TransportError::Refused { peer: peer.to_owned(), why }),
    }
}

/// Proves the dialer's end.
pub(super) async fn present<S>(stream: &mut S, security: &Security, peer: &str) -> Result<(), TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error| TransportError::broken(peer, error);
    let refused = |why: String| TransportError::Refused { peer: peer.to_owned(), why };
    let mine = preface(security);
    stream.write_all(&mine).await.map_err(broken)?;
    let mut theirs: Preface = [0; PREFACE];
    stream.read_exact(&mut theirs).await.map_err(broken)?;
    if theirs[..8] != MAGIC[..] {
        return Err(foreign(peer, &theirs[..8]));
    }
    if let Some(why) = mismatch(&theirs, security, "dialer", "listener") {
        return Err(refused(why));
    }
    if let Some(token) = security.token() {
        stream.write_all(&token.proof(parts(DIALER, &mine, &theirs))).await.map_err(broken)?;
    }
    stream.flush().await.map_err(broken)?;
    if stream.read_u8().await.map_err(broken)? != 0 {
        let length = usize::from(stream.read_u16().await.map_err(broken)?).min(LONGEST_REASON);
        let mut reason = vec![0; length];
        stream.read_exact(&mut reason).await.map_err(broken)?;
        return Err(refused(String::from_utf8_lossy(&reason).into_owned()));
    }
    if let Some(token) = security.token() {
        let mut proof = [0; 32];
        stream.read_exact(&mut proof).await.map_err(broken)?;
        if !token.proves(parts(LISTENER, &mine, &theirs), &proof) {
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
        [0x16, 3, ..] => "it began with TLS".to_owned(),
        _ => format!("it began with {:?}", String::from_utf8_lossy(bytes)),
    };
    TransportError::Foreign { peer: peer.to_owned(), why }
}

/// Both ends of the handshake, each with what somebody has sent.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    use super::security::Token;

    let token = Token::new("a secret of some length").expect("it is long enough");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for security in [Security::default(), Security::new(Some(token))] {
            for dialer in [false, true] {
                let (mut here, mut there) = tokio::io::duplex(1 << 16);
                let _ = there.write_all(&data[..data.len().min(1 << 15)]).await;
                let _ = there.shutdown().await;
                let _ = if dialer {
                    present(&mut here, &security, "a peer").await
                } else {
                    accept(&mut here, &security, "a peer").await
                };
            }
        }
    });
}
