//! Signals, and processes that the processes of Works have started.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Messages, Reason};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::held::children_of;
use crate::lab::{Die, Lab, Sum};
use crate::process::LIMIT;
use crate::support::{Process, child_of, joining, program, serve, signal, start, until, until_gone};

crate::tests![
    on_stop_runs_in_every_process_when_all_are_signalled,
    signal_to_a_process_is_left_to_its_head,
    sighup_ends_a_head_as_sigterm_does,
    sighup_is_ignored_by_a_head_under_nohup,
    sighup_has_a_node_leave_unless_it_is_ignored,
    signals_at_once_have_a_node_leave_in_good_order,
    group_of_a_process_ends_with_it_however_it_ends,
    group_of_a_process_ends_with_a_stopped_work,
    group_of_a_process_ends_with_the_app,
    group_of_a_process_ends_with_a_killed_head,
    group_of_a_process_ends_with_a_head_in_a_hurry,
    ctrl_c_at_a_terminal_stops_works_with_processes_in_good_order,
];

/// Environment variable with the number of Works of the program.
const COUNT: &str = "FLOWRIGHT_TEST_COUNT";

/// A Work that starts two processes that outlast any test, and serves.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Parent {
    process: u32,
}

impl Work for Parent {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        Command::new("sh").args(["-c", "sleep 100000 & sleep 100000"]).stdin(Stdio::null()).spawn()?;
        let group = stat(std::process::id()).get(2).and_then(|group| group.parse().ok()).unwrap_or_default();
        until("both", || group_of(group).iter().filter(|process| name_of(**process) == "sleep").count() == 2);
        self.process = std::process::id();
        cx.publish(self);
        println!("{} has children", cx.path());
        cx.serve_forever(self).await?;
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        println!("{} has stopped", cx.path());
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Die>();
    }
}

impl Handle<Die> for Parent {
    type Reply = ();

    async fn handle(&mut self, how: Die, _: &mut WorkContext<Self>) {
        match how {
            Die::Abort => std::process::abort(),
            Die::Exit(code) => std::process::exit(code),
            Die::Eat => {}
        }
    }
}

/// A Flow of Works with a process of their own each.
#[derive(Default, Serialize, Children)]
pub(crate) struct Family {
    parents: Vec<WorkRef<Parent>>,
    /// Stop each Work once it runs.
    stop: bool,
}

impl Flow for Family {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for parent in &mut self.parents {
            match self.stop && parent.process != 0 {
                true => parent.stop(),
                false => drop(parent.run(())),
            }
        }
        Ok(())
    }
}

pub(crate) fn family() -> Family {
    let count = std::env::var(COUNT).ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let parent = || WorkRef::from(Parent::default()).placed(Placement::Process).on_error(OnError::Capture);
    Family { parents: (0..count).map(|_| parent()).collect(), stop: false }
}

/// Starts an App in this process.
fn alone(make: fn() -> Family) -> TestApp {
    TestApp::start_app(App::new(make).process(|| Ok(program("family")))).limit(LIMIT)
}

/// Starts the program as a head, with this many Works, and waits until all have started their processes.
fn head_of(count: usize) -> Process {
    started(program("family"), count)
}

fn started(mut command: Command, count: usize) -> Process {
    command.args(["--open-ui=false", "--without-server"]).env(COUNT, count.to_string());
    let mut head = Process::start(command);
    for number in 0..count {
        head.expect(&format!("parents.{number} has children"));
    }
    head
}

/// The live processes of a group.
fn group_of(leader: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|process: &u32| {
        let fields = stat(*process);
        !matches!(fields.first().map(String::as_str), None | Some("Z" | "X"))
            && fields.get(2) == Some(&leader.to_string())
    })
    .collect()
}

/// The fields of `/proc/PID/stat` after the name: state, parent, group and so on.
fn stat(process: u32) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn name_of(process: u32) -> String {
    std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim().to_owned()
}

fn until_group_is_gone(leader: u32) {
    until("the end of what the process has started", || group_of(leader).is_empty());
}

/// Sends a signal to all these processes at once.
fn signal_all(processes: &[u32], name: &str) {
    let ids = processes.iter().map(u32::to_string);
    let sent = Command::new("kill").args(["-s", name]).args(ids).status();
    assert!(sent.expect("`kill` can be run").success());
}

/// True if the process ignores SIGHUP, the lowest bit of the mask.
fn ignores_hangup(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process is alive");
    let mask =
        status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("the status has the field");
    u64::from_str_radix(mask.trim(), 16).expect("a number") & 1 == 1
}

/// Waits until a signal has been delivered to a process.
fn until_delivered(process: u32) {
    until("that the signal is delivered", || {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let pending = status.lines().filter(|line| line.starts_with("SigPnd") || line.starts_with("ShdPnd"));
        pending.flat_map(|line| line.split_whitespace().last()).all(|mask| mask.trim_matches('0').is_empty())
    });
}

/// A service manager signals all processes of a service in this way.
fn on_stop_runs_in_every_process_when_all_are_signalled() {
    for name in ["TERM", "INT", "HUP"] {
        let head = head_of(16);
        let processes = children_of(head.id());
        assert_eq!(processes.len(), 16);
        signal_all(&[&processes[..], &[head.id()]].concat(), name);
        let (code, lines) = head.end();
        let stopped = lines.iter().filter(|line| line.ends_with("has stopped")).count();
        assert_eq!((code, stopped), (Some(0), 16), "{name}: {lines:#?}");
        processes.into_iter().for_each(until_group_is_gone);
    }
}

fn signal_to_a_process_is_left_to_its_head() {
    let app = alone(family);
    let process = app.wait_for_state("parents.0.process", |process: &u32| *process != 0);
    for name in ["TERM", "INT", "HUP"] {
        signal(process, name);
        until_delivered(process);
    }
    app.block_on(app.work::<Parent>("parents.0").ask(Die::Eat)).expect("the Work serves");
    assert_eq!(app.wait_for_stage("parents.0", Stage::Running).status.attempt, 1);
}

fn sighup_ends_a_head_as_sigterm_does() {
    let head = head_of(1);
    head.signal("HUP");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "parents.0 has stopped"), "{lines:#?}");
}

/// The program with SIGHUP ignored from its start.
fn ignoring(command: &Command) -> Command {
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    ignoring.arg(command.get_program()).args(command.get_args());
    ignoring.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    ignoring.env_remove("FLOWRIGHT_TOKEN");
    ignoring
}

fn sighup_is_ignored_by_a_head_under_nohup() {
    let mut head = started(ignoring(&program("family")), 1);
    let process = child_of(&head);
    assert!(ignores_hangup(head.id()) && ignores_hangup(process));
    head.signal("HUP");
    signal(process, "HUP");
    head.signal("TERM");
    head.expect("parents.0 has stopped");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("SIGHUP")), "{lines:#?}");
}

fn sighup_has_a_node_leave_unless_it_is_ignored() {
    let app = start(serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    node.signal("HUP");
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("This node has left the App.")), "{lines:#?}");

    let mut command = program("suite");
    command.args(["node", "--join", &joining(&app), "--name", "n"]);
    let node = Process::start(ignoring(&command));
    app.wait_for_stage("a", Stage::Running);
    node.signal("HUP");
    assert!(ignores_hangup(node.id()));
    app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves");
    node.signal("TERM");
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}

/// A second signal at the same time does not end the node at once.
fn signals_at_once_have_a_node_leave_in_good_order() {
    let app = start(serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    let ids = node.id().to_string();
    let both = format!("kill -s TERM {ids}; kill -s INT {ids}");
    assert!(Command::new("sh").args(["-c", &both]).status().expect("there is a shell").success());
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("This node has left the App.")), "{lines:#?}");
    assert_eq!(app.wait_for_state("a.stopped", |stopped: &u32| *stopped == 1), 1);
}

/// A function that ends the process of the Work.
type End<'a> = &'a dyn Fn(&TestApp, u32);

fn group_of_a_process_ends_with_it_however_it_ends() {
    let ends: [(&str, End<'_>); 4] = [
        ("killed", &|_, process| signal(process, "KILL")),
        // Not one of those that a shell ignores for programs in its background.
        ("signal 10", &|_, process| signal(process, "USR1")),
        ("aborted", &|app, _| drop(app.block_on(app.work::<Parent>("parents.0").ask(Die::Abort)))),
        ("exit code 3", &|app, _| drop(app.block_on(app.work::<Parent>("parents.0").ask(Die::Exit(3))))),
    ];
    for (how, end) in ends {
        let app = alone(family);
        let process = app.wait_for_state("parents.0.process", |process: &u32| *process != 0);
        assert_eq!(group_of(process).len(), 4);
        end(&app, process);
        let failed = app.wait_for_stage("parents.0", Stage::Failed);
        assert_eq!(failed.status.reason, Some(Reason::ProcessDied), "{failed:?}");
        let message = failed.status.message.unwrap_or_default();
        assert!(message.contains(how), "{message}");
        until_group_is_gone(process);
    }
}

fn group_of_a_process_ends_with_a_stopped_work() {
    let app = alone(|| Family { stop: true, ..family() });
    let process = app.wait_for_state("parents.0.process", |process: &u32| *process != 0);
    app.wait_for_stage("parents.0", Stage::Stopped);
    until_group_is_gone(process);
}

fn group_of_a_process_ends_with_the_app() {
    let head = head_of(2);
    let processes = children_of(head.id());
    head.signal("TERM");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    processes.into_iter().for_each(until_group_is_gone);
}

/// The process itself notices the end of the head.
fn group_of_a_process_ends_with_a_killed_head() {
    let head = head_of(2);
    let processes = children_of(head.id());
    head.signal("KILL");
    processes.into_iter().for_each(until_group_is_gone);
    // A wrapper around the process does not keep the group alive.
    let mut command = program("family");
    command.env("FLOWRIGHT_TEST_AROUND", "yes");
    let head = started(command, 1);
    let around = child_of(&head);
    assert_eq!((group_of(around).len(), name_of(around).as_str()), (5, "sh"));
    head.signal("KILL");
    until_group_is_gone(around);
}

/// Starts the program whose processes are started through a shell, if that is configured.
pub(crate) fn around() -> std::io::Result<Command> {
    let this = std::env::current_exe()?;
    if std::env::var_os("FLOWRIGHT_TEST_AROUND").is_none() {
        return Ok(Command::new(this));
    }
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" \"$@\"; exit $?"]).arg(this);
    Ok(command)
}

/// A second signal ends the head without waiting.
fn group_of_a_process_ends_with_a_head_in_a_hurry() {
    let mut head = head_of(1);
    let process = child_of(&head);
    // The process does not stop while it is suspended.
    signal(process, "STOP");
    head.signal("TERM");
    head.expect("the App ends");
    until("the end of the head", || {
        // A signal that is repeated at once is merged with the first.
        let _ =
            Command::new("kill").args(["-s", "TERM", &head.id().to_string()]).stderr(Stdio::null()).status();
        std::fs::read_to_string(format!("/proc/{}/stat", head.id())).is_ok_and(|stat| stat.contains(") Z "))
    });
    signal(process, "CONT");
    until_gone(process);
    until_group_is_gone(process);
}

/// The terminal signals the group of the head, which does not contain the processes of Works.
fn ctrl_c_at_a_terminal_stops_works_with_processes_in_good_order() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
    grantpt(&master).expect("the test owns the terminal");
    unlockpt(&master).expect("the test owns the terminal");
    let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
        .expect("the terminal can be opened");
    let inner = program("family");
    // The shell has the terminal as its own, and pipes for its output.
    let mut command = Command::new("sh");
    command.args(["-c", "exec setsid --wait --ctty \"$0\" \"$@\" < \"$TERMINAL\""]).arg(inner.get_program());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("FLOWRIGHT_TOKEN").env("TERMINAL", name.to_str().expect("valid UTF-8"));
    let mut head = started(command, 1);
    let mut master = File::from(master);
    master.write_all(b"\x03").expect("the program reads");
    head.expect("parents.0 has stopped");
    let (code, lines) = head.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    drop(slave);
}
