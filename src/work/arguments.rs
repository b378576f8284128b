//! The program's own arguments, which Works read wherever they run.
//!
//! # Guarantees
//! - The arguments do not change once the App's root is constructed, and a node gets those of its head.

use std::any::type_name;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Work, WorkContext};
use crate::wire::{self, CodecError};

/// The arguments of an App, a part of its runtime. Empty if the App has none.
#[derive(Debug, Default)]
pub(crate) struct Arguments(Mutex<Option<EncodedArguments>>);

/// Arguments as they are sent to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EncodedArguments {
    /// The name of their Rust type.
    type_name: String,
    bytes: Bytes,
}

/// The error of [`WorkContext::args`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArgsError {
    /// The App has no arguments of its own.
    #[error(
        "this App has no arguments of its own; make it with `App::with_args`, or set them with `App::args`"
    )]
    NoArgs,
    /// The App's arguments are of another type.
    #[error("the arguments of this App are a `{there}`, not a `{wanted}`")]
    OtherType {
        /// The name of the type of the App's arguments.
        there: String,
        /// The name of the requested type.
        wanted: &'static str,
    },
    /// Required arguments are missing, in an App that is not started by `main`.
    #[error("the arguments of this App are incomplete; set them with `App::args`: {why}")]
    Incomplete {
        /// The missing arguments, as the command line would report them.
        why: String,
    },
    /// The arguments do not serialise, or cannot be read back.
    #[error("the arguments of type `{type_name}` cannot be serialised and read back: {why}")]
    Codec {
        /// The name of their type.
        type_name: &'static str,
        /// The error of serde, as text.
        why: String,
    },
}

impl ArgsError {
    fn codec<A>(error: &CodecError) -> Self {
        Self::Codec { type_name: type_name::<A>(), why: error.to_string() }
    }
}

impl EncodedArguments {
    /// Encodes `args`, and reads them back once, so that a type that does not survive this is found at once.
    pub(crate) fn new<A: Serialize + DeserializeOwned>(args: &A) -> Result<Self, ArgsError> {
        let bytes = wire::encode(args).map_err(|error| ArgsError::codec::<A>(&error))?;
        let encoded = Self { type_name: type_name::<A>().to_owned(), bytes };
        encoded.decode::<A>()?;
        Ok(encoded)
    }

    fn decode<A: DeserializeOwned>(&self) -> Result<A, ArgsError> {
        if self.type_name != type_name::<A>() {
            return Err(ArgsError::OtherType { there: self.type_name.clone(), wanted: type_name::<A>() });
        }
        wire::decode(&self.bytes).map_err(|error| ArgsError::codec::<A>(&error))
    }
}

impl Arguments {
    pub(crate) fn set(&self, encoded: EncodedArguments) {
        *self.0.lock() = Some(encoded);
    }

    /// Returns the arguments as they are sent to a node.
    pub(crate) fn encoded(&self) -> Option<EncodedArguments> {
        self.0.lock().clone()
    }

    /// Returns the arguments.
    pub(crate) fn read<A: DeserializeOwned>(&self) -> Result<A, ArgsError> {
        self.encoded().ok_or(ArgsError::NoArgs)?.decode()
    }
}

impl<W: Work> WorkContext<W> {
    /// Returns the App's own arguments: those of the command line ([`App::with_args`](crate::App::with_args)), or those given
    /// to [`App::args`](crate::App::args). A Work in another process or on a node reads the arguments of the head with which
    /// the node joined the App. They are read back at each call.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::testing::TestApp;
    /// #[derive(Serialize, Deserialize)]
    /// struct TrainArgs {
    ///     rate: f64,
    /// }
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Train {
    ///     rate: f64,
    /// }
    ///
    /// impl Work for Train {
    ///     type Input = ();
    ///
    ///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    ///         self.rate = cx.args::<TrainArgs>()?.rate;
    ///         Ok(())
    ///     }
    /// }
    /// # let app = TestApp::start_app(App::of_work(Train::default).args(&TrainArgs { rate: 0.5 })?);
    /// # let exit = app.wait_for_exit(); // the only Work ends the App
    /// # assert_eq!(exit.state.get("work.rate").expect("it has run").decode::<f64>()?, 0.5);
    /// # exit.result?;
    /// # Ok::<_, flowright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ArgsError::NoArgs`] when the App has none, [`ArgsError::OtherType`] when they are of another type, and
    /// [`ArgsError::Codec`] when they cannot be read back.
    pub fn args<A: DeserializeOwned>(&self) -> Result<A, ArgsError> {
        self.part::<Arguments>().ok_or(ArgsError::NoArgs)?.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arguments are read as their own type only, and the last ones that were set count.
    #[test]
    fn arguments_are_read_as_their_own_type() {
        let arguments = Arguments::default();
        assert!(matches!(arguments.read::<u32>(), Err(ArgsError::NoArgs)));
        arguments.set(EncodedArguments::new(&8_u32).unwrap());
        arguments.set(EncodedArguments::new(&7_u32).unwrap());
        assert_eq!(arguments.read::<u32>().unwrap(), 7);
        let error = arguments.read::<u64>().unwrap_err().to_string();
        assert!(error.contains("`u32`, not a `u64`"), "{error}");
    }

    /// A type that does not survive its encoding is refused when the arguments are set.
    #[test]
    fn arguments_that_cannot_be_read_back_are_refused() {
        #[derive(Debug)]
        struct OneWay;

        impl Serialize for OneWay {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str("one way")
            }
        }

        impl<'de> Deserialize<'de> for OneWay {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                u32::deserialize(deserializer).map(|_| Self)
            }
        }

        assert!(matches!(EncodedArguments::new(&OneWay), Err(ArgsError::Codec { .. })));
    }
}
