//! Probes in the place of Works.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use flowright::prelude::*;
use flowright::testing::{Probe, TestApp};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Predict(f64);

#[derive(Debug, Serialize, Deserialize)]
struct Note(String);

#[derive(Default, Serialize, Deserialize)]
struct Model {
    trained: u32,
}

impl Work for Model {
    type Input = u32;

    async fn on_start(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        bail!("the Work itself is not called")
    }

    async fn run(&mut self, _: u32, _: &mut WorkContext<Self>) -> Result<()> {
        bail!("the Work itself is not called")
    }
}

impl Handle<Predict> for Model {
    type Reply = Result<f64, String>;

    async fn handle(&mut self, _: Predict, _: &mut WorkContext<Self>) -> Self::Reply {
        unreachable!("a probe is in its place")
    }
}

impl Handle<Note> for Model {
    type Reply = ();

    async fn handle(&mut self, _: Note, _: &mut WorkContext<Self>) {
        unreachable!("a probe is in its place")
    }
}

/// Asks the model, tells it the outcome, and ends.
#[derive(Default, Serialize, Deserialize)]
struct Client {
    outcomes: Vec<String>,
}

impl Work for Client {
    type Input = (u32, WorkAddr<Model>);

    async fn run(&mut self, (_, model): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        let outcome = match model.ask(Predict(2.0)).await {
            Ok(reply) => format!("{reply:?}"),
            Err(error) => error.to_string(),
        };
        model.tell(Note(outcome.clone())).await?;
        self.outcomes.push(outcome);
        cx.publish(self);
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Root {
    model: WorkRef<Model>,
    client: WorkRef<Client>,
    rounds: u32,
}

impl Root {
    fn app(rounds: u32) -> App {
        App::new(move || {
            let model = WorkRef::new(Model::default()).placed(Placement::Process);
            let model = model.restart(Restart::on_failure().max(1)).on_error(OnError::Capture);
            Root { model, client: WorkRef::default(), rounds }
        })
    }
}

impl Flow for Root {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.model.run(self.model.trained);
        for round in 0..self.rounds {
            self.client.run((round, self.model.addr()));
        }
        Ok(())
    }
}

/// Messages, runs and states go through the probe, and the Work's own code is not called.
#[test]
fn probe_answers_runs_and_publishes_in_place_of_a_work() {
    let mut app = Root::app(3);
    let model = Probe::<Model>::in_place_of(&mut app, "model");
    let app = TestApp::start_app(app);
    assert_eq!(model.expect_run(), 0);
    for reply in [Some(Ok(0.5)), Some(Err("not a number".to_owned())), None] {
        let question = model.expect::<Predict>();
        assert_eq!(question.message, Predict(2.0));
        assert!(question.reply.caller_waits());
        match reply {
            Some(reply) => question.reply.send(reply),
            None => drop(question),
        }
        let note = model.expect::<Note>().message.0;
        assert!(["Ok(0.5)", "Err(\"not a number\")"].contains(&&*note) || note.contains("dropped"), "{note}");
    }
    app.wait_for_state("client.outcomes", |outcomes: &Vec<String>| outcomes.len() == 3);
    model.publish(&Model { trained: 4 });
    model.succeed();
    assert_eq!(model.expect_run(), 4);
    model.fail("it diverges");
    // The restart of the Work begins from what was published.
    assert_eq!(model.expect_run(), 4);
    model.fail("it diverges again");
    let status = app.wait_for_stage("model", Stage::Failed);
    assert!(status.status.message.unwrap().contains("it diverges again"));
    model.expect_nothing_so_far();
    app.stop().result.unwrap();
}

/// An App that stops ends the run of a probe.
#[test]
fn probe_stops_with_its_app() {
    let mut app = Root::app(0);
    let model = Probe::<Model>::in_place_of(&mut app, "model");
    let app = TestApp::start_app(app);
    assert_eq!(model.expect_run(), 0);
    app.stop().result.unwrap();
    let ended = panic_of(|| model.expect_run());
    assert!(ended.contains("`model` was to get a run, but the App has ended"), "{ended}");
}

/// An expectation that does not hold says what came instead.
#[test]
fn probe_says_what_came_instead() {
    let mut app = Root::app(1);
    let model = Probe::<Model>::in_place_of(&mut app, "model");
    let app = TestApp::start_app(app);
    let other = panic_of(|| {
        // A run and a message, in any order.
        model.expect::<Note>();
    });
    assert!(other.contains("`model` was to get a message `works::probes::Note`, but got a"), "{other}");
    let model = model.limit(Duration::from_millis(1));
    let nothing = panic_of(|| {
        loop {
            model.expect_nothing_so_far();
            model.expect_run();
        }
    });
    assert!(nothing.contains("nothing within 1ms") || nothing.contains("but got a message"), "{nothing}");
    app.stop().result.unwrap();
}

fn panic_of<T>(code: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(code)).err().expect("it panics");
    panic.downcast_ref::<String>().cloned().expect("a text")
}
