//! Unix sockets that are polled for writability only while a write waits.
//!
//! A Unix socket becomes writable anew each time the other end reads, so that a task that is registered for writability
//! is woken for each message that it has sent, without need. The halves of tokio's own Unix sockets are registered for
//! both directions. The receiving half here is tokio's type for pipes, which is registered for reading only and works
//! with any descriptor.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

pub(super) struct UnixReadHalf(pipe::Receiver);

pub(crate) struct UnixWriteHalf(UnixStream);

/// Splits a stream. Must be called within the runtime that is to read from it.
pub(super) fn split(stream: tokio::net::UnixStream) -> io::Result<(UnixReadHalf, UnixWriteHalf)> {
    let stream = stream.into_std()?;
    let read = pipe::Receiver::from_owned_fd_unchecked(stream.try_clone()?.into())?;
    Ok((UnixReadHalf(read), UnixWriteHalf(stream)))
}

impl UnixReadHalf {
    pub(super) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.0.read_buf(buffer).await
    }

    pub(super) fn as_read(&mut self) -> &mut (impl AsyncRead + use<>) {
        &mut self.0
    }
}

impl UnixWriteHalf {
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    pipe::Sender::from_owned_fd_unchecked(self.0.try_clone()?.into())?.writable().await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets a thread that may block write, while no task reads.
    pub(super) fn blocking<R>(
        &self,
        patience: Duration,
        write: impl FnOnce(&mut dyn Write) -> R,
    ) -> io::Result<R> {
        self.0.set_nonblocking(false)?;
        self.0.set_write_timeout(Some(patience))?;
        let result = write(&mut &self.0);
        self.0.set_nonblocking(true)?;
        Ok(result)
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn close(&self) {
        // The socket may be closed already.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}
