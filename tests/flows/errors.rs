//! Errors that users get for a Flow that is not valid, and the fate of its commands.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{SendError, Value};

use crate::support::*;

/// A Flow that keeps a Work in a place that the derive does not search.
#[derive(Default, Serialize, Children)]
struct Hidden {
    #[serde(skip)]
    drawer: Drawer,
    #[serde(skip)]
    verb: &'static str,
}

#[derive(Default)]
struct Drawer(WorkRef<Probe>);

impl Flow for Hidden {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let work = &self.drawer.0;
        match self.verb {
            "run" => {
                work.run(Job::Set(1));
            }
            "rerun" => work.rerun(Job::Set(1)),
            "forget" => work.forget(&Job::Set(1)),
            "start" => work.start(),
            "stop" => work.stop(),
            "restart" => work.restart_now(),
            other => bail!("{other}?"),
        }
        Ok(())
    }
}

#[test]
fn a_work_outside_the_tree_cannot_be_used_and_the_error_says_where_to_keep_it() {
    for verb in ["run", "rerun", "forget", "start", "stop", "restart"] {
        let app = TestApp::start(move || Hidden { verb, ..Hidden::default() });
        let message = error(app.wait_for_exit());
        assert_says(&message, &["WorkRef<", "Probe>", "not part of the App", "in a field of the Flow"]);
    }
}

/// A Flow that sends to a Work that it has just made, and to one that has not started.
#[derive(Default, Serialize, Children)]
struct Eager {
    early: WorkRef<Probe>,
    late: Option<WorkRef<Probe>>,
    answers: Vec<String>,
}

impl Flow for Eager {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if cx.reaction() == 1 {
            self.early.try_tell(Set(1))?;
            let late = self.late.insert(WorkRef::default());
            let error = late.try_tell(Set(1)).expect_err("the Work is not part of the App yet");
            self.answers.push(error.to_string());
            assert!(matches!(&error, SendError::Unknown { .. }));
            assert_eq!(error.into_message().0, 1, "the message comes back");
        } else if self.early.value == 1 && self.late.as_ref().is_some_and(|late| late.value == 0) {
            self.late.as_ref().expect("looked at above").try_tell(Set(2))?;
        } else if self.late.as_ref().is_some_and(|late| late.value == 2) {
            cx.stop("both have got theirs");
        }
        Ok(())
    }
}

#[test]
fn a_message_of_the_first_reaction_arrives_and_one_to_nowhere_comes_back() {
    let exit = TestApp::start(Eager::default).wait_for_exit();
    exit.result.unwrap();
    let answers: Vec<String> = exit.state.get("answers").unwrap().decode().unwrap();
    assert_says(&answers[0], &["in the Apps of this process"]);
}

/// A Work whose initial state exceeds the limit.
#[derive(Default, Serialize, Children)]
struct TooLarge {
    heavy: WorkRef<Probe>,
}

impl Flow for TooLarge {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

#[test]
fn an_app_whose_tree_is_not_right_does_not_start() {
    let large = || TooLarge { heavy: WorkRef::new(Probe::of(&"x".repeat(5000))) };
    let Err(error) = TestApp::try_start(App::new(large).max_state_bytes(1000)) else { panic!("it starts") };
    assert_says(&format!("{:#}", flowright::Error::from(error)), &["work `heavy`", "1000"]);
    let message = refusal(|| -> TooLarge { panic!("no such luck") });
    assert_says(&message, &["constructor", "panicked: no such luck"]);
    let place = App::new(TooLarge::default).place("hevy", Placement::Pool);
    let Err(error) = TestApp::try_start(place) else { panic!("it starts") };
    assert_says(&error.to_string(), &["`hevy`", "heavy"]);
}

/// A Flow whose own state does not serialise.
#[derive(Default, Serialize, Children)]
struct Unserialisable {
    probe: WorkRef<Probe>,
    #[serde(serialize_with = "refuse")]
    secret: u32,
}

fn refuse<S: serde::Serializer>(_: &u32, _: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("this is nobody's business"))
}

impl Flow for Unserialisable {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.secret += 1;
        if self.probe.value == 1 {
            cx.stop("done");
        }
        Ok(())
    }
}

#[test]
fn a_state_that_cannot_be_shown_is_told_to_who_asks_and_harms_nobody() {
    let app = TestApp::start(Unserialisable::default);
    let error = app.block_on(app.control().state()).unwrap_err();
    let error = format!("{:#}", flowright::Error::from(error));
    assert_says(&error, &["the state of flow `root` cannot be serialised", "nobody's business"]);
    app.block_on(app.work::<Probe>("probe").tell(Set(1))).unwrap();
    app.wait_for_exit().result.unwrap();
}

/// A Flow that requests more runs than the queue holds.
#[derive(Serialize, Children)]
struct Full {
    probe: WorkRef<Probe>,
}

impl Flow for Full {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let finished: Vec<_> = (1..=50).map(|n| self.probe.run(Job::Set(n)).finished().is_ok()).collect();
        if finished.iter().all(|finished| *finished) {
            cx.stop("all of them");
        }
        Ok(())
    }
}

#[test]
fn runs_that_find_the_queue_full_are_asked_for_again_and_none_is_lost() {
    let exit = TestApp::start(|| Full { probe: WorkRef::<Probe>::default().queue(3) }).wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.status.works["probe"].successes, 50);
    assert_eq!(exit.state.get("probe.value").map(Value::to_json), Some(50.into()));
}
