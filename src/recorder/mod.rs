//! Layer 1: recorder for the `metrics` facade, whose values are kept until they are scraped.
//!
//! The facade allows one recorder in a process, so all Apps of the process share this one. A program that has
//! installed another recorder keeps that one.
//!
//! This is not the recorder of `metrics-exporter-prometheus`, for three reasons. That recorder keeps each value given
//! to a histogram until the next scrape, and needs regular upkeep in processes that are never scraped. It writes a
//! page that Prometheus rejects as a whole when two metrics have the same name. And it drops series that are still in
//! use when it evicts idle ones.
//!
//! # Guarantees
//! - Recording adds to an atomic number: it never waits for a scrape, and takes no memory.
//! - There are at most [`SERIES`] series, each with a name and labels of at most [`LONGEST`] bytes. Series beyond
//!   these limits are not recorded, which is logged once.
//! - The metrics always form a valid Prometheus page: names are sanitised, no two metrics share the name of a sample,
//!   and none uses a name reserved for Flowright.
//!
//! Without the feature `metrics` nothing is recorded.

mod families;
#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod on;

pub(crate) use self::families::{Carried, Family, Gathered, Kind, Reading};
#[cfg(not(feature = "metrics"))]
pub(crate) use self::off::{families, install};
#[cfg(feature = "metrics")]
pub(crate) use self::on::{families, install};

/// Maximum number of series, that is metrics with distinct labels.
const SERIES: usize = 10_000;

/// Maximum total length of the name of a metric and its labels, in bytes.
const LONGEST: usize = 1024;

/// Inclusive upper bounds of histogram buckets: three for each power of ten, since one set must suit seconds, losses
/// and bytes.
pub(crate) const BOUNDS: [f64; 30] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0,
    50.0, 1e2, 2.5e2, 5e2, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5,
];
