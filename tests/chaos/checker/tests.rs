//! Each rule fails where it must fail, and only there, on records that are written by hand.

use super::check;
use crate::records::{Event, HTTP, Held, Kind, Life, Outcome, Reading, Record, Role};

/// Lists the tests of this file.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[$((concat!("checker::", stringify!($name)), $name)),*];
    };
}

tests![
    records_of_a_good_run_violate_nothing,
    message_handled_twice_violates_once,
    message_handled_by_another_violates_once,
    message_that_nobody_sent_violates_once,
    swapped_messages_violate_order,
    swapped_messages_of_two_lives_violate_order,
    messages_sent_at_once_may_be_swapped,
    late_life_of_a_stopped_node_may_swap,
    lost_tell_violates_delivery,
    tell_to_a_killed_node_is_excused,
    tell_long_before_a_kill_violates_delivery,
    tell_long_after_a_kill_violates_delivery,
    tell_long_after_a_kill_is_excused_in_a_cut,
    tell_overtaken_before_a_kill_violates_delivery,
    tell_between_nodes_in_a_short_cut_violates_delivery,
    tell_between_nodes_in_a_stall_is_excused,
    tell_to_a_moved_work_violates_delivery,
    tell_of_a_killed_sender_is_excused,
    tell_of_a_sender_that_panicked_violates_delivery,
    tell_of_a_sender_killed_long_after_violates_delivery,
    tell_of_a_stopped_sender_violates_delivery,
    tell_before_the_end_of_a_head_is_excused,
    true_errors_violate_nothing,
    refused_and_handled_violates_answer,
    answered_by_nobody_violates_answer,
    wrong_answer_violates_answer,
    given_up_tell_that_is_handled_violates_answer,
    late_answer_violates_answer,
    ask_without_an_end_violates_answer,
    older_state_violates_state,
    state_of_a_replaced_life_violates_state,
    unpublished_state_violates_state,
    last_state_unseen_violates_state,
    run_begun_after_success_violates_run,
    run_begun_twice_by_one_life_violates_run,
    success_without_an_end_violates_run,
    different_content_violates_payload,
    lost_payload_violates_payload,
    payload_out_of_reach_violates_payload_in_a_short_cut,
    payload_lost_with_its_node_is_excused,
    payload_lost_long_before_or_after_a_stall_violates_payload,
    stall_of_a_process_that_the_run_stops_excuses_nothing,
    late_payload_violates_payload,
    no_room_violates_payload_where_there_is_room,
    work_that_is_down_violates_reach,
    address_that_leads_nowhere_violates_reach,
    survey_of_nobody_violates_reach,
    more_than_before_violates_leak,
    busy_while_idle_violates_leak,
    process_left_behind_violates_end,
    file_left_behind_violates_end,
    crash_violates_end,
    exit_code_violates_end,
    head_that_goes_on_violates_end,
];

const SECOND: u64 = 1_000_000;
pub(super) const HEAD: u32 = 10;
pub(super) const WEST: u32 = 20;
pub(super) const EAST: u32 = 30;
/// The Work `a` on the node `west`, and `b` on `east`.
pub(super) const A: Life = 1;
pub(super) const B: Life = 2;

/// A list of records in the order of time.
pub(super) struct Script {
    at: u64,
    pub(super) records: Vec<Record>,
}

impl Script {
    /// A head, two nodes, and a Work on each.
    pub(super) fn new() -> Self {
        let mut script = Self { at: 100 * SECOND, records: Vec::new() };
        script.by(1, Event::Phase { name: "start".to_owned() });
        script.by(1, Event::Spawned { child: HEAD, role: Role::Head { epoch: 1 } });
        for (child, name) in [(WEST, "west"), (EAST, "east")] {
            script.by(1, Event::Spawned { child, role: Role::Node { name: name.to_owned() } });
        }
        script.began(WEST, A, "a", 1);
        script.began(EAST, B, "b", 1);
        script
    }

    /// Records an event of a process, a millisecond after the previous one.
    pub(super) fn by(&mut self, pid: u32, event: Event) {
        self.at += 1_000;
        self.records.push(Record { at: self.at, pid, event });
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.at += seconds * SECOND;
    }

    pub(super) fn began(&mut self, pid: u32, life: Life, work: &str, generation: u64) {
        self.by(pid, Event::Began { life, work: work.to_owned(), epoch: 1, generation });
    }

    pub(super) fn trying(&mut self, life: Life, id: &str, to: &str, kind: Kind) {
        let (id, to) = (id.to_owned(), to.to_owned());
        let epoch = if life == HTTP { 0 } else { 1 };
        self.by(WEST, Event::Trying { life, id, to, epoch, kind });
    }

    pub(super) fn sent(&mut self, id: &str, outcome: Outcome) {
        self.by(WEST, Event::Sent { id: id.to_owned(), outcome });
    }

    pub(super) fn handled(&mut self, life: Life, id: &str) {
        self.by(EAST, Event::Handled { life, id: id.to_owned() });
    }

    /// Records a tell of `a` to `b` that was accepted.
    pub(super) fn told(&mut self, id: &str) {
        self.trying(A, id, "b", Kind::Tell);
        self.sent(id, Outcome::Accepted);
    }

    pub(super) fn kill(&mut self, child: u32) {
        self.by(1, Event::Signalled { child, signal: "KILL".to_owned() });
        self.by(1, Event::Exited { child, code: None, signal: Some(9), wanted: true });
    }

    pub(super) fn disturbed(&mut self, who: &str) {
        self.by(1, Event::Disturbed { who: who.to_owned(), what: "a cut".to_owned() });
    }

    /// Records that the process was not scheduled for the last second.
    pub(super) fn stalled(&mut self, pid: u32) {
        self.by(pid, Event::Stalled { micros: SECOND });
    }

    pub(super) fn calm(&mut self, who: &str) {
        self.by(1, Event::Calm { who: who.to_owned(), what: "a cut".to_owned() });
    }

    pub(super) fn published(&mut self, life: Life, version: u64) {
        self.by(EAST, Event::Published { life, version });
    }

    pub(super) fn saw(&mut self, life: Life, generation: u64, version: u64) {
        let work = if life == A { "a" } else { "b" }.to_owned();
        self.by(HEAD, Event::Saw { epoch: 1, work, life, generation, version });
    }

    pub(super) fn made(&mut self, parcel: &str) {
        self.by(WEST, Event::Made { life: A, parcel: parcel.to_owned(), length: 10 });
    }

    pub(super) fn read(&mut self, parcel: &str, reading: Reading) {
        self.by(EAST, Event::Read { life: B, parcel: parcel.to_owned(), reading });
    }

    pub(super) fn phase(&mut self, name: &str) {
        self.by(1, Event::Phase { name: name.to_owned() });
    }

    pub(super) fn reached(&mut self, error: Option<&str>) {
        let (from, to, source) = ("a".to_owned(), "b".to_owned(), "state".to_owned());
        self.by(1, Event::Reached { from, to, source, error: error.map(str::to_owned) });
    }

    pub(super) fn measured(&mut self, child: u32, phase: &str, held: Held) {
        self.by(1, Event::Measured { child, phase: phase.to_owned(), held });
    }

    pub(super) fn exited(&mut self, child: u32, code: Option<i32>, signal: Option<i32>, wanted: bool) {
        self.by(1, Event::Exited { child, code, signal, wanted });
    }

    /// Asserts that exactly these rules are violated.
    #[track_caller]
    pub(super) fn violates(self, rules: &[&str]) {
        let report = check(&self.records);
        let mut violated: Vec<_> = report.violations.iter().map(|violation| violation.rule).collect();
        violated.dedup();
        assert_eq!(violated, rules, "{report}");
    }
}

/// A whole run without any violation.
fn records_of_a_good_run_violate_nothing() {
    let mut script = Script::new();
    script.published(B, 1);
    script.saw(B, 1, 1);
    script.told("one");
    script.told("two");
    script.handled(B, "one");
    script.handled(B, "two");
    script.trying(A, "three", "b", Kind::Ask);
    script.handled(B, "three");
    script.sent("three", Outcome::Answered);
    script.trying(HTTP, "four", "b", Kind::Ask);
    script.handled(B, "four");
    script.sent("four", Outcome::Answered);
    script.made("p");
    script.read("p", Reading::Verified);
    script.by(EAST, Event::RunBegan { life: B, run: 1 });
    script.published(B, 2);
    script.by(EAST, Event::RunEnded { life: B, run: 1 });
    script.saw(B, 1, 2);
    script.by(HEAD, Event::SawRun { epoch: 1, work: "b".to_owned(), run: 1 });
    script.reached(None);
    script.phase("idle");
    script.measured(WEST, "idle", Held::default());
    script.wait(3);
    script.phase("end");
    script.exited(HEAD, Some(0), None, true);
    script.exited(WEST, Some(0), None, true);
    script.exited(EAST, Some(0), None, true);
    script.phase("over");
    script.violates(&[]);
}

/// Also when two incarnations have handled it.
fn message_handled_twice_violates_once() {
    let mut script = Script::new();
    script.told("one");
    script.handled(B, "one");
    script.handled(B, "one");
    script.violates(&["once"]);
    let mut script = Script::new();
    script.told("one");
    script.handled(B, "one");
    script.kill(EAST);
    script.began(WEST, 3, "b", 2);
    script.handled(3, "one");
    script.violates(&["once"]);
}

fn message_handled_by_another_violates_once() {
    let mut script = Script::new();
    script.told("one");
    script.handled(A, "one");
    script.violates(&["once"]);
}

fn message_that_nobody_sent_violates_once() {
    let mut script = Script::new();
    script.handled(B, "one");
    script.violates(&["once"]);
}

fn swapped_messages_violate_order() {
    let mut script = Script::new();
    script.told("one");
    script.told("two");
    script.handled(B, "two");
    script.handled(B, "one");
    script.violates(&["order"]);
}

/// The next incarnation may not handle a message that was sent before one that the previous incarnation has handled.
fn swapped_messages_of_two_lives_violate_order() {
    let mut script = Script::new();
    script.told("one");
    script.told("two");
    script.handled(B, "two");
    script.kill(EAST);
    script.began(WEST, 3, "b", 2);
    script.handled(3, "one");
    script.violates(&["order"]);
}

/// Two concurrent asks have no order.
fn messages_sent_at_once_may_be_swapped() {
    let mut script = Script::new();
    script.trying(A, "one", "b", Kind::Ask);
    script.trying(A, "two", "b", Kind::Ask);
    script.handled(B, "two");
    script.handled(B, "one");
    script.sent("one", Outcome::Answered);
    script.sent("two", Outcome::Answered);
    script.violates(&[]);
}

/// Messages in flight to a stopped node arrive there when it continues, although the node was given up.
fn late_life_of_a_stopped_node_may_swap() {
    let mut script = Script::new();
    script.told("one");
    script.told("two");
    script.handled(B, "two");
    script.disturbed("west");
    script.wait(4);
    script.calm("west");
    script.began(WEST, 3, "b", 2);
    script.handled(3, "one");
    script.violates(&[]);
}

fn lost_tell_violates_delivery() {
    let mut script = Script::new();
    script.told("one");
    script.violates(&["delivery"]);
}

fn tell_to_a_killed_node_is_excused() {
    let mut script = Script::new();
    script.told("one");
    script.kill(EAST);
    script.violates(&[]);
    // The head has not noticed the kill yet.
    let mut script = Script::new();
    script.kill(EAST);
    script.wait(1);
    script.told("one");
    script.violates(&[]);
}

/// The message had enough time to arrive before.
fn tell_long_before_a_kill_violates_delivery() {
    let mut script = Script::new();
    script.told("one");
    script.wait(40);
    script.kill(EAST);
    script.violates(&["delivery"]);
}

/// At that time the sender must know of the loss.
fn tell_long_after_a_kill_violates_delivery() {
    let mut script = Script::new();
    script.kill(EAST);
    script.wait(30);
    script.told("one");
    script.violates(&["delivery"]);
}

/// A sender that is cut off cannot know of the loss.
fn tell_long_after_a_kill_is_excused_in_a_cut() {
    let mut script = Script::new();
    script.disturbed("west");
    script.kill(EAST);
    script.wait(30);
    script.told("one");
    script.calm("west");
    script.violates(&[]);
}

/// A later message of the same sender was handled before: the kill does not explain the loss.
fn tell_overtaken_before_a_kill_violates_delivery() {
    let mut script = Script::new();
    script.told("one");
    script.told("two");
    script.handled(B, "two");
    script.wait(10);
    script.kill(EAST);
    script.violates(&["delivery"]);
}

/// A session survives a short cut; after a long one it is unknown which messages had arrived.
fn tell_between_nodes_in_a_short_cut_violates_delivery() {
    for (seconds, rules) in [(1, &["delivery"][..]), (4, &[])] {
        let mut script = Script::new();
        script.disturbed("east");
        script.told("one");
        script.wait(seconds);
        script.calm("east");
        script.wait(30);
        script.violates(rules);
    }
}

fn tell_between_nodes_in_a_stall_is_excused() {
    for (seconds, rules) in [(0, &[][..]), (20, &["delivery"])] {
        let mut script = Script::new();
        script.told("one");
        script.wait(seconds);
        script.stalled(EAST);
        script.wait(30);
        script.violates(rules);
    }
}

/// The Work has been elsewhere for a long time, and the sender still sends to its old place.
fn tell_to_a_moved_work_violates_delivery() {
    let mut script = Script::new();
    script.by(EAST, Event::Ended { life: B, orderly: true });
    script.began(WEST, 3, "b", 2);
    script.wait(15);
    script.told("one");
    script.violates(&["delivery"]);
}

fn tell_of_a_killed_sender_is_excused() {
    let mut script = Script::new();
    script.told("one");
    script.kill(WEST);
    script.violates(&[]);
}

/// Its process continues, and sends the messages of the Work. A Work that was given up with its node is another case.
fn tell_of_a_sender_that_panicked_violates_delivery() {
    for panic in [true, false] {
        let mut script = Script::new();
        script.told("one");
        if panic {
            script.by(WEST, Event::Panicking { life: A });
        }
        script.by(WEST, Event::Ended { life: A, orderly: false });
        script.violates(if panic { &["delivery"] } else { &[] });
    }
}

/// The loss is excused only if the receiver was unreachable all the time.
fn tell_of_a_sender_killed_long_after_violates_delivery() {
    for cut in [false, true] {
        let mut script = Script::new();
        if cut {
            script.disturbed("east");
        }
        script.told("one");
        script.wait(10);
        script.kill(WEST);
        script.violates(if cut { &[] } else { &["delivery"] });
    }
}

/// The accepted messages of a Work that stops in good order have left its process.
fn tell_of_a_stopped_sender_violates_delivery() {
    let mut script = Script::new();
    script.told("one");
    script.by(WEST, Event::Ended { life: A, orderly: true });
    script.violates(&["delivery"]);
}

fn tell_before_the_end_of_a_head_is_excused() {
    let mut script = Script::new();
    script.told("one");
    script.by(1, Event::Signalled { child: HEAD, signal: "KILL".to_owned() });
    script.violates(&[]);
}

fn true_errors_violate_nothing() {
    let mut script = Script::new();
    script.trying(A, "one", "b", Kind::Tell);
    script.sent("one", Outcome::NotHandled("stopped".to_owned()));
    script.trying(A, "two", "b", Kind::Ask);
    script.handled(B, "two");
    script.sent("two", Outcome::Unclear("lost".to_owned()));
    script.trying(A, "three", "b", Kind::Ask);
    script.sent("three", Outcome::Unclear("lost".to_owned()));
    script.trying(A, "four", "b", Kind::Tell);
    script.sent("four", Outcome::Cancelled);
    script.trying(A, "five", "b", Kind::Ask);
    script.handled(B, "five");
    script.sent("five", Outcome::Cancelled);
    script.violates(&[]);
}

fn refused_and_handled_violates_answer() {
    for kind in [Kind::Tell, Kind::TryTell, Kind::Ask] {
        let mut script = Script::new();
        script.trying(A, "one", "b", kind);
        script.handled(B, "one");
        script.sent("one", Outcome::NotHandled("stopped".to_owned()));
        script.violates(&["answer"]);
    }
}

fn answered_by_nobody_violates_answer() {
    let mut script = Script::new();
    script.trying(A, "one", "b", Kind::Ask);
    script.sent("one", Outcome::Answered);
    script.violates(&["answer"]);
}

fn wrong_answer_violates_answer() {
    let mut script = Script::new();
    script.trying(A, "one", "b", Kind::Ask);
    script.handled(B, "one");
    script.sent("one", Outcome::Wrong("another's answer".to_owned()));
    script.violates(&["answer"]);
}

fn given_up_tell_that_is_handled_violates_answer() {
    let mut script = Script::new();
    script.trying(A, "one", "b", Kind::Tell);
    script.sent("one", Outcome::Cancelled);
    script.handled(B, "one");
    script.violates(&["answer"]);
}

/// A sender that was stopped itself cannot get the answer in time.
fn late_answer_violates_answer() {
    for disturbed in [false, true] {
        let mut script = Script::new();
        script.trying(A, "one", "b", Kind::Ask);
        script.handled(B, "one");
        if disturbed {
            script.disturbed("west");
        }
        script.wait(60);
        if disturbed {
            script.calm("west");
        }
        script.sent("one", Outcome::Unclear("timeout".to_owned()));
        script.violates(if disturbed { &[] } else { &["answer"] });
    }
}

fn ask_without_an_end_violates_answer() {
    for kill in [false, true] {
        let mut script = Script::new();
        script.trying(A, "one", "b", Kind::Ask);
        if kill {
            script.kill(WEST);
        }
        script.wait(60);
        script.reached(None);
        script.phase("idle");
        script.violates(if kill { &[] } else { &["answer"] });
    }
}

fn older_state_violates_state() {
    let mut script = Script::new();
    script.published(B, 1);
    script.published(B, 2);
    script.saw(B, 1, 2);
    script.saw(B, 1, 1);
    script.violates(&["state"]);
}

/// Also when the state has a higher version and as many incarnations.
fn state_of_a_replaced_life_violates_state() {
    let mut script = Script::new();
    script.published(B, 1);
    script.saw(B, 1, 1);
    script.began(WEST, 3, "b", 1);
    script.published(3, 2);
    script.saw(3, 1, 2);
    script.published(B, 3);
    script.saw(B, 1, 3);
    script.violates(&["state"]);
}

fn unpublished_state_violates_state() {
    let mut script = Script::new();
    script.saw(B, 1, 1);
    script.published(B, 1);
    script.violates(&["state"]);
}

/// A state that has just been published may still be in flight.
fn last_state_unseen_violates_state() {
    for wait in [0, 5] {
        let mut script = Script::new();
        script.published(B, 1);
        script.saw(B, 1, 1);
        script.published(B, 2);
        script.wait(wait);
        script.phase("end");
        script.violates(if wait == 0 { &[] } else { &["state"] });
    }
}

/// An incarnation that was given up may begin it, as it does not know of the success.
fn run_begun_after_success_violates_run() {
    for given_up in [false, true] {
        let mut script = Script::new();
        if given_up {
            script.began(WEST, 3, "b", 2);
        }
        let life = if given_up { 3 } else { B };
        script.by(EAST, Event::RunBegan { life, run: 1 });
        script.by(EAST, Event::RunEnded { life, run: 1 });
        script.by(HEAD, Event::SawRun { epoch: 1, work: "b".to_owned(), run: 1 });
        if given_up {
            script.wait(2);
            script.by(EAST, Event::RunBegan { life: B, run: 1 });
        } else {
            script.began(WEST, 3, "b", 2);
            script.by(WEST, Event::RunBegan { life: 3, run: 1 });
        }
        script.violates(if given_up { &[] } else { &["run"] });
    }
}

fn run_begun_twice_by_one_life_violates_run() {
    let mut script = Script::new();
    script.by(EAST, Event::RunBegan { life: B, run: 1 });
    script.by(EAST, Event::RunBegan { life: B, run: 1 });
    script.violates(&["run"]);
}

fn success_without_an_end_violates_run() {
    let mut script = Script::new();
    script.by(EAST, Event::RunBegan { life: B, run: 1 });
    script.by(HEAD, Event::SawRun { epoch: 1, work: "b".to_owned(), run: 1 });
    script.violates(&["run"]);
}

fn different_content_violates_payload() {
    for reading in [Reading::Different, Reading::Failed("corrupt".to_owned())] {
        let mut script = Script::new();
        script.made("p");
        script.read("p", reading);
        script.violates(&["payload"]);
    }
}

fn lost_payload_violates_payload() {
    let mut script = Script::new();
    script.made("p");
    script.read("p", Reading::Lost("freed".to_owned()));
    script.violates(&["payload"]);
}

/// The node is tried for the grace period.
fn payload_out_of_reach_violates_payload_in_a_short_cut() {
    for (seconds, rules) in [(1, &["payload"][..]), (4, &[])] {
        let mut script = Script::new();
        script.made("p");
        script.disturbed("west");
        script.wait(seconds);
        script.calm("west");
        script.read("p", Reading::Lost("its node cannot be reached".to_owned()));
        script.violates(rules);
    }
}

fn payload_lost_with_its_node_is_excused() {
    let mut script = Script::new();
    script.made("p");
    script.kill(WEST);
    script.read("p", Reading::Lost("its node is lost".to_owned()));
    script.violates(&[]);
}

/// A process that is not scheduled may be given up, and its values are lost with it.
fn payload_lost_long_before_or_after_a_stall_violates_payload() {
    for (before, after, rules) in [(1, 1, &[][..]), (1, 15, &["payload"]), (15, 1, &[])] {
        let mut script = Script::new();
        script.made("p");
        script.wait(before);
        script.stalled(WEST);
        script.wait(after);
        script.read("p", Reading::Lost("nothing was heard of its node".to_owned()));
        script.violates(rules);
    }
    let mut script = Script::new();
    script.made("p");
    script.read("p", Reading::Lost("nothing was heard of its node".to_owned()));
    script.wait(5);
    script.stalled(WEST);
    script.violates(&["payload"]);
}

fn stall_of_a_process_that_the_run_stops_excuses_nothing() {
    let mut script = Script::new();
    script.made("p");
    script.disturbed("west");
    script.wait(1);
    script.stalled(WEST);
    script.calm("west");
    script.read("p", Reading::Lost("nothing was heard of its node".to_owned()));
    script.violates(&["payload"]);
}

fn late_payload_violates_payload() {
    for disturbed in [false, true] {
        let mut script = Script::new();
        script.made("p");
        if disturbed {
            script.disturbed("west");
            script.calm("west");
        }
        script.wait(20);
        script.read("p", Reading::Late);
        script.violates(if disturbed { &[] } else { &["payload"] });
    }
}

fn no_room_violates_payload_where_there_is_room() {
    for small in [false, true] {
        let mut script = Script::new();
        if small {
            script.by(1, Event::SmallDisk { who: "east".to_owned() });
        }
        script.made("p");
        script.read("p", Reading::NoRoom("full".to_owned()));
        script.violates(if small { &[] } else { &["payload"] });
    }
}

fn work_that_is_down_violates_reach() {
    let mut script = Script::new();
    script.by(1, Event::Up { work: "a".to_owned(), error: Some("pending".to_owned()) });
    script.violates(&["reach"]);
}

fn address_that_leads_nowhere_violates_reach() {
    let mut script = Script::new();
    script.reached(Some("it was stopped"));
    script.violates(&["reach"]);
}

fn survey_of_nobody_violates_reach() {
    let mut script = Script::new();
    script.phase("idle");
    script.violates(&["reach"]);
}

/// A process with more Works than before may hold more.
fn more_than_before_violates_leak() {
    let before = Held { descriptors: 60, threads: 10, memory: 100 << 20, works: 3, ..Held::default() };
    let more = [
        Held { descriptors: 100, ..before },
        Held { threads: 20, ..before },
        Held { memory: 300 << 20, ..before },
        Held { entries: 100, ..before },
    ];
    for held in more {
        let mut script = Script::new();
        script.measured(WEST, "warm", before);
        script.measured(WEST, "idle", held);
        script.violates(&["leak"]);
    }
    let mut script = Script::new();
    script.measured(WEST, "warm", before);
    script.measured(WEST, "idle", Held { descriptors: 100, threads: 20, works: 10, ..before });
    script.violates(&[]);
}

fn busy_while_idle_violates_leak() {
    let mut script = Script::new();
    script.measured(WEST, "idle", Held { busy_ms: 1_000, measured_ms: 3_000, ..Held::default() });
    script.violates(&["leak"]);
}

fn process_left_behind_violates_end() {
    let mut script = Script::new();
    script.kill(WEST);
    script.by(1, Event::Left { what: "process 40: chaos node".to_owned() });
    script.violates(&["end"]);
}

/// A process that was killed may leave files.
fn file_left_behind_violates_end() {
    for kill in [false, true] {
        let mut script = Script::new();
        if kill {
            script.kill(WEST);
        }
        script.by(1, Event::Left { what: "file /tmp/x".to_owned() });
        script.violates(if kill { &[] } else { &["end"] });
    }
}

fn crash_violates_end() {
    let mut script = Script::new();
    script.by(1, Event::Crashed { log: "n1.log".to_owned(), line: "panicked at src/x.rs".to_owned() });
    script.violates(&["end"]);
    let mut script = Script::new();
    script.exited(WEST, None, Some(6), false);
    script.violates(&["end"]);
}

/// A node that was refused exits with an error code; at the end no process may.
fn exit_code_violates_end() {
    let mut script = Script::new();
    script.exited(WEST, Some(1), None, false);
    script.violates(&[]);
    for child in [HEAD, WEST] {
        let mut script = Script::new();
        script.phase("end");
        script.exited(child, Some(1), None, true);
        script.violates(&["end"]);
    }
}

fn head_that_goes_on_violates_end() {
    let mut script = Script::new();
    script.phase("over");
    script.violates(&["end"]);
}
