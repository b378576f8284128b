//! Fleets: nodes that an engine starts because Works wait for them. The engine starts processes on this machine.

use std::process::Command;
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, Placement, Selector};
use serde_json::{Value as Json, json};

use crate::held::children_of;
use crate::lab::{Lab, Suite, Task};
use crate::support::{Process, has_ended, lab, program, signal, start_app_with, times, until};

crate::tests![
    work_that_waits_gets_a_node_that_leaves_when_idle,
    node_that_is_killed_is_replaced,
    node_leaves_before_the_time_limit,
    least_number_of_nodes_is_kept,
    nodes_end_with_their_app,
    node_that_cannot_start_is_told_in_the_status,
    need_that_no_group_has_is_told_in_the_status,
    head_that_is_killed_leaves_no_node,
    fleet_is_steered_by_commands,
];

#[cfg(feature = "journal")]
pub(crate) const WITH_JOURNAL: &[(&str, fn())] =
    &[("fleet::head_started_again_adopts_nodes", head_started_again_adopts_nodes)];

/// A node that has had no head for so long ends.
const WITHOUT_HEAD: Duration = Duration::from_secs(3);

/// Returns a configuration with one group, which is called `here`.
fn group(settings: Json) -> Config {
    let mut group = json!({ "engine": "process", "without_head": "3s", "drain": "5s", "idle": "60s" });
    group
        .as_object_mut()
        .expect("it is an object")
        .append(settings.as_object().cloned().as_mut().expect("so is this"));
    let config = serde_json::from_value(json!({ "fleet": { "here": group } }));
    times(500, 30_000).or(config.expect("the configuration is valid"))
}

/// Returns a Work that needs a processor of any node.
fn anywhere() -> WorkRef<Lab> {
    lab(Placement::Node(Selector::any())).needs(Resources::cpus(1))
}

/// A Flow whose `a` publishes on any node without a pause.
fn chatter() -> Suite {
    Suite::new(anywhere(), lab(Placement::Thread), |suite, _| {
        suite.a.run(Task::Chatter);
        Ok(())
    })
}

fn start(settings: Json, make: impl FnOnce() -> Suite + Send + 'static) -> TestApp {
    start_app_with(make, |app| app.config(group(settings)))
}

/// The program of a head that is killed.
pub(crate) fn program_with_a_fleet() -> App {
    App::new(chatter).config(group(json!({ "nodes": "0..1" }))).process(|| Ok(program("fleet")))
}

/// Returns the names of the nodes.
fn nodes(app: &TestApp) -> Vec<String> {
    app.status().nodes.into_keys().collect()
}

/// Waits until `a` runs in a process, other than `before`, and returns that process.
fn process_of_a(app: &TestApp, before: u32) -> u32 {
    app.wait_for_state("a.process", |process: &u32| *process != 0 && *process != before)
}

/// Nothing is started before a Work waits; its node has the label of the group, and ends once it is idle.
fn work_that_waits_gets_a_node_that_leaves_when_idle() {
    let app = start(json!({ "idle": "200ms", "labels": { "zone": "west" } }), || {
        let a = lab(Placement::Node(Selector::label("zone", "west"))).needs(Resources::cpus(1));
        Suite::new(a, lab(Placement::Thread), |suite, _| {
            if suite.a.run(Task::Count(3)).poll().is_some() {
                suite.a.stop();
            }
            Ok(())
        })
    });
    let node = app.wait_for_state("a", |a: &Lab| a.count == 3);
    until("the end of the node", || nodes(&app).is_empty() && has_ended(node.process));
    assert_ne!(node.process, std::process::id());
    app.stop().result.expect("it stops");
}

fn node_that_is_killed_is_replaced() {
    let app = start(json!({ "nodes": "0..1" }), chatter);
    let first = process_of_a(&app, 0);
    assert!(nodes(&app)[0].starts_with("here-"), "{:?}", nodes(&app));
    assert_eq!(app.status().nodes[&nodes(&app)[0]].labels["fleet"], "here");
    signal(first, "KILL");
    let second = process_of_a(&app, first);
    assert!(!has_ended(second));
    app.stop().result.expect("it stops");
    until("the end of the node", || has_ended(second));
}

/// The Work stops in good order before the limit, and continues on another node in the same attempt.
fn node_leaves_before_the_time_limit() {
    let app = start(json!({ "time": "8s", "drain": "5s", "nodes": "0..2" }), chatter);
    let first = process_of_a(&app, 0);
    // On a busy machine, the second node may have left as well.
    let a: Lab = app.wait_for_state("a", |a: &Lab| a.process != first && a.lives >= 2);
    assert!(a.stopped + 1 >= a.lives, "it was stopped in good order: {a:?}");
    until("the end of the first node", || has_ended(first));
    app.wait_for_work("a", |work| {
        let status = &work.status;
        assert!(status.attempt <= 1, "moving is no failure: {status:?}");
        status.stage == Stage::Running && status.message.is_none()
    });
    app.stop().result.expect("it stops");
}

fn least_number_of_nodes_is_kept() {
    let app = start(json!({ "nodes": "2..3", "idle": "100ms" }), || {
        Suite::new(lab(Placement::Thread), lab(Placement::Thread), |_, _| Ok(()))
    });
    until("two nodes", || nodes(&app).len() == 2);
    let first = nodes(&app);
    app.block_on(app.control().drain(&first[0], "it is tried")).expect("the App runs");
    until("another node", || nodes(&app).len() == 2 && nodes(&app) != first);
    app.stop().result.expect("it stops");
}

/// All nodes have ended when the end of the App is reported.
fn nodes_end_with_their_app() {
    let app = start(json!({ "nodes": "2..2", "brings": { "cpus": 1 } }), chatter);
    until("two nodes", || nodes(&app).len() == 2);
    process_of_a(&app, 0);
    let started: Vec<_> =
        children_of(std::process::id()).into_iter().filter(|process| !has_ended(*process)).collect();
    assert_eq!(started.len(), 2);
    app.stop().result.expect("it stops");
    assert!(started.iter().all(|process| has_ended(*process)), "{started:?}");
}

/// The status of the Work shows the last lines of the program that failed.
fn node_that_cannot_start_is_told_in_the_status() {
    let app = start_app_with(chatter, |app| {
        let fails = || {
            let mut command = Command::new("sh");
            command.args(["-c", "echo there is no driver for the device >&2; exit 3", "sh"]);
            Ok(command)
        };
        app.config(group(json!({ "nodes": "0..1" }))).process(fails)
    });
    let status = app.wait_for_work("a", |work| {
        let message = work.status.message.as_deref().unwrap_or_default();
        message.contains("there is no driver for the device") && message.contains("next try")
    });
    let message = status.status.message.expect("the loop has seen it");
    assert!(message.contains("group `here` has failed 2 times"), "{message}");
    app.stop().result.expect("it stops");
}

fn need_that_no_group_has_is_told_in_the_status() {
    let app = start(json!({ "brings": { "cpus": 2 } }), || {
        let a = lab(Placement::Node(Selector::any())).needs(Resources::cpus(3));
        Suite::new(a, lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Serve);
            Ok(())
        })
    });
    app.wait_for_work("a", |work| {
        let message = work.status.message.as_deref().unwrap_or_default();
        message.contains("group `here` brings 2 cpus") && message.contains("less than 3 cpus")
    });
    assert_eq!(nodes(&app), Vec::<String>::new());
    app.stop().result.expect("it stops");
}

/// Starts the program with a fleet, and returns it with the process of its node.
fn head_with_a_node(arguments: &[&str]) -> (Process, u32) {
    let mut command = program("fleet");
    command.args(["--open-ui=false", "--port", "0"]).args(arguments);
    let mut head = Process::start(command);
    head.expect("has joined");
    let node = children_of(head.id())[0];
    (head, node)
}

fn head_that_is_killed_leaves_no_node() {
    let (head, node) = head_with_a_node(&[]);
    head.signal("KILL");
    let killed = Instant::now();
    head.end();
    until("the end of the node", || has_ended(node));
    assert!(killed.elapsed() <= WITHOUT_HEAD + Duration::from_secs(5), "{:?}", killed.elapsed());
}

/// A head with a journal finds the node of the one before and its Work, and requests no other one.
#[cfg(feature = "journal")]
fn head_started_again_adopts_nodes() {
    let directory = std::env::temp_dir().join(format!("flowright-fleet-{}", std::process::id()));
    let address = crate::support::free_address();
    let journal = directory.display().to_string();
    let arguments = ["--listen", &address, "--journal", &journal, "--fleet-set", "without_head=60s"];
    let arguments = [&arguments[..], &["--fleet", "process", "--fleet-set", "nodes=0..1"]].concat();
    let (head, node) = head_with_a_node(&arguments);
    head.signal("KILL");
    head.end();
    let mut command = program("fleet");
    command.args(["--open-ui=false", "--port", "0"]).args(&arguments);
    let mut again = Process::start(command);
    let url = url_of(&mut again);
    until("the node", || allocations(&url).iter().any(|(_, stage)| stage == "joined"));
    assert_eq!(allocations(&url).len(), 1);
    assert!(!has_ended(node), "it was taken over");
    again.signal("TERM");
    let (code, lines) = again.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(has_ended(node), "the head that has adopted it ends it");
    std::fs::remove_dir_all(directory).expect("it was made");
}

/// Returns the address of the API of a head.
fn url_of(head: &mut Process) -> String {
    let line = head.expect("View it in your browser: http://");
    line.split("http://").nth(1).and_then(|url| url.split('/').next()).expect("it has an address").to_owned()
}

/// Executes a command for the fleet, and returns what it prints, if it succeeds.
fn command(url: &str, arguments: &[&str]) -> Option<String> {
    let output = program("fleet").arg("fleet").args(arguments).args(["--url", url]).output();
    let output = output.expect("the test's own binary is there");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the allocations with their stages.
fn allocations(url: &str) -> Vec<(String, String)> {
    let Some(text) = command(url, &["status", "--json"]) else { return Vec::new() };
    let groups: Json = serde_json::from_str(&text).expect("it is JSON");
    let allocations = groups["items"][0]["allocations"].as_array().cloned().unwrap_or_default();
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    allocations.iter().map(|each| (text(&each["name"]), text(&each["stage"]))).collect()
}

fn fleet_is_steered_by_commands() {
    let (mut head, node) = head_with_a_node(&[]);
    let url = url_of(&mut head);
    until("the node in the list", || allocations(&url).iter().any(|(_, stage)| stage == "joined"));
    let shown = command(&url, &["status"]).expect("the head runs");
    assert!(shown.contains("1 of 0..1") && shown.contains("joined"), "{shown}");
    let checked = command(&url, &["check", "here"]).expect("the group is there");
    assert!(checked.contains("node --join 127.0.0.1:") && checked.contains("unknown"), "{checked}");
    let (name, _) = allocations(&url).remove(0);
    let output = command(&url, &["logs", &name]).expect("the allocation is there");
    assert!(output.contains("joined the App at the head"), "{output}");
    for wrong in [["pause", "nowhere"], ["end", "here-zzzzzz"], ["logs", "nowhere-zzzzzz"]] {
        assert_eq!(command(&url, &wrong), None);
    }
    command(&url, &["pause", "here"]).expect("the group is there");
    command(&url, &["end", &name]).expect("the allocation is there");
    until("the end of the node", || has_ended(node) && allocations(&url).is_empty());
    let shown = command(&url, &["status"]).expect("the head runs");
    assert!(shown.contains("paused") && shown.contains("somebody has paused it"), "{shown}");
    command(&url, &["resume", "here"]).expect("the group is there");
    until("another node", || {
        allocations(&url).iter().any(|(other, stage)| *other != name && stage == "joined")
    });
    head.signal("TERM");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}
