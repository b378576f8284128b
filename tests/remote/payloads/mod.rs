//! Large values between processes and machines.

#[cfg(feature = "journal")]
pub(crate) mod adopted;
pub(crate) mod breaks;
pub(crate) mod departures;
pub(crate) mod lives;
pub(crate) mod office;
pub(crate) mod reads;
pub(crate) mod room;

pub(crate) use self::office::program;
