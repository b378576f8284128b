//! Unix sockets, watched for what arrives only.
//!
//! The other end of a Unix socket makes this one writable anew each time it reads. Whoever watches for that is woken by
//! every message that it has sent: a wake-up for nothing, for each. So it is watched for only while a write waits. The
//! halves of tokio's own sockets watch for both; what it has for one direction only is made for pipes, and does with
//! any descriptor what is wanted here.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

pub(super) struct ReadHalf(pipe::Receiver);

pub(crate) struct WriteHalf(UnixStream);

/// Must be called within the runtime that is to read from it.
pub(super) fn split(stream: tokio::net::UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    let stream = stream.into_std()?;
    let read = pipe::Receiver::from_owned_fd_unchecked(stream.try_clone()?.into())?;
    Ok((ReadHalf(read), WriteHalf(stream)))
}

impl ReadHalf {
    pub(super) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.0.read_buf(buffer).await
    }

    pub(super) async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(buffer).await.map(|_| ())
    }
}

impl WriteHalf {
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

    /// Lets a thread that may block write, while nobody reads.
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
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}
