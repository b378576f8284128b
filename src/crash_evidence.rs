//! Layer 1: a file with the code that was executing when a process ended, however it ended.
//!
//! A process that aborts, or that the kernel kills, can tell nothing any more. While the evidence is *open*, each piece of
//! code that executes has a slot in the file, which it fills before and clears after. What is filled when the process has
//! ended was executing then.
//!
//! # Guarantees
//! - A slot that was filled is found after any end of the process: it is written to the file before the code begins. It is
//!   not synced, since after a loss of power nothing is to be found.
//! - Closed evidence costs one load of an atomic variable for each piece of code.
//! - An error of the file leaves evidence out and has no other consequence.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Length of the part before the slots, in bytes, which belongs to the user of the file.
pub(crate) const HEADER: usize = 16 * 1024;

/// Length of a slot in bytes.
const SLOT: usize = 256;

/// The largest number of slots. Code that finds none free leaves no evidence.
const SLOTS: usize = 4096;

/// Evidence that a process leaves.
#[derive(Debug)]
pub(crate) struct CrashEvidence {
    file: File,
    is_open: AtomicBool,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    free: Vec<usize>,
    used: usize,
}

/// The content of the file that a process has left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// The first [`HEADER`] bytes, or less.
    pub(crate) header: Vec<u8>,
    /// The code that was executing, in the order of the names, each once.
    pub(crate) code: Vec<String>,
}

impl Left {
    /// Reads the file at `path`. Without a file, nothing was left.
    pub(crate) fn read(path: &Path) -> Self {
        let mut content = std::fs::read(path).unwrap_or_default();
        let slots = content.split_off(content.len().min(HEADER));
        let name = |slot: &[u8]| {
            let text = std::str::from_utf8(slot).ok()?.trim_end_matches(['\0', '\n', ' ']);
            (!text.is_empty()).then(|| text.to_owned())
        };
        let mut code: Vec<_> = slots.chunks(SLOT).filter_map(name).collect();
        code.sort_unstable();
        code.dedup();
        Self { header: content, code }
    }
}

impl CrashEvidence {
    /// Makes the file at `path` anew, with this header and no filled slot. The evidence is closed.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn create(path: &Path, header: &[u8]) -> std::io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let evidence = Self { file, is_open: AtomicBool::new(false), slots: Mutex::default() };
        evidence.set_header(header)?;
        Ok(evidence)
    }

    /// Replaces the header; at most [`HEADER`] bytes of it are kept.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn set_header(&self, header: &[u8]) -> std::io::Result<()> {
        let mut padded = vec![0; HEADER];
        let length = header.len().min(HEADER);
        padded[..length].copy_from_slice(&header[..length]);
        self.file.write_all_at(&padded, 0)
    }

    /// From now on, code that executes leaves evidence.
    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// From now on, no code leaves evidence.
    pub(crate) fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }

    /// Calls code of this name, of which at most 255 bytes count.
    pub(crate) fn during<R>(&self, name: impl FnOnce() -> String, code: impl FnOnce() -> R) -> R {
        let _filled = self.is_open.load(Ordering::Relaxed).then(|| self.fill(&name()));
        code()
    }

    fn fill(&self, name: &str) -> Option<Filled<'_>> {
        let number = {
            let mut slots = self.slots.lock();
            match slots.free.pop() {
                Some(number) => number,
                None if slots.used < SLOTS => {
                    slots.used += 1;
                    slots.used - 1
                }
                None => return None,
            }
        };
        let filled = Filled { evidence: self, number };
        let mut slot = [b' '; SLOT];
        let mut length = name.len().min(SLOT - 1);
        while !name.is_char_boundary(length) {
            length -= 1;
        }
        slot[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.write(number, &slot);
        Some(filled)
    }

    fn write(&self, number: usize, slot: &[u8; SLOT]) {
        let _ = self.file.write_all_at(slot, (HEADER + number * SLOT) as u64);
    }
}

/// A slot in use, cleared on drop.
struct Filled<'e> {
    evidence: &'e CrashEvidence,
    number: usize,
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        self.evidence.write(self.number, &[b' '; SLOT]);
        self.evidence.slots.lock().free.push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(std::path::PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let file = format!("fw-evidence-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(file))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn code(place: &Place) -> Vec<String> {
        Left::read(&place.0).code
    }

    /// Exactly the code that executes is in the file, whatever the order in which it ends, and also after a panic.
    #[test]
    fn code_that_executes_is_found_in_the_file() {
        let place = Place::new("executes");
        let evidence = CrashEvidence::create(&place.0, b"header").unwrap();
        let named = |name: &'static str| move || name.to_owned();
        evidence.during(named("before"), || assert!(code(&place).is_empty(), "it is closed"));
        evidence.open();
        evidence.during(named("flow b"), || {
            assert_eq!(code(&place), ["flow b"]);
            evidence.during(named("work a"), || assert_eq!(code(&place), ["flow b", "work a"]));
            assert_eq!(code(&place), ["flow b"]);
        });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            evidence.during(named("panics"), || panic!("on purpose"));
        }));
        assert!(panicked.is_err() && code(&place).is_empty());
        evidence.during(named("while it closes"), || evidence.close());
        assert!(code(&place).is_empty());
        assert!(Left::read(&place.0).header.starts_with(b"header\0"));
        evidence.set_header(b"other").unwrap();
        assert!(Left::read(&place.0).header.starts_with(b"other\0"));
    }

    /// A name that is too long is cut at the border of a character, and one slot serves one piece of code at a time.
    #[test]
    fn long_name_is_cut_and_slots_are_used_again() {
        let place = Place::new("long");
        let evidence = CrashEvidence::create(&place.0, b"").unwrap();
        evidence.open();
        let long = "ä".repeat(200);
        for _ in 0..10 {
            evidence.during(|| long.clone(), || assert_eq!(code(&place), ["ä".repeat(127)]));
        }
        assert_eq!(std::fs::metadata(&place.0).unwrap().len(), (HEADER + SLOT) as u64);
        drop(evidence);
        CrashEvidence::create(&place.0, b"").unwrap();
        assert_eq!(std::fs::metadata(&place.0).unwrap().len(), HEADER as u64);
    }

    #[test]
    fn missing_file_has_no_evidence() {
        assert_eq!(Left::read(&Place::new("missing").0), Left::default());
    }
}
