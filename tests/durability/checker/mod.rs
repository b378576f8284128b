//! The checker of a program that was killed many times. It knows what the program has shown over its API, what an
//! operator has asked for, and the record of the bodies; it reads no journal.
//!
//! # Rules
//! - A counter is never lower than it was shown before, in whichever life of the process.
//! - An ended attempt stays as it was shown, and is listed until newer ones displace it.
//! - An input that was shown as ended never begins again unless somebody has asked for it since.
//! - The body of a run that depends on others shows that these have ended for good: none of them begins later.
//! - Attempts are explained by failures.
//! - The fields of a Flow, its children and the outcomes of their runs are of one moment.
//! - A Work that has left the App does not come back.
//! - A stop by an operator that was acknowledged lasts.
//! - In the end every run that was requested has succeeded as often as it was requested.

pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::plan;
use crate::record::{Line, What};

/// The Work that the operator stops and starts.
pub(crate) const OPERATED: &str = "operated";
/// The Work whose runs the operator repeats.
pub(crate) const REPEATED: &str = "pooled";
/// The Work whose runs the operator has forgotten, which its Flow requests again.
pub(crate) const FORGOTTEN: &str = "ticker";
/// The Work whose failures are captured, and whose runs therefore end with them.
const CAPTURED: &str = "captured";
/// The most ended attempts of a Work that are kept, and the most that a page has.
const LISTED: u64 = 200;

/// Where a value was shown: documents of the event stream are later than answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Events,
    Answers,
}

/// An ended attempt as it was first shown.
#[derive(Debug, Clone, PartialEq)]
struct Ended {
    input: u64,
    stage: String,
    attempt: u64,
    at: u64,
}

/// A request for one more run of an input.
#[derive(Debug, Clone)]
struct Repeat {
    path: String,
    input: u64,
    /// The time at which it was sent.
    sent: u64,
    is_acknowledged: bool,
}

/// What is known of the operator's stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Held,
    Free,
    /// The last command was not answered.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Checker {
    /// The highest values shown, by source.
    counters: [BTreeMap<String, u64>; 2],
    present: BTreeSet<String>,
    gone: BTreeSet<String>,
    ended: BTreeMap<(String, u64), Ended>,
    repeats: Vec<Repeat>,
    hold: Hold,
    /// The state of the hold at the start of this life, until something is sent.
    hold_before: Hold,
    /// Periods in which the operated Work must not begin a run.
    held: Vec<(u64, Option<u64>)>,
    violations: Vec<String>,
    /// The number of documents and answers that were checked.
    pub(crate) shown: u64,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self {
            counters: [BTreeMap::new(), BTreeMap::new()],
            present: BTreeSet::new(),
            gone: BTreeSet::new(),
            ended: BTreeMap::new(),
            repeats: Vec::new(),
            hold: Hold::Free,
            hold_before: Hold::Free,
            held: Vec::new(),
            violations: Vec::new(),
            shown: 0,
        }
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn violation(&mut self, text: String) {
        // The first ones tell the most.
        if self.violations.len() < 50 {
            self.violations.push(text);
        }
    }

    /// A new life of the process begins.
    pub(crate) fn life_begins(&mut self, at: u64) {
        let [events, answers] = &mut self.counters;
        for (name, value) in std::mem::take(answers) {
            let highest = events.entry(name).or_default();
            *highest = value.max(*highest);
        }
        answers.clone_from(events);
        self.hold_before = self.hold;
        self.lifted(at);
        if self.hold == Hold::Held {
            self.held.push((at, None));
        }
    }

    /// Ends the period in which the operated Work must not run.
    fn lifted(&mut self, at: u64) {
        if let Some((_, until @ None)) = self.held.last_mut() {
            *until = Some(at);
        }
    }

    /// The operator is about to stop or to start the Work.
    pub(crate) fn operator_sends(&mut self, at: u64) {
        (self.hold, self.hold_before) = (Hold::Unknown, Hold::Unknown);
        self.lifted(at);
    }

    pub(crate) fn operator_is_answered(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// The operator is about to ask for one more run of an input. Returns the number of the request.
    pub(crate) fn repeat_is_sent(&mut self, path: &str, input: u64, sent: u64) -> usize {
        self.repeats.push(Repeat { path: path.to_owned(), input, sent, is_acknowledged: false });
        self.repeats.len() - 1
    }

    pub(crate) fn repeat_is_acknowledged(&mut self, request: usize) {
        self.repeats[request].is_acknowledged = true;
    }

    /// Returns an input of a Work that was shown as succeeded, the `nth` of them.
    pub(crate) fn succeeded_input(&self, path: &str, nth: usize) -> Option<u64> {
        let of_path =
            self.ended.iter().filter(|((other, _), ended)| other == path && ended.stage == "succeeded");
        let inputs: Vec<_> = of_path.map(|(_, ended)| ended.input).collect();
        inputs.get(nth % inputs.len().max(1)).copied()
    }

    fn count(&mut self, source: Source, name: &str, value: &Json) {
        let Some(value) = value.as_u64() else {
            return self.violation(format!("{name} is shown as {value}"));
        };
        let highest = self.counters[source as usize].entry(name.to_owned()).or_default();
        if value < *highest {
            let text = format!("{name} was shown as {highest} and is shown as {value} by the {source:?}");
            self.violation(text);
        } else {
            *highest = value;
        }
    }

    /// A document of the event stream was received.
    pub(crate) fn see(&mut self, document: &Json) {
        self.see_state(Source::Events, &document["state"]);
        self.see_works(Source::Events, &document["works"]);
        for (path, _) in
            document["works"].as_object().into_iter().flatten().filter(|(path, _)| *path != "feeder")
        {
            self.see_job(document, path);
        }
        self.see_children(document);
        self.see_hold(document);
    }

    /// The state of the App was received.
    pub(crate) fn see_state(&mut self, source: Source, state: &Json) {
        self.shown += 1;
        for name in ["asked", "ticks", "wave", "built"] {
            self.count(source, name, &state[name]);
        }
        for name in ["link", "beats", "repeats"] {
            self.count(source, &format!("below.{name}"), &state["below"][name]);
        }
        self.count(source, "feeder.made", &state["feeder"]["made"]);
        let (wave, built) = (state["wave"].as_u64(), state["built"].as_u64());
        if wave.map(plan::built_before) != built {
            self.violation(format!("wave {wave:?} begins after {built:?} runs"));
        }
        let (made, asked) = (state["feeder"]["made"].as_u64(), state["asked"].as_u64());
        if asked > made {
            self.violation(format!("{asked:?} numbers were asked for when there were {made:?}"));
        }
    }

    /// The status of all Works was received.
    pub(crate) fn see_works(&mut self, source: Source, works: &Json) {
        for (path, work) in works.as_object().into_iter().flatten() {
            for name in ["succeeded", "failed"] {
                self.count(source, &format!("{path}: {name}"), &work["runs"][name]);
            }
        }
    }

    /// The last step of a run and its success are of one moment.
    fn see_job(&mut self, document: &Json, path: &str) {
        let state = state_of(document, path);
        let (done, steps) = (state["done"].clone(), state["steps"].clone());
        self.count(Source::Events, &format!("{path}: steps"), &steps);
        let succeeded = &document["works"][path]["runs"]["succeeded"];
        if &done != succeeded {
            self.violation(format!("{path} shows {done} runs in its state, and {succeeded} have succeeded"));
        }
    }

    /// Children are those of the wave, and none comes back.
    fn see_children(&mut self, document: &Json) {
        let state = &document["state"];
        let wave = state["wave"].as_u64().unwrap_or_default();
        let cells: Vec<_> =
            state["cells"].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
        let lines = state["lines"].as_array().map_or(0, Vec::len);
        // Before its first reaction the Flow has no children.
        let is_new = wave == 0 && cells.is_empty() && lines == 0;
        if !is_new && (cells != plan::cells(wave) || lines != plan::lines(wave)) {
            self.violation(format!("in wave {wave} there are the cells {cells:?} and {lines} lines"));
        }
        let present: BTreeSet<String> =
            document["works"].as_object().into_iter().flatten().map(|(path, _)| path.clone()).collect();
        for path in present.intersection(&self.gone).cloned().collect::<Vec<_>>() {
            self.violation(format!("{path} had left, and is back"));
        }
        for path in self.present.difference(&present) {
            self.gone.insert(path.clone());
        }
        self.present = present;
    }

    fn see_hold(&mut self, document: &Json) {
        let Some(work) = document["works"].get(OPERATED) else { return };
        let is_held = !work["held"].is_null();
        match self.hold_before {
            Hold::Held if !is_held => self.violation(format!("the operator's stop of {OPERATED} is lost")),
            Hold::Free if is_held => self.violation(format!("the operator's stop of {OPERATED} is back")),
            _ => {}
        }
    }

    /// A page with the newest attempts of a Work was received.
    pub(crate) fn see_runs(&mut self, at: u64, path: &str, page: &Json) {
        self.shown += 1;
        let mut listed = BTreeSet::new();
        for item in page["items"].as_array().into_iter().flatten() {
            let (Some(run), Some(input)) = (item["run"].as_u64(), item["input"].as_u64()) else { continue };
            listed.insert(run);
            if item["ended"].is_null() {
                continue;
            }
            let stage = item["stage"].as_str().unwrap_or_default().to_owned();
            let attempt = item["attempt"].as_u64().unwrap_or_default();
            let now = Ended { input, stage, attempt, at };
            let first = self.ended.entry((path.to_owned(), run)).or_insert_with(|| now.clone()).clone();
            if (Ended { at, ..first.clone() }) != now {
                self.violation(format!("run {run} of {path} was shown as {first:?} and is shown as {now:?}"));
            }
        }
        // The page begins with the runs that wait; older attempts than those on it may be on the next one.
        let oldest = if page["total"].as_u64() < Some(LISTED) {
            0
        } else {
            listed.first().copied().unwrap_or(u64::MAX)
        };
        let known = self.ended.range((path.to_owned(), oldest)..).take_while(|((other, _), _)| other == path);
        let lost: Vec<_> = known.map(|((_, run), _)| *run).filter(|run| !listed.contains(run)).collect();
        for run in lost {
            let ended = &self.ended[&(path.to_owned(), run)];
            self.violation(format!("run {run} of {path} was shown as {ended:?} and is not listed any more"));
        }
    }

    /// Checks the record of the bodies.
    pub(crate) fn check_record(&mut self, lines: &[Line]) {
        self.check_repeats(lines);
        self.check_attempts(lines);
        self.check_chain(lines);
        self.check_waves(lines);
        self.check_feeder(lines);
        for (from, until) in self.held.clone() {
            let until = until.unwrap_or(u64::MAX);
            let begin = lines.iter().find(|line| {
                line.path == OPERATED && line.what == What::Begin && (from..until).contains(&line.at)
            });
            if let Some(begin) = begin {
                self.violation(format!("{begin:?} while an operator has stopped the Work"));
            }
        }
    }

    /// An input that was shown as ended begins again only when somebody has asked for it.
    fn check_repeats(&mut self, lines: &[Line]) {
        // Per input, the times at which its ends were first shown.
        let mut ends = BTreeMap::<(&str, u64), Vec<u64>>::new();
        for ((path, _), ended) in &self.ended {
            if ended.stage == "succeeded" || ended.stage == "failed" && path == CAPTURED {
                ends.entry((path, ended.input)).or_default().push(ended.at);
            }
        }
        let mut found = Vec::new();
        for line in lines.iter().filter(|line| line.what == What::Begin) {
            let Some(shown) = ends.get(&(line.path.as_str(), line.input)) else { continue };
            let shown = shown.iter().filter(|at| **at < line.at).count();
            let asked = self.repeats.iter().filter(|repeat| {
                repeat.path == line.path && repeat.input == line.input && repeat.sent < line.at
            });
            // The Flow itself runs some beats once more.
            let by_flow = usize::from(line.path == "below.beater" && line.input % 10 == 5);
            if shown > asked.count() + by_flow {
                found.push(format!("{line:?} after its end was shown"));
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }

    /// An attempt has as many failures before it as its number says.
    fn check_attempts(&mut self, lines: &[Line]) {
        let mut failures = BTreeMap::<(&str, u64), u32>::new();
        let mut found = Vec::new();
        for line in lines.iter().filter(|line| line.path != "feeder") {
            let failures = failures.entry((&line.path, line.input)).or_default();
            match line.what {
                What::Begin if line.attempt == 0 || line.attempt > *failures + 1 => {
                    found.push(format!("{line:?} after {failures} failures"));
                }
                What::Begin | What::Step | What::End => {}
                What::Fail => *failures += 1,
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }

    /// A link begins when the one before it has succeeded for good.
    fn check_chain(&mut self, lines: &[Line]) {
        let begins = lines.iter().filter(|line| line.path == "below.chain" && line.what == What::Begin);
        let mut last: Option<&Line> = None;
        for line in begins {
            match last {
                Some(last) if line.input < last.input => {
                    self.violation(format!("{line:?} after {last:?}, which depends on it"));
                }
                Some(last) if line.input > last.input + 1 => {
                    self.violation(format!("{line:?} after {last:?}: a link is missing"));
                }
                _ => last = Some(line),
            }
        }
    }

    /// A wave begins when all runs of the one before it have succeeded for good.
    fn check_waves(&mut self, lines: &[Line]) {
        let is_of_wave = |line: &&Line| line.path.starts_with("cells.") || line.path.starts_with("lines.");
        let mut last: Option<&Line> = None;
        for line in lines.iter().filter(is_of_wave).filter(|line| line.what == What::Begin) {
            match last {
                Some(last) if line.input < last.input => {
                    self.violation(format!("{line:?} after {last:?}, which depends on it"));
                }
                _ => last = Some(line),
            }
        }
    }

    /// A number that was given to a run stays made.
    fn check_feeder(&mut self, lines: &[Line]) {
        let mut highest = 0;
        for line in lines.iter().filter(|line| line.what == What::Begin) {
            match line.path.as_str() {
                "pooled" | "alone" | CAPTURED => highest = line.input.max(highest),
                "feeder" if line.input < highest => {
                    self.violation(format!("{line:?} after a run with the number {highest} has begun"));
                }
                _ => {}
            }
        }
    }

    /// Checks the last document, when nothing was left to do.
    pub(crate) fn check_end(&mut self, document: &Json) {
        let state = &document["state"];
        let number = |value: &Json| value.as_u64().unwrap_or_default();
        let (made, asked) = (number(&state["feeder"]["made"]), number(&state["asked"]));
        if made != asked {
            self.violation(format!("{made} numbers were made, and {asked} asked for"));
        }
        let ticks = number(&state["ticks"]);
        let below = &state["below"];
        let (link, beats, repeats) =
            (number(&below["link"]), number(&below["beats"]), number(&below["repeats"]));
        let all = |number: u64| plan::is_captured(number);
        let failing = |number: u64| plan::is_captured(number) && plan::always_fails(number);
        let expected = [
            (REPEATED, "succeeded", plan::count(asked, plan::is_pooled)),
            ("alone", "succeeded", plan::count(asked, plan::is_alone)),
            (CAPTURED, "succeeded", plan::count(asked, all) - plan::count(asked, failing)),
            (CAPTURED, "failed", plan::count(asked, failing)),
            (FORGOTTEN, "succeeded", ticks),
            ("below.chain", "succeeded", link),
            ("below.beater", "succeeded", beats + repeats),
        ];
        for (path, name, expected) in expected {
            let counted = number(&document["works"][path]["runs"][name]);
            let repeats = self.repeats.iter().filter(|repeat| repeat.path == path && name == "succeeded");
            let sent = repeats.clone().count() as u64;
            // The repetition of an input may be asked for while it waits already.
            let most = expected + sent;
            if !(expected..=most).contains(&counted) {
                self.violation(format!(
                    "{counted} runs of {path} have {name}, of {expected} requested by its Flow and {sent} by the operator"
                ));
            }
        }
    }

    /// Checks that every request of the operator that was acknowledged was carried out. `lines` is the whole record.
    pub(crate) fn check_repeats_are_done(&mut self, lines: &[Line]) {
        let is_done = |repeat: &Repeat| {
            lines.iter().any(|line| {
                line.path == repeat.path
                    && line.what == What::End
                    && line.input == repeat.input
                    && line.at > repeat.sent
            })
        };
        let acknowledged = self.repeats.iter().filter(|repeat| repeat.is_acknowledged);
        let lost: Vec<_> =
            acknowledged.filter(|repeat| !is_done(repeat)).map(|repeat| format!("{repeat:?}")).collect();
        lost.into_iter().for_each(|repeat| self.violation(format!("{repeat} was acknowledged and is lost")));
    }
}

/// Returns the state of the Work at a path. The name of a Work in a list is a number, and its state has its place.
fn state_of<'a>(document: &'a Json, path: &str) -> &'a Json {
    let state = &document["state"];
    if path.starts_with("lines.") {
        let number = |path: &str| path.trim_start_matches("lines.").parse::<u64>().unwrap_or_default();
        let works = document["works"].as_object().into_iter().flatten().map(|(other, _)| other);
        let before =
            works.filter(|other| other.starts_with("lines.") && number(other) < number(path)).count();
        return &state["lines"][before];
    }
    path.split('.').fold(state, |state, name| &state[name])
}
