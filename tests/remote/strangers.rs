//! Processes that are not valid members of the App.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AppError, Config};

use crate::held::Held;
use crate::lab::{Lab, Suite, Sum, Task};
use crate::peers::greeting_of;
use crate::support::{
    Process, free_address, head, joining, lab, node, program, serve, start, start_with, times, waits_with,
};
use crate::tokens::{preface, proof, prove, proved, token, token_file};

crate::tests![
    another_program_is_refused_with_the_difference,
    a_second_node_of_the_same_name_is_refused,
    replacement_of_a_silent_node_waits_and_takes_over,
    node_outlives_the_refusal_of_a_stranger_at_the_address_of_its_head,
    node_name_is_checked_by_the_head,
    node_that_listens_everywhere_is_reached_where_it_dials_from,
    limit_on_open_files_is_raised,
    strangers_keep_no_node_out_where_few_files_may_be_open,
    a_node_needs_the_token_of_its_head,
    nothing_listens_beyond_the_machine_without_a_token,
    a_port_that_is_taken_says_so,
    strangers_are_refused_and_disturb_nobody,
    those_who_never_end_their_handshake_are_let_go,
    loopback_token_is_private_and_goes_with_its_head,
    waiting_node_obeys_nobody_without_its_heads_token,
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

/// The first node is stopped, so that it is silent: the second one waits until the first is disconnected, then gets its
/// name and its Work.
fn replacement_of_a_silent_node_waits_and_takes_over() {
    let app = start_with(times(1000, 600_000), serve);
    let address = joining(&app);
    let first = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    first.signal("STOP");
    let mut second = Process::node(&address, "n");
    second.expect("nothing is heard from that one");
    second.expect("joined the App");
    app.wait_for_state("a.process", |process: &u32| *process == second.id());
}

/// While its head is down, another process listens at its address and refuses the node. The node waits, and joins the
/// next head.
fn node_outlives_the_refusal_of_a_stranger_at_the_address_of_its_head() {
    let file = file_with_token("stranger");
    let token = ["--token-file", &file.display().to_string()];
    let address = free_address();
    let stranger = TcpListener::bind(&address).expect("nobody listens there");
    let mut node = Process::node_with(&address, "n", &token);
    let (mut connection, _) = stranger.accept().expect("the node dials");
    connection.read_exact(&mut [0; 43]).expect("the listener sends its preface");
    let verdict = [&preface(1)[..], &[1, 0, 7], b"go away"].concat();
    connection.write_all(&verdict).expect("the server listens");
    let line = node.expect("go away");
    assert!(line.contains("WARN") && line.contains("trying again"), "{line}");
    drop((connection, stranger));
    let _head = head(&address, &token);
    node.expect("work `a` runs here");
    std::fs::remove_file(&file).expect("the path belongs to the test");
}

/// A file with the token, readable by its owner only.
fn file_with_token(name: &str) -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("flowright-token-{name}-{}", std::process::id()));
    std::fs::write(&file, TOKEN).expect("the file is writable");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("the path belongs to the test");
    file
}

/// A node that does not check its own name is refused with the rule.
fn node_name_is_checked_by_the_head() {
    let app = start(serve);
    let address = joining(&app);
    for name in [&b"head"[..], b"pool", b"z=w", b"\x1b[m", b"   "] {
        // A name of the same length that can be found in the bytes.
        let good = "q".repeat(name.len());
        let mut greeting = greeting_of(&good, &[]);
        let length = 0xa0 | u8::try_from(name.len()).expect("the length fits");
        let before = [&b"\xa4name"[..], &[length]].concat();
        let is_it = |part: &[u8]| part.starts_with(&before) && part.ends_with(good.as_bytes());
        let at =
            greeting.windows(before.len() + name.len()).position(is_it).expect("the greeting has the name");
        greeting[at + before.len()..][..name.len()].copy_from_slice(name);
        let mut stream = proved(&address);
        stream.write_all(&greeting).expect("the peer reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the connection is answered");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("a node cannot be called"), "{name:?}: {answer}");
    }
    assert!(app.status().nodes.is_empty());
}

/// Other nodes cannot dial the unspecified address, so that the node reports the address from which it reached the
/// head, and its own port.
fn node_that_listens_everywhere_is_reached_where_it_dials_from() {
    // The node needs a token, since it listens beyond the loopback address.
    let file = file_with_token("everywhere");
    let config = Config::new().token_file(&file);
    let app = start_with(config, || {
        Suite::new(lab(node("n")), lab(node("m")), |suite, _| {
            suite.b.run(Task::Serve);
            if suite.b.is_running() {
                suite.a.run(Task::Send(suite.b.addr(), 10));
            }
            Ok(())
        })
    });
    let (address, token) = (joining(&app), file.display().to_string());
    let everywhere = ["--listen", "0.0.0.0:0", "--token-file", &token];
    let _nodes = ["m", "n"].map(|name| Process::node_with(&address, name, &everywhere));
    app.wait_for_state("a.sum", |sum: &Option<u64>| *sum == Some(45));
    std::fs::remove_file(&file).expect("the path belongs to the test");
}

/// Starts this binary as the program with a limit on open files: `-Sn` is the soft one, `-n` both.
fn limited(limit: &str, arguments: &[&str]) -> Process {
    let shell = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    let there = program("suite");
    let mut command = std::process::Command::new("/bin/sh");
    command.arg("-c").arg(shell).arg(there.get_program()).args(arguments);
    command.env(crate::support::VARIABLE, "suite").env_remove("FLOWRIGHT_TOKEN");
    Process::start(command)
}

/// The soft and the hard limit of a process on open files.
fn limits_of(process: u32) -> (u64, u64) {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).expect("the process is alive");
    let line =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("the file has the limit");
    let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().unwrap_or(u64::MAX));
    (numbers.next().expect("the soft one"), numbers.next().expect("the hard one"))
}

/// A head and a node raise the soft limit to the hard one.
fn limit_on_open_files_is_raised() {
    let address = free_address();
    let at_head = ["--open-ui=false", "--without-server", "--listen", &address];
    let mut head = limited("-Sn 300", &at_head);
    let mut node = limited("-Sn 300", &["node", "--join", &address, "--name", "n"]);
    node.expect("work `a` runs here");
    head.expect("it serves");
    for process in [&head, &node] {
        let (soft, hard) = limits_of(process.id());
        assert_eq!(soft, hard.min(1 << 20));
        assert!(soft > 300, "there is nothing to be raised on this machine");
    }
}

/// A head with a low limit on open files accepts fewer connections, and gives up connections that have not proved
/// themselves for others.
fn strangers_keep_no_node_out_where_few_files_may_be_open() {
    let address = free_address();
    let mut head = limited("-n 200", &["--open-ui=false", "--without-server", "--listen", &address]);
    head.expect("nodes join at");
    let files = format!("/proc/{}/fd", head.id());
    let open = || std::fs::read_dir(&files).expect("the process is alive").count();
    let before = open();
    let mut most = before;
    let idle: Vec<_> = (0..250)
        .map(|_| {
            most = most.max(open());
            connect(&address)
        })
        .collect();
    let mut node = Process::node(&address, "n");
    node.expect("work `a` runs here");
    head.expect("it serves");
    most = most.max(open());
    assert!(most < before + 80, "{most} of 200 files were open, and {before} before");
    drop(idle);
}

const TOKEN: &str = "a secret of some length";

fn a_node_needs_the_token_of_its_head() {
    let directory = std::env::temp_dir().join(format!("flowright-token-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("there is a place for temporary files");
    let file = directory.join("token");
    std::fs::write(&file, TOKEN).expect("the file is writable");
    let config = Config::new().token_file(&file);
    let make = |config: Config| {
        TestApp::try_start(
            App::new(serve).listen("127.0.0.1:0").process(|| Ok(program("suite"))).config(config),
        )
    };
    let open = make(config.clone()).err().expect("others may read it").to_string();
    assert!(open.contains("chmod 600"), "{open}");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).expect("the path belongs to the test");
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
    // Without a token the node sends nothing to the head, which may be another process: it waits, and logs what to do.
    let mut waiting = with(None);
    let said = waiting.expect("has not proved that it is a process of this user");
    assert!(said.contains("--token-file"), "{said}");
    drop(waiting);
    // The listener has not proved that it is the head, so that its refusal is not final.
    let mut waiting = with(Some("another of some length"));
    let line = waiting.expect("not the same");
    assert!(line.contains("trying again until the head is there"), "{line}");
    assert!(!waiting.seen.iter().any(|line| line.contains(TOKEN)), "nobody is told: {:#?}", waiting.seen);
    drop(waiting);
    let (code, lines) = with(Some("short")).end();
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("at least 16")), "{lines:#?}");
    let _node = with(Some(TOKEN));
    app.wait_for_stage("a", Stage::Running);
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
}

fn nothing_listens_beyond_the_machine_without_a_token() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let error = TestApp::try_start(App::new(serve).listen(address)).err().expect("the start is refused");
        let error = error.to_string();
        assert!(error.contains("--token-file") && error.contains("FLOWRIGHT_TOKEN"), "{error}");
    }
}

fn a_port_that_is_taken_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| Ok((taken.local_addr()?, taken)));
    let (address, _taken) = taken.expect("there is a free port");
    let error =
        TestApp::try_start(App::new(serve).listen(address.to_string())).err().expect("the address is taken");
    assert!(matches!(error, AppError::Bridge(_)), "{error:?}");
    assert!(error.to_string().contains("another program listens there"), "{error}");
}

/// Sends bytes and returns the response until the other side closes the connection.
fn exchange(mut stream: TcpStream, parts: &[&[u8]], hang_up: bool) -> Vec<u8> {
    for part in parts {
        // The connection may have been refused already.
        let _ = stream.write_all(part);
    }
    if hang_up {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).expect("the server listens")
}

fn strangers_are_refused_and_disturb_nobody() {
    let app = start(serve);
    let address = joining(&app);
    let _node = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    let frame = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
    let without_token = preface(0);
    let with_token = preface(1);
    let data = [&frame(10, &[1])[..], &1_u64.to_be_bytes(), &[9]].concat();
    // Bytes of strangers, and the response: none in this protocol, for a peer that speaks another one.
    let strangers: [(&str, Vec<&[u8]>, &str); 6] = [
        ("nothing", vec![], ""),
        ("a page is asked for", vec![b"GET / HTTP/1.1\r\n\r\n"], ""),
        ("noise", vec![&[0xff; 4096]], ""),
        ("another version", vec![b"FLOWRITE\xff\xff", &[0; 33]], "the dialer version 65535"),
        ("no token", vec![&without_token, &data], "the listener has a token and the dialer has none"),
        ("another token", vec![&with_token, &[0; 32]], "the tokens are not the same"),
    ];
    // Bytes of peers that know the token.
    let proved_ones: [(&str, Vec<&[u8]>, &str); 5] = [
        (
            "a huge length",
            vec![&[0xff, 0xff, 0xff, 0xff, 0]],
            "a frame of 4294967295 bytes exceeds the limit",
        ),
        ("an unknown kind", vec![&[0, 0, 0, 1, 77]], "unknown frame kind 77"),
        ("no greeting first", vec![&data], "it did not begin with a greeting"),
        ("a greeting that is none", vec![&[0, 0, 0, 4, 0, 1, 2, 3]], "its greeting cannot be read"),
        ("half a frame", vec![&[0, 0, 1, 0, 0, 1]], ""),
    ];
    let held = Held::here();
    let unproved = strangers.iter().map(|case| (connect(&address), case));
    let cases = unproved.chain(proved_ones.iter().map(|case| (proved(&address), case)));
    for (stream, (what, parts, said)) in cases {
        let answer = exchange(stream, parts, true);
        assert!(answer.len() < 1000, "{what}: {answer:?}");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(said), "{what}: {answer:?}");
    }
    held.is_back();
    let a = app.work::<Lab>("a");
    assert_eq!(app.block_on(a.ask(Sum)).expect("the Work still serves"), 0);
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1);
}

fn those_who_never_end_their_handshake_are_let_go() {
    let app = start(serve);
    let address = joining(&app);
    // Causes the allocations that are made once.
    drop(exchange(connect(&address), &[], true));
    let held = Held::here();
    let mut idle: Vec<TcpStream> = Vec::new();
    let token = token(&address);
    for number in 0..1000 {
        let mut stream = connect(&address);
        // Some send nothing, some half of a preface, some a whole preface and then nothing, and some prove themselves
        // and do not greet.
        match number % 4 {
            0 => {}
            // The connection may have been given up already.
            1 => drop(stream.write_all(&preface(1)[..20])),
            2 => drop(stream.write_all(&preface(1))),
            _ => drop(prove(&mut stream, &token)),
        }
        idle.push(stream);
    }
    // An honest node joins nevertheless.
    let node = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    for mut stream in idle {
        let mut answer = Vec::new();
        // The other side closes each connection in the end.
        let _ = stream.read_to_end(&mut answer);
    }
    assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves"), 0);
    node.signal("INT");
    waits_with(&app, "waits for node `n`");
    held.is_back();
}

/// Only the user of the head can read the file with its token, which is removed with the head.
fn loopback_token_is_private_and_goes_with_its_head() {
    let app = start(serve);
    let address = joining(&app);
    let file = token_file(&address).expect("nodes find it");
    let mode = |path: &std::path::Path| {
        let metadata = std::fs::metadata(path).expect("the file exists");
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
    };
    assert_eq!((mode(&file), mode(file.parent().expect("the file has a directory"))), (0o600, 0o700));
    let _node = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves"), 0);
    app.stop();
    assert!(!file.exists(), "{} is left behind", file.display());
}

/// A process that takes the port while the head is down learns nothing and launches nothing; the node joins the next
/// head.
fn waiting_node_obeys_nobody_without_its_heads_token() {
    let address = free_address();
    let first = head(&address, &[]);
    let mut node = Process::node(&address, "n");
    node.expect("work `a` runs here");
    let secret = token(&address);
    // Killed, so that its file stays until another head finds it.
    drop(first);
    node.expect("waiting for a head at");
    let listener = TcpListener::bind(&address).expect("the head is gone");
    // A listener without a token, one with an invalid proof, and one that reflects the node's own proof.
    for number in 0..3 {
        let (mut stream, _) = listener.accept().expect("the node dials");
        let mut theirs = [0; 43];
        stream.read_exact(&mut theirs).expect("the peer sends its preface");
        let mine = preface(u8::from(number > 0));
        stream.write_all(&mine).expect("the peer reads");
        let mut said = [0; 32];
        let has_proved = stream.read_exact(&mut said).is_ok();
        assert_eq!(has_proved, number > 0, "it proves itself to nobody who has no token");
        if has_proved {
            assert_eq!(
                said[..],
                proof(&secret, "flowright dialer", &theirs, &mine)[..],
                "and to nobody else"
            );
            let reply = if number == 1 { [9; 32] } else { said };
            // The node may have disconnected.
            let _ = stream.write_all(&[&[0][..], &reply].concat());
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "nothing of the App is said");
    }
    drop(listener);
    let again = head(&address, &[]);
    node.expect_again("work `a` runs here");
    assert_ne!(token(&address), secret);
    drop((again, node));
}

fn a_wrong_command_line_says_what_is_wrong() {
    for (arguments, said) in [
        (&["node"][..], "--join"),
        (&["node", "--join", "nowhere"], "HOST:PORT"),
        (&["node", "--join", "localhost:"], "it has no port"),
        (&["node", "--join", "http://127.0.0.1:1"], "HOST:PORT"),
        (&["node", "--join", "127.0.0.1:1", "--name", "head"], "choose another with --name"),
        (&["node", "--join", "127.0.0.1:1", "--name", "zone=w"], "choose another with --name"),
        (&["node", "--join", "127.0.0.1:1", "--name", ""], "choose another with --name"),
        (&["node", "--join", "127.0.0.1:1", "--name", "\x1b[31m"], "choose another with --name"),
        (&["node", "--join", "127.0.0.1:1", "--label", "zone=a\tb"], "cannot have the label"),
        (&["node", "--join", "127.0.0.1:1", "--label", "zone"], "KEY=VALUE"),
        (&["node", "--join", "127.0.0.1:1", "--advertise", "0.0.0.0"], "the unspecified address"),
        (&["node", "--join", "127.0.0.1:1", "--advertise", "gate:0"], "--advertise \"gate:0\""),
        (&["node", "--join", "127.0.0.1:1", "--advertise", "gate:80"], "give --listen with the port"),
        (&["--without-server", "--advertise", "gate:80"], "give --listen as well"),
        (&["--without-server", "--listen", "127.0.0.1:0", "--advertise", "http://gate"], "HOST:PORT"),
        (&["--place", "a=two words"], "is not a placement"),
        (&["--place", "nobody=thread", "--without-server"], "there is no work `nobody`"),
    ] {
        let mut command = program("suite");
        command.args(arguments);
        let (code, lines) = Process::start(command).end();
        assert_eq!(code, Some(2), "{arguments:?}: {lines:#?}");
        assert!(lines.iter().any(|line| line.contains(said)), "{arguments:?}: {lines:#?}");
    }
}
