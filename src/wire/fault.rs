//! The internal error of the encoder and the decoder.

use std::fmt::{self, Display};
use std::io;

/// The reason why a value could not be encoded or decoded.
#[derive(Debug)]
pub struct Fault(Cause);

#[derive(Debug)]
enum Cause {
    /// A problem with the value or its bytes.
    Value(Box<str>),
    /// An error of the operating system when bytes were read or written.
    Io(io::Error),
}

impl Fault {
    #[cold]
    pub(super) fn new(reason: impl Display) -> Self {
        Self(Cause::Value(reason.to_string().into()))
    }

    /// Returns the error of the operating system, or else the fault itself.
    pub(super) fn into_io(self) -> Result<io::Error, Self> {
        match self.0 {
            Cause::Io(error) => Ok(error),
            cause => Err(Self(cause)),
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Value(reason) => f.write_str(reason),
            Cause::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<T: Display>(reason: T) -> Self {
        Self::new(reason)
    }
}

impl serde::de::Error for Fault {
    fn custom<T: Display>(reason: T) -> Self {
        Self::new(reason)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self(Cause::Io(error))
    }
}

impl From<rmp::encode::ValueWriteError> for Fault {
    fn from(error: rmp::encode::ValueWriteError) -> Self {
        io::Error::from(error).into()
    }
}
