//! Code of a Flow that panics where the runtime calls it: the failure of that Flow only.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flowright::Value;
use flowright::prelude::*;
use flowright::testing::TestApp;
use serde::Serializer;

use crate::support::*;

/// The code that panics.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Snare {
    Strategy,
    ErrorDisplay,
    ErrorDrop,
    React,
    ChildDrop,
    RunInput,
    FieldOfWork,
}

/// An error of which one method panics.
struct Bad(Snare);

impl std::fmt::Debug for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bad")
    }
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert_ne!(self.0, Snare::ErrorDisplay, "a trap");
        f.write_str("it is bad")
    }
}

impl std::error::Error for Bad {}

impl Drop for Bad {
    fn drop(&mut self) {
        assert_ne!(self.0, Snare::ErrorDrop, "a trap");
    }
}

/// A value that panics when it is dropped as a part of an App.
#[derive(Serialize, Children)]
struct Doomed;

impl Flow for Doomed {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        panic!("a trap");
    }
}

/// A Work whose input and state panic when they are serialised or deserialised.
#[derive(Default, Serialize, Deserialize)]
struct Holder {
    #[serde(deserialize_with = "trap")]
    held: u8,
}

fn trap<'de, D: serde::Deserializer<'de>>(_: D) -> std::result::Result<u8, D::Error> {
    panic!("a trap")
}

struct Input;

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        panic!("a trap")
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        Ok(Self)
    }
}

impl Work for Holder {
    type Input = Input;

    async fn run(&mut self, _: Input, _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Snared {
    probe: WorkRef<Probe>,
    holder: Option<WorkRef<Holder>>,
    doomed: Option<FlowRef<Doomed>>,
    #[serde(skip)]
    snare: Snare,
}

impl Flow for Snared {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        match self.snare {
            Snare::React => panic!("a trap"),
            Snare::ErrorDisplay | Snare::ErrorDrop => return Err(Bad(self.snare).into()),
            Snare::Strategy => drop(self.probe.run(Job::Panic("it panics".to_owned()))),
            Snare::ChildDrop if cx.reaction() == 1 => {
                self.doomed = Some(FlowRef::new(Doomed));
                self.probe.run(Job::Set(1));
            }
            Snare::ChildDrop => self.doomed = None,
            Snare::RunInput => drop(self.holder.as_ref().map(|holder| holder.run(Input))),
            // The Work itself has failed, since it cannot be decoded.
            Snare::FieldOfWork => {}
        }
        Ok(())
    }

    fn strategy(&self) -> flowright::Strategy {
        assert_ne!(self.snare, Snare::Strategy, "a trap");
        flowright::Strategy::one_for_one()
    }
}

#[derive(Serialize, Children)]
struct Root {
    snared: FlowRef<Snared>,
    witness: WorkRef<Probe>,
    failed: Option<String>,
}

impl Root {
    fn new(snare: Snare) -> Self {
        let at_once = Duration::ZERO..Duration::ZERO;
        let snared = Snared {
            probe: WorkRef::from(Probe::default()).restart(Restart::on_failure().max(3).backoff(at_once)),
            holder: matches!(snare, Snare::RunInput | Snare::FieldOfWork).then(WorkRef::default),
            doomed: None,
            snare,
        };
        let snared = FlowRef::new(snared).on_error(OnError::Capture);
        Self { snared, witness: WorkRef::default(), failed: None }
    }
}

impl Flow for Root {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.witness.run(Job::Set(1));
        if self.snared.status().stage == Stage::Failed {
            self.failed = self.snared.status().message;
        }
        Ok(())
    }
}

/// A panic in `react`, `strategy`, the `Display` or `Drop` of an error, the `Drop` of a child, the input of a run or
/// the state of a Work fails the Flow that the code belongs to, with a message that names the panic; the Flow above it
/// captures the failure and goes on.
#[test]
fn panics_of_a_flow_are_its_own_failure() {
    let table: [(Snare, &[&str]); 7] = [
        (Snare::React, &["`react` of flow `snared` panicked: a trap"]),
        (Snare::Strategy, &["`strategy` of flow `snared` panicked", "a trap"]),
        (Snare::ErrorDisplay, &["`react` of flow `snared`", "`Display` panicked", "a trap"]),
        (Snare::ErrorDrop, &["`react` of flow `snared`", "it is bad"]),
        (Snare::ChildDrop, &["`Drop` of flow `snared.doomed` panicked: a trap"]),
        (Snare::RunInput, &["snared.holder", "`Serialize`", "panicked: a trap"]),
        (Snare::FieldOfWork, &["snared.holder", "`Deserialize` panicked: a trap"]),
    ];
    for (snare, parts) in table {
        let app = TestApp::start(move || Root::new(snare));
        let app = app.expect_panic("it panics");
        let said = app.wait_for_state("failed", |failed: &Option<String>| failed.is_some());
        assert_says(&said.unwrap_or_default(), parts);
        app.wait_for_stage("witness", Stage::Succeeded);
        let exit = app.stop();
        assert!(exit.result.is_ok(), "{snare:?}: {:?}", exit.result);
    }
}

/// Hashes children's keys, and panics once the Flow has set the trap.
#[derive(Default, Clone)]
struct TrapHasher {
    inner: std::hash::DefaultHasher,
    is_set: Arc<AtomicBool>,
}

impl BuildHasher for TrapHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        assert!(!self.is_set.load(Ordering::Relaxed), "a trap");
        self.clone()
    }
}

impl Hasher for TrapHasher {
    fn finish(&self) -> u64 {
        self.inner.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.inner.write(bytes);
    }
}

#[derive(Serialize, Children)]
struct Hashed {
    probes: HashMap<String, WorkRef<Probe>, TrapHasher>,
    seen: usize,
}

impl Flow for Hashed {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for probe in self.probes.values() {
            probe.run(Job::Set(1));
        }
        if self.probes.values().all(|probe| probe.value == 1) {
            self.probes.hasher().is_set.store(true, Ordering::Relaxed);
            for probe in self.probes.values() {
                probe.run(Job::Set(2));
            }
        }
        self.seen = self.probes.values().filter(|probe| probe.value == 2).count();
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Above {
    hashed: FlowRef<Hashed>,
    witness: WorkRef<Probe>,
}

impl Flow for Above {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.witness.run(Job::Set(1));
        Ok(())
    }
}

/// A hasher that panics while children are looked up in a map by their keys harms nobody: the Flow sees the states of its
/// Works, others go on, and the App ends in order.
#[test]
fn panic_of_a_hasher_leaves_the_app() {
    let app = TestApp::start(|| {
        let mut probes = HashMap::with_hasher(TrapHasher::default());
        probes.extend(["a", "b"].map(|key| (key.to_owned(), WorkRef::default())));
        Above {
            hashed: FlowRef::new(Hashed { probes, seen: 0 }).on_error(OnError::Capture),
            witness: WorkRef::default(),
        }
    });
    app.wait_for_state("hashed.seen", |seen: &usize| *seen == 2);
    app.wait_for_stage("witness", Stage::Succeeded);
    assert!(app.stop().result.is_ok());
}

#[derive(Serialize, Children)]
struct Unshown {
    #[serde(serialize_with = "unshown")]
    own: u8,
    witness: WorkRef<Probe>,
}

fn unshown<S: Serializer>(_: &u8, _: S) -> std::result::Result<S::Ok, S::Error> {
    panic!("a trap")
}

impl Flow for Unshown {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.witness.run(Job::Set(1));
        Ok(())
    }
}

/// A Flow whose `Serialize` panics goes on: queries for its state get an error, and its Works run.
#[test]
fn panic_of_a_flows_serialize_is_told_to_who_asks() {
    let app = TestApp::start(|| Unshown { own: 0, witness: WorkRef::default() });
    app.wait_for_stage("witness", Stage::Succeeded);
    let error = app.block_on(app.control().state()).expect_err("the state cannot be shown");
    assert_says(&format!("{:#}", Error::from(error)), &["root", "`Serialize` panicked: a trap"]);
    let exit = app.stop();
    assert!(exit.result.is_ok(), "{:?}", exit.result);
    assert_eq!(exit.state, Value::default(), "it cannot be shown");
}

#[derive(Default, Serialize, Children)]
struct Giving;

impl Flow for Giving {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        cx.fail(Bad(Snare::ErrorDisplay));
        Ok(())
    }
}

/// An App that fails with an error whose `Display` panics ends with an error that reports the panic.
#[test]
fn failing_with_an_error_that_panics_ends_the_app() {
    let app = TestApp::start(Giving::default);
    assert_says(&error(app.wait_for_exit()), &["`Display` panicked: ", "a trap"]);
}
