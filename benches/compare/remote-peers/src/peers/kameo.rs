//! kameo with its `remote`: libp2p over TCP, an actor found by name. Telling is acknowledged, so that many are under way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ::kameo::prelude::*;
use ::kameo::remote::{Behaviour, messaging};
use libp2p::futures::StreamExt;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, noise, tcp, yamux};
use serde::{Deserialize, Serialize};

use crate::support::{Asks, PADDING, Server, on_two_threads, ready, tells};

const TELLS: u64 = 20_000;
/// How many may be under way at a time.
const UNDER_WAY: usize = 512;
const NAME: &str = "echo";

#[derive(Actor, RemoteActor, Default)]
struct Echo {
    told: u64,
}

#[derive(Serialize, Deserialize)]
struct Ping {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

impl Ping {
    fn new(number: u64) -> Self {
        Self { number, padding: PADDING.to_vec() }
    }
}

#[derive(Reply, Serialize, Deserialize)]
struct Pong(Ping);

#[derive(Serialize, Deserialize)]
struct Told(Ping);

#[derive(Serialize, Deserialize)]
struct Count;

#[remote_message]
impl Message<Ping> for Echo {
    type Reply = Pong;

    async fn handle(&mut self, ping: Ping, _: &mut Context<Self, Pong>) -> Pong {
        Pong(ping)
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

#[derive(NetworkBehaviour)]
struct Network {
    kameo: Behaviour,
}

/// A node, which listens where it is said to and dials the other one.
fn node(listen: &str, dial: Option<String>) {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .expect("it has TCP")
        .with_behaviour(|key| {
            let config = messaging::Config::default().with_max_concurrent_streams(UNDER_WAY * 2);
            let kameo = Behaviour::new(key.public().to_peer_id(), config);
            kameo.init_global();
            Network { kameo }
        });
    let Ok(builder) = swarm;
    let mut swarm: Swarm<Network> = builder
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(300)))
        .build();
    swarm.listen_on(listen.parse().expect("an address")).expect("it is free");
    if let Some(other) = dial {
        swarm.dial(other.parse::<Multiaddr>().expect("an address")).expect("it can be dialed");
    }
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
}

pub fn serve(port: u16) {
    on_two_threads(async move {
        node(&format!("/ip4/127.0.0.1/tcp/{port}"), None);
        let echo = Echo::spawn(Echo::default());
        echo.register(NAME).await.expect("the name is free");
        ready();
        std::future::pending::<()>().await;
    });
}

pub fn call() {
    let server = Server::start("kameo");
    let other = format!("/ip4/127.0.0.1/tcp/{}", server.port);
    on_two_threads(async move {
        node("/ip4/127.0.0.1/tcp/0", Some(other));
        let echo = loop {
            match RemoteActorRef::<Echo>::lookup(NAME).await {
                Ok(Some(echo)) => break echo,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let mut asks = Asks::default();
        while let Some(number) = asks.next() {
            echo.ask(&Ping::new(number)).await.expect("it answers");
            asks.answered();
        }
        let began = Instant::now();
        let mut under_way = VecDeque::new();
        for number in 0..TELLS {
            if under_way.len() == UNDER_WAY {
                let first: tokio::task::JoinHandle<()> = under_way.pop_front().expect("there are many");
                first.await.expect("no panic");
            }
            let echo = echo.clone();
            under_way.push_back(tokio::spawn(async move {
                echo.tell(&Told(Ping::new(number))).send_ack().await.expect("it arrives");
            }));
        }
        for last in under_way {
            last.await.expect("no panic");
        }
        let told = echo.ask(&Count).await.expect("it answers");
        assert_eq!(told, TELLS);
        tells(TELLS, began);
    });
    drop(server);
}
