//! Markers in the output of a Work's process, which tell its head to which run the output belongs.
//!
//! Output reaches the head by a pipe and reports reach it by the session, without an order between the two. So the run
//! is marked in the pipe itself. A marker is an operating system command (OSC), a control sequence that terminals
//! ignore if they do not know it; the head removes it from the output that is stored and shown.

use std::io::{Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

const START: &[u8] = b"\x1b]flowright;run=";
const END: u8 = b'\x07';

/// Most digits of a run's number.
const DIGITS: usize = 20;

/// True if the head of this process reads markers.
static MARKING: AtomicBool = AtomicBool::new(false);

/// Enables the writing of markers.
pub(crate) fn mark_runs() {
    MARKING.store(true, Ordering::Relaxed);
}

/// Marks the output that follows as belonging to this run, or to none.
pub(super) fn mark(run: Option<u64>) {
    if MARKING.load(Ordering::Relaxed) {
        let mark = written(run);
        // A closed pipe has no reader that could need the marker.
        let _ = stdout().write_all(&mark).and_then(|()| stdout().flush());
        let _ = stderr().write_all(&mark);
    }
}

fn written(run: Option<u64>) -> Vec<u8> {
    let run = run.map(|run| run.to_string()).unwrap_or_default();
    [START, run.as_bytes(), &[END]].concat()
}

/// Part of the output: text, or the run of the text that follows.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece<'a> {
    Text(&'a [u8]),
    Run(Option<u64>),
}

/// Parser of markers in a stream.
#[derive(Default)]
pub(crate) struct Marks {
    /// Last bytes of the input, if they may be the beginning of a marker.
    begun: Vec<u8>,
}

impl Marks {
    pub(crate) fn take(&mut self, bytes: &[u8], mut found: impl FnMut(Piece<'_>)) {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let (mut text, mut at) = (0, 0);
        while let Some(next) = all[at..].iter().position(|byte| *byte == START[0]) {
            at += next;
            match look(&all[at..]) {
                Look::Not => at += 1,
                Look::Begun => {
                    self.begun = all.split_off(at);
                    break;
                }
                Look::Mark { run, length } => {
                    found(Piece::Text(&all[text..at]));
                    found(Piece::Run(run));
                    at += length;
                    text = at;
                }
            }
        }
        found(Piece::Text(&all[text..]));
    }

    /// Ends the stream: an incomplete marker is text.
    pub(crate) fn end(self, mut found: impl FnMut(Piece<'_>)) {
        found(Piece::Text(&self.begun));
    }
}

enum Look {
    Not,
    Begun,
    Mark { run: Option<u64>, length: usize },
}

fn look(bytes: &[u8]) -> Look {
    let Some(rest) = bytes.strip_prefix(START) else {
        return if START.starts_with(bytes) { Look::Begun } else { Look::Not };
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = || std::str::from_utf8(&rest[..digits]).ok()?.parse().ok();
    match (rest.get(digits), digits) {
        (None, 0..=DIGITS) => Look::Begun,
        (Some(&END), 0) => Look::Mark { run: None, length: START.len() + 1 },
        (Some(&END), _) => match number() {
            Some(run) => Look::Mark { run: Some(run), length: START.len() + digits + 1 },
            None => Look::Not,
        },
        _ => Look::Not,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the text without markers, and for each marker its position in the text and its run.
    fn read(pieces: &[&[u8]]) -> (Vec<u8>, Vec<(usize, Option<u64>)>) {
        let (mut text, mut runs) = (Vec::new(), Vec::new());
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Text(bytes) => text.extend_from_slice(bytes),
            Piece::Run(run) => runs.push((text.len(), run)),
        };
        let mut marks = Marks::default();
        pieces.iter().for_each(|piece| marks.take(piece, &mut take));
        marks.end(&mut take);
        (text, runs)
    }

    #[test]
    fn what_only_looks_like_a_mark_is_text() {
        for text in [
            "\x1b[31mred\x1b[0m",
            "\x1b]0;a title\x07",
            "\x1b]flowright;run=1x\x07",
            "\x1b]flowright;run=99999999999999999999\x07",
            "\x1b]flowright;run=000000000000000000000000000000000",
            "\x1b\x1b]flowright;",
            "\x1b",
        ] {
            assert_eq!(read(&[text.as_bytes()]), (text.as_bytes().to_vec(), vec![]), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn marks_are_found_however_what_is_printed_is_cut(
            said in prop::collection::vec((any::<Option<u64>>(), "[a\x1b\x07\\];\n]{0,8}"), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let (mut bytes, mut text, mut runs) = (Vec::new(), Vec::new(), Vec::new());
            for (run, words) in &said {
                runs.push((text.len(), *run));
                bytes.extend(written(*run));
                bytes.extend(words.as_bytes());
                text.extend(words.as_bytes());
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            prop_assert_eq!(read(&pieces), (text, runs));
        }
    }
}
