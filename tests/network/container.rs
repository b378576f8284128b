//! A program that is the first process of a PID namespace, as it is in a container.

use std::process::Command;

use flowright::prelude::*;

use crate::process::Process;
use crate::program;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("first_process_reaps_orphans_and_takes_no_status", first_process_reaps_orphans_and_takes_no_status),
    ("first_process_ends_with_the_exit_code_of_the_app", first_process_ends_with_the_exit_code_of_the_app),
];

/// The number of processes that are orphaned.
const ORPHANS: usize = 50;

/// A Work that leaves orphaned processes, and waits for children of its own.
#[derive(Default, Serialize, Deserialize)]
struct Parent;

impl Work for Parent {
    type Input = i32;

    async fn run(&mut self, code: i32, cx: &mut WorkContext<Self>) -> Result<()> {
        for _ in 0..ORPHANS {
            let status = Command::new("sh").args(["-c", &format!("sleep 0.01 & exit {code}")]).status()?;
            if status.code() != Some(code) {
                flowright::bail!("the status of a child is {status}");
            }
        }
        while let Some(zombie) = zombie() {
            log::debug!("process {zombie} is a zombie");
            cx.sleep(self, Duration::from_millis(5)).await?;
        }
        println!("{} has all statuses, and there are no zombies", cx.path());
        if code == 9 {
            flowright::bail!("the App is to fail");
        }
        cx.serve_forever(self).await?;
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        println!("{} has stopped", cx.path());
        Ok(())
    }
}

/// Returns a process of this namespace that has ended and was not reaped.
fn zombie() -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|process| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    })
}

/// Two Works: one on a thread, and one with a process of its own.
#[derive(Default, Serialize, Children)]
struct Parents {
    thread: WorkRef<Parent>,
    process: WorkRef<Parent>,
}

impl Flow for Parents {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        let code = std::env::var("FLOWRIGHT_TEST_CODE").ok().and_then(|code| code.parse().ok()).unwrap_or(7);
        self.thread.run(7);
        self.process.run(code);
        Ok(())
    }
}

pub(crate) fn parents() -> ExitCode {
    App::new(|| {
        let process = WorkRef::from(Parent).placed(Placement::Process);
        Parents { thread: WorkRef::default(), process }
    })
    .main()
}

/// Starts the program as the first process of a namespace.
fn container(code: i32) -> Process {
    let inner = program("container", &["--open-ui=false", "--without-server"]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("FLOWRIGHT_TOKEN").env("FLOWRIGHT_TEST_CODE", code.to_string());
    Process::start(command)
}

/// The process id of the first process of the namespace.
fn first_of(container: &Process) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", container.id());
    let children = std::fs::read_to_string(children).expect("the process is alive");
    children.split_whitespace().next().and_then(|child| child.parse().ok()).expect("the process has a child")
}

fn first_process_reaps_orphans_and_takes_no_status() {
    for name in ["TERM", "INT", "HUP"] {
        let mut container = container(7);
        container.expect("thread has all statuses, and there are no zombies");
        container.expect("process has all statuses, and there are no zombies");
        crate::process::signal(first_of(&container), name);
        let (code, lines) = container.end();
        assert_eq!(code, Some(0), "{lines:#?}");
        let stopped = lines.iter().filter(|line| line.ends_with("has stopped")).count();
        assert_eq!(stopped, 2, "{name}: {lines:#?}");
    }
}

fn first_process_ends_with_the_exit_code_of_the_app() {
    let (code, lines) = container(9).end();
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("the App is to fail")), "{lines:#?}");
}
