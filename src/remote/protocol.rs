//! What two processes say to each other.
//!
//! A connection begins with one [`Hello`] from the dialer and one [`Welcome`] or [`Refusal`] from the listener, as
//! MessagePack in `Hello` and `Bye` frames. Then come the messages of a session: the body of each data frame is one
//! byte that says what it is, and
//!
//! | byte | what | body |
//! | --- | --- | --- |
//! | 0 | control | a [`Control`] as MessagePack |
//! | 1 | tell | channel (u32), the message as MessagePack |
//! | 2 | ask | channel (u32), question (u64), the message as MessagePack |
//! | 3 | answer | question (u64), the answer as MessagePack |
//! | 4 | credit | channel (u32), how many more messages may be sent (u32) |
//!
//! Numbers are big-endian. Messages between Works are by far the most frequent, hence their short headers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::references::{Carried, Source};
use super::vitals::Vitals;
use crate::id::{ActorPath, AppId};
use crate::payload::{Hex, PayloadId};
use crate::state::{Patch, Value};
use crate::trace::Cause;
use crate::transport::Endpoint;
use crate::wire::{self, CodecError};
use crate::work::{Closed, Report, Resources};

/// How many messages may be sent on a new channel before there was any word from the other end.
pub(super) const FIRST_CREDIT: u32 = 64;

/// Who a process is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeCard {
    /// Another one each time it is started.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) resources: Resources,
    /// Where other processes reach it.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// What two processes must have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The types of Work, and the messages that each takes from other processes.
    pub(crate) works: BTreeMap<String, Vec<String>>,
}

impl Program {
    /// What is different there, in words.
    pub(super) fn difference(&self, there: &Self) -> Option<String> {
        if self.name != there.name {
            return Some(format!("this is the program `{}`, and that is `{}`", self.name, there.name));
        }
        if self.version != there.version {
            return Some(format!("this is version {}, and that is version {}", self.version, there.version));
        }
        let list = |names: BTreeSet<&String>| {
            names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        };
        let (here, far): (BTreeSet<_>, BTreeSet<_>) =
            (self.works.keys().collect(), there.works.keys().collect());
        let (only_here, only_there) = (list(&here - &far), list(&far - &here));
        match (only_here.is_empty(), only_there.is_empty()) {
            (true, true) => {}
            (false, true) => return Some(format!("only this one has the Works {only_here}")),
            (true, false) => return Some(format!("only that one has the Works {only_there}")),
            (false, false) => {
                return Some(format!("only this one has the Works {only_here}, only that one {only_there}"));
            }
        }
        let other = self.works.iter().find(|(name, messages)| there.works.get(*name) != Some(messages));
        other.map(|(name, _)| format!("the messages of Work `{name}` are not the same"))
    }
}

/// What a dialer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// To host Works of the App whose head it has dialed.
    Node,
    /// To bring messages from Works of the same App.
    Peer,
    /// To be shown the App's state.
    Watcher,
    /// To pull values; there is no session.
    Puller,
    /// To do something with a drive of the head; there is no session.
    Drive,
}

/// The first thing that a dialer says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) role: Role,
    pub(crate) program: Program,
    pub(crate) node: NodeCard,
    /// The App, if it is known already.
    pub(crate) app: Option<AppId>,
    /// The session that goes on with this connection; another number each time one begins.
    pub(crate) session: u64,
    /// Whether it begins.
    pub(crate) fresh: bool,
    /// The last message of the session that arrived at the dialer.
    pub(crate) received: u64,
}

/// The listener takes the connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) app: AppId,
    pub(crate) node: NodeCard,
    /// The last message of the session that arrived at the listener.
    pub(crate) received: u64,
    pub(crate) heartbeat_ms: u64,
    pub(crate) grace_ms: u64,
}

/// The listener does not take it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// Whether the session was given up, so that another may begin.
    pub(crate) lost: bool,
}

/// What a head and its nodes tell each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Control {
    // From the head.
    /// Start an incarnation.
    Launch {
        incarnation: u64,
        path: ActorPath,
        work: String,
        pooled: bool,
        state: Value,
        max_state_bytes: u64,
        mailbox: u64,
    },
    Run {
        incarnation: u64,
        run: u64,
        attempt: u32,
        input: Bytes,
        #[serde(default, skip_serializing_if = "Cause::is_none")]
        trace: Cause,
    },
    Cancel {
        incarnation: u64,
        run: u64,
    },
    Stop {
        incarnation: u64,
    },
    /// End it by force.
    Kill {
        incarnation: u64,
    },
    /// Refuse messages.
    Close {
        incarnation: u64,
        why: Closed,
    },
    /// Where a Work lives; or why it cannot be reached.
    Located {
        path: ActorPath,
        place: Result<NodeCard, Closed>,
    },
    /// Vitals have come.
    Heard,
    /// The App is over.
    End {
        why: String,
    },
    /// Who has a value; or how it was lost.
    There {
        id: PayloadId,
        sources: Vec<Source>,
        lost: Option<String>,
    },
    /// Pull the bytes of this value, and keep them.
    Keep {
        id: PayloadId,
        hash: Hex<32>,
        length: u64,
    },
    /// Nothing refers to this value any more: a copy of it is not wanted.
    Discard {
        id: PayloadId,
    },
    /// The App's state, for a watcher.
    State {
        version: u64,
        state: Value,
    },
    // From a node.
    News {
        incarnation: u64,
        patch: Option<Patch>,
        /// Whether the state now refers to what was carried, and to nothing else.
        refers: bool,
        reports: Vec<Report>,
        #[serde(default, skip_serializing_if = "Cause::is_none")]
        trace: Cause,
    },
    Log {
        path: Option<ActorPath>,
        run: Option<u64>,
        level: log::Level,
        target: String,
        text: String,
    },
    Locate {
        path: ActorPath,
    },
    /// How loaded it is, and how long the answer to the last of these took.
    Vitals {
        vitals: Vitals,
        round_trip_us: Option<u64>,
    },
    /// The bytes of a value are in this process as well, or cannot be.
    Copied {
        id: PayloadId,
        failed: Option<String>,
    },
    /// Who has this value?
    Where {
        id: PayloadId,
    },
    // From anybody.
    /// The next message has these references.
    Carries {
        payloads: Vec<Carried>,
    },
    /// Nothing here refers to this value any more, which came so often.
    Release {
        id: PayloadId,
        count: u32,
    },
    /// Have this value held for this process, which has it from somebody else.
    Hold {
        id: PayloadId,
    },
    Held {
        id: PayloadId,
        there: bool,
    },
    /// What is sent on this channel is for this Work and of this type.
    Open {
        channel: u32,
        path: ActorPath,
        message: String,
    },
    /// A question was not answered.
    Unanswered {
        question: u64,
        why: Unanswered,
    },
}

impl Control {
    /// What it is called in the protocol.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Launch { .. } => "launch",
            Self::Run { .. } => "run",
            Self::Cancel { .. } => "cancel",
            Self::Stop { .. } => "stop",
            Self::Kill { .. } => "kill",
            Self::Close { .. } => "close",
            Self::Located { .. } => "located",
            Self::End { .. } => "end",
            Self::State { .. } => "state",
            Self::News { .. } => "news",
            Self::Log { .. } => "log",
            Self::Vitals { .. } => "vitals",
            Self::Heard => "heard",
            Self::Locate { .. } => "locate",
            Self::Open { .. } => "open",
            Self::Unanswered { .. } => "unanswered",
            Self::Copied { .. } => "copied",
            Self::Where { .. } => "where",
            Self::Carries { .. } => "carries",
            Self::Release { .. } => "release",
            Self::Hold { .. } => "hold",
            Self::Held { .. } => "held",
            Self::There { .. } => "there",
            Self::Keep { .. } => "keep",
            Self::Discard { .. } => "discard",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unanswered {
    Refused(Closed),
    Failed,
    NodeLost,
    Unreadable(String),
}

/// One message of a session.
#[derive(Debug)]
pub(super) enum Packet<'a> {
    Control(Box<Control>),
    Tell { channel: u32, body: &'a [u8] },
    Ask { channel: u32, question: u64, body: &'a [u8] },
    Answer { question: u64, body: &'a [u8] },
    Credit { channel: u32, more: u32 },
}

/// A message of a session that is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacketError {
    #[error("a message came that is too short")]
    TooShort,
    #[error("a message of an unknown kind ({0}) came")]
    UnknownKind(u8),
    #[error("a control message cannot be read: {0}")]
    Control(#[from] CodecError),
}

const CONTROL: u8 = 0;
const TELL: u8 = 1;
const ASK: u8 = 2;
const ANSWER: u8 = 3;
const CREDIT: u8 = 4;

impl<'a> Packet<'a> {
    pub(super) fn read(mut body: &'a [u8]) -> Result<Self, PacketError> {
        let kind = body.try_get_u8().map_err(|_| PacketError::TooShort)?;
        let least = match kind {
            CONTROL => 0,
            TELL => 4,
            ASK => 12,
            ANSWER | CREDIT => 8,
            _ => return Err(PacketError::UnknownKind(kind)),
        };
        if body.len() < least {
            return Err(PacketError::TooShort);
        }
        Ok(match kind {
            CONTROL => Self::Control(Box::new(wire::decode(body)?)),
            TELL => Self::Tell { channel: body.get_u32(), body },
            ASK => Self::Ask { channel: body.get_u32(), question: body.get_u64(), body },
            ANSWER => Self::Answer { question: body.get_u64(), body },
            _ => Self::Credit { channel: body.get_u32(), more: body.get_u32() },
        })
    }
}

pub(super) fn write_control(out: &mut BytesMut, control: &Control) -> Result<(), CodecError> {
    out.put_u8(CONTROL);
    wire::encode_into(control, out)
}

pub(super) fn begin_tell(out: &mut BytesMut, channel: u32) {
    out.put_u8(TELL);
    out.put_u32(channel);
}

pub(super) fn begin_ask(out: &mut BytesMut, channel: u32, question: u64) {
    out.put_u8(ASK);
    out.put_u32(channel);
    out.put_u64(question);
}

pub(super) fn write_answer(out: &mut BytesMut, question: u64, answer: &[u8]) {
    out.put_u8(ANSWER);
    out.put_u64(question);
    out.put_slice(answer);
}

pub(super) fn write_credit(out: &mut BytesMut, channel: u32, more: u32) {
    out.put_u8(CREDIT);
    out.put_u32(channel);
    out.put_u32(more);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::read(&bytes);
            let _ = wire::decode::<Hello>(&bytes);
            let _ = wire::decode::<Welcome>(&bytes);
            let _ = wire::decode::<Refusal>(&bytes);
        }
    }

    #[test]
    fn every_kind_of_state_travels() {
        use crate::state::Value;

        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Kind {
            Unit,
            Tuple(i8, u64),
            Fields { wide: i128, wider: u128 },
        }

        let state = (
            (i64::MIN, u64::MAX, i128::MIN, i128::MAX, 1.5_f32, f64::MIN_POSITIVE),
            ('x', "text".to_owned(), Some(()), None::<u8>, true),
            vec![Kind::Unit, Kind::Tuple(-1, 1), Kind::Fields { wide: -1, wider: 1 }],
            BTreeMap::from([(1_u8, "one".to_owned()), (2, "two".to_owned())]),
            wire::encode("bytes").unwrap(),
        );
        let value = Value::of(&state).unwrap();
        let control = Control::State { version: 1, state: value.clone() };
        let mut bytes = BytesMut::new();
        write_control(&mut bytes, &control).unwrap();
        let Packet::Control(read) = Packet::read(&bytes).unwrap() else { panic!("it was a control") };
        let Control::State { state: there, .. } = *read else { panic!("it was a state") };
        assert_eq!(there, value);
    }

    #[test]
    fn a_state_of_as_many_levels_as_there_may_be_travels_and_so_do_its_changes() {
        use crate::state::{Tracker, Value};

        #[derive(Serialize)]
        enum Tree {
            Leaf(u32),
            Inner { inner: Box<Tree> },
        }

        let tree = |leaf| (0..63).fold(Tree::Leaf(leaf), |inner, _| Tree::Inner { inner: Box::new(inner) });
        let travels = |control: &Control| {
            let mut bytes = BytesMut::new();
            write_control(&mut bytes, control).unwrap();
            match Packet::read(&bytes).unwrap() {
                Packet::Control(read) => *read,
                other => panic!("it was a control: {other:?}"),
            }
        };
        let mut tracker = Tracker::new(1 << 20);
        let mut there = Value::Nil;
        for leaf in 0..3 {
            let patch = tracker.update(&tree(leaf)).unwrap();
            let news = Control::News {
                incarnation: 1,
                patch,
                refers: false,
                reports: Vec::new(),
                trace: Cause::default(),
            };
            let Control::News { patch, .. } = travels(&news) else { panic!("it was news") };
            there.apply(patch.unwrap()).unwrap();
            assert_eq!(there, *tracker.value());
        }
        let Control::State { state, .. } = travels(&Control::State { version: 1, state: there.clone() })
        else {
            panic!("it was a state")
        };
        assert_eq!(state, there);
    }

    #[test]
    fn changes_that_are_nested_too_deeply_are_refused() {
        let level = b"\x81\xa3seq\x83\xa4from\x01\xa3len\x01\xa5items\x81\x00";
        for levels in [80, 300, 100_000] {
            let bytes = [
                &[CONTROL][..],
                b"\x81\xa4news\x84\xabincarnation\x01\xa7reports\x90\xa6refers\xc2\xa5patch",
            ]
            .concat();
            let bytes = [bytes, level.repeat(levels), b"\x81\xa3set\xc0".to_vec()].concat();
            assert_eq!(Packet::read(&bytes).is_ok(), levels == 80);
        }
    }

    fn program(works: &[&str]) -> Program {
        let works = works.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        Program { name: "app".to_owned(), version: "1".to_owned(), works }
    }

    #[test]
    fn a_refusal_names_the_difference() {
        let here = program(&["A", "B"]);
        assert_eq!(here.difference(&here), None);
        assert!(here.difference(&program(&["A"])).unwrap().contains("only this one has the Works `B`"));
        assert!(
            here.difference(&program(&["A", "B", "C"])).unwrap().contains("only that one has the Works `C`")
        );
        let newer = Program { version: "2".to_owned(), ..here.clone() };
        assert!(here.difference(&newer).unwrap().contains("version 1, and that is version 2"));
        let mut other = here.clone();
        other.works.get_mut("B").unwrap().push("Predict".to_owned());
        assert!(here.difference(&other).unwrap().contains("the messages of Work `B`"));
    }
}
