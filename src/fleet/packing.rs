//! Packing of demand into nodes: first-fit decreasing, by counts (pure).
//!
//! The cost depends on the number of distinct demands and of nodes, not on the number of waiting Works.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::work::{Demand, Resources, Selector};

/// Room for Works: a node, or an allocation that will be one.
pub(super) struct Bin<'a> {
    pub(super) name: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) free: Resources,
    /// The time for which Works can run there; `None` without a limit.
    pub(super) lasts: Option<Duration>,
    /// True once demand was put there.
    pub(super) is_needed: bool,
}

impl Bin<'_> {
    /// Puts as many of `count` Works there as fit. Returns the number of the others.
    pub(super) fn put(&mut self, demand: &Demand, count: usize) -> usize {
        if count == 0 || !self.is_meant(&demand.selector) || !self.lasts_for(demand) {
            return count;
        }
        let fitting = fitting(self.free, demand.needs).min(count);
        if fitting > 0 {
            self.free = minus(self.free, demand.needs, fitting);
            self.is_needed = true;
        }
        count - fitting
    }

    pub(super) fn is_meant(&self, selector: &Selector) -> bool {
        selector.fits(self.name, self.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    pub(super) fn lasts_for(&self, demand: &Demand) -> bool {
        match (self.lasts, demand.runs_for) {
            (Some(lasts), Some(runs_for)) => runs_for <= lasts,
            (Some(lasts), None) => !lasts.is_zero(),
            (None, _) => true,
        }
    }
}

/// Returns how many Works with these needs fit into `free`.
pub(super) fn fitting(free: Resources, needs: Resources) -> usize {
    let of = |free: u64, need: u64| free.checked_div(need).unwrap_or(u64::MAX);
    let count = of(free.cpus.into(), needs.cpus.into())
        .min(of(free.gpus.into(), needs.gpus.into()))
        .min(of(free.memory, needs.memory));
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Returns `free` without the needs of `count` Works, which fit.
fn minus(free: Resources, needs: Resources, count: usize) -> Resources {
    let less = |free: u32, need: u32| {
        let taken = u64::from(need).saturating_mul(count as u64);
        free.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    };
    let memory = free.memory.saturating_sub(needs.memory.saturating_mul(count as u64));
    Resources { cpus: less(free.cpus, needs.cpus), gpus: less(free.gpus, needs.gpus), memory }
}

/// Returns the resources of `have` that are not in `used`.
pub(super) fn free(have: Resources, used: Resources) -> Resources {
    Resources {
        cpus: have.cpus.saturating_sub(used.cpus),
        gpus: have.gpus.saturating_sub(used.gpus),
        memory: have.memory.saturating_sub(used.memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(needs: Resources, runs_for: Option<u64>) -> Demand {
        Demand { selector: Selector::any(), needs, runs_for: runs_for.map(Duration::from_secs) }
    }

    fn bin(free: Resources, lasts: Option<u64>) -> Bin<'static> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        Bin { name: "a-123456", labels: &NONE, free, lasts: lasts.map(Duration::from_secs), is_needed: false }
    }

    /// The scarcest resource decides how many Works fit.
    #[test]
    fn scarcest_resource_limits() {
        let mut node = bin(Resources::cpus(16).and_gpus(4), None);
        assert_eq!(node.put(&demand(Resources::gpus(1).and_cpus(8), None), 5), 3);
        assert_eq!(node.free, Resources::gpus(2));
        assert_eq!(node.put(&demand(Resources::gpus(1), None), 1), 0);
        assert!(node.is_needed);
    }

    /// Works without needs fit in any number, and Works whose needs are too large do not.
    #[test]
    fn works_without_needs_fit_in_any_number() {
        let mut node = bin(Resources::cpus(1), None);
        assert_eq!(node.put(&demand(Resources::cpus(2), None), 7), 7);
        assert!(!node.is_needed);
        assert_eq!(node.put(&demand(Resources::default(), None), 100_000), 0);
    }

    /// A Work that runs for longer than the node lasts is not put there.
    #[test]
    fn node_that_ends_too_early_takes_nothing() {
        let mut node = bin(Resources::cpus(4), Some(60));
        assert_eq!(node.put(&demand(Resources::cpus(1), Some(61)), 1), 1);
        assert_eq!(node.put(&demand(Resources::cpus(1), Some(60)), 1), 0);
        assert_eq!(bin(Resources::cpus(4), Some(0)).put(&demand(Resources::cpus(1), None), 1), 1);
    }
}
