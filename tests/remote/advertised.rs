//! Nodes and heads whose addresses are translated, or that are reached at forwarded ports.

use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::lab::{Lab, Round, Suite, Task};
use crate::process::LIMIT;
use crate::proxy::Proxy;
use crate::support::{
    Process, free_address, joining, lab, node, program, signal, start_with, times, waits_with,
};

crate::tests![
    node_is_reached_at_the_address_that_it_advertises,
    node_that_advertises_a_wrong_address_is_reached_by_the_head,
    node_started_again_is_reached_before_the_grace_period_ends,
    head_tells_the_address_that_it_advertises,
];

/// `a`, on the node `n`, sends numbers to `b`, which serves on the node `m`.
fn sending() -> Suite {
    Suite::new(lab(node("n")), lab(node("m")), |suite, _| {
        suite.b.run(Task::Serve);
        if suite.b.is_running() {
            suite.a.run(Task::Send(suite.b.addr(), 100));
        }
        Ok(())
    })
}

fn summed(app: &TestApp) {
    app.wait_for_state("a.sum", |sum: &Option<u64>| *sum == Some(4950));
}

/// A port of another address is forwarded to the one at which the node listens.
fn node_is_reached_at_the_address_that_it_advertises() {
    let app = start_with(times(250, 60_000), sending);
    let (address, inside) = (joining(&app), free_address());
    let gate = Proxy::to(&inside);
    let _m = Process::node_with(&address, "m", &["--listen", &inside, "--advertise", gate.address()]);
    let _n = Process::node(&address, "n");
    summed(&app);
    assert!(gate.connections() > 0, "it was reached by another way");
}

/// No message is lost; the warning names both nodes and the address.
fn node_that_advertises_a_wrong_address_is_reached_by_the_head() {
    let app = start_with(times(200, 2_000), sending);
    let (address, inside, nowhere) = (joining(&app), free_address(), free_address());
    let _m = Process::node_with(&address, "m", &["--listen", &inside, "--advertise", &nowhere]);
    let mut n = Process::node(&address, "n");
    let warning = n.expect("WARN: node `n` cannot reach node `m`");
    assert!(warning.contains(&nowhere) && warning.contains("--advertise"), "{warning}");
    summed(&app);
}

fn head_tells_the_address_that_it_advertises() {
    let config = times(250, 20_000).advertise("gate.example.org");
    let app = App::new(sending).listen("127.0.0.1:0").process(|| Ok(program("suite"))).config(config);
    let app = TestApp::start_app(app).limit(LIMIT);
    let told = app.status().listening.expect("the head accepts nodes");
    assert!(told.starts_with("gate.example.org:"), "{told}");
    waits_with(&app, &format!("--join {told} --name n"));
    // The node still listens at the address of `--listen`.
    let inside = told.replace("gate.example.org", "127.0.0.1");
    let _nodes = ["m", "n"].map(|name| Process::node(&inside, name));
    summed(&app);
}

/// A node that is killed and started again is reached from another node as soon as the Work is there again, and not only
/// when the session with its process before has reached the end of its grace period: that process may have been on another
/// machine, so nothing proves its end to the other node.
fn node_started_again_is_reached_before_the_grace_period_ends() {
    let app = start_with(times(500, 600_000), || {
        Suite::new(lab(node("a")), lab(node("b")), |suite, _| {
            suite.b.run(Task::Serve);
            if suite.b.is_running() {
                // It keeps the address, and so the way to the Work.
                suite.a.run(Task::Tell(suite.b.addr(), 3));
            }
            Ok(())
        })
    });
    let (address, inside) = (joining(&app), free_address());
    let _asker = Process::node_of("patient", &address, "a", &[]);
    let gate = Proxy::to(&inside);
    let first = Process::node_with(&address, "b", &["--listen", &inside, "--advertise", gate.address()]);
    app.wait_for_stage("a", Stage::Succeeded);
    app.wait_for_stage("b", Stage::Running);
    let (a, b) = (app.work::<Lab>("a"), app.work::<Lab>("b"));
    let ask = || app.block_on(a.ask(Round(vec![b.clone()])).timeout(LIMIT)).expect("it answers");
    assert_eq!(ask(), Ok(()));
    assert!(gate.connections() > 0, "it was reached by another way");
    signal(first.id(), "KILL");
    first.end();
    let _second = Process::node(&address, "b");
    app.wait_for_work("b", |work| work.status.stage == Stage::Running && work.status.attempt == 2);
    assert_eq!(ask(), Ok(()));
    app.stop().result.expect("it stops");
}
