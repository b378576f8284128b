//! Floor 1: bytes.
//!
//! Values travel as MessagePack with named fields. This floor is the only caller of `rmp-serde`, so that the
//! encoding of inputs, messages and identities is decided in one place.

mod codec;

pub use codec::CodecError;
pub(crate) use codec::{decode, digest, encode};
