//! Comparison of what reactions asked for then with what they ask for now (pure).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::decision::{Decision, What};
use crate::id::ActorPath;

/// Decisions that were only made then, and those that are only made now.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Differences {
    pub(crate) then: Vec<Decision>,
    pub(crate) now: Vec<Decision>,
}

impl Differences {
    pub(crate) fn is_empty(&self) -> bool {
        self.then.is_empty() && self.now.is_empty()
    }

    /// Compares decisions. The order counts for the runs of one Work, and for nothing else.
    pub(crate) fn between(then: &[Decision], now: &[Decision]) -> Self {
        let mut left: Vec<_> = now.iter().map(Some).collect();
        // Equal decisions stand at the same place, or nearly.
        let mut begin = 0;
        let mut only_then = Vec::new();
        for decision in then {
            while left.get(begin).is_some_and(Option::is_none) {
                begin += 1;
            }
            let found = left[begin..].iter().position(|other| *other == Some(decision));
            match found {
                Some(index) => left[begin + index] = None,
                None => only_then.push(decision.clone()),
            }
        }
        let only_now = left.into_iter().flatten().cloned().collect();
        let mut found = Self { then: only_then, now: only_now };
        found.add_other_orders(then, now);
        found.leave_out_arrangements();
        found
    }

    /// Adds all runs of Works that are the same runs in another order.
    fn add_other_orders(&mut self, then: &[Decision], now: &[Decision]) {
        let is_run = |decision: &&Decision| matches!(decision.what, What::Run { .. });
        let has_other_runs: BTreeSet<_> =
            self.then.iter().chain(&self.now).filter(is_run).map(|decision| decision.path.clone()).collect();
        let runs = |decisions: &[Decision]| {
            let mut runs: BTreeMap<ActorPath, Vec<Decision>> = BTreeMap::new();
            for run in decisions.iter().filter(is_run) {
                runs.entry(run.path.clone()).or_default().push(run.clone());
            }
            runs
        };
        let mut now = runs(now);
        for (path, then) in runs(then) {
            let now = now.remove(&path).unwrap_or_default();
            if then != now && !has_other_runs.contains(&path) {
                self.then.extend(then);
                self.now.extend(now);
            }
        }
    }

    /// Leaves out other arrangements of children where a child that joins or leaves says the same.
    fn leave_out_arrangements(&mut self) {
        let all = self.then.iter().chain(&self.now);
        let moved: Vec<_> =
            all.filter(|decision| decision.is_of_parent()).map(|one| one.path.clone()).collect();
        let is_said = |decision: &Decision| match &decision.what {
            What::Children { field, .. } => {
                let field = match decision.path.as_str() {
                    "" => field.clone(),
                    flow => format!("{flow}.{field}"),
                };
                moved.iter().any(|path| is_below(path, &field))
            }
            _ => false,
        };
        self.then.retain(|decision| !is_said(decision));
        self.now.retain(|decision| !is_said(decision));
    }
}

pub(super) fn is_below(path: &ActorPath, above: &str) -> bool {
    let rest = path.as_str().strip_prefix(above);
    rest.is_some_and(|rest| above.is_empty() || rest.is_empty() || rest.starts_with('.'))
}

/// Returns the deepest one of the Flows that are at or above a path.
pub(super) fn deepest<'f>(path: &ActorPath, flows: &'f [ActorPath]) -> Option<&'f ActorPath> {
    let is_above = |flow: &&ActorPath| is_below(path, flow.as_str());
    flows.iter().filter(is_above).max_by_key(|flow| flow.as_str().len())
}

/// Returns the one of the Flows that is responsible for a decision.
fn responsible<'f>(decision: &Decision, flows: &'f [ActorPath]) -> Option<&'f ActorPath> {
    if !decision.is_of_parent() {
        return deepest(&decision.path, flows);
    }
    let (above, _) = decision.path.as_str().rsplit_once('.').unwrap_or_default();
    deepest(&above.into(), flows)
}

/// Gives the children of these lists numbers from 0 on. The first number of a list of which nothing was recorded before is
/// not known: an earlier Flow at the same path, whose Works had not ended, may have taken some.
pub(super) fn renumber(decisions: &mut [Decision], lists: &BTreeSet<String>) {
    if lists.is_empty() {
        return;
    }
    let mut numbers: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for decision in &*decisions {
        let path = decision.path.as_str();
        for (at, _) in path.match_indices('.') {
            let (list, rest) = (&path[..at], &path[at + 1..]);
            let number = rest.split('.').next().unwrap_or_default();
            if lists.contains(list)
                && let Ok(number) = number.parse()
            {
                numbers.entry(list.to_owned()).or_default().insert(number);
            }
        }
    }
    let renamed = |path: &ActorPath| {
        let (mut before, mut after) = (String::new(), String::new());
        for segment in path.as_str().split('.') {
            let number = segment.parse::<u64>().ok();
            let rank = number.and_then(|number| Some(numbers.get(&before)?.range(..number).count()));
            for text in [&mut before, &mut after] {
                if !text.is_empty() {
                    text.push('.');
                }
            }
            before.push_str(segment);
            match rank {
                Some(rank) => after.push_str(&rank.to_string()),
                None => after.push_str(segment),
            }
        }
        ActorPath::from(after.as_str())
    };
    for decision in decisions {
        decision.path = renamed(&decision.path);
        if let What::Children { shape: Some(shape), .. } = &mut decision.what {
            shape.rename(&|name| Some(renamed(name)));
        }
    }
}

/// The Flows that have reacted in a cycle, each with what it asks for differently.
pub(crate) fn by_flow(
    flows: &[ActorPath],
    then: Vec<Decision>,
    now: Vec<Decision>,
) -> HashMap<ActorPath, Differences> {
    let mut sides: HashMap<ActorPath, (Vec<Decision>, Vec<Decision>)> = HashMap::new();
    // Without a Flow above it, what has changed is the doing of the last one, which all others are below.
    let of = |decision: &Decision| responsible(decision, flows).or(flows.last()).cloned();
    for decision in then {
        if let Some(flow) = of(&decision) {
            sides.entry(flow).or_default().0.push(decision);
        }
    }
    for decision in now {
        if let Some(flow) = of(&decision) {
            sides.entry(flow).or_default().1.push(decision);
        }
    }
    sides.into_iter().map(|(flow, (then, now))| (flow, Differences::between(&then, &now))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Shape;
    use crate::state::Value;
    use crate::work::RunKey;

    fn at(path: &str) -> ActorPath {
        ActorPath::from(path)
    }

    fn decision(path: &str, what: What) -> Decision {
        Decision { path: at(path), what }
    }

    fn run(path: &str, input: u8) -> Decision {
        decision(path, What::Run { key: RunKey::from_bytes([input; 16]), input: Some(input.into()) })
    }

    fn field(path: &str, name: &str, value: u64) -> Decision {
        decision(path, What::Field { name: name.to_owned(), value: Some(Value::U64(value)) })
    }

    fn join(path: &str) -> Decision {
        decision(path, What::Join { state: None, settings: None })
    }

    fn children(path: &str, field: &str, names: &[&str]) -> Decision {
        let shape = Shape::List(names.iter().map(|name| Shape::Child(at(name))).collect());
        decision(path, What::Children { field: field.to_owned(), shape: Some(shape) })
    }

    /// Decisions that both sides have, as often as both have them, are no difference; all others are.
    #[test]
    fn only_what_one_side_has_differs() {
        let then =
            [run("train", 1), field("", "rounds", 3), run("train", 1), decision("train", What::Release)];
        assert!(Differences::between(&then, &then).is_empty());
        let now =
            [field("", "rounds", 4), run("train", 1), run("train", 2), decision("train", What::Release)];
        let found = Differences::between(&then, &now);
        assert_eq!(found.then, [field("", "rounds", 3), run("train", 1)]);
        assert_eq!(found.now, [field("", "rounds", 4), run("train", 2)]);
        assert_eq!(Differences::between(&[], &now).now, now);
        assert_eq!(Differences::between(&then, &[]).then, then);
    }

    /// Runs of one Work in another order are all shown; the order of what is about different actors does not count.
    #[test]
    fn order_counts_for_runs_of_one_work() {
        let then = [run("train", 1), run("train", 2), run("deploy", 1), field("", "rounds", 1)];
        let other = [field("", "rounds", 1), run("deploy", 1), run("train", 1), run("train", 2)];
        assert!(Differences::between(&then, &other).is_empty());
        let found = Differences::between(
            &then,
            &[run("train", 2), run("train", 1), then[2].clone(), then[3].clone()],
        );
        assert_eq!(found.then, then[..2]);
        assert_eq!(found.now, [run("train", 2), run("train", 1)]);
    }

    /// A child that joins says that its Flow has other children; one that changes its place does not.
    #[test]
    fn arrangement_is_left_out_where_a_child_joins() {
        let joins = [join("team.list.1"), children("team", "list", &["team.list.0", "team.list.1"])];
        let found = Differences::between(&[], &joins);
        assert_eq!(found.now, joins[..1]);
        let moves = [children("team", "list", &["team.list.1", "team.list.0"])];
        assert_eq!(Differences::between(&[], &moves).now, moves);
        let elsewhere = [join("team.listed"), moves[0].clone()];
        assert_eq!(Differences::between(&[], &elsewhere).now, elsewhere);
    }

    /// A decision is shown with the deepest Flow that reacted; a Flow that joins is a decision of the one above it.
    #[test]
    fn deepest_flow_is_responsible() {
        let flows = ["team.crew", "team", ""].map(at);
        let now = vec![run("team.crew.train", 1), run("team.deploy", 2), join("team.crew"), run("other", 3)];
        let found = by_flow(&flows, Vec::new(), now.clone());
        assert_eq!(found[&at("team.crew")].now, now[..1]);
        assert_eq!(found[&at("team")].now, now[1..3]);
        assert_eq!(found[&at("")].now, now[3..]);
        let found = by_flow(&flows[..1], Vec::new(), now);
        assert_eq!(found[&at("team.crew")].now.len(), 4, "it is the last one");
    }

    /// Numbers in a list of which nothing was recorded are counted from 0; others are compared as they are.
    #[test]
    fn children_of_a_new_list_are_renumbered() {
        let lists = BTreeSet::from(["crews.blue.list".to_owned()]);
        let side = |first: u64| {
            let below = |number: u64| format!("crews.blue.list.{number}");
            let names = [below(first), below(first + 2)];
            let names = children("crews.blue", "list", &[&names[0], &names[1]]);
            let mut side =
                vec![join(&below(first)), run(&below(first + 2), 1), names, run("crews.5.list.7", 1)];
            renumber(&mut side, &lists);
            side
        };
        assert_eq!(side(7), side(0));
        assert_eq!(side(7)[1].path, at("crews.blue.list.1"));
        assert_eq!(side(7)[3].path, at("crews.5.list.7"));
    }
}
