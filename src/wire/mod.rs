//! Layer 1: values to bytes and back, and bytes to frames.
//!
//! The only caller of `rmp`: MessagePack with named fields, as human-readable.
//!
//! # Guarantees
//! - Whatever the bytes are, reading them neither panics nor runs out of stack.

mod codec;
mod decoder;
mod depth;
mod encoder;
mod fault;
mod frame;

#[cfg(test)]
mod tests;

pub use codec::CodecError;
pub(crate) use codec::{
    decode, decode_from, encode, encode_canonically, encode_into, encode_noting, identity, is_encoding,
    length, unordered, with_buffer,
};
pub(crate) use encoder::MAX_SOMES;
pub(crate) use frame::{Frame, FrameError, put_data};
