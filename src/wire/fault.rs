//! What went wrong inside an encoder or a decoder.

use std::fmt::{self, Display};

/// The reason why a value could not be encoded or decoded.
#[derive(Debug)]
pub struct Fault(Box<str>);

impl Fault {
    #[cold]
    pub(super) fn new(reason: impl Display) -> Self {
        Self(reason.to_string().into())
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}

impl From<rmp::encode::ValueWriteError> for Fault {
    fn from(error: rmp::encode::ValueWriteError) -> Self {
        Self::new(error)
    }
}
