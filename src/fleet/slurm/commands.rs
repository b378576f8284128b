//! Commands of Slurm as processes, with limits on their time and their output.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::super::engine::EngineError;
use super::answer::{error_of, words_of};

/// Time limit of each command.
const LIMIT: Duration = Duration::from_secs(30);

/// Most that a command may print on its standard output, in bytes: about 100,000 jobs.
const MOST: u64 = 16 << 20;

/// Most that is read of the standard error of a command, in bytes.
const MOST_ERRORS: u64 = 64 << 10;

/// Runs commands with a time limit.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    limit: Duration,
}

/// The output of a command that has succeeded.
#[derive(Debug)]
pub(super) struct Printed {
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Commands {
    pub(super) fn new() -> Self {
        Self { limit: LIMIT }
    }

    #[cfg(test)]
    pub(super) fn with_limit(limit: Duration) -> Self {
        Self { limit }
    }

    /// Runs a command until it has ended, with this text as its standard input.
    ///
    /// # Errors
    /// - [`EngineError::Refused`] if there is no such command.
    /// - [`EngineError::Unreachable`] if it does not end in time, is ended by a signal or prints too much.
    /// - The class of what it has printed, if it fails.
    pub(super) async fn run(
        &self,
        program: PathBuf,
        arguments: Vec<String>,
        environment: Environment,
        input: &str,
    ) -> Result<Printed, EngineError> {
        let name = program.display().to_string();
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        environment.apply(&mut command);
        let child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => EngineError::Refused(format!(
                "cannot execute `{name}` ({error}): install the client commands of Slurm and coreutils on this machine, or \
                 set `commands` to the directory of Slurm's commands"
            )),
            _ => EngineError::Unreachable(format!("cannot start `{name}`: {error}")),
        })?;
        let mut group = Group(child);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = tokio::time::timeout(self.limit, async {
            let child = &mut group.0;
            let stdin = child.stdin.take();
            let writing = async move {
                if let Some(mut stdin) = stdin {
                    // A command that does not read its input says why on its own.
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let ((), (), ()) = tokio::join!(
                writing,
                read_into(out, MOST + 1, &mut stdout),
                read_into(err, MOST_ERRORS, &mut stderr)
            );
            child.wait().await
        })
        .await;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let too_much = stdout.len() as u64 > MOST;
        let printed = Printed { stdout: text(stdout), stderr: text(stderr) };
        let status = match ended {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(EngineError::Unreachable(format!("`{name}`: {error}"))),
            Err(_) => {
                // It may have said why it waits, such as that the queue is full.
                if let quota @ EngineError::Quota(_) = error_of(&printed.stderr) {
                    return Err(quota);
                }
                let said = match words_of(&printed.stderr) {
                    words if words.is_empty() => words,
                    words => format!(" and said: {words}"),
                };
                let limit = self.limit;
                return Err(EngineError::Unreachable(format!("`{name}` did not end within {limit:?}{said}")));
            }
        };
        if too_much {
            return Err(EngineError::Unreachable(format!("`{name}` printed more than {} MiB", MOST >> 20)));
        }
        match status.code() {
            Some(0) => Ok(printed),
            Some(_) if printed.stderr.trim().is_empty() => Err(error_of(&printed.stdout)),
            Some(_) => Err(error_of(&printed.stderr)),
            None => Err(EngineError::Unreachable(format!("`{name}` was ended by a signal ({status})"))),
        }
    }
}

/// Reads to the end, or up to a limit; what is beyond it is not read.
async fn read_into(from: Option<impl AsyncRead + Unpin>, most: u64, into: &mut Vec<u8>) {
    if let Some(from) = from {
        // An error of a pipe is its end.
        let _ = from.take(most).read_to_end(into).await;
    }
}

/// A command with the processes that it has started, which are killed when the value is dropped before it has ended.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Without an id the command has been waited for, and its id may be another process's.
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // The group may be gone already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// The environment of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Environment {
    /// Times are printed in UTC.
    Listing,
    /// Slurm hands the environment on to the job.
    Submitting,
}

impl Environment {
    fn apply(self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_removed) {
                command.env_remove(name);
            }
        }
        if self == Self::Listing {
            command.env("TZ", "UTC0").env("LC_ALL", "C");
        }
    }
}

/// Returns true for variables that commands must not have: Flowright's own, among which may be its token; those that the
/// job has in which the head itself runs, which would be taken for the new job's; and those that change lists.
fn is_removed(name: &str) -> bool {
    let of_job = name.starts_with("SLURM_") && !["SLURM_CONF", "SLURM_CLUSTERS"].contains(&name);
    let of_devices =
        ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR", "GPU_DEVICE_ORDINAL"];
    of_job
        || ["FLOWRIGHT_", "SQUEUE_", "SCANCEL_"].iter().any(|prefix| name.starts_with(prefix))
        || of_devices.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script with `sh` in place of a command.
    async fn run(script: &str, limit: Duration) -> Result<Printed, EngineError> {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Commands::with_limit(limit).run("/bin/sh".into(), arguments, Environment::Submitting, "in").await
    }

    const LONG: Duration = Duration::from_secs(30);

    /// A command gets its input, and its output is returned.
    #[tokio::test]
    async fn command_is_run_with_input() {
        let printed = run("cat; echo err >&2", LONG).await.unwrap();
        assert_eq!((printed.stdout.as_str(), printed.stderr.as_str()), ("in", "err\n"));
    }

    /// A command that hangs, or whose children do, is killed with them.
    #[tokio::test]
    async fn hanging_command_is_killed() {
        let path = std::env::temp_dir().join(format!("flowright-slurm-hang-{}", std::process::id()));
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", path.display());
        let task = tokio::spawn(async move { run(&script, Duration::from_secs(2)).await });
        let error = task.await.unwrap().unwrap_err();
        assert!(
            matches!(&error, EngineError::Unreachable(why) if why.contains("did not end within 2s")),
            "{error}"
        );
        let child = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let end = std::time::Instant::now() + LONG;
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(std::time::Instant::now() < end, "the child {child} lives");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A command that waits for room in the queue is at a limit, and not out of reach.
    #[tokio::test]
    async fn waiting_for_the_queue_is_a_quota() {
        let script = "echo 'sbatch: error: Slurm job queue full, sleeping and retrying.' >&2; sleep 600";
        let error = run(script, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, EngineError::Quota(_)), "{error}");
    }

    /// Failures are classed: no command, a signal, too much output, and the words that were printed.
    #[tokio::test]
    async fn failures_are_classed() {
        let missing =
            Commands::new().run("/nowhere/sbatch".into(), Vec::new(), Environment::Submitting, "").await;
        assert!(
            matches!(missing, Err(EngineError::Refused(why)) if why.contains("install the client commands"))
        );
        let killed = run("kill -9 $$", LONG).await;
        assert!(matches!(killed, Err(EngineError::Unreachable(why)) if why.contains("signal")));
        let endless = run("yes", LONG).await;
        assert!(matches!(endless, Err(EngineError::Unreachable(why)) if why.contains("more than 16 MiB")));
        let refused = run("echo 'sbatch: error: Invalid --time specification' >&2; exit 1", LONG).await;
        assert_eq!(refused.unwrap_err(), EngineError::Refused("Invalid --time specification".to_owned()));
    }

    /// Variables of the head's own job and of Flowright stay away, and those by which Slurm is found remain.
    #[test]
    fn variables_of_the_head_are_removed() {
        for name in
            ["FLOWRIGHT_TOKEN", "SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_TIME_FORMAT", "SQUEUE_STATES"]
        {
            assert!(is_removed(name), "{name}");
        }
        for name in ["SLURM_CONF", "SLURM_CLUSTERS", "SBATCH_ACCOUNT", "PATH", "HOME", "MODULEPATH"] {
            assert!(!is_removed(name), "{name}");
        }
    }
}
