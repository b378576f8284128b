//! Random schedules of whatever can happen to two sessions, against a model: each side has a list of what it has pushed, and what
//! has arrived at the other must be the beginning of it.
//!
//! What happens goes beyond what TCP does: writes are lost, doubled and swapped within a connection. A side that finds out, by a
//! gap, ends the session, as one that crashes or is silent for too long; then both begin another.

use std::collections::VecDeque;

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
    /// What has gathered gets on its way.
    Transmit {
        side: usize,
    },
    /// So many writes arrive.
    Deliver {
        side: usize,
        writes: usize,
    },
    /// One of the writes on their way is lost.
    Drop {
        side: usize,
        nth: usize,
    },
    Duplicate {
        side: usize,
        nth: usize,
    },
    /// One of them overtakes the one before it.
    Swap {
        side: usize,
        nth: usize,
    },
    /// The connection breaks; what was on its way is lost.
    Cut,
    Connect,
    Wait {
        ms: u32,
    },
    /// A process is killed, and started again.
    Crash {
        side: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let side = || 0_usize..2;
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

/// One of the two processes, in one of its lives.
struct Side {
    session: Session,
    /// Which session it is in: what both have said in their greetings.
    number: u64,
    /// It has found that the other broke the protocol.
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
    /// Towards each side.
    wires: [VecDeque<Bytes>; 2],
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
        }
    }

    /// Goes on with the session, where both are in the same and it is not over; else both begin another.
    fn connect(&mut self) {
        self.cut();
        for side in &mut self.sides {
            if side.session.is_lost() {
                let received = side.session.received();
                let again = side.session.connect(received, self.now);
                assert!(matches!(again, Err(SessionError::Lost)), "what is lost is lost for ever");
            }
        }
        if self.sides[0].number != self.sides[1].number || self.sides.iter().any(Side::is_done) {
            self.sessions += 1;
            self.sides = [0, 1].map(|_| Side::new(self.sessions, self.now));
        }
        let received = [0, 1].map(|side| self.sides[side].session.received());
        self.sides[0].session.connect(received[1], self.now).expect("it has what was sent");
        self.sides[1].session.connect(received[0], self.now).expect("it has what was sent");
        self.up = true;
    }

    fn push(&mut self, side: usize, length: usize) {
        let Side { session, pushed, number, .. } = &mut self.sides[side];
        if !session.has_room() {
            return;
        }
        // No two are the same, of whatever session.
        let mut body = [number.to_be_bytes(), (pushed.len() as u64).to_be_bytes()].concat();
        body.resize(16 + length, 7);
        session
            .push(|out| {
                out.extend_from_slice(&body);
                Ok::<_, TooLarge>(())
            })
            .expect("it is small");
        pushed.push(body);
        assert!(session.unacknowledged() < settings().max_unacknowledged + LARGEST + 100, "it is bounded");
    }

    fn transmit(&mut self, side: usize) {
        while let Some(bytes) = self.sides[side].session.transmit(self.now) {
            assert!(self.up && !self.sides[side].session.is_lost(), "nothing is said without a connection");
            self.wires[1 - side].push_back(bytes);
        }
    }

    fn deliver(&mut self, side: usize, writes: usize) {
        for _ in 0..writes {
            if self.sides[side].is_done() {
                return;
            }
            let Some(bytes) = self.wires[side].pop_front() else { return };
            let mut rest = &bytes[..];
            while let Some((frame, length)) = Frame::first(rest, 1000).expect("whole frames are sent") {
                rest = &rest[length..];
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
                    Err(error) => panic!("nobody did that: {error}"),
                }
            }
        }
    }

    fn wait(&mut self, ms: u32) {
        self.now += ms * MS;
        for side in 0..2 {
            match self.sides[side].session.on_time(self.now) {
                // It closes the connection.
                Some(Expired::Connection | Expired::Session) => self.cut(),
                None => {}
            }
            let silent = self.now.saturating_sub(self.sides[side].session.heard());
            assert_eq!(self.sides[side].session.is_lost(), silent >= settings().grace);
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push { side, length } => self.push(side, length),
            Step::Transmit { side } => self.transmit(side),
            Step::Deliver { side, writes } => self.deliver(side, writes),
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

    /// The network is well from now on.
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
    fn whatever_happens_what_arrives_is_the_beginning_of_what_was_sent(
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
        }
        world.settle();
        for side in 0..2 {
            prop_assert_eq!(world.sides[side].arrived, world.sides[1 - side].pushed.len());
            prop_assert_eq!(world.sides[side].session.unacknowledged(), 0);
        }
    }
}
