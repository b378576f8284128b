//! The scheduler: chooses the node for a Work. Pure.

use std::time::Duration;

use super::protocol::NodeCard;
use crate::duration::write_duration;
use crate::work::{Demand, Resources};

/// Number of nodes that a reason names.
const NAMED: usize = 4;

/// A node that may be chosen.
pub(super) struct Candidate<'a> {
    pub(super) card: &'a NodeCard,
    /// The sum of the resources that its Works need.
    pub(super) used: Resources,
    /// The number of its Works.
    pub(super) works: usize,
    /// True if the node is about to leave: it is not chosen, but named as a reason.
    pub(super) is_leaving: bool,
    /// The end of its allocation, if it is known.
    pub(super) end: Option<End<'a>>,
}

/// The end of a node's allocation.
pub(super) struct End<'a> {
    /// The time that is left.
    pub(super) left: Duration,
    /// The time before the end at which the node begins to leave.
    pub(super) drain_before: Duration,
    /// The moment of the end in words, which stay the same.
    pub(super) when: &'a str,
}

impl Candidate<'_> {
    /// Returns true if a Work that runs for this time is done before the node begins to leave.
    fn lasts(&self, runs_for: Option<Duration>) -> bool {
        let Some(end) = &self.end else { return true };
        // Without a time of its own, a Work can begin as long as the node does not leave.
        end.left > end.drain_before.saturating_add(runs_for.unwrap_or_default())
    }

    /// Returns why the node is not chosen.
    fn why_not(&self, demand: &Demand) -> String {
        let name = &self.card.name;
        match &self.end {
            _ if self.is_leaving => format!("`{name}` is about to leave"),
            Some(end) if !self.lasts(demand.runs_for) => {
                let runs_for =
                    demand.runs_for.map_or_else(String::new, |time| format!("{} and ", write_duration(time)));
                format!(
                    "`{name}` ends at {}, too early for {runs_for}the {} in which it is left",
                    end.when,
                    write_duration(end.drain_before)
                )
            }
            _ => format!("`{name}` has {}, of which {} are taken", self.card.resources, self.used),
        }
    }
}

/// Returns the least loaded node that matches the selector, has room, and ends late enough.
///
/// # Errors
/// A description of what the Work waits for.
pub(super) fn choose(nodes: &[Candidate<'_>], demand: &Demand) -> Result<u64, String> {
    let Demand { selector, needs, runs_for } = demand;
    let meant: Vec<_> = nodes
        .iter()
        .filter(|node| {
            let labels = node.card.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            selector.fits(&node.card.name, labels)
        })
        .collect();
    let with_room = meant.iter().filter(|node| {
        !node.is_leaving && node.lasts(*runs_for) && node.card.resources.has_room(node.used, *needs)
    });
    let least_loaded = with_room.min_by(|a, b| load(a).total_cmp(&load(b)).then(a.works.cmp(&b.works)));
    if let Some(node) = least_loaded {
        return Ok(node.card.id);
    }
    if meant.iter().all(|node| node.is_leaving) {
        let leaving = match meant.is_empty() {
            true => String::new(),
            false => format!("; {}", reasons(&meant, demand)),
        };
        return Err(format!(
            "waits for {}, which has not joined: start it with `node --join HOST:PORT{}`{leaving}",
            selector.describe(),
            selector.arguments()
        ));
    }
    Err(format!("waits for {} with room for {needs}: {}", selector.describe(), reasons(&meant, demand)))
}

/// Returns why these nodes are not chosen; of many nodes, only the first ones are named.
fn reasons(nodes: &[&Candidate<'_>], demand: &Demand) -> String {
    let mut reasons: Vec<_> = nodes.iter().take(NAMED).map(|node| node.why_not(demand)).collect();
    if nodes.len() > NAMED {
        reasons.push(format!("and {} more nodes", nodes.len() - NAMED));
    }
    reasons.join("; ")
}

/// Returns the used share of the node's scarcest resource.
fn load(node: &Candidate<'_>) -> f64 {
    let have = node.card.resources;
    let share = |used: f64, have: f64| if have > 0.0 { used / have } else { 0.0 };
    share(f64::from(node.used.cpus), f64::from(have.cpus))
        .max(share(f64::from(node.used.gpus), f64::from(have.gpus)))
        .max(share(node.used.memory as f64, have.memory as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Selector;

    fn card(id: u64, name: &str, resources: Resources) -> NodeCard {
        let labels = [("zone".to_owned(), "west".to_owned())].into();
        NodeCard {
            id,
            name: name.to_owned(),
            labels,
            resources,
            endpoints: Vec::new(),
            process: None,
            ends_in_ms: None,
            drain_before_ms: 0,
        }
    }

    fn candidate(card: &NodeCard, used: Resources, works: usize) -> Candidate<'_> {
        Candidate { card, used, works, is_leaving: false, end: None }
    }

    fn choose(nodes: &[Candidate<'_>], selector: &Selector, needs: Resources) -> Result<u64, String> {
        super::choose(nodes, &Demand { selector: *selector, needs, runs_for: None })
    }

    #[test]
    fn a_node_that_is_not_there_is_waited_for_by_name_with_the_command_that_brings_it() {
        let why = choose(&[], &Selector::name("gpu-1"), Resources::default()).unwrap_err();
        assert!(why.contains("node `gpu-1`") && why.contains("--join HOST:PORT --name gpu-1"), "{why}");
        let why = choose(&[], &Selector::label("zone", "west"), Resources::default()).unwrap_err();
        assert!(why.contains("--label zone=west"), "{why}");
    }

    #[test]
    fn the_least_loaded_node_with_room_is_taken() {
        let (a, b, c) = (
            card(1, "a", Resources::cpus(4)),
            card(2, "b", Resources::cpus(8)),
            card(3, "c", Resources::cpus(1)),
        );
        let nodes = [
            candidate(&a, Resources::cpus(2), 1),
            candidate(&b, Resources::cpus(2), 9),
            candidate(&c, Resources::cpus(0), 0),
        ];
        assert_eq!(choose(&nodes, &Selector::any(), Resources::cpus(2)), Ok(2));
        assert_eq!(choose(&nodes, &Selector::any(), Resources::cpus(1)), Ok(3));
        assert_eq!(choose(&nodes, &Selector::name("a"), Resources::cpus(2)), Ok(1));
        let why = choose(&nodes, &Selector::label("zone", "west"), Resources::gpus(1)).unwrap_err();
        assert!(why.contains("1 gpus") && why.contains("`b` has 8 cpus"), "{why}");
    }

    #[test]
    fn without_needs_the_node_with_the_fewest_works_is_taken() {
        let (a, b) = (card(1, "a", Resources::default()), card(2, "b", Resources::default()));
        let nodes = [candidate(&a, Resources::default(), 3), candidate(&b, Resources::default(), 2)];
        assert_eq!(choose(&nodes, &Selector::any(), Resources::default()), Ok(2));
    }

    /// A node is chosen as long as what is left of it exceeds the time of the Work and the time in which it is left.
    #[test]
    fn node_that_ends_too_early_is_not_chosen_and_named() {
        let minute = Duration::from_secs(60);
        let (a, b) = (card(1, "a", Resources::cpus(4)), card(2, "b", Resources::cpus(1)));
        let ends = |card, left| Candidate {
            end: Some(End { left, drain_before: 5 * minute, when: "2026-11-30 21:00:00 UTC" }),
            ..candidate(card, Resources::default(), 0)
        };
        let choose = |nodes: &[Candidate<'_>], runs_for| {
            let (selector, needs) = (Selector::any(), Resources::cpus(1));
            super::choose(nodes, &Demand { selector, needs, runs_for })
        };
        let nodes = [ends(&a, 60 * minute), candidate(&b, Resources::default(), 0)];
        assert_eq!(choose(&nodes, Some(10 * minute)), Ok(1));
        assert_eq!(choose(&nodes, Some(55 * minute)), Ok(2));
        assert_eq!(choose(&nodes[..1], Some(54 * minute)), Ok(1));
        let why = choose(&nodes[..1], Some(90 * minute)).unwrap_err();
        assert!(
            why.contains(
                "`a` ends at 2026-11-30 21:00:00 UTC, too early for 1h30m and the 5m in which it is left"
            ),
            "{why}"
        );
        // A Work without a time of its own is not placed where it would have to leave at once.
        assert_eq!(choose(&[ends(&a, 6 * minute)], None), Ok(1));
        let why = choose(&[ends(&a, 5 * minute)], None).unwrap_err();
        assert!(why.contains("too early for the 5m in which it is left"), "{why}");
    }

    #[test]
    fn node_that_leaves_is_not_chosen_and_named() {
        let (a, b) = (card(1, "a", Resources::cpus(4)), card(2, "b", Resources::cpus(1)));
        let leaves = |card| Candidate { is_leaving: true, ..candidate(card, Resources::default(), 0) };
        let why = choose(&[leaves(&a)], &Selector::name("a"), Resources::cpus(1)).unwrap_err();
        assert!(why.contains("--name a`; `a` is about to leave"), "{why}");
        let nodes = [leaves(&a), candidate(&b, Resources::default(), 0)];
        assert_eq!(choose(&nodes, &Selector::any(), Resources::cpus(1)), Ok(2));
        let why = choose(&nodes, &Selector::any(), Resources::cpus(2)).unwrap_err();
        assert!(why.contains("`a` is about to leave; `b` has 1 cpus"), "{why}");
    }
}
