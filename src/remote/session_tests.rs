//! Tests of one session, and of two that are connected.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn settings() -> SessionSettings {
    SessionSettings { heartbeat: 100 * MS, grace: 1000 * MS, max_unacknowledged: 1000, max_frame: 500 }
}

fn say(session: &mut Session, text: &[u8]) {
    session
        .push(|out| {
            out.extend_from_slice(text);
            Ok::<_, TooLarge>(())
        })
        .unwrap();
}

fn transmit(session: &mut Session, now: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(more) = session.transmit(now) {
        bytes.extend_from_slice(&more);
    }
    bytes
}

fn receive(session: &mut Session, bytes: &[u8], now: Duration) -> Vec<Bytes> {
    let mut rest = bytes;
    let mut bodies = Vec::new();
    while let Some((frame, length)) = Frame::first(rest, 1000).unwrap() {
        bodies.extend(session.receive(frame, now).unwrap().map(Bytes::copy_from_slice));
        rest = &rest[length..];
    }
    bodies
}

fn pair() -> (Session, Session) {
    let (mut a, mut b) = (Session::new(settings(), Duration::ZERO), Session::new(settings(), Duration::ZERO));
    a.connect(0, Duration::ZERO).unwrap();
    b.connect(0, Duration::ZERO).unwrap();
    (a, b)
}

#[test]
fn nothing_is_sent_before_there_is_a_connection() {
    let mut session = Session::new(settings(), Duration::ZERO);
    say(&mut session, b"early");
    assert_eq!(session.transmit(Duration::ZERO), None);
    session.connect(0, Duration::ZERO).unwrap();
    assert!(session.transmit(Duration::ZERO).is_some());
}

#[test]
fn what_was_not_acknowledged_is_sent_again_and_arrives_once() {
    let (mut a, mut b) = pair();
    say(&mut a, b"one");
    let first = transmit(&mut a, MS);
    assert_eq!(receive(&mut b, &first, MS).len(), 1);
    say(&mut a, b"two");
    drop(transmit(&mut a, MS)); // lost on the way
    a.disconnect(MS);
    b.disconnect(MS);
    // The acknowledgement of the first message is lost as well: `b` announces on the new connection what it has
    // received.
    let (had_a, had_b) = (a.received(), b.received());
    a.connect(had_b, 2 * MS).unwrap();
    b.connect(had_a, 2 * MS).unwrap();
    let again = transmit(&mut a, 2 * MS);
    assert_eq!(receive(&mut b, &again, 2 * MS), [Bytes::from_static(b"two")]);
    assert_eq!(receive(&mut b, &again, 2 * MS), [] as [Bytes; 0]);
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    let (mut a, mut b) = pair();
    say(&mut a, b"question");
    receive(&mut b, &transmit(&mut a, MS), MS);
    assert!(b.transmit(MS).is_none(), "an acknowledgement alone is not worth a write yet");
    say(&mut b, b"answer");
    assert_eq!(receive(&mut a, &transmit(&mut b, MS), MS).len(), 1);
    assert_eq!(a.unacknowledged(), 0);
}

#[test]
fn without_an_answer_the_heartbeat_acknowledges() {
    let (mut a, mut b) = pair();
    say(&mut a, b"update");
    receive(&mut b, &transmit(&mut a, MS), MS);
    assert_eq!(b.next_deadline(), Some(100 * MS));
    receive(&mut a, &transmit(&mut b, 100 * MS), 100 * MS);
    assert_eq!(a.unacknowledged(), 0);
}

#[test]
fn senders_are_held_up_when_too_much_is_under_way() {
    let (mut a, mut b) = pair();
    while a.has_room() {
        say(&mut a, &[0; 100]);
    }
    assert!(a.unacknowledged() < 1000 + 200);
    receive(&mut b, &transmit(&mut a, MS), MS);
    receive(&mut a, &transmit(&mut b, 100 * MS), 100 * MS);
    assert!(a.has_room());
    assert_eq!(a.unacknowledged(), 0);
}

#[test]
fn a_message_above_the_limit_is_refused_and_leaves_nothing_behind() {
    let (mut a, mut b) = pair();
    let refused: Result<(), TooLarge> = a.push(|out| {
        out.extend_from_slice(&[0; 600]);
        Ok(())
    });
    assert!(refused.unwrap_err().to_string().contains("the limit is 500"));
    say(&mut a, b"small");
    assert_eq!(receive(&mut b, &transmit(&mut a, MS), MS), [Bytes::from_static(b"small")]);
}

#[test]
fn a_message_whose_writing_panics_leaves_nothing_behind() {
    let (mut a, mut b) = pair();
    say(&mut a, b"before");
    let broken = std::panic::AssertUnwindSafe(|| {
        let _ = a.push::<TooLarge>(|out| {
            out.extend_from_slice(b"half of it");
            panic!("a value that does not serialise");
        });
    });
    std::panic::catch_unwind(broken).unwrap_err();
    say(&mut a, b"after");
    let arrived = receive(&mut b, &transmit(&mut a, MS), MS);
    assert_eq!(arrived, [Bytes::from_static(b"before"), Bytes::from_static(b"after")]);
}

#[test]
fn silence_ends_the_connection_and_then_the_session() {
    let (mut a, _) = pair();
    assert_eq!(a.on_time(299 * MS), None);
    assert_eq!(a.on_time(300 * MS), Some(Expired::Connection));
    assert!(!a.is_connected());
    assert_eq!(a.next_deadline(), Some(1000 * MS));
    assert_eq!(a.on_time(999 * MS), None);
    assert_eq!(a.on_time(1000 * MS), Some(Expired::Session));
    assert!(a.is_lost());
    assert!(matches!(a.connect(0, 1001 * MS), Err(SessionError::Lost)));
    assert!(matches!(a.receive(Frame::Ack { received: 0 }, 1001 * MS), Err(SessionError::Lost)));
    assert_eq!(a.transmit(1001 * MS), None);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_refused() {
    let data = |seq| Frame::Data { seq, body: b"" };
    let (mut a, _) = pair();
    assert!(matches!(a.receive(data(2), MS), Err(SessionError::Gap { seq: 2, expected: 1 })));
    assert!(matches!(a.receive(data(u64::MAX), MS), Err(SessionError::Gap { .. })));
    assert!(a.receive(data(0), MS).unwrap().is_none());
    assert!(matches!(a.receive(Frame::Ack { received: 1 }, MS), Err(SessionError::NeverSent { .. })));
    assert!(matches!(a.receive(Frame::Hello(b""), MS), Err(SessionError::Greeting)));
    let bye = Frame::Bye(b"enough");
    assert!(matches!(a.receive(bye, MS), Err(SessionError::Ended(why)) if why == "enough"));
    assert!(matches!(a.connect(7, MS), Err(SessionError::NeverSent { .. })));
    say(&mut a, b"x");
    // The message was never written, so the peer cannot have received it.
    assert!(matches!(
        a.receive(Frame::Ack { received: 1 }, MS),
        Err(SessionError::NeverSent { sent: 0, .. })
    ));
    transmit(&mut a, MS);
    a.receive(Frame::Ack { received: 1 }, MS).unwrap();
    assert!(matches!(a.connect(0, MS), Err(SessionError::NotKept { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_makes_a_session_panic(
        frames in proptest::collection::vec((0_u8..4, any::<u64>(), 0_u64..4), 0..30),
    ) {
        let mut session = Session::new(settings(), Duration::ZERO);
        session.connect(0, Duration::ZERO).unwrap();
        for (kind, wild, near) in frames {
            let number = if wild % 3 == 0 { wild } else { near };
            let frame = match kind {
                0 => Frame::Hello(b""),
                1 => Frame::Data { seq: number, body: b"" },
                2 => Frame::Ack { received: number },
                _ => Frame::Bye(b""),
            };
            let _ = session.receive(frame, MS);
            transmit(&mut session, MS);
        }
    }
}
