//! Layer 0: the error type that users' code returns.
//!
//! [`Error`] holds any [`std::error::Error`], converts from it by `?`, and keeps its whole chain of causes, like
//! `anyhow::Error`. It is a type of this crate because [`Interrupt`](crate::Interrupt), the error of a Flow, converts
//! by `?` from this type as well as from every standard error, and the orphan rule allows that only to the crate that
//! defines both.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// The result of Works, hooks and handlers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, with its chain of causes.
///
/// `{}` shows the outermost message, `{:#}` the whole chain on one line, `{:?}` the whole chain on several.
///
/// ```
/// use flowright::{Error, Result};
///
/// fn port(text: &str) -> Result<u16> {
///     text.parse().map_err(|e| Error::from(e).context(format!("port {text:?}")))
/// }
/// let error = port("many").unwrap_err();
/// assert_eq!(format!("{error:#}"), "port \"many\": invalid digit found in string");
/// assert!(error.downcast_ref::<std::num::ParseIntError>().is_some());
/// ```
pub struct Error(Box<dyn StdError + Send + Sync + 'static>);

impl Error {
    /// Creates an error that consists of a message, without a cause.
    pub fn msg(message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Message { text: message.into(), cause: None }))
    }

    /// Converts an error that is already boxed, such as the content of an `anyhow::Error`.
    pub fn from_boxed(error: Box<dyn StdError + Send + Sync + 'static>) -> Self {
        Self(error)
    }

    /// Wraps this error in a message; this error becomes the cause of the new one.
    pub fn context(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Message { text: message.into(), cause: Some(self.0) }))
    }

    /// Iterates over the error and its causes, outermost first.
    pub fn chain(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let mut next: Option<&(dyn StdError + 'static)> = Some(&*self.0);
        std::iter::from_fn(move || {
            let error = next?;
            next = error.source();
            Some(error)
        })
    }

    /// Returns the first error of type `E` in the chain.
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.chain().find_map(|error| error.downcast_ref())
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        if f.alternate() {
            for cause in self.chain().skip(1) {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        for (depth, cause) in self.chain().skip(1).enumerate() {
            write!(f, "{}  {cause}", if depth == 0 { "\ncaused by:\n" } else { "\n" })?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Message {
    text: Cow<'static, str>,
    cause: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Message {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// Returns early from the function with an [`Error`] made from a format string.
///
/// ```
/// fn half(n: u32) -> flowright::Result<u32> {
///     if n % 2 == 1 {
///         flowright::bail!("{n} is odd");
///     }
///     Ok(n / 2)
/// }
/// assert_eq!(half(3).unwrap_err().to_string(), "3 is odd");
/// ```
#[macro_export]
macro_rules! bail {
    ($($message:tt)+) => {
        return ::core::result::Result::Err($crate::Error::msg(::std::format!($($message)+)).into())
    };
}
