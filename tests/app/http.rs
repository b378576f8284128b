//! What an App shows over HTTP, and what can be asked of it there.

use std::net::SocketAddr;

use flowright::prelude::*;
use flowright::{AppHandle, Control, WorkAddr};
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;

use crate::support::*;
use crate::tests;

tests![
    health_state_and_status_are_shown,
    a_state_that_is_known_is_not_sent_again,
    the_graph_has_flows_and_works,
    events_begin_with_everything_and_patches_keep_it_true,
    a_client_that_comes_back_goes_on_where_it_was,
    a_work_is_asked_with_json,
    a_question_without_an_answer_says_why,
    works_are_stopped_started_and_restarted,
    runs_are_told_and_asked_for_again,
    the_app_is_stopped_with_a_word,
    services_of_the_users_own_are_beside_the_api,
    the_document_describes_every_route,
    numbers_are_there_for_prometheus,
    the_page_is_served_and_other_addresses_are_not,
    what_a_work_logs_is_kept_and_written_to_files,
    what_the_process_of_a_work_prints_is_kept_and_shown,
    nonsense_harms_nobody,
    the_server_ends_with_its_app,
];

/// Has a number, which it is told.
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
        messages.accept::<Turn>().accept::<Break>().accept::<Hang>();
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

#[derive(Serialize, Deserialize)]
struct Hang;

impl Handle<Hang> for Dial {
    type Reply = ();

    async fn handle(&mut self, _: Hang, _cx: &mut WorkContext<Self>) {
        std::future::pending::<()>().await;
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

/// A board as an App.
pub(crate) fn board() -> App {
    let dial = || WorkRef::new(Dial::default()).on_error(OnError::Capture);
    App::new(move || Board { title: "", dials: vec![dial(), dial()] })
}

pub(crate) fn serve() -> Served {
    serve_app(board(), "")
}

/// Serves it on a free port, for clients that send these headers.
pub(crate) fn serve_app(app: App, headers: &str) -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let app = runtime.block_on(app.serve("127.0.0.1:0".parse().unwrap()).spawn()).unwrap();
    let address = app.address().unwrap();
    // Both dials have turned and everybody knows.
    Events::open_with(address, headers).until(|document| {
        ["dials.0", "dials.1"].iter().all(|dial| document["works"][*dial]["stage"] == "succeeded")
    });
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

/// A problem document with this status, whose detail says this.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, says: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!("about:blank")));
    assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
}

fn health_state_and_status_are_shown() {
    let served = serve();
    assert_eq!(served.get("/healthz"), json!({ "status": "ok" }));
    assert_eq!(served.get("/readyz"), json!({ "status": "ok" }));
    let state = get(served.address, "/api/v1/state");
    let board = json!({ "title": "a board", "dials": [{ "value": 7 }, { "value": 7 }] });
    assert_eq!((state.status, &state.json()["state"]), (200, &board));
    assert!(state.head.contains("cache-control: no-store"), "{}", state.head);
    assert_eq!(served.get("/api/v1/state?path=dials.1.value")["state"], 7);
    assert_problem(&get(served.address, "/api/v1/state?path=dials.2"), 404, "nothing at `dials.2`");
    let status = served.get("/api/v1/status");
    assert_eq!(status["app"]["stage"], "running");
    let dial = &status["works"]["dials.0"];
    assert_eq!(dial, &served.get("/api/v1/works/dials.0"));
    let shown = |name: &str| dial[name].clone();
    assert_eq!(shown("type"), "Dial");
    assert_eq!(
        (shown("stage"), shown("attempt"), shown("is_up")),
        ("succeeded".into(), 1.into(), true.into())
    );
    assert_eq!(shown("runs"), json!({ "waiting": 0, "succeeded": 1, "failed": 0, "stopped": 0 }));
    assert_eq!(shown("messages"), json!(["Turn", "Break", "Hang"]));
    assert_eq!((shown("node"), shown("placement")), ("head".into(), "thread".into()));
    assert_eq!(status["flows"][""]["type"], "Board");
    assert_eq!(status["nodes"]["head"]["works"], json!(["dials.0", "dials.1"]));
    assert_eq!(served.get("/api/v1/payloads"), json!({ "items": [] }));
    served.stop();
}

fn a_state_that_is_known_is_not_sent_again() {
    let served = serve();
    let tag = |answer: &Answer| {
        let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).map(str::to_owned);
        tag.expect("it has a tag")
    };
    let whole = get(served.address, "/api/v1/state");
    let first = tag(&whole);
    let same = get(served.address, "/api/v1/state");
    assert_eq!((tag(&same), same.body), (first.clone(), whole.body));
    let known = format!("If-None-Match: \"other\", {first}\r\n");
    let again = get_with(served.address, "/api/v1/state", &known);
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    served.turn(8);
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let changed = get_with(served.address, "/api/v1/state", &known);
    assert_eq!((changed.status, &changed.json()["state"]["dials"][0]["value"]), (200, &json!(8)));
    assert_ne!(tag(&changed), first);
    served.stop();
}

fn the_graph_has_flows_and_works() {
    let served = serve();
    let graph = served.get("/api/v1/graph");
    let root = json!({ "path": "", "kind": "flow", "type": "Board", "parent": null, "node": null,
        "placement": null, "stage": "running" });
    let dial = json!({ "path": "dials.1", "kind": "work", "type": "Dial", "parent": "", "node": "head",
        "placement": "thread", "stage": "succeeded" });
    assert_eq!((&graph["items"][0], &graph["items"][2]), (&root, &dial));
    served.stop();
}

fn events_begin_with_everything_and_patches_keep_it_true() {
    let served = serve();
    let mut events = Events::open(served.address);
    assert_eq!(events.some()[0].name, "snapshot");
    for value in 8..30 {
        served.turn(value);
        events.until(|document| document["state"]["dials"][0]["value"] == value);
    }
    assert_eq!(events.missed, 0);
    let shown = served.get("/api/v1/status");
    for part in ["works", "flows"] {
        assert_eq!(events.document[part], shown[part], "{part}");
    }
    assert_eq!(events.document["state"], served.get("/api/v1/state")["state"]);
    served.stop();
}

fn a_client_that_comes_back_goes_on_where_it_was() {
    let served = serve();
    let mut events = Events::open(served.address);
    events.some();
    let (seen, document) = (events.last, events.document.clone());
    drop(events);
    served.turn(8);
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let mut back = Events::open_with(served.address, &format!("Last-Event-ID: {seen}\r\n"));
    back.document = document;
    assert_eq!(back.some()[0].name, "patch");
    back.until(|document| document["state"]["dials"][0]["value"] == 8);
    // Of another life, or of none.
    for id in ["7", "x", "99999999999999999999", "18446744073709551615"] {
        let mut anew = Events::open_with(served.address, &format!("Last-Event-ID: {id}\r\n"));
        anew.until(|document| document["state"]["dials"][0]["value"] == 8);
    }
    served.stop();
}

fn a_work_is_asked_with_json() {
    let served = serve();
    let answer = post(served.address, "/api/v1/works/dials.0/messages/Turn", "8");
    assert_eq!((answer.status, answer.json()), (200, json!(7)));
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let whole = format!("/api/v1/works/dials.0/messages/{}", std::any::type_name::<Turn>());
    assert_eq!(post(served.address, &whole, "9").json(), json!(8));
    served.stop();
}

fn a_question_without_an_answer_says_why() {
    let served = serve();
    let ask = |path: &str, body: &str| post(served.address, &format!("/api/v1/works/{path}"), body);
    assert_problem(&ask("nobody/messages/Turn", "8"), 404, "no work `nobody`");
    let unknown = ask("dials.0/messages/Trun", "8");
    assert_problem(&unknown, 404, "no message `Trun`");
    assert_eq!(unknown.json()["known"], json!(["Turn", "Break", "Hang"]));
    assert_problem(&ask("dials.0/messages/Turn", "\"eight\""), 422, "expected u32");
    assert_problem(&ask("dials.0/messages/Turn", "{"), 400, "no JSON");
    assert_problem(&ask("dials.0/messages/Turn?deadline=0", "8"), 400, "deadline");
    assert_problem(&ask("dials.0/messages/Turn?deadlin=1", "8"), 400, "deadlin");
    let untold = format!(
        "POST /api/v1/works/dials.0/messages/Turn HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: 1\r\n\r\n8",
        served.address
    );
    assert_problem(&request(served.address, untold.as_bytes()), 415, "application/json");
    assert_problem(&ask("dials.1/messages/Hang?deadline=0.05", "null"), 504, "did not answer");
    assert_problem(&ask("dials.0/messages/Break", "null"), 502, "failed while it handled");
    served.wait_for(|document| document["works"]["dials.0"]["stage"] == "failed");
    assert_problem(&ask("dials.0/messages/Turn", "8"), 409, "has failed");
    served.stop();
}

fn works_are_stopped_started_and_restarted() {
    let served = serve();
    let is_up = |up: bool| move |document: &Json| document["works"]["dials.0"]["is_up"] == up;
    served.act("/api/v1/works/dials.0/stop", "");
    served.wait_for(is_up(false));
    assert_problem(&post(served.address, "/api/v1/works/dials.0/messages/Turn", "8"), 409, "was stopped");
    served.act("/api/v1/works/dials.0/start", "");
    served.wait_for(is_up(true));
    served.act("/api/v1/works/dials.0/restart", "");
    served.wait_for(|document| document["works"]["dials.0"]["restarts"] == 2);
    assert_problem(&post(served.address, "/api/v1/works/nobody/stop", ""), 404, "nobody");
    served.stop();
}

fn runs_are_told_and_asked_for_again() {
    let served = serve();
    let succeeded =
        |runs: u64| move |document: &Json| document["works"]["dials.0"]["runs"]["succeeded"] == json!(runs);
    served.act("/api/v1/works/dials.0/rerun", r#"{"input": 9}"#);
    served.wait_for(succeeded(2));
    served.act("/api/v1/works/dials.0/rerun", r#"{"run": 1.0}"#);
    served.wait_for(succeeded(3));
    // Its Flow asks for it, so that it runs once more.
    served.act("/api/v1/works/dials.0/forget", r#"{"input": 7}"#);
    served.wait_for(succeeded(4));
    let runs = served.get("/api/v1/works/dials.0/runs?per_page=3");
    assert_eq!((&runs["total"], &runs["page"], &runs["per_page"]), (&json!(4), &json!(1), &json!(3)));
    let inputs: Vec<_> = runs["items"].as_array().unwrap().iter().map(|run| run["input"].clone()).collect();
    assert_eq!(inputs, [7, 7, 9]);
    let first = &served.get("/api/v1/works/dials.0/runs?per_page=3&page=2")["items"][0];
    assert_eq!(
        (&first["run"], &first["stage"], &first["node"]),
        (&json!(1), &json!("succeeded"), &json!("head"))
    );
    assert!(first["queued"].as_str().unwrap() <= first["ended"].as_str().unwrap(), "{first}");
    let rerun = |body: &str| post(served.address, "/api/v1/works/dials.0/rerun", body);
    assert_problem(&rerun(r#"{"input": "seven"}"#), 422, "expected u32");
    assert_problem(&rerun(r#"{"run": 77}"#), 409, "no run 77");
    assert_problem(&rerun(r#"{"run": 1, "input": 7}"#), 422, "either");
    for list in ["[]", "[1]", "[null, null]"] {
        assert_problem(&rerun(list), 422, "what is wanted");
    }
    for query in ["page=0", "per_page=201", "page=x", "pages=1", "page=1&page=2"] {
        assert_problem(&get(served.address, &format!("/api/v1/works/dials.0/runs?{query}")), 400, "");
    }
    served.stop();
}

fn the_app_is_stopped_with_a_word() {
    let served = serve();
    served.act("/api/v1/app/stop", r#"{"why": "it is late"}"#);
    served.runtime.block_on(served.app.wait()).result.unwrap();
}

fn services_of_the_users_own_are_beside_the_api() {
    use actix_web::{HttpResponse, web};

    async fn sum(control: web::Data<Control>) -> HttpResponse {
        let dial: WorkAddr<Dial> = control.work("dials.0").await.unwrap().unwrap();
        let before = dial.ask(Turn(100)).await.unwrap();
        HttpResponse::Ok().body(format!("it was {before}"))
    }

    let served = serve_app(
        board().routes(|config| {
            config.route("/sum", web::get().to(sum));
        }),
        "",
    );
    assert_eq!(get(served.address, "/sum").body, "it was 7");
    assert_eq!(get_as(served.address, "/sum", "evil.example").status, 421);
    assert_eq!(served.get("/healthz")["status"], "ok");
    served.stop();
}

fn the_document_describes_every_route() {
    let served = serve();
    let document = served.get("/api/v1/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 19, "{:?}", paths.keys());
    for (path, item) in paths {
        // What is described is there: something else than nothing answers.
        let address = path.replace("{path}", "dials.0").replace("{message}", "Turn");
        let answer = match item.get("post") {
            Some(_) if path.ends_with("/stop") => continue,
            Some(_) => post(served.address, &address, "8"),
            None if path.ends_with("/events") => continue,
            None => get(served.address, &address),
        };
        assert_ne!(answer.status, 404, "{path}: {answer:?}");
        for operation in item.as_object().unwrap().values() {
            let described = operation["responses"].get(answer.status.to_string());
            assert!(described.is_some(), "{path} does not say {}", answer.status);
        }
    }
    served.stop();
}

fn numbers_are_there_for_prometheus() {
    let served = serve();
    served.turn(8);
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let numbers = get(served.address, "/metrics");
    assert!(numbers.head.contains("content-type: text/plain; version=0.0.4"), "{}", numbers.head);
    for line in [
        "flowright_work_messages_total{work=\"dials.0\"} 1",
        "flowright_work_messages_total{work=\"dials.1\"} 0",
        "flowright_work_run_seconds_count{work=\"dials.0\",outcome=\"succeeded\"} 1",
        "flowright_node_connected{node=\"head\"} 1",
        "flowright_works 2",
    ] {
        assert!(numbers.body.lines().any(|there| there == line), "{line} is not in\n{}", numbers.body);
    }
    served.stop();
}

fn the_page_is_served_and_other_addresses_are_not() {
    let served = serve();
    let page = get(served.address, "/view");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(page.body.contains("Flowright"), "{}", page.body);
    assert_eq!(get(served.address, "/view/view.css").status, 200);
    let home = get(served.address, "/");
    assert_eq!(home.status, 303);
    assert!(home.head.contains("location: /view"), "{}", home.head);
    for path in ["/api", "/api/v1", "/api/v2/state", "/api/v1/state/x", "/view/x", "/../Cargo.toml"] {
        assert_problem(&get(served.address, path), 404, "no");
    }
    served.stop();
}

fn what_a_work_logs_is_kept_and_written_to_files() {
    let directory = std::env::temp_dir().join(format!("flowright-app-logs-{}", std::process::id()));
    let path = directory.to_str().expect("it is text");
    let mut process = Process::start("service", &["--port", "0", "--log-dir", path]);
    let address = process.address();
    process.expect("a warning");
    Events::open(address).until(|document| {
        ["first", "second"].iter().all(|work| document["works"][*work]["stage"] == "running")
    });
    let said = |query: &str| {
        let logs = get(address, &format!("/api/v1/logs?{query}")).json();
        logs["items"].as_array().expect("a list").clone()
    };
    // The run has begun; its first lines come at once.
    let lines = loop {
        let lines = said("work=first&level=warn");
        if !lines.is_empty() {
            break lines;
        }
    };
    let line = &lines[0];
    assert_eq!((&line["text"], &line["level"]), (&json!("a warning"), &json!("warn")));
    assert_eq!((&line["work"], &line["run"], &line["node"]), (&json!("first"), &json!(1), &json!("head")));
    assert!(said("work=third").is_empty());
    assert!(said("level=error").is_empty());
    let after = line["seq"].as_u64().expect("a number");
    assert!(said(&format!("after={after}")).iter().all(|line| line["seq"].as_u64() > Some(after)));
    process.signal("TERM");
    process.end();
    let file = std::fs::read_to_string(directory.join("app.log")).expect("it was written");
    std::fs::remove_dir_all(&directory).expect("it can be removed");
    assert!(file.lines().any(|line| line.contains("WARN  [first#1 on head] a warning")), "{file}");
}

fn what_the_process_of_a_work_prints_is_kept_and_shown() {
    let mut process = Process::start("service", &["--port", "0", "--place", "first=process"]);
    let address = process.address();
    let shown = process.expect("first serves");
    assert!(shown.starts_with("out| first serves"), "{shown}");
    process.expect("[first on");
    let said = || {
        let logs = get(address, "/api/v1/logs?work=first").json();
        let items = logs["items"].as_array().expect("a list").clone();
        items.into_iter().map(|line| (line["target"].clone(), line["text"].clone())).collect::<Vec<_>>()
    };
    let has =
        |part: &str| said().iter().any(|(_, text)| text.as_str().is_some_and(|text| text.contains(part)));
    // Both have been shown here; the line that was printed may come to the log a moment later.
    while !(has("a warning") && has("first serves")) {}
    let said = said();
    let printed = said.iter().find(|(_, text)| text.as_str().is_some_and(|text| text.contains("serves")));
    assert_eq!(printed.expect("it is there").0, "stdout");
    let warnings = said.iter().filter(|(_, text)| text.as_str().is_some_and(|text| text.contains("warning")));
    assert_eq!(warnings.count(), 1, "{said:?}");
    process.signal("TERM");
    process.end();
}

fn nonsense_harms_nobody() {
    use std::io::Write;

    let served = serve();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1_000_000));
    let requests: [&[u8]; 6] = [
        b"\0\x01\x02\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"BREW /pot HTCPCP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        long.as_bytes(),
    ];
    for bytes in requests {
        let mut stream = connect(served.address);
        // It may hang up in the middle.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let text = format!(
            "{method} /api/v1/state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = request(served.address, text.as_bytes());
        assert_problem(&answer, 405, method);
        assert!(answer.head.contains("allow: get"), "{}", answer.head);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_problem(&post(served.address, "/api/v1/works/dials.0/messages/Turn", &deep), 422, "expected u32");
    assert_eq!(served.get("/api/v1/state")["state"]["dials"][0]["value"], 7);
    served.stop();
}

fn the_server_ends_with_its_app() {
    let served = serve();
    let address = served.address;
    let mut open = Events::open(address);
    open.some();
    served.stop();
    // What hangs on its events is let go.
    open.drain();
}
