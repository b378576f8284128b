//! An authenticated connection, and the frames on it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{self as tokio_io, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, tcp};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::close::{FAREWELL, close_gracefully};
use super::error::TransportError;
use super::limits::Limits;
use super::unix;
use crate::wire::Frame;

/// Bounds of the buffer space for one read; the space grows while reads fill it.
const SMALL_READ: usize = 16 * 1024;
const LARGE_READ: usize = 256 * 1024;

/// Number of bytes that a peer must accept within the timeout of a blocking write, if the system does not enforce one.
const PIECE: usize = 64 * 1024;

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Encrypted),
}

/// An authenticated connection, before it is used for a session.
pub(crate) struct Connection {
    reader: FrameReader,
    writer: FrameWriter,
}

/// The receiving half of a connection.
pub(crate) struct FrameReader {
    half: ReadHalf,
    buffer: BytesMut,
    /// Number of bytes of the buffer that were returned as frames.
    taken: usize,
    reserve: usize,
    max_frame: usize,
    peer: Arc<str>,
    /// The share of this connection in the limit on connections.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

/// The sending half of a connection.
pub(crate) struct FrameWriter {
    half: WriteHalf,
    peer: Arc<str>,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::UnixReadHalf),
    Tls(tokio_io::ReadHalf<Encrypted>),
}

enum WriteHalf {
    Tcp(Arc<tcp::OwnedWriteHalf>),
    Unix(Arc<unix::UnixWriteHalf>),
    Tls(tokio_io::WriteHalf<Encrypted>),
}

/// Writes to a connection from any thread, without waiting.
#[derive(Clone)]
pub(crate) enum DirectWriter {
    Tcp(Arc<tcp::OwnedWriteHalf>),
    Unix(Arc<unix::UnixWriteHalf>),
}

impl DirectWriter {
    /// Returns the number of bytes that the connection has accepted; 0 when it accepts none now.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
        };
        match written {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(0)
            }
            written => written,
        }
    }
}

/// Shuts a connection down on drop, unless [`spare`](Self::spare) was called.
pub(crate) struct ShutdownGuard(Option<std::net::TcpStream>);

impl ShutdownGuard {
    pub(crate) fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // The socket may be closed already.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Stream {
    /// Returns the stream on which both ends perform the handshake.
    pub(super) fn as_io(&mut self) -> &mut (dyn Io + Send) {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }
}

/// A bidirectional byte stream.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}

/// A TLS stream over TCP. Boxed, since its type exists only with the feature `tls`.
pub(super) type Encrypted = Box<dyn Io + Send>;

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        peer: String,
        limits: &Limits,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, TransportError> {
        let place = place.map(Arc::new);
        let (read, write) = match stream {
            Stream::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(Arc::new(write)))
            }
            Stream::Unix(stream) => {
                let (read, write) =
                    unix::split(stream).map_err(|error| TransportError::broken(&peer, error))?;
                (ReadHalf::Unix(read), WriteHalf::Unix(Arc::new(write)))
            }
            Stream::Tls(stream) => {
                let (read, write) = tokio_io::split(stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        };
        let peer: Arc<str> = peer.into();
        let reader = FrameReader {
            half: read,
            buffer: BytesMut::new(),
            taken: 0,
            reserve: SMALL_READ,
            max_frame: limits.max_frame,
            peer: peer.clone(),
            _place: place.clone(),
        };
        Ok(Self { reader, writer: FrameWriter { half: write, peer, _place: place } })
    }

    /// Returns an authenticated connection.
    #[cfg(fuzzing)]
    pub(crate) fn over(stream: UnixStream, limits: &Limits) -> Self {
        Self::new(Stream::Unix(stream), "a peer".to_owned(), limits, None).expect("a socket can be split")
    }

    /// Returns a description of the peer.
    pub(crate) fn peer(&self) -> &str {
        &self.reader.peer
    }

    /// Returns a guard that shuts the connection down from any thread, even if another one is blocked on it; `None`
    /// with TLS, where no thread blocks once the runtime ends.
    pub(crate) fn shutdown_guard(&self) -> Result<Option<ShutdownGuard>, TransportError> {
        let socket = match &self.writer.half {
            WriteHalf::Tcp(half) => half.as_ref().as_ref().as_fd().try_clone_to_owned(),
            WriteHalf::Unix(half) => half.descriptor().try_clone_to_owned(),
            WriteHalf::Tls(_) => return Ok(None),
        };
        let socket = socket.map_err(|error| TransportError::broken(self.peer(), error))?;
        Ok(Some(ShutdownGuard(Some(socket.into()))))
    }

    /// Writes a large amount from a thread that may block and that belongs to this runtime, and returns the connection.
    /// A peer that accepts no bytes for as long as `patience` fails the write.
    ///
    /// Without TLS the thread writes to the socket itself, so that the runtime's own thread is not woken for each
    /// piece.
    pub(crate) fn write_blocking<E>(
        self,
        runtime: &Handle,
        patience: Duration,
        write: impl FnOnce(&mut dyn io::Write) -> Result<(), E>,
    ) -> Result<(Self, Result<(), E>), TransportError> {
        let Self { reader, writer } = self;
        let peer = reader.peer.clone();
        let broken = |error| TransportError::broken(&peer, error);
        let alone = match writer.half {
            WriteHalf::Tcp(half) => Arc::try_unwrap(half).map_err(WriteHalf::Tcp),
            half => Err(half),
        };
        let (half, result) = match (reader.half, alone) {
            (ReadHalf::Tcp(read), Ok(write_half)) => {
                let stream = read.reunite(write_half).map_err(|error| broken(io::Error::other(error)))?;
                let mut stream = stream.into_std().map_err(broken)?;
                stream.set_nonblocking(false).map_err(broken)?;
                stream.set_write_timeout(Some(patience)).map_err(broken)?;
                let result = write(&mut stream);
                stream.set_nonblocking(true).map_err(broken)?;
                let _entered = runtime.enter();
                let (read, write) = TcpStream::from_std(stream).map_err(broken)?.into_split();
                ((ReadHalf::Tcp(read), WriteHalf::Tcp(Arc::new(write))), result)
            }
            (read, Err(WriteHalf::Unix(half))) => {
                let result = half.blocking(patience, write).map_err(broken)?;
                ((read, WriteHalf::Unix(half)), result)
            }
            (_, Ok(_)) => unreachable!("both halves are of one connection"),
            (read, Err(mut write_half)) => {
                let result = write(&mut Blocking { half: &mut write_half, runtime, patience });
                ((read, write_half), result)
            }
        };
        let reader = FrameReader { half: half.0, ..reader };
        let writer = FrameWriter { half: half.1, ..writer };
        Ok((Self { reader, writer }, result))
    }

    pub(crate) fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }

    /// Returns the next frame; `None` at the end.
    pub(crate) async fn read_frame(&mut self) -> Result<Option<Frame<'_>>, TransportError> {
        self.reader.frame().await
    }

    /// Fills `buffer` with unframed bytes.
    pub(crate) async fn read_bytes(&mut self, buffer: &mut [u8]) -> Result<(), TransportError> {
        self.reader.bytes(buffer).await
    }

    /// Writes unframed bytes.
    pub(crate) async fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.writer.write(bytes).await
    }

    pub(crate) async fn write_frame(&mut self, frame: &Frame<'_>) -> Result<(), TransportError> {
        let mut bytes = BytesMut::new();
        frame.put(&mut bytes);
        self.writer.write(&bytes).await
    }

    /// Sends a last frame and closes the connection gracefully.
    pub(crate) async fn dismiss(mut self, frame: &Frame<'_>) -> Result<(), TransportError> {
        self.write_frame(frame).await?;
        let Self { mut reader, writer } = self;
        reader.close_gracefully(FAREWELL, writer.close()).await;
        Ok(())
    }
}

/// A writer to a stream of the runtime for a thread that may block.
struct Blocking<'a> {
    half: &'a mut WriteHalf,
    runtime: &'a Handle,
    patience: Duration,
}

impl io::Write for Blocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE)];
        let written = self.runtime.block_on(timeout(self.patience, self.half.write_all(bytes)));
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadHalf {
    fn as_read(&mut self) -> &mut (dyn AsyncRead + Send + Unpin) {
        match self {
            Self::Tcp(half) => half,
            Self::Unix(half) => half.as_read(),
            Self::Tls(half) => half,
        }
    }
}

impl WriteHalf {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(half) => write_all(half, bytes).await,
            Self::Unix(half) => half.write_all(bytes).await,
            Self::Tls(half) => write_through(half, bytes).await,
        }
    }
}

impl FrameReader {
    /// Returns the next frame; `None` at the end.
    ///
    /// # Cancel safety
    /// Bytes that were read are kept for the next call.
    pub(crate) async fn frame(&mut self) -> Result<Option<Frame<'_>>, TransportError> {
        while !self.has_next()? {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        self.next()
    }

    fn has_next(&mut self) -> Result<bool, TransportError> {
        let taken = self.taken;
        let has = self.next()?.is_some();
        self.taken = taken;
        Ok(has)
    }

    /// Returns the next frame that has arrived completely.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, TransportError> {
        match Frame::first(&self.buffer[self.taken..], self.max_frame) {
            Ok(Some((frame, length))) => {
                self.taken += length;
                Ok(Some(frame))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(TransportError::foreign(&self.peer, &error)),
        }
    }

    /// Fills `buffer` with unframed bytes; the first of them may have arrived together with the last frame.
    async fn bytes(&mut self, buffer: &mut [u8]) -> Result<(), TransportError> {
        self.buffer.advance(std::mem::take(&mut self.taken));
        let here = self.buffer.len().min(buffer.len());
        let (first, rest) = buffer.split_at_mut(here);
        self.buffer.copy_to_slice(first);
        let read = self.half.as_read().read_exact(rest).await;
        read.map(drop).map_err(|error| TransportError::broken(&self.peer, error))
    }

    /// Waits until more bytes have arrived; returns `false` at the end, unless that is in the middle of a frame.
    ///
    /// # Cancel safety
    /// Bytes that were read are kept for the next call.
    pub(crate) async fn fill(&mut self) -> Result<bool, TransportError> {
        self.buffer.advance(std::mem::take(&mut self.taken));
        self.buffer.reserve(self.reserve);
        let read = match &mut self.half {
            ReadHalf::Tcp(half) => half.read_buf(&mut self.buffer).await,
            ReadHalf::Unix(half) => half.read_buf(&mut self.buffer).await,
            ReadHalf::Tls(half) => end_as_such(half.read_buf(&mut self.buffer).await),
        };
        match read {
            Ok(0) if self.buffer.is_empty() => return Ok(false),
            Ok(0) => {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended in the middle of a frame");
                return Err(TransportError::broken(&self.peer, error));
            }
            Ok(read) if read >= self.reserve => self.reserve = (self.reserve * 2).min(LARGE_READ),
            Ok(read) if read < SMALL_READ / 4 => self.reserve = SMALL_READ,
            Ok(_) => {}
            Err(error) => return Err(TransportError::broken(&self.peer, error)),
        }
        Ok(true)
    }

    /// Ends the connection so that the last data that was sent arrives, within this time; `last` sends it and closes
    /// the sending direction. See [`close_gracefully`].
    pub(crate) async fn close_gracefully(&mut self, within: Duration, last: impl Future<Output = ()>) {
        let mut unread = vec![0; LARGE_READ];
        close_gracefully(within, last, self.half.as_read(), &mut unread).await;
    }
}

impl FrameWriter {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.half.write_all(bytes).await.map_err(|error| TransportError::broken(&self.peer, error))
    }

    /// Returns a writer for other threads, if the kind of connection supports that. Its users must make sure that no
    /// two threads write at once, and that the rest of a partial write is written next.
    pub(crate) fn direct(&self) -> Option<DirectWriter> {
        match &self.half {
            WriteHalf::Tcp(half) => Some(DirectWriter::Tcp(half.clone())),
            WriteHalf::Unix(half) => Some(DirectWriter::Unix(half.clone())),
            WriteHalf::Tls(_) => None,
        }
    }

    /// Closes the sending direction.
    pub(crate) async fn close(self) {
        match self.half {
            // Closes the sending direction when the last share is dropped.
            WriteHalf::Tcp(half) => drop(half),
            WriteHalf::Unix(half) => half.close(),
            WriteHalf::Tls(mut half) => {
                // An error is ignored: the peer notices the end in any case.
                let _ = half.shutdown().await;
            }
        }
    }
}

/// Treats the end of a TLS stream without `close_notify` as an ordinary end: a process that was killed sends none, and
/// sessions detect truncation themselves.
fn end_as_such(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

/// Writes and flushes, since encrypted bytes would otherwise remain in the buffer until the next write.
async fn write_through<W: AsyncWrite + Unpin>(half: &mut W, bytes: &[u8]) -> io::Result<()> {
    half.write_all(bytes).await?;
    half.flush().await
}

async fn write_all(half: &tcp::OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match half.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => half.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
