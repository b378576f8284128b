//! The command line of an App.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use crate::support::*;
use crate::tests;

tests![
    wrong_usage_ends_with_2_and_says_how_it_is_right,
    help_lists_the_options_and_ends_with_0,
    a_variable_that_is_given_reaches_the_work,
    a_port_that_is_taken_is_no_obstacle,
    without_a_server_nothing_is_served,
    the_log_level_decides_what_is_logged,
    a_configuration_file_is_read_and_the_command_line_wins,
    works_run_where_the_command_line_places_them,
];

/// A file that is removed on drop.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-{}-{name}.toml", std::process::id()));
        fs::write(&path, content).expect("there is room for a file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the path is text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn wrong_usage_ends_with_2_and_says_how_it_is_right() {
    let misspelt = File::new("misspelt", "prot = 7501\n");
    let broken = File::new("broken", "port = \n");
    for (arguments, says) in [
        (&["--prot", "1"][..], &["--prot", "--port"][..]),
        (&["--port", "many"], &["--port", "many"]),
        (&["--log-level", "loud"], &["--log-level", "loud"]),
        (&["--env", "GREETING"], &["GREETING", "KEY=VALUE"]),
        (&["--env", "=hello"], &["=hello", "KEY=VALUE"]),
        (&["--env", "2ND=x"], &["2ND=x", "begins with no digit"]),
        (&["--env", "A=1", "--env", "A=2"], &["--env A", "given twice", "once"]),
        (&["--place", "first"], &["first", "PATH=PLACEMENT"]),
        (&["--place", "first=the moon"], &["first", "`the moon`", "`thread`", "`pool`"]),
        (&["--place", "first=moon"], &["first", "node `moon`", "--listen"]),
        (&["--place", "first=pool", "--place", "first=pool"], &["first", "given twice"]),
        (&["--place", "frist=pool"], &["`frist`", "first, second"]),
        (&["--config", "/no/such/file.toml"], &["/no/such/file.toml", "No such file"]),
        (&["--config", misspelt.path()], &["prot", "line 1", "port"]),
        (&["--config", broken.path()], &["line 1"]),
    ] {
        let (code, lines) = Process::start("service", &[&["--without-server"], arguments].concat()).end();
        assert_eq!(code, Some(2), "{arguments:?}: {lines:#?}");
        let errors: String = lines.iter().filter(|line| line.starts_with("err| ")).cloned().collect();
        for part in says {
            assert!(errors.contains(part), "{part:?} is not said to {arguments:?}: {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line.contains("serves")), "{arguments:?}: {lines:#?}");
    }
}

fn help_lists_the_options_and_ends_with_0() {
    let (code, lines) = Process::start("service", &["--help"]).end();
    assert_eq!(code, Some(0));
    for option in
        ["--open-ui", "--host", "--port", "--without-server", "--env", "--place", "--log-level", "--config"]
    {
        assert_line(&lines, option);
    }
}

fn a_variable_that_is_given_reaches_the_work() {
    let mut app =
        Process::start("service", &["--without-server", "--env", "GREETING=good=day", "--env", "B="]);
    assert_eq!(app.expect("first serves"), "out| first serves, greeting Some(\"good=day\")");
    app.signal("INT");
    let (code, lines) = app.end();
    assert_eq!(code, Some(0));
    let starts = lines.iter().filter(|line| line.contains("App is starting")).count();
    assert_eq!(starts, 1, "{lines:#?}");
}

fn a_port_that_is_taken_is_no_obstacle() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = taken.local_addr().expect("the listener is bound").port();
    let mut app = Process::start("service", &["--port", &port.to_string()]);
    let address = app.address();
    assert_ne!(address.port(), port);
    app.expect(&format!("port {port} of 127.0.0.1 is taken"));
    assert_eq!(get(address, "/healthz").status, 200);
    app.signal("INT");
    assert_eq!(app.end().0, Some(0));
}

fn without_a_server_nothing_is_served() {
    let mut app = Process::start("service", &["--without-server"]);
    app.expect("second serves");
    app.signal("INT");
    let (_, lines) = app.end();
    assert_line(&lines, "INFO: Your app has started.");
    assert!(!lines.iter().any(|line| line.contains("http://")), "{lines:#?}");
}

fn the_log_level_decides_what_is_logged() {
    for (level, expected) in [
        ("debug", [true, true, true]),
        ("info", [false, true, true]),
        ("warn", [false, true, false]),
        ("off", [false, false, false]),
    ] {
        let mut app = Process::start("service", &["--port", "0", "--log-level", level]);
        app.expect("first serves");
        app.expect("second serves");
        app.signal("INT");
        let (code, lines) = app.end();
        assert_eq!(code, Some(0));
        let parts = ["DEBUG: a detail", "WARN: a warning", "INFO: Your app has started"];
        let found = parts.map(|part| lines.iter().any(|line| line.contains(part)));
        assert_eq!(found, expected, "{level}: {lines:#?}");
    }
}

fn a_configuration_file_is_read_and_the_command_line_wins() {
    let file =
        File::new("good", "host = \"127.0.0.2\"\nport = 0\n[place]\nfirst = \"pool\"\nsecond = \"pool\"\n");
    let mut app = Process::start("service", &["--config", file.path(), "--place", "second=thread"]);
    let address = app.address();
    assert_eq!(address.ip().to_string(), "127.0.0.2");
    let status = get(address, "/api/v1/status").json();
    assert_eq!(status["works"]["first"]["placement"], "pool");
    assert_eq!(status["works"]["second"]["placement"], "thread");
    app.signal("INT");
    assert_eq!(app.end().0, Some(0));
}

fn works_run_where_the_command_line_places_them() {
    let file = File::new("pool", "pool_threads = 1\nport = 0\n");
    for (placement, same) in [("pool", true), ("thread", false)] {
        let places = [format!("first={placement}"), format!("second={placement}")];
        let mut app = Process::start(
            "service",
            &["--config", file.path(), "--place", &places[0], "--place", &places[1]],
        );
        let address = app.address();
        app.expect("first serves");
        app.expect("second serves");
        // The run starts after the publish of `on_start`.
        let state = wait_for(address, |state| {
            [&state["first"], &state["second"]]
                .iter()
                .all(|work| work["thread"].as_str().is_some_and(|thread| !thread.is_empty()))
        });
        assert_eq!(state["first"]["thread"] == state["second"]["thread"], same, "{placement}: {state}");
        app.signal("INT");
        assert_eq!(app.end().0, Some(0));
    }
}

/// Follows the event stream until `holds` is true of the state, and returns that state.
fn wait_for(address: std::net::SocketAddr, holds: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    Events::open(address).until(|document| holds(&document["state"]))["state"].clone()
}
