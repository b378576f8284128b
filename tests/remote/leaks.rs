//! Leaks: Works, nodes and processes that have gone leave no descriptors, threads, values and memory.

use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{PayloadUsage, Placement};

use crate::held::Held;
use crate::payloads::office::{Clerk, Errand, open};
use crate::process::LIMIT;

crate::tests![
    replaced_processes_leave_no_connections,
    threads_that_end_at_once_leave_no_memory,
    works_that_leave_an_empty_tree_are_forgotten,
];

/// A small value is read from each of many consecutive processes; the connections for that are closed.
fn replaced_processes_leave_no_connections() {
    let mut seed = 0;
    let open = open(["process", "thread", "thread"], &[], move |office, _| {
        let made = &office.a.run(Errand::Make { count: 1, length: 100, seed }).finished()?.made;
        let last = made.last().expect("the payload was made").clone();
        office.b.run(Errand::Read(vec![last])).finished()?;
        if seed < 40 {
            seed += 1;
            office.a.restart_now();
        }
        Ok(())
    });
    let read = |times: usize| open.app.wait_for_state("b", |clerk: &Clerk| clerk.read.len() >= times);
    read(5);
    let before = Held::here().descriptors();
    read(41);
    let began = Instant::now();
    // At most one process exists at a time.
    while Held::here().descriptors() > before + 20 {
        assert!(began.elapsed() < LIMIT, "{before} descriptors before, and {:?}", Held::here());
        std::thread::park_timeout(Duration::from_millis(10));
    }
    open.app.stop().result.unwrap();
}

/// A Work whose state keeps a value alive.
#[derive(Default, Serialize, Deserialize)]
struct Keeper {
    kept: Option<Payload<Vec<u8>>>,
}

impl Work for Keeper {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.kept = Some(cx.payload(vec![1; 100_000])?);
        Ok(())
    }
}

/// A Flow that has one Work after another, and none in between.
#[derive(Serialize, Children)]
struct OneByOne {
    keeper: Option<WorkRef<Keeper>>,
    left: u32,
    #[serde(skip)]
    placement: Placement,
}

impl Flow for OneByOne {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        match &self.keeper {
            Some(keeper) => {
                keeper.run(()).finished()?;
                self.keeper = None;
                self.left -= 1;
            }
            None if self.left == 0 => return Ok(()),
            None => {
                let keeper = WorkRef::from(Keeper::default()).placed(self.placement);
                self.keeper = Some(keeper);
            }
        }
        cx.wake_in(Duration::ZERO);
        Ok(())
    }
}

/// Works that leave while no Work is left in the tree are forgotten like others, with all their resources.
fn works_that_leave_an_empty_tree_are_forgotten() {
    for placement in [Placement::Thread, Placement::Pool] {
        let app = TestApp::start(move || OneByOne { keeper: None, left: 300, placement }).limit(LIMIT);
        let before = Held::here();
        app.wait_for_state("left", |left: &u32| *left == 0);
        let began = Instant::now();
        while PayloadUsage::here().memory > 0 {
            assert!(began.elapsed() < LIMIT, "{:?}", PayloadUsage::here());
            std::thread::park_timeout(Duration::from_millis(10));
        }
        // Two threads of the pool did not exist at the beginning.
        let now = Held::here().descriptors();
        assert!(now < before.descriptors() + 50, "{before:?}; now there are {now} descriptors");
        app.stop().result.unwrap();
    }
}

/// A Flow that makes many Works with threads of their own, and drops them at once.
#[derive(Serialize, Children)]
struct Crowds {
    crowd: Vec<WorkRef<Keeper>>,
    left: u32,
}

impl Flow for Crowds {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if self.left == 0 {
            return Ok(());
        }
        if self.crowd.is_empty() {
            self.crowd = (0..50).map(|_| WorkRef::default()).collect();
        } else {
            self.crowd.clear();
            self.left -= 1;
        }
        cx.wake_in(Duration::ZERO);
        Ok(())
    }
}

/// The resources of a thread that has ended are released: 20,000 threads take no memory.
fn threads_that_end_at_once_leave_no_memory() {
    let app = TestApp::start(|| Crowds { crowd: Vec::new(), left: 400 }).limit(2 * LIMIT);
    app.wait_for_state("left", |left: &u32| *left <= 300);
    let before = Held::here().memory();
    app.wait_for_state("left", |left: &u32| *left == 0);
    let after = Held::here().memory();
    // A leak of 1.4 KiB for each thread would be more than that.
    assert!(after < before + (10 << 20), "{} KiB, and {} KiB before", after >> 10, before >> 10);
    app.stop().result.unwrap();
}
