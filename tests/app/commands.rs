//! Commands for a running App, through the binary of a program.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};

use serde_json::{Value as Json, json};

use crate::programs;
use crate::support::*;
use crate::tests;

tests![
    the_status_is_a_table_or_json,
    a_state_is_shown_whole_or_in_part,
    the_graph_and_the_nodes_are_shown,
    runs_are_listed_with_their_inputs_and_errors,
    runs_are_listed_with_their_outputs,
    a_message_is_answered,
    items_of_a_stream_are_lines,
    a_work_is_stopped_restarted_and_run_again,
    work_stopped_by_command_stays_stopped_until_started,
    a_run_that_fails_is_the_failure_of_the_command,
    the_log_of_a_work_is_shown_and_followed,
    watching_ends_with_the_app,
    an_app_is_stopped,
    nothing_that_listens_is_told_with_what_to_do,
    an_unknown_work_is_told_with_those_that_are_near,
    what_is_written_wrong_is_told_before_anything_is_asked,
    top_needs_a_terminal,
    shells_get_completions,
    commands_refuse_the_app_of_another_program,
    commands_print_nothing_that_drives_a_terminal,
    errors_of_servers_are_printed_safely,
];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary is known"));
    command.env(programs::VARIABLE, "desk").env("NO_COLOR", "1").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the test's own binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("valid UTF-8")
}

/// A running `desk` whose first run is over.
pub(crate) struct App {
    process: Process,
    url: String,
    /// The program whose commands are called.
    program: &'static str,
}

pub(crate) fn desk() -> App {
    let mut process = Process::start("desk", &["--port", "0"]);
    let address = process.address();
    process.expect("the total is 7");
    let app = App { process, url: address.to_string(), program: "desk" };
    // The line is logged before the run is over.
    while app.json(&["status"])["works"]["adder"]["stage"] != "succeeded" {
        std::thread::yield_now();
    }
    app
}

impl App {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = command(&[arguments, &["--url", &self.url]].concat());
        command.env(programs::VARIABLE, self.program).output().expect("the test's own binary starts")
    }

    #[track_caller]
    fn shown(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Json {
        let shown = self.shown(&[arguments, &["--json"]].concat());
        serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"))
    }

    #[track_caller]
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }
}

fn the_status_is_a_table_or_json() {
    let app = desk();
    let shown = app.shown(&["status"]);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].contains("running") && lines[0].contains("reactions"), "{shown}");
    assert!(lines.iter().any(|line| line.starts_with("WORK") && line.contains("MAILBOX")), "{shown}");
    let adder = lines.iter().find(|line| line.starts_with("adder")).expect("the table has the Work");
    for part in ["succeeded", "head", "1 ok", "0/"] {
        assert!(adder.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert_eq!(app.json(&["status"])["works"]["adder"]["runs"]["succeeded"], 1);
}

fn a_state_is_shown_whole_or_in_part() {
    let app = desk();
    assert_eq!(app.shown(&["state"]), "adder:\n  total: 7\n");
    assert_eq!(app.shown(&["state", "adder.total"]), "7\n");
    assert_eq!(app.json(&["state", "adder"]), json!({ "total": 7 }));
    let error = app.refused(&["state", "adder.totall"]);
    assert!(error.contains("adder.totall"), "{error}");
}

fn the_graph_and_the_nodes_are_shown() {
    let app = desk();
    let graph = app.shown(&["graph"]);
    assert!(graph.contains("Desk") && graph.contains("└─ adder (Adder) succeeded on head"), "{graph}");
    let nodes = app.shown(&["nodes"]);
    let head = nodes.lines().find(|line| line.starts_with("head")).expect("the table has the head");
    assert!(nodes.starts_with("NODE") && head.contains(" cpus, ") && head.contains(" MB"), "{nodes}");
    assert_eq!(app.json(&["nodes"])["head"]["is_head"], true);
}

fn runs_are_listed_with_their_inputs_and_errors() {
    let app = desk();
    app.refused(&["rerun", "adder", "-8"]);
    let runs = app.shown(&["runs", "adder"]);
    let lines: Vec<_> = runs.lines().collect();
    assert!(lines[1].contains("failed") && lines[1].contains("7 and -8 is less than nothing"), "{runs}");
    assert!(lines[2].contains("succeeded") && lines[2].contains(" 7"), "{runs}");
    let limited = app.shown(&["runs", "adder", "--limit", "1"]);
    assert!(limited.contains("and 1 older ones"), "{limited}");
    let runs = app.json(&["runs", "adder"]);
    assert_eq!(runs["items"][0]["input"], -8);
    assert!(runs["items"][0].get("output").is_none(), "a failed run has no output: {runs}");
}

fn runs_are_listed_with_their_outputs() {
    let app = desk();
    app.shown(&["rerun", "adder", "5"]);
    let runs = app.shown(&["runs", "adder"]);
    let lines: Vec<_> = runs.lines().collect();
    assert!(lines[0].contains("INPUT") && lines[0].contains("OUTPUT"), "{runs}");
    assert!(lines[1].contains(r#"{"total":12}"#) && lines[2].contains(r#"{"total":7}"#), "{runs}");
    assert_eq!(app.json(&["runs", "adder"])["items"][0]["output"], serde_json::json!({ "total": 12 }));
}

fn a_message_is_answered() {
    let app = desk();
    assert_eq!(app.shown(&["ask", "adder", "Add", "5"]), "12\n");
    assert_eq!(app.shown(&["state", "adder.total"]), "12\n");
    let error = app.refused(&["ask", "adder", "Add", "-13"]);
    assert!(error.contains("answered with an error: 12 and -13 is less than nothing"), "{error}");
    let error = app.refused(&["ask", "adder", "Subtract", "5"]);
    assert!(error.contains("Add"), "{error}");
    let error = app.refused(&["ask", "adder", "Add", "\"five\""]);
    assert!(error.starts_with("error: "), "{error}");
}

/// The items of a stream are lines, and the error of one that is not complete fails the command.
fn items_of_a_stream_are_lines() {
    let app = desk();
    assert_eq!(app.shown(&["ask", "adder", "Count", "3"]), "0\n1\n2\n");
    assert_eq!(app.shown(&["ask", "adder", "Count", "0"]), "");
    let output = app.run(&["ask", "adder", "Count", "-3"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), "0\n"));
    let error = text(&output.stderr);
    assert!(error.contains("-3 is less than nothing"), "{error}");
}

fn a_work_is_stopped_restarted_and_run_again() {
    let app = desk();
    let shown = app.shown(&["stop", "adder"]);
    assert!(shown.starts_with("stopping adder…\nadder has stopped"), "{shown}");
    assert_eq!(app.json(&["status"])["works"]["adder"]["is_up"], false);
    let shown = app.shown(&["restart", "adder"]);
    assert!(shown.contains("adder has been restarted"), "{shown}");
    assert_eq!(app.json(&["status"])["works"]["adder"]["is_up"], true);
    // The Work continues from its last state.
    let shown = app.shown(&["rerun", "adder", "7"]);
    assert!(shown.contains("of adder has succeeded"), "{shown}");
    assert_eq!(app.shown(&["state", "adder.total"]), "14\n");
    let shown = app.shown(&["rerun", "adder", "1", "--no-wait", "--json"]);
    assert_eq!(serde_json::from_str::<Json>(&shown).unwrap(), json!({ "accepted": true }));
}

/// A Flow that requests a run in each reaction does not override a stop by command; the stop completes and is shown.
fn work_stopped_by_command_stays_stopped_until_started() {
    let mut process = Process::start("service", &["--port", "0"]);
    let app = App { url: process.address().to_string(), process, program: "service" };
    while app.json(&["status"])["works"]["first"]["stage"] != "running" {
        std::thread::yield_now();
    }
    assert!(app.shown(&["stop", "first"]).contains("first has stopped"));
    // The Flow reacts to this restart as well.
    assert!(app.shown(&["restart", "second"]).contains("second has been restarted"));
    let status = app.shown(&["status"]);
    let first = status.lines().find(|line| line.starts_with("first")).expect("the Work is listed");
    assert!(
        first.contains("stopped") && first.contains("stopped by ") && first.contains("until `start`"),
        "{status}"
    );
    assert!(app.shown(&["start", "first"]).contains("first has been started"));
    while app.json(&["status"])["works"]["first"]["stage"] != "running" {
        std::thread::yield_now();
    }
    assert!(app.json(&["status"])["works"]["first"]["held"].is_null());
}

fn a_run_that_fails_is_the_failure_of_the_command() {
    let app = desk();
    let error = app.refused(&["rerun", "adder", "-100"]);
    assert!(error.contains("of adder has failed: 7 and -100 is less than nothing"), "{error}");
}

fn the_log_of_a_work_is_shown_and_followed() {
    let app = desk();
    let shown = app.shown(&["logs", "adder"]);
    assert!(shown.contains("INFO  adder: the total is 7"), "{shown}");
    assert_eq!(app.shown(&["logs", "adder", "--level", "error"]), "");
    let item: Json =
        serde_json::from_str(app.shown(&["logs", "adder", "--json"]).lines().next().unwrap()).unwrap();
    assert_eq!(item["work"], "adder");
    let mut following = Process::start_command(command(&["logs", "adder", "-f", "--url", &app.url]));
    following.expect("the total is 7");
    app.shown(&["rerun", "adder", "2"]);
    following.expect("the total is 9");
    app.process.signal("INT");
    assert_eq!(following.end().0, Some(0));
}

fn watching_ends_with_the_app() {
    let app = desk();
    let mut watching =
        Process::start_command(command(&["state", "adder.total", "--watch", "--url", &app.url]));
    watching.expect("out| 7");
    app.shown(&["ask", "adder", "Add", "5"]);
    watching.expect("out| 12");
    app.process.signal("INT");
    assert_eq!(watching.end().0, Some(0));
}

fn an_app_is_stopped() {
    let app = desk();
    let shown = app.shown(&["stop"]);
    assert!(shown.starts_with("stopping the App…\nthe App has stopped"), "{shown}");
    assert_eq!(app.process.end().0, Some(0));
}

fn nothing_that_listens_is_told_with_what_to_do() {
    let free: SocketAddr =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    for arguments in [&["status"][..], &["logs", "-f"], &["ask", "a", "B", "1"], &["stop"]] {
        let output = run(&[arguments, &["--url", &free.to_string()]].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        for part in [&format!("no App answers at {free}"), "nothing listens there", "start it", "--url"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

fn an_unknown_work_is_told_with_those_that_are_near() {
    let app = desk();
    for arguments in [
        &["runs", "ader"][..],
        &["stop", "ader"],
        &["restart", "ader"],
        &["rerun", "ader", "1"],
        &["ask", "ader", "Add", "1"],
        &["logs", "ader"],
    ] {
        let error = app.refused(arguments);
        assert!(error.contains("there is no Work \"ader\"; did you mean `adder`?"), "{arguments:?}: {error}");
    }
}

fn what_is_written_wrong_is_told_before_anything_is_asked() {
    for (arguments, part) in [
        (&["ask", "adder", "Add", "text"][..], "'\"text\"'"),
        (&["status", "--url", "nowhere"], "HOST:PORT"),
        (&["status", "--url", "https://127.0.0.1:1"], "HOST:PORT"),
        (&["status", "--token-file", "/nowhere/token"], "/nowhere/token"),
        (&["logs", "--since", "yesterday"], "10m"),
        (&["logs", "--level", "loud"], "debug"),
        (&["ask", "adder", "Add", "1", "--timeout", "0"], "2.5"),
    ] {
        let output = run(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}

fn top_needs_a_terminal() {
    let app = desk();
    let error = app.refused(&["top"]);
    assert!(error.contains("status --watch"), "{error}");
}

fn shells_get_completions() {
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let output = run(&["completions", shell]);
        let script = text(&output.stdout);
        assert!(
            output.status.success() && script.contains(part) && script.contains("payloads"),
            "{shell}: {script}"
        );
    }
}

/// The App at the default port may be another program's: commands neither stop nor show it without `--any-app`.
fn commands_refuse_the_app_of_another_program() {
    let mut process = Process::start("clerk", &["--port", "0"]);
    let app = App { url: process.address().to_string(), process, program: "desk" };
    for arguments in
        [&["stop"][..], &["stop", "clerk"], &["status"], &["top"], &["ask", "a", "B", "1"], &["logs"]]
    {
        let error = app.refused(arguments);
        for part in ["Office`", "Desk`", "--any-app", "--url"] {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
    assert!(app.shown(&["status", "--any-app"]).contains("running"));
    assert!(app.shown(&["stop", "--any-app"]).contains("the App has stopped"));
    assert_eq!(app.process.end().0, Some(0));
}

/// True if the text has characters that control a terminal, or change the order of the text.
fn drives_a_terminal(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t') || c == '\u{202e}')
}

/// Names, errors, states, inputs and logs of Works are shown with their control characters escaped; JSON keeps their
/// values.
fn commands_print_nothing_that_drives_a_terminal() {
    let mut process = Process::start("rude", &["--port", "0"]);
    let app = App { url: process.address().to_string(), process, program: "rude" };
    while app.json(&["status"])["works"]["rude"]["stage"] != "failed" {
        std::thread::yield_now();
    }
    for arguments in [
        &["status"][..],
        &["state"],
        &["graph"],
        &["nodes"],
        &["runs", "rude"],
        &["payloads"],
        &["topics"],
        &["logs"],
        &["logs", "rude"],
    ] {
        for form in [&[][..], &["--json"]] {
            let shown = app.shown(&[arguments, form].concat());
            assert!(!drives_a_terminal(&shown), "{arguments:?} {form:?}: {shown:?}");
        }
    }
    let answer = app.shown(&["ask", "rude", "Say", &json!(programs::RUDE).to_string()]);
    assert!(!drives_a_terminal(&answer), "{answer:?}");
    assert_eq!(serde_json::from_str::<Json>(&answer).expect("the answer is JSON"), json!(programs::RUDE));
    assert_eq!(
        app.json(&["state", "rude"])["said"][programs::RUDE],
        json!(format!("{0}\n{0}", programs::RUDE))
    );
    assert!(app.shown(&["status"]).contains("clear\\u{1b}[2J\\u{9b}31m"), "it is shown, and not left out");
    let failed = app.refused(&["rerun", "rude", &json!(programs::RUDE).to_string()]);
    assert!(failed.contains("clear\\u{1b}") && !drives_a_terminal(&failed), "{failed:?}");
    app.process.signal("INT");
    // The log of the App on its own terminal.
    let (_, lines) = app.process.end();
    assert!(lines.iter().any(|line| line.contains("clear\\u{1b}")), "{lines:#?}");
    assert!(!lines.iter().any(|line| drives_a_terminal(line)), "{lines:#?}");
}

/// Text from a server that is no App reaches the terminal escaped.
fn errors_of_servers_are_printed_safely() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("the socket has an address").to_string();
    let problem =
        json!({ "title": programs::RUDE, "detail": programs::RUDE, "known": [programs::RUDE] }).to_string();
    let wrong =
        json!({ "app": programs::RUDE, "works": programs::RUDE, "items": programs::RUDE }).to_string();
    let head = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    };
    let answers = [
        head("400 Bad", &problem),
        head("200 OK", &wrong),
        head("200 OK", programs::RUDE),
        head("500 \u{9b}31m", ""),
    ];
    let serving = answers.clone();
    std::thread::spawn(move || {
        // Each answer in turn, four times.
        for answer in serving.iter().flat_map(|answer| std::iter::repeat_n(answer, 4)) {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    for _ in &answers {
        for arguments in [&["status"][..], &["nodes"], &["runs", "a"], &["stop"]] {
            let output = run(&[arguments, &["--url", &address]].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(!said.is_empty() && !drives_a_terminal(&said), "{arguments:?}: {said:?}");
        }
    }
}
