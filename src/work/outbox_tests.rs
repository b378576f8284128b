use std::future::poll_fn;

use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::state::{Tracker, Value};

/// A state whose fields change one or several at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct State {
    count: u64,
    list: Vec<u8>,
    name: Option<String>,
}

#[derive(Debug, Clone)]
enum Step {
    Count,
    Push(u8),
    Remove(usize),
    Name(Option<String>),
    Report,
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Count),
        2 => any::<u8>().prop_map(Step::Push),
        1 => (0_usize..8).prop_map(Step::Remove),
        1 => proptest::option::of("[a-z]{0,3}").prop_map(Step::Name),
        2 => Just(Step::Report),
        2 => Just(Step::Take),
    ]
}

fn outbox() -> (Outbox, Arc<ReadyQueue>) {
    let ready_queue = Arc::<ReadyQueue>::default();
    (Outbox::new(WorkId(1), ready_queue.clone()), ready_queue)
}

fn rung(ready_queue: &ReadyQueue) -> usize {
    match ready_queue.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(rung) => rung.len(),
        Poll::Pending => 0,
    }
}

fn run_of(report: &Report) -> u64 {
    match report {
        Report::RunSucceeded { run } => *run,
        other => panic!("unexpected report {other:?}"),
    }
}

proptest! {
    #[test]
    fn each_look_shows_the_newest_state_and_every_report_in_order(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let (outbox, ready_queue) = outbox();
        let mut tracker = Tracker::new(1_000_000);
        let mut state = State::default();
        let mut shown = Value::default();
        let (mut sent, mut seen, mut news_since) = (0, 0, false);
        for step in steps.into_iter().chain([Step::Take]) {
            match step {
                Step::Count => state.count += 1,
                Step::Push(byte) => state.list.push(byte),
                Step::Remove(at) if at < state.list.len() => drop(state.list.remove(at)),
                Step::Remove(_) => {}
                Step::Name(name) => state.name = name,
                Step::Report => {
                    sent += 1;
                    outbox.report(Report::RunSucceeded { run: sent });
                    news_since = true;
                    continue;
                }
                Step::Take => {
                    prop_assert_eq!(rung(&ready_queue), usize::from(news_since), "one ring for all there is");
                    news_since = false;
                    let update = outbox.take();
                    if let Some(patch) = update.patch {
                        shown.apply(patch).unwrap();
                    }
                    prop_assert_eq!(&shown, tracker.value());
                    for report in update.reports {
                        seen += 1;
                        prop_assert_eq!(run_of(&report), seen);
                    }
                    prop_assert_eq!(seen, sent);
                    continue;
                }
            }
            if let Some(patch) = tracker.update(&state).unwrap() {
                outbox.publish(patch, None);
                news_since = true;
            }
        }
    }
}

#[test]
fn another_thread_never_sees_an_older_state_after_a_newer_one_nor_a_report_before_its_state() {
    const LAST: u64 = 10_000;
    let (outbox, ready_queue) = outbox();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut tracker = Tracker::new(1_000);
            for count in 1..=LAST {
                let state = State { count, ..State::default() };
                let patch = tracker.update(&state).unwrap().expect("the count has changed");
                outbox.publish(patch, None);
                if count % 7 == 0 || count == LAST {
                    outbox.report(Report::RunSucceeded { run: count });
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut shown = Value::default();
        let (mut newest, mut reported) = (0, 0);
        while reported < LAST {
            runtime.block_on(poll_fn(|cx| ready_queue.poll(cx)));
            let update = outbox.take();
            if let Some(patch) = update.patch {
                shown.apply(patch).unwrap();
                let count: u64 = shown.get("count").unwrap().decode().unwrap();
                assert!(count > newest, "{count} after {newest}");
                newest = count;
            }
            for report in &update.reports {
                assert!(run_of(report) > reported && run_of(report) <= newest);
                reported = run_of(report);
            }
        }
        assert_eq!(newest, LAST);
    });
}
