//! Tests of single decisions of the planner.

use super::*;
use crate::work::Selector;

pub(super) const S: Duration = Duration::from_secs(1);
pub(super) const WALL: SystemTime = SystemTime::UNIX_EPOCH;

pub(super) fn limits(most: usize) -> Limits {
    Limits {
        brings: Resources::cpus(4).and_gpus(1),
        labels: [("fleet".to_owned(), "a".to_owned())].into(),
        least: 0,
        most,
        backlog: 2,
        time: Some(3600 * S),
        drain: 60 * S,
        idle: 300 * S,
        join_within: 180 * S,
    }
}

pub(super) fn demand(needs: Resources) -> Demand {
    Demand { selector: Selector::any(), needs, runs_for: None }
}

pub(super) fn node(key: &Key, used: Resources, works: usize) -> NodeRoom {
    NodeRoom {
        name: key.to_string(),
        labels: [("fleet".to_owned(), key.group().to_owned())].into(),
        resources: Resources::cpus(4).and_gpus(1),
        used,
        works,
        is_leaving: false,
        ends_in: None,
    }
}

/// A planner of group `a` whose engine has listed nothing.
fn planner(limits: Limits) -> Planner {
    let mut planner = Planner::new([("a".to_owned(), limits)], 7);
    planner.listed((S, WALL), S, &["a".to_owned()], Ok(Vec::new()));
    planner
}

fn submitted(actions: &[PlanAction]) -> Vec<Key> {
    let keys = actions.iter().filter_map(|action| match action {
        PlanAction::Submit { keys, .. } => Some(keys.clone()),
        _ => None,
    });
    keys.flatten().collect()
}

fn listed(key: &Key, stage: ListedStage) -> Listed {
    Listed { key: key.clone(), id: "1".to_owned(), stage, ends_at: None }
}

pub(super) fn running(key: &Key) -> Listed {
    listed(key, ListedStage::Running { at: "n1".to_owned() })
}

fn ended(key: &Key, end: AllocationEnd) -> Listed {
    listed(key, ListedStage::Ended { end, words: "exit code 1".to_owned() })
}

fn list(planner: &mut Planner, now: Duration, list: Vec<Listed>) {
    planner.listed((now, WALL), now, &["a".to_owned()], Ok(list));
}

/// Demand is grouped: as many allocations are requested as the Works need, up to the backlog.
#[test]
fn demand_is_packed_into_allocations() {
    let mut planner = planner(limits(10));
    let wanted = [(demand(Resources::cpus(1)), 6)].into();
    let actions = planner.plan(2 * S, &wanted, &[]);
    assert_eq!(submitted(&actions).len(), 2, "{actions:?}");
    assert!(planner.plan(3 * S, &wanted, &[]).is_empty(), "the allocations on their way serve it");
    assert_eq!(submitted(&planner.plan(4 * S, &[(demand(Resources::cpus(1)), 9)].into(), &[])).len(), 0);
}

/// Free room of nodes, of a fleet or not, serves demand before an allocation is requested.
#[test]
fn free_room_is_used_first() {
    let mut planner = planner(limits(10));
    let mut by_hand = node(&Key::new("x", 1), Resources::cpus(2), 1);
    by_hand.name = "by-hand".to_owned();
    let wanted = [(demand(Resources::cpus(1)), 2)].into();
    assert!(planner.plan(2 * S, &wanted, &[by_hand.clone()]).is_empty());
    by_hand.is_leaving = true;
    assert_eq!(submitted(&planner.plan(3 * S, &wanted, &[by_hand])).len(), 1);
}

/// Nothing is requested before the engine has said what is there.
#[test]
fn first_list_comes_before_the_first_request() {
    let mut planner = Planner::new([("a".to_owned(), limits(1))], 7);
    let wanted = [(demand(Resources::cpus(1)), 1)].into();
    assert!(planner.plan(S, &wanted, &[]).is_empty() && planner.wants_list("a"));
    let key = Key::new("a", 99);
    list(&mut planner, 2 * S, vec![running(&key)]);
    assert!(planner.plan(2 * S, &wanted, &[]).is_empty(), "the allocation of an earlier head serves it");
    assert_eq!(planner.views(2 * S)[0].allocations[0].stage, "starting");
}

/// A node of an earlier head may have Works, which make no demand: it has the time to return that nodes have to join.
#[test]
fn running_allocation_of_an_earlier_head_may_return() {
    let mut planner = Planner::new([("a".to_owned(), Limits { idle: S, ..limits(1) })], 7);
    let key = Key::new("a", 99);
    list(&mut planner, 2 * S, vec![running(&key)]);
    assert!(planner.plan(2 * S, &BTreeMap::new(), &[]).is_empty());
    let actions = planner.plan(60 * S, &BTreeMap::new(), &[]);
    assert!(actions.is_empty(), "{actions:?}");
    let actions = planner.plan(183 * S, &BTreeMap::new(), &[]);
    assert!(matches!(&actions[..], [PlanAction::End { keys, .. }, ..] if *keys == [key]), "{actions:?}");
}

/// Allocations of a group that is not configured any more are ended.
#[test]
fn allocations_of_unknown_groups_are_ended() {
    let mut planner = planner(limits(1));
    let key = Key::new("gone", 99);
    list(&mut planner, 2 * S, vec![running(&key)]);
    let end = PlanAction::End { group: "a".to_owned(), keys: vec![key] };
    assert_eq!(planner.plan(2 * S, &BTreeMap::new(), &[]), [end]);
}

/// A node that nothing needs is drained after the idle time, unless it is one of the least number.
#[test]
fn idle_node_is_drained() {
    for least in [0, 1] {
        let mut planner = planner(Limits { least, ..limits(3) });
        let key = submitted(&planner.plan(2 * S, &[(demand(Resources::cpus(1)), 1)].into(), &[]))[0].clone();
        planner.answered(2 * S, &key, Ok(()));
        let nodes = [node(&key, Resources::default(), 0)];
        assert!(planner.plan(10 * S, &BTreeMap::new(), &nodes).is_empty());
        assert!(planner.plan(309 * S, &BTreeMap::new(), &nodes).is_empty());
        let next = planner.next(309 * S);
        let actions = planner.plan(310 * S, &BTreeMap::new(), &nodes);
        match least {
            0 => {
                assert_eq!(next, Some(310 * S));
                assert!(
                    matches!(&actions[..], [PlanAction::Drain { key: drained, if_idle: true, .. }] if *drained == key)
                );
                planner.stays(311 * S, &key);
                assert!(planner.plan(312 * S, &BTreeMap::new(), &nodes).is_empty(), "the time begins anew");
            }
            _ => assert!(actions.is_empty(), "{actions:?}"),
        }
    }
}

/// A node that somebody has started by hand is not sent away, whatever its name.
#[test]
fn node_without_the_label_of_a_group_is_left_alone() {
    let mut planner = planner(limits(3));
    let mut by_hand = node(&Key::new("a", 1), Resources::default(), 0);
    by_hand.labels.clear();
    assert!(planner.plan(2 * S, &BTreeMap::new(), &[by_hand.clone()]).is_empty());
    assert!(planner.plan(9999 * S, &BTreeMap::new(), &[by_hand]).is_empty());
    assert!(planner.views(9999 * S)[0].allocations.is_empty());
}

/// A node leaves before the time limit of its allocation, also if the engine has changed it.
#[test]
fn node_leaves_before_the_time_limit() {
    let mut planner = planner(limits(3));
    let wanted = [(demand(Resources::cpus(1)), 1)].into();
    let key = submitted(&planner.plan(2 * S, &wanted, &[]))[0].clone();
    planner.answered(2 * S, &key, Ok(()));
    let nodes = [NodeRoom { ends_in: Some(1000 * S), ..node(&key, Resources::cpus(1), 1) }];
    assert!(planner.plan(10 * S, &BTreeMap::new(), &nodes).is_empty());
    let shorter = Listed { ends_at: Some(WALL + 180 * S), ..running(&key) };
    list(&mut planner, 20 * S, vec![shorter]);
    assert!(planner.plan(139 * S, &BTreeMap::new(), &nodes).is_empty());
    let actions = planner.plan(140 * S, &BTreeMap::new(), &nodes);
    assert!(matches!(&actions[..], [PlanAction::Drain { if_idle: false, .. }]), "{actions:?}");
}

/// Works that run for too long are reported instead of being tried, as are needs that no group has.
#[test]
fn impossible_demand_is_told() {
    let mut planner = planner(limits(3));
    let long = Demand { runs_for: Some(3541 * S), ..demand(Resources::cpus(1)) };
    let large = demand(Resources::gpus(2));
    let labelled = Demand { selector: Selector::label("zone", "west"), ..demand(Resources::cpus(1)) };
    let wanted: BTreeMap<_, _> = [(long, 1), (large, 1), (labelled, 1)].into();
    assert!(planner.plan(2 * S, &wanted, &[]).is_empty());
    let reasons = planner.reasons();
    assert!(reasons[&long].contains("3600s"), "{reasons:?}");
    assert!(reasons[&large].contains("less than 0 cpus, 2 gpus"), "{reasons:?}");
    assert!(reasons[&labelled].contains("zone=west"), "{reasons:?}");
    let named = Demand { selector: Selector::name("gpu-1"), ..demand(Resources::cpus(1)) };
    assert!(planner.plan(3 * S, &[(named, 1)].into(), &[]).is_empty(), "a name makes no demand");
    assert!(planner.reasons().is_empty());
}

/// Failures pause the group, one at a time is tried, and a node that lives for a minute clears them.
#[test]
fn failing_group_is_paused_and_probed() {
    let mut planner = planner(limits(9));
    let wanted: BTreeMap<_, _> = [(demand(Resources::gpus(1)), 5)].into();
    let mut now = 2 * S;
    for (strike, pause) in [(1, 0), (2, 60), (3, 300), (4, 900)] {
        let keys = submitted(&planner.plan(now, &wanted, &[]));
        assert_eq!(keys.len(), if strike == 1 { 2 } else { 1 }, "strike {strike}");
        keys.iter().for_each(|key| planner.answered(now, key, Ok(())));
        now += S;
        list(&mut planner, now, keys.iter().map(|key| ended(key, AllocationEnd::Failed)).collect());
        let actions = planner.plan(now, &wanted, &[]);
        let explains = |key: &&Key| actions.contains(&PlanAction::Explain { key: (*key).clone() });
        let key = keys.iter().find(explains).unwrap();
        planner.explained(key, "no such module: cuda");
        if pause > 0 {
            assert_eq!(submitted(&actions), []);
            now += (pause - 1) * S;
            assert_eq!(submitted(&planner.plan(now, &wanted, &[])), []);
            assert!(
                planner.reasons()[&demand(Resources::gpus(1))].contains("cuda"),
                "{:?}",
                planner.reasons()
            );
            now += S;
        } else {
            let retried = submitted(&actions);
            assert_eq!(retried.len(), 1);
            list(&mut planner, now, vec![ended(&retried[0], AllocationEnd::Cancelled)]);
        }
    }
    let key = submitted(&planner.plan(now, &wanted, &[]))[0].clone();
    planner.answered(now, &key, Ok(()));
    let nodes = [node(&key, Resources::gpus(1), 1)];
    planner.plan(now, &wanted, &nodes);
    assert_eq!(submitted(&planner.plan(now + 59 * S, &wanted, &nodes)), []);
    assert_eq!(submitted(&planner.plan(now + 60 * S, &wanted, &nodes)).len(), 2);
}

/// A node that has not joined in time is ended, which is a strike.
#[test]
fn node_that_never_joins_is_ended() {
    let mut planner = planner(limits(9));
    let wanted: BTreeMap<_, _> = [(demand(Resources::gpus(1)), 1)].into();
    let key = submitted(&planner.plan(2 * S, &wanted, &[]))[0].clone();
    planner.answered(2 * S, &key, Ok(()));
    list(&mut planner, 3 * S, vec![running(&key)]);
    assert!(planner.plan(182 * S, &wanted, &[]).is_empty());
    let actions = planner.plan(183 * S, &wanted, &[]);
    let end = PlanAction::End { group: "a".to_owned(), keys: vec![key.clone()] };
    assert!(
        actions.contains(&end) && actions.contains(&PlanAction::Explain { key: key.clone() }),
        "{actions:?}"
    );
    assert_eq!(
        planner.views(183 * S)[0].problem.as_deref().map(|why| why.contains("not joined")),
        Some(true)
    );
}

/// A quota is waited for; a refusal pauses the group until somebody resumes it.
#[test]
fn quota_waits_and_refusal_pauses() {
    let mut planner = planner(limits(9));
    let wanted: BTreeMap<_, _> = [(demand(Resources::gpus(1)), 1)].into();
    let key = submitted(&planner.plan(2 * S, &wanted, &[]))[0].clone();
    planner.answered(2 * S, &key, Err(EngineError::Quota("QOSMaxJobs".to_owned())));
    assert_eq!(submitted(&planner.plan(31 * S, &wanted, &[])), []);
    assert!(planner.reasons().values().all(|why| why.contains("QOSMaxJobs")));
    let key = submitted(&planner.plan(32 * S, &wanted, &[]))[0].clone();
    planner.answered(32 * S, &key, Err(EngineError::Refused("invalid partition".to_owned())));
    assert_eq!(submitted(&planner.plan(9999 * S, &wanted, &[])), []);
    assert!(planner.reasons().values().all(|why| why.contains("invalid partition")));
    assert!(planner.resume("a"));
    assert_eq!(submitted(&planner.plan(9999 * S, &wanted, &[])).len(), 1);
}

/// 10,000 nodes and 100,000 waiting Works are planned from their numbers.
#[test]
fn large_fleet_is_planned_by_counts() {
    let mut planner = planner(Limits { backlog: 50, ..limits(20_000) });
    let nodes: Vec<_> =
        (0..10_000).map(|number| node(&Key::new("a", number), Resources::cpus(4), 4)).collect();
    let wanted: BTreeMap<_, _> = (1..=50)
        .map(|seconds| {
            let runs_for = Some(seconds * S);
            (Demand { runs_for, ..demand(Resources::cpus(1)) }, 2_000)
        })
        .collect();
    assert_eq!(submitted(&planner.plan(2 * S, &wanted, &nodes)).len(), 50);
}
