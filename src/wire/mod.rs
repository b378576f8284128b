//! Floor 1: values to bytes and back, and bytes to frames.
//!
//! The only caller of `rmp-serde`: MessagePack with named fields.

mod codec;
mod frame;

pub use codec::CodecError;
pub(crate) use codec::{decode, digest, encode, encode_into, with_buffer};
pub(crate) use frame::{Frame, FrameError, put_data};
