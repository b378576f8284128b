//! `--log-dir`: the log in rotated files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::app::{LogLine, also_log_to};
use crate::printable::{lines, one_line};

/// The name of the current file. Rotated files end in `.1` (the newest), `.2` and so on.
const NAME: &str = "app.log";

/// The size in bytes at which a file is rotated.
const LARGEST: u64 = 16 << 20;

/// The number of files kept, including the current one.
const FILES: u32 = 8;

/// The capacity of the queue of lines to be written.
const WAITING: usize = 8192;

/// Writes all further log lines into files in `directory`, which is created if necessary.
///
/// # Errors
/// When the directory or the file cannot be created, or the name is taken by something other than a regular file.
pub(super) fn write_to(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut files = Files::open(directory.to_owned(), LARGEST)?;
    let (sender, lines) = sync_channel(WAITING);
    std::thread::Builder::new().name("log-files".to_owned()).spawn(move || write_all(&lines, &mut files))?;
    let lost = AtomicU64::new(0);
    also_log_to(move |line| send(&sender, &lost, written(line)));
    Ok(())
}

/// Queues a line without blocking the logging thread. Lines that do not fit are dropped and counted; the next line that
/// fits reports the count.
fn send(sender: &SyncSender<String>, lost: &AtomicU64, line: String) {
    let before = lost.load(Ordering::Relaxed);
    let line = if before > 0 {
        format!("({before} lines were dropped: they were logged faster than they could be written)\n{line}")
    } else {
        line
    };
    match sender.try_send(line) {
        Ok(()) => drop(lost.fetch_sub(before, Ordering::Relaxed)),
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn written(line: &LogLine) -> String {
    let time = DateTime::<Utc>::from(line.time).to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut out = format!("{time} {:5} [", line.level);
    if let Some(work) = &line.work {
        out.push_str(&one_line(&work.to_string()));
        if let Some(run) = line.run {
            out.push_str(&format!("#{run}"));
        }
        out.push_str(" on ");
    }
    out.push_str(&one_line(line.node.as_deref().unwrap_or("head")));
    out.push_str("] ");
    // Continuation lines are indented, to tell them from new entries.
    out.push_str(&lines(&line.text).replace('\n', "\n    "));
    out.push('\n');
    out
}

fn write_all(lines: &Receiver<String>, files: &mut Files) {
    let mut well = true;
    while let Ok(first) = lines.recv() {
        let mut result = files.write(&first);
        while let (Ok(()), Ok(line)) = (&result, lines.try_recv()) {
            result = files.write(&line);
        }
        let result = result.and_then(|()| files.out.flush());
        if let Err(error) = &result
            && well
        {
            // Logging the error would come back here.
            eprintln!("ERROR: {} cannot be written: {error}", files.directory.join(NAME).display());
        }
        well = result.is_ok();
    }
}

/// The current file, and its rotation.
// No crate: `file-rotate` discards lines without an error when a file cannot be opened, and splits lines at the limit;
// neither it nor `logroller` checks that it has opened a regular file, and both bring in gzip.
struct Files {
    directory: PathBuf,
    out: BufWriter<File>,
    length: u64,
    largest: u64,
}

impl Files {
    fn open(directory: PathBuf, largest: u64) -> io::Result<Self> {
        // Other users may be able to write to the directory and plant a symbolic link, or a pipe that blocks.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let path = directory.join(NAME);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(&path);
        let no_file = || io::Error::other(format!("{} is not a regular file: remove it", path.display()));
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP | libc::ENXIO) => no_file(),
            _ => error,
        })?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(no_file());
        }
        // Tightens the mode of an existing file; that of another user's file cannot be changed.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
        let length = metadata.len();
        Ok(Self { directory, out: BufWriter::new(file), length, largest })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.length > 0 && self.length + line.len() as u64 > self.largest {
            self.rotate()?;
        }
        self.length += line.len() as u64;
        self.out.write_all(line.as_bytes())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.out.flush()?;
        let numbered = |number: u32| self.directory.join(format!("{NAME}.{number}"));
        for number in (1..FILES - 1).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(self.directory.join(NAME), numbered(1))?;
        *self = Self::open(std::mem::take(&mut self.directory), self.largest)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_only_so_many_are_kept() {
        let directory = std::env::temp_dir().join(format!("flowright-logs-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut files = Files::open(directory.clone(), 10).unwrap();
        for number in 0..100 {
            files.write(&format!("line {number:03}\n")).unwrap();
        }
        files.out.flush().unwrap();
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        let newest = (read("app.log"), read("app.log.1"), read("app.log.7"));
        let count = fs::read_dir(&directory).unwrap().count();
        for entry in fs::read_dir(&directory).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        // An existing file is appended to.
        let length = Files::open(directory.clone(), 10).unwrap().length;
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(newest, ("line 099\n".into(), "line 098\n".into(), "line 092\n".into()));
        assert_eq!((count, length), (FILES as usize, 9));
    }

    /// A pipe or a link in place of the file is refused, without waiting or following it, and other users cannot read
    /// the log.
    #[test]
    fn only_a_regular_file_is_written_to() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let directory = std::env::temp_dir().join(format!("flowright-logs-of-others-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(NAME);
        let open = || Files::open(directory.clone(), 10).map(drop).map_err(|error| error.to_string());
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let pipe = open();
        fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        let link = open();
        fs::remove_file(&path).unwrap();
        let new = open();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        fs::remove_dir_all(&directory).unwrap();
        let refused = |error: String| error.contains("app.log is not a regular file");
        assert!(pipe.is_err_and(refused) && link.is_err_and(refused));
        assert_eq!((new, mode), (Ok(()), 0o600));
    }

    #[test]
    fn nobody_waits_for_the_disk_and_what_is_lost_is_counted() {
        let (sender, lines) = sync_channel(1);
        let lost = AtomicU64::new(0);
        for line in ["a", "b", "c"] {
            send(&sender, &lost, line.to_owned());
        }
        assert_eq!(lines.recv().unwrap(), "a");
        send(&sender, &lost, "d".to_owned());
        assert!(lines.recv().unwrap().starts_with("(2 lines were"));
        assert_eq!(lost.into_inner(), 0);
    }
}
