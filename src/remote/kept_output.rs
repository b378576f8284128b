//! The output of a Work's process while it has no head.
//!
//! Such a process prints to two FIFOs, which it has open for reading as well as for writing. The head reads them as long
//! as it lives. Otherwise a thread of the process itself reads them, into files for the next head.
//!
//! # Guarantees
//! - Printing does not fail without a head, and does not wait for one.
//! - The output stays in order: the next head reads the files, and then the FIFOs, which the process leaves to that head
//!   before it describes its Work to it.
//! - The files are bounded: of each stream the last [`HALF`] to twice as many bytes are kept. A line tells how much was
//!   dropped.
//! - The thread does not depend on others of the process, which may wait for room in a FIFO.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc as std_mpsc;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::process_home::{STREAMS, kept_files, open_fifo};
use super::process_id::ProcessId;

/// Size in bytes of the newer file of a stream at which it becomes the older one.
const HALF: u64 = 512 << 10;

/// Number of bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// The handle of the thread that keeps the output of this process while it has no head.
pub(super) struct KeptOutput {
    heads: UnboundedSender<Handover>,
}

/// A head that reads the output from now on, and the channel on which that is confirmed.
struct Handover {
    head: Option<ProcessId>,
    done: std_mpsc::Sender<()>,
}

impl KeptOutput {
    /// Starts the thread for the process with this name, whose files are in `home`.
    pub(super) fn start(home: &Path, name: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let streams = STREAMS.map(|stream| Stream::open(home, name, stream));
        let [out, err] = streams;
        let (heads, handovers) = unbounded_channel();
        let (out, err) = (out?, err?);
        let keep = move || runtime.block_on(keep(out, err, handovers));
        std::thread::Builder::new().name("output".to_owned()).spawn(keep)?;
        Ok(Self { heads })
    }

    /// Leaves the output to a head until that has ended. When the call returns, this process does not read it any more.
    pub(super) fn leave_to(&self, head: Option<ProcessId>) {
        let (done, is_done) = std_mpsc::channel();
        // The thread lives as long as the process.
        let _ = self.heads.send(Handover { head, done });
        let _ = is_done.recv();
    }
}

async fn keep(mut out: Stream, mut err: Stream, mut heads: UnboundedReceiver<Handover>) {
    // Until the process has joined, the head that has started it reads.
    let mut head = None;
    loop {
        let handover = tokio::select! {
            handover = next(&mut heads) => handover,
            () = end_of(head.as_ref()) => tokio::select! {
                handover = next(&mut heads) => handover,
                () = out.keep_all() => continue,
                () = err.keep_all() => continue,
            },
        };
        out.close();
        err.close();
        head = handover.head;
        // The caller waits, unless it has been dropped.
        let _ = handover.done.send(());
    }
}

/// Returns the next handover. There is none once the rest of this process is about to end.
async fn next(heads: &mut UnboundedReceiver<Handover>) -> Handover {
    match heads.recv().await {
        Some(handover) => handover,
        None => std::future::pending().await,
    }
}

async fn end_of(head: Option<&ProcessId>) {
    match head {
        Some(head) => head.end().await,
        None => std::future::pending().await,
    }
}

/// A stream of output, and the files for it.
struct Stream {
    fifo: File,
    before: PathBuf,
    newer: PathBuf,
    file: Option<File>,
    length: u64,
    /// Number of bytes in the older file.
    older: u64,
    /// Number of bytes that were dropped since a head has read.
    dropped: u64,
}

impl Stream {
    fn open(home: &Path, name: &str, stream: &str) -> io::Result<Self> {
        let [before, newer] = kept_files(home, name, stream);
        let fifo = open_fifo(home, name, stream)?;
        Ok(Self { fifo, before, newer, file: None, length: 0, older: 0, dropped: 0 })
    }

    /// Reads and keeps the output. Never ends.
    ///
    /// # Cancel safety
    /// All that was read is kept when the future is dropped.
    async fn keep_all(&mut self) {
        let fifo =
            self.fifo.try_clone().and_then(|fifo| pipe::Receiver::from_owned_fd_unchecked(fifo.into()));
        let Ok(mut fifo) = fifo else { return std::future::pending().await };
        let mut buffer = vec![0; CHUNK];
        loop {
            match fifo.read(&mut buffer).await {
                // This process itself has it open for writing, unless its output was redirected.
                Ok(0) | Err(_) => return std::future::pending().await,
                Ok(read) => self.keep(&buffer[..read]),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let length = bytes.len() as u64;
        if self.length + length > HALF {
            self.file = None;
            // If it fails, the newer part is lost instead of the older one.
            let _ = fs::rename(&self.newer, &self.before);
            self.dropped += std::mem::replace(&mut self.older, std::mem::take(&mut self.length));
        }
        if self.file.is_none() {
            self.file = append_to(&self.newer).ok();
        }
        // A full disk must not end the Work.
        match self.file.as_mut().map(|file| file.write_all(bytes)) {
            Some(Ok(())) => self.length += length,
            _ => self.dropped += length,
        }
    }

    /// Ends the files, for a head that reads them.
    fn close(&mut self) {
        if self.dropped > 0
            && let Some(file) = &mut self.file
        {
            // The number of what was dropped is of no use when it cannot be written either.
            let _ =
                writeln!(file, "\n({} bytes that were printed without a head were dropped)", self.dropped);
        }
        (self.file, self.length, self.older, self.dropped) = (None, 0, 0, 0);
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::remote::process_home::ProcessHome;

    /// A directory that is removed at the end of a test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("flowright-output-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("processes")).unwrap();
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let limit = Instant::now() + std::time::Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < limit, "{what}");
            std::thread::yield_now();
        }
    }

    /// A process that has ended.
    fn ended() -> ProcessId {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        id
    }

    /// Output is read by this process only while its head has ended, also by a head that has ended before the handover,
    /// and no byte is lost or repeated.
    #[test]
    fn output_without_head_is_kept_in_order() {
        let directory = Temporary::new("order");
        let home = ProcessHome::below(&directory.0).unwrap();
        let (mut out, _reader) = home.make_fifo("p", "out").unwrap();
        let (_err, _) = home.make_fifo("p", "err").unwrap();
        let kept = KeptOutput::start(home.path(), "p").unwrap();
        out.write_all(b"to the first head\n").unwrap();
        kept.leave_to(ProcessId::own());
        let mut all = Vec::new();
        for round in 0..20 {
            kept.leave_to(Some(ended()));
            let line = format!("line {round}\n");
            out.write_all(line.as_bytes()).unwrap();
            let newer = &kept_files(home.path(), "p", "out")[1];
            until("the line is kept", || fs::read(newer).is_ok_and(|kept| kept.ends_with(line.as_bytes())));
            kept.leave_to(ProcessId::own());
            all.extend(home.take_kept("p", "out"));
        }
        let lines: String = (0..20).map(|round| format!("line {round}\n")).collect();
        assert_eq!(String::from_utf8(all).unwrap(), format!("to the first head\n{lines}"));
    }

    /// However much is printed without a head, printing ends, a bounded part is kept, and the rest is counted.
    #[test]
    fn output_without_head_is_bounded() {
        let directory = Temporary::new("bound");
        let home = ProcessHome::below(&directory.0).unwrap();
        let (mut out, _reader) = home.make_fifo("p", "out").unwrap();
        let (_err, _) = home.make_fifo("p", "err").unwrap();
        let kept = KeptOutput::start(home.path(), "p").unwrap();
        kept.leave_to(Some(ended()));
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let printed = 8 * HALF;
        (0..printed / 1024).for_each(|_| out.write_all(&line).unwrap());
        out.write_all(b"the end").unwrap();
        let newer = &kept_files(home.path(), "p", "out")[1];
        until("the end is kept", || fs::read(newer).is_ok_and(|kept| kept.ends_with(b"the end")));
        kept.leave_to(ProcessId::own());
        let kept = String::from_utf8(home.take_kept("p", "out")).unwrap();
        let text = kept.split("\n(").next().unwrap();
        assert!(text.len() as u64 > HALF && text.len() as u64 <= 2 * HALF, "{}", text.len());
        let dropped = printed + "the end".len() as u64 - text.len() as u64;
        assert!(kept.contains(&format!("({dropped} bytes that were printed without a head were dropped)")));
    }
}
