//! The record of what the bodies of runs did: a file to which all processes of a test append, independent of the
//! journal.
//!
//! A line begins with [`BEGIN`], ends with a newline, and is written by one `write` to a file in append mode. A process
//! that is killed in this call may leave a part of the line, where it crosses the border of a page, and the next line of
//! any process follows. So may be read what is being written. A line that is cut off does not count; any other line that
//! is not one of these is an error.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// Environment variable with the path of the file.
pub(crate) const VARIABLE: &str = "FLOWRIGHT_TEST_RECORD";

/// First character of a line, which is in no other place.
const BEGIN: char = '>';

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
    let line = format!("{BEGIN}{} {path} {what} {input} {attempt}\n", now());
    record.write_all(line.as_bytes()).expect("the disk has room for the record");
}

/// Reads a record in the order of time.
pub(crate) fn read(file: &Path) -> Vec<Line> {
    lines(&std::fs::read_to_string(file).unwrap_or_default())
}

fn lines(text: &str) -> Vec<Line> {
    let mut parts = text.split(BEGIN);
    assert_eq!(parts.next().unwrap_or_default(), "", "a record begins with a line");
    let parse = |line| Line::parse(line).unwrap_or_else(|| panic!("{line:?} is no line of a record"));
    let mut lines: Vec<_> = parts.filter_map(|part| part.strip_suffix('\n')).map(parse).collect();
    // The sort is stable: lines of the same microsecond keep their order.
    lines.sort_by_key(|line: &Line| line.at);
    lines
}

crate::tests![line_that_was_cut_off_does_not_count, line_that_is_none_is_an_error];

/// Wherever a line is cut off, it does not count, and the lines around it do.
fn line_that_was_cut_off_does_not_count() {
    let (first, second) = (">12 a step 1 1\n", ">345 b end 22 1\n");
    for length in 0..second.len() {
        for after in ["", first] {
            let read = lines(&[first, &second[..length], after].concat());
            let paths: Vec<_> = read.iter().map(|line| (line.at, &*line.path, line.input)).collect();
            assert_eq!(paths, vec![(12, "a", 1); if after.is_empty() { 1 } else { 2 }], "{length} {after:?}");
        }
    }
    assert_eq!(lines(&[first, second].concat()).len(), 2);
}

fn line_that_is_none_is_an_error() {
    for text in
        [">12 a step 1\n", ">12 a step 1 1\n7 a step 2 1\n", "12 a step 1 1\n", ">12 a rests 1 1\n", ">\n"]
    {
        assert!(std::panic::catch_unwind(|| lines(text)).is_err(), "{text:?}");
    }
}
