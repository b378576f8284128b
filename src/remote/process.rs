//! Works with a process of their own: the same program, started again, joined over a Unix socket.
//!
//! # Guarantees
//! - Whatever ends the process ends one Work: its failure says how the process ended. What the Work had published
//!   and reported before is taken in first.
//! - One that hangs, or is not heard for another reason, has the grace period to come back, as a node has; then it is ended.
//! - The process ends when its Work is over, and when the head does. Signals that ask it to end it leaves to the head.
//! - With the process ends its process group, which has all that it has started and that has not left the group.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::Level;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::bridge::Bridge;
use super::child_output::{LastLines, Printed, copy};
use super::head::Head;
use super::process_group::ProcessGroup;
use super::process_id::is_stopped;
use super::socket_directory::{self, token_file};
use crate::descriptors;
use crate::fence;
use crate::id::{ActorPath, AppId, unique};
use crate::transport::{Endpoint, Listener, TOKEN_VARIABLE, TransportError};
use crate::work::{Commands, Failure, Gpus, LaunchSpec, Outbox, Place, Reason, Report, visibility};

/// How long a process may take to end by itself.
const ORDERLY: Duration = Duration::from_secs(1);
/// How often it is looked whether a socket is there again.
const RESTORED: Duration = Duration::from_millis(5);
/// How long the pipes of a process that has ended are read.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(500);

/// How the program is started again.
#[derive(Clone)]
pub(crate) struct ProcessCommand {
    /// Makes the command, to which `node --join …` is added.
    pub(crate) program: Arc<dyn Fn() -> std::io::Result<Command> + Send + Sync>,
    /// What comes after that.
    pub(crate) arguments: Vec<String>,
}

pub(super) struct Processes {
    command: ProcessCommand,
    /// Locked while it is made.
    socket: AsyncMutex<Option<PathBuf>>,
    running: Mutex<HashMap<String, Process>>,
    /// How many there are, those included of which nothing is expected any more.
    alive: watch::Sender<usize>,
}

struct Process {
    /// What it is started for, until it has joined.
    starting: Option<Starting>,
    path: ActorPath,
    kill: Arc<Notify>,
    /// Whether it has ended.
    gone: bool,
    /// How it ended, once that is known.
    ended: Option<String>,
    /// The Work that was on it, once its session is over.
    lost: Option<Option<Arc<Outbox>>>,
}

/// What a process is started for.
pub(super) struct Starting {
    pub(super) what: LaunchSpec,
    /// The commands for the Work until the process has joined.
    pub(super) commands: Arc<CommandsToCome>,
}

/// Keeps the commands for an incarnation until its process has joined.
#[derive(Default)]
pub(super) struct CommandsToCome(Mutex<Coming>);

#[derive(Default)]
struct Coming {
    blob: Vec<crate::work::Command>,
    there: Option<Arc<dyn Commands>>,
}

impl CommandsToCome {
    /// Passes on what was kept, and what comes from now on.
    pub(super) fn go_to(&self, there: &Arc<dyn Commands>) {
        let mut coming = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever commands meanwhile waits for the lock, so that the order stays.
        coming.blob.drain(..).for_each(|command| there.command(command));
        coming.there = Some(there.clone());
    }
}

impl Commands for CommandsToCome {
    fn command(&self, command: crate::work::Command) {
        let mut coming = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &coming.there {
            Some(there) => there.command(command),
            None => coming.blob.push(command),
        }
    }
}

impl Processes {
    pub(super) fn new(command: ProcessCommand) -> Self {
        Self {
            command,
            socket: AsyncMutex::new(None),
            running: Mutex::default(),
            alive: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Process>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process for this incarnation.
    pub(super) fn start(&self, head: &Arc<Head>, what: LaunchSpec) {
        let name = format!("process-{:016x}", unique());
        let kill = Arc::new(Notify::new());
        let killer = kill.clone();
        what.abort.tell(move || killer.notify_one());
        let (app, path, gpus) = (what.app, what.path.clone(), what.gpus.clone());
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
        self.lock().insert(name.clone(), process);
        self.alive.send_modify(|alive| *alive += 1);
        let of_process = head.clone();
        head.bridge.spawn(move || async move {
            attend(of_process.clone(), name, app, path, gpus, kill).await;
            of_process.processes.alive.send_modify(|alive| *alive -= 1);
        });
    }

    pub(super) fn expects(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|process| process.starting.is_some())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// The Work that a process is for.
    pub(super) fn path_of(&self, name: &str) -> Option<ActorPath> {
        self.lock().get(name).map(|process| process.path.clone())
    }

    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.lock().get(name).is_none_or(|process| process.gone)
    }

    fn gone(&self, name: &str) {
        if let Some(process) = self.lock().get_mut(name) {
            process.gone = true;
        }
    }

    /// A node has joined: what is to run there, if it is one of these.
    pub(super) fn joined(&self, name: &str) -> Option<Starting> {
        self.lock().get_mut(name)?.starting.take()
    }

    /// The session with a process is over, and this Work had not ended.
    pub(super) fn lost(&self, name: &str, work: Option<Arc<Outbox>>) {
        let mut running = self.lock();
        if let Some(process) = running.get_mut(name) {
            process.lost = Some(work);
            process.kill.notify_one();
            settle(&mut running, name);
        }
    }

    fn ended(&self, name: &str, how: String) {
        let mut running = self.lock();
        if let Some(process) = running.get_mut(name) {
            process.ended = Some(how);
            settle(&mut running, name);
        }
    }

    /// Ends all of them, and waits until they have ended, so that none is left behind.
    pub(super) async fn end(&self) {
        self.lock().drain().for_each(|(_, process)| process.kill.notify_one());
        let mut alive = self.alive.subscribe();
        let _ = timeout(ORDERLY + ORDERLY, alive.wait_for(|alive| *alive == 0)).await;
        if let Some(directory) = self.socket.lock().await.as_deref().and_then(Path::parent) {
            // It is in the directory for temporary files in any case.
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    /// The socket that processes join at, with the token beside it.
    async fn socket(&self, head: &Arc<Head>) -> Result<PathBuf, TransportError> {
        let mut made = self.socket.lock().await;
        if let Some(socket) = &*made {
            match restore(socket, &head.bridge).await {
                Ok(()) => return Ok(socket.clone()),
                Err(error) => log::warn!("processes of Works join at another socket from now on: {error}"),
            }
        }
        let socket = socket_directory::make()
            .await
            .map_err(|(directory, source)| TransportError::directory(&directory, source))?;
        let endpoint = Endpoint::Unix(socket.clone());
        let bridge = &head.bridge;
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

/// Has the directory, the token and the socket be there again where they were removed.
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

/// Reports the death of the Work once both are known: how the process ended, and what was on it.
fn settle(running: &mut HashMap<String, Process>, name: &str) {
    let Some(process) = running.get_mut(name) else { return };
    let Some(how) = &process.ended else { return };
    let work = match (process.starting.take(), process.lost.take()) {
        (Some(starting), _) => Some(starting.what.outbox),
        (None, Some(work)) => work,
        // What it said last has not been read yet.
        (None, None) => return,
    };
    if let Some(outbox) = work {
        let message = format!("the process of work `{}` {how}", process.path);
        outbox.report(Report::Died { failure: Failure { reason: Reason::ProcessDied, message } });
    }
    running.remove(name);
}

/// Lives as long as the process.
async fn attend(head: Arc<Head>, name: String, app: AppId, path: ActorPath, gpus: Gpus, kill: Arc<Notify>) {
    let socket = match head.processes.socket(&head).await {
        Ok(socket) => socket,
        Err(error) => return head.processes.ended(&name, format!("could not be started: {error}")),
    };
    let program = fence::call(|| (head.processes.command.program)());
    let program = program.unwrap_or_else(|panic| {
        Err(io::Error::other(format!("what `App::process` was given panicked: {panic}")))
    });
    let command = program.map(|mut command| {
        // Ctrl-C is for the head, which then stops its Works in good order.
        command.process_group(0);
        command.arg("node").arg("--join").arg(Endpoint::Unix(socket.clone()).to_string());
        command.arg("--name").arg(&name).args(&head.processes.command.arguments);
        command.env_remove(TOKEN_VARIABLE);
        if !gpus.indices().is_empty() {
            command.envs(visibility(gpus.indices()));
        }
        if head.bridge.security().token().is_some() {
            command.arg("--token-file").arg(token_file(&socket));
        }
        // Where nodes pull values from it; at which address of this machine, they know from the head's.
        if let Some(Endpoint::Tcp(address)) = head.endpoint()
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
        // A service manager that signals every process may do so before this one can catch anything.
        with_signals_blocked(|| command.spawn())
    });
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let hint = descriptors::hint(&error);
            return head.processes.ended(&name, format!("could not be started: {error}{hint}"));
        }
    };
    let node: Arc<str> = Arc::from(head.bridge.me().name.as_str());
    let last = LastLines::default();
    let said = |level, target| {
        let last = (target == "stderr").then(|| last.clone());
        Printed { level, app, work: path.clone(), node: node.clone(), target, last }
    };
    let out = child.stdout.take().map(|pipe| copy(pipe, tokio::io::stdout(), said(Level::Info, "stdout")));
    let err = child.stderr.take().map(|pipe| copy(pipe, tokio::io::stderr(), said(Level::Warn, "stderr")));
    let printed: Vec<_> = [out.map(tokio::spawn), err.map(tokio::spawn)].into_iter().flatten().collect();
    // Also where this is dropped, it goes before the process, whose id no other has until then.
    let Some(group) = ProcessGroup::of(&child) else {
        return head.processes.ended(&name, "ended before it was waited for".to_owned());
    };
    let by_force = tokio::select! {
        () = group.leader_ended(&mut child) => false,
        () = kill.notified() => {
            // One that is stopped does not end by itself, however long that is waited for.
            let patience = if child.id().is_some_and(is_stopped) { Duration::ZERO } else { ORDERLY };
            timeout(patience, group.leader_ended(&mut child)).await.is_err()
        }
    };
    // It ends the process as well, where that has not ended by itself.
    drop(group);
    let status = child.wait().await;
    // The next incarnation may have them.
    drop(gpus);
    head.processes.gone(&name);
    head.process_gone(&name);
    // What it printed last comes before its end, unless a child of its own keeps the pipe.
    let _ = tokio::time::timeout(LAST_WORDS, futures::future::join_all(printed)).await;
    let how = match by_force {
        true => "was ended: nothing was heard from it for the grace period".to_owned(),
        false if head.processes.expects(&name) => {
            let said = last.take();
            let said = if said.is_empty() { said } else { format!("; it said: {said}") };
            format!("{}{said}", in_words(status))
        }
        false => in_words(status),
    };
    head.processes.ended(&name, how);
}

/// Starts a process in which SIGINT, SIGTERM and SIGHUP are blocked until it catches them.
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
