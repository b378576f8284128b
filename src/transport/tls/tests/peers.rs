//! Tests of the handshake between two ends.

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};

use super::*;
use crate::transport::limits::Limits;
use crate::transport::token::Token;
use crate::transport::{Connection, Endpoint, Listener};
use crate::wire::Frame;

fn token(text: &str) -> Option<Token> {
    Some(Token::new(text).expect("it is long enough"))
}

const TOKEN: &str = "a secret of some length";

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
        let body = vec![7; size];
        let frame = Frame::Bye(&body);
        // Each end writes more than the system buffers before the other reads.
        let (sent, arrived) = tokio::join!(dialed.write_frame(&frame), accepted.read_frame());
        sent.expect("it is sent");
        assert_eq!(arrived.expect("it arrives"), Some(frame));
        let (sent, arrived) = tokio::join!(accepted.write_frame(&frame), dialed.read_frame());
        sent.expect("it is sent");
        assert_eq!(arrived.expect("it arrives"), Some(frame));
    }
    // A killed process sends no `close_notify`.
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
    let connection =
        |stream| Connection::new(stream, String::new(), &Limits::default(), None).expect("it is TLS");
    let (mut here, mut there) = (connection(here.expect("good")), connection(there.expect("good")));
    let secret = Frame::Bye(b"what nobody else may know");
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

/// Connects with a bare TLS client, without Flowright's own handshake.
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
    // With a certificate the client gets as far as the preface, and closes after its first byte.
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
            // The listener may have refused already.
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
