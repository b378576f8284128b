//! Works with a process of their own: the same program, started again and joined over a Unix socket.
//!
//! # Guarantees
//! - Whatever ends such a process ends one Work, whose failure says how the process ended. States and reports that the
//!   Work had sent before are processed first.
//! - A process that hangs, or is unreachable for another reason, has the grace period to come back, like a node; then
//!   it is killed.
//! - The process ends when its Work is over, and when the head ends. It leaves termination signals to the head.
//! - If the head has a journal and is killed, the process goes on, and ends by itself when no head has returned within the
//!   grace period. The next head waits for it as long, and then kills it before it is replaced. A process that comes back
//!   and whose Work is not awaited ends.
//! - With the process ends its process group: all processes that it has started and that have not left the group.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::Level;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::begun::BegunMark;
use super::bridge::Bridge;
use super::child_output::{LastLines, Printed, copy};
use super::process_group::{KeptGroup, ProcessGroup};
use super::process_home::{KeptProcess, ProcessHome, STREAMS};
use super::process_id::{ProcessId, is_stopped};
use super::socket_directory::{self, SOCKET, token_file};
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
/// Time that a process has beyond the grace period to come back to the next head, since it ends by itself.
const LEEWAY: Duration = Duration::from_secs(2);

/// Prefix of the names of processes, which have 16 hexadecimal digits after it.
const PREFIX: &str = "process-";

/// Returns the command that starts this program again, to which `node --join …` is appended.
pub(crate) type ProcessProgram = Arc<dyn Fn() -> std::io::Result<Command> + Send + Sync>;

/// The command that starts this program again.
#[derive(Clone)]
pub(crate) struct ProcessCommand {
    pub(crate) program: ProcessProgram,
    /// Arguments after those.
    pub(crate) arguments: Vec<String>,
}

/// The processes of single Works. It reports the end of each to whoever had it started.
pub(super) struct Processes {
    bridge: Arc<Bridge>,
    command: ProcessCommand,
    /// The directory for processes that outlive the head, if it has a journal.
    home: Option<ProcessHome>,
    /// Called with the path of a Work whose process was kept and has not come back with it.
    not_kept: OnceLock<Box<dyn Fn(ActorPath) + Send + Sync>>,
    /// The socket that processes join at. Locked while it is created.
    socket: AsyncMutex<Option<PathBuf>>,
    running: Mutex<Table>,
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
    /// Set for a process that an earlier head has started.
    returning: Option<Returning>,
}

/// A process that an earlier head has started.
struct Returning {
    has_joined: bool,
    /// True once it has described its Work.
    is_described: bool,
    /// Notified then.
    described: Arc<Notify>,
}

/// A process that has joined.
pub(super) enum Joined {
    /// The head has started it for this launch.
    Started(Starting),
    /// An earlier head has started it, and it has kept its Work.
    Returned,
}

/// Returns true for a name that only processes of single Works have.
pub(super) fn is_process_name(name: &str) -> bool {
    let number = name.strip_prefix(PREFIX);
    number.is_some_and(|number| number.len() == 16 && number.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The launch that a process is started for.
pub(super) struct Starting {
    pub(super) what: LaunchSpec,
    /// Commands for the Work until the process has joined.
    pub(super) commands: Arc<CommandsToCome>,
    /// The mark of the questions that the process has begun.
    pub(super) begun: Option<Arc<BegunMark>>,
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
    pub(super) fn new(command: ProcessCommand, home: Option<ProcessHome>, bridge: Arc<Bridge>) -> Self {
        Self {
            bridge,
            command,
            home,
            not_kept: OnceLock::new(),
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
        let name = format!("{PREFIX}{:016x}", unique());
        let kill = Arc::new(Notify::new());
        let killer = kill.clone();
        what.abort.tell(move || killer.notify_one());
        let (path, gpus) = (what.path.clone(), what.gpus.clone());
        let commands: Arc<CommandsToCome> = Arc::default();
        what.mailbox.launched_elsewhere(commands.clone());
        // Messages wait for the process.
        what.mailbox.set_place(Place::Pending);
        let process = Process {
            starting: Some(Starting { what, commands, begun: None }),
            path: path.clone(),
            kill: kill.clone(),
            gone: false,
            ended: None,
            lost: None,
            returning: None,
        };
        self.running.lock().0.insert(name.clone(), process);
        self.alive.send_modify(|alive| *alive += 1);
        let processes = self.clone();
        self.bridge.spawn(move || async move {
            let attended = Attended { name, path, gpus, kill, listening };
            attend(&processes, attended, on_end).await;
            processes.alive.send_modify(|alive| *alive -= 1);
        });
    }

    /// Waits for processes that an earlier head has started, with the devices that they have. Those that are not wanted are
    /// killed. `on_end` is called with the name of each when it has ended, and `not_kept` with the path of a Work whose
    /// process has not come back with it.
    ///
    /// # Errors
    /// When the socket cannot be created to which they return.
    pub(super) async fn expect_back(
        self: &Arc<Self>,
        kept: Vec<(KeptProcess, Gpus, bool)>,
        on_end: impl Fn(&str) + Clone + Send + 'static,
        not_kept: impl Fn(ActorPath) + Send + Sync + 'static,
    ) -> Result<(), TransportError> {
        let _ = self.not_kept.set(Box::new(not_kept));
        for (process, gpus, is_wanted) in kept {
            let (kill, described) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            if !is_wanted {
                kill.notify_one();
            }
            let entry = Process {
                starting: None,
                path: process.path.clone(),
                kill: kill.clone(),
                gone: false,
                ended: None,
                lost: None,
                returning: Some(Returning {
                    has_joined: false,
                    is_described: false,
                    described: described.clone(),
                }),
            };
            self.running.lock().0.insert(process.name.clone(), entry);
            self.alive.send_modify(|alive| *alive += 1);
            let (processes, on_end) = (self.clone(), on_end.clone());
            self.bridge.spawn(move || async move {
                attend_kept(&processes, process, gpus, [kill, described], on_end).await;
                processes.alive.send_modify(|alive| *alive -= 1);
            });
        }
        let (made, is_made) = tokio::sync::oneshot::channel();
        let processes = self.clone();
        // The receiver waits for it.
        self.bridge.spawn(move || async move { drop(made.send(processes.socket().await.map(drop))) });
        is_made.await.unwrap_or(Ok(()))
    }

    /// Makes the mark of the questions that a process begins.
    fn make_mark(&self, socket: &Path, name: &str) -> Option<Arc<BegunMark>> {
        let made = BegunMark::create(socket, name).map(Arc::new);
        let mark = made.inspect_err(|error| log::debug!("no mark of begun questions: {error}")).ok()?;
        let mut running = self.running.lock();
        if let Some(starting) = running.0.get_mut(name).and_then(|process| process.starting.as_mut()) {
            starting.begun = Some(mark.clone());
        }
        Some(mark)
    }

    /// Returns true if a process with this name may join for the first time.
    pub(super) fn expects(&self, name: &str) -> bool {
        self.running.lock().0.get(name).is_some_and(|process| process.starting.is_some())
    }

    /// Returns what kills the process of a Work.
    pub(super) fn killer(&self, name: &str) -> Option<Arc<Notify>> {
        self.running.lock().0.get(name).map(|process| process.kill.clone())
    }

    /// Records that a process has described its Work, which the head has taken over or refused.
    pub(super) fn described(&self, name: &str) {
        let described = self.running.lock().described(name);
        described.iter().for_each(|described| described.notify_one());
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.running.lock().0.contains_key(name)
    }

    /// Returns the path of the Work that a process was started for.
    pub(super) fn path_of(&self, name: &str) -> Option<ActorPath> {
        self.running.lock().0.get(name).map(|process| process.path.clone())
    }

    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.running.lock().0.get(name).is_none_or(|process| process.gone)
    }

    fn gone(&self, name: &str) {
        if let Some(process) = self.running.lock().0.get_mut(name) {
            process.gone = true;
        }
    }

    /// Records that a node has joined. Returns `None` unless the node is such a process.
    pub(super) fn joined(&self, name: &str) -> Option<Joined> {
        self.running.lock().joined(name)
    }

    /// Records that the session with a process is over. `work` is the Work that had not ended, if any.
    pub(super) fn lost(&self, name: &str, work: Option<Arc<Outbox>>) {
        let given_up = self.running.lock().lost(name, work);
        self.give_up(given_up);
    }

    fn ended(&self, name: &str, how: String) {
        let given_up = self.running.lock().ended(name, how);
        self.give_up(given_up);
    }

    fn give_up(&self, path: Option<ActorPath>) {
        if let (Some(path), Some(not_kept)) = (path, self.not_kept.get()) {
            not_kept(path);
        }
    }

    /// Ends all processes and waits until they have ended, so that none is left behind.
    pub(super) async fn end(&self) {
        self.running.lock().0.drain().for_each(|(_, process)| process.kill.notify_one());
        let mut alive = self.alive.subscribe();
        let _ = timeout(ORDERLY + ORDERLY, alive.wait_for(|alive| *alive == 0)).await;
        if let Some(home) = &self.home {
            return home.remove();
        }
        if let Some(directory) = self.socket.lock().await.as_deref().and_then(Path::parent) {
            // On failure a directory for temporary files keeps the rest.
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    /// Returns the socket that processes join at, with the token beside it; creates both if necessary.
    async fn socket(&self) -> Result<PathBuf, TransportError> {
        let mut made = self.socket.lock().await;
        if let Some(socket) = &*made {
            match self.restore(socket).await {
                Ok(()) => return Ok(socket.clone()),
                Err(error) => log::warn!("processes of Works join at another socket from now on: {error}"),
            }
        }
        let socket = match &self.home {
            Some(home) => home.make(self.bridge.security().token().as_ref()).await,
            None => socket_directory::make().await,
        };
        let socket = socket.map_err(|(path, source)| TransportError::directory(&path, source))?;
        let endpoint = Endpoint::Unix(socket.clone());
        let bridge = &self.bridge;
        self.write_token(&socket)?;
        let listener = Listener::bind(&endpoint, bridge.security().clone(), bridge.limits()).await?;
        spawn_local(bridge.clone().listen(listener));
        Ok(made.insert(socket).clone())
    }

    /// Returns the file with the token for processes.
    fn token_file(&self, socket: &Path) -> PathBuf {
        match &self.home {
            Some(home) => token_file(&home.path().join(SOCKET)),
            None => token_file(socket),
        }
    }

    fn write_token(&self, socket: &Path) -> Result<(), TransportError> {
        let file = self.token_file(socket);
        match self.bridge.security().token() {
            Some(token) if !file.exists() => {
                token.write_new(&file).map_err(|source| TransportError::directory(&file, source))
            }
            _ => Ok(()),
        }
    }

    /// Restores the directory, the token and the socket if they were removed.
    async fn restore(&self, socket: &Path) -> Result<(), TransportError> {
        if let Some(directory) = socket.parent() {
            socket_directory::make_again(directory)
                .map_err(|source| TransportError::directory(directory, source))?;
        }
        self.write_token(socket)?;
        let listening = async {
            while !socket.exists() {
                self.bridge.look_after_sockets();
                sleep(RESTORED).await;
            }
        };
        timeout(ORDERLY, listening).await.map_err(|_| {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            TransportError::directory(socket, missing)
        })
    }

    /// Passes on the output of the process of a Work. Returns the tasks that do so, and the last lines.
    fn pass_on(
        &self,
        path: &ActorPath,
        out: impl AsyncRead + Unpin + Send + 'static,
        err: impl AsyncRead + Unpin + Send + 'static,
    ) -> (Vec<JoinHandle<()>>, LastLines) {
        let node: Arc<str> = Arc::from(self.bridge.me().name.as_str());
        let last = LastLines::default();
        let said = |level, target| {
            let last = (target == "stderr").then(|| last.clone());
            Printed { level, log: self.bridge.log(), work: path.clone(), node: node.clone(), target, last }
        };
        let out = tokio::spawn(copy(out, tokio::io::stdout(), said(Level::Info, "stdout")));
        let err = tokio::spawn(copy(err, tokio::io::stderr(), said(Level::Warn, "stderr")));
        (vec![out, err], last)
    }
}

/// Returns what reads from the end of a FIFO that was opened without blocking.
fn reader(fifo: std::fs::File) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(fifo))
}

/// The processes by name (pure).
///
/// # Guarantees
/// - The death of a Work is reported once its process has ended and its last messages were read.
/// - A Work whose process was to return with it is given up once, after the end of the process, unless the process has
///   described it.
#[derive(Default)]
struct Table(HashMap<String, Process>);

impl Table {
    fn joined(&mut self, name: &str) -> Option<Joined> {
        let process = self.0.get_mut(name)?;
        if let Some(returning) = &mut process.returning {
            returning.has_joined = true;
            return Some(Joined::Returned);
        }
        process.starting.take().map(Joined::Started)
    }

    /// Returns what is to be notified if the process was to return.
    fn described(&mut self, name: &str) -> Option<Arc<Notify>> {
        let returning = self.0.get_mut(name)?.returning.as_mut()?;
        returning.is_described = true;
        Some(returning.described.clone())
    }

    /// Returns the path of the Work if it is given up.
    fn lost(&mut self, name: &str, work: Option<Arc<Outbox>>) -> Option<ActorPath> {
        let process = self.0.get_mut(name)?;
        process.lost = Some(work);
        process.kill.notify_one();
        self.settle(name)
    }

    /// Returns the path of the Work if it is given up.
    fn ended(&mut self, name: &str, how: String) -> Option<ActorPath> {
        self.0.get_mut(name)?.ended = Some(how);
        self.settle(name)
    }

    /// Reports the death of the Work once both are known: how the process ended, and which Work was on it. Returns the path
    /// of the Work if the process was to return with it and has not.
    fn settle(&mut self, name: &str) -> Option<ActorPath> {
        let process = self.0.get_mut(name)?;
        let how = process.ended.as_ref()?;
        let is_absent = process.returning.as_ref().is_some_and(|returning| !returning.has_joined);
        let work = match (process.starting.take(), process.lost.take()) {
            (Some(starting), _) => Some(starting.what.outbox),
            (None, Some(work)) => work,
            (None, None) if is_absent => None,
            // The last messages of the process have not been read yet.
            (None, None) => return None,
        };
        if let Some(outbox) = work {
            let message = format!("the process of work `{}` {how}", process.path);
            outbox.report(Report::Died { failure: Failure::new(Reason::ProcessDied, message) });
        }
        let Process { path, returning, .. } = self.0.remove(name)?;
        let is_awaited = |process: &Process| {
            let returning = process.returning.as_ref();
            returning.is_some_and(|returning| !returning.is_described) && process.path == path
        };
        let is_given_up = returning.is_some_and(|returning| !returning.is_described);
        // A Work may have had two processes for a moment.
        (is_given_up && !self.0.values().any(is_awaited)).then_some(path)
    }
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
    let begun = processes.make_mark(&socket, &name);
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
            command.arg("--token-file").arg(processes.token_file(&socket));
        }
        if let Some(home) = &processes.home {
            command.arg("--kept-in").arg(home.path());
        }
        // The process listens for nodes that pull values, at the address at which they know the head.
        if let Some(Endpoint::Tcp(address)) = &listening
            && let Some((host, _)) = address.rsplit_once(':')
        {
            command.arg("--listen").arg(format!("{host}:0"));
        }
        command
    });
    let mut fifos = Vec::new();
    let child = command.and_then(|command| {
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(home) = &processes.home {
            let (out, from_out) = home.make_fifo(&name, STREAMS[0])?;
            let (err, from_err) = home.make_fifo(&name, STREAMS[1])?;
            command.stdout(out).stderr(err);
            fifos = vec![reader(from_out)?, reader(from_err)?];
        }
        command.kill_on_drop(true);
        // A service manager may signal all processes before the new one has installed its handlers.
        with_signals_blocked(|| command.spawn())
    });
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            processes.home.iter().for_each(|home| home.forget(&name));
            let hint = descriptors::hint(&error);
            return processes.ended(&name, format!("could not be started: {error}{hint}"));
        }
    };
    if let Some(home) = &processes.home
        && let Some(process) = child.id().and_then(ProcessId::of)
    {
        let gpus = gpus.indices().to_vec();
        let process = KeptProcess { name: name.clone(), path: path.clone(), process, gpus };
        if let Err(error) = home.record(&process) {
            log::warn!("the process of work `{path}` will not be found by the next head: {error}");
        }
    }
    let (out, err): (Box<dyn AsyncRead + Unpin + Send>, Box<dyn AsyncRead + Unpin + Send>) =
        match (fifos.pop(), fifos.pop(), child.stdout.take(), child.stderr.take()) {
            (Some(err), Some(out), ..) => (Box::new(out), Box::new(err)),
            (_, _, Some(out), Some(err)) => (Box::new(out), Box::new(err)),
            _ => unreachable!("both streams are piped"),
        };
    let (printed, last) = processes.pass_on(&path, out, err);
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
    begun.iter().for_each(|mark| mark.close());
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
    processes.home.iter().for_each(|home| home.forget(&name));
    processes.ended(&name, how);
}

/// Waits until a process that an earlier head has started has ended.
async fn attend_kept(
    processes: &Processes,
    process: KeptProcess,
    gpus: Gpus,
    [kill, described]: [Arc<Notify>; 2],
    on_end: impl Fn(&str),
) {
    let KeptProcess { name, path, process, .. } = process;
    // Opened at once, so that what is in the FIFOs is not lost when the process ends.
    let fifos = STREAMS.map(|stream| {
        let fifo = processes.home.as_ref()?.open_fifo(&name, stream).and_then(reader);
        fifo.inspect_err(|error| log::debug!("the output of work `{path}` cannot be read: {error}")).ok()
    });
    let mut fifos = Some(fifos);
    let mut printed = Vec::new();
    let mut pass_on = || {
        let Some(fifos) = fifos.take() else { return };
        let streams = STREAMS.iter().zip(fifos).map(|(stream, fifo)| {
            let kept = processes.home.as_ref().map(|home| home.take_kept(&name, stream));
            let kept = io::Cursor::new(kept.unwrap_or_default());
            let rest: Box<dyn AsyncRead + Unpin + Send> = match fifo {
                Some(fifo) => Box::new(fifo),
                None => Box::new(tokio::io::empty()),
            };
            kept.chain(rest)
        });
        let mut streams = streams.collect::<Vec<_>>();
        if let (Some(err), Some(out)) = (streams.pop(), streams.pop()) {
            printed = processes.pass_on(&path, out, err).0;
        }
    };
    let group = KeptGroup::of(process);
    let mut limit = Some(Box::pin(sleep(processes.bridge.settings().grace + LEEWAY)));
    let how = loop {
        let is_described = limit.is_none();
        let late = async {
            match &mut limit {
                Some(limit) => limit.await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            if let Some(group) = &group {
                group.leader_ended().await;
            }
        };
        tokio::select! {
            () = ended => break "has ended; its exit code is unknown, because an earlier head has started it",
            () = late => break "was ended: it did not return to the head within the grace period",
            () = described.notified(), if !is_described => {
                limit = None;
                pass_on();
            }
            () = kill.notified() => {
                // A process that has not joined cannot know that it is to end.
                let patience = if is_described { ORDERLY } else { Duration::ZERO };
                let ends = async {
                    if let Some(group) = &group {
                        group.leader_ended().await;
                    }
                };
                break match (timeout(patience, ends).await, is_described) {
                    (Ok(()), _) => "has ended; its exit code is unknown, because an earlier head has started it",
                    (Err(_), true) => "was ended: no heartbeat within the grace period",
                    (Err(_), false) => "was ended: its Work is not awaited",
                };
            }
        }
    };
    group.into_iter().for_each(KeptGroup::kill);
    drop(gpus);
    processes.gone(&name);
    on_end(&name);
    pass_on();
    let _ = timeout(LAST_WORDS, futures::future::join_all(printed)).await;
    processes.home.iter().for_each(|home| home.forget(&name));
    processes.ended(&name, how.to_owned());
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An event in the life of a process that an earlier head has started.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Event {
        Joins,
        Describes,
        SessionEnds,
        Ends,
    }

    fn kept(path: &ActorPath) -> Process {
        let returning =
            Returning { has_joined: false, is_described: false, described: Arc::new(Notify::new()) };
        Process {
            starting: None,
            path: path.clone(),
            kill: Arc::new(Notify::new()),
            gone: false,
            ended: None,
            lost: None,
            returning: Some(returning),
        }
    }

    proptest! {
        /// Whatever happens in which order, a Work is given up once, after the last of its processes that could have
        /// returned with it has ended, and only if none has described it. Nothing is left of a process that has ended.
        #[test]
        fn work_is_given_up_once_after_its_process(
            events in proptest::collection::vec((0..2_usize, 0..4_usize), 0..24),
        ) {
            let path = ActorPath::from("work");
            let names = ["process-1", "process-2"];
            let mut table = Table::default();
            for name in names {
                table.0.insert(name.to_owned(), kept(&path));
            }
            let (mut happened, mut given_up) = ([vec![], vec![]], 0);
            // In the end every process has ended, and so have the sessions.
            let rest = [0, 1].into_iter().flat_map(|process| [(process, 3), (process, 2)]);
            for (process, event) in events.into_iter().chain(rest) {
                let event = [Event::Joins, Event::Describes, Event::SessionEnds, Event::Ends][event];
                let before: &mut Vec<Event> = &mut happened[process];
                let has = |event| before.contains(&event);
                let name = names[process];
                let is_possible = !has(event) && match event {
                    Event::Joins => !has(Event::Ends),
                    Event::Describes => has(Event::Joins) && !has(Event::SessionEnds),
                    Event::SessionEnds => has(Event::Joins),
                    Event::Ends => true,
                };
                if !is_possible {
                    continue;
                }
                before.push(event);
                let path = match event {
                    Event::Joins => {
                        prop_assert!(matches!(table.joined(name), Some(Joined::Returned)));
                        None
                    }
                    Event::Describes => {
                        prop_assert!(table.described(name).is_some());
                        None
                    }
                    Event::SessionEnds => table.lost(name, None),
                    Event::Ends => table.ended(name, "has ended".to_owned()),
                };
                given_up += usize::from(path.is_some());
                let is_pending = |events: &Vec<Event>| {
                    let is_over = events.contains(&Event::Ends)
                        && (!events.contains(&Event::Joins) || events.contains(&Event::SessionEnds));
                    !is_over && !events.contains(&Event::Describes)
                };
                prop_assert!(path.is_none() || !happened.iter().any(is_pending), "{happened:?}");
            }
            let described = happened.iter().filter(|events| events.contains(&Event::Describes)).count();
            prop_assert!(table.0.is_empty());
            prop_assert!(if described == 0 { given_up == 1 } else { given_up <= 1 }, "{happened:?}: {given_up}");
        }
    }

    /// Only names that the head gives to processes are kept from nodes.
    #[test]
    fn process_names_are_told_from_those_of_nodes() {
        assert!(is_process_name("process-0123456789abcdef"));
        for name in ["process-1", "process-0123456789abcdeg", "process-0123456789abcdef0", "n"] {
            assert!(!is_process_name(name), "{name}");
        }
    }
}
