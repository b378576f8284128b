//! The rules about services, cycles, streams, batches and dead letters, on records that are written by hand.

use super::check;
use super::deadlocks::{HIDDEN, UNTOLD};
use super::tests::{A, B, EAST, HEAD, Script, WEST};
use crate::records::{Event, Kind, LetterSender, Life, Outcome};

/// Lists the tests of this file.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[$((concat!("checker::", stringify!($name)), $name)),*];
    };
}

tests![
    tell_first_may_overtake_others,
    message_that_overtakes_tell_first_violates_order,
    swapped_messages_of_tell_first_violate_order,
    tell_overtaken_by_tell_first_may_be_lost_with_its_node,
    message_of_a_service_is_handled_by_its_replicas,
    message_of_another_service_violates_once,
    tell_to_a_service_whose_replica_stopped_violates_delivery,
    tell_to_a_service_whose_replica_panicked_violates_delivery,
    tell_to_a_service_whose_replica_was_killed_is_excused,
    tell_of_a_sender_that_panicked_is_excused_on_a_node_given_up,
    message_before_ready_violates_version,
    older_version_after_a_newer_one_violates_version,
    answers_that_overlap_may_be_of_either_version,
    cycle_of_asks_may_be_told,
    cycle_of_asks_at_different_times_violates_deadlock,
    cycle_through_an_ask_beside_a_timer_violates_deadlock,
    cycles_that_last_are_counted,
    letter_of_a_handled_message_violates_letter,
    letters_of_lost_messages_are_complete_where_nothing_is_killed,
    stream_that_hangs_violates_answer,
    batch_beyond_its_bounds_violates_batch,
];

/// A replica of the service `services.s`, of the version 1, and of the version 2.
const OLD: Life = 11;
const NEW: Life = 12;

impl Script {
    /// The usual script, with a replica of each version on `east`, of which the older one is ready.
    fn with_service() -> Self {
        let mut script = Self::new();
        script.began(EAST, OLD, "services.s.replicas.v1-1", 1);
        script.ready(OLD);
        script.began(EAST, NEW, "services.s.replicas.v2-2", 1);
        script
    }

    fn ready(&mut self, life: Life) {
        self.by(EAST, Event::Ready { life });
    }

    /// Records a tell of `a` to the service that was accepted.
    fn told_service(&mut self, id: &str) {
        self.trying(A, id, "services.s", Kind::Tell);
        self.sent(id, Outcome::Accepted);
    }

    /// Records an ask of the service that is answered by this replica.
    fn asked_service(&mut self, id: &str, by: Life) {
        self.trying(A, id, "services.s", Kind::Ask);
        self.handled(by, id);
        self.sent(id, Outcome::Answered);
    }

    /// Records a `tell_first` of `a` to `b` that was accepted.
    fn told_first(&mut self, id: &str) {
        self.trying(A, id, "b", Kind::First);
        self.sent(id, Outcome::Accepted);
    }

    /// Records that handlers of `a` and `b` ask each other.
    fn asks_each_other(&mut self, kind: Kind) {
        self.trying(A, "one", "b", kind);
        self.trying(B, "two", "a", Kind::Nested);
    }

    fn told_of_cycle(&mut self, id: &str, cycle: &[&str]) {
        self.sent(id, Outcome::Deadlock(cycle.iter().map(|path| (*path).to_owned()).collect()));
    }

    fn letter(&mut self, reason: &str, count: u64) {
        let (to, message) = ("b".to_owned(), "chaos::works::Note".to_owned());
        let (sender, reason) = (LetterSender::Work("a".to_owned()), reason.to_owned());
        self.by(HEAD, Event::Letter { epoch: 1, to, message, sender, reason, count });
    }
}

fn tell_first_may_overtake_others() {
    let mut script = Script::new();
    script.told("one");
    script.told_first("first");
    script.told("two");
    script.handled(B, "first");
    script.handled(B, "one");
    script.handled(B, "two");
    script.violates(&[]);
}

/// A message that is sent later, and waits, is handled after it.
fn message_that_overtakes_tell_first_violates_order() {
    let mut script = Script::new();
    script.told_first("first");
    script.told("one");
    script.handled(B, "one");
    script.handled(B, "first");
    script.violates(&["order"]);
}

fn swapped_messages_of_tell_first_violate_order() {
    let mut script = Script::new();
    script.told_first("one");
    script.told_first("two");
    script.handled(B, "two");
    script.handled(B, "one");
    script.violates(&["order"]);
}

/// That a later message was handled does not say that it was lost before.
fn tell_overtaken_by_tell_first_may_be_lost_with_its_node() {
    let mut script = Script::new();
    script.told("one");
    script.told_first("first");
    script.handled(B, "first");
    script.wait(10);
    script.kill(EAST);
    script.violates(&[]);
}

/// In any order.
fn message_of_a_service_is_handled_by_its_replicas() {
    let mut script = Script::with_service();
    script.told_service("one");
    script.told_service("two");
    script.ready(NEW);
    script.handled(NEW, "two");
    script.handled(OLD, "one");
    script.violates(&[]);
}

fn message_of_another_service_violates_once() {
    let mut script = Script::with_service();
    script.trying(A, "one", "services.other", Kind::Tell);
    script.sent("one", Outcome::Accepted);
    script.handled(OLD, "one");
    script.violates(&["once"]);
}

/// It goes to another replica.
fn tell_to_a_service_whose_replica_stopped_violates_delivery() {
    let mut script = Script::with_service();
    script.told_service("one");
    script.by(EAST, Event::Ended { life: OLD, orderly: true });
    script.violates(&["delivery"]);
}

fn tell_to_a_service_whose_replica_panicked_violates_delivery() {
    let mut script = Script::with_service();
    script.told_service("one");
    script.by(EAST, Event::Panicking { life: OLD });
    script.by(EAST, Event::Ended { life: OLD, orderly: false });
    script.violates(&["delivery"]);
}

fn tell_to_a_service_whose_replica_was_killed_is_excused() {
    let mut script = Script::with_service();
    script.told_service("one");
    script.kill(EAST);
    script.violates(&[]);
}

/// The message waited there for the head, with all others of the node.
fn tell_of_a_sender_that_panicked_is_excused_on_a_node_given_up() {
    const OTHER: Life = 13;
    for (is_given_up, violated) in [(true, &[][..]), (false, &["delivery"][..])] {
        let mut script = Script::new();
        script.began(WEST, OTHER, "c", 1);
        let (who, what) = ("west".to_owned(), "network: Cut".to_owned());
        script.by(1, Event::Disturbed { who: who.clone(), what: what.clone() });
        script.told("one");
        script.by(WEST, Event::Panicking { life: A });
        script.by(WEST, Event::Ended { life: A, orderly: false });
        script.wait(4);
        if is_given_up {
            script.by(WEST, Event::Ended { life: OTHER, orderly: false });
        }
        script.by(1, Event::Calm { who, what });
        script.violates(violated);
    }
}

fn message_before_ready_violates_version() {
    let mut script = Script::with_service();
    script.told_service("one");
    script.handled(NEW, "one");
    script.ready(NEW);
    script.violates(&["version"]);
}

/// Whoever has sent it.
fn older_version_after_a_newer_one_violates_version() {
    let mut script = Script::with_service();
    script.asked_service("one", OLD);
    script.ready(NEW);
    script.asked_service("two", NEW);
    script.trying(B, "three", "services.s", Kind::Ask);
    script.handled(OLD, "three");
    script.sent("three", Outcome::Answered);
    script.violates(&["version"]);
}

fn answers_that_overlap_may_be_of_either_version() {
    let mut script = Script::with_service();
    script.ready(NEW);
    script.trying(A, "one", "services.s", Kind::Ask);
    script.asked_service("two", NEW);
    script.handled(OLD, "one");
    script.sent("one", Outcome::Answered);
    script.violates(&[]);
}

fn cycle_of_asks_may_be_told() {
    let mut script = Script::new();
    script.asks_each_other(Kind::Nested);
    script.told_of_cycle("one", &["a", "b", "a"]);
    script.handled(A, "two");
    script.sent("two", Outcome::Answered);
    script.violates(&[]);
    // Each is told of its own ask.
    let mut script = Script::new();
    script.asks_each_other(Kind::Nested);
    script.told_of_cycle("one", &["b", "a", "b"]);
    script.sent("two", Outcome::Unclear("it failed".to_owned()));
    script.violates(&["deadlock"]);
}

fn cycle_of_asks_at_different_times_violates_deadlock() {
    let mut script = Script::new();
    script.trying(B, "two", "a", Kind::Nested);
    script.sent("two", Outcome::Unclear("it failed".to_owned()));
    script.trying(A, "one", "b", Kind::Nested);
    script.told_of_cycle("one", &["a", "b", "a"]);
    script.violates(&["deadlock"]);
}

fn cycle_through_an_ask_beside_a_timer_violates_deadlock() {
    let mut script = Script::new();
    script.asks_each_other(Kind::Beside);
    script.told_of_cycle("two", &["b", "a", "b"]);
    script.sent("one", Outcome::Cancelled);
    script.violates(&["deadlock"]);
}

/// Apart from those that a fault may have hidden.
fn cycles_that_last_are_counted() {
    for (kind, is_cut, counted) in [
        (Kind::Nested, false, [1, 0]),
        (Kind::Nested, true, [0, 1]),
        // Its asker takes messages meanwhile.
        (Kind::Ask, false, [0, 0]),
    ] {
        let mut script = Script::new();
        script.asks_each_other(kind);
        if is_cut {
            script.disturbed("east");
        }
        script.wait(8);
        script.sent("two", Outcome::Unclear("the timeout has passed".to_owned()));
        script.handled(B, "one");
        script.sent("one", Outcome::Answered);
        script.calm("east");
        let report = check(&script.records);
        let count = |what: &str| report.counts.get(what).copied().unwrap_or_default();
        assert_eq!([count(UNTOLD), count(HIDDEN)], counted, "{report}");
        script.violates(&[]);
    }
}

/// Unless it was lost with a node, which may have handled it.
fn letter_of_a_handled_message_violates_letter() {
    let mut script = Script::new();
    script.told("one");
    script.handled(B, "one");
    script.letter("stopped", 1);
    script.violates(&["letter"]);
    let mut script = Script::new();
    script.told("one");
    script.handled(B, "one");
    script.letter("node_lost", 1);
    script.violates(&[]);
}

fn letters_of_lost_messages_are_complete_where_nothing_is_killed() {
    for (letters, violated) in [(2, &[][..]), (1, &["letter"][..])] {
        let mut script = Script::new();
        script.told("one");
        script.told("two");
        script.by(EAST, Event::Ended { life: B, orderly: true });
        script.letter("stopped", letters);
        script.wait(20);
        script.phase("end");
        script.exited(HEAD, Some(0), None, true);
        script.violates(violated);
    }
}

fn stream_that_hangs_violates_answer() {
    let mut script = Script::new();
    script.trying(A, "one", "b", Kind::Stream);
    script.handled(B, "one");
    script.wait(40);
    script.sent("one", Outcome::Answered);
    script.violates(&["answer"]);
    // The reader waits for the sender, which is cut off.
    let mut script = Script::new();
    script.trying(A, "one", "b", Kind::Stream);
    script.handled(B, "one");
    script.disturbed("east");
    script.wait(40);
    script.calm("east");
    script.sent("one", Outcome::Answered);
    script.violates(&[]);
}

fn batch_beyond_its_bounds_violates_batch() {
    let mut script = Script::new();
    script.by(WEST, Event::Broken { life: A, what: "a batch has 7 messages, not 1 to 6".to_owned() });
    script.violates(&["batch"]);
}
