//! elfo with its network: a group of actors that is local to one node and remote to the other.

use std::time::Instant;

use ::elfo::batteries::{configurer, network};
use ::elfo::prelude::*;
use ::elfo::topology::{Outcome, Topology};

use crate::support::{Asks, PADDING, Server, free_port, on_one_thread, ready, tells};

const TELLS: u64 = 1_000_000;

#[message(ret = Pong)]
struct Ping {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

#[message]
struct Pong {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

#[message]
struct Told {
    number: u64,
    #[serde(with = "serde_bytes")]
    padding: Vec<u8>,
}

#[message(ret = u64)]
struct Count;

fn echo() -> Blueprint {
    ActorGroup::new().exec(|mut ctx| async move {
        let mut told = 0_u64;
        while let Some(envelope) = ctx.recv().await {
            msg!(match envelope {
                Told => told += 1,
                (Ping { number, padding }, token) => ctx.respond(token, Pong { number, padding }),
                (Count, token) => ctx.respond(token, told),
            });
        }
    })
}

fn caller() -> Blueprint {
    ActorGroup::new().exec(|ctx| async move {
        // Requests fail until the nodes have discovered each other.
        while ctx.request(Count).resolve().await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let mut asks = Asks::default();
        while let Some(number) = asks.next() {
            ctx.request(Ping { number, padding: PADDING.to_vec() }).resolve().await.expect("it answers");
            asks.answered();
        }
        let began = Instant::now();
        for number in 0..TELLS {
            ctx.send(Told { number, padding: PADDING.to_vec() }).await.expect("it lives");
        }
        let told = ctx.request(Count).resolve().await.expect("it answers");
        assert_eq!(told, TELLS);
        tells(TELLS, began);
        std::process::exit(0);
    })
}

/// Adds a node with its network, configured by this text.
fn mount(topology: &Topology, config: &str) {
    let configurers = topology.local("system.configurers").entrypoint();
    topology.local("system.network").mount(network::new(topology));
    let config: toml::Value = toml::from_str(config).expect("it is TOML");
    configurers.mount(configurer::fixture(topology, config));
}

pub fn serve(port: u16) {
    let topology = Topology::empty();
    let echoes = topology.local("echoes");
    echoes.mount(echo());
    mount(&topology, &format!("[system.network]\nlisten = [\"tcp://127.0.0.1:{port}\"]"));
    ready();
    on_one_thread(::elfo::init::start(topology));
}

pub fn call() {
    let server = Server::start("elfo");
    let topology = Topology::empty();
    let callers = topology.local("callers").entrypoint();
    let echoes = topology.remote("echoes");
    callers.route_to(&echoes, |_, _| Outcome::Broadcast);
    callers.mount(caller());
    let (own, other) = (free_port(), server.port);
    mount(
        &topology,
        &format!(
            "[system.network]\nlisten = [\"tcp://127.0.0.1:{own}\"]\ndiscovery.predefined = [\"tcp://127.0.0.1:{other}\"]"
        ),
    );
    on_one_thread(::elfo::init::start(topology));
}
