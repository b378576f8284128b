//! Metric families as they are sent between processes and merged into one Prometheus page. Pure: no I/O.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{BOUNDS, LONGEST};

/// Prefix reserved for Flowright's own metrics.
const OURS: &str = "flowright_";

/// Maximum number of series accepted from one other process.
const CARRIED: usize = 1000;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric with the current values of all its series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Family {
    /// Name of the metric; that of a counter ends in `_total`.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) help: Option<String>,
    /// Values by labels.
    pub(crate) series: Vec<(Labels, Reading)>,
}

pub(crate) type Labels = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reading {
    Counter(u64),
    Gauge(f64),
    /// Number of values in each bucket. The last bucket is for values above all [`BOUNDS`].
    Histogram {
        sum: f64,
        counts: Vec<u64>,
    },
}

impl Reading {
    fn is(&self, kind: Kind) -> bool {
        match self {
            Self::Counter(_) => kind == Kind::Counter,
            Self::Gauge(_) => kind == Kind::Gauge,
            // The page has cumulative counts, so their sum must not overflow.
            Self::Histogram { counts, .. } => {
                let sum = counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count));
                kind == Kind::Histogram && counts.len() == BOUNDS.len() + 1 && sum.is_some()
            }
        }
    }
}

/// Registry of metric names, and of the sample names that each metric uses.
#[derive(Default)]
pub(super) struct Names {
    kinds: HashMap<String, Kind>,
    owners: HashMap<String, String>,
}

impl Names {
    /// Claims the names of all samples of a metric. Fails if another metric has one of them, or the name is reserved.
    pub(super) fn claim(&mut self, kind: Kind, name: &str) -> Result<(), String> {
        if name.starts_with(OURS) {
            return Err(format!("names that begin with `{OURS}` are reserved for Flowright"));
        }
        if self.kinds.get(name) == Some(&kind) {
            return Ok(());
        }
        let ends: &[&str] = match kind {
            Kind::Histogram => &["", "_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let names = ends.iter().map(|end| format!("{name}{end}"));
        if let Some(owner) = names.clone().find_map(|name| self.owners.get(&name)) {
            return Err(format!("the other metric `{owner}` has samples of the same name"));
        }
        self.owners.extend(names.map(|sample| (sample, name.to_owned())));
        self.kinds.insert(name.to_owned(), kind);
        Ok(())
    }
}

/// Returns the name of the metric on the page.
pub(super) fn full_name(kind: Kind, name: &str) -> String {
    let name = allowed(name);
    match kind {
        Kind::Counter if !name.ends_with("_total") => name + "_total",
        _ => name,
    }
}

/// Returns the labels as they are on the page, each name once. A label whose name is `taken` gets the prefix
/// `exported_`.
pub(super) fn labels<'a>(
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    taken: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let named = labels.map(|(name, value)| {
        let name = allowed(name);
        (if taken(&name) { format!("exported_{name}") } else { name }, value.to_owned())
    });
    named.collect()
}

/// Replaces characters that Prometheus does not allow in names.
fn allowed(name: &str) -> String {
    let start = name.chars().next().is_none_or(|first| first.is_ascii_digit());
    let rest = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    start.then_some('_').into_iter().chain(rest).collect()
}

/// The metrics of several processes, merged so that one Prometheus page can hold them.
#[derive(Default)]
pub(crate) struct Gathered {
    names: Names,
    families: BTreeMap<String, Whole>,
}

/// A metric with the series of all processes.
struct Whole {
    kind: Kind,
    help: Option<String>,
    series: BTreeMap<Labels, Reading>,
}

impl Gathered {
    /// Adds the metrics of one process, with the labels `whose`, which identify it. Of two metrics that conflict, the
    /// one added first stays.
    pub(crate) fn add<'a>(&mut self, families: impl IntoIterator<Item = &'a Family>, whose: &[(&str, &str)]) {
        for Family { name, kind, help, series } in families {
            let name = full_name(*kind, name);
            if self.names.claim(*kind, &name).is_err() {
                continue;
            }
            let new = || Whole { kind: *kind, help: help.clone(), series: BTreeMap::new() };
            let there = &mut self.families.entry(name).or_insert_with(new).series;
            let taken = |name: &str| {
                name == "le" && *kind == Kind::Histogram || whose.iter().any(|(label, _)| *label == name)
            };
            for (of, reading) in series.iter().filter(|(_, reading)| reading.is(*kind)) {
                let of = labels(of.iter().map(|(name, value)| (name.as_str(), value.as_str())), taken);
                let whose = whose.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                there.entry(of.into_iter().chain(whose).collect()).or_insert_with(|| reading.clone());
            }
        }
    }

    /// Returns the merged families, ordered by name.
    pub(crate) fn families(self) -> impl Iterator<Item = Family> {
        self.families.into_iter().map(|(name, Whole { kind, help, series })| {
            let series = series.into_iter().collect();
            Family { name, kind, help, series }
        })
    }
}

/// The metrics of another process, or those already sent to it: at most [`CARRIED`] series.
#[derive(Debug, Default, Clone)]
pub(crate) struct Carried(BTreeMap<String, Family>);

impl Carried {
    /// Merges `families`, and returns those that changed.
    pub(crate) fn update(&mut self, families: Vec<Family>) -> Vec<Family> {
        let mut changed = Vec::new();
        let mut all: usize = self.0.values().map(|family| family.series.len()).sum();
        for mut family in families {
            family.series.retain(|(labels, reading)| {
                let length = labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
                length + family.name.len() <= LONGEST && reading.is(family.kind)
            });
            family.help = family.help.filter(|help| help.len() <= LONGEST);
            let before = self.0.get(&family.name);
            let others = all - before.map_or(0, |before| before.series.len());
            family.series.truncate(CARRIED.saturating_sub(others));
            if !family.series.is_empty() && before != Some(&family) {
                all = others + family.series.len();
                self.0.insert(family.name.clone(), family.clone());
                changed.push(family);
            }
        }
        changed
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = &Family> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, series: &[(&str, u64)]) -> Family {
        let series = series.iter().map(|(queue, count)| {
            (vec![("queue".to_owned(), (*queue).to_owned())], Reading::Counter(*count))
        });
        Family { name: name.to_owned(), kind: Kind::Counter, help: None, series: series.collect() }
    }

    fn gauge(name: &str) -> Family {
        let series = vec![(Vec::new(), Reading::Gauge(1.0))];
        Family { name: name.to_owned(), kind: Kind::Gauge, help: None, series }
    }

    #[test]
    fn those_of_several_processes_are_one_metric_with_a_label_for_each() {
        let mut all = Gathered::default();
        all.add(&[counter("jobs_total", &[("a", 1)])], &[("node", "head")]);
        let mut other = counter("jobs_total", &[("a", 2)]);
        other.series[0].0.push(("node".to_owned(), "mine".to_owned()));
        all.add(&[other], &[("node", "n")]);
        let families: Vec<_> = all.families().collect();
        assert_eq!(families.len(), 1);
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let here = vec![label("queue", "a"), label("node", "head")];
        let there = vec![label("exported_node", "mine"), label("queue", "a"), label("node", "n")];
        let series = &families[0].series;
        assert_eq!(series.len(), 2);
        assert!(series.contains(&(here, Reading::Counter(1))), "{series:?}");
        assert!(series.contains(&(there, Reading::Counter(2))), "{series:?}");
    }

    #[test]
    fn what_another_process_says_cannot_spoil_the_page() {
        let mut all = Gathered::default();
        all.add(&[counter("jobs_total", &[("a", 1)])], &[("node", "head")]);
        let broken = Reading::Histogram { sum: 1.0, counts: vec![1] };
        let mut hostile = vec![gauge("jobs_total"), gauge("flowright_works"), gauge("a b\n# TYPE c")];
        let too_many = Reading::Histogram { sum: 1.0, counts: vec![u64::MAX; BOUNDS.len() + 1] };
        for reading in [broken, too_many, Reading::Counter(1)] {
            let series = vec![(Vec::new(), reading)];
            hostile.push(Family { name: "took".to_owned(), kind: Kind::Histogram, help: None, series });
        }
        all.add(&hostile, &[("node", "n")]);
        let families: Vec<_> =
            all.families().map(|family| (family.name, family.kind, family.series.len())).collect();
        let expected = [
            ("a_b___TYPE_c", Kind::Gauge, 1),
            ("jobs_total", Kind::Counter, 1),
            ("took", Kind::Histogram, 0),
        ];
        assert_eq!(families, expected.map(|(name, kind, count)| (name.to_owned(), kind, count)));
    }

    #[test]
    fn what_has_changed_is_carried_and_not_more_than_is_agreed() {
        let (mut told, mut known) = (Carried::default(), Carried::default());
        for (now, changes) in [
            (vec![counter("a_total", &[("x", 1)]), gauge("b")], vec!["a_total", "b"]),
            (vec![counter("a_total", &[("x", 1)]), gauge("b")], vec![]),
            (vec![counter("a_total", &[("x", 2)]), gauge("b")], vec!["a_total"]),
        ] {
            let changed = told.update(now.clone());
            assert_eq!(changed.iter().map(|family| family.name.as_str()).collect::<Vec<_>>(), changes);
            known.update(changed);
            assert_eq!(known.families().cloned().collect::<Vec<_>>(), now);
        }
        let names: Vec<_> = (0..2 * CARRIED).map(|name| name.to_string()).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        known.update(vec![counter("many_total", &many), counter("more_total", &many)]);
        known.update(vec![gauge(&"x".repeat(LONGEST + 1))]);
        assert_eq!(known.families().map(|family| family.series.len()).sum::<usize>(), CARRIED);
    }
}
