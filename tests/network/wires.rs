//! Networks that lose packets, are slow, and are cut.

use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::process::Process;
use crate::program;
use crate::proxy::{Proxy, Weather};
use crate::{all_arrive, run};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("lost_packets_are_only_slow", lost_packets_are_only_slow),
    ("a_slow_wire_is_only_slow", a_slow_wire_is_only_slow),
    ("a_long_way_on_which_packets_are_lost_is_only_slow", a_long_way_on_which_packets_are_lost_is_only_slow),
    ("a_short_cut_loses_nothing", a_short_cut_loses_nothing),
    ("a_long_cut_loses_the_node_and_it_comes_back", a_long_cut_loses_the_node_and_it_comes_back),
];

/// Two namespaces, joined by a virtual wire; removed on drop.
struct Network {
    head: String,
    node: String,
}

impl Network {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let (head, node) = (format!("fr-{name}-h-{id}"), format!("fr-{name}-n-{id}"));
        let network = Self { head, node };
        let Self { head, node } = &network;
        for namespace in [head, node] {
            run("ip", &["netns", "add", namespace]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
        }
        run("ip", &["link", "add", "w", "netns", head, "type", "veth", "peer", "name", "w", "netns", node]);
        for (namespace, address) in [(head, "10.231.0.1/24"), (node, "10.231.0.2/24")] {
            run("ip", &["-n", namespace, "addr", "add", address, "dev", "w"]);
            run("ip", &["-n", namespace, "link", "set", "w", "up"]);
        }
        network
    }

    /// Applies this rule to packets that arrive at the node's end of the wire.
    fn rule(&self, what: &str, rule: &[&str]) {
        let arguments = [&["netns", "exec", &self.node, "iptables", what, "INPUT", "-i", "w"], rule].concat();
        run("ip", &arguments);
    }

    fn cut(&self) {
        self.rule("-A", &["-j", "DROP"]);
    }

    fn mend(&self) {
        self.rule("-D", &["-j", "DROP"]);
    }

    fn start(namespace: &str, name: &str, arguments: &[&str]) -> Process {
        let there = program(name, arguments);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(there.get_program()).args(there.get_args());
        command.envs(there.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Process::start(command)
    }

    fn head(&self) -> Process {
        let arguments = ["--open-ui=false", "--without-server", "--listen", "10.231.0.1:7502"];
        Self::start(&self.head, "network", &arguments)
    }

    fn node(&self) -> Process {
        self.node_at("10.231.0.1:7502")
    }

    fn node_at(&self, address: &str) -> Process {
        Self::start(&self.node, "network", &["node", "--join", address, "--name", "n"])
    }

    /// Drops packets on their way to the node, at random.
    fn lose(&self, share: &str) {
        let at_random = ["-m", "statistic", "--mode", "random", "--probability", share, "-j", "DROP"];
        self.rule("-A", &at_random);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.head, &self.node] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

fn lost_packets_are_only_slow() {
    let network = Network::new("loss");
    network.lose("0.05");
    let mut head = network.head();
    let _node = network.node();
    all_arrive(&mut head);
}

fn a_slow_wire_is_only_slow() {
    let network = Network::new("slow");
    let rate =
        ["qdisc", "add", "dev", "w", "root", "tbf", "rate", "4mbit", "burst", "32kbit", "latency", "400ms"];
    run("ip", &[&["netns", "exec", &network.head, "tc"][..], &rate].concat());
    let mut head = network.head();
    let _node = network.node();
    all_arrive(&mut head);
}

/// Delays all packets by 200 ms. Called in a process in the head's network.
pub(crate) fn long_way() -> ExitCode {
    let proxy = Proxy::at("10.231.0.1:7503", "10.231.0.1:7502");
    proxy.set(Weather::Delay(Duration::from_millis(200)));
    println!("the way is there");
    loop {
        std::thread::park();
    }
}

fn a_long_way_on_which_packets_are_lost_is_only_slow() {
    let network = Network::new("far");
    network.lose("0.05");
    let mut head = network.head();
    let mut way = Network::start(&network.head, "way", &[]);
    way.expect("the way is there");
    let _node = network.node_at("10.231.0.1:7503");
    all_arrive(&mut head);
}

fn a_short_cut_loses_nothing() {
    let network = Network::new("short");
    let mut head = network.head();
    let _node = network.node();
    head.expect("`a` serves, attempt 1");
    network.cut();
    head.expect("the connection to node `n` broke");
    network.mend();
    head.expect("node `n` is connected again; nothing was lost");
    all_arrive(&mut head);
}

fn a_long_cut_loses_the_node_and_it_comes_back() {
    let network = Network::new("long");
    let mut head = network.head();
    let mut node = network.node();
    head.expect("`a` serves, attempt 1");
    network.cut();
    head.expect("node `n` is lost (no heartbeat within the grace period): work `a` ran on it");
    node.expect("work `a` is ended");
    network.mend();
    head.expect("`a` serves, attempt 2");
}
