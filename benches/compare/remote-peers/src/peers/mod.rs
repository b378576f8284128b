//! One module for each system, with the two processes of its case.

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

/// The process that is asked; whether there is such a peer.
pub fn serve(name: &str, port: u16) -> bool {
    find(name).is_some_and(|peer| {
        (peer.serve)(port);
        true
    })
}

/// The process that asks and measures.
pub fn call(name: &str) -> bool {
    find(name).is_some_and(|peer| {
        (peer.call)();
        true
    })
}
