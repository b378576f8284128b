//! Tests of the comparison, and of the Flows that a transaction tells of.

use proptest::prelude::*;

use super::*;

fn ask() -> impl Strategy<Value = Ask> {
    let work = || proptest::sample::select(vec!["a", "b.c"]).prop_map(ActorPath::from);
    let asked = prop_oneof![
        (0..3_u8).prop_map(|key| Asked::Run([key; 16])),
        (0..3_u8).prop_map(|key| Asked::Forget([key; 16])),
        Just(Asked::Stop),
        Just(Asked::Start),
    ];
    prop_oneof![
        4 => (work(), asked).prop_map(|(work, asked)| Ask::Work(work, asked)),
        1 => work().prop_map(Ask::Joined),
        1 => work().prop_map(Ask::Left),
    ]
}

fn decision() -> impl Strategy<Value = Decision> {
    let wake = prop_oneof![
        Just(Wake::None),
        Just(Wake::Unknown),
        (0..10_000_u64).prop_map(|millis| Wake::In(Duration::from_millis(millis))),
    ];
    let failed = proptest::option::of("[a-z]{1,3}");
    (proptest::collection::btree_map(ask(), Just(None), 0..6), wake, failed)
        .prop_map(|(asks, wake, failed)| Decision { asks, wake, failed })
}

proptest! {
    /// A decision does not differ from itself, the sides change places with the decisions, and each request that only one
    /// of them has is named once.
    #[test]
    fn differences_are_what_one_side_has(then in decision(), now in decision()) {
        prop_assert!(Decision::differing(&then, &then).is_empty());
        let Differing { then_only, now_only } = Decision::differing(&then, &now);
        let turned = Decision::differing(&now, &then);
        prop_assert_eq!((&turned.then_only, &turned.now_only), (&now_only, &then_only));
        let asks = |parts: &[Part]| -> Vec<Ask> {
            parts.iter().filter_map(|part| if let Part::Ask(ask, _) = part { Some(ask.clone()) } else { None }).collect()
        };
        let only = |one: &Decision, other: &Decision| -> Vec<Ask> {
            one.asks.keys().filter(|ask| !other.asks.contains_key(*ask)).cloned().collect()
        };
        prop_assert_eq!(asks(&then_only), only(&then, &now));
        prop_assert_eq!(asks(&now_only), only(&now, &then));
        let fails = |parts: &[Part]| parts.iter().any(|part| matches!(part, Part::Failed(_)));
        prop_assert_eq!(fails(&then_only), then.failed.is_some() && now.failed.is_none());
        let wakes = |parts: &[Part]| parts.iter().any(|part| matches!(part, Part::Wake(_)));
        let differ = match (then.wake, now.wake) {
            (Wake::In(then), Wake::In(now)) => then.abs_diff(now) > CLOSE,
            (Wake::In(_), Wake::None) => true,
            _ => false,
        };
        prop_assert_eq!(wakes(&then_only), differ);
    }
}

/// An actor belongs to the nearest Flow above it, whatever lists and maps are between them.
#[test]
fn actor_belongs_to_the_nearest_flow() {
    let flows = ["", "team", "team.squads.1"].map(ActorPath::from).into();
    for (path, flow) in [
        ("train", ""),
        ("teams.3", ""),
        ("team", ""),
        ("team.member", "team"),
        ("team.squads.1", "team"),
        ("team.squads.1.list.0", "team.squads.1"),
        ("team.squads.10", "team"),
    ] {
        assert_eq!(owner(&flows, &path.into()), flow.into(), "{path}");
    }
}

/// Changes that do not fit the data before them are reported, and not applied.
#[test]
fn change_that_does_not_fit_is_damage() {
    let mut tracker = crate::state::Tracker::new(usize::MAX);
    tracker.update(&BTreeMap::from([("a", 1)])).unwrap();
    let patch = tracker.update(&BTreeMap::from([("b", 2)])).unwrap().unwrap();
    let changes = vec![Change::Patch { path: "train".into(), patch }];
    let (at, wall) = (Duration::ZERO, SystemTime::UNIX_EPOCH);
    let transaction = RecordedTransaction { position: 1, at, wall, changes, merged: Vec::new() };
    let entry = HistoryEntry { first: 1, transactions: vec![transaction] };
    let mut reactions = Reactions::new(Live::default(), []);
    let added = reactions.add(&entry, 1, |_| ());
    let damage = added.expect_err("there is no state that the patch fits");
    assert!(damage.contains("position 1") && damage.contains("train"), "{damage}");
}
