//! The recorder of this process, with the feature `metrics`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use parking_lot::RwLock;

use super::families::{Family, Kind, Labels, Names, Reading, full_name, labels};
use super::{BOUNDS, LONGEST, SERIES};

static HERE: LazyLock<Numbers> = LazyLock::new(Numbers::default);

/// Installs the recorder of this process, unless the program has installed another one.
pub(crate) fn install() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if metrics::set_global_recorder(&*HERE).is_err() {
            log::debug!(
                "the program has installed another recorder: its metrics are not shown in `/metrics`"
            );
        }
    });
}

/// Returns the metrics that this process has recorded, ordered by name.
pub(crate) fn families() -> Vec<Family> {
    HERE.families()
}

/// A histogram with the buckets of [`BOUNDS`].
#[derive(Default)]
struct Classes {
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl HistogramFn for Classes {
    fn record(&self, value: f64) {
        // A NaN fits no bucket, and would turn the sum into a NaN for good.
        if value.is_nan() {
            return;
        }
        let class = BOUNDS.partition_point(|bound| *bound < value);
        self.counts[class].fetch_add(1, Ordering::Relaxed);
        GaugeFn::increment(&self.sum, value);
    }
}

#[derive(Clone)]
enum Cell {
    Counter(Arc<AtomicU64>),
    /// The bits of an `f64`.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Classes>),
}

impl Cell {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::default()),
            Kind::Gauge => Self::Gauge(Arc::default()),
            Kind::Histogram => Self::Histogram(Arc::default()),
        }
    }

    fn read(&self) -> Reading {
        match self {
            Self::Counter(count) => Reading::Counter(count.load(Ordering::Relaxed)),
            Self::Gauge(level) => Reading::Gauge(f64::from_bits(level.load(Ordering::Relaxed))),
            Self::Histogram(classes) => Reading::Histogram {
                sum: f64::from_bits(classes.sum.load(Ordering::Relaxed)),
                counts: classes.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            },
        }
    }
}

#[derive(Default)]
struct Numbers(RwLock<Kept>);

#[derive(Default)]
struct Kept {
    /// Cells by kind and by the key under which they were registered; `None` for keys that cannot be recorded.
    found: [HashMap<Key, Option<Cell>>; 3],
    metrics: BTreeMap<String, (Kind, BTreeMap<Labels, Cell>)>,
    names: Names,
    help: BTreeMap<String, String>,
    /// Set once the warning about too many series has been logged; `has_long` likewise for the one about too long
    /// names.
    is_full: bool,
    has_long: bool,
}

impl Numbers {
    fn cell(&self, kind: Kind, key: &Key) -> Option<Cell> {
        let kept = self.0.read();
        match kept.found[kind as usize].get(key) {
            Some(cell) => return cell.clone(),
            None if kept.is_full => return None,
            None => drop(kept),
        }
        self.0.write().make(kind, key)
    }

    fn describe(&self, kind: Kind, name: &KeyName, help: &str) {
        let mut kept = self.0.write();
        let name = full_name(kind, name.as_str());
        if kept.help.len() < SERIES && name.len() + help.len() <= LONGEST {
            kept.help.insert(name, help.to_owned());
        }
    }

    fn families(&self) -> Vec<Family> {
        let kept = self.0.read();
        let metrics = kept.metrics.iter();
        metrics
            .map(|(name, (kind, series))| Family {
                name: name.clone(),
                kind: *kind,
                help: kept.help.get(name).cloned(),
                series: series.iter().map(|(labels, cell)| (labels.clone(), cell.read())).collect(),
            })
            .collect()
    }
}

impl Kept {
    fn make(&mut self, kind: Kind, key: &Key) -> Option<Cell> {
        if self.found.iter().map(HashMap::len).sum::<usize>() >= SERIES {
            if !std::mem::replace(&mut self.is_full, true) {
                log::warn!(
                    "the series `{}` and all later ones are not recorded: the limit of {SERIES} series is reached",
                    key.name()
                );
            }
            return None;
        }
        let length = key.labels().map(|label| label.key().len() + label.value().len()).sum::<usize>();
        if key.name().len() + length > LONGEST {
            if !std::mem::replace(&mut self.has_long, true) {
                let start: String = key.name().chars().take(100).collect();
                log::warn!(
                    "the metric `{start}` is not recorded: its name and labels have more than {LONGEST} bytes"
                );
            }
            return None;
        }
        match self.found[kind as usize].entry(key.clone()) {
            // Another thread registered the key first.
            Entry::Occupied(there) => return there.get().clone(),
            Entry::Vacant(room) => room.insert(None),
        };
        let name = full_name(kind, key.name());
        if let Err(why) = self.names.claim(kind, &name) {
            log::warn!("the metric `{}` is not recorded: {why}", key.name());
            return None;
        }
        let of = key.labels().map(|label| (label.key(), label.value()));
        let labels = labels(of, |name| name == "le" && kind == Kind::Histogram).into_iter().collect();
        let (_, series) = self.metrics.entry(name).or_insert_with(|| (kind, BTreeMap::new()));
        let cell = series.entry(labels).or_insert_with(|| Cell::new(kind)).clone();
        self.found[kind as usize].insert(key.clone(), Some(cell.clone()));
        Some(cell)
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(Kind::Counter, &name, &help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(Kind::Gauge, &name, &help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(Kind::Histogram, &name, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.cell(Kind::Counter, key) {
            Some(Cell::Counter(count)) => Counter::from_arc(count),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.cell(Kind::Gauge, key) {
            Some(Cell::Gauge(level)) => Gauge::from_arc(level),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.cell(Kind::Histogram, key) {
            Some(Cell::Histogram(classes)) => Histogram::from_arc(classes),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, describe_counter, gauge, histogram, with_local_recorder};

    use super::*;

    fn recorded(record: impl FnOnce()) -> Vec<Family> {
        let numbers = Numbers::default();
        with_local_recorder(&numbers, record);
        numbers.families()
    }

    fn names(families: &[Family]) -> Vec<&str> {
        families.iter().map(|family| family.name.as_str()).collect()
    }

    #[test]
    fn what_is_recorded_is_read() {
        let families = recorded(|| {
            describe_counter!("jobs", "Jobs that were done.");
            for (queue, count) in [("a", 2), ("b", 3), ("a", 4)] {
                counter!("jobs", "queue" => queue).increment(count);
            }
            counter!("jobs_total", "queue" => "b").absolute(7);
            gauge!("loss").set(0.5);
            gauge!("loss").decrement(0.25);
            for value in [0.00005, 0.1, 0.11, f64::NAN, 1e9] {
                histogram!("took").record(value);
            }
        });
        assert_eq!(names(&families), ["jobs_total", "loss", "took"]);
        let jobs = &families[0];
        assert_eq!((jobs.kind, jobs.help.as_deref()), (Kind::Counter, Some("Jobs that were done.")));
        let of = |queue: &str| vec![("queue".to_owned(), queue.to_owned())];
        assert_eq!(jobs.series, [(of("a"), Reading::Counter(6)), (of("b"), Reading::Counter(7))]);
        assert_eq!(families[1].series, [(vec![], Reading::Gauge(0.25))]);
        let Reading::Histogram { sum, counts } = &families[2].series[0].1 else { panic!("no histogram") };
        assert_eq!(*sum, 0.00005 + 0.1 + 0.11 + 1e9);
        let filled: Vec<_> = counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &1), (9, &1), (10, &1), (30, &1)], "{:?}", BOUNDS);
    }

    #[test]
    fn names_are_those_that_prometheus_allows() {
        let families = recorded(|| {
            gauge!("train.loss", "GPU-0" => "x", "9" => "y").set(1.0);
            gauge!("").set(1.0);
            histogram!("sizes", "le" => "mine").record(1.0);
        });
        assert_eq!(names(&families), ["_", "sizes", "train_loss"]);
        let of =
            |family: &Family| family.series[0].0.iter().map(|(label, _)| label.clone()).collect::<Vec<_>>();
        assert_eq!(of(&families[2]), ["GPU_0", "_9"]);
        assert_eq!(of(&families[1]), ["exported_le"]);
    }

    #[test]
    fn no_two_metrics_have_samples_of_one_name_and_none_has_one_of_ours() {
        let families = recorded(|| {
            counter!("flowright_works").increment(1);
            gauge!("flowright.works").set(1.0);
            histogram!("took").record(1.0);
            gauge!("took").set(1.0);
            gauge!("took_count").set(1.0);
            gauge!("jobs_total").set(1.0);
            counter!("jobs").increment(1);
            gauge!("jobs").set(2.0);
            gauge!("size_sum").set(1.0);
            histogram!("size").record(1.0);
        });
        let kinds: Vec<_> = families.iter().map(|family| (family.name.as_str(), family.kind)).collect();
        let gauges = [("jobs", Kind::Gauge), ("jobs_total", Kind::Gauge), ("size_sum", Kind::Gauge)];
        assert_eq!(kinds, [&gauges[..], &[("took", Kind::Histogram)]].concat());
    }

    #[test]
    fn there_is_an_end_to_how_many_there_are() {
        let families = recorded(|| {
            gauge!("long", "text" => "x".repeat(LONGEST)).set(1.0);
            for user in 0..2 * SERIES {
                counter!("requests", "user" => user.to_string()).increment(1);
            }
            gauge!("late").set(1.0);
            counter!("requests", "user" => "5").increment(1);
        });
        assert_eq!(names(&families), ["requests_total"]);
        assert_eq!(families[0].series.len(), SERIES);
        let five = (vec![("user".to_owned(), "5".to_owned())], Reading::Counter(2));
        assert!(families[0].series.contains(&five));
    }
}
