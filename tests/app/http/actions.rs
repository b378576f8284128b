//! Commands for a running App and its Works.

use flowright::prelude::*;
use serde_json::{Value as Json, json};

use super::{ABANDONED, Dial, Turn, assert_problem, serve, serve_flow};
use crate::support::*;

crate::tests![
    a_work_is_asked_with_json,
    a_question_without_an_answer_says_why,
    question_of_a_client_that_has_gone_is_dropped,
    cycle_of_asks_is_counted,
    panics_of_serde_code_in_json_are_the_questions_failure,
    works_are_stopped_started_and_restarted,
    stop_of_an_operator_holds_against_its_flow,
    flow_releases_what_an_operator_has_stopped,
    runs_are_told_and_asked_for_again,
    nested_options_are_told_apart_in_json,
    a_node_that_is_not_there_cannot_be_sent_away,
    the_app_is_stopped_with_a_word,
];

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
    assert_eq!(unknown.json()["known"], json!(["Turn", "Break", "Hang", "Call"]));
    assert_problem(&ask("dials.0/messages/Turn", "\"eight\""), 422, "expected u32");
    assert_problem(&ask("dials.0/messages/Turn", "{"), 400, "not valid JSON");
    assert_problem(&ask("dials.0/messages/Turn?timeout=0", "8"), 400, "timeout");
    assert_problem(&ask("dials.0/messages/Turn?deadlin=1", "8"), 400, "deadlin");
    let untold = format!(
        "POST /api/v1/works/dials.0/messages/Turn HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: 1\r\n\r\n8",
        served.address
    );
    assert_problem(&request(served.address, untold.as_bytes()), 415, "application/json");
    assert_problem(&ask("dials.1/messages/Hang?timeout=0.05", "null"), 504, "did not answer");
    assert_problem(&ask("dials.0/messages/Break", "null"), 502, "failed while it handled");
    served.wait_for(|document| document["works"]["dials.0"]["stage"] == "failed");
    assert_problem(&ask("dials.0/messages/Turn", "8"), 409, "has failed");
    served.stop();
}

/// An ask that fails because Works wait for each other is counted in the metrics and shown with its node.
fn cycle_of_asks_is_counted() {
    let served = serve();
    let answer = post(served.address, "/api/v1/works/dials.0/messages/Call", "[\"dials.1\", \"dials.0\"]");
    let cycle = answer.json();
    let is_either = cycle == json!(["dials.0", "dials.1", "dials.0"]);
    assert!(is_either || cycle == json!(["dials.1", "dials.0", "dials.1"]), "{cycle}");
    let metrics = get(served.address, "/metrics").body;
    assert!(metrics.contains("\nflowright_ask_deadlocks_total{node=\"head\"} 1\n"), "{metrics}");
    assert_eq!(served.get("/api/v1/nodes")["head"]["deadlocks"], 1);
    served.stop();
}

/// A question whose client has closed its connection is dropped from the mailbox long before its timeout, and counted,
/// also as a dead letter of its Work.
fn question_of_a_client_that_has_gone_is_dropped() {
    let served = serve();
    let send = |message: &str, body: &str| {
        let mut stream = connect(served.address);
        let path = format!("/api/v1/works/dials.1/messages/{message}?timeout=3600");
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            served.address
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).expect("the server listens");
        stream
    };
    let waiting = || served.get("/api/v1/works/dials.1")["mailbox"]["waiting"].as_u64();
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + LIMIT;
        while !is_so() {
            assert!(std::time::Instant::now() < deadline, "never happened: {what}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    };
    let abandoned = || {
        let metrics = get(served.address, "/metrics").body;
        let counted = metrics
            .lines()
            .find_map(|line| line.strip_prefix("flowright_questions_abandoned_total{node=\"head\"} "));
        counted.and_then(|counted| counted.parse::<u64>().ok()).expect("the metric is shown")
    };
    let before = abandoned();
    // The handler of the first never ends.
    let hanging = [send("Hang", "null"), send("Hang", "null")];
    until("one waits for the other", &|| waiting() == Some(1));
    let gone: Vec<_> = (0..3).map(|value| send("Turn", &value.to_string())).collect();
    until("all wait behind it", &|| waiting() == Some(4));
    drop(gone);
    until("they are dropped", &|| waiting() == Some(1));
    // Others of this process may be counted as well.
    until("the abandoned questions are counted", &|| abandoned() >= before + 3);
    let letters = get(served.address, "/metrics").body;
    let letters = letters.lines().find_map(|line| {
        line.strip_prefix("flowright_dead_letters_total{work=\"dials.1\",reason=\"abandoned\"} ")
    });
    assert_eq!(letters, Some("3"));
    assert_eq!(served.get("/api/v1/works/dials.1")["mailbox"]["dead_letters"], 3);
    // The handler that has begun sees that its client has gone.
    drop(hanging);
    served.wait_for(|document| document["state"]["dials"][1]["value"] == ABANDONED);
    served.stop();
}

/// A message or input whose `Deserialize` panics, and an answer whose `Serialize` does.
struct Trap;

impl Serialize for Trap {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        panic!("a trap")
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        panic!("a trap")
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Trapped {
    handled: u32,
}

impl Work for Trapped {
    type Input = Trap;

    async fn run(&mut self, _: Trap, _cx: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Give>().accept::<Take>();
    }
}

#[derive(Serialize, Deserialize)]
struct Give(Trap);

impl Handle<Give> for Trapped {
    type Reply = ();

    async fn handle(&mut self, _: Give, _cx: &mut WorkContext<Self>) {}
}

#[derive(Serialize, Deserialize)]
struct Take;

impl Handle<Take> for Trapped {
    type Reply = Trap;

    async fn handle(&mut self, _: Take, cx: &mut WorkContext<Self>) -> Trap {
        self.handled += 1;
        cx.publish(self);
        Trap
    }
}

#[derive(Default, Serialize, Children)]
struct Traps {
    trapped: WorkRef<Trapped>,
}

impl Flow for Traps {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.trapped.start();
        Ok(())
    }
}

/// A panic in serde code that JSON goes through is the failure of that question: 422 before the handler, 502 after it.
fn panics_of_serde_code_in_json_are_the_questions_failure() {
    let served = serve_flow(Traps::default);
    for handled in 1..=2 {
        let give = post(served.address, "/api/v1/works/trapped/messages/Give", "1");
        assert_problem(&give, 422, "panicked: a trap");
        let rerun = post(served.address, "/api/v1/works/trapped/rerun", &json!({ "input": 1 }).to_string());
        assert_problem(&rerun, 422, "panicked: a trap");
        let take = post(served.address, "/api/v1/works/trapped/messages/Take", "null");
        assert_problem(&take, 502, "panicked: a trap");
        served.wait_for(|document| document["state"]["trapped"]["handled"] == handled);
    }
    served.stop();
}

/// A Flow that requests a run in each reaction, as Flows do; with `lifts` it releases a Work that was stopped from
/// outside.
#[derive(Default, Serialize, Children)]
struct Stubborn {
    dial: WorkRef<Dial>,
    beat: WorkRef<Dial>,
    lifts: bool,
    lifted: u32,
}

impl Flow for Stubborn {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.dial.run(self.beat.value);
        self.dial.start();
        if self.lifts && self.dial.is_held() {
            self.lifted += 1;
            self.dial.release();
        }
        Ok(())
    }
}

/// However often the Flow requests runs, a Work that an operator has stopped stays stopped until an operator starts it;
/// the operator and the time are shown.
fn stop_of_an_operator_holds_against_its_flow() {
    let served = serve_flow(Stubborn::default);
    let dial = |document: &Json| document["works"]["dial"].clone();
    served.wait_for(|document| dial(document)["stage"] == "succeeded");
    served.act("/api/v1/works/dial/stop?by=alice%1b", "");
    let held = dial(&served.wait_for(|document| dial(document)["is_up"] == false));
    assert_eq!(held["held"]["by"], "alice\\u{1b}");
    assert!(held["held"]["since"].is_string(), "{held}");
    // New inputs, and messages to another Work: the Flow reacts, and its requests have no effect.
    for value in 10..20 {
        assert_eq!(post(served.address, "/api/v1/works/beat/messages/Turn", &value.to_string()).status, 200);
        served.wait_for(|document| document["state"]["beat"]["value"] == value);
        assert_eq!(dial(&served.get("/api/v1/status"))["is_up"], false);
    }
    served.act("/api/v1/works/dial/start", "");
    // The last input was requested without effect until now.
    served.wait_for(|document| document["state"]["dial"]["value"] == 19 && dial(document)["held"].is_null());
    served.act("/api/v1/works/dial/stop", "");
    let held = dial(&served.wait_for(|document| dial(document)["is_up"] == false));
    assert_eq!(held["held"]["by"], "a client at 127.0.0.1");
    served.act("/api/v1/works/dial/restart", "");
    served.wait_for(|document| dial(document)["is_up"] == true && dial(document)["held"].is_null());
    let long = format!("/api/v1/works/dial/stop?by={}", "x".repeat(101));
    assert_problem(&post(served.address, &long, ""), 400, "100");
    served.stop();
}

/// The Flow can lift the stop of an operator, by the method for that.
fn flow_releases_what_an_operator_has_stopped() {
    let served = serve_flow(|| Stubborn { lifts: true, ..Stubborn::default() });
    served.wait_for(|document| document["works"]["dial"]["stage"] == "succeeded");
    served.act("/api/v1/works/dial/stop", "");
    let document = served
        .wait_for(|document| document["state"]["lifted"] == 1 && document["works"]["dial"]["is_up"] == true);
    assert!(document["works"]["dial"]["held"].is_null(), "{document}");
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
    // The Flow requests the input, so that it runs once more.
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
        assert_problem(&rerun(list), 422, "not of the expected form");
    }
    for query in ["page=0", "per_page=201", "page=x", "pages=1", "page=1&page=2"] {
        assert_problem(&get(served.address, &format!("/api/v1/works/dials.0/runs?{query}")), 400, "");
    }
    served.stop();
}

/// A Work that takes nested options as input, message and state, and publishes them.
#[derive(Default, Serialize, Deserialize)]
struct Options {
    last: Nested,
}

type Nested = Option<Option<Option<u8>>>;

impl Work for Options {
    type Input = Nested;

    async fn run(&mut self, input: Nested, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.last = input;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Echo>();
    }
}

#[derive(Serialize, Deserialize)]
struct Echo(Nested);

impl Handle<Echo> for Options {
    type Reply = (Nested, Nested);

    async fn handle(&mut self, Echo(nested): Echo, _cx: &mut WorkContext<Self>) -> (Nested, Nested) {
        (nested, self.last)
    }
}

#[derive(Default, Serialize, Children)]
struct Holder {
    work: WorkRef<Options>,
}

impl Flow for Holder {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

/// The JSON of nested options, in states, answers and the inputs of runs, is accepted as the same values.
fn nested_options_are_told_apart_in_json() {
    let served = serve_flow(Holder::default);
    let all =
        [json!(null), json!({ "$some": null }), json!({ "$some": { "$some": null } }), json!(3), json!(4)];
    for (runs, nested) in (1..).zip(&all) {
        served.act("/api/v1/works/work/rerun", &json!({ "input": nested }).to_string());
        served.wait_for(|document| {
            document["works"]["work"]["runs"]["succeeded"] == json!(runs)
                && document["state"]["work"]["last"] == *nested
        });
        let answer = post(served.address, "/api/v1/works/work/messages/Echo", &nested.to_string());
        assert_eq!((answer.status, answer.json()), (200, json!([nested, nested])));
        assert_eq!(served.get("/api/v1/works/work/runs")["items"][0]["input"], *nested);
        assert_eq!(served.get("/api/v1/state")["state"]["work"]["last"], *nested);
    }
    served.stop();
}

fn a_node_that_is_not_there_cannot_be_sent_away() {
    let served = serve();
    for name in ["nobody", "head"] {
        let answer = post(served.address, &format!("/api/v1/nodes/{name}/drain"), r#"{"why": "no more"}"#);
        assert_problem(&answer, 404, &format!("no node `{name}`"));
    }
    let answer = post(served.address, "/api/v1/nodes/nobody/drain", r#"{"because": "no more"}"#);
    assert_problem(&answer, 422, "because");
    served.stop();
}

fn the_app_is_stopped_with_a_word() {
    let served = serve();
    served.act("/api/v1/app/stop", r#"{"why": "it is late"}"#);
    served.runtime.block_on(served.app.wait()).result.unwrap();
}
