//! Flows below Flows.

use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::support::*;

/// A Flow that reacts by itself: it keeps the sum of its Works' values, and runs its Work with the goal that its parent
/// sets.
#[derive(Default, Serialize, Children)]
struct Team {
    goal: i64,
    sum: i64,
    reactions: u32,
    lead: WorkRef<Probe>,
    helper: WorkRef<Probe>,
}

impl Flow for Team {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.reactions += 1;
        self.sum = self.lead.value + self.helper.value;
        if self.goal != 0 {
            self.lead.run(Job::Set(self.goal));
        }
        Ok(())
    }
}

/// A Flow that reads all of its tree, and sets the team's goal to the value of its own Work.
#[derive(Default, Serialize, Children)]
struct Company {
    boss: WorkRef<Probe>,
    team: FlowRef<Team>,
    goal: i64,
    seen: (i64, i64),
}

impl Flow for Company {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.seen = (self.team.sum, self.team.helper.value);
        // Written at each reaction, whether or not it changes.
        self.team.goal = self.boss.value;
        self.goal = self.team.goal;
        Ok(())
    }
}

#[test]
fn a_child_flow_reacts_by_itself_and_its_parent_sees_the_same_batch_after_it() {
    let app = TestApp::start(Company::default);
    app.block_on(app.work::<Probe>("team.helper").tell(Set(5))).unwrap();
    app.wait_for_state("team.sum", |sum: &i64| *sum == 5);
    app.wait_for_state("seen", |seen: &(i64, i64)| *seen == (5, 5));
}

#[test]
fn a_change_below_one_flow_is_none_of_its_siblings_business() {
    let app = TestApp::start(TwoTeams::default);
    app.block_on(app.work::<Probe>("b.lead").tell(Set(1))).unwrap();
    app.wait_for_state("b.sum", |sum: &i64| *sum == 1);
    app.block_on(app.work::<Probe>("b.helper").tell(Set(1))).unwrap();
    app.wait_for_state("b.sum", |sum: &i64| *sum == 2);
    let before = json(&app)["b"]["reactions"].clone();
    for value in 1..=20 {
        app.block_on(app.work::<Probe>("a.lead").tell(Set(value))).unwrap();
        app.wait_for_state("a.sum", |sum: &i64| *sum == value);
    }
    assert_eq!(json(&app)["b"]["reactions"], before);
    assert!(json(&app)["a"]["reactions"].as_u64() >= Some(20));
}

#[derive(Default, Serialize, Children)]
struct TwoTeams {
    a: FlowRef<Team>,
    b: FlowRef<Team>,
}

impl Flow for TwoTeams {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

#[test]
fn a_field_that_the_parent_writes_makes_the_child_react_and_equal_writes_do_not() {
    let app = TestApp::start(Company::default);
    app.block_on(app.work::<Probe>("boss").tell(Set(9))).unwrap();
    app.wait_for_state("team.sum", |sum: &i64| *sum == 9);
    app.wait_for_work("team.lead", |lead| lead.successes == 1);
    let before = app.reactions();
    // One reaction of the child and its parent, whose write changes nothing: no loop.
    app.block_on(app.work::<Probe>("team.helper").tell(Set(1))).unwrap();
    app.wait_for_state("seen", |seen: &(i64, i64)| *seen == (10, 1));
    app.block_on(app.work::<Probe>("boss").ask(Ping)).unwrap();
    let after = app.reactions();
    assert!(after - before <= 4, "{} reactions for one change", after - before);
    assert_eq!(app.reactions(), after);
}

#[derive(Default, Serialize, Children)]
struct Meddler {
    team: FlowRef<Team>,
}

impl Flow for Meddler {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.team.lead.run(Job::Set(1));
        Ok(())
    }
}

#[test]
fn a_work_is_commanded_by_its_own_flow_only() {
    let message = error(TestApp::start(Meddler::default).wait_for_exit());
    assert_says(
        &message,
        &["flow `root` cannot run work `team.lead`", "belongs to flow `team`", "send the Work a message"],
    );
}

/// Three levels of Flows; the Work at the bottom follows orders.
#[derive(Serialize, Children)]
struct House {
    floor: FlowRef<Storey>,
    status: String,
    attempts: u32,
}

#[derive(Serialize, Children)]
struct Storey {
    room: FlowRef<Room>,
    probe: WorkRef<Probe>,
}

#[derive(Serialize, Children)]
struct Room {
    probe: WorkRef<Probe>,
    job: Option<Job>,
}

impl Flow for House {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let status = self.floor.status();
        self.status = format!("{}: {}", status.stage, status.message.unwrap_or_default());
        Ok(())
    }
}

impl Flow for Storey {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

impl Flow for Room {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        if let Some(job) = &self.job {
            self.probe.run(job.clone());
        }
        Ok(())
    }
}

fn house(
    journal: &str,
    job: Option<Job>,
    of_the_floor: impl FnOnce(FlowRef<Storey>) -> FlowRef<Storey>,
) -> House {
    let probe = || WorkRef::new(Probe::of(journal));
    let room = Room { probe: probe(), job };
    let floor = of_the_floor(FlowRef::new(Storey { room: room.into(), probe: probe() }));
    House { floor, status: String::new(), attempts: 0 }
}

#[test]
fn a_failure_goes_up_and_names_every_flow_on_its_way() {
    let app = TestApp::start(|| house("up", Some(Job::Fail("no disk".to_owned())), |floor| floor));
    let message = error(app.wait_for_exit());
    let parts = message.split(": ").collect::<Vec<_>>();
    assert_eq!(
        parts,
        [
            "flow `floor` failed",
            "flow `floor.room` failed",
            "work `floor.room.probe` failed (error)",
            "no disk"
        ]
    );
}

#[test]
fn the_failure_of_a_captured_flow_stops_what_is_below_it_and_is_left_to_its_parent() {
    let app = TestApp::start(|| {
        house("captured", Some(Job::Panic("no luck".to_owned())), |floor| floor.on_error(OnError::Capture))
    });
    let app = app.expect_panic("no luck");
    let status = app.wait_for_state("status", |status: &String| status.starts_with("failed"));
    assert_says(&status, &["`floor.room.probe`", "no luck"]);
    app.wait_for_work("floor.probe", |work| !work.is_up);
    app.wait_for_work("floor.room.probe", |work| !work.is_up);
    assert_eq!(noted("captured", "stop"), ["stop floor.probe"], "one was stopped, the other had panicked");
    assert_eq!(app.status().flows["floor"].stage, Stage::Failed);
    app.stop().result.unwrap();
}

#[test]
fn a_flow_with_a_restart_policy_starts_again_with_all_below_it() {
    let app = TestApp::start(|| house("restart", None, |floor| floor.restart(quick_restarts(1))));
    let app = app.expect_panic("was told to crash");
    app.block_on(app.work::<Probe>("floor.probe").tell(Set(3))).unwrap();
    app.wait_for_state("floor.probe.value", |value: &i64| *value == 3);
    app.wait_for_state("floor.room.probe.starts", |starts: &u32| *starts == 1);
    app.block_on(app.work::<Probe>("floor.room.probe").tell(Crash)).unwrap();
    app.wait_for_state("floor.room.probe.starts", |starts: &u32| *starts == 2);
    app.wait_for_state("floor.probe.starts", |starts: &u32| *starts == 2);
    // The Work continues from its last published state.
    assert_eq!(app.block_on(app.work::<Probe>("floor.probe").ask(Ping)).unwrap(), 3);
    assert_eq!(app.status().flows["floor.room"].stage, Stage::Running);
    app.block_on(app.work::<Probe>("floor.room.probe").tell(Crash)).unwrap();
    let message = error(app.wait_for_exit());
    assert_says(
        &message,
        &["flow `floor` failed", "work `floor.room.probe` failed (panic)", "told to crash"],
    );
}

#[test]
fn a_flow_that_is_restarted_runs_again_what_had_failed() {
    let job = Some(Job::Fail("not yet".to_owned()));
    let app = TestApp::start(|| house("rerun", job, |floor| floor.restart(quick_restarts(3))));
    let message = error(app.wait_for_exit());
    assert_says(&message, &["flow `floor` failed", "not yet"]);
    assert_eq!(noted("rerun", "run floor.room.probe").len(), 4);
}
