//! The compared systems. Each module has `run(measure, n)`, which returns the figure, or `None` if the system does
//! not have the measure.

mod actix;
mod floor;
mod flowright;
mod kameo;
mod kompact;
mod ractor;
mod tokio_mpsc;

pub struct System {
    pub name: &'static str,
    pub run: fn(measure: &str, n: u64) -> Option<f64>,
}

pub const SYSTEMS: &[System] = &[
    System { name: "flowright", run: flowright::run },
    System { name: "actix", run: actix::run },
    System { name: "kameo", run: kameo::run },
    System { name: "ractor", run: ractor::run },
    System { name: "kompact", run: kompact::run },
    System { name: "tokio-mpsc", run: tokio_mpsc::run },
    System { name: "floor", run: floor::run },
];
