//! The scheduler: chooses the node for a Work. Pure.

use crate::work::{Resources, Selector};

use super::protocol::NodeCard;

/// A node that can be chosen.
pub(super) struct Candidate<'a> {
    pub(super) card: &'a NodeCard,
    /// The sum of the resources that its Works need.
    pub(super) used: Resources,
    /// The number of its Works.
    pub(super) works: usize,
}

/// Returns the least loaded node that matches the selector and has room.
///
/// # Errors
/// A description of what the Work waits for.
pub(super) fn choose(nodes: &[Candidate<'_>], selector: &Selector, needs: Resources) -> Result<u64, String> {
    let meant: Vec<_> = nodes
        .iter()
        .filter(|node| {
            let labels = node.card.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            selector.fits(&node.card.name, labels)
        })
        .collect();
    let with_room = meant.iter().filter(|node| node.card.resources.has_room(node.used, needs));
    let least_loaded = with_room.min_by(|a, b| load(a).total_cmp(&load(b)).then(a.works.cmp(&b.works)));
    if let Some(node) = least_loaded {
        return Ok(node.card.id);
    }
    if meant.is_empty() {
        return Err(format!(
            "waits for {}, which has not joined: start it with `node --join HOST:PORT{}`",
            selector.describe(),
            selector.arguments()
        ));
    }
    let have: Vec<_> = meant
        .iter()
        .map(|node| {
            format!("`{}` has {}, of which {} are taken", node.card.name, node.card.resources, node.used)
        })
        .collect();
    Err(format!("waits for {} with room for {needs}: {}", selector.describe(), have.join("; ")))
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

    fn card(id: u64, name: &str, resources: Resources) -> NodeCard {
        let labels = [("zone".to_owned(), "west".to_owned())].into();
        NodeCard { id, name: name.to_owned(), labels, resources, endpoints: Vec::new(), process: None }
    }

    fn candidate(card: &NodeCard, used: Resources, works: usize) -> Candidate<'_> {
        Candidate { card, used, works }
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
}
