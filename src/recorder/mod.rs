//! What programs record by the `metrics` facade, kept until somebody looks.
//!
//! The facade has one recorder for a process, so there is one of these, whatever Apps the process has; a program that has
//! installed another keeps that one.
//!
//! It is not the recorder of `metrics-exporter-prometheus`, which keeps each value given to a histogram until somebody
//! asks, and needs to be tended where nobody does; writes a page that Prometheus refuses as a whole when two metrics have
//! one name; and drops what is still held when it lets go of idle series.
//!
//! # Guarantees
//! - To record is to add to a number: nobody waits for whoever looks, and nothing grows by it.
//! - There are [`SERIES`] at most, each with a name and labels of at most [`LONGEST`] bytes. What is more is not recorded,
//!   which is logged once.
//! - All of it can be written as one page for Prometheus: names are made of what it allows, no two metrics have samples
//!   of one name, and none has one of Flowright's own.
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

/// How many series there can be: metrics with their labels.
const SERIES: usize = 10_000;

/// How long the name of a metric and its labels can be together, in bytes.
const LONGEST: usize = 1024;

/// The upper ends of the classes of histograms: three to a power of ten, since one set has to do for seconds, losses and
/// bytes.
pub(crate) const BOUNDS: [f64; 30] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0,
    50.0, 1e2, 2.5e2, 5e2, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5,
];
