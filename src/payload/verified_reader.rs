//! Reads a value from its sources and verifies each chunk on arrival.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::time::{Duration, Instant};

use super::chunk_hashes::{CHUNK, ChunkHashes};
use super::error::FetchError;

/// Maximum number of chunks that wait to be verified.
const WINDOW: usize = 8;

/// Size of a page of memory in bytes, which the first write to it allocates.
const PAGE: usize = 4096;

/// Interval at which the progress of a long transfer is logged.
const LONG: Duration = Duration::from_secs(5);

/// The source of a value's bytes. All methods block.
pub(crate) trait Chunks: Send {
    /// Fills `buffer` with the bytes at `offset` and returns the number of the source that delivered them.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError>;

    /// Excludes a source that sent wrong bytes. Fails if no other source is left.
    fn distrust(&mut self, source: u64) -> Result<(), FetchError>;
}

/// Number of verified bytes of a transfer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A transfer of one value to this process.
pub(crate) struct VerifiedReader<'a> {
    hashes: &'a ChunkHashes,
    chunks: &'a mut dyn Chunks,
    counter: Arc<Counter>,
    /// Description of the value, for log messages.
    what: &'a str,
    began: Instant,
    spoken: Instant,
}

impl<'a> VerifiedReader<'a> {
    pub(crate) fn new(
        hashes: &'a ChunkHashes,
        chunks: &'a mut dyn Chunks,
        counter: Arc<Counter>,
        what: &'a str,
    ) -> Self {
        let began = Instant::now();
        Self { hashes, chunks, counter, what, began, spoken: began }
    }

    /// Returns the length of the value in bytes, or an error if it exceeds the address space of this machine.
    pub(crate) fn length(&self) -> Result<usize, FetchError> {
        usize::try_from(self.hashes.length()).map_err(|_| {
            FetchError::Unusable("it is larger than the address space of this machine".to_owned())
        })
    }

    /// Fills `buffer`, which must be as long as the value. One thread faults in the pages ahead of the arriving
    /// bytes, and another verifies the chunks that have arrived.
    pub(crate) fn fill(mut self, buffer: &mut [u8]) -> Result<(), FetchError> {
        let hashes = self.hashes;
        let counter = self.counter.clone();
        if buffer.len() <= CHUNK {
            return self.chunk(0, buffer);
        }
        std::thread::scope(|scope| {
            let (arrived, to_verify) = sync_channel::<(usize, u64, &mut [u8])>(WINDOW);
            let (wrong, to_repeat) = channel();
            scope.spawn(move || {
                for (n, source, chunk) in to_verify {
                    if hashes.matches(n, chunk) {
                        counter.add(chunk.len());
                    } else if wrong.send((n, source, chunk)).is_err() {
                        break;
                    }
                }
            });
            let (ready, to_fill) = sync_channel::<&mut [u8]>(WINDOW);
            scope.spawn(move || {
                for chunk in buffer.chunks_mut(CHUNK) {
                    chunk.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
                    if ready.send(chunk).is_err() {
                        break;
                    }
                }
            });
            let mut repeat = Vec::new();
            for (n, chunk) in to_fill.into_iter().enumerate() {
                for (n, source, chunk) in to_repeat.try_iter() {
                    self.chunks.distrust(source)?;
                    repeat.push((n, chunk));
                }
                let source = self.chunks.read(n as u64 * CHUNK as u64, chunk)?;
                self.speak();
                let _ = arrived.send((n, source, chunk));
            }
            drop(arrived);
            for (n, source, chunk) in to_repeat {
                self.chunks.distrust(source)?;
                repeat.push((n, chunk));
            }
            repeat.into_iter().try_for_each(|(n, chunk)| self.chunk(n, chunk))
        })
    }

    /// Fills the `n`th chunk, trying the sources until one delivers the right bytes.
    fn chunk(&mut self, n: usize, chunk: &mut [u8]) -> Result<(), FetchError> {
        loop {
            let source = self.chunks.read(n as u64 * CHUNK as u64, chunk)?;
            if self.hashes.matches(n, chunk) {
                self.counter.add(chunk.len());
                self.speak();
                return Ok(());
            }
            self.chunks.distrust(source)?;
        }
    }

    fn speak(&mut self) {
        if self.spoken.elapsed() < LONG {
            return;
        }
        self.spoken = Instant::now();
        let (received, total) = (self.counter.get(), self.hashes.length());
        let percent = received as f64 / total.max(1) as f64 * 100.0;
        let rate = received as f64 / self.began.elapsed().as_secs_f64() / 1e6;
        log::info!(
            "pulling {}: {percent:.0} % after {:.0?}, {rate:.0} MB/s",
            self.what,
            self.began.elapsed()
        );
    }

    /// Returns a reader of the verified bytes in order.
    pub(crate) fn reader(self) -> Reader<'a> {
        Reader { reception: self, chunk: Vec::new(), at: 0, next: 0, failure: None }
    }
}

pub(crate) struct Reader<'a> {
    reception: VerifiedReader<'a>,
    chunk: Vec<u8>,
    at: usize,
    next: usize,
    /// The error that ended reading.
    pub(crate) failure: Option<FetchError>,
}

impl Reader<'_> {
    fn refill(&mut self) -> Result<(), FetchError> {
        let offset = self.next as u64 * CHUNK as u64;
        let left = self.reception.hashes.length().saturating_sub(offset);
        self.chunk.resize(left.min(CHUNK as u64) as usize, 0);
        self.at = 0;
        if !self.chunk.is_empty() {
            self.reception.chunk(self.next, &mut self.chunk)?;
            self.next += 1;
        }
        Ok(())
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len()
            && let Err(failure) = self.refill()
        {
            let error = io::Error::other(failure.to_string());
            self.failure = Some(failure);
            return Err(error);
        }
        let length = out.len().min(self.chunk.len() - self.at);
        out[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// A source whose bytes are already in memory.
pub(crate) struct InMemory<B>(pub(crate) B);

impl<B: AsRef<[u8]> + Send> Chunks for InMemory<B> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = self.0.as_ref().get(from..from.saturating_add(buffer.len()));
        buffer.copy_from_slice(part.ok_or_else(|| FetchError::Corrupt("it is truncated".to_owned()))?);
        Ok(0)
    }

    fn distrust(&mut self, _: u64) -> Result<(), FetchError> {
        Err(FetchError::Corrupt("its bytes do not match its hash".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    /// Several sources, each with some wrong chunks.
    struct Sources {
        value: Vec<u8>,
        /// The wrong chunks of each source.
        wrong: Vec<Vec<usize>>,
        current: usize,
        distrusted: Vec<usize>,
    }

    impl Chunks for Sources {
        fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
            let from = offset as usize;
            buffer.copy_from_slice(&self.value[from..from + buffer.len()]);
            if self.wrong[self.current].contains(&(from / CHUNK)) && !buffer.is_empty() {
                buffer[0] ^= 1;
            }
            Ok(self.current as u64)
        }

        fn distrust(&mut self, source: u64) -> Result<(), FetchError> {
            let source = source as usize;
            if !self.distrusted.contains(&source) {
                self.distrusted.push(source);
            }
            match (0..self.wrong.len()).find(|source| !self.distrusted.contains(source)) {
                Some(next) => {
                    self.current = next;
                    Ok(())
                }
                None => Err(FetchError::Corrupt("all sources are wrong".to_owned())),
            }
        }
    }

    fn value(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7 + at / 255) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_arrives_is_the_value_or_an_error(
            length in 0..6 * CHUNK,
            wrong in prop::collection::vec(prop::collection::vec(0_usize..6, 0..3), 1..3),
        ) {
            let value = value(length);
            let hashes = ChunkHashes::of(&value);
            let sources = || Sources { value: value.clone(), wrong: wrong.clone(), current: 0, distrusted: vec![] };
            let counter = Arc::new(Counter::default());
            let mut buffer = vec![0; length];
            let mut first = sources();
            let filled = VerifiedReader::new(&hashes, &mut first, counter.clone(), "it").fill(&mut buffer);
            match filled {
                Ok(()) => {
                    prop_assert_eq!(&buffer, &value);
                    prop_assert_eq!(counter.get(), length as u64);
                }
                Err(error) => prop_assert!(matches!(error, FetchError::Corrupt(_))),
            }
            let mut second = sources();
            let mut read = Vec::new();
            let mut reader = VerifiedReader::new(&hashes, &mut second, Arc::default(), "it").reader();
            match reader.read_to_end(&mut read) {
                Ok(_) => prop_assert_eq!(&read, &value),
                Err(_) => prop_assert!(matches!(reader.failure, Some(FetchError::Corrupt(_)))),
            }
        }
    }
}
