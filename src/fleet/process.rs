//! The engine `process`: nodes that are processes on this machine.
//!
//! # Guarantees
//! - A node has a process group of its own, so that Ctrl-C on the terminal of the head does not reach it.
//! - A process that is told to end gets SIGTERM, and SIGKILL ten seconds later. At the time limit of its allocation it gets
//!   SIGKILL, as from other engines.
//! - A process is known by a variable in its environment, so that a head that is started again finds the nodes of the one
//!   before on Linux, without a record of them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::engine::{AllocationEnd, Checked, Engine, EngineError, Listed, ListedStage, Request};
use super::key::Key;

/// The variable in the environment of a node that has the name of its job.
const VARIABLE: &str = "FLOWRIGHT_ALLOCATION";

/// Time between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of ended processes that are remembered.
const REMEMBERED: usize = 64;

/// Largest part of an output that is read.
const LONGEST: u64 = 64 << 10;

/// Starts nodes as processes on this machine.
pub(crate) struct ProcessEngine {
    tag: String,
    /// A private directory for the output of the processes.
    directory: PathBuf,
    processes: Arc<Mutex<BTreeMap<Key, Process>>>,
    has_adopted: AtomicBool,
    changed: Arc<Notify>,
}

struct Process {
    id: u32,
    ends_at: Option<SystemTime>,
    /// Set to true to have the process end.
    order: watch::Sender<bool>,
    end: watch::Receiver<Option<(AllocationEnd, String)>>,
}

impl ProcessEngine {
    /// Creates an engine of the App with this tag. The output of the processes is written to files below `directory`.
    pub(crate) fn new(tag: String, directory: PathBuf) -> Self {
        Self {
            tag,
            directory,
            processes: Arc::default(),
            has_adopted: AtomicBool::new(false),
            changed: Arc::default(),
        }
    }

    fn output_file(&self, key: &Key) -> PathBuf {
        self.directory.join(format!("{key}.log"))
    }

    fn start(&self, request: &Request, key: &Key) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let output = File::create(self.output_file(key))?;
        let mut command = Command::new(&request.command.program);
        command.args(&request.command.arguments).args(["--name", key.as_str()]);
        for (name, value) in &request.command.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env(VARIABLE, key.job_name(&self.tag)).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn()?;
        let (order, ordered) = watch::channel(false);
        let (ending, end) = watch::channel(None);
        let process = Process {
            id: child.id().unwrap_or_default(),
            ends_at: request.time.map(|time| SystemTime::now() + time),
            order,
            end,
        };
        self.processes.lock().insert(key.clone(), process);
        let (time, changed) = (request.time, self.changed.clone());
        tokio::spawn(async move {
            let end = attend(child, time, ordered).await;
            ending.send_replace(Some(end));
            changed.notify_one();
        });
        Ok(())
    }

    /// Finds the processes that an earlier head of the App has started.
    #[cfg(target_os = "linux")]
    fn adopt(&self) {
        for (key, id) in adopted::processes_of(&self.tag) {
            let mut processes = self.processes.lock();
            if processes.contains_key(&key) {
                continue;
            }
            let (order, ordered) = watch::channel(false);
            let (ending, end) = watch::channel(None);
            processes.insert(key, Process { id, ends_at: None, order, end });
            drop(processes);
            let changed = self.changed.clone();
            tokio::spawn(async move {
                ending.send_replace(Some(adopted::attend(id, ordered).await));
                changed.notify_one();
            });
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn adopt(&self) {}

    /// Forgets the processes that have ended first, if there are too many, and the output of those that ended well.
    fn forget(&self) {
        let mut processes = self.processes.lock();
        let ended = processes.iter().filter_map(|(key, process)| Some((key, process.end.borrow().clone()?)));
        let mut ended: Vec<_> = ended.map(|(key, (end, _))| (key.clone(), end)).collect();
        let surplus = ended.len().saturating_sub(REMEMBERED);
        ended.truncate(surplus);
        for (key, end) in ended {
            processes.remove(&key);
            if end == AllocationEnd::Completed {
                // Only tidiness: the directory is removed with the temporary files at the latest.
                let _ = std::fs::remove_file(self.output_file(&key));
            }
        }
    }
}

/// Waits for the end of a child, and ends it when it is told to, or at its time limit.
async fn attend(
    mut child: Child,
    time: Option<Duration>,
    mut ordered: watch::Receiver<bool>,
) -> (AllocationEnd, String) {
    let limit = async {
        match time {
            Some(time) => sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let order = async {
        if ordered.wait_for(|is_ordered| *is_ordered).await.is_err() {
            // The engine is gone: the node leaves by itself when it has no head.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        status = child.wait() => return end_of(status),
        () = limit => {
            let _ = child.kill().await;
            return (AllocationEnd::TimeLimit, "its time limit has passed".to_owned());
        }
        () = order => {}
    }
    // The child was not waited for yet, so that its number is still its own.
    if let Some(id) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
    match timeout(PATIENCE, child.wait()).await {
        Ok(status) => end_of(status),
        Err(_) => {
            let _ = child.kill().await;
            (AllocationEnd::Cancelled, "it was killed, as it did not end in time".to_owned())
        }
    }
}

fn end_of(status: io::Result<ExitStatus>) -> (AllocationEnd, String) {
    match status {
        Ok(status) if status.success() => (AllocationEnd::Completed, "exit code 0".to_owned()),
        Ok(status) => (AllocationEnd::Failed, status.to_string()),
        Err(error) => (AllocationEnd::Failed, error.to_string()),
    }
}

impl Engine for ProcessEngine {
    fn submit<'a>(
        &'a self,
        request: &'a Request,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Vec<Result<(), EngineError>>> {
        let start = |key: &Key| {
            self.start(request, key).map_err(|error| {
                let program = request.command.program.display();
                EngineError::Refused(format!("no process of {program} can be started: {error}"))
            })
        };
        let answers = keys.iter().map(start).collect();
        std::future::ready(answers).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Listed>, EngineError>> {
        if !self.has_adopted.swap(true, Ordering::AcqRel) {
            self.adopt();
        }
        let processes = self.processes.lock();
        let listed = processes.iter().map(|(key, process)| Listed {
            key: key.clone(),
            id: process.id.to_string(),
            stage: match &*process.end.borrow() {
                Some((end, words)) => ListedStage::Ended { end: *end, words: words.clone() },
                None => ListedStage::Running { at: "this machine".to_owned() },
            },
            ends_at: process.ends_at,
        });
        let listed = listed.collect();
        drop(processes);
        self.forget();
        std::future::ready(Ok(listed)).boxed()
    }

    fn end<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), EngineError>> {
        let ends: Vec<_> = {
            let processes = self.processes.lock();
            let told = keys.iter().filter_map(|key| processes.get(key));
            let tell = |process: &Process| {
                process.order.send_replace(true);
                process.end.clone()
            };
            told.map(tell).collect()
        };
        async move {
            for mut end in ends {
                // An error means that the runtime ends.
                let _ = end.wait_for(Option::is_some).await;
            }
            Ok(())
        }
        .boxed()
    }

    fn output<'a>(&'a self, key: &'a Key, lines: usize) -> BoxFuture<'a, Result<String, EngineError>> {
        let read = last_lines(&self.output_file(key), lines);
        let read =
            read.map_err(|error| EngineError::Unreachable(format!("its output cannot be read: {error}")));
        std::future::ready(read).boxed()
    }

    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Checked, EngineError>> {
        let words = std::iter::once(request.command.program.display().to_string())
            .chain(request.command.arguments.iter().cloned())
            .chain(["--name".to_owned(), "KEY".to_owned()]);
        let script = words.collect::<Vec<_>>().join(" ");
        std::future::ready(Ok(Checked { script, verdict: None })).boxed()
    }

    fn interval(&self) -> Duration {
        // Ends are noticed at once; the list is a safeguard.
        Duration::from_secs(30)
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        self.changed.notified().boxed()
    }
}

/// Returns the last `lines` lines of a file, of which at most 64 KiB are read; empty if there is no file.
pub(super) fn last_lines(path: &Path, lines: usize) -> io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

/// Processes that an earlier head has started, which are no children of this process.
#[cfg(target_os = "linux")]
mod adopted {
    use std::os::fd::OwnedFd;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::{AllocationEnd, Key, PATIENCE, VARIABLE};

    /// Returns the processes of this user whose environment names an allocation of the App with this tag.
    pub(super) fn processes_of(tag: &str) -> Vec<(Key, u32)> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let key_of = |id: u32| {
            // Unreadable for the processes of others.
            let environment = std::fs::read(format!("/proc/{id}/environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            let name =
                variables.find_map(|text| text.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
            // Processes of Works that such a node has started have the variable too, and an older process.
            Some((Key::of_job(std::str::from_utf8(name).ok()?, tag)?, id))
        };
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut found: Vec<_> = ids.filter_map(key_of).filter(|(_, id)| is_leader(*id)).collect();
        found.sort();
        found.dedup_by(|(later, _), (earlier, _)| later == earlier);
        found
    }

    /// Returns true for the first process of a process group, as which a node is started.
    fn is_leader(id: u32) -> bool {
        let pid = Pid::from_raw(id.cast_signed());
        pid.is_some_and(|pid| rustix::process::getpgid(Some(pid)).is_ok_and(|group| group == pid))
    }

    /// Waits for the end of the process, and ends it when it is told to.
    pub(super) async fn attend(id: u32, mut ordered: watch::Receiver<bool>) -> (AllocationEnd, String) {
        let gone = (AllocationEnd::Completed, "it has ended, which an earlier head had started".to_owned());
        let Some(process) = open(id) else { return gone };
        tokio::select! {
            () = ended(&process) => return gone,
            ordered = ordered.wait_for(|is_ordered| *is_ordered) => if ordered.is_err() {
                return gone;
            }
        }
        let _ = pidfd_send_signal(&process, Signal::TERM);
        if timeout(PATIENCE, ended(&process)).await.is_err() {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            ended(&process).await;
        }
        gone
    }

    #[allow(
        deprecated,
        reason = "the replacement is newer than the oldest tokio that is supported, and an owned descriptor is safe"
    )]
    fn open(id: u32) -> Option<AsyncFd<OwnedFd>> {
        let process = pidfd_open(Pid::from_raw(id.cast_signed())?, PidfdFlags::NONBLOCK).ok()?;
        AsyncFd::with_interest(process, Interest::READABLE).ok()
    }

    /// Resolves when the process has ended: then its descriptor is readable.
    async fn ended(process: &AsyncFd<OwnedFd>) {
        // An error means that the runtime ends.
        let _ = process.readable().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::NodeCommand;
    use super::*;
    use crate::work::Resources;

    const S: Duration = Duration::from_secs(1);

    fn engine(name: &str) -> ProcessEngine {
        let directory = std::env::temp_dir().join(format!("flowright-engine-{name}-{}", std::process::id()));
        ProcessEngine::new(format!("{name}{}", std::process::id()), directory)
    }

    fn request(script: &str, time: Option<Duration>) -> Request {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        let command = NodeCommand { program: "/bin/sh".into(), arguments, environment: Vec::new() };
        Request { command, brings: Resources::default(), time, drain: S }
    }

    async fn stage(engine: &ProcessEngine, key: &Key) -> ListedStage {
        let listed = engine.list().await.unwrap();
        listed.into_iter().find(|listed| listed.key == *key).expect("it is listed").stage
    }

    async fn end(engine: &ProcessEngine, key: &Key) -> AllocationEnd {
        loop {
            let changed = engine.changed();
            if let ListedStage::Ended { end, .. } = stage(engine, key).await {
                return end;
            }
            changed.await;
        }
    }

    async fn submit(engine: &ProcessEngine, request: &Request, number: u64) -> Key {
        let key = Key::new("here", number);
        assert_eq!(engine.submit(request, std::slice::from_ref(&key)).await, [Ok(())]);
        key
    }

    /// The end of a process and its output are known.
    #[tokio::test]
    async fn ends_and_output_are_told() {
        let engine = engine("ends");
        let good = submit(&engine, &request("echo one; echo two >&2; echo \"$1\"", None), 1).await;
        assert_eq!(end(&engine, &good).await, AllocationEnd::Completed);
        assert_eq!(engine.output(&good, 2).await.unwrap(), format!("two\n{good}"));
        let bad = submit(&engine, &request("exit 3", None), 2).await;
        assert_eq!(end(&engine, &bad).await, AllocationEnd::Failed);
        let slow = submit(&engine, &request("exec sleep 600", Some(S / 10)), 3).await;
        assert_eq!(end(&engine, &slow).await, AllocationEnd::TimeLimit);
        std::fs::remove_dir_all(&engine.directory).unwrap();
    }

    /// A process that is told to end has ended when the call returns.
    #[tokio::test]
    async fn process_is_ended() {
        let engine = engine("ended");
        let key = submit(&engine, &request("exec sleep 600", None), 1).await;
        assert!(matches!(stage(&engine, &key).await, ListedStage::Running { .. }));
        assert_eq!(engine.end(&[key.clone(), Key::new("here", 99)]).await, Ok(()));
        assert!(matches!(stage(&engine, &key).await, ListedStage::Ended { .. }));
        std::fs::remove_dir_all(&engine.directory).unwrap();
    }

    /// A program that is not there is refused, with its name.
    #[tokio::test]
    async fn missing_program_is_refused() {
        let engine = engine("missing");
        let mut request = request("", None);
        request.command.program = "/no/such/program".into();
        let answers = engine.submit(&request, &[Key::new("here", 1)]).await;
        assert!(matches!(&answers[..], [Err(EngineError::Refused(why))] if why.contains("/no/such/program")));
        std::fs::remove_dir_all(&engine.directory).unwrap();
    }

    /// Another engine of the same App finds the processes, and can end them.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn processes_of_an_earlier_head_are_found() {
        let first = engine("adopted");
        let key = submit(&first, &request("sleep 600 & wait", None), 1).await;
        let second = ProcessEngine::new(first.tag.clone(), first.directory.clone());
        assert!(matches!(stage(&second, &key).await, ListedStage::Running { .. }));
        assert_eq!(second.list().await.unwrap().len(), 1, "the child of the process is not another one");
        let other = ProcessEngine::new("other".to_owned(), first.directory.clone());
        assert_eq!(other.list().await, Ok(Vec::new()));
        let ended = tokio::join!(second.end(std::slice::from_ref(&key)), end(&first, &key));
        assert_eq!(ended.0, Ok(()));
        std::fs::remove_dir_all(&first.directory).unwrap();
    }
}
