//! The HTTP API of an App: its views and its commands.

pub(crate) mod actions;
pub(crate) mod events;
pub(crate) mod logs;
pub(crate) mod server;
pub(crate) mod shown;

use std::net::SocketAddr;

use flowright::prelude::*;
use flowright::{AppHandle, AskError, WorkAddr};
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;

use crate::support::*;

/// A Work with a number, which messages set.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Dial {
    value: u32,
}

impl Work for Dial {
    type Input = u32;

    async fn run(&mut self, value: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.value = value;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Turn>().accept::<Break>().accept::<Hang>().accept::<Call>();
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Turn(pub(crate) u32);

impl Handle<Turn> for Dial {
    type Reply = u32;

    async fn handle(&mut self, Turn(value): Turn, cx: &mut WorkContext<Self>) -> u32 {
        let before = std::mem::replace(&mut self.value, value);
        cx.publish(self);
        before
    }
}

#[derive(Serialize, Deserialize)]
struct Break;

impl Handle<Break> for Dial {
    type Reply = ();

    async fn handle(&mut self, _: Break, _cx: &mut WorkContext<Self>) {
        panic!("the dial breaks");
    }
}

/// A message whose handler never ends. Once its caller has gone, the dial shows [`ABANDONED`].
#[derive(Serialize, Deserialize)]
struct Hang;

/// The value of a dial whose caller has gone.
pub(crate) const ABANDONED: u32 = 404_404;

impl Handle<Hang> for Dial {
    type Reply = ();

    async fn handle(&mut self, _: Hang, cx: &mut WorkContext<Self>) {
        cx.caller_gone().await;
        self.value = ABANDONED;
        cx.publish(self);
        std::future::pending::<()>().await;
    }
}

/// A question whose handler finds the first dial of these paths and asks it to ask the others. Answered by the names of a
/// cycle.
#[derive(Serialize, Deserialize)]
struct Call(Vec<String>);

impl Handle<Call> for Dial {
    type Reply = Vec<String>;

    async fn handle(&mut self, Call(mut paths): Call, cx: &mut WorkContext<Self>) -> Vec<String> {
        if paths.is_empty() {
            return Vec::new();
        }
        let next = cx.find::<Self>(&paths.remove(0)).await.expect("there is such a dial");
        match next.ask(Call(paths)).await {
            Err(AskError::Deadlock { cycle, .. }) => cycle,
            answer => answer.expect("it answers"),
        }
    }
}

#[derive(Default, Serialize, Children)]
struct Board {
    title: &'static str,
    dials: Vec<WorkRef<Dial>>,
}

impl Flow for Board {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.title = "a board";
        for dial in &self.dials {
            dial.run(7);
        }
        Ok(())
    }
}

pub(crate) struct Served {
    runtime: Runtime,
    app: AppHandle,
    pub(crate) address: SocketAddr,
}

/// An App with a board of two dials.
pub(crate) fn board() -> App {
    let dial = || WorkRef::new(Dial::default()).on_error(OnError::Capture);
    App::new(move || Board { title: "", dials: vec![dial(), dial()] })
}

/// A board with a third dial, which waits for a node that never joins. `counts` sets whether it counts for readiness;
/// `None` is the default.
pub(crate) fn board_and_waiting(counts: Option<bool>) -> App {
    let dial = || WorkRef::new(Dial::default()).on_error(OnError::Capture);
    App::new(move || {
        let mut waiting = dial().placed("n".parse().expect("the placement is valid"));
        if let Some(counts) = counts {
            waiting = waiting.count_for_readiness(counts);
        }
        Board { title: "", dials: vec![dial(), dial(), waiting] }
    })
}

pub(crate) fn serve() -> Served {
    serve_app(board(), "")
}

/// Serves an App on a free port, for clients that send these headers.
pub(crate) fn serve_app(app: App, headers: &str) -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let app = runtime.block_on(app.serve("127.0.0.1:0".parse().unwrap()).spawn()).unwrap();
    let address = app.address().unwrap();
    // Both dials have turned, and the update has reached the clients.
    Events::open_with(address, headers).until(|document| {
        ["dials.0", "dials.1"].iter().all(|dial| document["works"][*dial]["stage"] == "succeeded")
    });
    Served { runtime, app, address }
}

/// Serves any Flow on a free port.
pub(crate) fn serve_flow<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let app = App::new(make).serve("127.0.0.1:0".parse().unwrap());
    let app = runtime.block_on(app.spawn()).unwrap();
    let address = app.address().unwrap();
    Served { runtime, app, address }
}

impl Served {
    pub(crate) fn turn(&self, value: u32) {
        self.runtime.block_on(async {
            let dial: WorkAddr<Dial> = self.app.control().work("dials.0").await.unwrap().unwrap();
            dial.tell(Turn(value)).await.unwrap();
        });
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.app.stop()).result.unwrap();
    }

    pub(crate) fn get(&self, path: &str) -> Json {
        let answer = get(self.address, path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    fn act(&self, path: &str, body: &str) {
        let answer = post(self.address, path, body);
        assert_eq!((answer.status, answer.json()), (202, json!({ "accepted": true })), "{path}");
    }

    fn wait_for(&self, is_so: impl Fn(&Json) -> bool) -> Json {
        Events::open(self.address).until(is_so).clone()
    }
}

/// Asserts that the answer is a problem document with this status, whose detail contains `says`.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, says: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!("about:blank")));
    assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
}
