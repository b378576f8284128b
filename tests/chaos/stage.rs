//! The stage: the head, the nodes, the networks between them, and their faults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::Api;
use crate::plan::{Fault, GRACE, HEARTBEAT, Plan, Route, Via, Weather};
use crate::process::VARIABLE;
use crate::processes::{Running, log_of, processes_below, processes_of, signal};
use crate::proxy::{self, Proxy, Trap};
use crate::records::{DIRECTORY, Event, Recorder, Role};
use crate::works::{EPOCH, SEED};

/// Delay after which the supervisor of a machine restarts a node that has ended by itself.
const AGAIN: Duration = Duration::from_millis(300);
/// A library that changes the wall clock of a process.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";
/// Environment variable that says that a run has a network of its own.
pub(crate) const ALONE: &str = "FLOWRIGHT_CHAOS_ALONE";
/// The size of a small disk.
const SMALL_DISK: &str = "size=6m";

pub(crate) struct Stage {
    pub(crate) plan: Plan,
    pub(crate) run: PathBuf,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) api: Api,
    head_address: String,
    pub(crate) head: Option<Running>,
    pub(crate) epoch: u32,
    pub(crate) posts: Vec<Post>,
    /// Processes of Works that were found.
    found: BTreeSet<u32>,
    steps: BTreeMap<(Instant, u64), Step>,
    next_step: u64,
    busy: Vec<Running>,
    mounts: Vec<PathBuf>,
    has_faketime: bool,
    /// Works that were stopped over HTTP.
    held: BTreeSet<String>,
    /// True if only this run uses the network, so that its routes can be changed.
    is_alone: bool,
}

/// A machine on which a node runs.
pub(crate) struct Post {
    pub(crate) name: String,
    address: String,
    proxy: Option<Proxy>,
    /// The node, and another of the same name during the fault `Twin`.
    pub(crate) nodes: Vec<Running>,
    /// True if the supervisor of the machine keeps a node running.
    keep: bool,
    again_at: Option<Instant>,
    limit: Option<u32>,
    /// The present disturbance.
    disturbed: Option<String>,
}

/// A scheduled step: the start of a fault, or an action that ends one.
enum Step {
    Begin(Fault),
    StartNode(usize),
    Resume(usize),
    Fair(usize),
    Reachable(usize),
    EndTwin(usize),
    EnoughDescriptors(usize),
    StartHead,
    ResumeHead,
    KillProcess(usize, u32),
    ResumeProcess(u32),
    StartWork(String),
    Rested,
}

impl Stage {
    pub(crate) fn new(plan: Plan, run: &Path, recorder: &Arc<Recorder>) -> Self {
        let head_address = free_address();
        let posts = plan.nodes.iter().map(|node| {
            let address = free_address();
            Post {
                name: node.name.clone(),
                proxy: Some(Proxy::at(&address, &head_address)),
                address,
                nodes: Vec::new(),
                keep: false,
                again_at: None,
                limit: None,
                disturbed: None,
            }
        });
        let posts = posts.collect();
        let libraries = ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
        let has_faketime = libraries.iter().any(|directory| Path::new(directory).join(FAKETIME).exists());
        let mut stage = Self {
            run: run.to_owned(),
            recorder: recorder.clone(),
            api: Api::new(),
            head_address,
            head: None,
            epoch: 0,
            posts,
            found: BTreeSet::new(),
            steps: BTreeMap::new(),
            next_step: 0,
            busy: Vec::new(),
            mounts: Vec::new(),
            has_faketime,
            held: BTreeSet::new(),
            is_alone: std::env::var_os(ALONE).is_some(),
            plan,
        };
        stage.prepare();
        stage
    }

    fn prepare(&mut self) {
        for directory in ["tmp", "logs", "drives"] {
            std::fs::create_dir_all(self.run.join(directory)).expect("the run has its directory");
        }
        std::fs::create_dir_all(self.payloads("head")).expect("the run has its directory");
        for node in self.plan.nodes.clone() {
            let directory = self.payloads(&node.name);
            std::fs::create_dir_all(&directory).expect("the run has its directory");
            if node.small_disk {
                self.recorder.record(Event::SmallDisk { who: node.name.clone() });
                let mut mount = Command::new("mount");
                mount.args(["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"]).arg(&directory);
                match mount.output() {
                    Ok(output) if output.status.success() => self.mounts.push(directory),
                    Ok(output) => self.skip("a small disk", &String::from_utf8_lossy(&output.stderr)),
                    Err(error) => self.skip("a small disk", &error.to_string()),
                }
            }
            if self.has_faketime {
                std::fs::write(self.clock(&node.name), "+0").expect("the run has its directory");
            }
        }
        let config = format!(
            "heartbeat_ms = {}\nnode_grace_ms = {}\ngrace_seconds = 5\npool_threads = 2\npayload_memory_mib = 64\n\
             payload_dir = {:?}\ndrive_dir = {:?}\n",
            HEARTBEAT.as_millis(),
            GRACE.as_millis(),
            self.payloads("head"),
            self.run.join("drives"),
        );
        std::fs::write(self.run.join("head.toml"), config).expect("the run has its directory");
        if self.plan.tls {
            let made = self.program(0).arg("certs").arg("--dir").arg(self.run.join("certs")).output();
            let made = made.expect("this binary can be started");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
    }

    fn skip(&self, what: &str, why: &str) {
        let (what, why) = (what.to_owned(), why.trim().to_owned());
        self.recorder.record(Event::Skipped { what, why });
    }

    /// The directory for the payloads of the head or of a node.
    pub(crate) fn payloads(&self, name: &str) -> PathBuf {
        self.run.join("payloads").join(name)
    }

    fn clock(&self, node: &str) -> PathBuf {
        self.run.join(format!("clock-{node}"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.run.join("logs").join(format!("{name}.log"))
    }

    /// A command that runs this binary as a process of the run.
    fn program(&self, epoch: u32) -> Command {
        let mut command =
            Command::new(std::env::current_exe().expect("the path of the test binary is known"));
        self.set_environment(&mut command, epoch);
        command
    }

    fn set_environment(&self, command: &mut Command, epoch: u32) {
        command
            .env(VARIABLE, "chaos")
            .env(DIRECTORY, &self.run)
            .env(SEED, self.plan.seed.to_string())
            .env(EPOCH, epoch.to_string())
            .env("TMPDIR", self.run.join("tmp"))
            .env("RUST_BACKTRACE", "1")
            .env("FLOWRIGHT_TOKEN", "a secret of some length");
    }

    fn add_certificates(&self, command: &mut Command, name: &str) {
        if self.plan.tls {
            let file = |name: String| self.run.join("certs").join(name);
            command.arg("--tls-cert").arg(file(format!("{name}.pem")));
            command.arg("--tls-key").arg(file(format!("{name}-key.pem")));
            command.arg("--tls-ca").arg(file("ca.pem".to_owned()));
        }
    }

    pub(crate) fn start_head(&mut self) {
        self.epoch += 1;
        self.api.set_address(None);
        let mut command = self.program(self.epoch);
        command.arg("--config").arg(self.run.join("head.toml"));
        command.args(["--open-ui=false", "--port", "0", "--listen", &self.head_address]);
        self.add_certificates(&mut command, "head");
        let log = self.log(&format!("head-{}", self.epoch));
        let role = Role::Head { epoch: self.epoch };
        self.head = Some(Running::start(command, role, &log, &self.recorder));
    }

    pub(crate) fn start_node(&mut self, n: usize) {
        let node = self.plan.nodes[n].clone();
        let post = &self.posts[n];
        let mut command = match post.limit {
            None => self.program(0),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]);
                shell.arg(std::env::current_exe().expect("the path of the test binary is known"));
                self.set_environment(&mut shell, 0);
                shell
            }
        };
        command.args(["node", "--join", &post.address, "--name", &node.name, "--label"]);
        command.arg(format!("zone={}", node.zone)).args(["--cpus", &node.cpus.to_string()]);
        command.args(["--listen", &format!("{}:0", listening(n))]);
        command.arg("--payload-dir").arg(self.payloads(&node.name));
        command.args(["--payload-memory", if node.small_disk { "1" } else { "64" }]);
        self.add_certificates(&mut command, "node");
        if self.has_faketime {
            command
                .env("LD_PRELOAD", format!("/usr/$LIB/{FAKETIME}"))
                .env("FAKETIME_TIMESTAMP_FILE", self.clock(&node.name))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let role = Role::Node { name: node.name.clone() };
        let running = Running::start(command, role, &self.log(&node.name), &self.recorder);
        let post = &mut self.posts[n];
        post.nodes.push(running);
        post.keep = true;
        post.again_at = None;
    }

    fn disturb(&mut self, who: &str, what: &str) {
        self.recorder.record(Event::Disturbed { who: who.to_owned(), what: what.to_owned() });
    }

    fn calm(&mut self, who: &str, what: &str) {
        self.recorder.record(Event::Calm { who: who.to_owned(), what: what.to_owned() });
    }

    fn at(&mut self, after: Duration, step: Step) {
        self.next_step += 1;
        self.steps.insert((Instant::now() + after, self.next_step), step);
    }

    /// Schedules the faults of the plan.
    pub(crate) fn schedule(&mut self) {
        for scheduled in self.plan.faults.clone() {
            self.at(scheduled.at, Step::Begin(scheduled.fault));
        }
    }

    /// Performs the steps that are due, looks after the processes, and waits for a moment.
    pub(crate) fn tick(&mut self) {
        while let Some(entry) = self.steps.first_entry().filter(|entry| entry.key().0 <= Instant::now()) {
            let step = entry.remove();
            self.perform(step);
        }
        self.look_after();
        std::thread::sleep(Duration::from_millis(15));
    }

    /// True once all faults are over.
    pub(crate) fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// Ticks for this time.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.tick();
        }
    }

    fn look_after(&mut self) {
        for n in 0..self.posts.len() {
            let post = &mut self.posts[n];
            post.nodes.retain_mut(|node| !node.has_ended());
            if !post.nodes.is_empty() || !post.keep {
                post.again_at = None;
                continue;
            }
            let again_at = *post.again_at.get_or_insert_with(|| Instant::now() + AGAIN);
            if Instant::now() >= again_at {
                self.start_node(n);
            }
        }
        if let Some(head) = &mut self.head
            && !head.has_ended()
        {
            let head = head.id();
            for child in processes_below(head) {
                if self.found.insert(child) {
                    self.recorder.record(Event::Found { child, epoch: self.epoch });
                }
            }
            if self.api.address().is_none() {
                let log = log_of(&self.log(&format!("head-{}", self.epoch)));
                let address = log.split("http://").nth(1).and_then(|rest| rest.split_once("/view"));
                self.api.set_address(address.map(|(address, _)| address.to_owned()));
            }
        }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Begin(fault) => self.begin(fault),
            Step::StartNode(n) if self.posts[n].nodes.is_empty() => self.start_node(n),
            Step::StartNode(_) => {}
            Step::Resume(n) => {
                self.posts[n]
                    .nodes
                    .iter_mut()
                    .filter(|node| node.is_stopped)
                    .for_each(|node| node.signal("CONT"));
                self.clear(n);
            }
            Step::Fair(n) => self.set_weather(n, None),
            Step::Reachable(n) => {
                route(&["del", &format!("{}/32", listening(n)), "table", "local"]);
                self.clear(n);
            }
            Step::EndTwin(n) => {
                self.perform(Step::Resume(n));
                // Either of the two keeps the name.
                if let [first, .., last] = &mut self.posts[n].nodes[..] {
                    let which = if self.next_step.is_multiple_of(2) { first } else { last };
                    which.signal("KILL");
                }
            }
            Step::EnoughDescriptors(n) => {
                self.posts[n].limit = None;
                self.posts[n].nodes.iter_mut().for_each(|node| node.signal("TERM"));
                self.clear(n);
            }
            Step::StartHead => {
                self.start_head();
                self.calm("head", "it was killed");
            }
            Step::ResumeHead => {
                if let Some(head) = &mut self.head {
                    head.signal("CONT");
                }
                self.calm("head", "it is stopped");
            }
            Step::KillProcess(nth, times) => {
                if let Some(process) = self.process(nth) {
                    signal(&self.recorder, process, "KILL");
                }
                if times > 1 {
                    self.at(Duration::from_millis(400), Step::KillProcess(nth, times - 1));
                }
            }
            Step::ResumeProcess(process) => {
                signal(&self.recorder, process, "CONT");
                self.calm(&format!("process {process}"), "it is stopped");
            }
            Step::StartWork(work) => self.post(&work, "start"),
            Step::Rested => {
                self.busy.iter_mut().for_each(|busy| busy.signal("KILL"));
                self.busy.clear();
                self.calm("*", "the processors are busy");
            }
        }
    }

    fn process(&mut self, nth: usize) -> Option<u32> {
        let head = self.head.as_mut().filter(|head| !head.is_stopped)?;
        if head.has_ended() {
            return None;
        }
        let all = processes_below(head.id());
        if all.is_empty() { None } else { Some(all[nth % all.len()]) }
    }

    fn disturb_node(&mut self, n: usize, what: &str) {
        self.clear(n);
        let name = self.posts[n].name.clone();
        self.disturb(&name, what);
        self.posts[n].disturbed = Some(what.to_owned());
    }

    fn clear(&mut self, n: usize) {
        let name = self.posts[n].name.clone();
        if let Some(what) = self.posts[n].disturbed.take() {
            self.calm(&name, &what);
        }
    }

    fn set_weather(&mut self, n: usize, weather: Option<Weather>) {
        match weather {
            Some(weather) => self.disturb_node(n, &format!("network: {weather:?}")),
            None => self.clear(n),
        }
        let head = self.head_address.clone();
        let post = &mut self.posts[n];
        if weather == Some(Weather::Reject) {
            // During this fault nothing listens there, and all connections are closed. The address is free once the proxy
            // was dropped.
            post.proxy = None;
            return;
        }
        let address = post.address.clone();
        let proxy = post.proxy.get_or_insert_with(|| Proxy::at(&address, &head));
        proxy.set(match weather {
            None | Some(Weather::Reject) => proxy::Weather::Fair,
            Some(Weather::Hold) => proxy::Weather::Hold,
            Some(Weather::Cut) => proxy::Weather::Cut,
            Some(Weather::Delay(ms)) => proxy::Weather::Delay(Duration::from_millis(ms.into())),
        });
    }

    fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::KillNode { node: n, back_after } => {
                self.posts[n].keep = false;
                self.posts[n].nodes.iter_mut().for_each(|node| node.signal("KILL"));
                // It is random whether the process is gone when the next begins.
                self.posts[n].nodes.iter_mut().for_each(|node| {
                    node.has_ended();
                });
                self.at(back_after + Duration::from_millis(30), Step::StartNode(n));
            }
            Fault::LeaveNode { node: n, back_after } => {
                self.posts[n].keep = false;
                self.posts[n].nodes.iter_mut().for_each(|node| node.signal("TERM"));
                self.at(back_after + Duration::from_millis(1_500), Step::StartNode(n));
            }
            Fault::StopNode { node: n, lasts } => {
                self.disturb_node(n, "it is stopped");
                self.posts[n].nodes.iter_mut().for_each(|node| node.signal("STOP"));
                self.at(lasts, Step::Resume(n));
            }
            Fault::Network { node: n, weather, lasts } => {
                self.set_weather(n, Some(weather));
                self.at(lasts, Step::Fair(n));
            }
            Fault::Peers { node: n, route: kind, lasts } => {
                if !self.is_alone {
                    self.skip("a cut between nodes", "it takes a network of its own, and that root");
                    return;
                }
                let kind = match kind {
                    Route::Blackhole => "blackhole",
                    Route::Unreachable => "unreachable",
                    Route::Prohibit => "prohibit",
                };
                self.disturb_node(n, &format!("others find its address {kind}"));
                route(&["add", kind, &format!("{}/32", listening(n)), "table", "local"]);
                self.at(lasts, Step::Reachable(n));
            }
            Fault::Trap { node: n, after, flip, times } => {
                let what = if flip { "a byte is changed" } else { "connections break" };
                self.disturb_node(n, what);
                if let Some(proxy) = &self.posts[n].proxy {
                    proxy.trap(after, if flip { Trap::Flip } else { Trap::Close }, times);
                }
                self.at(Duration::from_millis(1_500), Step::Fair(n));
            }
            Fault::Twin { node: n, stop_first, lasts } => {
                self.disturb_node(n, "there are two of this name");
                if stop_first {
                    self.posts[n].nodes.iter_mut().for_each(|node| node.signal("STOP"));
                }
                self.start_node(n);
                self.at(lasts, Step::EndTwin(n));
            }
            Fault::FewDescriptors { node: n, limit, lasts } => {
                self.disturb_node(n, "it has few descriptors");
                self.posts[n].limit = Some(limit);
                // The supervisor starts the node again.
                self.posts[n].nodes.iter_mut().for_each(|node| node.signal("TERM"));
                self.at(lasts, Step::EnoughDescriptors(n));
            }
            Fault::ClockStep { node: n, by } => {
                if !self.has_faketime {
                    self.skip("a step of the clock", "faketime is not installed");
                    return;
                }
                let file = self.clock(&self.posts[n].name);
                let next = file.with_extension("next");
                let set =
                    std::fs::write(&next, format!("{by:+}")).and_then(|()| std::fs::rename(&next, &file));
                set.expect("the run has its directory");
            }
            Fault::KillHead { back_after } => {
                self.disturb("head", "it was killed");
                self.api.set_address(None);
                if let Some(mut head) = self.head.take() {
                    head.signal("KILL");
                }
                self.at(back_after, Step::StartHead);
            }
            Fault::StopHead { lasts } => {
                self.disturb("head", "it is stopped");
                if let Some(head) = &mut self.head {
                    head.signal("STOP");
                }
                self.at(lasts, Step::ResumeHead);
            }
            Fault::KillProcess { nth, times } => self.perform(Step::KillProcess(nth, times)),
            Fault::StopProcess { nth, lasts } => {
                if let Some(process) = self.process(nth) {
                    self.disturb(&format!("process {process}"), "it is stopped");
                    signal(&self.recorder, process, "STOP");
                    self.at(lasts, Step::ResumeProcess(process));
                }
            }
            Fault::Restart { work, via } => self.command(&self.work(work), "restart", via),
            Fault::Stop { work: nth, via } => {
                let work = self.work(nth);
                self.command(&work, "stop", via);
                if via == Via::Http {
                    // The Flow does not start a Work that was stopped over HTTP.
                    self.held.insert(work.clone());
                    self.at(self.plan.works[nth].rest, Step::StartWork(work));
                }
            }
            Fault::Add { name, placement } => {
                self.order(&format!("extras.x{name}"), "add", &json!({"Add": {"placement": placement}}));
            }
            Fault::Remove { name } => self.order(&format!("extras.x{name}"), "remove", &json!("Remove")),
            Fault::Starve { lasts } => {
                self.disturb("*", "the processors are busy");
                let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
                for _ in 0..cores * 2 {
                    let mut command = Command::new("sh");
                    command.args(["-c", "while :; do :; done"]);
                    let role = Role::Node { name: "busy".to_owned() };
                    self.busy.push(Running::start(command, role, Path::new("/dev/null"), &self.recorder));
                }
                self.at(lasts, Step::Rested);
            }
        }
    }

    fn work(&self, nth: usize) -> String {
        format!("works.{}", self.plan.works[nth].name)
    }

    fn command(&self, work: &str, what: &str, via: Via) {
        match via {
            Via::Http => {
                self.recorder.record(Event::Ordered { work: work.to_owned(), what: what.to_owned() });
                self.post(work, what);
            }
            Via::Flow => {
                let command = if what == "stop" { json!("Stop") } else { json!("Restart") };
                self.order(work, what, &command);
            }
        }
    }

    fn post(&self, work: &str, what: &str) {
        let (api, path) = (self.api.clone(), format!("api/v1/works/{work}/{what}"));
        // A stopped head does not answer.
        std::thread::spawn(move || api.post(&path, None, Duration::from_secs(5)));
    }

    /// Starts a Work that was stopped over HTTP: the order of the commands to stop and to start it is unknown.
    pub(crate) fn start_if_held(&self, work: &str) {
        if self.held.contains(work) {
            self.post(work, "start");
        }
    }

    /// Sends an order to the Flow.
    fn order(&self, work: &str, what: &str, command: &serde_json::Value) {
        self.recorder.record(Event::Ordered { work: work.to_owned(), what: what.to_owned() });
        let (api, body) = (self.api.clone(), json!({"work": work, "what": command}));
        std::thread::spawn(move || api.ask("director", "Order", &body, Duration::from_secs(5)));
    }

    /// Ends all disturbances.
    pub(crate) fn heal(&mut self) {
        while let Some((_, step)) = self.steps.pop_first() {
            if !matches!(step, Step::Begin(_) | Step::KillProcess(..)) {
                self.perform(step);
            }
        }
        for n in 0..self.posts.len() {
            self.set_weather(n, None);
            if let Some(proxy) = &self.posts[n].proxy {
                proxy.trap(u64::MAX, Trap::Close, 0);
            }
            self.posts[n].keep = true;
        }
    }

    /// From now on all processes are expected to end.
    pub(crate) fn let_go(&mut self) {
        for post in &mut self.posts {
            post.keep = false;
            post.nodes.iter_mut().for_each(|node| node.ending = true);
        }
        if let Some(head) = &mut self.head {
            head.ending = true;
        }
    }

    /// True once the head and all nodes have ended.
    pub(crate) fn have_ended(&mut self) -> bool {
        let nodes = self.posts.iter_mut().flat_map(|post| &mut post.nodes);
        let going_on = nodes.filter_map(|node| (!node.has_ended()).then_some(())).count();
        self.head.as_mut().is_none_or(Running::has_ended) && going_on == 0
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.head = None;
        self.posts.clear();
        self.busy.clear();
        for (process, _) in processes_of(&self.run) {
            let _ = Command::new("kill")
                .args(["-s", "KILL", &process.to_string()])
                .stderr(Stdio::null())
                .status();
        }
        for mount in &self.mounts {
            let _ = Command::new("umount").arg("-l").arg(mount).output();
        }
    }
}

/// The address at which a node listens for others.
fn listening(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 100, node as u8 + 1)
}

/// Changes the routes of a network that only this run uses.
fn route(arguments: &[&str]) {
    let done = Command::new("ip").arg("route").args(arguments).output().expect("there is an `ip`");
    assert!(done.status.success(), "ip route {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An address of this machine at which nothing listens. It is an address of this process's own, so that no other
/// process gets the port while the listening process is down.
fn free_address() -> String {
    let [_, first, second, third] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 1 + first % 120, second, third.max(1));
    let free = TcpListener::bind((own, 0)).and_then(|free| free.local_addr());
    free.expect("there is a free port").to_string()
}
