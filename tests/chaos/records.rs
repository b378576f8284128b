//! The records of one run: one JSON line for each event, written by all processes that take part.
//!
//! Each process appends to a file of its own, which it opens first, so that a process that is short of descriptors can
//! still record. A line is written by one `write`: a process that is killed, or whose disk is full, leaves whole lines and
//! at most a part of a last one, without a newline.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// The environment variable that names the directory of the run.
pub(crate) const DIRECTORY: &str = "FLOWRIGHT_CHAOS_DIR";

/// One event, with its time and process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Microseconds of the machine's monotonic clock, which all processes share.
    pub(crate) at: u64,
    pub(crate) pid: u32,
    pub(crate) event: Event,
}

/// Number of one incarnation of a Work, unique within a run.
pub(crate) type Life = u64;

/// The sender number of questions over HTTP.
pub(crate) const HTTP: Life = 0;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    // Recorded by Works.
    /// An incarnation began; `epoch` counts the heads, `generation` the incarnations that its state remembers.
    Began {
        life: Life,
        work: String,
        epoch: u32,
        generation: u64,
    },
    /// An incarnation ended: asked to (`orderly`), or dropped.
    Ended {
        life: Life,
        orderly: bool,
    },
    /// A handler is about to panic, which ends only its incarnation.
    Panicking {
        life: Life,
    },
    /// A message is about to be sent.
    Trying {
        life: Life,
        id: String,
        to: String,
        epoch: u32,
        kind: Kind,
    },
    /// The result of sending the message.
    Sent {
        id: String,
        outcome: Outcome,
    },
    /// A handler began with a message.
    Handled {
        life: Life,
        id: String,
    },
    /// A state is about to be published.
    Published {
        life: Life,
        version: u64,
    },
    /// A replica of a service is about to say that it is ready.
    Ready {
        life: Life,
    },
    /// A Work has seen a violation of a promise itself.
    Broken {
        life: Life,
        what: String,
    },
    RunBegan {
        life: Life,
        run: u64,
    },
    RunEnded {
        life: Life,
        run: u64,
    },
    /// A payload was made.
    Made {
        life: Life,
        parcel: String,
        length: u64,
    },
    /// The result of reading a payload.
    Read {
        life: Life,
        parcel: String,
        reading: Reading,
    },

    /// The machine did not schedule a process: a thread that slept for a moment slept longer by this time.
    Stalled {
        micros: u64,
    },

    // Recorded by the Flow.
    /// The Flow sees a state that it has not seen before.
    Saw {
        epoch: u32,
        work: String,
        life: Life,
        generation: u64,
        version: u64,
    },
    /// The Flow sees that a run has succeeded.
    SawRun {
        epoch: u32,
        work: String,
        run: u64,
    },

    // Recorded by the hook of the App.
    /// `count` messages were lost that no handler saw and whose sender was not told so.
    Letter {
        epoch: u32,
        to: String,
        message: String,
        sender: LetterSender,
        reason: String,
        count: u64,
    },

    // Recorded by the conductor.
    /// A process was started.
    Spawned {
        child: u32,
        role: Role,
    },
    /// A process of a Work was found below a head.
    Found {
        child: u32,
        epoch: u32,
    },
    Signalled {
        child: u32,
        signal: String,
    },
    /// A process has ended; `wanted` if the conductor requested it.
    Exited {
        child: u32,
        code: Option<i32>,
        signal: Option<i32>,
        wanted: bool,
    },
    /// A fault begins that disturbs messages from and to a node, the head (`head`) or all processes (`*`).
    Disturbed {
        who: String,
        what: String,
    },
    /// The disturbance ends.
    Calm {
        who: String,
        what: String,
    },
    /// A Work is about to be stopped, started, restarted, added or removed.
    Ordered {
        work: String,
        what: String,
    },
    Phase {
        name: String,
    },
    /// At the end: the result of reaching `to` from `from`, by an address that `from` has from `source`.
    Reached {
        from: String,
        to: String,
        source: String,
        error: Option<String>,
    },
    /// Result of the wait for a Work to be up after the faults.
    Up {
        work: String,
        error: Option<String>,
    },
    /// The resources of a process.
    Measured {
        child: u32,
        phase: String,
        held: Held,
    },
    /// A process or a file that was left at the end.
    Left {
        what: String,
    },
    /// A line of a log that shows a panic or an abort of the runtime.
    Crashed {
        log: String,
        line: String,
    },
    /// The payloads of a node are on a small disk.
    SmallDisk {
        who: String,
    },
    /// A fault that is not possible on this machine.
    Skipped {
        what: String,
        why: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Kind {
    Tell,
    TryTell,
    /// A `try_tell` from a thread of the sender's own.
    Outside,
    /// A `tell_first`.
    First,
    Ask,
    /// An ask whose reply is a stream, which ends with the stream.
    Stream,
    /// An ask by a handler that awaits nothing else.
    Nested,
    /// An ask by a handler that gives it up after a while.
    Beside,
}

impl Kind {
    /// True if there is a reply.
    pub(crate) fn is_ask(self) -> bool {
        matches!(self, Self::Ask | Self::Stream | Self::Nested | Self::Beside)
    }
}

/// The sender of a lost message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum LetterSender {
    Work(String),
    Outside,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The `tell` was accepted.
    Accepted,
    /// The `ask` got the right answer.
    Answered,
    /// The error says that no handler has seen the message.
    NotHandled(String),
    /// The error says that a handler may have seen the message.
    Unclear(String),
    /// The error says that the Works of this cycle wait for each other. A handler may have seen the message.
    Deadlock(Vec<String>),
    /// The sender gave up before it got a result.
    Cancelled,
    /// A result that must never happen, such as a wrong answer.
    Wrong(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reading {
    /// The content has the checksum that its maker recorded.
    Verified,
    /// The content has another checksum.
    Different,
    /// The error says that the value is lost.
    Lost(String),
    /// The error says that there was no room.
    NoRoom(String),
    /// The value did not arrive in time.
    Late,
    /// The reader was ended before.
    Cancelled,
    /// Any other error.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Head { epoch: u32 },
    Node { name: String },
}

/// The resources of a process at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    /// Resident memory in bytes.
    pub(crate) memory: u64,
    /// Number of Works in the process.
    pub(crate) works: u64,
    /// Files and directories below its directory for payloads.
    pub(crate) entries: u64,
    /// Processor time in milliseconds, over the period of measurement.
    pub(crate) busy_ms: u64,
    /// Length of the period of measurement, in milliseconds.
    pub(crate) measured_ms: u64,
}

/// The time on the machine's monotonic clock, in microseconds.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// The directory of the run that this process takes part in.
pub(crate) fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY).map(PathBuf::from).expect("a process of a run is told its directory")
}

/// Appends records to the file of one process.
pub(crate) struct Recorder(File);

impl Recorder {
    pub(crate) fn new(run: &Path) -> Self {
        let path = run.join("records").join(format!("{}-{}.jsonl", std::process::id(), now()));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Self(file.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    pub(crate) fn record(&self, event: Event) {
        let record = Record { at: now(), pid: std::process::id(), event };
        let mut line = serde_json::to_vec(&record).expect("a record is plain data");
        line.push(b'\n');
        (&self.0).write_all(&line).expect("the records' disk has room");
    }
}

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Opens the file of this process.
pub(crate) fn open() {
    RECORDER.get_or_init(|| Recorder::new(&directory()));
}

/// Records an event of this process, which has called [`open`].
pub(crate) fn record(event: Event) {
    RECORDER.get().expect("the records were opened first").record(event);
}

/// Returns a number that is unique within a run.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u64::from(std::process::id()) * 10_000_000 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Reads all records of a run in the order of time. A last line without a newline was cut off, and does not count.
pub(crate) fn read(run: &Path) -> Vec<Record> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(run.join("records")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let record = serde_json::from_str(line);
            all.push(record.unwrap_or_else(|error| panic!("{}: {error}: {line}", entry.path().display())));
        }
    }
    // The sort is stable: events of one process at the same microsecond keep their order.
    all.sort_by_key(|record: &Record| record.at);
    all
}
