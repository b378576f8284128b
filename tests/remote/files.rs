//! Files between processes and machines: artifacts, and drives at the head.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{DriveError, PayloadUsage};
use futures::TryStreamExt;

use crate::held::children_of;
use crate::process::LIMIT;
use crate::proxy::{Proxy, Weather};
use crate::support::{Process, joining, program as this_program, times};

crate::tests![
    a_tree_is_what_was_made_wherever_it_is_fetched,
    an_artifact_that_is_lost_says_where_it_was,
    an_artifact_outlives_the_process_that_made_it,
    copies_of_artifacts_are_on_disk_and_outlive_their_node,
    a_drive_is_one_folder_wherever_it_is_used,
    what_a_drive_refuses_is_refused_alike_from_everywhere,
    a_connection_that_breaks_only_delays_a_drive,
    of_two_that_create_a_file_one_has,
];

/// Length of a file that is written in several parts.
const LARGE: usize = 9 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Job {
    Make {
        length: usize,
        copies: usize,
    },
    Fetch(Artifact),
    /// Put files whose names begin with this text, and read them back.
    Shelve(Drive, String),
    /// Read all files.
    Collect(Drive),
    Refusals(Drive),
    /// Put a large file and get it back, this many times.
    Haul(Drive, u32),
    Create(Drive, String),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Porter {
    made: Option<Artifact>,
    fetched: Vec<u64>,
    found: BTreeMap<String, u64>,
    refusals: Vec<String>,
    hauled: u32,
    created: Vec<bool>,
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 12) as u8) ^ seed).collect()
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().zip(1_u64..).map(|(byte, at)| u64::from(*byte) * (at % 251)).sum()
}

/// A directory that is removed on drop.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("flowright-files-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("the directory is new");
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn make(at: &Path, length: usize) {
    fs::create_dir_all(at.join("deep/er")).unwrap();
    fs::write(at.join("deep/er/file"), bytes(length, 1)).unwrap();
    fs::write(at.join("empty"), "").unwrap();
    symlink("deep/er/file", at.join("link")).unwrap();
}

/// A hash of the files at `at`.
fn look(at: &Path) -> u64 {
    assert_eq!(fs::read_link(at.join("link")).unwrap(), Path::new("deep/er/file"));
    assert_eq!(fs::read(at.join("empty")).unwrap(), b"");
    sum(&fs::read(at.join("link")).unwrap())
}

async fn fetch(artifact: &Artifact) -> Result<u64> {
    let place = Place::new();
    let into = place.at("above/into");
    let fetched = artifact.fetch(&into).await;
    if fetched.is_err() {
        assert!(!into.exists(), "nothing is left of what was not fetched");
    }
    fetched?;
    let progress = artifact.progress();
    assert_eq!((progress.received, progress.total), (artifact.len(), artifact.len()));
    Ok(look(&into))
}

impl Work for Porter {
    type Input = Job;

    async fn run(&mut self, job: Job, cx: &mut WorkContext<Self>) -> Result<()> {
        match job {
            Job::Make { length, copies } => {
                let place = Place::new();
                make(&place.at("tree"), length);
                self.made = Some(cx.artifact(place.at("tree"))?.replicate(copies));
            }
            Job::Fetch(artifact) => {
                self.fetched.push(fetch(&artifact).await?);
                self.fetched.push(fetch(&artifact).await?);
            }
            Job::Shelve(drive, name) => {
                let place = Place::new();
                fs::write(place.at("large"), bytes(LARGE, 2))?;
                drive.put(format!("{name}/large"), place.at("large")).await?;
                drive.put_bytes(format!("{name}/small"), bytes(100, 3)).await?;
                drive.put_bytes(format!("{name}/empty"), "").await?;
                drive.put_bytes(format!("{name}/gone"), "x").await?;
                drive.delete(&format!("{name}/gone")).await?;
                assert!(!drive.exists(&format!("{name}/gone")).await?);
                drive.get(format!("{name}/large"), place.at("back")).await?;
                assert_eq!(fs::read(place.at("back"))?, bytes(LARGE, 2));
                let large = format!("{name}/large");
                let part: Vec<_> = drive.stream(&large, 1_000_000..2_500_000).await?.try_collect().await?;
                assert_eq!(part.concat(), bytes(LARGE, 2)[1_000_000..2_500_000]);
                assert_eq!(drive.read(&format!("{name}/small")).await?, bytes(100, 3));
            }
            Job::Collect(drive) => {
                for file in drive.list("").await? {
                    let bytes = drive.read(&file.name).await?;
                    assert_eq!(bytes.len() as u64, file.size);
                    self.found.insert(file.name, sum(&bytes));
                }
            }
            Job::Refusals(drive) => {
                let small = drive.put_bytes("it", "new").overwrite(false).await;
                let large = drive.put_bytes("it", bytes(LARGE, 1)).overwrite(false).await;
                let nothing = drive.put("other", "/nowhere/at/all").await;
                let missing = drive.read("missing").await.map(|_| ());
                let deleted = drive.delete("missing").await;
                let climbing = drive.put_bytes("../it", "x").await;
                let no_drive = Drive::new("../x").exists("it").await.map(|_| ());
                for refused in [small, large, nothing, missing, deleted, climbing, no_drive] {
                    self.refusals.push(refused.unwrap_err().to_string());
                }
                assert_eq!(drive.read("it").await?, "mine");
                assert_eq!(drive.list("").await?.len(), 1);
            }
            Job::Haul(drive, rounds) => {
                let place = Place::new();
                for round in 0..rounds {
                    fs::write(place.at("it"), bytes(LARGE, round as u8))?;
                    drive.put("it", place.at("it")).await?;
                    drive.get("it", place.at("back")).overwrite(true).await?;
                    assert_eq!(fs::read(place.at("back"))?, bytes(LARGE, round as u8));
                    self.hauled += 1;
                    cx.publish(self);
                }
            }
            Job::Create(drive, name) => {
                let put = drive.put_bytes(name, "mine").overwrite(false).await;
                match put {
                    Ok(()) => self.created.push(true),
                    Err(DriveError::Exists { .. }) => self.created.push(false),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Exists>().accept::<FetchNow>().accept::<Usage>();
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Exists(Artifact);

impl Handle<Exists> for Porter {
    type Reply = bool;

    async fn handle(&mut self, Exists(artifact): Exists, _: &mut WorkContext<Self>) -> bool {
        artifact.exists().await
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct FetchNow(Artifact);

impl Handle<FetchNow> for Porter {
    type Reply = Result<u64, String>;

    async fn handle(
        &mut self,
        FetchNow(artifact): FetchNow,
        _: &mut WorkContext<Self>,
    ) -> Result<u64, String> {
        fetch(&artifact).await.map_err(|error| format!("{error:#}"))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Usage;

impl Handle<Usage> for Porter {
    type Reply = PayloadUsage;

    async fn handle(&mut self, _: Usage, _: &mut WorkContext<Self>) -> PayloadUsage {
        PayloadUsage::here()
    }
}

type React = Box<dyn FnMut(&mut Depot, &mut FlowContext) -> Reaction>;

#[derive(Serialize, Children)]
struct Depot {
    a: WorkRef<Porter>,
    b: WorkRef<Porter>,
    c: WorkRef<Porter>,
    #[serde(skip)]
    react: Option<React>,
}

impl Flow for Depot {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut react = self.react.take().expect("reactions do not overlap");
        let reaction = react(self, cx);
        self.react = Some(react);
        reaction
    }
}

fn depot(places: [&str; 3], react: impl FnMut(&mut Depot, &mut FlowContext) -> Reaction + 'static) -> Depot {
    let [a, b, c] = places
        .map(|place| WorkRef::from(Porter::default()).placed(place.parse().expect("the placement is valid")));
    Depot { a, b, c, react: Some(Box::new(react)) }
}

pub(crate) fn program() -> ExitCode {
    App::new(|| depot(["thread"; 3], |_, _| Ok(()))).main()
}

struct Open {
    app: TestApp,
    nodes: BTreeMap<String, Process>,
    place: Place,
}

fn open(
    places: [&'static str; 3],
    react: impl FnMut(&mut Depot, &mut FlowContext) -> Reaction + Send + 'static,
) -> Open {
    open_by(places, 20_000, str::to_owned, react)
}

/// Starts an App, with nodes that join at the address that `way` makes of the head's.
fn open_by(
    places: [&'static str; 3],
    grace: u64,
    way: impl FnOnce(&str) -> String,
    react: impl FnMut(&mut Depot, &mut FlowContext) -> Reaction + Send + 'static,
) -> Open {
    let place = Place::new();
    let config = times(250, grace).drive_dir(place.at("drives"));
    let app = App::new(move || depot(places, react))
        .listen("127.0.0.1:0")
        .process(|| Ok(this_program("files")))
        .config(config);
    let app = TestApp::start_app(app).limit(LIMIT);
    let address = way(&joining(&app));
    let names = places.iter().map(|place| place.trim_end_matches("/pool"));
    let names = names.filter(|name| !["thread", "pool", "process"].contains(name));
    let nodes = names.map(|name| (name.to_owned(), Process::node_of("files", &address, name, &[])));
    Open { nodes: nodes.collect(), app, place }
}

impl Open {
    fn ask<M>(&self, who: &str, message: M) -> flowright::ReplyOf<Porter, M>
    where
        Porter: Handle<M, Reply: flowright::SingleReply>,
        M: flowright::Message,
    {
        self.app.block_on(self.app.work::<Porter>(who).ask(message)).expect("the Work answers")
    }

    /// Polls until `is_so` is true.
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !is_so() {
            assert!(began.elapsed() < LIMIT, "{what}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}

fn a_tree_is_what_was_made_wherever_it_is_fetched() {
    for places in [["thread", "process", "n"], ["m", "n/pool", "process"], ["process", "thread", "m/pool"]] {
        for length in [1_000, 3_000_000] {
            let open = open(places, move |depot, cx| {
                let made = depot
                    .a
                    .run(Job::Make { length, copies: 1 })
                    .finished()?
                    .made
                    .clone()
                    .expect("the value was made");
                let expected = [sum(&bytes(length, 1)); 2];
                assert_eq!(depot.b.run(Job::Fetch(made.clone())).finished()?.fetched, expected);
                assert_eq!(depot.c.run(Job::Fetch(made.clone())).finished()?.fetched, expected);
                assert_eq!(depot.a.run(Job::Fetch(made)).finished()?.fetched, expected);
                cx.stop("all have it");
                Ok(())
            });
            open.app.wait_for_exit().result.unwrap();
        }
    }
}

fn made(open: &Open) -> Artifact {
    let a: Porter = open.app.wait_for_state("a", |porter: &Porter| porter.made.is_some());
    a.made.expect("the artifact was waited for")
}

fn an_artifact_that_is_lost_says_where_it_was() {
    let mut open = open(["m", "n", "thread"], |depot, _| {
        depot.a.run(Job::Make { length: 200_000, copies: 1 });
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 1);
    let artifact = made(&open);
    open.until("`b` is there", || open.app.block_on(open.app.work::<Porter>("b").ask(Usage)).is_ok());
    assert!(open.ask("b", Exists(artifact.clone())));
    open.nodes.remove("m");
    open.until("it is gone", || !open.ask("b", Exists(artifact.clone())));
    let error = open.ask("b", FetchNow(artifact)).unwrap_err();
    for part in
        ["the artifact cannot be fetched to", "directory `tree`", "made by work `a`", "node `m` had it"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    open.app.stop().result.unwrap();
}

fn an_artifact_outlives_the_process_that_made_it() {
    let open = open(["process", "thread", "thread"], |depot, _| {
        let made = depot.a.run(Job::Make { length: 3_000_000, copies: 1 }).finished()?.made.is_some();
        if made && !depot.a.has_stopped() {
            depot.a.stop();
        }
        Ok(())
    });
    let artifact = made(&open);
    open.until("the end of the process", || children_of(std::process::id()).is_empty());
    let usage = PayloadUsage::here();
    assert_eq!((usage.memory, usage.disk), (0, artifact.len()));
    assert_eq!(open.ask("b", FetchNow(artifact)).unwrap(), sum(&bytes(3_000_000, 1)));
    open.app.stop().result.unwrap();
}

fn copies_of_artifacts_are_on_disk_and_outlive_their_node() {
    let mut open = open(["m", "n", "thread"], |depot, _| {
        depot.a.run(Job::Make { length: 3_000_000, copies: 2 });
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 1);
    let artifact = made(&open);
    open.until("`b` is there", || open.app.block_on(open.app.work::<Porter>("b").ask(Usage)).is_ok());
    open.until("there is a copy", || {
        let payloads = open.app.block_on(open.app.control().payloads()).unwrap();
        payloads.iter().any(|payload| payload.nodes == ["m", "n"])
    });
    let usage = open.ask("b", Usage);
    assert_eq!((usage.disk, usage.memory), (artifact.len(), 0));
    open.nodes.remove("m");
    open.app.wait_for_stage("a", flowright::Stage::Pending);
    assert_eq!(open.ask("b", FetchNow(artifact.clone())), Ok(sum(&bytes(3_000_000, 1))));
    assert!(open.ask("b", Exists(artifact)));
    open.app.stop().result.unwrap();
}

fn a_drive_is_one_folder_wherever_it_is_used() {
    for places in [["m", "process", "n/pool"], ["thread", "n", "thread"]] {
        let open = open(places, |depot, cx| {
            let drive = Drive::new("reports");
            let [a, b] = [(&depot.a, "a"), (&depot.b, "b/deep")];
            let [a, b] = [a, b].map(|(work, name)| {
                work.run(Job::Shelve(drive.clone(), name.to_owned())).finished().map(|_| ())
            });
            a?;
            b?;
            let found = &depot.c.run(Job::Collect(drive)).finished()?.found;
            let sums = [("empty", 0), ("large", sum(&bytes(LARGE, 2))), ("small", sum(&bytes(100, 3)))];
            let all = ["a", "b/deep"]
                .into_iter()
                .flat_map(|name| sums.map(|(file, sum)| (format!("{name}/{file}"), sum)));
            assert_eq!(*found, all.collect());
            cx.stop("it is");
            Ok(())
        });
        let Open { app, place, .. } = open;
        app.wait_for_exit().result.unwrap();
        // At the head the drive is a directory with files.
        assert_eq!(fs::read(place.at("drives/reports/b/deep/small")).unwrap(), bytes(100, 3));
    }
}

fn what_a_drive_refuses_is_refused_alike_from_everywhere() {
    let open = open(["thread", "n", "process"], |depot, cx| {
        let drive = Drive::new("reports");
        depot.a.run(Job::Create(drive.clone(), "it".to_owned())).finished()?;
        let here = depot.a.run(Job::Refusals(drive.clone())).finished()?.refusals.clone();
        let there = depot.b.run(Job::Refusals(drive.clone())).finished()?.refusals.clone();
        let process = depot.c.run(Job::Refusals(drive)).finished()?.refusals.clone();
        for (refusal, part) in here.iter().zip([
            "there is a `it` in the drive `reports` already",
            "there is a `it` in the drive `reports` already",
            "/nowhere/at/all cannot be read",
            "there is no `missing`",
            "there is no `missing`",
            "`../it` is not a valid name",
            "`../x` is not a valid drive",
        ]) {
            assert!(refusal.contains(part), "{refusal}");
        }
        assert_eq!(here.len(), 7);
        assert_eq!((&there, &process), (&here, &here));
        cx.stop("they are");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn a_connection_that_breaks_only_delays_a_drive() {
    const ROUNDS: u32 = 6;
    let mut proxy = None;
    let way = |address: &str| {
        let new = Proxy::to(address);
        proxy.insert(new).address().to_owned()
    };
    let open = open_by(["n", "thread", "thread"], 30_000, way, |depot, cx| {
        depot.a.run(Job::Haul(Drive::new("it"), ROUNDS)).finished()?;
        cx.stop("all is there");
        Ok(())
    });
    let proxy = proxy.expect("the proxy was asked for");
    for round in 1..ROUNDS {
        // The next transfer is in progress by then, or about to start.
        open.app.wait_for_state("a.hauled", |hauled: &u32| *hauled >= round);
        proxy.set(Weather::Cut);
        proxy.set(Weather::Fair);
    }
    open.app.wait_for_exit().result.unwrap();
}

fn of_two_that_create_a_file_one_has() {
    let open = open(["m", "n", "process"], |depot, cx| {
        let mut created = 0;
        for round in 0..10 {
            let create = Job::Create(Drive::new("it"), format!("{round}"));
            let runs =
                [&depot.a, &depot.b, &depot.c].map(|work| work.run(create.clone()).finished().map(|_| ()));
            runs.into_iter().collect::<Result<(), _>>()?;
        }
        for work in [&depot.a, &depot.b, &depot.c] {
            assert_eq!(work.created.len(), 10);
            created += work.created.iter().filter(|created| **created).count();
        }
        assert_eq!(created, 10);
        cx.stop("one has");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}
