//! The arguments for the journal of an App, and the commands for the journal of one that does not run.
//!
//! Exit codes: 0 on success, 1 when the command failed or the journal is damaged, 78 for a journal that needs a newer
//! program, and 2 for wrong usage. Results go to stdout, errors to stderr.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use thiserror::Error;

use super::journal_text::{pretty, time};
use super::past_text::{diff_document, diff_text, event_line, why_text};
use super::rereact::Shown;
use super::state_text::state_text;
use crate::app::history::{
    At, Because, Diff, Difference, Event, Page, Paging, Side, Tracing, Wanted, What, state_tree,
};
use crate::app::rereact::{RereactError, Span};
use crate::app::{App, AppError, Config, JournalPayloads, JournalSync, OnMismatch, drop_from_journal};
use crate::entry::exit_code;
use crate::flow::RowError;
use crate::id::ActorPath;
use crate::journal::{self, JournalError, Live, Moment, Reader};
use crate::printable::{brief, chain, lines, one_line};

/// The arguments of `run` for the journal.
#[derive(Debug, clap::Args)]
pub(super) struct JournalArgs {
    /// Record the App in this directory, so that it goes on where it was when it is started again, whatever ended it
    /// [default: no journal]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// What the journal survives: `process` for the end of the process in any way, `disk` for a loss of power as well
    /// [default: disk]
    #[arg(long, value_name = "SYNC", value_parser = sync)]
    journal_sync: Option<JournalSync>,

    /// How many days the history in the journal is kept, 0 for no history [default: 7]
    #[arg(long, value_name = "DAYS")]
    journal_history_days: Option<u32>,

    /// The size to which the history in the journal grows, in MiB, 0 for no history [default: 1024]
    #[arg(long, value_name = "MIB")]
    journal_history: Option<u64>,

    /// Handling of a record that this program cannot read: `refuse` the start, `park` it and let the Work or Flow begin
    /// anew, or let it begin `fresh` and drop the record [default: refuse]
    #[arg(long, value_name = "HOW", value_parser = on_mismatch)]
    on_mismatch: Option<OnMismatch>,
    /// The values of payloads that the journal keeps: `small` for those of up to 64 KiB and those that were made with
    /// `.durable()`, `all` for every value that a state, an input or a step refers to [default: small]
    #[arg(long, value_name = "WHICH", value_parser = payloads)]
    journal_payloads: Option<JournalPayloads>,
}

impl JournalArgs {
    /// Returns the configuration given by these arguments.
    pub(super) fn config(&self) -> Config {
        Config {
            journal: self.journal.clone(),
            journal_sync: self.journal_sync,
            journal_history_days: self.journal_history_days,
            journal_history_mib: self.journal_history,
            on_mismatch: self.on_mismatch,
            journal_payloads: self.journal_payloads,
            ..Config::default()
        }
    }
}

fn on_mismatch(name: &str) -> Result<OnMismatch, &'static str> {
    match name {
        "refuse" => Ok(OnMismatch::Refuse),
        "park" => Ok(OnMismatch::Park),
        "fresh" => Ok(OnMismatch::Fresh),
        _ => Err(
            "a record that cannot be read can `refuse` the start, be parked (`park`) or be dropped (`fresh`)",
        ),
    }
}

fn sync(name: &str) -> Result<JournalSync, &'static str> {
    match name {
        "process" => Ok(JournalSync::Process),
        "disk" => Ok(JournalSync::Disk),
        _ => Err("the journal survives the end of the `process`, or a loss of power (`disk`)"),
    }
}

fn payloads(name: &str) -> Result<JournalPayloads, &'static str> {
    match name {
        "small" => Ok(JournalPayloads::Small),
        "all" => Ok(JournalPayloads::All),
        _ => Err("the journal keeps `small` values of payloads, or `all`"),
    }
}

/// A command for the journal of an App that does not run.
#[derive(Debug, clap::Subcommand)]
pub(super) enum JournalCommand {
    /// Verify a journal, and find out whether this program can take over its App; nothing is started or changed
    Check {
        /// The directory of the journal
        dir: PathBuf,

        /// The App's own arguments, on which its root may depend [default: none]
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Save what can be read of a damaged journal to a new one, and list what is lost
    Repair {
        /// The directory of the damaged journal, which stays as it is
        dir: PathBuf,

        /// The directory of the new journal
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Delete what is recorded of a Work or Flow, and of all that is below it
    Drop {
        /// The directory of the journal
        dir: PathBuf,

        /// The path of the Work or Flow
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        path: String,
    },
    /// Show what happened, the oldest first
    History {
        /// The directory of the journal
        dir: PathBuf,

        /// The path of a Work or Flow: what happened to it and below it [default: everything]
        path: Option<String>,

        /// The position to begin at [default: the newest events are shown]
        #[arg(long, value_name = "POSITION")]
        from: Option<u64>,

        /// The last position to show [default: the last one]
        #[arg(long, value_name = "POSITION")]
        to: Option<u64>,

        /// The number of events to show, 0 for all
        #[arg(long, default_value_t = 100)]
        limit: usize,

        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the state, or a part of it, at some moment
    State {
        /// The directory of the journal
        dir: PathBuf,

        /// The path of a Flow, a Work or a field, such as team.train [default: everything]
        path: Option<String>,

        /// A position, or a time such as 2026-11-24T19:00:00Z [default: the last position]
        #[arg(long, value_name = "POSITION|TIME")]
        at: Option<At>,

        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the states at two moments differ
    Diff {
        /// The directory of the journal
        dir: PathBuf,

        /// The earlier moment: a position, or a time
        a: At,

        /// The later moment: a position, or a time
        b: At,

        /// The path of a Flow, a Work or a field: what differs there and below it [default: everything]
        #[arg(long)]
        path: Option<String>,

        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what led to a run: its request, what the Flow saw then, and what led to that
    Why {
        /// The directory of the journal
        dir: PathBuf,

        /// The path of the Work
        work: String,

        /// The number of the run, as `history` shows it
        run: u64,

        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Call the Flows of this program once more on what they saw at each recorded reaction, and show what they ask for
    /// differently now; the exit code is 1 if one does
    Rereact {
        /// The directory of the journal
        dir: PathBuf,

        /// A position, a time such as 2026-11-24T19:00:00Z, or a range of these such as 17..40, 17.. or ..40
        /// [default: all that the history has]
        #[arg(long, value_name = "RANGE")]
        at: Option<Span>,

        /// Write JSON
        #[arg(long)]
        json: bool,

        /// The App's own arguments, on which its root may depend [default: none]
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Make the journal of a new App that begins at an old moment of this one
    Fork {
        /// The directory of the journal, which stays as it is
        dir: PathBuf,

        /// The moment: a position, or a time such as 2026-11-24T19:00:00Z
        #[arg(long, value_name = "POSITION|TIME")]
        at: At,

        /// The directory of the new journal
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
}

impl JournalCommand {
    /// Returns the App's own arguments if the command constructs the root.
    pub(super) fn args(&self) -> Option<&[OsString]> {
        match self {
            Self::Check { args, .. } | Self::Rereact { args, .. } => Some(args),
            _ => None,
        }
    }
}

/// The failure of a command.
#[derive(Debug, Error)]
enum ToolError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("the result cannot be written")]
    Output(#[from] io::Error),
    #[error("nothing is recorded of `{path}`{known}")]
    NoActor { path: String, known: String },
    #[error("there is nothing at `{path}` at either moment")]
    NoPart { path: String },
    #[error("the state at position {position} has nothing at `{path}`")]
    NoState { path: String, position: u64 },
    #[error("the journal begins after {0}; `journal history` shows from which position it can be read")]
    TooEarly(String),
    #[error(
        "the history has no run {run} of `{work}`; `journal history DIR {work}` lists the runs that it has"
    )]
    NoRun { work: String, run: u64 },
    #[error(transparent)]
    Rereact(#[from] RereactError),
    /// The result says how.
    #[error("a reaction asks for something else than it did then")]
    Differs,
    /// The result says what is wrong.
    #[error("the journal cannot be used as it is")]
    Unusable,
}

impl From<JournalError> for ToolError {
    fn from(error: JournalError) -> Self {
        Self::App(AppError::Journal(error.into()))
    }
}

/// Runs a command, for a journal that `app` is or was to be recorded in.
pub(super) fn run(app: App, command: &JournalCommand) -> ExitCode {
    // Not locked: constructors and Flows, which are called on another thread, may print.
    let mut out = io::BufWriter::new(io::stdout());
    let done = carry_out(app, command, &mut out).and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe, as `head` does.
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = out.flush();
            // What differs was shown.
            if !matches!(error, ToolError::Differs) {
                eprintln!("error: {}", lines(&chain(&error)));
            }
            ExitCode::from(match &error {
                ToolError::App(error) | ToolError::Rereact(RereactError::App(error)) => exit_code(error),
                _ => 1,
            })
        }
    }
}

fn carry_out(app: App, command: &JournalCommand, out: &mut dyn Write) -> Result<(), ToolError> {
    match command {
        JournalCommand::Check { dir, .. } => check(app, dir, out),
        JournalCommand::Repair { dir, into } => {
            let repaired = journal::repair(dir, into)?;
            let journal::Repaired { position, rows, states, lost } = repaired;
            writeln!(
                out,
                "saved {rows} rows and {states} states to {}; it continues from position {position}",
                into.display()
            )?;
            listed(out, "lost", &lost)
        }
        JournalCommand::Drop { dir, path } => {
            let dropped = drop_from_journal(dir, &ActorPath::from(path.as_str()))?;
            if dropped.is_empty() {
                let (_, live) = Reader::open(dir)?.live_at(None)?;
                let names = live.actors.keys().filter(|path| !path.is_root());
                let names: Vec<_> = names.map(|path| one_line(path.as_str()).into_owned()).collect();
                let known = if names.is_empty() {
                    String::new()
                } else {
                    format!("; there are {}", names.join(", "))
                };
                return Err(ToolError::NoActor { path: path.clone(), known: brief(&known, 1000) });
            }
            for path in dropped {
                writeln!(out, "dropped {}", one_line(&path.to_string()))?;
            }
            Ok(())
        }
        JournalCommand::History { dir, path, from, to, limit, json } => {
            let path = path.as_deref().map(ActorPath::from);
            let limit = if *limit == 0 { usize::MAX } else { *limit };
            let wanted = Wanted { path, from: *from, to: *to, limit, is_short: false };
            history(&mut Reader::open(dir)?, wanted, *json, out)
        }
        JournalCommand::State { dir, path, at, json } => {
            let (moment, live) = moment_at(&mut Reader::open(dir)?, *at)?;
            let tree = state_tree(&live)?;
            let path = path.as_deref().unwrap_or_default();
            let position = moment.position;
            let part =
                tree.get(path).ok_or_else(|| ToolError::NoState { path: path.to_owned(), position })?;
            let state = part.to_json();
            if *json {
                let (position, time) = (moment.position, time(moment.wall));
                return Ok(pretty(out, &json!({ "position": position, "time": time, "state": state }))?);
            }
            Ok(out.write_all(state_text(&state).as_bytes())?)
        }
        JournalCommand::Diff { dir, a, b, path, json } => {
            let mut reader = Reader::open(dir)?;
            let path = path.as_deref().unwrap_or_default();
            let mut side = |at: &At| {
                let (moment, live) = moment_at(&mut reader, Some(*at))?;
                Ok::<_, ToolError>(Side::new(moment, &live, path)?)
            };
            let (a, b) = (side(a)?, side(b)?);
            let diff = Diff::between(&a, &b);
            shown_diff(&diff.ok_or_else(|| ToolError::NoPart { path: path.to_owned() })?, *json, out)
        }
        JournalCommand::Why { dir, work, run, json } => {
            let mut reader = Reader::open(dir)?;
            let mut tracing = Tracing::new(ActorPath::from(work.as_str()), *run, usize::MAX, false);
            while let Some(filter) = tracing.next() {
                tracing.add(reader.history(&filter)?);
            }
            let chain = tracing.finish().items;
            if chain.is_empty() {
                return Err(ToolError::NoRun { work: work.clone(), run: *run });
            }
            explain(&chain, *json, out)
        }
        JournalCommand::Rereact { dir, at, json, .. } => {
            let mut shown = Shown::new(*json, out);
            let found = app.rereact(dir, at.unwrap_or_default(), &mut |one| shown.add(&one))?;
            shown.finish(&found)?;
            if found.differing == 0 { Ok(()) } else { Err(ToolError::Differs) }
        }
        JournalCommand::Fork { dir, at, into } => {
            let position = match at {
                At::Position(position) => *position,
                At::Time(_) => moment_at(&mut Reader::open(dir)?, Some(*at))?.0.position,
            };
            let (moment, continues) = journal::fork(dir, position, into)?;
            let (position, time, into) = (moment.position, time(moment.wall), into.display());
            Ok(writeln!(
                out,
                "{into} has the App as it was at position {position} ({time}), with an identity of its own; it continues \
                 from position {continues}"
            )?)
        }
    }
}

fn listed<T: fmt::Display>(out: &mut dyn Write, what: &str, items: &[T]) -> Result<(), ToolError> {
    for item in items {
        writeln!(out, "{what}: {}", one_line(&item.to_string()))?;
    }
    Ok(())
}

fn check(app: App, dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let found = journal::check(dir)?;
    let app_id: String = found.app.iter().map(|byte| format!("{byte:02x}")).collect();
    let last = found.wall.map(|wall| format!(" at {}", time(wall))).unwrap_or_default();
    writeln!(out, "journal: {}, format {}", one_line(&dir.display().to_string()), found.format)?;
    writeln!(out, "App: {app_id}, position {}{last}, epoch {}", found.position, found.epoch)?;
    writeln!(
        out,
        "file: {} bytes, WAL {} bytes; {} rows, {} states, {} groups and {} images of history; \
         {} values of payloads with {} bytes",
        found.file_bytes,
        found.wal_bytes,
        found.rows,
        found.states,
        found.groups,
        found.images,
        found.values,
        found.value_bytes
    )?;
    if !found.problems.is_empty() {
        listed(out, "damaged", &found.problems)?;
        writeln!(out, "run `journal repair DIR --into DIR` to save what can be read")?;
        return Err(ToolError::Unusable);
    }
    let taken = app.take_over(dir)?;
    writeln!(out, "recorded: {} Works, {} Flows", taken.works, taken.flows)?;
    listed(out, "added", &taken.added)?;
    listed(out, "removed", &taken.removed)?;
    listed(out, "renamed", &taken.renamed)?;
    listed(out, "parked", &taken.parked)?;
    listed(out, "other keys", &taken.rekeyed)?;
    listed(out, "not readable", taken.unread.as_slice())?;
    listed(out, "refused", &taken.refusals)?;
    if !taken.refusals.is_empty() {
        writeln!(out, "this program cannot take over")?;
        match &taken.renewed {
            Some(renewed) => {
                listed(out, "with --on-mismatch park", renewed)?;
                writeln!(out, "with --on-mismatch fresh, these records are dropped instead")?;
            }
            None => writeln!(out, "--on-mismatch does not help")?,
        }
        return Err(ToolError::Unusable);
    }
    Ok(writeln!(out, "sound, and this program can take over")?)
}

/// Reads the live data at a moment.
fn moment_at(reader: &mut Reader, at: Option<At>) -> Result<(Moment, Live), ToolError> {
    let position = match at {
        None => None,
        Some(At::Position(position)) => Some(position),
        Some(At::Time(wall)) => {
            Some(reader.position_at(wall)?.ok_or_else(|| ToolError::TooEarly(time(wall)))?)
        }
    };
    Ok(reader.live_at(position)?)
}

fn history(reader: &mut Reader, wanted: Wanted, json: bool, out: &mut dyn Write) -> Result<(), ToolError> {
    let (from, to) = (wanted.from.unwrap_or(0), wanted.to.unwrap_or(u64::MAX));
    let is_of_all = wanted.path.is_none();
    let mut paging = Paging::new(wanted);
    while let Some(filter) = paging.next() {
        paging.add(reader.history(&filter)?);
    }
    let Page { mut events, older, newer } = paging.finish();
    if is_of_all {
        let first = events.first().map_or(from, |first| first.position).max(from);
        let last = events.last().map_or(to, |last| if newer.is_some() { last.position } else { to });
        let is_within = |position: u64| {
            (first..=last).contains(&position) || older.is_none() && position <= last && position >= from
        };
        for start in reader.starts()?.into_iter().filter(|start| is_within(start.position)) {
            let what = What::Opened { program: start.program, epoch: start.epoch };
            let (position, wall, path) = (start.position, start.wall, ActorPath::root());
            events.push(Event { position, wall, path, what });
        }
        // An opening follows all that happened at its position.
        events.sort_by_key(|event| (event.position, matches!(event.what, What::Opened { .. })));
    }
    if json {
        let items: Vec<_> = events.iter().map(Event::to_json).collect();
        return Ok(pretty(out, &json!({ "items": items, "older": older, "newer": newer }))?);
    }
    if let Some(older) = older {
        writeln!(out, "older events are left out; --to {older} or a larger --limit shows them")?;
    }
    for event in &events {
        writeln!(out, "{}", event_line(&event.to_json()))?;
    }
    match newer {
        Some(newer) => Ok(writeln!(out, "newer events are left out; --from {newer} shows them")?),
        None => Ok(()),
    }
}

fn shown_diff(diff: &Diff, json: bool, out: &mut dyn Write) -> Result<(), ToolError> {
    let is_stage = |item: &&Difference| matches!(item, Difference::Stage { .. });
    let (stages, state): (Vec<_>, Vec<_>) = diff.items.iter().partition(is_stage);
    let json_of = |items: Vec<&Difference>| items.into_iter().map(Difference::to_json).collect();
    let document = diff_document(diff.from.position, diff.to.position, json_of(stages), json_of(state));
    if json {
        return Ok(pretty(out, &document)?);
    }
    Ok(out.write_all(diff_text(&document).as_bytes())?)
}

fn explain(chain: &[Because], json: bool, out: &mut dyn Write) -> Result<(), ToolError> {
    let items = chain.iter().map(|because| {
        let Because { path, run, request, causes, left_out } = because;
        let causes: Vec<_> = causes.iter().map(Event::to_json).collect();
        let request = request.as_ref().map(Event::to_json);
        json!({ "path": path, "run": run, "request": request, "causes": causes, "left_out": left_out })
    });
    let document = json!({ "items": items.collect::<Vec<_>>() });
    if json {
        return Ok(pretty(out, &document)?);
    }
    Ok(out.write_all(why_text(&document).as_bytes())?)
}
