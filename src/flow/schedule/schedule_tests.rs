use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600;

/// A wall clock and a monotonic clock, both starting at a full hour.
struct Clocks {
    schedules: Schedules,
    at: i64,
    wall: i64,
    reaction: u64,
}

impl Clocks {
    fn new() -> Self {
        Self { schedules: Schedules::default(), at: 0, wall: 1_800_000_000, reaction: 0 }
    }

    fn now(&self) -> Moment {
        let after = |second: i64| std::time::Duration::from_secs(second.try_into().unwrap());
        Moment { at: after(self.at), wall: SystemTime::UNIX_EPOCH + after(self.wall) }
    }

    fn check(&mut self, expression: &str) -> bool {
        self.schedules.check(Some("UTC"), expression, self.now(), self.reaction).unwrap()
    }

    /// Sets the wall clock and reports that to the schedules. Returns the result of [`run`](Self::run).
    fn set(&mut self, expression: &str, by: i64) -> Vec<(i64, i64)> {
        self.wall += by;
        self.react(expression)
    }

    /// Reacts as often as the schedules request.
    fn react(&mut self, expression: &str) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        while self.schedules.wake(self.now()) {
            self.reaction += 1;
            if self.check(expression) {
                found.push((self.at, self.wall - 1_800_000_000));
            }
        }
        found
    }

    /// Lets time pass and returns the seconds at which an occurrence was true, by the monotonic clock and by the wall
    /// clock.
    fn run(&mut self, expression: &str, seconds: i64) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        for _ in 0..seconds {
            (self.at, self.wall) = (self.at + 1, self.wall + 1);
            if self.schedules.next_wake().is_some_and(|wake| wake <= self.now().wall) {
                found.extend(self.react(expression));
            }
        }
        found
    }
}

#[test]
fn all_eight_spellings_are_schedules_of_their_own() {
    let mut clocks = Clocks::new();
    let spellings = [
        "midnight",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "yearly",
        "annually",
        "*/2 * * * * *",
        "@hourly",
    ];
    for spelling in spellings {
        assert!(!clocks.check(spelling), "{spelling}");
    }
    assert_eq!(clocks.schedules.all().count(), spellings.len());
}

/// The same expression in two zones is two schedules.
#[test]
fn zones_are_schedules_of_their_own() {
    let mut clocks = Clocks::new();
    for zone in [Some("Europe/Berlin"), Some("Asia/Kathmandu"), None] {
        assert!(!clocks.schedules.check(zone, "0 9 * * *", clocks.now(), 1).unwrap());
    }
    let nexts: Vec<_> = clocks.schedules.all().map(|schedule| schedule.next.unwrap()).collect();
    assert_eq!(nexts.len(), 3);
    assert_eq!(nexts[0].to_string(), "2027-01-16T08:00:00Z");
    assert_eq!(nexts[1].to_string(), "2027-01-16T03:15:00Z");
}

fn error(zone: Option<&str>, expression: &str) -> String {
    let clocks = Clocks::new();
    Schedules::default().check(zone, expression, clocks.now(), 1).unwrap_err().to_string()
}

#[test]
fn nonsense_is_refused_with_the_remedy() {
    let error = error(None, "every now and then");
    assert!(error.contains("every now and then") && error.contains("6 with seconds"), "{error}");
}

#[test]
fn expression_without_an_occurrence_is_refused() {
    let error = error(None, "0 0 30 2 *");
    assert!(error.contains("`0 0 30 2 *` never occurs") && error.contains("day of the month"), "{error}");
}

#[test]
fn unknown_zone_is_refused_with_a_similar_one() {
    let berlin = error(Some("Europe/Berln"), "0 9 * * *");
    assert!(berlin.contains("`Europe/Berln` is not a time zone"), "{berlin}");
    assert!(berlin.contains("did you mean `Europe/Berlin`?"), "{berlin}");
    let nonsense = error(Some(""), "0 9 * * *");
    assert!(nonsense.contains("IANA") && !nonsense.contains("did you mean"), "{nonsense}");
}

/// An expression whose years are over is accepted, because it may have been valid before a restart of the App.
#[test]
fn expression_of_past_years_is_silent() {
    let mut clocks = Clocks::new();
    assert!(!clocks.check("0 0 0 1 1 * 2020"));
    assert_eq!(clocks.schedules.next_wake(), None);
}

#[test]
fn clock_set_back_is_followed_at_once() {
    for (expression, every) in
        [("* * * * * *", 1), ("*/10 * * * * *", 10), ("*/10 * * * *", 600), ("hourly", HOUR)]
    {
        let mut clocks = Clocks::new();
        clocks.check(expression);
        assert_eq!(clocks.run(expression, 3 * HOUR).len() as i64, 3 * HOUR / every, "{expression}");
        assert_eq!(clocks.set(expression, -2 * HOUR), []);
        let found = clocks.run(expression, 3 * HOUR);
        assert_eq!(found.len() as i64, 3 * HOUR / every, "{expression}");
        assert_eq!(found[0].0, 3 * HOUR + every, "{expression}");
    }
}

/// A small correction of the clock does not repeat the last occurrence, of fixed times as of an interval.
#[test]
fn clock_set_back_a_little_repeats_nothing() {
    for (expression, back) in [("30 8 * * *", 11 * HOUR), ("hourly", 29 * 60), ("*/10 * * * * *", 4)] {
        let mut clocks = Clocks::new();
        clocks.check(expression);
        let first = loop {
            if let Some(first) = clocks.run(expression, 1).first() {
                break first.1;
            }
        };
        assert_eq!(clocks.set(expression, -back), []);
        let after: Vec<_> = clocks.run(expression, 12 * HOUR).into_iter().map(|(_, wall)| wall).collect();
        assert!(after.iter().all(|wall| *wall > first), "{expression}: {first}, {after:?}");
    }
}

#[test]
fn clock_set_forward_gives_one_tick_and_goes_on() {
    for (expression, every) in [("* * * * * *", 1), ("*/10 * * * * *", 10), ("*/10 * * * *", 600)] {
        for step in [20, 45, 5 * HOUR, 24 * HOUR] {
            let mut clocks = Clocks::new();
            clocks.check(expression);
            clocks.run(expression, HOUR);
            // The clock was at an occurrence, so the range that it jumped over may have others.
            assert_eq!(clocks.set(expression, step).len(), usize::from(step >= every), "{expression} {step}");
            let found = clocks.run(expression, HOUR);
            assert_eq!(found.len() as i64, HOUR / every, "{expression} {step}: {found:?}");
            assert!(found[0].0 <= HOUR + every, "{expression} {step}: {found:?}");
        }
    }
}

/// A wait for a fixed time follows a clock that is set past that time or close to it.
#[test]
fn clock_set_forward_shortens_the_wait() {
    let mut clocks = Clocks::new();
    clocks.check("30 8 * * *");
    let wait = clocks.schedules.next_wake().unwrap();
    let wait = i64::try_from(wait.duration_since(clocks.now().wall).unwrap().as_secs()).unwrap();
    assert_eq!(clocks.set("30 8 * * *", wait - 5), []);
    assert_eq!(clocks.run("30 8 * * *", 10), [(5, wait)]);
}

proptest! {
    #[test]
    fn each_occurrence_is_true_in_exactly_one_reaction(waits in proptest::collection::vec(0_i64..9, 1..80)) {
        let mut clocks = Clocks::new();
        clocks.check("*/3 * * * * *");
        let mut seen = 0;
        for wait in waits {
            clocks.at += wait;
            clocks.wall += wait;
            while clocks.schedules.wake(clocks.now()) {
                clocks.reaction += 1;
                let first = clocks.check("*/3 * * * * *");
                prop_assert_eq!(clocks.check("*/3 * * * * *"), first);
                seen += i64::from(first);
            }
        }
        prop_assert_eq!(seen, clocks.at / 3);
    }

    #[test]
    fn what_was_not_asked_for_stays_due_without_asking_again(late in 3_i64..50, back in 0_i64..10) {
        let mut clocks = Clocks::new();
        clocks.check("*/3 * * * * *");
        clocks.at += late;
        clocks.wall += late;
        prop_assert!(clocks.schedules.wake(clocks.now()));
        clocks.wall -= back;
        clocks.reaction += 1;
        prop_assert!(!clocks.schedules.wake(clocks.now()));
        prop_assert!(clocks.check("*/3 * * * * *"));
    }

    /// Each setting of the clock silences an interval for at most two periods, and adds at most two ticks.
    #[test]
    fn set_clock_makes_neither_silence_nor_bursts(
        steps in proptest::collection::vec((1_i64..2000, -100_000_i64..100_000), 1..12),
        every in prop_oneof![Just(10_i64), Just(60), Just(600)],
    ) {
        let expression = match every {
            10 => "*/10 * * * * *",
            60 => "* * * * *",
            _ => "*/10 * * * *",
        };
        let mut clocks = Clocks::new();
        clocks.check(expression);
        let mut ticks = vec![0];
        let count = steps.len();
        for (wait, step) in steps {
            ticks.extend(clocks.run(expression, wait).into_iter().map(|(at, _)| at));
            ticks.extend(clocks.set(expression, step).into_iter().map(|(at, _)| at));
        }
        ticks.extend(clocks.run(expression, every * 2).into_iter().map(|(at, _)| at));
        let silence = ticks.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        // Each of several steps in one interval may postpone an occurrence once.
        prop_assert!(silence <= every * 2 * count as i64, "{silence}: {ticks:?}");
        prop_assert!(ticks.len() as i64 <= clocks.at / every + 2 * count as i64 + 1, "{ticks:?}");
    }
}

proptest! {
    /// A process that ends and is replaced at any moments changes none of the occurrences.
    #[cfg(feature = "journal")]
    #[test]
    fn restored_schedules_occur_as_if_nothing_had_ended(
        ends in proptest::collection::vec(1..90_i64, 0..6),
        expression in prop::sample::select(vec!["*/7 * * * * *", "13,40 * * * * *", "0 * * * * *"]),
    ) {
        let (mut whole, mut broken) = (Clocks::new(), Clocks::new());
        prop_assert!(!whole.check(expression) && !broken.check(expression));
        let mut found = Vec::new();
        for seconds in &ends {
            found.extend(broken.run(expression, *seconds));
            broken.schedules = Schedules::restored(broken.schedules.rows());
            // The first reaction of a restored Flow.
            broken.reaction += 1;
            prop_assert!(!broken.check(expression));
        }
        prop_assert_eq!(whole.run(expression, ends.iter().sum()), found);
    }

    /// Occurrences while there is no process for more than a minute count as one, when the next process begins.
    #[cfg(feature = "journal")]
    #[test]
    fn occurrences_without_a_process_count_as_one(away in 90..5000_i64) {
        let mut clocks = Clocks::new();
        prop_assert!(!clocks.check("*/10 * * * * *"));
        clocks.run("*/10 * * * * *", 25);
        clocks.schedules = Schedules::restored(clocks.schedules.rows());
        (clocks.at, clocks.wall) = (clocks.at + away, clocks.wall + away);
        prop_assert_eq!(clocks.react("*/10 * * * * *").len(), 1);
        prop_assert_eq!(clocks.run("*/10 * * * * *", 10).len(), 1);
    }
}
