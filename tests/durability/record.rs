//! The record of what the bodies of runs did: a file to which all processes of a test append, independent of the
//! journal.
//!
//! A line is written by one `write` to a file in append mode: a process that is killed leaves whole lines only.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// Environment variable with the path of the file.
pub(crate) const VARIABLE: &str = "FLOWRIGHT_TEST_RECORD";

/// What a body of a run reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// It begins.
    Begin,
    /// It has made progress.
    Step,
    /// It is about to return an error.
    Fail,
    /// It is about to succeed.
    End,
}

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Time on the machine's monotonic clock, in microseconds.
    pub(crate) at: u64,
    /// Path of the Work.
    pub(crate) path: String,
    pub(crate) what: What,
    pub(crate) input: u64,
    pub(crate) attempt: u32,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let at = fields.next()?.parse().ok()?;
        let path = fields.next()?.to_owned();
        let what = match fields.next()? {
            "begin" => What::Begin,
            "step" => What::Step,
            "fail" => What::Fail,
            "end" => What::End,
            _ => return None,
        };
        let (input, attempt) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self { at, path, what, input, attempt })
    }
}

/// The time on the machine's monotonic clock, which all processes share, in microseconds.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// Appends a line to the record of this process, if it has one.
pub(crate) fn note(path: &str, what: What, input: u64, attempt: u32) {
    static RECORD: OnceLock<Option<File>> = OnceLock::new();
    let record = RECORD.get_or_init(|| {
        let path = std::env::var_os(VARIABLE)?;
        Some(OpenOptions::new().create(true).append(true).open(path).expect("the record can be written"))
    });
    let Some(mut record) = record.as_ref() else { return };
    let what = match what {
        What::Begin => "begin",
        What::Step => "step",
        What::Fail => "fail",
        What::End => "end",
    };
    let line = format!("{} {path} {what} {input} {attempt}\n", now());
    record.write_all(line.as_bytes()).expect("the disk has room for the record");
}

/// Reads a record in the order of time.
pub(crate) fn read(file: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let parse = |line| Line::parse(line).unwrap_or_else(|| panic!("{}: {line:?}", file.display()));
    let mut lines: Vec<_> = text.lines().map(parse).collect();
    // The sort is stable: lines of the same microsecond keep their order.
    lines.sort_by_key(|line: &Line| line.at);
    lines
}
