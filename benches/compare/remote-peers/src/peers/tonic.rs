//! gRPC with tonic: a unary call for each ask, and one client stream for all tells.

use std::pin::Pin;
use std::time::Instant;

use ::tonic::transport::{Endpoint, Server as GrpcServer};
use ::tonic::{Request, Response, Status, Streaming, async_trait};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Asks, PADDING, Server, on_one_thread, ready, tells};

const TELLS: u64 = 300_000;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Ping {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bytes = "vec", tag = "2")]
    padding: Vec<u8>,
}

impl Ping {
    fn new(number: u64) -> Self {
        Self { number, padding: PADDING.to_vec() }
    }
}

#[allow(clippy::all, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.Echo.rs"));
}

use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

struct Echoing;

#[async_trait]
impl Echo for Echoing {
    async fn ask(&self, request: Request<Ping>) -> Result<Response<Ping>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    /// Replies with the number of messages received.
    async fn tell(&self, request: Request<Streaming<Ping>>) -> Result<Response<Ping>, Status> {
        let mut stream: Pin<Box<_>> = Box::pin(request.into_inner());
        let mut told = 0;
        while stream.message().await?.is_some() {
            told += 1;
        }
        Ok(Response::new(Ping::new(told)))
    }
}

pub fn serve(port: u16) {
    on_one_thread(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("it is free");
        ready();
        let incoming = ::tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = GrpcServer::builder().add_service(EchoServer::new(Echoing));
        server.serve_with_incoming(incoming).await.expect("it serves");
    });
}

pub fn call() {
    let server = Server::start("tonic");
    on_one_thread(async {
        let address = format!("http://127.0.0.1:{}", server.port);
        let endpoint = Endpoint::from_shared(address).expect("it is one").tcp_nodelay(true);
        let mut client = EchoClient::new(endpoint.connect().await.expect("it listens"));
        let mut asks = Asks::default();
        while let Some(number) = asks.next() {
            client.ask(Ping::new(number)).await.expect("it answers");
            asks.answered();
        }
        let began = Instant::now();
        let (told, stream) = mpsc::channel(1024);
        tokio::spawn(async move {
            for number in 0..TELLS {
                told.send(Ping::new(number)).await.expect("somebody sends them");
            }
        });
        let answer = client.tell(ReceiverStream::new(stream)).await.expect("it answers");
        assert_eq!(answer.into_inner().number, TELLS);
        tells(TELLS, began);
    });
}
