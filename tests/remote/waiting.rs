//! Works that wait for room on nodes.

use std::io::{Read, Write};
use std::net::TcpStream;

use flowright::Selector;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::process::LIMIT;
use crate::support::{Process, joining, program, times};

crate::tests![
    works_that_wait_for_one_slot_run_in_order,
    works_that_wait_are_launched_together_once_there_is_room,
    every_work_of_a_few_has_the_reason_of_now,
    work_that_is_stopped_does_not_hold_up_those_behind_it,
];

/// A Work that notes that it has run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Job {
    has_run: bool,
}

impl Work for Job {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        self.has_run = true;
        Ok(())
    }
}

/// Works that each take a processor of a node. Those that have run make room for others if `makes_room`.
#[derive(Default, Serialize, Children)]
pub(crate) struct Queue {
    jobs: Vec<WorkRef<Job>>,
    makes_room: bool,
    /// The jobs in the order in which they have run.
    done: Vec<usize>,
}

impl Flow for Queue {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for (index, job) in self.jobs.iter_mut().enumerate() {
            if self.done.contains(&index) {
                continue;
            }
            job.run(());
            if job.has_run {
                self.done.push(index);
                if self.makes_room {
                    job.stop();
                }
            }
        }
        Ok(())
    }
}

/// The program of nodes.
pub(crate) fn queue() -> App {
    App::new(Queue::default)
}

fn start(jobs: usize, makes_room: bool) -> TestApp {
    let make = move || {
        let job = || WorkRef::new(Job::default()).placed(Placement::Node(Selector::any()));
        let jobs = (0..jobs).map(|_| job().needs(Resources::cpus(1))).collect();
        Queue { jobs, makes_room, done: Vec::new() }
    };
    let app =
        App::new(make).listen("127.0.0.1:0").process(|| Ok(program("queue"))).config(times(500, 60_000));
    TestApp::start_app(app.serve("127.0.0.1:0".parse().expect("an address"))).limit(LIMIT)
}

fn node(app: &TestApp, name: &str, cpus: &str) -> Process {
    Process::node_of("queue", &joining(app), name, &["--cpus", cpus])
}

/// Waits until the job with this number is pending with a message that contains `part`.
#[track_caller]
fn waits_with(app: &TestApp, job: usize, part: &str) {
    app.wait_for_work(&format!("jobs.{job}"), |job| {
        job.status.stage == Stage::Pending
            && job.status.message.as_deref().is_some_and(|message| message.contains(part))
    });
}

fn works_that_wait_for_one_slot_run_in_order() {
    const JOBS: usize = 100;
    let app = start(JOBS, true);
    waits_with(&app, JOBS - 1, "has not joined");
    let _node = node(&app, "n", "1");
    let done: Vec<usize> = app.wait_for_state("done", |done: &Vec<usize>| done.len() == JOBS);
    assert_eq!(done, (0..JOBS).collect::<Vec<_>>());
    app.stop().result.expect("it stops");
}

fn works_that_wait_are_launched_together_once_there_is_room() {
    const JOBS: usize = 50;
    let app = start(JOBS, false);
    waits_with(&app, JOBS - 1, "has not joined");
    let _small = node(&app, "m", "20");
    app.wait_for_state("done", |done: &Vec<usize>| done.len() == 20);
    waits_with(&app, 20, "`m` has 20 cpus, 0 gpus");
    let _large = node(&app, "n", "30");
    app.wait_for_state("done", |done: &Vec<usize>| done.len() == JOBS);
    app.stop().result.expect("it stops");
}

/// Only the first of them is tried; the others wait for the same.
fn every_work_of_a_few_has_the_reason_of_now() {
    let app = start(6, false);
    waits_with(&app, 5, "has not joined");
    let _node = node(&app, "n", "2");
    for job in 2..6 {
        waits_with(&app, job, "`n` has 2 cpus, 0 gpus");
    }
    app.stop().result.expect("it stops");
}

/// The first of those that wait is stopped by an operator, and there is room for one.
fn work_that_is_stopped_does_not_hold_up_those_behind_it() {
    let app = start(3, false);
    waits_with(&app, 2, "has not joined");
    let address = app.address().expect("it is served");
    let request =
        format!("POST /api/v1/works/jobs.0/stop HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(address).expect("the App is served");
    stream.set_read_timeout(Some(LIMIT)).expect("the stream is open");
    stream.write_all(request.as_bytes()).expect("the App reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the App answers");
    assert!(answer.contains("202 Accepted"), "{answer}");
    app.wait_for_stage("jobs.0", Stage::Stopped);
    let _node = node(&app, "n", "1");
    let done = app.wait_for_state("done", |done: &Vec<usize>| !done.is_empty());
    assert_eq!(done, [1]);
    app.stop().result.expect("it stops");
}
