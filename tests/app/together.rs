//! Two Apps in one process: they share nothing but the logger and the recorder of metrics.

use std::path::PathBuf;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Config, Drive, Payload, PayloadUsage, WorkAddr};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::support::{LIMIT, Process, get};
use crate::tests;

tests![
    memory_budget_of_one_app_does_not_limit_another,
    drives_of_one_app_hold_nothing_of_another,
    address_of_one_app_does_not_reach_another,
    end_of_one_app_leaves_another_working,
    logs_of_one_app_are_not_shown_by_another,
];

/// Length of a value of which a memory budget of 1 MiB has room for one.
const LENGTH: usize = 600 << 10;

/// Keeps payloads, uses a drive and addresses, all as asked by the test.
#[derive(Default, Serialize, Deserialize)]
struct Keeper {
    kept: Vec<Payload<Vec<u8>>>,
    counted: u32,
}

impl Work for Keeper {
    type Input = String;

    async fn run(&mut self, line: String, _: &mut WorkContext<Self>) -> Result<()> {
        log::warn!("{line}");
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Count>();
    }
}

#[derive(Serialize, Deserialize)]
struct Count;

impl Handle<Count> for Keeper {
    type Reply = u32;

    async fn handle(&mut self, _: Count, _: &mut WorkContext<Self>) -> u32 {
        self.counted += 1;
        self.counted
    }
}

/// Has the Work make and keep a payload; the answer is the usage of its App.
#[derive(Serialize, Deserialize)]
struct Keep;

impl Handle<Keep> for Keeper {
    type Reply = PayloadUsage;

    async fn handle(&mut self, _: Keep, cx: &mut WorkContext<Self>) -> PayloadUsage {
        self.kept.push(cx.payload(vec![7; LENGTH]).expect("there is room in memory or on disk"));
        cx.publish(self);
        PayloadUsage::here()
    }
}

/// Has the Work read all its payloads; the answer is their total length.
#[derive(Serialize, Deserialize)]
struct ReadAll;

impl Handle<ReadAll> for Keeper {
    type Reply = usize;

    async fn handle(&mut self, _: ReadAll, _: &mut WorkContext<Self>) -> usize {
        let mut length = 0;
        for payload in &self.kept {
            length += payload.value().await.expect("the value is here").len();
        }
        length
    }
}

/// Has the Work put a file on the drive, if it is named; the answer are the names of all files.
#[derive(Serialize, Deserialize)]
struct Put(Option<String>);

impl Handle<Put> for Keeper {
    type Reply = Vec<String>;

    async fn handle(&mut self, Put(name): Put, _: &mut WorkContext<Self>) -> Vec<String> {
        let drive = Drive::new("reports");
        if let Some(name) = name {
            drive.put_bytes(name, "all is well").await.expect("the drive can be written");
        }
        let files = drive.list("").await.expect("the drive can be read");
        files.into_iter().map(|file| file.name).collect()
    }
}

/// Has the Work read an address from JSON and count there; the answer is the count, or the error.
#[derive(Serialize, Deserialize)]
struct CountAt(String);

impl Handle<CountAt> for Keeper {
    type Reply = Result<u32, String>;

    async fn handle(&mut self, CountAt(text): CountAt, _: &mut WorkContext<Self>) -> Result<u32, String> {
        let address: WorkAddr<Self> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        address.ask(Count).await.map_err(|error| error.to_string())
    }
}

#[derive(Serialize, Children)]
struct Keepers {
    first: WorkRef<Keeper>,
    second: WorkRef<Keeper>,
    #[serde(skip)]
    line: String,
}

impl Flow for Keepers {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        let line = self.line.clone();
        self.first.run(line);
        Ok(())
    }
}

fn keepers(line: &str) -> App {
    let line = line.to_owned();
    App::new(move || {
        let keeper = || WorkRef::new(Keeper::default());
        Keepers { first: keeper(), second: keeper(), line }
    })
}

/// A directory for the test, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-together-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(config: Config) -> (TestApp, WorkAddr<Keeper>) {
    let app = TestApp::start_app(keepers("it runs").config(config)).limit(LIMIT);
    let first = app.work::<Keeper>("first");
    app.wait_for_work("first", |work| work.successes == 1);
    (app, first)
}

/// One App has filled its memory and spills to disk; the other one still has its whole memory budget, and its status and
/// usage show its own values only.
fn memory_budget_of_one_app_does_not_limit_another() {
    let [(full, in_full), (empty, in_empty)] = [(); 2].map(|()| start(Config::new().payload_memory_mib(1)));
    let usage = full.block_on(in_full.ask(Keep)).unwrap();
    let one = usage.memory;
    assert!(one >= LENGTH as u64 && usage.disk == 0, "{usage:?}");
    let usage = full.block_on(in_full.ask(Keep)).unwrap();
    assert_eq!((usage.memory, usage.disk), (one, one), "one of two values is on disk");

    let usage = empty.block_on(in_empty.ask(Keep)).unwrap();
    assert_eq!((usage.memory, usage.disk), (one, 0), "the value of the other App is in memory");
    // A reply may arrive before what the handler has published.
    for (app, number) in [(&full, 2), (&empty, 1)] {
        app.wait_for_state("first.kept", |kept: &Vec<IgnoredAny>| kept.len() == number);
    }
    let payloads = |app: &TestApp| app.block_on(app.control().payloads()).unwrap();
    let in_memory = |app: &TestApp| payloads(app).iter().filter(|payload| payload.is_in_memory).count();
    assert_eq!((payloads(&full).len(), in_memory(&full)), (2, 1));
    assert_eq!((payloads(&empty).len(), in_memory(&empty)), (1, 1));
    full.stop().result.unwrap();
    empty.stop().result.unwrap();
}

/// Drives of the same name are folders of their Apps.
fn drives_of_one_app_hold_nothing_of_another() {
    let [one, other] = ["one", "other"].map(Scratch::new);
    let [(app, first), (another, first_there)] =
        [&one, &other].map(|scratch| start(Config::new().drive_dir(scratch.0.clone())));
    let put = |name: &str| Put(Some(name.to_owned()));
    assert_eq!(app.block_on(first.ask(put("a"))).unwrap(), ["a"]);
    assert_eq!(another.block_on(first_there.ask(Put(None))).unwrap(), Vec::<String>::new());
    assert_eq!(another.block_on(first_there.ask(put("b"))).unwrap(), ["b"]);
    assert_eq!(app.block_on(first.ask(Put(None))).unwrap(), ["a"]);
    app.stop().result.unwrap();
    another.stop().result.unwrap();
}

/// An address that is read in its own App leads to its Work. Read in another App, it leads nowhere, although a Work of the
/// same type is at that path.
fn address_of_one_app_does_not_reach_another() {
    let [(app, first), (another, first_there)] = [(); 2].map(|()| start(Config::new()));
    let text = serde_json::to_string(&app.work::<Keeper>("second")).unwrap();
    assert_eq!(app.block_on(first.ask(CountAt(text.clone()))).unwrap(), Ok(1));
    let error = another.block_on(first_there.ask(CountAt(text))).unwrap().unwrap_err();
    assert!(error.contains("`second`"), "{error}");
    let count = |app: &TestApp| app.block_on(app.work::<Keeper>("second").ask(Count)).unwrap();
    assert_eq!((count(&app), count(&another)), (2, 1), "neither Work has counted for the other App");
    app.stop().result.unwrap();
    another.stop().result.unwrap();
}

/// Values, addresses and drives of an App are there after another App has ended.
fn end_of_one_app_leaves_another_working() {
    let scratch = Scratch::new("end");
    let (ends, in_ends) = start(Config::new());
    let (stays, first) = start(Config::new().drive_dir(scratch.0.clone()));
    for (app, first) in [(&ends, &in_ends), (&stays, &first)] {
        app.block_on(first.ask(Keep)).unwrap();
    }
    let text = serde_json::to_string(&stays.work::<Keeper>("second")).unwrap();
    ends.stop().result.unwrap();
    assert_eq!(stays.block_on(first.ask(ReadAll)).unwrap(), LENGTH);
    assert_eq!(stays.block_on(first.ask(CountAt(text))).unwrap(), Ok(1));
    assert_eq!(stays.block_on(first.ask(Put(Some("a".to_owned())))).unwrap(), ["a"]);
    let usage = stays.block_on(first.ask(Keep)).unwrap();
    assert!(usage.memory >= 2 * LENGTH as u64, "{usage:?}");
    stays.stop().result.unwrap();
}

/// Program with two Apps, both of which serve HTTP.
pub(crate) fn two_apps() -> std::process::ExitCode {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = "127.0.0.1:0".parse().unwrap();
            let other = keepers("of the other").serve(address).spawn().await.unwrap();
            println!("the other is at {}", other.address().unwrap());
            other.wait().await
        })
    });
    keepers("of the one").main()
}

/// Each App shows the lines of its own Works, and none of another App's Work at the same path.
fn logs_of_one_app_are_not_shown_by_another() {
    let mut program = Process::start("two_apps", &["--port=0"]);
    let one = program.address();
    let line = program.expect("the other is at ");
    let other = line.rsplit(' ').next().unwrap().parse().unwrap();
    for (address, own) in [(one, "of the one"), (other, "of the other")] {
        let texts = loop {
            let logs = get(address, "/api/v1/logs?work=first").json();
            let lines = logs["items"].as_array().unwrap();
            if !lines.is_empty() {
                break lines.iter().map(|line| line["text"].clone()).collect::<Vec<_>>();
            }
            std::thread::yield_now();
        };
        assert_eq!(texts, [json!(own)]);
    }
}
