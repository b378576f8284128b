//! Tests with many writers, and with connections that accept arbitrary amounts and break at arbitrary points.

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::remote::session::{SessionSettings, TooLarge};
use crate::wire::Frame;

const MS: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
enum Step {
    /// Pushes a message. The pushing thread begins to write it if it gets a turn, and wakes the writer task otherwise.
    Push {
        urgent: bool,
        length: usize,
    },
    /// Finishes one of the turns after `takes` bytes.
    Finish {
        which: usize,
        takes: usize,
    },
    /// Runs the writer task, if it was woken or is in the middle of a write; the connection accepts `takes` bytes.
    Task {
        takes: usize,
    },
    /// Receives a message from the other side.
    Hear,
    /// Breaks the connection and opens another.
    Reconnect,
    Wait {
        us: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (any::<bool>(), 0_usize..100).prop_map(|(urgent, length)| Step::Push { urgent, length }),
        5 => (0_usize..4, 0_usize..150).prop_map(|(which, takes)| Step::Finish { which, takes }),
        4 => (0_usize..300).prop_map(|takes| Step::Task { takes }),
        2 => Just(Step::Hear),
        1 => Just(Step::Reconnect),
        2 => (1_u64..200).prop_map(|us| Step::Wait { us }),
    ]
}

/// A sending process. Its writers are the numbers of the connections that they write to.
struct Sender {
    session: Session,
    outlet: Outlet<usize>,
    peer: Session,
    partial: BytesMut,
    connection: usize,
    /// Turns in which threads are writing.
    turns: Vec<Turn<usize>>,
    /// Bytes that the writer task is writing.
    writing: Option<Bytes>,
    woken: bool,
    pushed: u64,
    arrived: u64,
    now: Duration,
}

fn say<E: From<TooLarge>>(session: &mut Session, body: &[u8]) -> Result<(), E> {
    session.push(|out| {
        out.extend_from_slice(body);
        Ok(())
    })
}

impl Sender {
    fn new() -> Self {
        let new = || Session::new(SessionSettings::default(), Duration::ZERO);
        let mut sender = Self {
            session: new(),
            outlet: Outlet::new(),
            peer: new(),
            partial: BytesMut::new(),
            connection: 0,
            turns: Vec::new(),
            writing: None,
            woken: false,
            pushed: 0,
            arrived: 0,
            now: Duration::ZERO,
        };
        sender.reconnect();
        sender
    }

    fn reconnect(&mut self) {
        // The writer task of the previous connection is gone, even in the middle of a write. Threads with a turn are
        // not.
        self.writing = None;
        self.partial.clear();
        self.session.disconnect(self.now);
        self.peer.disconnect(self.now);
        self.outlet.close();
        self.session.connect(self.peer.received(), self.now).unwrap();
        self.peer.connect(self.session.received(), self.now).unwrap();
        self.connection += 1;
        self.outlet.open(Some(self.connection));
        // A new writer task begins by looking for work.
        self.woken = true;
    }

    /// Delivers bytes to the other side; bytes for an old connection are lost.
    fn write(&mut self, connection: usize, bytes: &[u8]) {
        if connection != self.connection {
            return;
        }
        self.partial.extend_from_slice(bytes);
        let frames = "whole frames, one after the other";
        while let Some((frame, length)) = Frame::first(&self.partial, 1000).expect(frames) {
            if let Some(body) = self.peer.receive(frame, self.now).expect("messages in order") {
                assert_eq!(body[..8], self.arrived.to_be_bytes());
                self.arrived += 1;
            }
            self.partial.advance(length);
        }
    }

    fn finish(&mut self, which: usize, takes: usize) {
        if self.turns.is_empty() {
            return;
        }
        let turn = self.turns.remove(which % self.turns.len());
        let takes = takes.min(turn.bytes.len());
        self.write(turn.writer, &turn.bytes[..takes]);
        self.woken |= self.outlet.done(&turn, takes);
    }

    fn task(&mut self, takes: usize) {
        if let Some(bytes) = &mut self.writing {
            let some = bytes.split_to(takes.min(bytes.len()));
            if bytes.is_empty() {
                self.writing = None;
                self.outlet.written();
                self.woken = true;
            }
            return self.write(self.connection, &some);
        }
        if std::mem::take(&mut self.woken) {
            match self.outlet.next(&mut self.session, self.now) {
                NextWrite::Write(bytes) => self.writing = Some(bytes),
                NextWrite::Taken | NextWrite::Nothing => {}
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push { urgent, length } => {
                let mut body = self.pushed.to_be_bytes().to_vec();
                body.resize(8 + length, 0);
                let is_free = self.outlet.is_free(&self.session, self.now);
                say::<TooLarge>(&mut self.session, &body).unwrap();
                self.pushed += 1;
                match self.outlet.at_once(&mut self.session, urgent, || self.now) {
                    Some(turn) => self.turns.push(turn),
                    None => {
                        assert!(!is_free, "`is_free` promises a turn");
                        self.woken = true;
                    }
                }
                let mine = self.turns.iter().filter(|turn| turn.writer == self.connection).count();
                assert!(mine + usize::from(self.writing.is_some()) <= 1, "one writes at a time");
            }
            Step::Finish { which, takes } => self.finish(which, takes),
            Step::Task { takes } => self.task(takes),
            Step::Hear => {
                say::<TooLarge>(&mut self.peer, b"").unwrap();
                while let Some(bytes) = self.peer.transmit(self.now) {
                    let mut rest = &bytes[..];
                    while let Some((frame, length)) = Frame::first(rest, 1000).unwrap() {
                        self.session.receive(frame, self.now).unwrap();
                        rest = &rest[length..];
                    }
                }
            }
            Step::Reconnect => self.reconnect(),
            Step::Wait { us } => self.now += Duration::from_micros(us),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_written_in_order_by_whoever_has_the_turn(
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut sender = Sender::new();
        for step in &steps {
            sender.apply(step);
        }
        // Finishing all turns, and the wake-ups of the writer task that result, must suffice to write everything.
        while !sender.turns.is_empty() {
            sender.finish(0, usize::MAX);
        }
        while sender.woken || sender.writing.is_some() {
            sender.task(usize::MAX);
        }
        prop_assert_eq!(sender.arrived, sender.pushed);
    }
}

#[test]
fn a_lone_question_is_written_at_once_and_of_many_the_first_only() {
    let mut sender = Sender::new();
    sender.task(0);
    let question = Step::Push { urgent: true, length: 10 };
    sender.apply(&Step::Hear);
    sender.apply(&question);
    assert_eq!(sender.turns.len(), 1);
    sender.finish(0, usize::MAX);
    assert_eq!(sender.arrived, 1);
    sender.apply(&question);
    assert!(sender.turns.is_empty() && sender.woken, "no message has arrived since the last turn");
    sender.task(usize::MAX);
    sender.task(usize::MAX);
    assert_eq!(sender.arrived, 2);
    sender.apply(&Step::Hear);
    sender.apply(&question);
    assert_eq!(sender.turns.len(), 1);
}

#[test]
fn what_nobody_waits_for_is_written_at_once_after_a_silence_only() {
    let mut sender = Sender::new();
    let told = Step::Push { urgent: false, length: 10 };
    sender.task(0);
    sender.now += MS;
    sender.apply(&told);
    sender.finish(0, usize::MAX);
    assert_eq!(sender.arrived, 1);
    sender.apply(&Step::Hear);
    sender.apply(&told);
    sender.apply(&told);
    assert!(sender.turns.is_empty() && sender.woken);
    sender.now += MS;
    // Earlier messages wait: they are written together with this one.
    sender.apply(&told);
    assert!(sender.turns.is_empty());
}

#[test]
fn much_that_has_gathered_is_written_at_once_whatever_it_is() {
    let mut sender = Sender::new();
    sender.task(0);
    let mut pushed = 0;
    while sender.turns.is_empty() {
        sender.apply(&Step::Push { urgent: false, length: 92 });
        pushed += 1;
    }
    assert!((200..400).contains(&pushed), "{pushed} messages of 100 bytes");
    sender.finish(0, usize::MAX);
    assert_eq!(sender.arrived, pushed);
}

#[test]
fn without_a_way_to_write_at_once_the_task_writes_everything() {
    let mut sender = Sender::new();
    sender.outlet.open(None);
    sender.now += MS;
    sender.apply(&Step::Push { urgent: true, length: 10 });
    assert!(sender.turns.is_empty() && sender.woken);
}
