//! Erlang/OTP: two nodes of its own distribution. Their program is `erlang.escript`, next to this file.

use std::process::Command;

use crate::support::Server;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/peers/erlang.escript");

/// Runs without the Erlang port mapper daemon: the port is known, and only one of the nodes listens.
fn escript(port: u16, name: &str, more: &str, does: &str) -> Command {
    let flags = format!(
        "-name {name}@127.0.0.1 -setcookie compare -start_epmd false -erl_epmd_port {port} +sbwt none {more}"
    );
    let mut command = Command::new("escript");
    command.arg(SCRIPT).arg(does).env("ERL_FLAGS", flags);
    command
}

/// Does nothing: [`call`] starts the server as another program.
pub fn serve(_: u16) {}

pub fn call() {
    if Command::new("escript").output().is_err() {
        eprintln!("erlang: left out: there is no `escript` (erlang-base on Debian)");
        return;
    }
    let server = Server::started_by(|port| escript(port, "server", "", "serve"));
    let status = escript(server.port, "client", "-dist_listen false", "call").status();
    assert!(status.is_ok_and(|status| status.success()), "it measures");
}
