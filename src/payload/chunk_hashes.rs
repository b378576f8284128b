//! BLAKE3 hashes of the chunks of a value, by which each chunk is verified on arrival. Pure: no I/O.
//!
//! BLAKE3 is a Merkle tree (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020): the hash of the whole is computed from
//! the hashes of aligned subtrees. The tree here has one leaf for each MiB, so that each chunk is verified as it
//! arrives, whichever peer sent it; the leaves themselves are verified against the hash of the whole.

use std::io;
use std::sync::Arc;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{Hash, Hasher};

/// Size in bytes of every chunk except the last one.
pub(crate) const CHUNK: usize = 1 << 20;

/// Minimum number of chunks for which hashing uses several threads.
const MANY: usize = 8;

/// The hash of each chunk of one value, and the hash of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkHashes {
    length: u64,
    hash: Hash,
    /// Empty if there is only one chunk, because then the hash of the whole is enough.
    chunks: Arc<[ChainingValue]>,
}

impl ChunkHashes {
    /// Hashes `bytes`, on several threads if there are at least [`MANY`] chunks.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let length = bytes.len() as u64;
        if bytes.len() <= CHUNK {
            return Self { length, hash: blake3::hash(bytes), chunks: Arc::default() };
        }
        let count = bytes.len().div_ceil(CHUNK);
        let mut chunks = vec![ChainingValue::default(); count];
        let threads = match count {
            0..MANY => 1,
            _ => std::thread::available_parallelism().map_or(1, usize::from).min(count / MANY + 1),
        };
        let share = count.div_ceil(threads);
        std::thread::scope(|scope| {
            for (nth, out) in chunks.chunks_mut(share).enumerate() {
                let first = nth * share;
                let work = move || {
                    for (n, out) in (first..).zip(out) {
                        let chunk = &bytes[n * CHUNK..bytes.len().min((n + 1) * CHUNK)];
                        *out = chaining_value(n, chunk);
                    }
                };
                if first + share >= count {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
        });
        Self { length, hash: root(&chunks, length), chunks: chunks.into() }
    }

    /// Checks chunk hashes received from a peer against the hash of the whole; `None` if they do not match.
    pub(crate) fn verified(length: u64, hash: [u8; 32], chunks: &[u8]) -> Option<Self> {
        let expected = chunk_count(length);
        let (chunks, rest) = chunks.as_chunks::<32>();
        let whole = Hash::from_bytes(hash);
        let wanted = if expected > 1 { expected } else { 0 };
        if !rest.is_empty() || chunks.len() as u64 != wanted {
            return None;
        }
        (chunks.is_empty() || root(chunks, length) == whole).then(|| Self {
            length,
            hash: whole,
            chunks: chunks.into(),
        })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        *self.hash.as_bytes()
    }

    /// Returns the hashes of the chunks in the form in which they are sent.
    pub(crate) fn chunk_hashes(&self) -> &[u8] {
        self.chunks.as_flattened()
    }

    /// Returns whether `chunk` has the hash of the `n`th chunk.
    pub(crate) fn matches(&self, n: usize, chunk: &[u8]) -> bool {
        match self.chunks.get(n) {
            Some(expected) => chaining_value(n, chunk) == *expected,
            None => n == 0 && self.chunks.is_empty() && blake3::hash(chunk) == self.hash,
        }
    }
}

/// Returns the number of chunks of a value of this length.
fn chunk_count(length: u64) -> u64 {
    length.div_ceil(CHUNK as u64)
}

fn chaining_value(n: usize, chunk: &[u8]) -> ChainingValue {
    let offset = n as u64 * CHUNK as u64;
    Hasher::new().set_input_offset(offset).update(chunk).finalize_non_root()
}

/// Computes the hash of the whole from at least two chunk hashes.
fn root(chunks: &[ChainingValue], length: u64) -> Hash {
    let (left, right) = halves(chunks, length);
    merge_subtrees_root(&left, &right, Mode::Hash)
}

fn halves(chunks: &[ChainingValue], length: u64) -> (ChainingValue, ChainingValue) {
    let left = left_subtree_len(length);
    let (first, second) = chunks.split_at((left / CHUNK as u64) as usize);
    (inner(first, left), inner(second, length - left))
}

fn inner(chunks: &[ChainingValue], length: u64) -> ChainingValue {
    if let [only] = chunks {
        return *only;
    }
    let (left, right) = halves(chunks, length);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

/// A writer that computes the [`ChunkHashes`] of what is written, without storing it.
pub(crate) struct ChunkHasher {
    whole: Hasher,
    chunk: Hasher,
    in_chunk: usize,
    length: u64,
    chunks: Vec<ChainingValue>,
}

impl ChunkHasher {
    pub(crate) fn new() -> Self {
        Self { whole: Hasher::new(), chunk: Hasher::new(), in_chunk: 0, length: 0, chunks: Vec::new() }
    }

    fn end_chunk(&mut self) {
        self.chunks.push(self.chunk.finalize_non_root());
        let next = self.chunks.len() as u64 * CHUNK as u64;
        self.chunk = Hasher::new();
        self.chunk.set_input_offset(next);
        self.in_chunk = 0;
    }

    pub(crate) fn finish(mut self) -> ChunkHashes {
        let length = self.length;
        if chunk_count(length) <= 1 {
            return ChunkHashes { length, hash: self.whole.finalize(), chunks: Arc::default() };
        }
        if self.in_chunk > 0 {
            self.end_chunk();
        }
        ChunkHashes { length, hash: root(&self.chunks, length), chunks: self.chunks.into() }
    }
}

impl io::Write for ChunkHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = bytes;
        while !left.is_empty() {
            if self.in_chunk == CHUNK {
                self.end_chunk();
            }
            let (now, later) = left.split_at(left.len().min(CHUNK - self.in_chunk));
            // A value of one chunk needs the root hash of the whole, which cannot be derived from the chunk's
            // chaining value.
            if self.chunks.is_empty() {
                self.whole.update(now);
            }
            self.chunk.update(now);
            self.in_chunk += now.len();
            self.length += now.len() as u64;
            left = later;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[test]
    fn the_hash_is_that_of_the_bytes_at_every_edge() {
        for chunks in [0, 1, 2, 3, 4, 5, 8, 9, 17] {
            for more in [-1_isize, 0, 1, 1000] {
                let Some(length) = (chunks * CHUNK).checked_add_signed(more) else { continue };
                let bytes = bytes(length);
                let tree = ChunkHashes::of(&bytes);
                assert_eq!(tree.hash(), *blake3::hash(&bytes).as_bytes(), "{length}");
                let mut writer = ChunkHasher::new();
                bytes.chunks(300_007).for_each(|part| writer.write_all(part).unwrap());
                assert_eq!(writer.finish(), tree, "{length}");
                let sent = ChunkHashes::verified(tree.length(), tree.hash(), tree.chunk_hashes());
                assert_eq!(sent.as_ref(), Some(&tree), "{length}");
                for (n, chunk) in bytes.chunks(CHUNK).enumerate() {
                    assert!(tree.matches(n, chunk), "{length} {n}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn one_wrong_bit_is_noticed_in_its_chunk(length in 1..3 * CHUNK, at: prop::sample::Index, bit in 0..8) {
            let mut bytes = bytes(length);
            let tree = ChunkHashes::of(&bytes);
            let at = at.index(length);
            bytes[at] ^= 1_u8 << bit;
            for (n, chunk) in bytes.chunks(CHUNK).enumerate() {
                prop_assert_eq!(tree.matches(n, chunk), n != at / CHUNK);
            }
        }

        #[test]
        fn an_outline_of_something_else_is_refused(length in CHUNK + 1..4 * CHUNK, at: prop::sample::Index) {
            let tree = ChunkHashes::of(&bytes(length));
            let mut hashes = tree.chunk_hashes().to_vec();
            prop_assert!(ChunkHashes::verified(tree.length(), tree.hash(), &hashes[1..]).is_none());
            let at = at.index(hashes.len());
            hashes[at] ^= 1;
            prop_assert!(ChunkHashes::verified(tree.length(), tree.hash(), &hashes).is_none());
        }
    }
}
