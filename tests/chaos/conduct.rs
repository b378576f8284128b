//! The conductor: one run from its start to its end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Answer, Api, SERVICES};
use crate::plan::{Ending, Plan, Rng, Role, WorkPlan};
use crate::processes::{busy_ms, entries, held, in_detail, log_of, processes_below, processes_of};
use crate::records::{Event, HTTP, Held, Kind, Outcome, Recorder, unique};
use crate::stage::Stage;
use crate::works::{ASK, Finding, answer_to};

/// Time limit for the App to recover; after that it never will.
const WELL: Duration = Duration::from_secs(60);
/// Time limit until every Work reaches every other.
const REACHED: Duration = Duration::from_secs(30);
/// Time limit for an answer of a Work that is up.
const PING: Duration = Duration::from_secs(5);
/// Time limit for processes to exit.
const END: Duration = Duration::from_secs(30);
/// Period in which the processor time of idle processes is measured.
const IDLE: Duration = Duration::from_secs(3);

/// Conducts a run with faults for `lasts`; its records are in the new directory `run`.
pub(crate) fn conduct(seed: u64, lasts: Duration, run: &Path) {
    std::fs::create_dir_all(run.join("records")).expect("there is a place for temporary files");
    let recorder = Arc::new(Recorder::new(run));
    let plan = Plan::new(seed, lasts);
    std::fs::write(run.join("plan"), format!("{plan:#?}")).expect("the run has its directory");
    let conductor = Conductor { stage: Stage::new(plan, run, &recorder), recorder };
    conductor.run(seed);
}

struct Conductor {
    stage: Stage,
    recorder: Arc<Recorder>,
}

impl Conductor {
    fn run(mut self, seed: u64) {
        let nodes = self.stage.posts.len();
        self.phase("start");
        if self.stage.plan.nodes_first {
            (0..nodes).for_each(|n| self.stage.start_node(n));
            self.stage.start_head();
        } else {
            self.stage.start_head();
            self.stage.wait(Duration::from_millis(700));
            (0..nodes).for_each(|n| self.stage.start_node(n));
        }
        self.phase("warm-up");
        self.are_up("at the start");
        self.stage.wait(Duration::from_secs(3));
        self.measure("warm", Duration::ZERO);

        self.phase("faults");
        let stop = Arc::new(AtomicBool::new(false));
        let asking =
            Asking { api: self.stage.api.clone(), recorder: self.recorder.clone(), stop: stop.clone() };
        let mut works: Vec<_> =
            self.stage.plan.works.iter().map(|work| format!("works.{}", work.name)).collect();
        // A service gets as many questions as several Works.
        (0..3).for_each(|_| works.extend(self.services()));
        let asking = std::thread::spawn(move || asking.run(&works, seed));
        self.stage.schedule();
        while !self.stage.is_done() {
            self.stage.tick();
        }

        self.phase("heal");
        self.stage.heal();
        self.are_up("after the faults");
        self.stage.wait(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        std::fs::write(self.stage.run.join("quiet"), "").expect("the run has its directory");
        self.phase("quiet");
        while !asking.is_finished() {
            self.stage.tick();
        }
        asking.join().expect("the thread asks until it is told to stop");
        // The last questions still wait for an answer.
        self.stage.wait(Duration::from_secs(3));
        self.survey();
        self.release();
        self.phase("idle");
        self.stage.wait(Duration::from_secs(4));
        self.measure("idle", IDLE);
        self.end();
    }

    fn phase(&self, name: &str) {
        self.recorder.record(Event::Phase { name: name.to_owned() });
    }

    /// The paths of the services.
    fn services(&self) -> Vec<String> {
        self.stage.plan.services.iter().map(|service| format!("{SERVICES}{}", service.name)).collect()
    }

    /// The Works, except for replicas of services, which come and go.
    fn members(&self) -> Result<serde_json::Map<String, Value>, String> {
        Ok(self.works()?.into_iter().filter(|(path, _)| !path.starts_with(SERVICES)).collect())
    }

    /// All Works but the one that takes orders.
    fn works(&self) -> Result<serde_json::Map<String, Value>, String> {
        let status = self.stage.api.get("api/v1/status", Duration::from_secs(5)).ok()?;
        let works = status["works"].as_object().cloned().ok_or("the status has no Works")?;
        Ok(works.into_iter().filter(|(path, _)| path != "director").collect())
    }

    /// Waits until all Works are up.
    fn are_up(&mut self, when: &str) {
        let deadline = Instant::now() + WELL;
        loop {
            let works = self.members();
            let down = match &works {
                Err(why) => vec![("works".to_owned(), why.clone())],
                Ok(works) => {
                    let role = |path: &str| {
                        let is = |work: &&WorkPlan| path.strip_prefix("works.") == Some(work.name.as_str());
                        self.stage.plan.works.iter().find(is).map_or(Role::Roam, |work| work.role)
                    };
                    let down =
                        |(path, work): (&String, &Value)| Some((path.clone(), down(work, role(path))?));
                    works.iter().filter_map(down).collect()
                }
            };
            if down.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                for (work, why) in down {
                    let error = format!("{when}, {WELL:?} later: {why}");
                    self.recorder.record(Event::Up { work, error: Some(error) });
                }
                return;
            }
            down.iter().for_each(|(work, _)| self.stage.start_if_held(work));
            self.stage.wait(Duration::from_millis(500));
        }
    }

    /// Has every Work ask every other one and each service by each address that it has, until all are reached or the time
    /// limit is over.
    fn survey(&mut self) {
        self.phase("survey");
        let works = self.members().unwrap_or_default();
        let mut only: Vec<String> = works.keys().filter(|path| path.starts_with("works.")).cloned().collect();
        only.extend(self.services());
        let survey = json!({"only": only});
        let deadline = Instant::now() + REACHED;
        let mut left: Vec<String> = works.keys().cloned().collect();
        loop {
            let began = self.ask_all(&left, "Survey", &survey);
            self.stage.wait(Duration::from_secs(1));
            let mut missed = Vec::new();
            let mut waiting: Vec<String> = Vec::new();
            for (path, began) in began {
                match began {
                    Ok(_) => waiting.push(path),
                    Err(why) => missed.push((path.clone(), over_http(&path, Some(why)))),
                }
            }
            let patience = Instant::now() + Duration::from_secs(15);
            while !waiting.is_empty() {
                let mut unfinished = Vec::new();
                for (path, answer) in self.ask_all(&waiting, "Findings", &json!({})) {
                    match answer.map(serde_json::from_value::<Option<Vec<Finding>>>) {
                        Ok(Ok(Some(findings))) => {
                            self.reached(&path, over_http(&path, None));
                            for finding in findings {
                                if finding.error.is_none() {
                                    self.reached(&path, finding);
                                } else {
                                    missed.push((path.clone(), finding));
                                }
                            }
                        }
                        Ok(Ok(None)) if Instant::now() < patience => unfinished.push(path),
                        Ok(Ok(None)) => {
                            let why = "its asks have not ended after their deadline".to_owned();
                            missed.push((path.clone(), over_http(&path, Some(why))));
                        }
                        Ok(Err(why)) => missed.push((path.clone(), over_http(&path, Some(why.to_string())))),
                        Err(why) => missed.push((path.clone(), over_http(&path, Some(why)))),
                    }
                }
                waiting = unfinished;
                self.stage.wait(Duration::from_millis(500));
            }
            if missed.is_empty() || Instant::now() > deadline {
                missed.into_iter().for_each(|(path, finding)| self.reached(&path, finding));
                return;
            }
            left = missed.into_iter().map(|(path, _)| path).collect();
            left.dedup();
        }
    }

    fn reached(&self, from: &str, finding: Finding) {
        let Finding { to, source, error } = finding;
        self.recorder.record(Event::Reached { from: from.to_owned(), to, source, error });
    }

    /// Asks these Works concurrently.
    fn ask_all(&self, paths: &[String], message: &str, body: &Value) -> Vec<(String, Result<Value, String>)> {
        let api = &self.stage.api;
        std::thread::scope(|scope| {
            let asking: Vec<_> = paths
                .iter()
                .map(|path| scope.spawn(move || (path.clone(), api.ask(path, message, body, PING).ok())))
                .collect();
            asking.into_iter().map(|one| one.join().expect("a question ends")).collect()
        })
    }

    fn release(&mut self) {
        let paths: Vec<_> = self.works().unwrap_or_default().keys().cloned().collect();
        self.ask_all(&paths, "Release", &json!({}));
    }

    /// Measures the resources of all processes, and their processor time over `time`.
    fn measure(&mut self, phase: &str, time: Duration) {
        let works = self.works().unwrap_or_default();
        let works_on =
            |name: &str| works.values().filter(|work| work["node"].as_str() == Some(name)).count() as u64;
        let mut all = Vec::new();
        if let Some(head) = &self.stage.head {
            all.push((head.id(), "head".to_owned(), works_on("head")));
            all.extend(
                processes_below(head.id()).into_iter().map(|process| (process, "process".to_owned(), 1)),
            );
        }
        for post in &self.stage.posts {
            all.extend(post.nodes.iter().map(|node| (node.id(), post.name.clone(), works_on(&post.name))));
        }
        let before: Vec<_> = all.iter().map(|(process, ..)| busy_ms(*process)).collect();
        let began = Instant::now();
        self.stage.wait(time);
        let measured_ms = began.elapsed().as_millis() as u64;
        for ((process, name, works), before) in all.into_iter().zip(before) {
            let busy_ms = busy_ms(process).saturating_sub(before);
            // Processes that the head has started share its directory.
            let payloads = self.stage.payloads(if name == "process" { "head" } else { &name });
            let held = Held { busy_ms, measured_ms, ..held(process, &payloads, works) };
            self.recorder.record(Event::Measured { child: process, phase: phase.to_owned(), held });
            let details = self.stage.run.join("logs").join("held");
            append(&details, &format!("{phase} {process} {name} {held:?}: {}\n", in_detail(process)));
        }
    }

    fn end(mut self) {
        self.phase("end");
        self.stage.let_go();
        match self.stage.plan.ending {
            Ending::Http => {
                let body = json!({"why": "the run is over"});
                let _ = self.stage.api.post("api/v1/app/stop", Some(&body), Duration::from_secs(5));
            }
            Ending::Terminate => self.signal_head("TERM"),
            Ending::Interrupt => self.signal_head("INT"),
        }
        let deadline = Instant::now() + END;
        while !self.stage.have_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut left = processes_of(&self.stage.run);
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            left = processes_of(&self.stage.run);
        }
        for (process, command) in left {
            let what = format!("process {process}: {command}; {}", in_detail(process));
            self.recorder.record(Event::Left { what });
        }
        let payloads = self.stage.run.join("payloads");
        let directories: BTreeSet<String> = std::fs::read_dir(&payloads)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().display().to_string())
            .collect();
        let left = entries(&payloads).into_iter().filter(|entry| !directories.contains(entry));
        for what in left.chain(entries(&self.stage.run.join("tmp"))) {
            self.recorder.record(Event::Left { what: format!("file {what}") });
        }
        self.look_for_crashes();
        self.phase("over");
    }

    /// Records panics that no test has requested, and aborts.
    fn look_for_crashes(&self) {
        for log in std::fs::read_dir(self.stage.run.join("logs")).into_iter().flatten().flatten() {
            let text = log_of(&log.path());
            let is_crash = |line: &&str| {
                // Failing to start a thread panics in an arbiter, which catches that.
                (line.contains("panicked at") && !line.contains("actix-rt"))
                    || line.contains("has overflowed its stack")
                    || line.contains("memory allocation of")
            };
            for line in text.lines().filter(is_crash) {
                let log = log.file_name().to_string_lossy().into_owned();
                self.recorder.record(Event::Crashed { log, line: line.to_owned() });
            }
        }
    }

    fn signal_head(&mut self, name: &str) {
        if let Some(head) = &mut self.stage.head {
            head.signal(name);
        }
    }
}

fn over_http(path: &str, error: Option<String>) -> Finding {
    Finding { to: path.to_owned(), source: "http".to_owned(), error }
}

/// Returns the reason why a Work is not up, or its run is not executing.
fn down(work: &Value, role: Role) -> Option<String> {
    let stage = work["stage"].as_str().unwrap_or_default();
    let is_up = work["is_up"].as_bool().unwrap_or_default();
    (!is_up || (role == Role::Roam && stage != "running")).then(|| {
        format!(
            "{stage}, up: {is_up}, node {}, placed {}: {}",
            work["node"], work["placement"], work["message"]
        )
    })
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
}

/// A thread that asks Works over HTTP, one after the other.
struct Asking {
    api: Api,
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
}

impl Asking {
    fn run(&self, works: &[String], seed: u64) {
        let mut rng = Rng::new(seed ^ 0x6874_7470);
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(rng.millis(5, 60));
            if self.api.address().is_some() {
                self.ask(rng.pick::<String>(works), rng.below(1 << 50));
            }
        }
    }

    fn ask(&self, work: &str, number: u64) {
        let id = format!("m{}", unique());
        // It is unknown which head answers.
        let trying =
            Event::Trying { life: HTTP, id: id.clone(), to: work.to_owned(), epoch: 0, kind: Kind::Ask };
        self.recorder.record(trying);
        let answer = self.api.ask(work, "Question", &json!({"id": id, "number": number}), ASK);
        let outcome = match answer {
            Answer::Status(200, body) => {
                let answer: Value = serde_json::from_str(&body).unwrap_or_default();
                let is_right = answer["id"] == json!(id) && answer["number"] == json!(answer_to(number));
                if is_right { Outcome::Answered } else { Outcome::Wrong(body) }
            }
            Answer::Status(409, body) => Outcome::NotHandled(body),
            Answer::Status(502..=504, body) => Outcome::Unclear(body),
            Answer::Status(status, body) => Outcome::Wrong(format!("{status}: {body}")),
            Answer::None(why) => Outcome::Unclear(why),
        };
        self.recorder.record(Event::Sent { id, outcome });
    }
}
