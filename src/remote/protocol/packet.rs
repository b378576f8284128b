//! Encoding of the messages of a session.
//!
//! # Guarantees
//! - Decoding arbitrary bytes never panics or overflows the stack.
//! - Every possible state, and every change of it, can be encoded.

use bytes::{Buf, BufMut, BytesMut};

use super::Control;
use crate::wire::{self, CodecError};
use crate::work::AskId;

/// Initial credit of a channel, in messages.
pub(in crate::remote) const FIRST_CREDIT: u32 = 64;

/// A message of a session.
#[derive(Debug)]
pub(in crate::remote) enum Packet<'a> {
    Control(Box<Control>),
    Tell {
        channel: u32,
        sender: u32,
        body: &'a [u8],
    },
    Ask {
        channel: u32,
        sender: u32,
        question: u64,
        /// The id of the ask, if a Work may await it.
        ask: Option<AskId>,
        body: &'a [u8],
    },
    /// An ask whose reply is to be a stream.
    AskForStream {
        channel: u32,
        sender: u32,
        question: u64,
        /// The number of items that may be sent at first, and the most that may be on their way at any time.
        window: u32,
        /// The id of the ask, if a Work may await it.
        ask: Option<AskId>,
        body: &'a [u8],
    },
    Answer {
        question: u64,
        body: &'a [u8],
    },
    /// An item of a stream.
    Item {
        question: u64,
        body: &'a [u8],
    },
    /// Credit for `more` items of a stream.
    ItemCredit {
        question: u64,
        more: u32,
    },
    Credit {
        channel: u32,
        more: u32,
    },
    /// A tell that no handler has begun.
    Returned {
        channel: u32,
        sender: u32,
        body: &'a [u8],
    },
    /// An ask that no handler has begun.
    ReturnedQuestion {
        question: u64,
    },
}

/// Error returned when the body of a data frame is not a valid message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacketError {
    #[error("peer sent a message that is too short")]
    TooShort,
    #[error("peer sent a message of an unknown kind ({0})")]
    UnknownKind(u8),
    #[error("peer sent an invalid control message: {0}")]
    Control(CodecError),
}

const CONTROL: u8 = 0;
const TELL: u8 = 1;
const ASK: u8 = 2;
const ANSWER: u8 = 3;
const CREDIT: u8 = 4;
const RETURNED: u8 = 5;
const RETURNED_QUESTION: u8 = 6;
const ASK_FOR_STREAM: u8 = 7;
const ITEM: u8 = 8;
const ITEM_CREDIT: u8 = 9;
const ASK_WITH_ID: u8 = 10;
const ASK_FOR_STREAM_WITH_ID: u8 = 11;

impl<'a> Packet<'a> {
    pub(in crate::remote) fn read(mut body: &'a [u8]) -> Result<Self, PacketError> {
        let kind = body.try_get_u8().map_err(|_| PacketError::TooShort)?;
        let least = match kind {
            CONTROL => 0,
            ITEM_CREDIT => 12,
            ASK => 16,
            ASK_FOR_STREAM => 20,
            ASK_WITH_ID => 24,
            ASK_FOR_STREAM_WITH_ID => 28,
            TELL | RETURNED | ANSWER | ITEM | CREDIT | RETURNED_QUESTION => 8,
            _ => return Err(PacketError::UnknownKind(kind)),
        };
        if body.len() < least {
            return Err(PacketError::TooShort);
        }
        Ok(match kind {
            CONTROL => Self::Control(Box::new(wire::decode(body).map_err(PacketError::Control)?)),
            TELL => Self::Tell { channel: body.get_u32(), sender: body.get_u32(), body },
            ASK | ASK_WITH_ID => Self::Ask {
                channel: body.get_u32(),
                sender: body.get_u32(),
                question: body.get_u64(),
                ask: read_id(kind == ASK_WITH_ID, &mut body),
                body,
            },
            ASK_FOR_STREAM | ASK_FOR_STREAM_WITH_ID => Self::AskForStream {
                channel: body.get_u32(),
                sender: body.get_u32(),
                question: body.get_u64(),
                window: body.get_u32(),
                ask: read_id(kind == ASK_FOR_STREAM_WITH_ID, &mut body),
                body,
            },
            ITEM => Self::Item { question: body.get_u64(), body },
            ITEM_CREDIT => Self::ItemCredit { question: body.get_u64(), more: body.get_u32() },
            ANSWER => Self::Answer { question: body.get_u64(), body },
            RETURNED => Self::Returned { channel: body.get_u32(), sender: body.get_u32(), body },
            RETURNED_QUESTION => Self::ReturnedQuestion { question: body.get_u64() },
            _ => Self::Credit { channel: body.get_u32(), more: body.get_u32() },
        })
    }
}

/// Reads the id of an ask, which was checked to be there.
fn read_id(has_id: bool, body: &mut &[u8]) -> Option<AskId> {
    has_id.then(|| AskId::numbered(body.get_u64())).and_then(AskId::known)
}

pub(in crate::remote) fn write_control(out: &mut BytesMut, control: &Control) -> Result<(), CodecError> {
    out.put_u8(CONTROL);
    wire::encode_into(control, out)
}

pub(in crate::remote) fn begin_tell(out: &mut BytesMut, channel: u32, sender: u32) {
    out.put_u8(TELL);
    out.put_u32(channel);
    out.put_u32(sender);
}

pub(in crate::remote) fn begin_ask(
    out: &mut BytesMut,
    channel: u32,
    sender: u32,
    question: u64,
    ask: Option<AskId>,
) {
    out.put_u8(if ask.is_some() { ASK_WITH_ID } else { ASK });
    out.put_u32(channel);
    out.put_u32(sender);
    out.put_u64(question);
    ask.into_iter().for_each(|ask| out.put_u64(ask.number()));
}

pub(in crate::remote) fn begin_ask_for_stream(
    out: &mut BytesMut,
    channel: u32,
    sender: u32,
    question: u64,
    window: u32,
    ask: Option<AskId>,
) {
    out.put_u8(if ask.is_some() { ASK_FOR_STREAM_WITH_ID } else { ASK_FOR_STREAM });
    out.put_u32(channel);
    out.put_u32(sender);
    out.put_u64(question);
    out.put_u32(window);
    ask.into_iter().for_each(|ask| out.put_u64(ask.number()));
}

pub(in crate::remote) fn write_item(out: &mut BytesMut, question: u64, item: &[u8]) {
    out.put_u8(ITEM);
    out.put_u64(question);
    out.put_slice(item);
}

pub(in crate::remote) fn write_item_credit(out: &mut BytesMut, question: u64, more: u32) {
    out.put_u8(ITEM_CREDIT);
    out.put_u64(question);
    out.put_u32(more);
}

pub(in crate::remote) fn write_answer(out: &mut BytesMut, question: u64, answer: &[u8]) {
    out.put_u8(ANSWER);
    out.put_u64(question);
    out.put_slice(answer);
}

pub(in crate::remote) fn begin_returned(out: &mut BytesMut, channel: u32, sender: u32) {
    out.put_u8(RETURNED);
    out.put_u32(channel);
    out.put_u32(sender);
}

pub(in crate::remote) fn write_returned_question(out: &mut BytesMut, question: u64) {
    out.put_u8(RETURNED_QUESTION);
    out.put_u64(question);
}

pub(in crate::remote) fn write_credit(out: &mut BytesMut, channel: u32, more: u32) {
    out.put_u8(CREDIT);
    out.put_u32(channel);
    out.put_u32(more);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::super::{Hello, Refusal, Welcome};
    use super::*;
    use crate::trace::Cause;

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
    fn messages_of_streams_travel() {
        let mut bytes = BytesMut::new();
        for id in [None, Some(AskId::numbered(5))] {
            bytes.clear();
            begin_ask_for_stream(&mut bytes, 3, 5, u64::MAX, 64, id);
            bytes.put_slice(b"message");
            let read = Packet::read(&bytes).unwrap();
            let Packet::AskForStream {
                channel: 3,
                sender: 5,
                question: u64::MAX,
                window: 64,
                ask,
                body: b"message",
            } = read
            else {
                panic!("{read:?}")
            };
            assert_eq!(ask, id);
            bytes.clear();
            begin_ask(&mut bytes, 3, 5, u64::MAX, id);
            bytes.put_slice(b"message");
            let read = Packet::read(&bytes).unwrap();
            let Packet::Ask { channel: 3, sender: 5, question: u64::MAX, ask, body: b"message" } = read
            else {
                panic!("{read:?}")
            };
            assert_eq!(ask, id);
        }
        bytes.clear();
        write_item(&mut bytes, 7, b"item");
        let read = Packet::read(&bytes).unwrap();
        let Packet::Item { question: 7, body: b"item" } = read else { panic!("{read:?}") };
        bytes.clear();
        write_item_credit(&mut bytes, 7, 16);
        let read = Packet::read(&bytes).unwrap();
        let Packet::ItemCredit { question: 7, more: 16 } = read else { panic!("{read:?}") };
        for kind in [ASK_FOR_STREAM, ASK_WITH_ID, ASK_FOR_STREAM_WITH_ID, ITEM, ITEM_CREDIT] {
            assert!(matches!(Packet::read(&[kind, 0, 0, 0, 0, 0, 0, 0]), Err(PacketError::TooShort)));
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
        let Packet::Control(read) = Packet::read(&bytes).unwrap() else { panic!("not a control message") };
        let Control::State { state: there, .. } = *read else { panic!("not a state") };
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
                other => panic!("not a control message: {other:?}"),
            }
        };
        let mut tracker = Tracker::new(1 << 20);
        let mut there = Value::Nil;
        for leaf in 0..3 {
            let patch = tracker.update(&tree(leaf)).unwrap();
            let update = Control::Update {
                incarnation: 1,
                patch,
                refers: false,
                reports: Vec::new(),
                more: false,
                trace: Cause::default(),
            };
            let Control::Update { patch, .. } = travels(&update) else { panic!("not an update") };
            there.apply(patch.unwrap()).unwrap();
            assert_eq!(there, *tracker.value());
        }
        let Control::State { state, .. } = travels(&Control::State { version: 1, state: there.clone() })
        else {
            panic!("not a state")
        };
        assert_eq!(state, there);
    }

    #[test]
    fn changes_that_are_nested_too_deeply_are_refused() {
        let level = b"\x81\xa3seq\x83\xa4from\x01\xa3len\x01\xa5items\x81\x00";
        for levels in [80, 300, 100_000] {
            let bytes = [
                &[CONTROL][..],
                b"\x81\xa6update\x84\xabincarnation\x01\xa7reports\x90\xa6refers\xc2\xa5patch",
            ]
            .concat();
            let bytes = [bytes, level.repeat(levels), b"\x81\xa3set\xc0".to_vec()].concat();
            assert_eq!(Packet::read(&bytes).is_ok(), levels == 80);
        }
    }
}
