//! A scripted Work, a journal that outlives it, and a log that tests can read.

use std::collections::HashMap;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use flowright::Exit;
use flowright::prelude::*;
use flowright::testing::TestApp;
use serde_json::Value as Json;

/// A Work that follows its input and its messages, and records its life in the journal of its test.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Probe {
    /// The key of its journal: the name of the test.
    pub(crate) journal: String,
    /// The number of incarnations that have started.
    pub(crate) starts: u32,
    /// The value of the last [`Set`].
    pub(crate) value: i64,
}

impl Probe {
    pub(crate) fn of(journal: &str) -> Self {
        Self { journal: journal.to_owned(), ..Self::default() }
    }

    fn note(&self, cx: &WorkContext<Self>, what: &str) {
        note(&self.journal, format!("{what} {}", cx.path()));
    }
}

/// An order for a run of a [`Probe`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Job {
    Set(i64),
    Serve,
    Fail(String),
    Panic(String),
}

impl Work for Probe {
    type Input = Job;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.starts += 1;
        self.note(cx, "start");
        Ok(())
    }

    async fn run(&mut self, job: Job, cx: &mut WorkContext<Self>) -> Result<()> {
        self.note(cx, "run");
        match job {
            Job::Set(value) => self.value = value,
            Job::Serve => {
                cx.serve_forever(self).await?;
            }
            Job::Fail(message) => bail!("{message}"),
            Job::Panic(message) => panic!("{message}"),
        }
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.note(cx, "stop");
        Ok(())
    }
}

/// A message that sets and publishes the value of the Work. The answer is the previous value.
#[derive(Serialize, Deserialize)]
pub(crate) struct Set(pub(crate) i64);

impl Handle<Set> for Probe {
    type Reply = i64;

    async fn handle(&mut self, Set(value): Set, cx: &mut WorkContext<Self>) -> i64 {
        let earlier = std::mem::replace(&mut self.value, value);
        cx.publish(self);
        earlier
    }
}

/// A message that changes nothing. The answer is the value.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ping;

impl Handle<Ping> for Probe {
    type Reply = i64;

    async fn handle(&mut self, _: Ping, _: &mut WorkContext<Self>) -> i64 {
        self.value
    }
}

/// A message that ends the incarnation with a panic.
#[derive(Serialize, Deserialize)]
pub(crate) struct Crash;

impl Handle<Crash> for Probe {
    type Reply = ();

    async fn handle(&mut self, _: Crash, cx: &mut WorkContext<Self>) {
        panic!("{} was told to crash", cx.path());
    }
}

/// Starts an App with a paused clock, so that timers take no real time.
pub(crate) fn paused<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> TestApp {
    TestApp::start_paused(make, || {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    })
}

/// The present state tree, as JSON.
pub(crate) fn json(app: &TestApp) -> Json {
    app.state().to_json()
}

/// The paths of all Works, in alphabetical order.
pub(crate) fn works(app: &TestApp) -> Vec<String> {
    app.status().works.into_keys().collect()
}

/// The error that ended an App, as text.
pub(crate) fn error(exit: Exit) -> String {
    format!("{:#}", flowright::Error::from(exit.result.expect_err("the App fails")))
}

/// The error with which an App does not start, as text.
pub(crate) fn refusal<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> String {
    match TestApp::try_start(App::new(make)) {
        Ok(_) => panic!("the App starts"),
        Err(error) => format!("{:#}", flowright::Error::from(error)),
    }
}

/// Asserts that `text` contains all of `parts`.
#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

static JOURNALS: Mutex<Option<HashMap<String, Vec<String>>>> = Mutex::new(None);

/// Adds a line to a journal.
pub(crate) fn note(journal: &str, line: impl Into<String>) {
    let mut journals = JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
    journals.get_or_insert_default().entry(journal.to_owned()).or_default().push(line.into());
}

/// The lines of a journal that begin with `what`.
pub(crate) fn noted(journal: &str, what: &str) -> Vec<String> {
    let journals = JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = journals.as_ref().and_then(|journals| journals.get(journal));
    lines.into_iter().flatten().filter(|line| line.starts_with(what)).cloned().collect()
}

/// Warnings and errors that this process has logged so far. Needs [`listen_to_the_log`].
pub(crate) fn warnings() -> Vec<String> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Installs the logger that [`warnings`] reads.
pub(crate) fn listen_to_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_boxed_logger(Box::new(Recorder)).expect("there is no other logger");
        log::set_max_level(log::LevelFilter::Warn);
    });
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// A restart policy with a backoff of 1 ms.
pub(crate) fn quick_restarts(max: u32) -> Restart {
    Restart::on_failure().max(max).backoff(Duration::from_millis(1)..Duration::from_millis(1))
}
