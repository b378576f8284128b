//! Frames: how bytes on a connection are cut into pieces.
//!
//! A frame is a length (4 bytes, big-endian, of what follows), a kind (1 byte) and a body. Numbers are big-endian.
//!
//! # Guarantees
//! - Nothing is set aside for a frame but what has arrived of it, whatever its header says.
//! - A frame above the limit is refused as soon as its header is there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The bytes of a length.
const LENGTH: usize = 4;

const HELLO: u8 = 0;
const DATA: u8 = 1;
const ACK: u8 = 2;
const BYE: u8 = 3;
const REQUEST: u8 = 4;
const RESPONSE: u8 = 5;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The beginning of a connection; what is in it is the handshake's.
    Hello(Bytes),
    /// A message of a session, by its number.
    Data {
        /// Counts the messages of one direction of a session, from 1.
        seq: u64,
        body: Bytes,
    },
    /// All messages up to this number have arrived. Also says that the peer lives.
    Ack { received: u64 },
    /// The end, and why.
    Bye(Bytes),
    /// What is wanted of a value, on a connection that values are pulled on.
    Request(Bytes),
    /// The answer to that; the bytes of the value follow, in no frame.
    Response(Bytes),
}

/// Bytes that are no frame. The connection they came from cannot be used any more.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes was announced, and at most {limit} are taken")]
    TooLong { length: usize, limit: usize },
    #[error("a frame of an unknown kind ({0}) came")]
    UnknownKind(u8),
    #[error("a frame came that is too short for its kind ({kind}, {length} bytes)")]
    TooShort { kind: u8, length: usize },
}

impl Frame {
    /// Takes the first frame off the buffer once all of it is there.
    ///
    /// # Errors
    /// [`FrameError`]; the buffer then is of no use any more.
    pub(crate) fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Self>, FrameError> {
        let Some(header) = buffer.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        let Some(kind) = buffer.get(LENGTH).copied() else {
            return if length == 0 { Err(FrameError::TooShort { kind: 0, length }) } else { Ok(None) };
        };
        let least = match kind {
            HELLO | BYE | REQUEST | RESPONSE => 1,
            DATA | ACK => 9,
            _ => return Err(FrameError::UnknownKind(kind)),
        };
        if length < least {
            return Err(FrameError::TooShort { kind, length });
        }
        if buffer.len() < LENGTH + length {
            return Ok(None);
        }
        buffer.advance(LENGTH);
        let mut body = buffer.split_to(length).freeze();
        body.advance(1);
        Ok(Some(match kind {
            HELLO => Self::Hello(body),
            DATA => Self::Data { seq: body.get_u64(), body },
            ACK => Self::Ack { received: body.get_u64() },
            REQUEST => Self::Request(body),
            RESPONSE => Self::Response(body),
            _ => Self::Bye(body),
        }))
    }

    /// Appends the frame.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(body) => put(out, HELLO, |out| out.put_slice(body)),
            Self::Data { seq, body } => put_data(out, *seq, |out| out.put_slice(body)),
            Self::Ack { received } => put(out, ACK, |out| out.put_u64(*received)),
            Self::Bye(body) => put(out, BYE, |out| out.put_slice(body)),
            Self::Request(body) => put(out, REQUEST, |out| out.put_slice(body)),
            Self::Response(body) => put(out, RESPONSE, |out| out.put_slice(body)),
        }
    }
}

/// Appends a data frame whose body is written in place.
pub(crate) fn put_data<R>(out: &mut BytesMut, seq: u64, write: impl FnOnce(&mut BytesMut) -> R) -> R {
    put(out, DATA, |out| {
        out.put_u64(seq);
        write(out)
    })
}

fn put<R>(out: &mut BytesMut, kind: u8, write: impl FnOnce(&mut BytesMut) -> R) -> R {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    let result = write(out);
    // What is larger than a length can say is refused by whoever wrote it, long before.
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let body = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        prop_oneof![
            body().prop_map(Frame::Hello),
            (any::<u64>(), body()).prop_map(|(seq, body)| Frame::Data { seq, body }),
            any::<u64>().prop_map(|received| Frame::Ack { received }),
            body().prop_map(Frame::Bye),
            body().prop_map(Frame::Request),
            body().prop_map(Frame::Response),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_bytes_are_cut(
            frames in proptest::collection::vec(frame(), 0..20),
            cuts in proptest::collection::vec(1_usize..30, 1..20),
        ) {
            let mut bytes = BytesMut::new();
            frames.iter().for_each(|frame| frame.put(&mut bytes));
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while bytes.has_remaining() {
                let cut = cuts.next().unwrap().min(bytes.len());
                buffer.extend_from_slice(&bytes.split_to(cut));
                while let Some(frame) = Frame::take(&mut buffer, 1000).unwrap() {
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::take(&mut buffer, 1000) {}
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_at_its_header() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        let error = Frame::take(&mut buffer, 1000).unwrap_err();
        assert_eq!(error, FrameError::TooLong { length: u32::MAX as usize, limit: 1000 });
        assert!(buffer.capacity() < 1000);
    }

    #[test]
    fn what_is_too_short_or_unknown_is_refused() {
        for bytes in [&[0, 0, 0, 0][..], &[0, 0, 0, 2, 1, 0], &[0, 0, 0, 8, 2, 0], &[0, 0, 0, 1, 9]] {
            assert!(Frame::take(&mut BytesMut::from(bytes), 1000).is_err(), "{bytes:?}");
        }
    }
}
