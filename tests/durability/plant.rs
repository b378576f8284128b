//! The program that is killed: a tree of Flows and Works of every kind that a journal has to bring back.
//!
//! Its Flows count in own fields what they request, so that a request that is lost, or made twice, shows as a difference
//! between a field and the number of runs that have succeeded.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use flowright::prelude::*;

use crate::plan;
use crate::record::{What, note};

/// Environment variable with the path of a file; once it exists, nothing new is requested.
pub(crate) const QUIET: &str = "FLOWRIGHT_TEST_QUIET";

/// Time between two beats of the Flow below the root, in milliseconds.
const BEAT: u64 = 120;

pub(crate) fn main() -> ExitCode {
    App::new(Plant::new).main()
}

/// A Work without end that publishes numbers, until it is told to be quiet.
#[derive(Default, Serialize, Deserialize)]
struct Feeder {
    made: u64,
    is_closed: bool,
}

impl Work for Feeder {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        let quiet = std::env::var_os(QUIET).map(PathBuf::from).unwrap_or_default();
        note(cx.path().as_str(), What::Begin, self.made, cx.attempt());
        while !quiet.exists() {
            cx.sleep(self, Duration::from_millis(30)).await?;
            self.made += 1;
            cx.publish(self);
        }
        self.is_closed = true;
        note(cx.path().as_str(), What::End, self.made, cx.attempt());
        Ok(())
    }
}

/// A Work whose runs take a few milliseconds and some of which fail.
#[derive(Default, Serialize, Deserialize)]
struct Job {
    /// Runs that have succeeded: changed only by the last step of a run, and published with its end.
    done: u64,
    /// Steps of runs, also of those that did not succeed.
    steps: u64,
    /// True if failures are for ever.
    fails_for_ever: bool,
}

impl Work for Job {
    type Input = u64;

    async fn run(&mut self, input: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        let (path, attempt) = (cx.path().clone(), cx.attempt());
        note(path.as_str(), What::Begin, input, attempt);
        for _ in 0..input % 3 {
            cx.sleep(self, Duration::from_millis(2)).await?;
            self.steps += 1;
            cx.publish(self);
        }
        let fails = match self.fails_for_ever {
            true => plan::always_fails(input),
            false => attempt <= plan::failures(input),
        };
        if fails {
            note(path.as_str(), What::Fail, input, attempt);
            bail!("attempt {attempt} at {input} fails");
        }
        self.done += 1;
        note(path.as_str(), What::End, input, attempt);
        Ok(())
    }
}

fn job(placement: Placement) -> WorkRef<Job> {
    let often = Restart::on_failure()
        .max(1_000_000)
        .within(Duration::from_secs(1))
        .backoff(Duration::from_millis(1)..Duration::from_millis(4));
    WorkRef::new(Job::default()).placed(placement).restart(often).queue(usize::MAX)
}

/// The root.
#[derive(Serialize, Children)]
struct Plant {
    feeder: WorkRef<Feeder>,
    /// The number of the feeder up to which runs were requested.
    asked: u64,
    pooled: WorkRef<Job>,
    alone: WorkRef<Job>,
    captured: WorkRef<Job>,
    /// The Work that an operator stops and starts.
    operated: WorkRef<Job>,
    /// Occurrences of a schedule.
    ticks: u64,
    ticker: WorkRef<Job>,
    wave: u64,
    /// Runs of the waves that are over.
    built: u64,
    cells: BTreeMap<String, WorkRef<Job>>,
    lines: Vec<WorkRef<Job>>,
    below: FlowRef<Below>,
    /// True once nothing is left to request.
    is_over: bool,
}

impl Plant {
    fn new() -> Self {
        let captured = WorkRef::new(Job { fails_for_ever: true, ..Job::default() });
        Self {
            feeder: WorkRef::default(),
            asked: 0,
            pooled: job(Placement::Pool),
            alone: job(Placement::Process),
            captured: captured.placed(Placement::Pool).on_error(OnError::Capture).queue(usize::MAX),
            operated: job(Placement::Thread),
            ticks: 0,
            ticker: job(Placement::Pool),
            wave: 0,
            built: 0,
            cells: BTreeMap::new(),
            lines: Vec::new(),
            below: FlowRef::new(Below::new()),
            is_over: false,
        }
    }

    /// Lets children join and leave, requests the runs of the wave, and begins the next one when all have succeeded.
    fn waves(&mut self) -> Reaction {
        loop {
            let cells = plan::cells(self.wave);
            self.cells.retain(|name, _| cells.contains(name));
            for name in cells {
                self.cells.entry(name).or_insert_with(|| job(Placement::Pool));
            }
            self.lines.truncate(plan::lines(self.wave));
            while self.lines.len() < plan::lines(self.wave) {
                self.lines.push(job(Placement::Thread));
            }
            let works = || self.cells.values().chain(&self.lines);
            let runs: Vec<_> = works().map(|work| work.run(self.wave)).collect();
            for run in runs {
                run.finished()?;
            }
            if self.feeder.is_closed {
                return Ok(());
            }
            self.built += (self.cells.len() + self.lines.len()) as u64;
            self.wave += 1;
        }
    }
}

impl Flow for Plant {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.feeder.run(());
        while self.asked < self.feeder.made {
            self.asked += 1;
            let number = self.asked;
            if plan::is_pooled(number) {
                self.pooled.run(number);
            } else if plan::is_alone(number) {
                self.alone.run(number);
            } else if plan::is_captured(number) {
                self.captured.run(number);
            }
        }
        self.operated.run(self.asked / 20);
        if cx.schedule("* * * * * *") && !self.feeder.is_closed {
            self.ticks += 1;
        }
        // All of them, so that one that is forgotten runs again.
        for tick in 1..=self.ticks {
            self.ticker.run(tick);
        }
        if self.below.is_closed != self.feeder.is_closed {
            self.below.is_closed = self.feeder.is_closed;
        }
        self.waves()?;
        self.is_over = self.below.is_over;
        Ok(())
    }
}

/// The Flow below the root.
#[derive(Serialize, Children)]
struct Below {
    /// The last link of the chain that is made: each is requested when the one before has succeeded.
    link: u64,
    chain: WorkRef<Job>,
    beats: u64,
    /// The time of the next beat, in milliseconds of the wall clock.
    next_beat: u64,
    /// Beats that were run again.
    repeats: u64,
    beater: WorkRef<Job>,
    is_closed: bool,
    is_over: bool,
}

impl Below {
    fn new() -> Self {
        Self {
            link: 0,
            chain: job(Placement::Thread),
            beats: 0,
            next_beat: 0,
            repeats: 0,
            beater: job(Placement::Pool),
            is_closed: false,
            is_over: false,
        }
    }
}

impl Flow for Below {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_millis()).unwrap_or_default();
        // On a busy machine, beats are slower: an earlier one is always done when it is to be run again.
        let is_behind = self.beats >= 5 && self.beater.run(self.beats - 4).finished().is_err();
        if !self.is_closed && !is_behind {
            if wall >= self.next_beat {
                self.beats += 1;
                self.next_beat = wall + BEAT;
                self.beater.run(self.beats);
                // An earlier one runs once more.
                if self.beats.is_multiple_of(10) {
                    self.repeats += 1;
                    self.beater.rerun(self.beats - 5);
                }
            }
            cx.wake_in(Duration::from_millis(self.next_beat - wall));
        }
        while !self.is_over && self.chain.run(self.link + 1).finished().is_ok() {
            self.link += 1;
            self.is_over = self.is_closed;
        }
        Ok(())
    }
}
