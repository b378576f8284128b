//! Processes of a run: starting and ending them, and their resources according to the system.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use crate::held::children_of;
use crate::records::{DIRECTORY, Event, Held, Recorder, Role};

/// A process that the conductor has started. Killed on drop.
pub(crate) struct Running {
    child: Child,
    recorder: Arc<Recorder>,
    /// True once it was asked to end.
    pub(crate) ending: bool,
    pub(crate) is_stopped: bool,
    status: Option<ExitStatus>,
}

impl Running {
    /// Starts a process whose output is appended to the file `log`.
    pub(crate) fn start(mut command: Command, role: Role, log: &Path, recorder: &Arc<Recorder>) -> Self {
        let out = OpenOptions::new().create(true).append(true).open(log).expect("the run has its directory");
        let err = out.try_clone().expect("there are descriptors left");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        recorder.record(Event::Spawned { child: child.id(), role });
        let recorder = recorder.clone();
        Self { child, recorder, ending: false, is_stopped: false, status: None }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(&mut self, name: &str) {
        if self.has_ended() {
            return;
        }
        match name {
            "STOP" => self.is_stopped = true,
            "CONT" => self.is_stopped = false,
            _ => self.ending = true,
        }
        signal(&self.recorder, self.id(), name);
        if self.is_stopped && self.ending && name != "KILL" {
            self.is_stopped = false;
            signal(&self.recorder, self.id(), "CONT");
        }
    }

    /// True once the process has ended, which is recorded once.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.status.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.recorder.record(Event::Exited {
                child: self.id(),
                code: status.code(),
                signal: status.signal(),
                wanted: self.ending,
            });
            self.status = Some(status);
        }
        self.status.is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Records a signal, then sends it to a process of this run.
pub(crate) fn signal(recorder: &Recorder, process: u32, name: &str) {
    recorder.record(Event::Signalled { child: process, signal: name.to_owned() });
    // The process may have ended meanwhile.
    let _ = Command::new("kill").args(["-s", name, &process.to_string()]).stderr(Stdio::null()).status();
}

/// The processes of single Works of a head.
pub(crate) fn processes_below(head: u32) -> Vec<u32> {
    let alive = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    children_of(head).into_iter().filter(alive).collect()
}

/// The live processes whose environment names this run, except the calling one.
pub(crate) fn processes_of(run: &Path) -> Vec<(u32, String)> {
    let wanted = format!("{DIRECTORY}={}", run.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_of_run = environ.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes());
        if is_of_run && process != std::process::id() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((process, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// Processor time that a process has used, in milliseconds.
pub(crate) fn busy_ms(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // `utime` and `stime` are the 14th and 15th field, in hundredths of a second; two fields come before these.
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) * 10
}

/// The present resources of a process.
pub(crate) fn held(process: u32, payloads: &Path, works: u64) -> Held {
    let count =
        |what: &str| std::fs::read_dir(format!("/proc/{process}/{what}")).map_or(0, Iterator::count) as u64;
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Held {
        descriptors: count("fd"),
        threads: count("task"),
        memory: pages.unwrap_or_default() * 4096,
        works,
        entries: entries(payloads).len() as u64,
        ..Held::default()
    }
}

/// The files and directories below a directory.
pub(crate) fn entries(directory: &Path) -> Vec<String> {
    let mut left = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            found.push(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    found
}

/// The descriptors and threads of a process by name, for a report.
pub(crate) fn in_detail(process: u32) -> String {
    let all =
        |what: &str| std::fs::read_dir(format!("/proc/{process}/{what}")).into_iter().flatten().flatten();
    let descriptors =
        all("fd").filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string()));
    // Sockets and pipes differ only by their number.
    let descriptors =
        descriptors.map(|name| name.split_once(":[").map_or(name.clone(), |(kind, _)| kind.to_owned()));
    let threads = all("task").filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
    let threads = threads.map(|name| format!("thread {}", name.trim()));
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    descriptors.chain(threads).for_each(|name| *counts.entry(name).or_default() += 1);
    counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// The text of a log.
pub(crate) fn log_of(path: &Path) -> String {
    let mut text = Vec::new();
    let _ = File::open(path).and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut text));
    String::from_utf8_lossy(&text).into_owned()
}
