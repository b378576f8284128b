//! The decision that an App is in a crash loop (pure), and the notes between starts that it needs.
//!
//! # Guarantees
//! - A crash loop is [`CRASHES`] starts in succession, of the same version of the program, that all began within
//!   [`WITHIN`], did not end in good order and made no progress, and at each of whose ends code of the same Work or Flow was
//!   executing. The start that follows is in safe mode.
//! - An end of which the App was not the cause, such as a `kill -9`, counts only if it hits that same code each time, before
//!   any progress. The end of a process that restores, waits, or whose Works wait, never counts.
//! - A start in safe mode counts for nothing. If it is killed, the next one is in safe mode as well. If it is resumed, it is
//!   a start like any other from then on. If it ends in good order, the next start tries again.
//!
//! The notes are in a file of their own ([`CrashEvidence`]), since they are worth nothing after a loss of power.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::encoding;
use super::{Recovered, Start};
use crate::crash_evidence::{CrashEvidence, Left};

/// Name of the file with the notes.
pub(super) const FILE: &str = "journal.evidence";

/// The number of starts that make a crash loop.
const CRASHES: usize = 3;

/// The time within which they all begin.
const WITHIN: Duration = Duration::from_secs(60);

/// The largest number of names that are noted of each end.
const NAMES: usize = 12;

/// A crash loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CrashLoop {
    /// Number of starts.
    pub(crate) starts: usize,
    /// Time from the begin of the first to that of the last.
    pub(crate) within: Duration,
    /// The code that was executing at each of the ends, such as "work `train`".
    pub(crate) suspects: Vec<String>,
}

/// The end of a start that made no progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Crash {
    wall: SystemTime,
    program: String,
    code: Vec<String>,
}

/// The header of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    /// The opening that the rest is about.
    epoch: u64,
    /// Crashes before this opening, one after the other, oldest first.
    crashes: Vec<Crash>,
    /// The loop because of which this opening is in safe mode.
    safe: Option<CrashLoop>,
    has_progressed: bool,
}

impl Notes {
    /// Returns the notes of an opening with this epoch, of a program of this version.
    ///
    /// `last` is the opening before, and `before` are its notes with the code that was executing at its end.
    fn of(epoch: u64, program: &str, last: Option<&Start>, before: Option<(Self, Vec<String>)>) -> Self {
        let new = Self { epoch, ..Self::default() };
        let Some((last, (mut before, mut code))) = last.zip(before) else { return new };
        if last.is_clean || last.has_progressed || before.has_progressed || before.epoch != last.epoch {
            return new;
        }
        if let Some(safe) = before.safe {
            let is_same = before.crashes.iter().all(|crash| crash.program == program);
            return if is_same { Self { safe: Some(safe), crashes: before.crashes, ..new } } else { new };
        }
        if code.is_empty() {
            return new;
        }
        code.truncate(NAMES);
        let mut crashes = std::mem::take(&mut before.crashes);
        crashes.push(Crash { wall: last.wall, program: last.program.clone(), code });
        crashes.drain(..crashes.len().saturating_sub(CRASHES));
        let safe = crash_loop(&crashes, program);
        Self { crashes, safe, ..new }
    }
}

/// Returns the loop that crashes make, for a program of this version.
fn crash_loop(crashes: &[Crash], program: &str) -> Option<CrashLoop> {
    let [first, .., last] = crashes else { return None };
    // A clock that was set back is no evidence.
    let within = last.wall.duration_since(first.wall).ok()?;
    if crashes.len() < CRASHES || within > WITHIN || crashes.iter().any(|crash| crash.program != program) {
        return None;
    }
    let is_common = |name: &&String| crashes.iter().all(|crash| crash.code.contains(name));
    let suspects: Vec<_> = first.code.iter().filter(is_common).cloned().collect();
    (!suspects.is_empty()).then_some(CrashLoop { starts: crashes.len(), within, suspects })
}

/// Notes that an App leaves for the next start, to find crash loops.
#[derive(Debug)]
pub(crate) struct CrashNotes {
    notes: Notes,
    evidence: Option<Arc<CrashEvidence>>,
    file: PathBuf,
}

impl CrashNotes {
    /// Reads the notes of the start before in the directory of a journal, whose lock is held, and begins those of this
    /// one. Without notes that can be read, there is no crash loop.
    pub(super) fn begin(directory: &Path, recovered: &Recovered, program: &str) -> Self {
        let file = directory.join(FILE);
        let Left { header, code } = Left::read(&file);
        let length = header.get(..8).and_then(|length| Some(u64::from_le_bytes(length.try_into().ok()?)));
        let end = length.and_then(|length| usize::try_from(length).ok()?.checked_add(8));
        let before = end.and_then(|end| encoding::decode(header.get(8..end)?).ok());
        let before = before.map(|notes| (notes, code));
        let notes = Notes::of(recovered.epoch, program, recovered.starts.last(), before);
        let evidence = match CrashEvidence::create(&file, &header_of(&notes)) {
            Ok(evidence) => Some(Arc::new(evidence)),
            Err(error) => {
                log::warn!(
                    "{} cannot be written, so that a crash loop is not found: {error}",
                    file.display()
                );
                None
            }
        };
        Self { notes, evidence, file }
    }

    /// Returns the loop because of which this start is in safe mode.
    pub(crate) fn crash_loop(&self) -> Option<&CrashLoop> {
        self.notes.safe.as_ref()
    }

    /// Returns the evidence of the code that executes.
    pub(crate) fn evidence(&self) -> Option<Arc<CrashEvidence>> {
        self.evidence.clone()
    }

    /// The App goes on, and leaves safe mode if it is in it: what executes from now on is noted.
    pub(crate) fn go_on(&mut self) {
        if self.notes.safe.take().is_some() {
            self.write();
        }
        if let Some(evidence) = &self.evidence {
            evidence.open();
        }
    }

    /// The App has made progress: nothing more is noted.
    pub(crate) fn has_progressed(&mut self) {
        self.notes.has_progressed = true;
        if let Some(evidence) = &self.evidence {
            evidence.close();
        }
        self.write();
    }

    fn write(&self) {
        let Some(evidence) = &self.evidence else { return };
        if let Err(error) = evidence.set_header(&header_of(&self.notes)) {
            log::warn!("{} cannot be written: {error}", self.file.display());
        }
    }
}

/// Returns the header of the file: the notes behind their length. Notes that cannot be encoded are left out.
fn header_of(notes: &Notes) -> Vec<u8> {
    let encoded = encoding::encode(notes).unwrap_or_default();
    [&(encoded.len() as u64).to_le_bytes()[..], &encoded[..]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The end of a start.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum End {
        Clean,
        /// By a crash or a kill while this code was executing, if any.
        Crash(Option<&'static str>),
        /// As a crash, after progress.
        Progressed(Option<&'static str>),
    }

    /// A life of an App, with the seconds from the start before it.
    #[derive(Debug, Clone, Copy)]
    struct Life {
        after: u64,
        program: &'static str,
        /// Whether safe mode is left, if the App is in it.
        resumes: bool,
        end: End,
    }

    fn name() -> impl Strategy<Value = Option<&'static str>> {
        prop_oneof![4 => Just(Some("work `a`")), 1 => Just(Some("flow `b`")), 1 => Just(None)]
    }

    fn life() -> impl Strategy<Value = Life> {
        let end = prop_oneof![
            1 => Just(End::Clean),
            8 => name().prop_map(End::Crash),
            1 => name().prop_map(End::Progressed),
        ];
        let after = prop_oneof![9 => 0..25_u64, 1 => 60..100_u64];
        let program = prop_oneof![9 => Just("1"), 1 => Just("2")];
        (after, program, any::<bool>(), end).prop_map(|(after, program, resumes, end)| Life {
            after,
            program,
            resumes,
            end,
        })
    }

    /// Starts and ends as the journal and the file record them.
    #[derive(Default)]
    struct Record {
        epoch: u64,
        wall: u64,
        last: Option<Start>,
        left: Option<(Notes, Vec<String>)>,
    }

    impl Record {
        /// Lives a life. Returns true if it began in safe mode.
        fn live(&mut self, life: Life) -> bool {
            self.epoch += 1;
            self.wall += life.after;
            let left = self.left.take();
            let mut notes = Notes::of(self.epoch, life.program, self.last.as_ref(), left);
            let is_safe = notes.safe.is_some();
            let has_begun = !is_safe || life.resumes;
            if has_begun {
                notes.safe = None;
            }
            let (code, has_progressed) = match life.end {
                End::Clean => (None, false),
                End::Crash(code) => (code, false),
                End::Progressed(code) => (code, has_begun),
            };
            let code = code.filter(|_| has_begun);
            self.last = Some(Start {
                epoch: self.epoch,
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(self.wall),
                position: 0,
                program: life.program.to_owned(),
                has_progressed,
                is_clean: life.end == End::Clean,
            });
            notes.has_progressed = has_progressed;
            self.left = Some((notes, code.into_iter().map(str::to_owned).collect()));
            is_safe
        }
    }

    proptest! {
        /// The decision is that of a plain list of all lives, read backwards.
        #[test]
        fn safe_mode_follows_three_like_crashes(lives in prop::collection::vec(life(), 0..40)) {
            let (mut record, mut wall) = (Record::default(), 0);
            // Of each life: its start, its program, its end, whether it was in safe mode to its end, and whether it has left
            // the safe mode of another program.
            let mut known: Vec<(u64, &str, End, bool, bool)> = Vec::new();
            for life in lives {
                wall += life.after;
                let mut crashes = Vec::new();
                for (start, program, end, is_safe, is_other) in known.iter().rev() {
                    match end {
                        _ if *is_safe && *end != End::Clean => {}
                        End::Crash(Some(code)) if crashes.len() < 3 => crashes.push((*start, *code, *program)),
                        _ => break,
                    }
                    if *is_other {
                        break;
                    }
                }
                let is_like = |crash: &(u64, &str, &str)| crash.1 == crashes[0].1 && crash.2 == life.program;
                let is_loop = crashes.len() == 3 && crashes.iter().all(is_like) && crashes[0].0 - crashes[2].0 <= 60;
                let is_other = known.last().is_some_and(|(_, _, end, is_safe, _)| *is_safe && *end != End::Clean)
                    && !is_loop;
                let is_safe = record.live(life);
                prop_assert_eq!(is_safe, is_loop, "{:?} after {:?}", life, known);
                known.push((wall, life.program, life.end, is_safe && !life.resumes, is_other));
            }
        }
    }

    /// The names that the three ends have in common are the suspects.
    #[test]
    fn suspects_are_common_to_all_ends() {
        let crash = |seconds, code: &[&str]| Crash {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            program: "1".to_owned(),
            code: code.iter().map(|&name| name.to_owned()).collect(),
        };
        let crashes = [crash(0, &["a", "b", "c"]), crash(20, &["b", "c"]), crash(60, &["a", "b"])];
        let found = crash_loop(&crashes, "1").unwrap();
        let suspects = vec!["b".to_owned()];
        assert_eq!(found, CrashLoop { starts: 3, within: Duration::from_secs(60), suspects });
        assert_eq!(crash_loop(&crashes, "2"), None);
        assert_eq!(crash_loop(&crashes[1..], "1"), None);
        let others = [crash(0, &["a"]), crash(1, &["b"]), crash(2, &["a", "b"])];
        assert_eq!(crash_loop(&others, "1"), None);
        let slow = [crash(0, &["a"]), crash(30, &["a"]), crash(61, &["a"])];
        assert_eq!(crash_loop(&slow, "1"), None);
        let set_back = [crash(10, &["a"]), crash(5, &["a"]), crash(0, &["a"])];
        assert_eq!(crash_loop(&set_back, "1"), None);
    }

    /// The longest notes fit into the header.
    #[test]
    fn longest_notes_fit_into_the_header() {
        let code = vec!["x".repeat(255); NAMES];
        let crash = Crash { wall: SystemTime::now(), program: "1.2.3".to_owned(), code: code.clone() };
        let safe = CrashLoop { starts: CRASHES, within: WITHIN, suspects: code };
        let notes =
            Notes { epoch: u64::MAX, crashes: vec![crash; CRASHES], safe: Some(safe), has_progressed: true };
        assert!(header_of(&notes).len() < crate::crash_evidence::HEADER, "{}", header_of(&notes).len());
    }
}
