//! Services whose replicas have processes of their own or are on nodes, and replicas that are killed while versions change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{
    AskError, Batch, Deferred, HandleBatch, ReplySender, Rollout, RolloutStage, ServiceRef, Streamed,
};
use futures::TryStreamExt;
use futures::future::join_all;

use crate::http_caller::HttpCaller;
use crate::process::LIMIT;
use crate::support::{Process, has_ended, joining, program as this_program, times};

crate::tests![
    messages_of_all_kinds_reach_replicas_everywhere,
    killed_replicas_cost_only_the_messages_that_they_had,
];

/// What is deployed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Release {
    number: u64,
    loads: bool,
    /// The file to which handlers append a line when they begin.
    file: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Servant {
    number: u64,
    process: u32,
    #[serde(skip)]
    file: Option<PathBuf>,
    #[serde(skip)]
    kept: Vec<ReplySender<u64>>,
}

impl Work for Servant {
    type Input = Release;

    async fn run(&mut self, release: Release, cx: &mut WorkContext<Self>) -> Result<()> {
        (self.number, self.file) = (release.number, release.file);
        self.process = std::process::id();
        ensure!(release.loads, "release {} does not load", release.number);
        cx.ready(self);
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Ask>().accept::<Note>().accept::<Together>().accept::<Count>().accept::<Twice>();
    }
}

/// A question with a number of its own, for the release that answers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Ask(u64);

impl Handle<Ask> for Servant {
    type Reply = u64;

    async fn handle(&mut self, Ask(number): Ask, _: &mut WorkContext<Self>) -> u64 {
        note(self.file.as_deref(), &format!("{number}"));
        self.number
    }
}

/// A message without a reply.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Note(u64);

impl Handle<Note> for Servant {
    type Reply = ();

    async fn handle(&mut self, Note(number): Note, _: &mut WorkContext<Self>) {
        note(self.file.as_deref(), &format!("note {number}"));
    }
}

fn note(file: Option<&Path>, line: &str) {
    let Some(file) = file else { return };
    let file = OpenOptions::new().append(true).create(true).open(file);
    // One write, so that lines of different processes do not mix.
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .expect("the file can be written");
}

/// A question that is answered once there are three.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Together;

impl Handle<Together> for Servant {
    type Reply = Deferred<u64>;

    async fn handle(&mut self, Together: Together, cx: &mut WorkContext<Self>) -> Deferred<u64> {
        let (deferred, reply) = cx.defer();
        self.kept.push(reply);
        if self.kept.len() == 3 {
            self.kept.drain(..).for_each(|reply| reply.send(self.number));
        }
        deferred
    }
}

/// A question for the numbers below this.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Count(u32);

impl Handle<Count> for Servant {
    type Reply = Streamed<u32>;

    async fn handle(&mut self, Count(below): Count, cx: &mut WorkContext<Self>) -> Streamed<u32> {
        cx.stream_of(futures::stream::iter(0..below))
    }
}

/// A message that is handled in batches of four.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Twice(u64);

impl HandleBatch<Twice> for Servant {
    type Reply = u64;

    fn batch(&self) -> Batch {
        Batch::of(4).within(Duration::from_secs(3600))
    }

    async fn handle_batch(&mut self, batch: Vec<Twice>, _: &mut WorkContext<Self>) -> Vec<u64> {
        batch.into_iter().map(|Twice(number)| 2 * number).collect()
    }
}

/// A Work that sends messages of all kinds to a service, or asks it without pause.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Client {
    said: Said,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Task {
    /// Send messages of all kinds to a service whose replica has this release.
    All(WorkAddr<Servant>, u64),
    /// Ask without pause, with numbers from this one on.
    Ask(WorkAddr<Servant>, u64),
}

/// The outcomes of questions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Said {
    answers: u64,
    /// The release that has answered last.
    last: u64,
    /// Questions that were not answered, with the errors.
    failed: Vec<(u64, String)>,
}

impl Said {
    async fn ask(&mut self, server: &WorkAddr<Servant>, number: u64) {
        match server.ask(Ask(number)).timeout(LIMIT).await {
            Ok(release) => self.answered(release),
            Err(error @ (AskError::NodeLost { .. } | AskError::Failed { .. })) => {
                self.failed.push((number, error.to_string()));
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Asks over HTTP, where an answer says which version has given it.
    async fn ask_over_http(&mut self, server: &mut HttpCaller, number: u64) {
        let answer = server.ask("server", "Ask", &number.to_string()).await;
        match answer.status {
            200 => {
                let release = answer.body.parse().expect("a release");
                assert_eq!(answer.version, Some(release), "each release is a version");
                self.answered(release);
            }
            502 => self.failed.push((number, answer.body)),
            _ => panic!("{answer:?}"),
        }
    }

    fn answered(&mut self, release: u64) {
        assert!(release >= self.last, "release {release} after {}", self.last);
        self.last = release;
        self.answers += 1;
    }
}

impl Work for Client {
    type Input = Task;

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        match task {
            Task::All(server, release) => {
                let asked = join_all((0..20).map(|number| server.ask(Ask(number)))).await;
                for reply in asked {
                    assert_eq!(reply?, release);
                }
                for number in 0..20 {
                    server.tell(Note(number)).await?;
                    // Nobody reads it.
                    server.tell(Count(1)).await?;
                }
                for reply in join_all((0..3).map(|_| server.ask(Together))).await {
                    assert_eq!(reply?, release);
                }
                let numbers = server.stream(Count(100)).await?.try_collect::<Vec<u32>>().await?;
                assert!(numbers.into_iter().eq(0..100));
                for (reply, number) in
                    join_all((0..8).map(|number| server.ask(Twice(number)))).await.into_iter().zip(0..)
                {
                    assert_eq!(reply?, 2 * number);
                }
                // Behind the notes, of which the replica has one at a time.
                server.ask(Ask(99)).await?;
            }
            Task::Ask(server, first) => {
                for number in first.. {
                    self.said.ask(&server, number).await;
                    cx.publish(self);
                    cx.turn(self).await?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
pub(crate) struct Kinds {
    server: ServiceRef<Servant>,
    client: WorkRef<Client>,
    file: PathBuf,
}

impl Flow for Kinds {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        for number in 1..=2 {
            self.server.deploy(Release { number, loads: true, file: Some(self.file.clone()) });
            if self.server.version() < Some(number) {
                return Ok(());
            }
            self.client.run(Task::All(self.server.addr(), number)).finished()?;
        }
        cx.stop("all is answered");
        Ok(())
    }
}

/// The root of the nodes and processes of the test of kinds.
pub(crate) fn kinds() -> Kinds {
    Kinds { server: ServiceRef::default(), client: WorkRef::default(), file: PathBuf::new() }
}

/// The root of the nodes and processes of the test of kills.
pub(crate) fn rolling() -> Rolling {
    let (clients, ended) = (BTreeMap::new(), Vec::new());
    Rolling { server: ServiceRef::default(), clients, releases: 0, next: 0, file: PathBuf::new(), ended }
}

/// A file in a directory that is removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-services-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the directory can be made");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("begun")
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.file()).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Wherever the replicas and the caller are, asks, tells, deferred replies, streams and batches reach the replica of the
/// version that serves, before and after a rollout.
fn messages_of_all_kinds_reach_replicas_everywhere() {
    for (replica, client) in [
        ("thread", "process"),
        ("pool", "n"),
        ("process", "thread"),
        ("process", "process"),
        ("n", "pool"),
        ("n/pool", "n/pool"),
        ("m", "n"),
    ] {
        let directory = Directory::new("kinds");
        let file = directory.file();
        let app = App::new(move || Kinds {
            server: ServiceRef::default().placed(replica.parse().expect("a placement")),
            client: WorkRef::<Client>::default().placed(client.parse().expect("a placement")),
            file,
        });
        let app = app.listen("127.0.0.1:0").process(|| Ok(this_program("kinds"))).config(times(500, 30_000));
        let app = TestApp::start_app(app).limit(LIMIT);
        let address = joining(&app);
        let is_wanted =
            |name: &&str| [replica, client].iter().any(|place| place.trim_end_matches("/pool") == *name);
        let nodes = ["m", "n"].into_iter().filter(is_wanted);
        let _nodes: Vec<_> = nodes.map(|name| Process::node_of("kinds", &address, name, &[])).collect();
        let exit = app.wait_for_exit();
        assert!(exit.result.is_ok(), "{replica}, {client}: {:?}", exit.result);
        let notes = directory.lines().iter().filter(|line| line.starts_with("note")).count();
        assert_eq!(notes, 40, "{replica}, {client}");
    }
}

#[derive(Serialize, Children)]
pub(crate) struct Rolling {
    server: ServiceRef<Servant>,
    clients: BTreeMap<String, WorkRef<Client>>,
    releases: u64,
    next: u64,
    file: PathBuf,
    ended: Vec<Rollout>,
}

impl Flow for Rolling {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        if self.next < self.releases && !self.server.is_rolling_out() {
            self.next += 1;
            // The last one is to serve.
            let loads = self.next % 5 != 3 || self.next == self.releases;
            let release = Release { number: self.next, loads, file: Some(self.file.clone()) };
            self.server.deploy(release);
        }
        for (client, first) in self.clients.values().zip(1..) {
            client.run(Task::Ask(self.server.addr(), first * 1_000_000_000));
        }
        let ended = |rollout: &&Rollout| rollout.stage != RolloutStage::Starting;
        self.ended = self.server.rollouts().filter(ended).cloned().collect();
        Ok(())
    }
}

/// A number from the environment, for longer runs.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Replicas in processes of their own are killed while versions replace each other and callers ask without pause: only
/// messages whose handlers a killed replica had begun fail, none is handled twice, and no caller sees an older version.
fn killed_replicas_cost_only_the_messages_that_they_had() {
    let (releases, callers) = (number("FLOWRIGHT_ROLLOUTS", 10), number("FLOWRIGHT_CALLERS", 8));
    let (kills, works) = (number("FLOWRIGHT_KILLS", 3), number("FLOWRIGHT_WORKS", 1));
    let places = ["thread", "pool", "process", "n"];
    let clients = (0..works).flat_map(|number| places.map(|place| (format!("{place}-{number}"), place)));
    let clients: Vec<_> = clients.collect();
    let names: Vec<_> = clients.iter().map(|(name, _)| name.clone()).collect();
    let directory = Directory::new("kills");
    let file = directory.file();
    let app = App::new(move || {
        let backoff = Duration::ZERO..Duration::from_millis(10);
        let restart = Restart::on_failure().max(u32::MAX).backoff(backoff);
        let server = ServiceRef::default().replicas(2).in_flight(1);
        let server = server.placed(Placement::Process).restart(restart);
        let client = |place: &str| WorkRef::<Client>::default().placed(place.parse().expect("a placement"));
        let clients = clients.iter().map(|(name, place)| (name.clone(), client(place))).collect();
        let ended = Vec::new();
        Rolling { server, clients, releases, next: 0, file, ended }
    });
    let app = app.listen("127.0.0.1:0").process(|| Ok(this_program("rolling"))).config(times(500, 30_000));
    let app = app.serve("127.0.0.1:0".parse().expect("an address"));
    // Callers ask until the App stops, which their service does before them.
    let app = TestApp::start_app(app).limit(LIMIT).expect_panic("was stopped");
    let _node = Process::node_of("rolling", &joining(&app), "n", &[]);
    let server = app.work::<Servant>("server");
    let caller = |caller: u64| {
        let server = &server;
        async move {
            let mut said = Said::default();
            for number in (100 + caller) * 1_000_000_000.. {
                said.ask(server, number).await;
                if said.last == releases {
                    return said;
                }
            }
            unreachable!("there are enough numbers")
        }
    };
    let address = app.address().expect("it is served");
    let caller_over_http = |caller: u64| async move {
        let (mut said, mut server) = (Said::default(), HttpCaller::connect(address).await);
        for number in (1_000_000 + caller) * 1_000_000_000.. {
            said.ask_over_http(&mut server, number).await;
            if said.last == releases {
                return said;
            }
        }
        unreachable!("there are enough numbers")
    };
    let control = app.control().clone();
    let mut killed = BTreeSet::new();
    let kill = async {
        let mut changes = control.changes();
        let mut seed = u64::from(std::process::id());
        loop {
            let state = control.state().await.expect("the App runs");
            let ended: Vec<Rollout> =
                state.get("ended").expect("it is there").decode().expect("it is a list");
            if ended.iter().any(|rollout| rollout.version == releases) {
                break;
            }
            let replicas: BTreeMap<String, Servant> =
                state.get("server.replicas").expect("it is there").decode().expect("they are Works");
            let living = replicas.values().map(|servant| servant.process).filter(|process| *process != 0);
            let living: Vec<_> = living.filter(|process| !has_ended(*process)).collect();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Some of the changes kill one; not too many for each release, so that releases become ready.
            let most = usize::try_from(kills * releases).expect("a small number");
            if let Some(process) = living.get((seed >> 33) as usize % 40)
                && killed.len() < most
            {
                // A replica of a version that is replaced may have ended since.
                let sent = Command::new("kill").args(["-s", "KILL", &process.to_string()]).status();
                if sent.expect("`kill` can be run").success() {
                    killed.insert(*process);
                }
            }
            changes.changed().await.expect("the App runs");
        }
    };
    let over_http = join_all((0..callers).map(caller_over_http));
    let callers = join_all((0..callers).map(caller));
    let (mut said, over_http, ()) = app.block_on(async { tokio::join!(callers, over_http, kill) });
    said.extend(over_http);
    for client in &names {
        said.push(app.wait_for_state(&format!("clients.{client}.said"), |said: &Said| said.last == releases));
    }
    assert!(said.iter().all(|said| said.last == releases && said.answers > 0), "{said:?}");
    let failed: BTreeMap<_, _> = said.iter().flat_map(|said| said.failed.clone()).collect();
    let answers: u64 = said.iter().map(|said| said.answers).sum();
    let begun = directory.lines();
    let once: BTreeSet<_> = begun.iter().collect();
    assert_eq!(begun.len(), once.len(), "a message was handled twice");
    let not_begun = failed.keys().filter(|number| !once.contains(&number.to_string())).count();
    println!(
        "{releases} rollouts, {} replicas killed, {answers} answers, {} messages failed, of which {not_begun} had not begun",
        killed.len(),
        failed.len()
    );
    assert!(failed.len() <= killed.len(), "more messages failed than the replicas had begun: {failed:?}");
    // Only a process that is killed between its mark and the first line of the handler has one.
    assert!(2 * not_begun <= killed.len(), "messages failed that no handler had begun: {failed:?}");
    app.stop().result.expect("it stops");
}
