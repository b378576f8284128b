//! The compared systems: one module each, with the client and server process of its case.

mod elfo;
mod erlang;
mod kameo;
mod ractor;
mod tonic;

struct Peer {
    name: &'static str,
    serve: fn(u16),
    call: fn(),
}

const PEERS: &[Peer] = &[
    Peer { name: "elfo", serve: elfo::serve, call: elfo::call },
    Peer { name: "kameo", serve: kameo::serve, call: kameo::call },
    Peer { name: "ractor_cluster", serve: ractor::serve, call: ractor::call },
    Peer { name: "tonic", serve: tonic::serve, call: tonic::call },
    Peer { name: "erlang", serve: erlang::serve, call: erlang::call },
];

pub const NAMES: &[&str] = &["elfo", "kameo", "ractor_cluster", "tonic", "erlang"];

fn find(name: &str) -> Option<&'static Peer> {
    PEERS.iter().find(|peer| peer.name == name)
}

/// Runs the server process; returns `false` if there is no such peer.
pub fn serve(name: &str, port: u16) -> bool {
    find(name).is_some_and(|peer| {
        (peer.serve)(port);
        true
    })
}

/// Runs the client process, which measures; returns `false` if there is no such peer.
pub fn call(name: &str) -> bool {
    find(name).is_some_and(|peer| {
        (peer.call)();
        true
    })
}
