//! Tests with hosts of which not every address answers.

use std::net::TcpListener as Socket;

use super::*;
use crate::transport::Listener;

/// Returns limits under which no attempt times out.
fn patient() -> Limits {
    Limits { handshake: Duration::from_secs(3600), ..Limits::default() }
}

fn host() -> Endpoint {
    Endpoint::Tcp("a-host:7502".to_owned())
}

/// The first address never answers; the connection is made to the second one meanwhile.
#[tokio::test]
async fn silent_address_does_not_hold_up_the_next() {
    let silent = Socket::bind("127.0.0.1:0").expect("there is a free port");
    let any = Endpoint::Tcp("127.0.0.1:0".to_owned());
    let mut listener = Listener::bind(&any, Security::default(), patient()).await.expect("it listens");
    let Endpoint::Tcp(address) = listener.endpoint() else { panic!("it is TCP") };
    let addresses = [silent.local_addr().expect("it has one"), address.parse().expect("it is numeric")];
    let (endpoint, security, limits) = (host(), Security::default(), patient());
    let dialed = dial_addresses(&endpoint, &addresses, &security, &limits);
    let (dialed, _accepted) = tokio::join!(dialed, listener.accept());
    let (_, local) = dialed.expect("one of them answers");
    assert_eq!(local, IpAddr::from([127, 0, 0, 1]));
}

/// Addresses that refuse are passed over at once, and all of them are named in the error if no other answers.
#[tokio::test]
async fn addresses_that_all_refuse_are_all_named() {
    let closed = || Socket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let addresses = [closed(), closed()];
    let dialed = dial_addresses(&host(), &addresses, &Security::default(), &patient()).await;
    let error = dialed.err().expect("nobody listens").to_string();
    for part in [addresses[0].to_string(), addresses[1].to_string(), "a-host:7502".to_owned()] {
        assert!(error.contains(&part), "{part}: {error}");
    }
    let nobody = dial_addresses(&host(), &[], &Security::default(), &patient()).await;
    assert!(nobody.err().expect("there is nobody").to_string().contains("has no address"));
}

/// A family of addresses that does not work costs one attempt before the other family gets its turn.
#[test]
fn address_families_take_turns() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("it is an address");
    let (six, four) =
        (["[::1]:1", "[::2]:1", "[::3]:1"].map(address), ["1.0.0.1:1", "1.0.0.2:1"].map(address));
    let found = six.into_iter().chain(four).collect();
    assert_eq!(interleaved(found), [six[0], four[0], six[1], four[1], six[2]]);
    assert_eq!(interleaved(Vec::new()), []);
}
