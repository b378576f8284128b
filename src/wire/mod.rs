//! Layer 1: encoding of values to bytes and back, and framing.
//!
//! The only caller of `rmp`: MessagePack with named fields, declared human-readable.
//!
//! # Guarantees
//! - Decoding arbitrary bytes neither panics nor overflows the stack.

mod codec;
mod decoder;
mod depth;
mod encoder;
mod extension;
mod fault;
mod frame;

#[cfg(test)]
mod tests;

pub use codec::CodecError;
#[cfg(feature = "journal")]
pub(crate) use codec::encode_by_position;
pub(crate) use codec::{
    decode, decode_from, encode, encode_canonically, encode_into, encode_noting, identity, is_encoding,
    length, unordered, with_buffer,
};
pub(crate) use extension::MAX_SOMES;
pub(crate) use frame::{Frame, FrameError, put_data};
