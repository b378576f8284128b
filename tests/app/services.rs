//! Services over HTTP and on the command line.

use std::process::Command;

use flowright::ServiceRef;
use flowright::prelude::*;
use serde_json::json;

use crate::http::{assert_problem, serve_flow};
use crate::programs;
use crate::support::*;
use crate::tests;

tests![services_are_asked_over_http, services_are_asked_on_the_command_line];

#[derive(Debug, Default, Serialize, Deserialize)]
struct Model {
    slope: i64,
}

impl Work for Model {
    type Input = i64;

    async fn run(&mut self, slope: i64, cx: &mut WorkContext<Self>) -> Result<()> {
        self.slope = slope;
        ensure!(slope > 0, "a slope of {slope} is damaged");
        cx.ready(self);
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Predict>().accept::<Check>();
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Predict(i64);

impl Handle<Predict> for Model {
    type Reply = i64;

    async fn handle(&mut self, Predict(x): Predict, _: &mut WorkContext<Self>) -> i64 {
        self.slope * x
    }
}

/// A question that is answered with an error.
#[derive(Debug, Serialize, Deserialize)]
struct Check;

impl Handle<Check> for Model {
    type Reply = std::result::Result<(), String>;

    async fn handle(&mut self, _: Check, _: &mut WorkContext<Self>) -> Self::Reply {
        Err("it is not checked".to_owned())
    }
}

/// A Work whose state is what its Flow deploys.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Desk {
    wanted: Vec<i64>,
}

impl Work for Desk {
    type Input = ();

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Deploy>();
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Deploy(i64);

impl Handle<Deploy> for Desk {
    type Reply = ();

    async fn handle(&mut self, Deploy(slope): Deploy, cx: &mut WorkContext<Self>) {
        self.wanted.push(slope);
        cx.publish(self);
    }
}

#[derive(Serialize, Children)]
pub(crate) struct Deployment {
    desk: WorkRef<Desk>,
    server: ServiceRef<Model>,
    version: Option<u64>,
    rolled_back: Option<String>,
}

pub(crate) fn deployment() -> Deployment {
    let server = ServiceRef::new(Model::default()).replicas(2).overlap(Overlap::Queue);
    Deployment { desk: WorkRef::default(), server, version: None, rolled_back: None }
}

impl Flow for Deployment {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for slope in &self.desk.wanted {
            self.server.deploy(*slope);
        }
        self.version = self.server.version();
        self.rolled_back = self.server.rollouts().find_map(|rollout| rollout.message.clone());
        Ok(())
    }
}

const PREDICT: &str = "/api/v1/works/server/messages/Predict";

/// An answer says which version has given it, also one that is an error, and an unknown message is one.
fn services_are_asked_over_http() {
    let app = serve_flow(deployment);
    let deploy = |slope: i64| {
        let answer = post(app.address, "/api/v1/works/desk/messages/Deploy", &slope.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    // Refused at once: it does not wait for an answer that cannot come.
    let early = post(app.address, &format!("{PREDICT}?timeout=0.05"), "2");
    assert_problem(&early, 504, "within 50ms");
    let mut events = Events::open(app.address);
    for (slope, version) in [(3, 1), (5, 2)] {
        deploy(slope);
        events.until(|document| document["state"]["version"] == version);
        let answer = post(app.address, PREDICT, "2");
        assert_eq!((answer.status, answer.json()), (200, json!(2 * slope)), "{answer:?}");
        assert!(answer.head.contains(&format!("flowright-version: {version}\r\n")), "{answer:?}");
    }
    deploy(-1);
    events.until(|document| document["state"]["rolled_back"] == "a slope of -1 is damaged");
    let refused = post(app.address, "/api/v1/works/server/messages/Check", "");
    assert_problem(&refused, 422, "answered with an error");
    assert!(refused.head.contains("flowright-version: 2\r\n"), "{refused:?}");
    assert_problem(
        &post(app.address, "/api/v1/works/server/messages/Predicct", "2"),
        404,
        "no message `Predicct`",
    );
    let work = post(app.address, "/api/v1/works/desk/messages/Deploy", "5");
    assert!(!work.head.contains("flowright-version"), "{work:?}");
    app.stop();
}

/// `ask` takes the path of a service.
fn services_are_asked_on_the_command_line() {
    let mut head = Process::start("deployment", &["--port", "0"]);
    let address = head.address();
    let ask = |arguments: &[&str]| {
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        command.env(programs::VARIABLE, "deployment").args(["ask"]).args(arguments);
        command.arg("--url").arg(address.to_string());
        let output = command.output().expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    assert_eq!(ask(&["desk", "Deploy", "7"]).0, Some(0));
    assert_eq!(ask(&["server", "Predict", "6"]), (Some(0), "42".to_owned()));
    head.signal("TERM");
    head.end();
}
