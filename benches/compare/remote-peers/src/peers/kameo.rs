//! kameo with its `remote`: a libp2p swarm over TCP, the transport of its own bootstrap, without mDNS.

use std::time::Instant;

use ::kameo::prelude::*;
use ::libp2p::core::upgrade::Version;
use ::libp2p::futures::{StreamExt, stream};
use ::libp2p::swarm::SwarmEvent;
use ::libp2p::{Multiaddr, Swarm, SwarmBuilder, noise, tcp, yamux};
use serde::{Deserialize, Serialize};

use crate::support::{Asks, PADDING, Server, on_one_thread, ready, tells};

const TELLS: u64 = 100_000;
const NAME: &str = "echo";

/// Maximum number of concurrent streams. Each message has its own stream until it is acknowledged, and messages
/// beyond this number of streams are lost without an error from `send`; hence `send_ack`, with many in flight.
const STREAMS: usize = 256;
const UNACKNOWLEDGED: usize = 200;

#[derive(Actor, RemoteActor)]
struct Echo {
    told: u64,
}

#[derive(Serialize, Deserialize)]
struct Ping {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

#[derive(Reply, Serialize, Deserialize)]
struct Pong {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Told {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Count;

#[remote_message]
impl Message<Ping> for Echo {
    type Reply = Pong;

    async fn handle(&mut self, Ping { number, padding }: Ping, _: &mut Context<Self, Pong>) -> Pong {
        Pong { number, padding }
    }
}

#[remote_message]
impl Message<Told> for Echo {
    type Reply = ();

    async fn handle(&mut self, _: Told, _: &mut Context<Self, ()>) {
        self.told += 1;
    }
}

#[remote_message]
impl Message<Count> for Echo {
    type Reply = u64;

    async fn handle(&mut self, _: Count, _: &mut Context<Self, u64>) -> u64 {
        self.told
    }
}

fn swarm() -> Swarm<remote::Behaviour> {
    let messaging = remote::messaging::Config::default().with_max_concurrent_streams(STREAMS);
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("it has a transport")
        .with_behaviour(|key| remote::Behaviour::new(key.public().to_peer_id(), messaging))
        .expect("it has a behaviour")
        // Without this, each message first waits a round trip for the negotiation of its stream.
        .with_swarm_config(|config| config.with_substream_upgrade_protocol_override(Version::V1Lazy))
        .build();
    swarm.behaviour().init_global();
    swarm
}

async fn run(mut swarm: Swarm<remote::Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

fn address(port: u16) -> Multiaddr {
    format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("it is one")
}

pub fn serve(port: u16) {
    on_one_thread(async {
        let mut swarm = swarm();
        swarm.listen_on(address(port)).expect("it is free");
        while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
        tokio::spawn(run(swarm));
        Echo::spawn(Echo { told: 0 }).register(NAME).await.expect("nobody has that name");
        ready();
        std::future::pending::<()>().await;
    });
}

pub fn call() {
    let server = Server::start("kameo");
    on_one_thread(async {
        let mut swarm = swarm();
        swarm.dial(address(server.port)).expect("it can be dialed");
        // A lookup queries only peers whose address the swarm knows, and dialing a peer does not add its address.
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } =
                swarm.select_next_some().await
            {
                swarm.add_peer_address(peer_id, endpoint.get_remote_address().clone());
                break;
            }
        }
        tokio::spawn(run(swarm));
        let echo = RemoteActorRef::<Echo>::lookup(NAME).await.expect("a peer is asked");
        let echo = echo.expect("it is registered");
        let mut asks = Asks::default();
        while let Some(number) = asks.next() {
            echo.ask(&Ping { number, padding: PADDING.to_vec() }).await.expect("it answers");
            asks.answered();
        }
        let began = Instant::now();
        stream::iter(0..TELLS)
            .for_each_concurrent(UNACKNOWLEDGED, async |number| {
                let told = Told { number, padding: PADDING.to_vec() };
                echo.tell(&told).send_ack().await.expect("it lives");
            })
            .await;
        let told = echo.ask(&Count).await.expect("it answers");
        assert_eq!(told, TELLS);
        tells(TELLS, began);
    });
}
