//! The protocol between two processes.
//!
//! A connection begins with one [`Hello`] from the dialing process and one [`Welcome`] or [`Refusal`] from the
//! listening one, as MessagePack in `Hello` and `Bye` frames. The messages of a session follow: the body of each data
//! frame is one byte for the kind of message, and
//!
//! | byte | kind | body |
//! | --- | --- | --- |
//! | 0 | control | a [`Control`] as MessagePack |
//! | 1 | tell | channel (u32), the message as MessagePack |
//! | 2 | ask | channel (u32), question (u64), the message as MessagePack |
//! | 3 | answer | question (u64), the answer as MessagePack |
//! | 4 | credit | channel (u32), how many more messages may be sent (u32) |
//! | 5 | returned | channel (u32), a tell that no handler has begun |
//! | 6 | returned question | question (u64) of an ask that no handler has begun |
//! | 7 | ask for a stream | channel (u32), question (u64), window (u32), the message as MessagePack |
//! | 8 | item | question (u64), an item of the stream as MessagePack |
//! | 9 | item credit | question (u64), how many more items may be sent (u32) |
//!
//! Numbers are big-endian. Messages between Works are by far the most frequent, hence their short headers.

mod control;
mod greeting;
mod location;
mod packet;

pub(crate) use self::control::{Carried, Control};
pub(crate) use self::greeting::{Hello, NodeCard, Program, Refusal, Role, Welcome};
pub(crate) use self::location::{Location, Source};
pub(crate) use self::packet::PacketError;
pub(super) use self::packet::{
    FIRST_CREDIT, Packet, begin_ask, begin_ask_for_stream, begin_returned, begin_tell, write_answer,
    write_control, write_credit, write_item, write_item_credit, write_returned_question,
};
