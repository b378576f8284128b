//! A client of the API over HTTP.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

/// A connection that stays open.
pub(crate) struct HttpCaller(BufStream<TcpStream>);

/// The answer to a question.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header `flowright-version`.
    pub(crate) version: Option<u64>,
    pub(crate) body: String,
}

impl HttpCaller {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(BufStream::new(TcpStream::connect(address).await.expect("the App is served")))
    }

    /// Sends a message to a service.
    pub(crate) async fn ask(&mut self, service: &str, message: &str, body: &str) -> Answer {
        let request = format!(
            "POST /api/v1/services/{service}/messages/{message}?timeout=120 HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(&request).await
    }

    /// Gets the document at a path.
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    }

    async fn send(&mut self, request: &str) -> Answer {
        self.0.write_all(request.as_bytes()).await.expect("the connection is open");
        self.0.flush().await.expect("the connection is open");
        let status_line = self.line().await;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (mut length, mut version) = (0, None);
        loop {
            let line = self.line().await.to_ascii_lowercase();
            match line.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse().expect("a length"),
                Some(("flowright-version", value)) => version = Some(value.parse().expect("a version")),
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.expect("the body is complete");
        let body = String::from_utf8(body).expect("the body is text");
        Answer { status: status.unwrap_or_else(|| panic!("{status_line}")), version, body }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).await.expect("the answer is text");
        assert_ne!(length, 0, "the connection was closed");
        line.trim_end().to_owned()
    }
}
