//! The graceful end of a connection to a peer that was refused.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Time that a peer that was refused has to read the reason and close.
const FAREWELL: Duration = Duration::from_secs(1);

/// Closes a connection so that the last data that was sent arrives: a connection that is dropped with unread bytes is
/// reset, and the peer may then receive nothing but the reset.
pub(super) async fn close_gracefully<S>(stream: &mut S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let leaving = async {
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut unread).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // An error is ignored: the connection is over in any case.
    let _ = timeout(FAREWELL, leaving).await;
}
