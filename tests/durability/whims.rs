//! A program that does what comes to its mind: a function of what its Flows see, which follows from a seed, and of when
//! its Works publish and end, which nobody knows before.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use flowright::prelude::*;

/// The number of inputs that runs have.
const INPUTS: u64 = 12;

/// Mixes numbers (SplitMix64).
fn mixed(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |mix, number| {
        let mut bits = (mix ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    })
}

/// A Work whose runs publish, end or fail, by their inputs.
#[derive(Default, Serialize, Deserialize)]
struct Deed {
    published: u64,
    last: Option<u64>,
}

impl Work for Deed {
    type Input = u64;

    async fn run(&mut self, input: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        for _ in 0..input % 4 {
            self.published += 1;
            cx.publish(self);
            tokio::time::sleep(Duration::from_millis(input % 3)).await;
        }
        if input % 5 == 4 {
            bail!("input {input} fails");
        }
        self.last = Some(input);
        Ok(())
    }
}

fn deed(mix: u64) -> WorkRef<Deed> {
    let deed = WorkRef::new(Deed { published: mix % 3, last: None }).on_error(OnError::Capture);
    match mix % 4 {
        0 => deed.remember(3),
        1 => deed.restart(
            Restart::on_failure().max(2).backoff(Duration::from_millis(1)..Duration::from_millis(5)),
        ),
        2 => deed.placed(Placement::Pool).cache_calls(false),
        _ => deed,
    }
}

/// What a Flow sees of a Work.
fn seen(deed: &WorkRef<Deed>) -> u64 {
    mixed(&[
        deed.published,
        deed.last.map_or(7, |last| last + 8),
        deed.status().stage as u64,
        deed.successes(),
    ])
}

fn all_seen<'d>(deeds: impl Iterator<Item = &'d WorkRef<Deed>>) -> u64 {
    mixed(&deeds.map(seen).collect::<Vec<_>>())
}

/// Does something to a Work.
fn treat(deed: &WorkRef<Deed>, mix: u64) {
    let input = mix / 16 % INPUTS;
    match mix % 16 {
        0..8 => drop(deed.run(input)),
        8 | 9 => deed.forget(&input),
        10 | 11 => deed.rerun(input),
        12 => deed.stop(),
        13 => deed.start(),
        14 => deed.restart_now(),
        _ => {
            deed.run(input);
            deed.run((input + 1) % INPUTS);
        }
    }
}

/// A Flow that fails now and then.
#[derive(Serialize, Children)]
struct Crew {
    seed: u64,
    goal: u64,
    steps: u64,
    deed: WorkRef<Deed>,
    more: Vec<WorkRef<Deed>>,
}

impl Crew {
    fn new(seed: u64) -> Self {
        Self { seed, goal: 0, steps: 0, deed: deed(seed), more: Vec::new() }
    }
}

impl Flow for Crew {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let others = all_seen(self.more.iter());
        let mix = mixed(&[self.seed, self.goal, self.steps, seen(&self.deed), others]);
        self.steps += 1;
        match mix % 8 {
            0..4 => treat(&self.deed, mix / 8),
            4 if self.more.len() < 3 => self.more.push(deed(mix / 8)),
            5 if !self.more.is_empty() => drop(self.more.remove(0)),
            6 => self.more.iter().for_each(|deed| treat(deed, mix / 8)),
            _ if (mix / 8).is_multiple_of(6) => bail!("step {} fails", self.steps),
            _ => cx.wake_in(Duration::from_millis(mix / 8 % 20 + 1)),
        }
        Ok(())
    }
}

fn crew(seed: u64) -> FlowRef<Crew> {
    let backoff = Duration::from_millis(1)..Duration::from_millis(8);
    let crew = FlowRef::new(Crew::new(seed)).on_error(OnError::Capture);
    crew.restart(Restart::on_failure().max(4).within(Duration::from_millis(200)).backoff(backoff))
}

#[derive(Serialize, Children)]
struct Whims {
    seed: u64,
    steps: u64,
    occurrences: u64,
    notes: Vec<u64>,
    deed: WorkRef<Deed>,
    list: Vec<WorkRef<Deed>>,
    named: BTreeMap<String, WorkRef<Deed>>,
    numbered: HashMap<u16, WorkRef<Deed>>,
    crew: FlowRef<Crew>,
    crews: Vec<FlowRef<Crew>>,
    named_crews: BTreeMap<String, FlowRef<Crew>>,
    /// How much longer than before this Flow sleeps, in milliseconds.
    #[serde(skip)]
    longer: u64,
}

impl Flow for Whims {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let works = self.list.iter().chain(self.named.values());
        let mix = mixed(&[self.seed, self.steps, seen(&self.deed), all_seen(works), self.crew.steps]);
        self.steps += 1;
        if cx.schedule("* * * * * *") {
            self.occurrences += 1;
        }
        let choice = mix / 16;
        match mix % 16 {
            0..4 => treat(&self.deed, choice),
            4 | 5 if self.list.len() < 4 => self.list.push(deed(choice)),
            6 if !self.list.is_empty() => {
                self.list.remove(choice as usize % self.list.len());
            }
            7 => self.list.reverse(),
            8 | 9 => self.list.iter().chain(self.named.values()).for_each(|deed| treat(deed, choice)),
            10 => {
                let name = format!("n{}", choice % 3);
                if self.named.remove(&name).is_none() {
                    self.named.insert(name, deed(choice / 3));
                }
            }
            11 if choice.is_multiple_of(2) => self.notes.push(choice % 100),
            11 => {
                self.numbered.values().for_each(|deed| treat(deed, choice));
                let number = (choice / 2 % 3) as u16;
                if self.numbered.remove(&number).is_none() {
                    self.numbered.insert(number, deed(choice / 6));
                }
            }
            12 => self.notes.truncate(2),
            13 => self.crew.goal = choice % 5,
            14 if self.crews.len() < 2 => self.crews.push(crew(choice)),
            14 => drop(self.crews.remove(0)),
            _ => {
                let name = format!("c{}", choice % 2);
                if self.named_crews.remove(&name).is_none() {
                    self.named_crews.insert(name, crew(choice));
                }
            }
        }
        cx.wake_in(Duration::from_millis(choice % 9 + 1 + self.longer));
        Ok(())
    }
}

/// Runs the program with the seed that is part of its name, `whims_7`; with `whims_7_longer`, its root sleeps a
/// millisecond longer.
pub(crate) fn run(program: &str) -> Option<ExitCode> {
    let rest = program.strip_prefix("whims_")?;
    let (seed, longer) = rest.strip_suffix("_longer").map_or((rest, 0), |seed| (seed, 1));
    let seed = seed.parse().expect("the seed is a number");
    let root = move || Whims {
        seed,
        longer,
        steps: 0,
        occurrences: 0,
        notes: Vec::new(),
        deed: deed(3),
        list: Vec::new(),
        named: BTreeMap::new(),
        numbered: HashMap::new(),
        crew: crew(seed),
        crews: Vec::new(),
        named_crews: BTreeMap::new(),
    };
    Some(App::new(root).main())
}
