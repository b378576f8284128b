//! Works on a node and in a process of their own, in the API.

use std::process::Command;

use serde_json::{Value as Json, json};

use crate::http::assert_problem;
use crate::programs;
use crate::support::*;
use crate::tests;

tests![
    works_in_other_processes_are_asked_with_json,
    nodes_say_how_loaded_they_are_and_how_fast_they_answer,
    what_a_work_logs_elsewhere_has_its_run_and_its_node,
    what_the_process_of_a_work_prints_has_its_run,
];

/// A program with one Work on the node `n`, and that node.
pub(crate) struct Spread {
    head: Process,
    pub(crate) address: std::net::SocketAddr,
    node: Process,
}

pub(crate) fn spread(program: &str, arguments: &[&str]) -> Spread {
    let mut head =
        Process::start(program, &[&["--port", "0", "--listen", "127.0.0.1:0"], arguments].concat());
    let line = head.expect("nodes join at ");
    let (_, join) = line.split_once("nodes join at ").expect("the line has an address");
    let join = join.split([' ', ';', ',']).next().expect("an address");
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary is known"));
    command.env(programs::VARIABLE, program).env_remove("FLOWRIGHT_TOKEN");
    command.args(["node", "--join", join, "--name", "n"]);
    let node = Process::start_command(command);
    let address = head.address();
    Spread { head, address, node }
}

impl Spread {
    pub(crate) fn end(mut self) {
        self.head.signal("TERM");
        self.head.end();
        self.node.expect("over");
    }
}

fn works_in_other_processes_are_asked_with_json() {
    let places = ["--place", "server=n", "--place", "train=process"];
    let echo = spread("echo", &places);
    Events::open(echo.address).until(|document| {
        ["server", "train"].iter().all(|work| document["works"][*work]["stage"] == "succeeded")
    });
    let works = get(echo.address, "/api/v1/status").json()["works"].clone();
    assert_eq!((&works["server"]["node"], &works["train"]["node"]), (&json!("n"), &json!("head")));
    assert_eq!(works["train"]["placement"], "process");
    let body = json!({ "texts": ["a", "ä"], "numbers": [1, -2, 2.5, null, true] });
    for work in ["server", "train"] {
        let ask = |message: &str, body: &str| {
            post(echo.address, &format!("/api/v1/works/{work}/messages/{message}"), body)
        };
        let answer = ask("Predict", &body.to_string());
        assert_eq!((answer.status, answer.json()), (200, body.clone()), "{work}");
        // The second is answered after its handler has returned.
        for check in ["Check", "CheckLater"] {
            let checked = ask(check, "2.5");
            assert_eq!((checked.status, checked.json()), (200, json!(2.5)), "{work}");
            let refused = ask(check, r#"{"refused":"m"}"#);
            assert_problem(
                &refused,
                422,
                "has handled the message, and answered with an error: {\"refused\":\"m\"}",
            );
            assert_eq!(refused.json()["error"], json!({ "refused": "m" }), "{work}");
        }
        assert_eq!(ask("Refuse", "200").status, 200, "{work}");
        // An error that says no status of an error has 500.
        for (says, status) in
            [(404, 404), (429, 429), (503, 503), (418, 418), (301, 500), (99, 500), (0, 500)]
        {
            let refused = ask("Refuse", &says.to_string());
            assert_problem(&refused, status, "answered with an error");
            assert_eq!(refused.json()["error"], json!({ "says": says }), "{work}");
        }
        assert_problem(&ask("CheckLater", r#"{"dropped":true}"#), 502, "dropped the deferred reply");
        assert_problem(&ask("Predicct", "1"), 404, "no message `Predicct`");
        assert_problem(&ask("Predict", "{"), 400, "not valid JSON");
        // The message was handled: no answer may suggest to send it again.
        let large = ask("Repeat", "17000000");
        assert_problem(&large, 502, "has handled the message");
        assert_problem(&large, 502, "the limit is 16777216 bytes; send large values as a `Payload`");
    }
    echo.end();
}

fn nodes_say_how_loaded_they_are_and_how_fast_they_answer() {
    let service = spread("service", &["--place", "first=n"]);
    let mut events = Events::open(service.address);
    let document = events.until(|document| {
        let node = &document["nodes"]["n"];
        node["round_trip"].is_number() && node["works"] == json!(["first"])
    });
    for name in ["head", "n"] {
        let node = &document["nodes"][name];
        let is_there = |value: &Json| value.as_f64().is_some_and(|number| number >= 0.0);
        assert!(node["load"]["memory"].as_u64() > Some(1 << 20), "{name}: {node}");
        assert!(is_there(&node["load"]["cpus"]) && is_there(&node["load"]["average"]), "{name}: {node}");
        let none = json!({ "memory": 0, "disk": 0, "hits": 0, "pulls": 0, "spills": 0 });
        assert_eq!(node["payloads"], none, "{name}");
    }
    assert_eq!(document["nodes"]["head"]["round_trip"], Json::Null);
    let nodes = get(service.address, "/api/v1/nodes").json();
    assert!(nodes["n"]["round_trip"].as_f64() > Some(0.0), "{nodes}");
    let numbers = get(service.address, "/metrics").body;
    for family in [
        "flowright_node_busy_cpus",
        "flowright_node_memory_bytes",
        "flowright_bridge_round_trip_seconds",
        "flowright_bridge_sent_bytes_total",
        "flowright_bridge_resends_total",
        "flowright_payload_hits_total",
        "flowright_payload_spills_total",
        "flowright_messages_lost_total",
    ] {
        assert!(numbers.contains(&format!("\n{family}{{node=\"n\"}} ")), "{family} is not in\n{numbers}");
    }
    service.end();
}

fn what_a_work_logs_elsewhere_has_its_run_and_its_node() {
    let service = spread("service", &["--place", "first=n", "--place", "second=process"]);
    let said = |work: &str| {
        let logs = get(service.address, &format!("/api/v1/logs?work={work}&level=warn")).json();
        logs["items"].as_array().expect("an array").clone()
    };
    for (work, node) in [("first", "n"), ("second", "head")] {
        let line = loop {
            let warning = said(work).into_iter().find(|line| line["text"] == "a warning");
            if let Some(line) = warning {
                break line;
            }
        };
        assert_eq!((&line["run"], &line["node"]), (&json!(1), &json!(node)), "{work}: {line}");
    }
    service.end();
}

fn what_the_process_of_a_work_prints_has_its_run() {
    let mut process = Process::start("printer", &["--port", "0", "--place", "printer=process"]);
    let address = process.address();
    // Lines that were shown are kept as well.
    process.expect("ink 20");
    let shown = process.expect("last of 20");
    assert!(!shown.contains('\x1b'), "{shown:?}");
    let logs = get(address, "/api/v1/logs?work=printer").json();
    let lines = logs["items"].as_array().expect("an array");
    let run_of = |text: &str| {
        let line = lines.iter().find(|line| line["text"] == text);
        line.unwrap_or_else(|| panic!("{text} is not in {lines:#?}"))["run"].clone()
    };
    assert_eq!(run_of("before all"), Json::Null);
    let runs = get(address, "/api/v1/works/printer/runs").json();
    for number in 1..=20 {
        let runs = runs["items"].as_array().expect("an array");
        let run = runs.iter().find(|run| run["input"] == number).expect("the input has run")["run"].clone();
        assert!(run.is_u64(), "{run}");
        for text in [format!("page {number}"), format!("ink {number}"), format!("last of {number}")] {
            assert_eq!(run_of(&text), run, "{text}");
        }
    }
    process.signal("TERM");
    process.end();
}
