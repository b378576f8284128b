//! A process that the kernel kills because it uses too much memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Reason};

use crate::LIMIT;
use crate::lab::{Die, Lab, Suite, Sum, Task};
use crate::program;

pub(crate) const TESTS: &[(&str, fn())] = &[(
    "a_process_that_the_system_ends_for_its_memory_is_the_failure_of_one_work",
    a_process_that_the_system_ends_for_its_memory_is_the_failure_of_one_work,
)];

/// A control group with little memory; removed on drop.
struct Group(PathBuf);

impl Group {
    /// Creates the group, in version 1 or 2 of control groups.
    fn of_mib(mib: u64) -> Self {
        let name = format!("flowright-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (place, limit) = match first.is_dir() {
            true => (first.join(name), "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup").join(name), "memory.max"),
        };
        std::fs::create_dir(&place)
            .unwrap_or_else(|error| panic!("this test makes {} (it needs root): {error}", place.display()));
        let group = Self(place);
        std::fs::write(group.0.join(limit), (mib << 20).to_string()).expect("memory can be limited");
        for swap in ["memory.memsw.limit_in_bytes", "memory.swap.max"] {
            // Without swap this file does not exist.
            let _ = std::fs::write(
                group.0.join(swap),
                if swap.contains("memsw") { (mib << 20).to_string() } else { "0".to_owned() },
            );
        }
        group
    }

    /// Makes this program a member of the group from its start.
    fn has(&self, command: &Command) -> Command {
        let mut within = Command::new("sh");
        within.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.0);
        within.arg(command.get_program()).args(command.get_args());
        within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        within
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn a_process_that_the_system_ends_for_its_memory_is_the_failure_of_one_work() {
    let group = std::sync::Arc::new(Group::of_mib(256));
    let processes = group.clone();
    let make = || {
        let a = WorkRef::from(Lab::default()).placed(Placement::Process).on_error(OnError::Capture);
        Suite::new(a, WorkRef::from(Lab::default()), |suite, _| {
            suite.a.run(Task::Serve);
            suite.b.run(Task::Serve);
            Ok(())
        })
    };
    let app = App::new(make).process(move || {
        let mut command = program("network", &[]);
        // This head has no token.
        command.env_remove("FLOWRIGHT_TOKEN");
        Ok(processes.has(&command))
    });
    let app = TestApp::start_app(app).limit(LIMIT);
    app.wait_for_state("a.runs", |runs: &u32| *runs == 1);
    let error = app.block_on(app.work::<Lab>("a").ask(Die::Eat)).expect_err("the process is ended");
    assert!(matches!(error, AskError::NodeLost { .. }), "{error}");
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.reason, Some(Reason::ProcessDied), "{failed:?}");
    let message = failed.status.message.unwrap_or_default();
    assert!(message.contains("the process of work `a`") && message.contains("SIGKILL"), "{message}");
    assert_eq!(app.block_on(app.work::<Lab>("b").ask(Sum)).expect("the Work serves"), 0);
    app.stop().result.expect("the App ends without an error");
}
