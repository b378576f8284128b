//! Users' code that panics where the runtime calls it: the failure of one Work or one message, wherever the Work runs.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Messages, Payload, Reason, SendError};
use serde::{Deserializer, Serializer};
use std::collections::BTreeMap;
use std::future::pending;

use crate::process::LIMIT;
use crate::support::{Process, joining, program, times};

crate::tests![panics_of_user_code_break_one_work_or_message];

/// The code that panics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum Snare {
    #[default]
    Nowhere,
    InSerialize,
    InDeserialize,
    InDrop,
}

/// A value whose code panics.
#[derive(Debug, Default)]
struct Trap(Snare);

impl Serialize for Trap {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        assert_ne!(self.0, Snare::InSerialize, "a trap");
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let snare = Snare::deserialize(deserializer)?;
        assert_ne!(snare, Snare::InDeserialize, "a trap");
        Ok(Self(snare))
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        assert_ne!(self.0, Snare::InDrop, "a trap");
    }
}

/// An error whose `Display` panics.
struct Mute;

impl std::fmt::Debug for Mute {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("a trap")
    }
}

impl std::fmt::Display for Mute {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("a trap")
    }
}

impl std::error::Error for Mute {}

#[derive(Default, Serialize, Deserialize)]
struct Snared {
    lives: u32,
    given: u32,
    held: Trap,
}

#[derive(Serialize, Deserialize)]
enum Task {
    Take(Trap),
    /// Fail with an error whose `Display` panics.
    Mute,
    /// Wait for ever, with a value whose `Drop` panics.
    Hang,
}

impl Work for Snared {
    type Input = Task;

    async fn on_start(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        self.lives += 1;
        Ok(())
    }

    async fn run(&mut self, task: Task, _: &mut WorkContext<Self>) -> Result<()> {
        match task {
            Task::Take(trap) => std::mem::forget(trap),
            Task::Mute => return Err(Mute.into()),
            Task::Hang => {
                let _trap = Trap(Snare::InDrop);
                pending::<()>().await;
            }
        }
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Give>().accept::<Fetch>().accept::<Hold>().accept::<Break>().accept::<Make>();
    }
}

/// A message with a value; answered with the number of values taken.
#[derive(Serialize, Deserialize)]
struct Give(Trap);

impl Handle<Give> for Snared {
    type Reply = u32;

    async fn handle(&mut self, Give(trap): Give, _: &mut WorkContext<Self>) -> u32 {
        std::mem::forget(trap);
        self.given += 1;
        self.given
    }
}

/// A question that is answered with such a value, after a delay.
#[derive(Serialize, Deserialize)]
struct Fetch(Snare, Duration);

impl Handle<Fetch> for Snared {
    type Reply = Trap;

    async fn handle(&mut self, Fetch(snare, after): Fetch, _: &mut WorkContext<Self>) -> Trap {
        std::thread::sleep(after);
        Trap(snare)
    }
}

/// A message that puts such a value into the state.
#[derive(Serialize, Deserialize)]
struct Hold(Snare);

impl Handle<Hold> for Snared {
    type Reply = ();

    async fn handle(&mut self, Hold(snare): Hold, cx: &mut WorkContext<Self>) {
        self.held = Trap(snare);
        cx.publish(self);
    }
}

#[derive(Serialize, Deserialize)]
struct Break;

impl Handle<Break> for Snared {
    type Reply = ();

    async fn handle(&mut self, _: Break, _: &mut WorkContext<Self>) {
        panic!("the handler panics");
    }
}

/// A message that makes a payload of such a value.
#[derive(Serialize, Deserialize)]
struct Make(Snare);

impl Handle<Make> for Snared {
    type Reply = std::result::Result<Payload<Trap>, String>;

    async fn handle(&mut self, Make(snare): Make, cx: &mut WorkContext<Self>) -> Self::Reply {
        cx.payload(Trap(snare)).map_err(|error| format!("{:#}", Error::from(error)))
    }
}

/// One Work for each place in which code panics, and one witness.
#[derive(Serialize, Children)]
struct Snares {
    works: BTreeMap<String, WorkRef<Snared>>,
}

impl Flow for Snares {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.works["input-deserialize"].run(Task::Take(Trap(Snare::InDeserialize)));
        self.works["error-display"].run(Task::Mute);
        self.works["future-drop"].run(Task::Hang);
        Ok(())
    }
}

const WORKS: [&str; 17] = [
    "witness",
    "message-serialize",
    "message-deserialize",
    "tell-deserialize",
    "reply-serialize",
    "reply-deserialize",
    "reply-drop",
    "message-drop",
    "state-serialize",
    "state-deserialize",
    "state-drop",
    "end-drop",
    "payload-serialize",
    "payload-deserialize",
    "payload-drop",
    "input-deserialize",
    "error-display",
];

impl Snares {
    fn new(place: Placement) -> Self {
        let at_once = Duration::ZERO..Duration::ZERO;
        let work = |name: &str| {
            let work = WorkRef::from(Snared::default()).placed(place).on_error(OnError::Capture);
            match name {
                "state-deserialize" => work.restart(Restart::on_failure().max(1).backoff(at_once.clone())),
                "future-drop" => work.timeout(Duration::from_millis(200)),
                _ => work,
            }
        };
        let names = WORKS.iter().chain(&["future-drop"]);
        Self { works: names.map(|name| ((*name).to_owned(), work(name))).collect() }
    }
}

/// The program of the nodes and processes.
pub(crate) fn snares() -> App {
    App::new(|| Snares::new(Placement::Thread))
}

/// The Works of an App, and whether they run in another process.
struct Trial<'a> {
    app: &'a TestApp,
    is_away: bool,
    place: &'static str,
}

impl Trial<'_> {
    fn ask<M>(
        &self,
        work: &str,
        message: M,
    ) -> std::result::Result<flowright::ReplyOf<Snared, M>, AskError<M>>
    where
        M: flowright::Message,
        Snared: Handle<M, Reply: flowright::SingleReply>,
    {
        let addr = self.app.work::<Snared>(&format!("works.{work}"));
        self.app.block_on(addr.ask(message).timeout(LIMIT))
    }

    /// Asserts that the witness is not affected.
    fn goes_on(&self, after: &str) {
        let given = self.ask("witness", Give(Trap::default()));
        given.unwrap_or_else(|error| panic!("{}, after {after}: {error}", self.place));
    }

    /// Asserts that the Work fails with this reason, and a message that contains `said`.
    fn fails(&self, work: &str, reason: Reason, said: &str) {
        let failed = self.app.wait_for_work(&format!("works.{work}"), |work| {
            let is_over = work.status.stage == Stage::Failed || !work.is_up;
            is_over && work.status.message.as_ref().is_some_and(|message| message.contains(said))
        });
        let message = failed.status.message.unwrap_or_default();
        assert_eq!(failed.status.reason, Some(reason), "{}, {work}: {message}", self.place);
        self.goes_on(work);
    }

    fn tries(&self) {
        let Self { is_away, place, .. } = *self;
        let refused = |error: AskError<Give>, work: &str| {
            let said = error.to_string();
            let is_unsendable = matches!(error, AskError::NotHandled(SendError::Unsendable { .. }));
            assert!(is_unsendable && said.contains("panicked: "), "{place}, {work}: {said}");
        };
        for (work, snare) in
            [("message-serialize", Snare::InSerialize), ("message-deserialize", Snare::InDeserialize)]
        {
            match self.ask(work, Give(Trap(snare))) {
                Err(error) if is_away => refused(error, work),
                given => assert_eq!(given.expect("the value never leaves the process"), 1, "{place}, {work}"),
            }
            self.goes_on(work);
            self.ask(work, Give(Trap::default())).expect("the Work goes on");
        }

        let addr = self.app.work::<Snared>("works.tell-deserialize");
        self.app.block_on(addr.tell(Give(Trap(Snare::InDeserialize)))).expect("the message is accepted");
        let given = self.ask("tell-deserialize", Give(Trap::default())).expect("the Work goes on");
        assert_eq!(given, if is_away { 1 } else { 2 }, "{place}");

        for (work, snare) in
            [("reply-serialize", Snare::InSerialize), ("reply-deserialize", Snare::InDeserialize)]
        {
            match (self.ask(work, Fetch(snare, Duration::ZERO)), snare) {
                (Ok(trap), _) if !is_away => std::mem::forget(trap),
                (Err(AskError::ReplyNotSent { why, .. }), Snare::InSerialize) => {
                    assert!(why.contains("panicked: "), "{place}: {why}");
                }
                (Err(AskError::BadReply { error, .. }), Snare::InDeserialize) => {
                    assert!(error.to_string().contains("panicked: "), "{place}: {error}");
                }
                (other, _) => panic!("{place}, {work}: {other:?}"),
            }
            self.goes_on(work);
            self.ask(work, Give(Trap::default())).expect("the Work goes on");
        }

        // The asker has gone before the answer arrives.
        let addr = self.app.work::<Snared>("works.reply-drop");
        let late = Fetch(Snare::InDrop, Duration::from_millis(300));
        let late = self.app.block_on(addr.ask(late).timeout(Duration::from_millis(30)));
        assert!(matches!(late, Err(AskError::Timeout { .. })), "{place}: {late:?}");
        self.ask("reply-drop", Give(Trap::default())).expect("the Work goes on");
        self.goes_on("reply-drop");

        // The message waits behind one whose handler fails, and is dropped with the rest of the mailbox.
        let addr = self.app.work::<Snared>("works.message-drop");
        let slow = Fetch(Snare::Nowhere, Duration::from_millis(100));
        self.app.block_on(async {
            addr.tell(slow).await.expect("the message is accepted");
            addr.tell(Break).await.expect("the message is accepted");
            addr.tell(Give(Trap(Snare::InDrop))).await.expect("the message is accepted");
        });
        self.fails("message-drop", Reason::Panic, "the handler panics");

        let _ = self.ask("state-serialize", Hold(Snare::InSerialize));
        self.fails("state-serialize", Reason::UserError, "`Serialize` panicked");

        self.ask("state-deserialize", Hold(Snare::InDeserialize)).expect("the state can be written");
        let _ = self.ask("state-deserialize", Break);
        self.fails("state-deserialize", Reason::UserError, "`Deserialize` panicked");

        // Two panics at once: the handler's, and that of the Work's drop.
        self.ask("state-drop", Hold(Snare::InDrop)).expect("the state can be written");
        let _ = self.ask("state-drop", Break);
        self.fails("state-drop", Reason::Panic, "the handler panics");

        self.ask("end-drop", Hold(Snare::InDrop)).expect("the state can be written");

        let made = self.ask("payload-serialize", Make(Snare::InSerialize)).expect("the Work answers");
        let error = made.expect_err("the payload cannot be made");
        assert!(error.contains("panicked: "), "{place}: {error}");
        let made = self.ask("payload-deserialize", Make(Snare::InDeserialize)).expect("the Work answers");
        let made = made.expect("the payload can be made");
        match self.app.block_on(made.value()) {
            Err(error) if is_away => {
                let said = format!("{:#}", Error::from(error));
                assert!(said.contains("panicked: "), "{place}: {said}");
            }
            value => drop(value.expect("the value is in this process")),
        }
        drop(made);
        let made = self.ask("payload-drop", Make(Snare::InDrop)).expect("the Work answers");
        drop(made.expect("the payload can be made"));
        self.ask("payload-drop", Give(Trap::default())).expect("the Work goes on");
        self.goes_on("payload-drop");

        self.fails("input-deserialize", Reason::UserError, "`Deserialize` of");
        self.fails("error-display", Reason::UserError, "`Display` panicked");
        self.fails("future-drop", Reason::Timeout, "");
    }
}

/// A panic in the `Serialize`, `Deserialize` or `Drop` of a message, answer, input, state or payload, of a future that
/// is dropped, or in the `Display` of an error, is the failure of that message or Work. The session, the thread and the
/// process in which it happens go on, and so do the other Works there.
fn panics_of_user_code_break_one_work_or_message() {
    for place in ["thread", "pool", "process", "n", "n/pool"] {
        let placement: Placement = place.parse().expect("the placement is valid");
        let app = App::new(move || Snares::new(placement))
            .listen("127.0.0.1:0")
            .process(|| Ok(program("snares")))
            .config(times(250, 20_000));
        let app = TestApp::start_app(app).limit(LIMIT).expect_panic("");
        let _node = place.starts_with('n').then(|| Process::node_of("snares", &joining(&app), "n", &[]));
        app.wait_for_work("works.witness", |work| work.is_up);
        let is_away = !matches!(place, "thread" | "pool");
        let trial = Trial { app: &app, is_away, place };
        trial.tries();
        for (name, work) in app.status().works {
            let lives = if name.ends_with("state-deserialize") { 1..=2 } else { 1..=1 };
            let lived = app.state().get(&format!("{name}.lives")).and_then(|lives| lives.decode().ok());
            assert!(lived.is_some_and(|lived: u32| lives.contains(&lived)), "{place}, {name}: {work:?}");
        }
        let exit = app.stop();
        assert!(exit.result.is_ok(), "{place}: {:?}", exit.result);
    }
}
