//! Values that do not serialise, as messages: within a process, and towards others.

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Instant;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Local, SendError};

use crate::process::LIMIT;
use crate::support::{Process, joining, program, times};

crate::tests![
    local_message_reaches_a_work_of_the_process,
    local_message_for_another_process_comes_back,
    local_reply_to_another_process_is_an_error,
];

#[derive(Debug, Default, Serialize, Deserialize)]
struct Keeper {
    kept: usize,
    #[serde(skip)]
    keys: Vec<Key>,
    said: String,
}

/// A value that is no message without `Local`.
type Key = Sender<u32>;

impl Work for Keeper {
    type Input = WorkAddr<Self>;

    async fn run(&mut self, other: WorkAddr<Self>, _: &mut WorkContext<Self>) -> Result<()> {
        self.said = match other.ask(Lend).await {
            Ok(_) => "lent".to_owned(),
            Err(error) => error.to_string(),
        };
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Lend>();
    }
}

impl Handle<Local<Key>> for Keeper {
    type Reply = Local<Key>;

    async fn handle(&mut self, Local(key): Local<Key>, cx: &mut WorkContext<Self>) -> Local<Key> {
        self.keys.push(key.clone());
        self.kept = self.keys.len();
        cx.publish(self);
        Local(key)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Lend;

impl Handle<Lend> for Keeper {
    type Reply = Local<u32>;

    async fn handle(&mut self, _: Lend, _: &mut WorkContext<Self>) -> Local<u32> {
        Local(7)
    }
}

#[derive(Serialize, Children)]
pub(crate) struct Vault {
    keeper: WorkRef<Keeper>,
    asker: WorkRef<Keeper>,
    asks: bool,
}

impl Flow for Vault {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        if self.asks {
            self.asker.run(self.keeper.addr());
        }
        Ok(())
    }
}

/// The root of the nodes and processes of the tests.
pub(crate) fn vault() -> Vault {
    Vault { keeper: WorkRef::default(), asker: WorkRef::default(), asks: false }
}

fn with_keeper_at(place: &str, asks: bool, test: impl FnOnce(&TestApp)) {
    let (placement, asker): (Placement, Placement) =
        (place.parse().expect("a placement"), if asks { Placement::Process } else { Placement::Pool });
    let app = App::new(move || Vault {
        keeper: WorkRef::new(Keeper::default()).placed(placement),
        asker: WorkRef::new(Keeper::default()).placed(asker),
        asks,
    });
    let app = app.listen("127.0.0.1:0").process(|| Ok(program("vault"))).config(times(500, 30_000));
    let app = TestApp::start_app(app).limit(LIMIT);
    let _node = place.starts_with('n').then(|| Process::node_of("vault", &joining(&app), "n", &[]));
    app.wait_for_work("keeper", |keeper| keeper.is_up);
    test(&app);
    app.stop().result.expect("it stops");
}

fn local_message_reaches_a_work_of_the_process() {
    for place in ["thread", "pool"] {
        with_keeper_at(place, false, |app| {
            let keeper = app.work::<Keeper>("keeper");
            let (sender, receiver) = channel();
            let lent = app.block_on(keeper.ask(Local(sender.clone()))).expect("it answers");
            app.block_on(keeper.tell(Local(sender))).expect("it is there");
            app.wait_for_state("keeper.kept", |kept: &usize| *kept == 2);
            lent.send(5).expect("the channel is that of the test");
            assert_eq!(receiver.recv(), Ok(5), "{place}");
        });
    }
}

/// Tells `message` until it is refused: while the Work's process starts, messages wait in the mailbox.
fn refused(app: &TestApp, keeper: &WorkAddr<Keeper>, message: Local<Key>) -> SendError<Local<Key>> {
    let give_up = Instant::now() + LIMIT;
    while Instant::now() < give_up {
        match app.block_on(keeper.tell(message.clone())) {
            Ok(()) => thread::yield_now(),
            Err(error) => return error,
        }
    }
    panic!("it is still accepted")
}

/// The message comes back as it was, whether it was asked or told, and the Work is as good as before.
fn local_message_for_another_process_comes_back() {
    for place in ["process", "n", "n/pool"] {
        with_keeper_at(place, false, |app| {
            let keeper = app.work::<Keeper>("keeper");
            let (sender, receiver) = channel();
            let asked = app.block_on(keeper.ask(Local(sender))).expect_err("it cannot be sent");
            assert!(asked.to_string().contains("does not leave its process"), "{place}: {asked}");
            let AskError::NotHandled(SendError::Unsendable { message, .. }) = asked else {
                panic!("{place}: {asked}");
            };
            let told = refused(app, &keeper, message.into_inner());
            let SendError::Unsendable { message, .. } = told else { panic!("{place}: {told}") };
            message.into_inner().send(3).expect("the channel is that of the test");
            assert_eq!(receiver.recv(), Ok(3), "{place}");
        });
    }
}

fn local_reply_to_another_process_is_an_error() {
    with_keeper_at("thread", true, |app| {
        app.wait_for_state("asker.said", |said: &String| said.contains("does not leave its process"));
        let keeper = app.work::<Keeper>("keeper");
        assert_eq!(app.block_on(keeper.ask(Lend)).expect("it is in this process"), Local(7));
    });
}
