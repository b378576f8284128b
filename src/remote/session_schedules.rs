//! Random schedules of two sessions, checked against a model: each side has the list of the messages that it has
//! pushed, and the messages that arrived at the other side must be a prefix of it.
//!
//! Ordinary steps are those of TCP: bytes in flight arrive in pieces, or are lost together with their connection. No
//! message may be lost then. The other steps go beyond TCP: writes are lost, duplicated and reordered within a
//! connection. A side that detects a gap ends the session, as does a crash or a long silence; both sides then begin
//! another session.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const LARGEST: usize = 400;

fn settings() -> SessionSettings {
    SessionSettings { heartbeat: 100 * MS, grace: 1000 * MS, max_unacknowledged: 2000, max_frame: 500 }
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        side: usize,
        length: usize,
    },
    /// Writes the gathered messages to the wire.
    Transmit {
        side: usize,
    },
    /// Delivers a number of writes.
    Deliver {
        side: usize,
        writes: usize,
    },
    /// Delivers a number of bytes, which may end within a write.
    DeliverBytes {
        side: usize,
        bytes: usize,
    },
    /// Loses one of the writes in flight.
    Drop {
        side: usize,
        nth: usize,
    },
    Duplicate {
        side: usize,
        nth: usize,
    },
    /// Swaps a write in flight with the one before it.
    Swap {
        side: usize,
        nth: usize,
    },
    /// Breaks the connection; the writes in flight are lost.
    Cut,
    Connect,
    Wait {
        ms: u32,
    },
    /// Kills a process and starts it again.
    Crash {
        side: usize,
    },
}

fn side() -> std::ops::Range<usize> {
    0..2
}

/// Steps that TCP allows.
fn ordinary_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (side(), 0_usize..300).prop_map(|(side, length)| Step::Push { side, length }),
        4 => side().prop_map(|side| Step::Transmit { side }),
        6 => (side(), 1_usize..900).prop_map(|(side, bytes)| Step::DeliverBytes { side, bytes }),
        1 => Just(Step::Cut),
        2 => Just(Step::Connect),
        2 => (1_u32..90).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// Steps including those that TCP rules out.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (side(), 0..LARGEST).prop_map(|(side, length)| Step::Push { side, length }),
        8 => side().prop_map(|side| Step::Transmit { side }),
        12 => (side(), 1_usize..4).prop_map(|(side, writes)| Step::Deliver { side, writes }),
        1 => (side(), 0_usize..4).prop_map(|(side, nth)| Step::Drop { side, nth }),
        2 => (side(), 0_usize..4).prop_map(|(side, nth)| Step::Duplicate { side, nth }),
        1 => (side(), 1_usize..4).prop_map(|(side, nth)| Step::Swap { side, nth }),
        2 => Just(Step::Cut),
        4 => Just(Step::Connect),
        4 => prop_oneof![9 => 1_u32..150, 1 => 150_u32..1500].prop_map(|ms| Step::Wait { ms }),
        1 => side().prop_map(|side| Step::Crash { side }),
    ]
}

/// A process in one of its lives, on one of the two sides.
struct Side {
    session: Session,
    /// The number of its session, which both sides announce in their greetings.
    number: u64,
    /// True once this side has found that the peer violated the protocol.
    over: bool,
    pushed: Vec<Vec<u8>>,
    arrived: usize,
}

impl Side {
    fn new(number: u64, now: Duration) -> Self {
        let session = Session::new(settings(), now);
        Self { session, number, over: false, pushed: Vec::new(), arrived: 0 }
    }

    fn is_done(&self) -> bool {
        self.over || self.session.is_lost()
    }
}

struct World {
    sides: [Side; 2],
    /// Writes in flight towards each side.
    wires: [VecDeque<Bytes>; 2],
    /// Bytes that have arrived at each side but are no whole frame yet.
    partial: [BytesMut; 2],
    up: bool,
    now: Duration,
    sessions: u64,
}

impl World {
    fn new() -> Self {
        let side = || Side::new(1, Duration::ZERO);
        Self {
            sides: [side(), side()],
            wires: Default::default(),
            partial: Default::default(),
            up: false,
            now: Duration::ZERO,
            sessions: 1,
        }
    }

    fn cut(&mut self) {
        self.up = false;
        for side in 0..2 {
            self.sides[side].session.disconnect(self.now);
            self.wires[side].clear();
            self.partial[side].clear();
        }
    }

    /// Connects the sides. They resume the session if it is the same for both and not over; otherwise both begin
    /// another.
    fn connect(&mut self) {
        self.cut();
        for side in &mut self.sides {
            if side.session.is_lost() {
                let received = side.session.received();
                let again = side.session.connect(received, self.now);
                assert!(matches!(again, Err(SessionError::Lost)), "a lost session stays lost");
            }
        }
        if self.sides[0].number != self.sides[1].number || self.sides.iter().any(Side::is_done) {
            self.sessions += 1;
            self.sides = [0, 1].map(|_| Side::new(self.sessions, self.now));
        }
        let received = [0, 1].map(|side| self.sides[side].session.received());
        self.sides[0]
            .session
            .connect(received[1], self.now)
            .expect("the peer acknowledged only what was sent");
        self.sides[1]
            .session
            .connect(received[0], self.now)
            .expect("the peer acknowledged only what was sent");
        self.up = true;
    }

    fn push(&mut self, side: usize, length: usize) {
        let Side { session, pushed, number, .. } = &mut self.sides[side];
        if !session.has_room() {
            return;
        }
        // Makes each body unique, across sessions too.
        let mut body = [number.to_be_bytes(), (pushed.len() as u64).to_be_bytes()].concat();
        body.resize(16 + length, 7);
        session
            .push(|out| {
                out.extend_from_slice(&body);
                Ok::<_, TooLarge>(())
            })
            .expect("the message is small");
        pushed.push(body);
        assert!(
            session.unacknowledged() < settings().max_unacknowledged + LARGEST + 100,
            "unacknowledged bytes are bounded"
        );
    }

    fn transmit(&mut self, side: usize) {
        while let Some(bytes) = self.sides[side].session.transmit(self.now) {
            assert!(
                self.up && !self.sides[side].session.is_lost(),
                "nothing is written without a connection"
            );
            self.wires[1 - side].push_back(bytes);
        }
    }

    fn deliver(&mut self, side: usize, writes: usize) {
        for _ in 0..writes {
            let Some(write) = self.wires[side].front() else { return };
            self.deliver_bytes(side, write.len());
        }
    }

    fn deliver_bytes(&mut self, side: usize, mut bytes: usize) {
        while bytes > 0 && !self.sides[side].is_done() {
            let Some(write) = self.wires[side].front_mut() else { return };
            let some = write.split_to(bytes.min(write.len()));
            if write.is_empty() {
                self.wires[side].pop_front();
            }
            bytes -= some.len();
            self.partial[side].extend_from_slice(&some);
            self.receive(side);
        }
    }

    /// Processes the whole frames that have arrived.
    fn receive(&mut self, side: usize) {
        while let Some((frame, length)) = Frame::first(&self.partial[side], 1000).expect("frames are sent") {
            match self.sides[side].session.receive(frame, self.now) {
                Ok(None) => {}
                Ok(Some(body)) => {
                    let nth = self.sides[side].arrived;
                    let expected = self.sides[1 - side].pushed.get(nth);
                    assert_eq!(Some(body), expected.map(Vec::as_slice), "in order, each once");
                    self.sides[side].arrived += 1;
                }
                Err(SessionError::Gap { .. }) => {
                    self.sides[side].over = true;
                    self.cut();
                    return;
                }
                Err(error) => panic!("unexpected: {error}"),
            }
            self.partial[side].advance(length);
        }
    }

    fn wait(&mut self, ms: u32) {
        self.now += ms * MS;
        for side in 0..2 {
            match self.sides[side].session.on_time(self.now) {
                // Either timeout closes the connection.
                Some(Expired::Connection | Expired::Session) => self.cut(),
                None => {}
            }
            let silent = self.now.saturating_sub(self.sides[side].session.last_received());
            assert_eq!(self.sides[side].session.is_lost(), silent >= settings().grace);
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push { side, length } => self.push(side, length),
            Step::Transmit { side } => self.transmit(side),
            Step::Deliver { side, writes } => self.deliver(side, writes),
            Step::DeliverBytes { side, bytes } => self.deliver_bytes(side, bytes),
            Step::Drop { side, nth } => drop(self.wires[side].remove(nth)),
            Step::Duplicate { side, nth } => {
                if let Some(bytes) = self.wires[side].get(nth).cloned() {
                    self.wires[side].insert(nth, bytes);
                }
            }
            Step::Swap { side, nth } => {
                if nth < self.wires[side].len() {
                    self.wires[side].swap(nth - 1, nth);
                }
            }
            Step::Cut => self.cut(),
            Step::Connect => self.connect(),
            Step::Wait { ms } => self.wait(ms),
            Step::Crash { side } => {
                self.cut();
                self.sessions += 1;
                self.sides[side] = Side::new(self.sessions, self.now);
            }
        }
    }

    fn assert_all_arrived(&self) {
        for side in 0..2 {
            assert_eq!(self.sides[side].arrived, self.sides[1 - side].pushed.len());
            assert_eq!(self.sides[side].session.unacknowledged(), 0);
        }
    }

    /// Delivers everything over a network without faults.
    fn settle(&mut self) {
        self.connect();
        for _ in 0..4 {
            for side in 0..2 {
                self.transmit(side);
                self.deliver(1 - side, usize::MAX);
            }
            self.wait(100);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_once_and_in_order_whatever_the_connections_do(
        steps in proptest::collection::vec(ordinary_step(), 0..120),
    ) {
        let mut world = World::new();
        let mut silent = 0;
        for step in &steps {
            if let Step::Wait { ms } = step {
                silent += ms;
                if silent > 400 {
                    // Reconnects in time: the grace period is not under test here.
                    world.connect();
                    silent = 0;
                }
            }
            world.apply(step);
        }
        world.settle();
        prop_assert_eq!(world.sessions, 1, "the session never ended");
        world.assert_all_arrived();
    }

    #[test]
    fn whatever_happens_what_arrives_is_the_beginning_of_what_was_sent(
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
        }
        world.settle();
        world.assert_all_arrived();
    }
}
