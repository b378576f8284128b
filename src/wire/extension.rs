//! The extension types of the encoding, which the encoder writes and the decoder reads.

/// The name by which a newtype struct of a tag (`i8`) and bytes is recognised as an extension.
pub(super) const EXTENSION: &str = "_ExtStruct";

/// The type of the extension for nil inside `Some`s. Its content is one byte, their number.
pub(super) const SOME_NIL: i8 = 2;

/// Maximum number of `Some`s around nil.
pub(crate) const MAX_SOMES: u8 = 128;
