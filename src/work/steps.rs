//! Steps of a run: their identity, what is remembered of them, and how much of it.
//!
//! # Guarantees
//! - A step that is done stays done: an intent that arrives later does not replace its value.
//! - The steps of one run are bounded in number and in bytes.
//! - The output of a run is remembered as a step of its own, which the last value replaces and which outlives the others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::step_error::StepError;
use crate::id::unique;
use crate::payload::{self, Hex, PayloadGuards};
use crate::wire::{self, CodecError};

/// Largest encoded value of a step, in bytes.
pub(crate) const MAX_STEP_BYTES: usize = 1024 * 1024;

/// Largest encoded output of a run, in bytes.
pub(crate) const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// Longest name of a step, in bytes.
pub(crate) const MAX_STEP_NAME: usize = 256;

/// Largest number of steps that are remembered of one run.
pub(crate) const MAX_STEPS: usize = 10_000;

/// Largest total length of the names and values that are remembered of one run, in bytes.
pub(crate) const MAX_STEPS_BYTES: usize = 64 * 1024 * 1024;

/// Identity of a step within its run: 128 bits of a hash of its kind, its name and its arguments. Arguments are equal
/// when they would be equal as inputs of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StepId(Hex<16>);

impl fmt::Debug for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl StepId {
    /// The identity of the output of a run.
    pub(crate) const OUTPUT: Self = Self(Hex([0; 16]));

    /// The identity of the report that a run is ready.
    pub(crate) const READY: Self = Self(Hex([0xff; 16]));

    /// Returns the identity of the step with this name; `args` is the hash of its arguments.
    pub(super) fn of_step(name: &str, args: [u8; 16]) -> Self {
        Self::hash(b"step", name, &args)
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.0
    }

    /// Returns the identity of the action of [`once`](super::WorkContext::once) with this name.
    pub(super) fn of_once(name: &str) -> Self {
        Self::hash(b"once", name, &[])
    }

    fn hash(kind: &[u8; 4], name: &str, args: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind).update(&(name.len() as u64).to_be_bytes()).update(name.as_bytes()).update(args);
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(Hex(id))
    }
}

/// Returns a new idempotency key: 32 random hexadecimal digits.
pub(super) fn new_key() -> String {
    format!("{:016x}{:016x}", unique(), unique())
}

/// Remembered part of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KnownStep {
    pub(crate) id: StepId,
    pub(crate) name: String,
    pub(crate) outcome: StepOutcome,
}

impl KnownStep {
    /// Returns the output of a run.
    pub(super) fn output(value: StepValue) -> Self {
        Self { id: StepId::OUTPUT, name: String::new(), outcome: StepOutcome::Done { value } }
    }

    /// Returns the report that a run is ready.
    pub(super) fn ready() -> Self {
        let value = StepValue::encode(&()).expect("the empty value can be encoded");
        Self { id: StepId::READY, name: String::new(), outcome: StepOutcome::Done { value } }
    }

    /// Number of bytes that count towards the limit of a run.
    fn size(&self) -> usize {
        let outcome = match &self.outcome {
            StepOutcome::Intended { key } => key.len(),
            StepOutcome::Done { value } => value.bytes.len(),
        };
        self.name.len() + outcome
    }

    /// Returns true if the name and the value are within their limits.
    pub(crate) fn is_within_limits(&self) -> bool {
        let most = if self.id == StepId::OUTPUT { MAX_OUTPUT_BYTES } else { MAX_STEP_BYTES };
        let longest = match &self.outcome {
            StepOutcome::Intended { key } => key.len() <= MAX_STEP_NAME,
            StepOutcome::Done { value } => value.bytes.len() <= most,
        };
        longest && self.name.len() <= MAX_STEP_NAME
    }

    /// Returns the guards of the payloads in its value.
    pub(crate) fn holds(&self) -> PayloadGuards {
        match &self.outcome {
            StepOutcome::Intended { .. } => PayloadGuards::default(),
            StepOutcome::Done { value } => value.holds.clone(),
        }
    }

    /// Returns a step that arrived from another process, together with the guards of the payloads in its value.
    pub(crate) fn arrived(mut self, holds: PayloadGuards) -> Self {
        if let StepOutcome::Done { value } = &mut self.outcome {
            value.holds = holds;
        }
        self
    }
}

/// Progress of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum StepOutcome {
    /// The action of `once` may have been carried out, with this idempotency key.
    Intended {
        key: String,
    },
    Done {
        value: StepValue,
    },
}

/// The encoded value of a step, with the guards that keep its payloads alive.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StepValue {
    bytes: Bytes,
    #[serde(skip)]
    holds: PayloadGuards,
}

impl PartialEq for StepValue {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for StepValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepValue({} bytes)", self.bytes.len())
    }
}

impl StepValue {
    /// Encodes the value of the step `name`.
    ///
    /// # Errors
    /// [`StepError::Value`] if the value does not serialise, [`StepError::TooLarge`] if it is too long.
    pub(super) fn new<T: Serialize>(name: &str, value: &T) -> Result<Self, StepError> {
        let value = Self::encode(value).map_err(|error| StepError::Value { name: name.to_owned(), error })?;
        if value.bytes.len() > MAX_STEP_BYTES {
            let (name, size) = (name.to_owned(), value.bytes.len());
            return Err(StepError::TooLarge { name, size, limit: MAX_STEP_BYTES });
        }
        Ok(value)
    }

    /// Encodes a value of any length.
    ///
    /// # Errors
    /// [`CodecError`] if the value does not serialise.
    pub(super) fn encode<T: Serialize>(value: &T) -> Result<Self, CodecError> {
        let (encoded, holds) = payload::collect(|| wire::encode(value));
        Ok(Self { bytes: encoded?, holds: holds.distinct() })
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Decodes the value of the step `name`.
    ///
    /// # Errors
    /// [`StepError::Value`] if the bytes are not a `T`.
    pub(super) fn decode<T: DeserializeOwned>(&self, name: &str) -> Result<T, StepError> {
        wire::decode(&self.bytes).map_err(|error| StepError::Value { name: name.to_owned(), error })
    }
}

/// The remembered steps of one run. Cloning is cheap.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Steps(Option<Arc<Known>>);

#[derive(Clone, Default, PartialEq)]
struct Known {
    steps: BTreeMap<StepId, KnownStep>,
    /// Total size of the steps.
    bytes: usize,
}

/// Limit on the steps of one run that a further step would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepsFull {
    Number,
    Bytes,
}

impl fmt::Display for StepsFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => write!(f, "{MAX_STEPS} steps"),
            Self::Bytes => write!(f, "{} MiB of step values", MAX_STEPS_BYTES / 1024 / 1024),
        }
    }
}

impl Steps {
    pub(crate) fn get(&self, id: StepId) -> Option<&KnownStep> {
        self.0.as_ref()?.steps.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &KnownStep> {
        self.0.iter().flat_map(|known| known.steps.values())
    }

    /// Sets the guards of the payloads in all values, which `guards` finds in their bytes.
    #[cfg(feature = "journal")]
    pub(crate) fn restore_guards(&mut self, guards: &mut impl FnMut(&[u8]) -> PayloadGuards) {
        let Some(known) = &mut self.0 else { return };
        for step in Arc::make_mut(known).steps.values_mut() {
            if let StepOutcome::Done { value } = &mut step.outcome {
                value.holds = guards(&value.bytes);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |known| known.steps.len())
    }

    /// Returns the output of the run.
    pub(crate) fn output(&self) -> Option<&StepValue> {
        match &self.get(StepId::OUTPUT)?.outcome {
            StepOutcome::Done { value } => Some(value),
            StepOutcome::Intended { .. } => None,
        }
    }

    /// Forgets a step, and returns it.
    pub(crate) fn remove(&mut self, id: StepId) -> Option<KnownStep> {
        let known = Arc::make_mut(self.0.as_mut()?);
        let step = known.steps.remove(&id)?;
        known.bytes -= step.size();
        if known.steps.is_empty() {
            self.0 = None;
        }
        Some(step)
    }

    /// Remembers a step. Returns true if anything has changed. The limits of a run do not count for its output, which has
    /// one of its own.
    ///
    /// # Errors
    /// [`StepsFull`] if the step would exceed a limit of the run; nothing is remembered then.
    pub(crate) fn insert(&mut self, step: KnownStep) -> Result<bool, StepsFull> {
        let before = self.get(step.id);
        let is_output = step.id == StepId::OUTPUT;
        if !is_output && before.is_some_and(|before| matches!(before.outcome, StepOutcome::Done { .. })) {
            return Ok(false);
        }
        if !is_output && before.is_none() && self.len() >= MAX_STEPS {
            return Err(StepsFull::Number);
        }
        let bytes =
            self.0.as_ref().map_or(0, |known| known.bytes) - before.map_or(0, KnownStep::size) + step.size();
        if !is_output && bytes > MAX_STEPS_BYTES {
            return Err(StepsFull::Bytes);
        }
        let known = Arc::make_mut(self.0.get_or_insert_default());
        known.bytes = bytes;
        known.steps.insert(step.id, step);
        Ok(true)
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
impl KnownStep {
    /// Returns a step for tests of other modules.
    pub(crate) fn test(number: u8, is_done: bool) -> Self {
        let step = Self::numbered(number.into());
        let outcome = StepOutcome::Intended { key: step.name.clone() };
        if is_done { step } else { Self { outcome, ..step } }
    }

    /// Returns the output of a run.
    pub(crate) fn output_of(number: u64) -> Self {
        Self::output(StepValue::encode(&number).expect("a number is a value"))
    }

    /// Returns the output of a run that has this value.
    pub(crate) fn test_output(value: StepValue) -> Self {
        Self::output(value)
    }

    /// Returns a step that is done.
    pub(crate) fn numbered(number: usize) -> Self {
        let name = number.to_string();
        let value = StepValue::new(&name, &number).expect("a number is a value");
        Self { id: StepId::of_once(&name), name, outcome: StepOutcome::Done { value } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done<T: Serialize>(name: &str, value: &T) -> KnownStep {
        let value = StepValue::new(name, value).unwrap();
        KnownStep { id: StepId::of_once(name), name: name.to_owned(), outcome: StepOutcome::Done { value } }
    }

    /// A step that is done is not replaced, and an intent is replaced by its outcome.
    #[test]
    fn outcome_replaces_an_intent_and_nothing_else() {
        let mut steps = Steps::default();
        let finished = done("a", &7);
        let intended =
            KnownStep { outcome: StepOutcome::Intended { key: "k".to_owned() }, ..finished.clone() };
        assert_eq!(steps.insert(intended.clone()), Ok(true));
        assert_eq!(steps.get(finished.id), Some(&intended));
        assert_eq!(steps.insert(finished.clone()), Ok(true));
        assert_eq!(steps.insert(intended), Ok(false));
        assert_eq!(steps.insert(done("a", &8)), Ok(false));
        assert_eq!(steps.get(finished.id), Some(&finished));
    }

    /// The number and the total size of the steps of a run are limited; a step that is known may still be completed.
    #[test]
    fn steps_of_a_run_are_bounded() {
        let mut steps = Steps::default();
        for n in 0..MAX_STEPS {
            assert_eq!(steps.insert(done(&n.to_string(), &n)), Ok(true));
        }
        assert_eq!(steps.insert(done("more", &1)), Err(StepsFull::Number));
        let mut steps = Steps::default();
        let value = "x".repeat(MAX_STEP_BYTES - 8);
        let fitting = (0..).take_while(|n: &u32| steps.insert(done(&n.to_string(), &value)).is_ok()).count();
        assert_eq!(fitting, MAX_STEPS_BYTES / MAX_STEP_BYTES);
        assert_eq!(steps.insert(done("more", &value)), Err(StepsFull::Bytes));
        assert_eq!(steps.len(), fitting);
    }

    /// The last output replaces the ones before, whatever a run remembers already; every step can be forgotten.
    #[test]
    fn output_is_the_last_one_and_beside_the_limits() {
        let output = |value: &str| KnownStep::output(StepValue::encode(&value).unwrap());
        let mut steps = Steps::default();
        for n in 0..MAX_STEPS {
            steps.insert(done(&n.to_string(), &n)).unwrap();
        }
        for value in ["first", "last"] {
            assert_eq!(steps.insert(output(value)), Ok(true));
        }
        assert_eq!(steps.output().unwrap().decode::<String>("").unwrap(), "last");
        assert!(output(&"x".repeat(MAX_OUTPUT_BYTES - 8)).is_within_limits());
        assert!(!output(&"x".repeat(MAX_OUTPUT_BYTES)).is_within_limits());
        let ids: Vec<_> = steps.iter().map(|step| step.id).collect();
        assert!(ids.into_iter().all(|id| steps.remove(id).is_some()));
        assert!(steps.is_empty() && steps.output().is_none() && steps.remove(StepId::OUTPUT).is_none());
    }

    /// A step is the same after it was encoded for another process.
    #[test]
    fn step_travels() {
        for step in [
            done("a", &vec![1, 2, 3]),
            KnownStep { outcome: StepOutcome::Intended { key: new_key() }, ..done("b", &()) },
        ] {
            assert!(step.is_within_limits());
            assert_eq!(wire::decode::<KnownStep>(&wire::encode(&step).unwrap()).unwrap(), step);
        }
    }

    /// Each idempotency key is another.
    #[test]
    fn keys_do_not_repeat() {
        let keys: std::collections::HashSet<_> = (0..1_000).map(|_| new_key()).collect();
        assert!(keys.len() == 1_000 && keys.iter().all(|key| key.len() == 32));
    }
}
