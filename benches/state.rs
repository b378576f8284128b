//! Cost of publishing for a Work, and of applying a patch for its Flow: the state layer alone, without an App.

use std::collections::BTreeMap;

use divan::{Bencher, black_box};
use flowright::state::Tracker;
use serde::Serialize;

const LIMIT: usize = 16 << 20;

fn main() {
    divan::main();
}

#[derive(Serialize)]
struct Five {
    name: &'static str,
    epoch: u32,
    loss: f64,
    best: Option<f64>,
    step: u64,
}

/// Publishes a struct of five fields of which one has changed.
#[divan::bench]
fn publish_field(bencher: Bencher<'_, '_>) {
    let mut state = Five { name: "a training run", epoch: 3, loss: 0.5, best: Some(0.25), step: 0 };
    let mut tracker = Tracker::new(LIMIT);
    bencher.bench_local(|| {
        state.step += 1;
        tracker.update(black_box(&state))
    });
}

fn map(entries: usize) -> BTreeMap<String, u64> {
    (0..entries).map(|key| (format!("key-{key:05}"), 0)).collect()
}

/// Publishes a map of which one entry has changed.
#[divan::bench(args = [10, 10_000])]
fn publish_map(bencher: Bencher<'_, '_>, entries: usize) {
    let mut state = map(entries);
    let mut tracker = Tracker::new(LIMIT);
    bencher.bench_local(|| {
        *state.get_mut("key-00005").expect("there are ten") += 1;
        tracker.update(black_box(&state))
    });
}

/// Applies the patch for one entry of a map, as the Flow's side does.
#[divan::bench(args = [10, 10_000])]
fn apply_map(bencher: Bencher<'_, '_>, entries: usize) {
    let mut state = map(entries);
    let mut tracker = Tracker::new(LIMIT);
    tracker.update(&state).expect("it serialises");
    let mut copy = tracker.value().clone();
    bencher
        .with_inputs(|| {
            *state.get_mut("key-00005").expect("there are ten") += 1;
            tracker.update(&state).expect("it serialises").expect("it has changed")
        })
        .bench_local_values(|patch| copy.apply(patch));
}

/// Decodes the whole map into the type that `react` reads.
#[divan::bench(args = [10, 10_000])]
fn read_map(bencher: Bencher<'_, '_>, entries: usize) {
    let value = flowright::Value::of(&map(entries)).expect("it serialises");
    bencher.bench_local(|| black_box(&value).decode::<BTreeMap<String, u64>>());
}
