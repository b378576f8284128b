//! Output of the process of a Work: passed through as it is, and kept as log lines of the Work, with the run that was
//! in progress when they were printed.

use std::collections::VecDeque;
use std::sync::Arc;

use log::Level;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::id::ActorPath;
use crate::printable::{LONGEST_REASON, brief};
use crate::work::logs::{AppLog, LONGEST_LINE, Said};
use crate::work::run_markers::{Marks, Piece};

/// The source and the destination of printed lines.
pub(super) struct Printed {
    pub(super) level: Level,
    pub(super) log: Arc<AppLog>,
    pub(super) work: ActorPath,
    pub(super) node: Arc<str>,
    /// `stdout` or `stderr`.
    pub(super) target: &'static str,
    /// The last lines, which are quoted when the process ends.
    pub(super) last: Option<LastLines>,
}

/// Number of lines that are kept as the last ones.
const LAST: usize = 4;

/// The last lines that a process has printed.
#[derive(Clone, Default)]
pub(super) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock();
        if lines.len() == LAST {
            lines.pop_front();
        }
        lines.push_back(brief(line, LONGEST_REASON));
    }

    /// Takes the last lines, joined into one.
    pub(super) fn take(&self) -> String {
        brief(&Vec::from(std::mem::take(&mut *self.0.lock())).join(" / "), LONGEST_REASON)
    }
}

impl Printed {
    fn line(&self, run: Option<u64>, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).trim_end_matches('\r').to_owned();
        if let Some(last) = self.last.as_ref().filter(|_| !text.trim().is_empty()) {
            last.push(&text);
        }
        self.log.keep(Said {
            level: self.level,
            work: Some(self.work.clone()),
            run,
            node: Some(self.node.clone()),
            target: self.target,
            text,
        });
    }
}

/// Copies the output of a process until its end.
pub(super) async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    printed: Printed,
) {
    let mut buffer = vec![0; 8 * 1024];
    let mut marks = Marks::default();
    let mut lines = Lines::default();
    let mut run = None;
    let mut shown = Vec::new();
    let mut take = |piece: Piece<'_>, shown: &mut Vec<u8>| match piece {
        Piece::Text(bytes) => {
            shown.extend_from_slice(bytes);
            lines.take(bytes, |line| printed.line(run, line));
        }
        Piece::Run(next) => {
            lines.end(|line| printed.line(run, line));
            run = next;
        }
    };
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        match read {
            0 => std::mem::take(&mut marks).end(|piece| take(piece, &mut shown)),
            _ => marks.take(&buffer[..read], |piece| take(piece, &mut shown)),
        }
        // An error is ignored: a closed output of the head must not affect the Work.
        let _ = to.write_all(&shown).await;
        let _ = to.flush().await;
        shown.clear();
        if read == 0 {
            break;
        }
    }
    lines.end(|line| printed.line(run, line));
}

/// Splits bytes into lines. A line that is too long is cut into several.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, is_whole) = match part.strip_suffix(b"\n") {
                Some(content) => (content, true),
                None => (part, false),
            };
            self.0.extend_from_slice(content);
            while self.0.len() > LONGEST_LINE {
                let rest = self.0.split_off(LONGEST_LINE);
                line(&std::mem::replace(&mut self.0, rest));
            }
            if is_whole {
                line(&std::mem::take(&mut self.0));
            }
        }
    }

    /// Ends the last line, which may lack a newline.
    fn end(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.0.is_empty() {
            line(&std::mem::take(&mut self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_pieces_and_long_ones_are_cut() {
        let mut found: Vec<String> = Vec::new();
        let mut keep = |line: &[u8]| found.push(String::from_utf8_lossy(line).into_owned());
        let mut lines = Lines::default();
        lines.take(b"on", &mut keep);
        lines.take(b"e\ntwo\n\nth", &mut keep);
        lines.take(&vec![b'x'; LONGEST_LINE], &mut keep);
        lines.end(&mut keep);
        assert_eq!(found[..3], ["one", "two", ""]);
        assert_eq!(found[3..].iter().map(String::len).collect::<Vec<_>>(), [LONGEST_LINE, 2]);
    }
}
