//! The graceful end of a connection whose peer is to receive the last data that was sent.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;

/// Time that a peer that was refused has to read the reason and close.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// Limit on the reads while the peer has not closed.
const LAST_READS: usize = 64;

/// Ends a connection so that the last data that was sent arrives: a connection that is dropped with unread bytes is
/// reset, and the peer may then receive nothing but the reset.
///
/// `last` sends the last data and closes the sending direction. Then everything that arrives is read into `unread` and
/// discarded until the peer has closed or the connection is broken. A peer that neither reads nor closes, or that never
/// stops sending, is waited for no longer than `within`, and for no more than 64 reads.
pub(super) async fn close_gracefully(
    within: Duration,
    last: impl Future<Output = ()>,
    reader: &mut (impl AsyncRead + Unpin + ?Sized),
    unread: &mut [u8],
) {
    let closing = async {
        last.await;
        for _ in 0..LAST_READS {
            if !reader.read(unread).await.is_ok_and(|read| read > 0) {
                break;
            }
        }
    };
    // The connection is over, whether the peer has closed in time or not.
    let _ = timeout(within, closing).await;
}

/// Ends a connection gracefully whose peer was refused before the connection carries frames.
pub(super) async fn close_refused<S>(stream: &mut S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = split(stream);
    let last = async move {
        // An error is ignored: the first read has the same.
        let _ = writer.shutdown().await;
    };
    close_gracefully(FAREWELL, last, &mut reader, &mut [0; 1024]).await;
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{ReadBuf, duplex};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::*;

    /// A peer that never stops sending; counts the reads.
    struct Flood(usize);

    impl AsyncRead for Flood {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            self.0 += 1;
            into.put_slice(b"more");
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn peer_that_never_stops_sending_is_read_64_times() {
        let mut flood = Flood(0);
        close_gracefully(Duration::MAX, async {}, &mut flood, &mut [0; 16]).await;
        assert_eq!(flood.0, LAST_READS);
    }

    /// Neither a peer that does not close nor a goodbye that it does not read takes longer than the limit.
    #[tokio::test(start_paused = true)]
    async fn peer_that_does_not_close_is_left_after_the_limit() {
        let (mut here, _there) = duplex(16);
        let began = Instant::now();
        close_refused(&mut here).await;
        assert_eq!(began.elapsed(), FAREWELL);
        close_gracefully(FAREWELL, std::future::pending(), &mut here, &mut [0; 16]).await;
        assert_eq!(began.elapsed(), 2 * FAREWELL);
    }

    /// A peer that has sent more than is read receives the last data, not a reset.
    #[tokio::test]
    async fn last_data_arrives_although_bytes_are_unread() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut here, _) = listener.accept().await.unwrap();
        there.write_all(&[0; 20_000]).await.unwrap();
        here.readable().await.unwrap();
        here.write_all(b"goodbye").await.unwrap();
        let closing = async {
            close_refused(&mut here).await;
            drop(here);
        };
        let reading = async {
            let mut received = Vec::new();
            while there.read_buf(&mut received).await.unwrap() > 0 {}
            drop(there);
            received
        };
        let ((), received) = tokio::join!(closing, reading);
        assert_eq!(received, b"goodbye");
    }
}
