//! Works on a node and in a process of their own, in the API.

use std::io::{Read, Write};
use std::process::Command;

use serde_json::{Value as Json, json};

use crate::http::assert_problem;
use crate::programs;
use crate::support::*;
use crate::tests;

tests![
    works_in_other_processes_are_asked_with_json,
    works_in_other_processes_stream_json,
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

/// Returns the content of a body that is sent in chunks.
fn content(mut chunked: &str) -> String {
    let mut content = String::new();
    while let Some((length, rest)) = chunked.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("the length of a chunk");
        content.push_str(&rest[..length]);
        chunked = &rest[length + 2..];
    }
    content
}

/// Sends a question for a stream, on a connection that is closed after the answer.
fn ask_for_items(
    address: std::net::SocketAddr,
    work: &str,
    accept: &str,
    body: &Json,
) -> std::net::TcpStream {
    let body = body.to_string();
    let head = format!(
        "POST /api/v1/works/{work}/messages/Items HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\n{accept}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = connect(address);
    stream.write_all(head.as_bytes()).expect("the server listens");
    stream
}

/// Streamed replies are lines of JSON or server-sent events, wherever the Work runs. They tell whether they are complete,
/// and end with their clients.
fn works_in_other_processes_stream_json() {
    let echo = spread("echo", &["--place", "server=n", "--place", "train=process"]);
    Events::open(echo.address).until(|document| {
        ["server", "train"].iter().all(|work| document["works"][*work]["stage"] == "succeeded")
    });
    let items = json!([1, "two", { "three": null }]);
    for work in ["server", "train"] {
        let read = |accept: &str, then: &str| {
            let body = json!({ "items": items, "then": then });
            let mut text = String::new();
            let mut stream = ask_for_items(echo.address, work, accept, &body);
            stream.read_to_string(&mut text).expect("it ends");
            let (head, body) = text.split_once("\r\n\r\n").expect("it has a head");
            (head.to_ascii_lowercase(), content(body))
        };
        let (head, lines) = read("", "Finish");
        assert!(head.contains(" 200 ") && head.contains("content-type: application/x-ndjson"), "{head}");
        assert_eq!(lines, "1\n\"two\"\n{\"three\":null}\n", "{work}");
        let (_, lines) = read("Accept: application/x-ndjson\r\n", "Fail");
        let (whole, last) = lines.trim_end().rsplit_once('\n').expect("there are several");
        assert_eq!(whole, "1\n\"two\"\n{\"three\":null}", "{work}");
        let last: Json = serde_json::from_str(last).expect("it is JSON");
        let problem = &last["$error"];
        assert_eq!(problem["status"], 502, "{work}");
        assert_eq!(problem["instance"], format!("/api/v1/works/{work}/messages/Items"));
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains("there are no more"), "{detail}");

        let events = "Accept: text/event-stream\r\n";
        let (head, events_of_all) = read(events, "Finish");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        let data = "data: 1\n\ndata: \"two\"\n\ndata: {\"three\":null}\n\n";
        assert_eq!(events_of_all, format!("{data}event: end\ndata: null\n\n"), "{work}");
        let (_, broken) = read(events, "Fail");
        let problem = broken.strip_prefix(&format!("{data}event: error\ndata: ")).expect("an event `error`");
        let problem: Json = serde_json::from_str(problem).expect("it is JSON");
        assert_eq!(problem["status"], 502, "{work}");

        // A client that hangs up ends the stream, which is counted while it is open.
        let node = if work == "server" { "n" } else { "head" };
        let open = |count: u32| {
            let line = format!("\nflowright_streams_open{{node=\"{node}\"}} {count}");
            let deadline = std::time::Instant::now() + LIMIT;
            while !get(echo.address, "/metrics").body.contains(&line) {
                assert!(std::time::Instant::now() < deadline, "never {count} streams of {work}");
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        };
        let mut waiting = ask_for_items(echo.address, work, "", &json!({ "items": items, "then": "Wait" }));
        let mut read = String::new();
        while !read.ends_with("{\"three\":null}\n") {
            let mut byte = [0];
            waiting.read_exact(&mut byte).expect("it goes on");
            read.push(char::from(byte[0]));
        }
        open(1);
        drop(waiting);
        open(0);
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
        "flowright_streams_open",
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
