//! Joining nodes, and detecting the loss of nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Selector, Stage};
use rustix::process::Signal;

use super::support::{Killed, figure, now_ns, p50_p99_us};

const NODES: usize = 20;

/// Records the time at which its run began.
#[derive(Default, Serialize, Deserialize)]
struct First {
    began: u64,
}

impl Work for First {
    type Input = bool;

    async fn run(&mut self, stays: bool, cx: &mut WorkContext<Self>) -> Result<()> {
        self.began = now_ns();
        cx.publish(self);
        if stays {
            cx.serve_forever(self).await?;
        }
        Ok(())
    }
}

/// A Flow with one Work on each node.
#[derive(Serialize, Children)]
struct Nodes {
    works: BTreeMap<String, WorkRef<First>>,
    stay: bool,
}

impl Nodes {
    fn new(nodes: usize, stay: bool) -> Self {
        let work = |name: String| {
            let work = WorkRef::new(First::default()).placed(Placement::Node(Selector::name(&name)));
            (name, work)
        };
        Self { works: (0..nodes).map(|number| work(format!("n{number}"))).collect(), stay }
    }
}

impl Flow for Nodes {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for work in self.works.values() {
            work.run(self.stay);
        }
        Ok(())
    }
}

pub fn node() -> ExitCode {
    App::new(|| Nodes::new(0, false)).main()
}

fn start(nodes: usize, stay: bool) -> (TestApp, String) {
    let app = App::new(move || Nodes::new(nodes, stay)).listen("127.0.0.1:0");
    let app = TestApp::start_app(app).limit(Duration::from_secs(30));
    let joining = app.status().listening.expect("it listens");
    (app, joining)
}

/// Measures the time from before a node's process is started to the first line of the first run on it.
pub fn join() {
    let (app, joining) = start(NODES, false);
    let times = (0..NODES).map(|number| {
        let name = format!("n{number}");
        let began = now_ns();
        let _node = Killed::node("nodes", &joining, &name);
        let first = app.wait_for_state(&format!("works.{name}"), |first: &First| first.began > 0);
        first.began - began
    });
    figure("join-p50", p50_p99_us(times.collect())[0] / 1e3);
}

/// Measures the time from the signal until the node is seen as disconnected, and until its Work is pending again.
pub fn loss() {
    for (how, signal) in [("closed", Signal::KILL), ("silent", Signal::STOP)] {
        let (app, joining) = start(1, true);
        let node = Killed::node("nodes", &joining, "n0");
        app.wait_for_stage("works.n0", Stage::Running);
        let began = Instant::now();
        node.signal(signal);
        let passed = || began.elapsed().as_secs_f64() * 1e3;
        // No event announces the disconnection, so the node's status is polled.
        while app.status().nodes.get("n0").is_some_and(|node| node.is_connected) {
            std::thread::sleep(Duration::from_millis(1));
        }
        figure(&format!("{how}-disconnected"), passed());
        app.wait_for_stage("works.n0", Stage::Pending);
        figure(&format!("{how}-lost"), passed());
    }
}
