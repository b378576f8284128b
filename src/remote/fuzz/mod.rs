//! Fuzz targets: all code that decodes the input of a peer, and the code that acts on it.

mod conversations;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

pub use self::conversations::{drives, greeting, head_says, node_says, peer_says, pulls};
use super::drives::{DriveRequest, Part};
use super::protocol::{Hello, Packet, Refusal, Welcome};
use super::session::{Session, SessionSettings, TooLarge};
use super::transfers::{PullRequest, PullResponse};
use crate::error::Result;
use crate::payload::ChunkHashes;
use crate::state::{Patch, Value};
use crate::wire::{self, Frame};
use crate::work::{Handle, Messages, Work, WorkContext};

/// Decodes frames, and passes them to a session.
pub fn frames(data: &[u8]) {
    let settings = SessionSettings::default();
    let mut session = Session::new(settings, Duration::ZERO);
    session.connect(0, Duration::ZERO).expect("a new session");
    let mut rest = data;
    while let Ok(Some((frame, length))) = Frame::first(rest, settings.max_frame) {
        rest = &rest[length..];
        let Ok(body) = session.receive(frame, Duration::ZERO) else { return };
        while session.transmit(Duration::ZERO).is_some() {}
        if let Some(body) = body {
            let _ = Packet::read(body);
        }
    }
}

/// Decodes every message that a peer can send, and the greetings.
pub fn messages(data: &[u8]) {
    let _ = Packet::read(data);
    let mut control = vec![0];
    control.extend_from_slice(data);
    let _ = Packet::read(&control);
    let _ = wire::decode::<Hello>(data);
    let _ = wire::decode::<Welcome>(data);
    let _ = wire::decode::<Refusal>(data);
    let _ = wire::decode::<DriveRequest>(data);
    let _ = wire::decode::<Part>(data);
    let _ = wire::decode::<PullRequest>(data);
    if let Ok(PullResponse::Here { length, hash, chunks, .. }) = wire::decode::<PullResponse>(data) {
        let _ = ChunkHashes::verified(length, hash.0, &chunks);
    }
}

/// A reader of the structured parts of arbitrary bytes.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Returns mostly a small number, and occasionally any number.
    fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 240 {
            return Some(first.into());
        }
        let (wide, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*wide))
    }

    /// Returns a part whose length is given by two bytes.
    fn part(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        self.0 = rest;
        Some(part)
    }
}

/// Runs a session whose connections come and go, while time passes and the peer sends arbitrary frames.
pub fn session(data: &[u8]) {
    let mut script = Script(data);
    let mut now = Duration::ZERO;
    let settings =
        SessionSettings { max_unacknowledged: 4096, max_frame: 2048, ..SessionSettings::default() };
    let mut session = Session::new(settings, now);
    let (mut pushed, mut arrived, mut broken) = (0_u64, 0_u64, false);
    while let Some(what) = script.byte() {
        match what % 8 {
            0 => {
                let Some(length) = script.byte() else { break };
                let message = vec![what; usize::from(length) * 16];
                let taken: Result<(), TooLarge> = session.push(|out| {
                    out.extend_from_slice(&message);
                    Ok(())
                });
                pushed += u64::from(taken.is_ok());
            }
            1 => {
                let Some(received) = script.number() else { break };
                broken |= session.connect(received, now).is_err();
            }
            2 => session.disconnect(now),
            3 => {
                let is_connected = session.is_connected();
                let mut sent = BytesMut::new();
                while let Some(bytes) = session.transmit(now) {
                    sent.extend_from_slice(&bytes);
                }
                assert!(sent.is_empty() || is_connected, "nothing is written without a connection");
                let mut rest = &sent[..];
                while let Some((frame, length)) =
                    Frame::first(rest, usize::MAX).expect("a session writes frames")
                {
                    match frame {
                        Frame::Data { seq, .. } => assert!(seq <= pushed),
                        Frame::Ack { received } => assert!(received <= arrived),
                        _ => panic!("a session writes nothing else"),
                    }
                    rest = &rest[length..];
                }
                assert!(rest.is_empty(), "a session writes whole frames");
            }
            4 => {
                let Some(millis) = script.number() else { break };
                now += Duration::from_millis(millis % 20_000);
                let _ = session.on_time(now);
            }
            kind => {
                let Some(number) = script.number() else { break };
                let frame = match kind {
                    5 => Frame::Data { seq: number, body: b"" },
                    6 => Frame::Ack { received: number },
                    // Rarely, since these frames end the session.
                    _ if number == 0 => Frame::Bye(b""),
                    _ if number == 1 => Frame::Hello(b""),
                    _ => Frame::Data { seq: arrived + 1, body: b"" },
                };
                let acknowledged = matches!(frame, Frame::Ack { received } if received == pushed);
                match session.receive(frame, now) {
                    Ok(Some(_)) => arrived += 1,
                    Ok(None) if acknowledged => assert_eq!(session.unacknowledged(), 0),
                    Ok(None) => {}
                    Err(_) => broken = true,
                }
            }
        }
        assert_eq!(session.received(), arrived, "each number once, and none left out");
        assert!(session.next_deadline().is_some() != session.is_lost());
        if broken {
            // The connection is closed, and no other is opened.
            return;
        }
    }
}

/// Applies arbitrary patches to an arbitrary state of a Work.
pub fn states(data: &[u8]) {
    let mut script = Script(data);
    let Some(first) = script.part() else { return };
    let mut value = wire::decode::<Value>(first).unwrap_or_default();
    let before = value.clone();
    let mut folded: Option<Patch> = None;
    let mut fits = true;
    while let Some(part) = script.part() {
        let Ok(patch) = wire::decode::<Patch>(part) else { continue };
        let bytes = wire::encode(&patch).expect("a decoded patch can be encoded");
        assert!(wire::decode::<Patch>(&bytes).is_ok_and(|again| again == patch));
        let _ = patch.touches();
        match &mut folded {
            Some(folded) => folded.then(patch.clone()),
            none => *none = Some(patch.clone()),
        }
        fits &= value.apply(patch).is_ok();
        well_formed(&value);
    }
    if let Some(folded) = folded {
        let mut at_once = before;
        let fitted = at_once.apply(folded).is_ok();
        well_formed(&at_once);
        // A patch that does not fit may fit when it is folded, or vice versa. If both fit, the results are equal.
        if fits && fitted {
            assert_eq!(at_once, value);
        }
    }
}

fn well_formed(value: &Value) {
    let bytes = wire::encode(value).expect("every value can be written");
    let again: Value = wire::decode(&bytes).expect("and read");
    assert_eq!(again, *value);
    let _ = value.to_json();
    let _ = value.encoded_len();
    let _ = value.get("a.0.b");
    let _ = value.decode::<Lab>();
    let _ = value.decode::<BTreeMap<i8, Option<Vec<f32>>>>();
}

/// The corpora contain its name and the names of its messages.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Lab {
    numbers: Vec<u32>,
    note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Add(u32);

#[derive(Serialize, Deserialize)]
struct Sum;

impl Work for Lab {
    type Input = Vec<u32>;

    async fn run(&mut self, numbers: Vec<u32>, cx: &mut WorkContext<Self>) -> Result<()> {
        self.numbers.extend(numbers);
        cx.publish(self);
        cx.turn(self).await?;
        self.note = Some("done".to_owned());
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Add>().accept::<Sum>();
    }
}

impl Handle<Add> for Lab {
    type Reply = ();

    async fn handle(&mut self, Add(number): Add, cx: &mut WorkContext<Self>) {
        self.numbers.push(number);
        cx.publish(self);
    }
}

impl Handle<Sum> for Lab {
    type Reply = u64;

    async fn handle(&mut self, _: Sum, _: &mut WorkContext<Self>) -> u64 {
        self.numbers.iter().map(|number| u64::from(*number)).sum()
    }
}
