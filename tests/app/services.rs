//! Services over HTTP and on the command line.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use flowright::ServiceRef;
use flowright::prelude::*;
use serde_json::{Value as Json, json};

use crate::http::{Served, assert_problem, serve_flow};
use crate::programs;
use crate::support::*;
use crate::tests;

tests![
    services_are_asked_over_http,
    services_are_asked_on_the_command_line,
    services_show_versions_replicas_and_messages,
    readiness_waits_for_a_version_that_serves,
    unknown_services_are_refused_with_those_there_are,
];

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
        messages.accept::<Predict>().accept::<Check>().accept::<Hold>();
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

/// A question whose handler goes on until nobody waits for the reply.
#[derive(Debug, Serialize, Deserialize)]
struct Hold;

impl Handle<Hold> for Model {
    type Reply = ();

    async fn handle(&mut self, _: Hold, cx: &mut WorkContext<Self>) {
        cx.caller_gone().await;
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

fn deploy(app: &Served, slope: i64) {
    let answer = post(app.address, "/api/v1/works/desk/messages/Deploy", &slope.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits until what the API shows of the service is so.
fn wait_for_service(app: &Served, is_so: impl Fn(&Json) -> bool) -> Json {
    let deadline = Instant::now() + LIMIT;
    loop {
        let service = app.get("/api/v1/services/server");
        if is_so(&service) {
            return service;
        }
        assert!(Instant::now() < deadline, "it stays so: {service}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Sends a question that is held until the returned connection is dropped.
fn hold(app: &Served) -> TcpStream {
    let mut stream = connect(app.address);
    let head = "POST /api/v1/services/server/messages/Hold?timeout=3600 HTTP/1.1";
    let request = format!("{head}\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", app.address);
    stream.write_all(request.as_bytes()).expect("the server listens");
    stream
}

/// Returns version, readiness, draining and messages of each replica.
fn replicas(service: &Json) -> Vec<(u64, bool, bool, u64)> {
    let replicas = service["replicas"].as_array().expect("a list of replicas");
    let row = |replica: &Json| {
        let number = |name: &str| replica[name].as_u64().expect("a number");
        let flag = |name: &str| replica[name].as_bool().expect("a flag");
        (number("version"), flag("is_ready"), flag("is_draining"), number("messages"))
    };
    replicas.iter().map(row).collect()
}

/// The list and the service by itself show the same; messages that old replicas finish are shown with them.
fn services_show_versions_replicas_and_messages() {
    let app = serve_flow(deployment);
    let empty = wait_for_service(&app, |service| service["wanted"] == 2);
    assert_eq!((&empty["version"], &empty["is_ready"]), (&Json::Null, &json!(false)), "{empty}");
    assert_eq!((&empty["versions"], &empty["replicas"]), (&json!([]), &json!([])), "{empty}");

    deploy(&app, 3);
    let first = wait_for_service(&app, |service| service["version"] == 1);
    assert_eq!(first["is_ready"], true, "{first}");
    assert_eq!(replicas(&first), [(1, true, false, 0), (1, true, false, 0)], "{first}");
    let path = first["replicas"][0]["path"].as_str().expect("a path");
    assert_eq!(app.get(&format!("/api/v1/works/{path}"))["type"], "Model");
    let list = app.get("/api/v1/services");
    assert_eq!(list, json!({ "page": 1, "per_page": 50, "total": 1, "items": [first] }));
    let second_page = app.get("/api/v1/services?page=2&per_page=1");
    assert_eq!((&second_page["total"], &second_page["items"]), (&json!(1), &json!([])));

    // One message with each replica, and one that waits for the first that is done.
    let held = [(); 3].map(|()| hold(&app));
    let busy = wait_for_service(&app, |service| service["waiting"] == 1 && service["handed"] == 2);
    assert_eq!(replicas(&busy), [(1, true, false, 1), (1, true, false, 1)], "{busy}");
    let metrics = get(app.address, "/metrics").body;
    for (state, messages) in [("waiting", 1), ("handed", 2)] {
        let line =
            format!("\nflowright_service_messages{{service=\"server\",state=\"{state}\"}} {messages}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }

    // The message that waits goes to the new version, while the old replicas finish theirs.
    deploy(&app, 5);
    let both = wait_for_service(&app, |service| service["version"] == 2 && service["handed"] == 3);
    assert_eq!(both["waiting"], 0, "{both}");
    let mut all = replicas(&both);
    all.sort_unstable();
    let old = (1, false, true, 1);
    assert_eq!(all, [old, old, (2, true, false, 0), (2, true, false, 1)], "{both}");
    drop(held);
    let idle = [(2, true, false, 0), (2, true, false, 0)];
    wait_for_service(&app, |service| replicas(service) == idle && service["handed"] == 0);

    deploy(&app, -1);
    let last = wait_for_service(&app, |service| service["versions"][2]["stage"] == "rolled_back");
    let stages = [0, 1, 2].map(|index| last["versions"][index]["stage"].clone());
    assert_eq!(stages, ["replaced", "serving", "rolled_back"], "{last}");
    let messages = [0, 1, 2].map(|index| last["versions"][index]["message"].clone());
    assert_eq!(messages, [Json::Null, Json::Null, json!("a slope of -1 is damaged")], "{last}");
    assert_eq!((&last["version"], &last["is_ready"]), (&json!(2), &json!(true)), "{last}");
    app.stop();
}

/// A service counts from the start: the App is not ready until a version serves, and a version that was rolled back does not
/// change that.
fn readiness_waits_for_a_version_that_serves() {
    let app = serve_flow(deployment);
    wait_for_service(&app, |service| service["wanted"] == 2);
    let empty = get(app.address, "/readyz");
    assert_problem(&empty, 503, "`server` (nothing was deployed)");
    assert_eq!(empty.json()["known"], json!(["server"]));
    deploy(&app, -1);
    wait_for_service(&app, |service| service["versions"][0]["stage"] == "rolled_back");
    let broken = get(app.address, "/readyz?detail=true");
    assert_problem(&broken, 503, "version 1 was rolled back: a slope of -1 is damaged");
    deploy(&app, 3);
    wait_for_service(&app, |service| service["version"] == 2);
    assert_eq!(app.get("/readyz?detail=true"), json!({ "status": "ok", "pending": [] }));
    app.stop();
}

/// A Work is no service; its path is refused with the paths of the services.
fn unknown_services_are_refused_with_those_there_are() {
    let app = serve_flow(deployment);
    deploy(&app, 3);
    wait_for_service(&app, |service| service["version"] == 1);
    let answers = [
        get(app.address, "/api/v1/services/desk"),
        post(app.address, "/api/v1/services/desk/messages/Deploy", "7"),
        post(app.address, "/api/v1/services/srever/messages/Predict", "7"),
    ];
    for answer in answers {
        assert_problem(&answer, 404, "there is no service");
        assert_eq!(answer.json()["known"], json!(["server"]));
    }
    assert_problem(&get(app.address, "/api/v1/services?per_page=201"), 400, "`per_page`");
    let answer = post(app.address, "/api/v1/services/server/messages/Predict", "2");
    assert_eq!((answer.status, answer.json()), (200, json!(6)), "{answer:?}");
    assert!(answer.head.contains("flowright-version: 1\r\n"), "{answer:?}");
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
