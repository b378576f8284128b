//! Works with a process of their own: the same program, started again and joined over a Unix socket.
//!
//! # Guarantees
//! - Whatever ends such a process ends one Work, whose failure says how the process ended. States and reports that the
//!   Work had sent before are processed first.
//! - A process that hangs, or is unreachable for another reason, has the grace period to come back, like a node; then
//!   it is killed.
//! - The process ends when its Work is over, and when the head ends. It leaves termination signals to the head.
//! - With the process ends its process group: all processes that it has started and that have not left the group.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use log::Level;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::bridge::Bridge;
use super::child_output::{LastLines, Printed, copy};
use super::process_group::ProcessGroup;
use super::process_id::is_stopped;
use super::socket_directory::{self, token_file};
use crate::descriptors;
use crate::fence;
use crate::id::{ActorPath, unique};
use crate::transport::{Endpoint, Listener, TOKEN_VARIABLE, TransportError};
use crate::work::{Commands, Failure, Gpus, LaunchSpec, Outbox, Place, Reason, Report, visibility};

/// Time that a process may take to end by itself before it is killed.
const ORDERLY: Duration = Duration::from_secs(1);
/// Interval at which a missing socket is checked for.
const RESTORED: Duration = Duration::from_millis(5);
/// Time for reading the remaining output of a process that has ended.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(500);

/// The command that starts this program again.
#[derive(Clone)]
pub(crate) struct ProcessCommand {
    /// Returns the command, to which `node --join …` is appended.
    pub(crate) program: Arc<dyn Fn() -> std::io::Result<Command> + Send + Sync>,
    /// Arguments after those.
    pub(crate) arguments: Vec<String>,
}

/// The processes of single Works. It reports the end of each to whoever had it started.
pub(super) struct Processes {
    bridge: Arc<Bridge>,
    command: ProcessCommand,
    /// The socket that processes join at. Locked while it is created.
    socket: AsyncMutex<Option<PathBuf>>,
    running: Mutex<HashMap<String, Process>>,
    /// Number of live processes, including those whose Work is over.
    alive: watch::Sender<usize>,
}

struct Process {
    /// The launch that the process is started for, until it has joined.
    starting: Option<Starting>,
    path: ActorPath,
    kill: Arc<Notify>,
    /// True once the process has ended.
    gone: bool,
    /// A description of how it ended, once that is known.
    ended: Option<String>,
    /// The Work that was lost with its session, once the session is over.
    lost: Option<Option<Arc<Outbox>>>,
}

/// The launch that a process is started for.
pub(super) struct Starting {
    pub(super) what: LaunchSpec,
    /// Commands for the Work until the process has joined.
    pub(super) commands: Arc<CommandsToCome>,
}

/// Queues the commands for an incarnation until its process has joined.
#[derive(Default)]
pub(super) struct CommandsToCome(Mutex<Coming>);

#[derive(Default)]
struct Coming {
    commands: Vec<crate::work::Command>,
    there: Option<Arc<dyn Commands>>,
}

impl CommandsToCome {
    /// Passes on the queued commands, and later ones directly.
    pub(super) fn go_to(&self, there: &Arc<dyn Commands>) {
        let mut coming = self.0.lock();
        // Under the lock, so that concurrent commands stay in order.
        coming.commands.drain(..).for_each(|command| there.command(command));
        coming.there = Some(there.clone());
    }
}

impl Commands for CommandsToCome {
    fn command(&self, command: crate::work::Command) {
        let mut coming = self.0.lock();
        match &coming.there {
            Some(there) => there.command(command),
            None => coming.commands.push(command),
        }
    }
}

impl Processes {
    pub(super) fn new(command: ProcessCommand, bridge: Arc<Bridge>) -> Self {
        Self {
            bridge,
            command,
            socket: AsyncMutex::new(None),
            running: Mutex::default(),
            alive: watch::Sender::new(0),
        }
    }

    /// Starts a process for this incarnation. The process listens at the host of `listening`, for nodes that pull values.
    /// `on_end` is called with the name of the process when that has ended.
    pub(super) fn start(
        self: &Arc<Self>,
        what: LaunchSpec,
        listening: Option<Endpoint>,
        on_end: impl FnOnce(&str) + Send + 'static,
    ) {
        let name = format!("process-{:016x}", unique());
        let kill = Arc::new(Notify::new());
        let killer = kill.clone();
        what.abort.tell(move || killer.notify_one());
        let (path, gpus) = (what.path.clone(), what.gpus.clone());
        let commands: Arc<CommandsToCome> = Arc::default();
        what.mailbox.launched_elsewhere(commands.clone());
        // Messages wait for the process.
        what.mailbox.set_place(Place::Pending);
        let process = Process {
            starting: Some(Starting { what, commands }),
            path: path.clone(),
            kill: kill.clone(),
            gone: false,
            ended: None,
            lost: None,
        };
        self.running.lock().insert(name.clone(), process);
        self.alive.send_modify(|alive| *alive += 1);
        let processes = self.clone();
        self.bridge.spawn(move || async move {
            let attended = Attended { name, path, gpus, kill, listening };
            attend(&processes, attended, on_end).await;
            processes.alive.send_modify(|alive| *alive -= 1);
        });
    }

    pub(super) fn expects(&self, name: &str) -> bool {
        self.running.lock().get(name).is_some_and(|process| process.starting.is_some())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.running.lock().contains_key(name)
    }

    /// Returns the path of the Work that a process was started for.
    pub(super) fn path_of(&self, name: &str) -> Option<ActorPath> {
        self.running.lock().get(name).map(|process| process.path.clone())
    }

    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.running.lock().get(name).is_none_or(|process| process.gone)
    }

    fn gone(&self, name: &str) {
        if let Some(process) = self.running.lock().get_mut(name) {
            process.gone = true;
        }
    }

    /// Takes the launch for a node that has joined, if the node is such a process.
    pub(super) fn joined(&self, name: &str) -> Option<Starting> {
        self.running.lock().get_mut(name)?.starting.take()
    }

    /// Records that the session with a process is over. `work` is the Work that had not ended, if any.
    pub(super) fn lost(&self, name: &str, work: Option<Arc<Outbox>>) {
        let mut running = self.running.lock();
        if let Some(process) = running.get_mut(name) {
            process.lost = Some(work);
            process.kill.notify_one();
            settle(&mut running, name);
        }
    }

    fn ended(&self, name: &str, how: String) {
        let mut running = self.running.lock();
        if let Some(process) = running.get_mut(name) {
            process.ended = Some(how);
            settle(&mut running, name);
        }
    }

    /// Ends all processes and waits until they have ended, so that none is left behind.
    pub(super) async fn end(&self) {
        self.running.lock().drain().for_each(|(_, process)| process.kill.notify_one());
        let mut alive = self.alive.subscribe();
        let _ = timeout(ORDERLY + ORDERLY, alive.wait_for(|alive| *alive == 0)).await;
        if let Some(directory) = self.socket.lock().await.as_deref().and_then(Path::parent) {
            // On failure a directory for temporary files keeps the rest.
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    /// Returns the socket that processes join at, with the token beside it; creates both if necessary.
    async fn socket(&self) -> Result<PathBuf, TransportError> {
        let mut made = self.socket.lock().await;
        if let Some(socket) = &*made {
            match restore(socket, &self.bridge).await {
                Ok(()) => return Ok(socket.clone()),
                Err(error) => log::warn!("processes of Works join at another socket from now on: {error}"),
            }
        }
        let socket = socket_directory::make()
            .await
            .map_err(|(directory, source)| TransportError::directory(&directory, source))?;
        let endpoint = Endpoint::Unix(socket.clone());
        let bridge = &self.bridge;
        write_token(&socket, bridge)?;
        let listener = Listener::bind(&endpoint, bridge.security().clone(), bridge.limits()).await?;
        spawn_local(bridge.clone().listen(listener));
        Ok(made.insert(socket).clone())
    }
}

fn write_token(socket: &Path, bridge: &Bridge) -> Result<(), TransportError> {
    let file = token_file(socket);
    match bridge.security().token() {
        Some(token) if !file.exists() => {
            token.write_new(&file).map_err(|source| TransportError::directory(&file, source))
        }
        _ => Ok(()),
    }
}

/// Restores the directory, the token and the socket if they were removed.
async fn restore(socket: &Path, bridge: &Bridge) -> Result<(), TransportError> {
    if let Some(directory) = socket.parent() {
        socket_directory::make_again(directory)
            .map_err(|source| TransportError::directory(directory, source))?;
    }
    write_token(socket, bridge)?;
    let listening = async {
        while !socket.exists() {
            bridge.look_after_sockets();
            tokio::time::sleep(RESTORED).await;
        }
    };
    timeout(ORDERLY, listening).await.map_err(|_| {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        TransportError::directory(socket, missing)
    })
}

/// Reports the death of the Work once both are known: how the process ended, and which Work was on it.
fn settle(running: &mut HashMap<String, Process>, name: &str) {
    let Some(process) = running.get_mut(name) else { return };
    let Some(how) = &process.ended else { return };
    let work = match (process.starting.take(), process.lost.take()) {
        (Some(starting), _) => Some(starting.what.outbox),
        (None, Some(work)) => work,
        // The last messages of the process have not been read yet.
        (None, None) => return,
    };
    if let Some(outbox) = work {
        let message = format!("the process of work `{}` {how}", process.path);
        outbox.report(Report::Died { failure: Failure::new(Reason::ProcessDied, message) });
    }
    running.remove(name);
}

/// A process that is to be started, and its Work.
struct Attended {
    name: String,
    path: ActorPath,
    gpus: Gpus,
    kill: Arc<Notify>,
    /// The endpoint at which nodes know the head.
    listening: Option<Endpoint>,
}

/// Starts a process and waits until it has ended.
async fn attend(processes: &Processes, attended: Attended, on_end: impl FnOnce(&str)) {
    let Attended { name, path, gpus, kill, listening } = attended;
    let socket = match processes.socket().await {
        Ok(socket) => socket,
        Err(error) => return processes.ended(&name, format!("could not be started: {error}")),
    };
    let program = fence::call(|| (processes.command.program)());
    let program = program.unwrap_or_else(|panic| {
        Err(io::Error::other(format!("the function given to `App::process` panicked: {panic}")))
    });
    let command = program.map(|mut command| {
        // Keeps Ctrl-C from the process: the head handles it and stops its Works gracefully.
        command.process_group(0);
        command.arg("node").arg("--join").arg(Endpoint::Unix(socket.clone()).to_string());
        command.arg("--name").arg(&name).args(&processes.command.arguments);
        command.env_remove(TOKEN_VARIABLE);
        if !gpus.indices().is_empty() {
            command.envs(visibility(gpus.indices()));
        }
        if processes.bridge.security().token().is_some() {
            command.arg("--token-file").arg(token_file(&socket));
        }
        // The process listens for nodes that pull values, at the address at which they know the head.
        if let Some(Endpoint::Tcp(address)) = &listening
            && let Some((host, _)) = address.rsplit_once(':')
        {
            command.arg("--listen").arg(format!("{host}:0"));
        }
        command
    });
    let child = command.and_then(|command| {
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        // A service manager may signal all processes before the new one has installed its handlers.
        with_signals_blocked(|| command.spawn())
    });
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let hint = descriptors::hint(&error);
            return processes.ended(&name, format!("could not be started: {error}{hint}"));
        }
    };
    let node: Arc<str> = Arc::from(processes.bridge.me().name.as_str());
    let last = LastLines::default();
    let said = |level, target| {
        let last = (target == "stderr").then(|| last.clone());
        Printed { level, log: processes.bridge.log(), work: path.clone(), node: node.clone(), target, last }
    };
    let out = child.stdout.take().map(|pipe| copy(pipe, tokio::io::stdout(), said(Level::Info, "stdout")));
    let err = child.stderr.take().map(|pipe| copy(pipe, tokio::io::stderr(), said(Level::Warn, "stderr")));
    let printed: Vec<_> = [out.map(tokio::spawn), err.map(tokio::spawn)].into_iter().flatten().collect();
    // The guard is also dropped when this future is; it must go before the child is reaped, until when the id cannot be
    // reused.
    let Some(group) = ProcessGroup::of(&child) else {
        return processes.ended(&name, "ended before it was waited for".to_owned());
    };
    let by_force = tokio::select! {
        () = group.leader_ended(&mut child) => false,
        () = kill.notified() => {
            // A process that is suspended cannot end by itself.
            let patience = if child.id().is_some_and(is_stopped) { Duration::ZERO } else { ORDERLY };
            timeout(patience, group.leader_ended(&mut child)).await.is_err()
        }
    };
    // Kills the process too, if it has not ended by itself.
    drop(group);
    let status = child.wait().await;
    // Only now may the next incarnation be assigned the same devices.
    drop(gpus);
    processes.gone(&name);
    on_end(&name);
    // Output precedes the report of the end, unless a child of the process keeps the pipe open.
    let _ = tokio::time::timeout(LAST_WORDS, futures::future::join_all(printed)).await;
    let how = match by_force {
        true => "was ended: no heartbeat within the grace period".to_owned(),
        false if processes.expects(&name) => {
            let said = last.take();
            let said = if said.is_empty() { said } else { format!("; it said: {said}") };
            format!("{}{said}", in_words(status))
        }
        false => in_words(status),
    };
    processes.ended(&name, how);
}

/// Starts a process with SIGINT, SIGTERM and SIGHUP blocked, until it installs its handlers.
fn with_signals_blocked<R>(start: impl FnOnce() -> R) -> R {
    let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    let before = ends.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let started = start();
    if let Ok(before) = before
        && let Err(error) = before.thread_set_mask()
    {
        log::debug!("signals stay blocked in the thread of the bridge: {error}");
    }
    started
}

fn in_words(status: std::io::Result<ExitStatus>) -> String {
    let status = match status {
        Ok(status) => status,
        Err(error) => return format!("is gone: {error}"),
    };
    match (status.signal(), status.code()) {
        (Some(6), _) => "was aborted (signal 6, SIGABRT)".to_owned(),
        (Some(9), _) => "was killed (signal 9, SIGKILL); the system does so when memory runs out".to_owned(),
        (Some(11), _) => "crashed (signal 11, SIGSEGV)".to_owned(),
        (Some(15), _) => "was asked to end (signal 15, SIGTERM)".to_owned(),
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(code)) => format!("ended by itself with exit code {code} while the Work was not over"),
        (None, None) => "ended".to_owned(),
    }
}
