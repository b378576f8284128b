//! Processes that are not what they should be.

use std::io::{Read, Write};
use std::net::TcpStream;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AppError, Config};

use crate::held::Held;
use crate::lab::{Lab, Sum};
use crate::support::{Process, joining, program, serve, start, waits_with};

crate::tests![
    another_program_is_refused_with_the_difference,
    a_second_node_of_the_same_name_is_refused,
    a_node_needs_the_token_of_its_head,
    nothing_listens_beyond_the_machine_without_a_token,
    a_port_that_is_taken_says_so,
    strangers_are_refused_and_disturb_nobody,
    those_who_never_end_their_handshake_are_let_go,
    a_wrong_command_line_says_what_is_wrong,
];

fn another_program_is_refused_with_the_difference() {
    let app = start(serve);
    let mut command = program("stranger");
    command.args(["node", "--join", &joining(&app), "--name", "n"]);
    let (code, lines) = Process::start(command).end();
    assert_eq!(code, Some(1));
    let said = lines.join("\n");
    assert!(said.contains("lab::Suite") && said.contains("lab::Stranger"), "{said}");
    assert!(app.status().nodes.is_empty());
}

fn a_second_node_of_the_same_name_is_refused() {
    let app = start(serve);
    let address = joining(&app);
    let _first = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    let (code, lines) = Process::node(&address, "n").end();
    assert_eq!(code, Some(1));
    assert!(lines.iter().any(|line| line.contains("give this one another name with --name")), "{lines:#?}");
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1);
}

const TOKEN: &str = "a secret of some length";

fn a_node_needs_the_token_of_its_head() {
    let directory = std::env::temp_dir().join(format!("flowright-token-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("there is a place for temporary files");
    let file = directory.join("token");
    std::fs::write(&file, TOKEN).expect("it can be written");
    let config = Config { token_file: Some(file.clone()), ..Config::default() };
    let make = |config: Config| {
        TestApp::try_start(
            App::new(serve).listen("127.0.0.1:0").process(|| Ok(program("suite"))).config(config),
        )
    };
    let open = make(config.clone()).err().expect("others may read it").to_string();
    assert!(open.contains("chmod 600"), "{open}");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).expect("it is ours");
    let app = make(config).expect("the token is good");
    let address = joining(&app);
    let with = |token: Option<&str>| {
        let mut command = program("suite");
        command.args(["node", "--join", &address, "--name", "n"]);
        if let Some(token) = token {
            command.env("FLOWRIGHT_TOKEN", token);
        }
        Process::start(command)
    };
    for (token, said) in
        [(None, "has none"), (Some("another of some length"), "not the same"), (Some("short"), "at least 16")]
    {
        let (code, lines) = with(token).end();
        assert_eq!(code, Some(1), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains(said)), "{said}: {lines:#?}");
        assert!(!lines.iter().any(|line| line.contains(TOKEN)), "nobody is told: {lines:#?}");
    }
    let _node = with(Some(TOKEN));
    app.wait_for_stage("a", Stage::Running);
    std::fs::remove_dir_all(&directory).expect("it is ours");
}

fn nothing_listens_beyond_the_machine_without_a_token() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let error = TestApp::try_start(App::new(serve).listen(address)).err().expect("it is refused");
        let error = error.to_string();
        assert!(error.contains("--token-file") && error.contains("FLOWRIGHT_TOKEN"), "{error}");
    }
}

fn a_port_that_is_taken_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| Ok((taken.local_addr()?, taken)));
    let (address, _taken) = taken.expect("there is a free port");
    let error = TestApp::try_start(App::new(serve).listen(address.to_string())).err().expect("it is taken");
    assert!(matches!(error, AppError::Bridge(_)), "{error:?}");
    assert!(error.to_string().contains("another program listens there"), "{error}");
}

/// What a dialer without a token says first.
pub(crate) fn preface() -> Vec<u8> {
    [&b"FLOWRITE"[..], &[0, 1, 0], &[7; 32]].concat()
}

/// Sends bytes and gives what comes back until the other side is done.
fn exchange(address: &str, parts: &[&[u8]], hang_up: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    for part in parts {
        // It may have been refused already.
        let _ = stream.write_all(part);
    }
    if hang_up {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn strangers_are_refused_and_disturb_nobody() {
    let app = start(serve);
    let address = joining(&app);
    let _node = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    let frame = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
    let preface = preface();
    let data = [&frame(10, &[1])[..], &1_u64.to_be_bytes(), &[9]].concat();
    // What was sent, and what is said to it: nothing, in this protocol, to whoever speaks another.
    let cases: [(&str, Vec<&[u8]>, &str); 9] = [
        ("nothing", vec![], ""),
        ("a page is asked for", vec![b"GET / HTTP/1.1\r\n\r\n"], ""),
        ("noise", vec![&[0xff; 4096]], ""),
        ("another version", vec![b"FLOWRITE\xff\xff", &[0; 33]], "the dialer version 65535"),
        (
            "a huge length",
            vec![&preface, &[0xff, 0xff, 0xff, 0xff, 0]],
            "a frame of 4294967295 bytes was announced",
        ),
        ("an unknown kind", vec![&preface, &[0, 0, 0, 1, 77]], "a frame of an unknown kind (77) came"),
        ("no greeting first", vec![&preface, &data], "it did not begin with a greeting"),
        ("a greeting that is none", vec![&preface, &[0, 0, 0, 4, 0, 1, 2, 3]], "its greeting cannot be read"),
        ("half a frame", vec![&preface, &[0, 0, 1, 0, 0, 1]], ""),
    ];
    let held = Held::here();
    for (what, parts, said) in &cases {
        let answer = exchange(&address, parts, true);
        assert!(answer.len() < 1000, "{what}: {answer:?}");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(said), "{what}: {answer:?}");
    }
    held.is_back();
    let a = app.work::<Lab>("a");
    assert_eq!(app.block_on(a.ask(Sum)).expect("it serves on"), 0);
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1);
}

fn those_who_never_end_their_handshake_are_let_go() {
    let app = start(serve);
    let address = joining(&app);
    // What is needed once for all.
    drop(exchange(&address, &[], true));
    let held = Held::here();
    let mut idle: Vec<TcpStream> = Vec::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        // Some say nothing, some half of what is first, and some all of it and then nothing.
        let preface = preface();
        let said = [&[][..], &preface[..20], &preface[..]][number % 3];
        // It may have been given up already.
        let _ = stream.write_all(said);
        idle.push(stream);
    }
    // Whoever is honest gets through all the same.
    let node = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    for mut stream in idle {
        let mut answer = Vec::new();
        // Each is closed from the other side, in the end.
        let _ = stream.read_to_end(&mut answer);
    }
    assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("it serves"), 0);
    node.signal("INT");
    waits_with(&app, "waits for node `n`");
    held.is_back();
}

fn a_wrong_command_line_says_what_is_wrong() {
    for (arguments, said) in [
        (&["node"][..], "--join"),
        (&["node", "--join", "nowhere"], "HOST:PORT"),
        (&["node", "--join", "127.0.0.1:1", "--label", "zone"], "KEY=VALUE"),
        (&["--place", "a=two words"], "no placement"),
        (&["--place", "nobody=thread", "--without-server"], "there is no work `nobody`"),
    ] {
        let mut command = program("suite");
        command.args(arguments);
        let (code, lines) = Process::start(command).end();
        assert_eq!(code, Some(2), "{arguments:?}: {lines:#?}");
        assert!(lines.iter().any(|line| line.contains(said)), "{arguments:?}: {lines:#?}");
    }
}
