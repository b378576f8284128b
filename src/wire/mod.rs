//! Floor 1: values to bytes and back, and bytes to frames.
//!
//! The only caller of `rmp-serde`: MessagePack with named fields, as human-readable.
//!
//! # Guarantees
//! - Whatever the bytes are, reading them neither panics nor runs out of stack.

mod codec;
mod depth;
mod frame;

pub use codec::CodecError;
pub(crate) use codec::{
    decode, decode_from, digest, encode, encode_into, encode_to, is_encoding, length, with_buffer,
};
pub(crate) use frame::{Frame, FrameError, put_data};
