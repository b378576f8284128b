//! Frames: the units into which the bytes on a connection are divided.
//!
//! A frame is a length (4 bytes, big-endian, of the rest), a kind (1 byte) and a body. Numbers are big-endian.
//!
//! # Guarantees
//! - Memory for a frame is allocated only as its bytes arrive, whatever its header claims.
//! - A frame above the limit is refused as soon as its header has arrived.

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;

/// Size of the length field in bytes.
const LENGTH: usize = 4;

const HELLO: u8 = 0;
const DATA: u8 = 1;
const ACK: u8 = 2;
const BYE: u8 = 3;
const REQUEST: u8 = 4;
const RESPONSE: u8 = 5;

/// A frame that borrows from the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// The beginning of a connection, with a greeting.
    Hello(&'a [u8]),
    /// A message of a session, with its sequence number.
    Data {
        /// Sequence number in one direction of a session, from 1.
        seq: u64,
        body: &'a [u8],
    },
    /// Acknowledges all messages up to this number. Also serves as a heartbeat.
    Ack { received: u64 },
    /// The end of the connection, with the reason.
    Bye(&'a [u8]),
    /// A request for a value, on a connection for pulls, or for a drive.
    Request(&'a [u8]),
    /// The response to a request; the bytes of a pulled value follow, unframed.
    Response(&'a [u8]),
}

/// Error returned when bytes are not a valid frame. The connection is unusable afterwards.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes exceeds the limit of {limit} bytes")]
    TooLong { length: usize, limit: usize },
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    #[error("a frame of {length} bytes is too short for its kind ({kind})")]
    TooShort { kind: u8, length: usize },
}

impl<'a> Frame<'a> {
    /// Returns the first frame and its length in bytes, once it has arrived completely.
    ///
    /// # Errors
    /// [`FrameError`]; the rest of the bytes is unusable then.
    pub(crate) fn first(buffer: &'a [u8], limit: usize) -> Result<Option<(Self, usize)>, FrameError> {
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
        let Some(mut body) = buffer.get(LENGTH + 1..LENGTH + length) else { return Ok(None) };
        let frame = match kind {
            HELLO => Self::Hello(body),
            DATA => Self::Data { seq: body.get_u64(), body },
            ACK => Self::Ack { received: body.get_u64() },
            REQUEST => Self::Request(body),
            RESPONSE => Self::Response(body),
            _ => Self::Bye(body),
        };
        Ok(Some((frame, LENGTH + length)))
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
    // The sender checks the size of the message; the length cannot overflow before.
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Made = (u8, u64, Vec<u8>);

    fn as_frame((kind, number, body): &Made) -> Frame<'_> {
        match kind {
            0 => Frame::Hello(body),
            1 => Frame::Data { seq: *number, body },
            2 => Frame::Ack { received: *number },
            3 => Frame::Bye(body),
            4 => Frame::Request(body),
            _ => Frame::Response(body),
        }
    }

    fn frame() -> impl Strategy<Value = Made> {
        (0_u8..6, any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40))
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_bytes_are_cut(
            frames in proptest::collection::vec(frame(), 0..20),
            cuts in proptest::collection::vec(1_usize..30, 1..20),
        ) {
            let mut bytes = BytesMut::new();
            frames.iter().for_each(|frame| as_frame(frame).put(&mut bytes));
            let (mut buffer, mut found) = (BytesMut::new(), 0);
            let mut cuts = cuts.into_iter().cycle();
            while bytes.has_remaining() {
                let cut = cuts.next().unwrap().min(bytes.len());
                buffer.extend_from_slice(&bytes.split_to(cut));
                while let Some((frame, length)) = Frame::first(&buffer, 1000).unwrap() {
                    prop_assert_eq!(frame, as_frame(&frames[found]));
                    found += 1;
                    buffer.advance(length);
                }
            }
            prop_assert_eq!(found, frames.len());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while let Ok(Some((_, length))) = Frame::first(rest, 1000) {
                rest = &rest[length..];
            }
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_at_its_header() {
        let error = Frame::first(&[0xff, 0xff, 0xff, 0xff], 1000).unwrap_err();
        assert_eq!(error, FrameError::TooLong { length: u32::MAX as usize, limit: 1000 });
    }

    #[test]
    fn what_is_too_short_or_unknown_is_refused() {
        for bytes in [&[0, 0, 0, 0][..], &[0, 0, 0, 2, 1, 0], &[0, 0, 0, 8, 2, 0], &[0, 0, 0, 1, 9]] {
            assert!(Frame::first(bytes, 1000).is_err(), "{bytes:?}");
        }
    }
}
