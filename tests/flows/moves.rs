//! Children that are moved: each child in the tree reacts, whatever moves were made.

use std::collections::BTreeMap;

use flowright::prelude::*;
use flowright::testing::TestApp;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy};
use proptest::prop_oneof;
use proptest::test_runner::{Config, TestRunner};

use crate::support::*;

/// A Flow that shows its reactions: to writes of its parent, and to publishes of its Work.
#[derive(Default, Serialize, Children)]
struct Kid {
    goal: i64,
    seen: i64,
    sum: i64,
    work: WorkRef<Probe>,
}

impl Flow for Kid {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.seen = self.goal;
        self.sum = self.work.value;
        Ok(())
    }
}

/// A Flow between the root and a child.
#[derive(Default, Serialize, Children)]
struct House {
    room: Option<FlowRef<Kid>>,
    rooms: BTreeMap<u32, FlowRef<Kid>>,
}

impl Flow for House {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

/// Children that are not in the tree.
#[derive(Default)]
struct Pocket(Vec<FlowRef<Kid>>);

#[derive(Debug, Clone, Copy)]
enum Place {
    First,
    Second,
    Key(u32),
    List,
    Room,
    RoomKey(u32),
}

#[derive(Debug, Clone, Copy)]
enum Move {
    /// Exchanges the contents of two places, each of which may be empty.
    Swap(Place, Place),
    /// Takes the child in this place out of the tree.
    Pocket(Place),
    /// Puts back all children that were taken out, and takes all children out that are in that place.
    Return,
    /// Drops the child in this place, and makes a new one.
    Replace(Place),
    /// Exchanges the Works of two children.
    SwapWorks,
    SwapHouses,
}

#[derive(Default, Serialize, Children)]
struct Town {
    boss: WorkRef<Probe>,
    first: Option<FlowRef<Kid>>,
    second: Option<FlowRef<Kid>>,
    keyed: BTreeMap<u32, FlowRef<Kid>>,
    list: Vec<FlowRef<Kid>>,
    house: FlowRef<House>,
    other: FlowRef<House>,
    /// The last step to which all children have reacted, twice.
    settled: i64,
    kids: usize,
    reactions: u64,
    #[serde(skip)]
    step: i64,
    #[serde(skip)]
    told: Vec<(String, i64)>,
    #[serde(skip)]
    next_key: u32,
    #[serde(skip)]
    pocket: Pocket,
    #[serde(skip)]
    moves: Vec<Move>,
}

impl Town {
    fn take(&mut self, place: Place) -> Option<FlowRef<Kid>> {
        match place {
            Place::First => self.first.take(),
            Place::Second => self.second.take(),
            Place::Key(key) => self.keyed.remove(&key),
            Place::List => (!self.list.is_empty()).then(|| self.list.remove(0)),
            Place::Room => self.house.room.take(),
            Place::RoomKey(key) => self.house.rooms.remove(&key),
        }
    }

    fn put(&mut self, place: Place, kid: Option<FlowRef<Kid>>) {
        let Some(kid) = kid else { return };
        let before = match place {
            Place::First => self.first.replace(kid),
            Place::Second => self.second.replace(kid),
            Place::Key(key) => self.keyed.insert(key, kid),
            Place::List => {
                self.list.push(kid);
                None
            }
            Place::Room => self.house.room.replace(kid),
            Place::RoomKey(key) => self.house.rooms.insert(key, kid),
        };
        assert!(before.is_none(), "{place:?} was taken from before");
    }

    /// Returns a place with a name that was never used, since a child keeps its first name.
    fn unused(&mut self) -> Place {
        self.next_key += 1;
        Place::Key(100 + self.next_key)
    }

    fn make(&mut self, what: Move) {
        match what {
            Move::Swap(a, b) => {
                let (kid, other) = (self.take(a), self.take(b));
                self.put(b, kid);
                self.put(a, other);
            }
            Move::Pocket(place) => {
                let kid = self.take(place);
                self.pocket.0.extend(kid);
            }
            Move::Return => {
                for kid in std::mem::take(&mut self.pocket.0) {
                    let place = self.unused();
                    self.put(place, Some(kid));
                }
            }
            Move::Replace(place) => {
                drop(self.take(place));
                let place = self.unused();
                self.put(place, Some(FlowRef::default()));
            }
            Move::SwapWorks => {
                let mut kids: Vec<_> = self.all().collect();
                if let [a, .., b] = &mut kids[..] {
                    std::mem::swap(&mut a.work, &mut b.work);
                }
            }
            Move::SwapHouses => std::mem::swap(&mut self.house, &mut self.other),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut FlowRef<Kid>> {
        let House { room, rooms } = &mut *self.house;
        let other = &mut *self.other;
        self.first
            .iter_mut()
            .chain(&mut self.second)
            .chain(self.keyed.values_mut())
            .chain(&mut self.list)
            .chain(room)
            .chain(rooms.values_mut())
            .chain(&mut other.room)
            .chain(other.rooms.values_mut())
    }
}

impl Flow for Town {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.reactions += 1;
        if self.boss.value > self.step {
            self.step = self.boss.value;
            if let Some(what) = self.moves.pop() {
                self.make(what);
            }
            self.settled = 0;
        }
        let step = self.step;
        let mut told = std::mem::take(&mut self.told);
        let (mut kids, mut settled, mut waits) = (0, true, false);
        for kid in self.all() {
            kids += 1;
            // Written at each reaction, whether or not it changes.
            kid.goal = step;
            settled &= (kid.seen, kid.sum) == (step, step);
            let Some(path) = kid.work.path().filter(|_| kid.seen == step && kid.sum != step) else {
                continue;
            };
            let message = (path.to_string(), step);
            if !told.contains(&message) {
                match kid.work.try_tell(Set(step)) {
                    Ok(()) => told.push(message),
                    // The Work has not started yet.
                    Err(_) => waits = true,
                }
            }
        }
        (self.told, self.kids) = (told, kids);
        if waits {
            cx.wake_in(Duration::from_millis(5));
        }
        if settled {
            self.settled = step;
        }
        Ok(())
    }
}

/// Makes these moves in order, and waits after each for all children to have reacted.
fn check(moves: &[Move]) {
    let mut reversed: Vec<_> = moves.iter().rev().copied().collect();
    // In the end all children are back in the tree.
    reversed.insert(0, Move::Return);
    let steps = reversed.len() as i64;
    let app = TestApp::start(move || Town {
        first: Some(FlowRef::default()),
        keyed: [(1, FlowRef::default()), (2, FlowRef::default())].into(),
        list: vec![FlowRef::default(), FlowRef::default()],
        house: House { room: Some(FlowRef::default()), rooms: BTreeMap::new() }.into(),
        moves: reversed,
        ..Town::default()
    });
    let boss = app.work::<Probe>("boss");
    for step in 1..=steps {
        app.block_on(boss.tell(Set(step))).unwrap();
        app.wait_for_state("settled", |settled: &i64| *settled == step);
    }
    assert!(app.wait_for_state("kids", |_: &usize| true) >= 6);
    let reactions = app.wait_for_state("reactions", |_: &u64| true);
    assert!(reactions < 200 * steps as u64, "{reactions} reactions to {steps} moves");
    app.stop().result.unwrap();
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        Just(Place::First),
        Just(Place::Second),
        (1..4_u32).prop_map(Place::Key),
        Just(Place::List),
        Just(Place::Room),
        (1..3_u32).prop_map(Place::RoomKey),
    ]
}

/// However children are moved between fields, keys, lists and Flows, taken out, put back and replaced, each child in
/// the tree reacts to its parent and to its Work, and no Flow reacts without end.
#[test]
fn moved_children_react_whatever_the_moves() {
    let moves = prop_oneof![
        6 => (place(), place()).prop_map(|(a, b)| Move::Swap(a, b)),
        2 => place().prop_map(Move::Pocket),
        2 => Just(Move::Return),
        1 => place().prop_map(Move::Replace),
        1 => Just(Move::SwapWorks),
        1 => Just(Move::SwapHouses),
    ];
    let config = Config { cases: 16, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    TestRunner::new(config)
        .run(&vec(moves, 1..10), |moves| {
            check(&moves);
            Ok(())
        })
        .unwrap();
}

/// Fixed cases: moves between the keys of a map, between fields, and by `mem::swap`.
#[test]
fn child_moved_once_reacts_and_keeps_its_name() {
    check(&[Move::Swap(Place::Key(1), Place::Key(3))]);
    check(&[Move::Swap(Place::First, Place::Second)]);
    check(&[Move::Swap(Place::Key(1), Place::Key(2)), Move::Swap(Place::First, Place::Room)]);
    check(&[Move::Pocket(Place::First), Move::Replace(Place::Key(1)), Move::Return]);
}
