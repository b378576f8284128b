//! Tests with peers that never authenticate.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::dial;
use super::*;

#[tokio::test]
async fn those_who_never_prove_themselves_keep_nobody_out() {
    // No handshake times out.
    let handshake = Duration::from_secs(3600);
    let limits = Limits { handshakes: 4, handshake, ..Limits::default() };
    let any = Endpoint::Tcp("127.0.0.1:0".to_owned());
    let mut listener = Listener::bind(&any, Security::default(), limits).await.expect("it listens");
    let Endpoint::Tcp(address) = listener.endpoint() else { panic!("it is TCP") };
    let mut strangers = Vec::new();
    for _ in 0..8 {
        strangers.push(TcpStream::connect(&address).await.expect("it is taken"));
    }
    for _ in 0..20 {
        let security = Security::default();
        let endpoint = listener.endpoint();
        let (dialed, _accepted) = tokio::join!(dial(&endpoint, &security, &limits), listener.accept());
        dialed.expect("whoever is honest gets through");
    }
    // Each new handshake has evicted the oldest pending one; completed handshakes took no place.
    let (given_up, waiting) = strangers.split_at_mut(5);
    for stranger in given_up {
        let end = stranger.read(&mut [0]).await;
        assert!(end.is_err() || matches!(end, Ok(0)), "it is closed: {end:?}");
    }
    for stranger in waiting {
        let preface = [&b"FLOWRITE"[..], &handshake::VERSION.to_be_bytes(), &[0], &[7; 32]].concat();
        stranger.write_all(&preface).await.expect("it may go on");
        let mut answer = [0; 44];
        stranger.read_exact(&mut answer).await.expect("it is answered");
        assert_eq!((&answer[..8], answer[43]), (&b"FLOWRITE"[..], 0));
        drop(listener.accept().await);
    }
}

#[tokio::test]
async fn one_that_goes_without_a_word_is_told_from_one_that_speaks_nonsense() {
    let any = Endpoint::Tcp("127.0.0.1:0".to_owned());
    for (said, is_gone) in
        [(&b""[..], true), (b"FLOWRITE", true), (b"FLOWRITE\x00\x01", true), (b"GET / HTTP", false)]
    {
        let listener = std::net::TcpListener::bind(any.to_string()).expect("there is a free port");
        let mut stranger =
            TcpStream::connect(listener.local_addr().expect("it has one")).await.expect("it is taken");
        let (accepted, _) = listener.accept().expect("there is one");
        accepted.set_nonblocking(true).expect("a socket can be so");
        let accepted = Stream::Tcp(TcpStream::from_std(accepted).expect("there is a runtime"));
        stranger.write_all(said).await.expect("it may");
        drop(stranger);
        let proved = prove(accepted, &Security::default(), "a stranger").await;
        let error = proved.err().expect("nobody is proved");
        assert_eq!(error.is_gone(), is_gone, "{said:?}: {error}");
    }
}

/// Whoever finds the file of a Unix socket can connect, from its first moment on: one that refuses was left behind.
#[tokio::test]
async fn file_of_a_socket_appears_when_it_accepts() {
    let directory = std::env::temp_dir().join(format!("flowright-listener-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("there is room");
    for number in 0..200 {
        let path = directory.join(format!("head-{number:03}.sock"));
        let wanted = path.clone();
        let connects = std::thread::spawn(move || {
            loop {
                match std::os::unix::net::UnixStream::connect(&wanted) {
                    Err(error) if error.kind() == ErrorKind::NotFound => std::thread::yield_now(),
                    connected => return connected.map(drop),
                }
            }
        });
        let endpoint = Endpoint::Unix(path);
        let listener = Listener::bind(&endpoint, Security::default(), Limits::default()).await;
        let listener = listener.expect("it listens");
        connects.join().expect("no panic").expect("the socket accepts");
        let again = Listener::bind(&endpoint, Security::default(), Limits::default()).await;
        let TransportError::Listen { error, .. } = again.err().expect("another one listens there") else {
            panic!("it is another error")
        };
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let files = std::fs::read_dir(&directory).expect("it is there").count();
        assert_eq!(files, 1, "nothing is left but the socket");
        drop(listener);
    }
    std::fs::remove_dir(&directory).expect("it is empty");
}
