//! Peers that know the protocol and violate it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::held::Held;
use crate::lab::{Lab, Suite, Sum};
use crate::support::{Process, joining, lab, program, serve, start, start_with, times, until};
use crate::tokens::{accept, proved};

/// Token for tests in which a thread of the test is the head of a node.
const TOKEN: &str = "a secret of some length";

crate::tests![
    who_breaks_the_protocol_is_told_how_and_costs_nobody_anything,
    peer_that_takes_no_answers_is_ended,
    what_is_no_frame_ends_the_connection_and_then_the_node,
    refused_connection_does_not_lose_a_node,
];

const HELLO: u8 = 0;
const DATA: u8 = 1;
const ACK: u8 = 2;
const BYE: u8 = 3;
const REQUEST: u8 = 4;

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).expect("the length fits");
    [&length.to_be_bytes()[..], &[kind], body].concat()
}

fn data(number: u64, message: &[u8]) -> Vec<u8> {
    frame(DATA, &[&number.to_be_bytes()[..], message].concat())
}

fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let mut body = vec![0; length as usize - 1];
    stream.read_exact(&mut body).ok()?;
    Some((header[4], body))
}

/// Returns the first message of a node of this program: its greeting.
fn greeting_of_a_node() -> Vec<u8> {
    greeting_of("n", &[])
}

/// Returns the greeting of a node of this name, which is started with these arguments.
pub(crate) fn greeting_of(name: &str, arguments: &[&str]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("the socket has an address").to_string();
    let mut command = program("suite");
    command.args(["node", "--join", &address, "--name", name]).args(arguments).env("FLOWRIGHT_TOKEN", TOKEN);
    let _node = Process::start(command);
    let (mut stream, _) = listener.accept().expect("the dialer connects");
    accept(&mut stream, TOKEN).expect("the dialer knows the token");
    let (kind, greeting) = read_frame(&mut stream).expect("the dialer greets");
    assert_eq!(kind, HELLO);
    frame(HELLO, &greeting)
}

/// Joins as that node.
fn join(address: &str, greeting: &[u8]) -> TcpStream {
    let mut stream = proved(address);
    stream.write_all(greeting).expect("the peer reads");
    let (kind, welcome) = read_frame(&mut stream).expect("the listener greets");
    assert_eq!(kind, HELLO, "{}", String::from_utf8_lossy(&welcome));
    stream
}

/// Reads frames until the end of the stream.
fn rest(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    std::iter::from_fn(|| read_frame(stream)).collect()
}

fn until_nodes_are(app: &TestApp, count: usize) {
    until("a node that joins or is lost", || app.status().nodes.len() == count);
}

/// Asserts that an honest node is served.
fn serves(app: &TestApp) {
    let _node = Process::node(&joining(app), "n");
    app.wait_for_stage("a", Stage::Running);
    assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves"), 0);
}

fn who_breaks_the_protocol_is_told_how_and_costs_nobody_anything() {
    let app = start(serve);
    let address = joining(&app);
    let greeting = greeting_of_a_node();
    let cases = [
        (data(2, b""), "message 2 arrived out of order: expected 1"),
        (frame(ACK, &(1_u64 << 40).to_be_bytes()), "peer acknowledged message"),
        (greeting.clone(), "peer sent a greeting in the middle of a session"),
        (frame(REQUEST, b"\x80"), "peer requested a value on the connection of a session"),
        (data(1, b""), "peer sent a message that is too short"),
        (data(1, b"\x01\0"), "peer sent a message that is too short"),
        (data(1, b"\x4d"), "peer sent a message of an unknown kind (77)"),
        (data(1, b"\x01\0\0\0\0\0\0\0\0\x05"), "a message came on channel 0, which is not open"),
        (data(1, b"\x04\0\0\0\0\0\0\0\x01"), "credit for channel 0, which was never opened"),
        (data(1, b"\0\xc1"), "peer sent an invalid control message"),
        (data(1, b"\0\x81\xa3end\x81\xa3why\xa3now"), "a node may not send"),
    ];
    let mut held = None;
    for (said, why) in cases {
        let mut peer = join(&address, &greeting);
        peer.write_all(&said).expect("the peer reads");
        let (kind, reason) = rest(&mut peer).pop().expect("the frame is answered");
        let reason = String::from_utf8_lossy(&reason);
        assert_eq!(kind, BYE, "{why}: {reason}");
        assert!(reason.contains(why), "{why}: {reason}");
        drop(peer);
        until_nodes_are(&app, 0);
        // The first peer has caused the allocations that are made once.
        held.get_or_insert_with(Held::here).is_back();
    }
    serves(&app);
}

/// Small questions whose answers are not acknowledged, whether they are read or not, cost the head no more than the
/// room of a session.
fn peer_that_takes_no_answers_is_ended() {
    let app = start(serve);
    let address = joining(&app);
    let greeting = greeting_of_a_node();
    // `{"where": {"id": 16 bytes}}`, for a value that no process has.
    let question = [&b"\0\x81\xa5where\x81\xa2id\xc4\x10"[..], &[7; 16]].concat();
    for reads in [true, false] {
        let mut peer = join(&address, &greeting);
        until_nodes_are(&app, 1);
        let mut asking = peer.try_clone().expect("a socket can be cloned");
        let question = question.clone();
        // A peer that reads stays few questions ahead of the answers: a head that closes a connection on which more
        // keeps arriving resets it in the end, and the reason is then lost on the way.
        let (answered, permits) = std::sync::mpsc::channel();
        (0..1000).for_each(|_| answered.send(()).expect("the receiver is in scope"));
        let asker = std::thread::spawn(move || {
            // An answer is about as long as its question, and there is room for 8 MiB of them.
            (1..1_000_000).find(|number| {
                let may_ask = !reads || permits.recv().is_ok();
                !may_ask || asking.write_all(&data(*number, &question)).is_err()
            })
        });
        if reads {
            let mut last = None;
            while let Some(frame) = read_frame(&mut peer) {
                // An error means that the asker has stopped.
                let _ = answered.send(());
                last = Some(frame);
            }
            let (kind, reason) = last.expect("the head answers before it ends the session");
            let reason = String::from_utf8_lossy(&reason).into_owned();
            assert!(kind == BYE && reason.contains("too many replies"), "{reason}");
        }
        drop(answered);
        assert!(asker.join().expect("the asker does not panic").is_some(), "no question was refused");
        until_nodes_are(&app, 0);
    }
    serves(&app);
}

fn what_is_no_frame_ends_the_connection_and_then_the_node() {
    let app = start(serve);
    let address = joining(&app);
    let greeting = greeting_of_a_node();
    let half = &data(1, &[0; 100])[..50];
    for (what, said) in
        [("a huge length", &[0xff; 5][..]), ("an unknown kind", &[0, 0, 0, 1, 77]), ("half", half)]
    {
        let mut peer = join(&address, &greeting);
        until_nodes_are(&app, 1);
        peer.write_all(said).expect("the peer reads");
        peer.shutdown(std::net::Shutdown::Write).expect("the connection is open");
        assert!(rest(&mut peer).iter().all(|(kind, _)| *kind != BYE), "{what}: it may yet come back");
        // The peer greeted as a process of this machine that has ended.
        until_nodes_are(&app, 0);
    }
    serves(&app);
}

/// A node that seems to be on another machine, whose connection breaks and whose address refuses connections, has its
/// grace period to return, as a firewall may cause the same.
fn refused_connection_does_not_lose_a_node() {
    let here = || lab(flowright::Placement::Thread);
    let app = start_with(times(100, 600_000), move || Suite::new(here(), here(), |_, _| Ok(())));
    let address = joining(&app);
    let mut greeting = greeting_of_a_node();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the system has one");
    let at = greeting.windows(boot.trim().len()).position(|part| part == boot.trim().as_bytes());
    let at = at.expect("the greeting names the machine");
    greeting[at] = if greeting[at] == b'0' { b'1' } else { b'0' };
    drop(join(&address, &greeting));
    until("that it is missed", || app.status().nodes.get("n").is_some_and(|node| !node.is_connected));
    // Another node, on this machine, disconnects later and is lost at once: the end of its process is proved.
    let other = Process::node(&address, "other");
    until_nodes_are(&app, 2);
    other.signal("KILL");
    until_nodes_are(&app, 1);
    assert!(app.status().nodes.contains_key("n"), "it is waited for");
    // The greeting of the same session again, which does not begin a new one.
    let fresh =
        greeting.windows(7).position(|part| part == b"\xa5fresh\xc3").expect("the greeting begins a session")
            + 6;
    greeting[fresh] = 0xc2;
    let _back = join(&address, &greeting);
    until("its return", || app.status().nodes["n"].is_connected);
}
