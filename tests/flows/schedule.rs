//! Cron schedules, under a clock that jumps from one deadline to the next.

use std::time::SystemTime;

use flowright::prelude::*;
use flowright::testing::{TestApp, WallClock};
use tokio::time::Instant;

use crate::support::*;

/// Times at which a schedule was true, in milliseconds since the first reaction.
type Times = Vec<u64>;

/// A Flow with two schedules that reacts far more often than these fire.
#[derive(Default, Serialize, Children)]
struct Metronome {
    ten: Times,
    fifteen: Times,
    disagreements: u32,
    #[serde(skip)]
    start: Option<Instant>,
}

impl Flow for Metronome {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let now = elapsed(&mut self.start);
        let ten = cx.schedule("*/10 * * * * *");
        if ten {
            self.ten.push(now);
        }
        if cx.schedule("*/15 * * * * *") {
            self.fifteen.push(now);
        }
        if cx.schedule("*/10 * * * * *") != ten {
            self.disagreements += 1;
        }
        if now >= 600_000 {
            cx.stop("ten minutes are over");
        }
        cx.wake_in(Duration::from_millis(700));
        Ok(())
    }
}

fn elapsed(start: &mut Option<Instant>) -> u64 {
    start.get_or_insert_with(Instant::now).elapsed().as_millis().try_into().unwrap()
}

fn gaps(times: &Times) -> Vec<u64> {
    // Deadlines are rounded up to whole milliseconds.
    times.windows(2).map(|pair| (pair[1] - pair[0] + 500) / 1000).collect()
}

#[test]
fn a_schedule_is_true_once_for_each_occurrence_and_schedules_do_not_mix() {
    let exit = paused(Metronome::default).wait_for_exit();
    exit.result.unwrap();
    let ten: Times = exit.state.get("ten").unwrap().decode().unwrap();
    let fifteen: Times = exit.state.get("fifteen").unwrap().decode().unwrap();
    // The number of occurrences depends on the moment of the minute at which the test began.
    assert!((59..=61).contains(&ten.len()) && gaps(&ten).iter().all(|gap| *gap == 10), "{ten:?}");
    assert!((39..=41).contains(&fifteen.len()) && gaps(&fifteen).iter().all(|gap| *gap == 15), "{fifteen:?}");
    assert_eq!(exit.state.to_json()["disagreements"], 0, "one reaction gets one answer");
    assert!(exit.status.reactions > 800);
}

/// A Flow that leaves `react` early in reactions that the schedule causes, and queries the schedule only in those that
/// it requested itself.
#[derive(Default, Serialize, Children)]
struct Distracted {
    times: Times,
    distracted: bool,
    #[serde(skip)]
    start: Option<Instant>,
}

impl Flow for Distracted {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let now = elapsed(&mut self.start);
        self.distracted = !self.distracted && cx.reaction() > 1;
        if self.distracted {
            cx.wake_in(Duration::from_secs(1));
            return Err(Pending.into());
        }
        if cx.schedule("*/10 * * * * *") {
            self.times.push(now);
        }
        if self.times.len() == 5 {
            cx.stop("five times");
        }
        Ok(())
    }
}

#[test]
fn an_occurrence_that_a_reaction_did_not_get_to_is_due_in_the_next() {
    let exit = paused(Distracted::default).wait_for_exit();
    exit.result.unwrap();
    let times: Times = exit.state.get("times").unwrap().decode().unwrap();
    assert_eq!(gaps(&times), [10; 4]);
    // The first reaction, and two for each occurrence: no polling.
    assert_eq!(exit.status.reactions, 11);
}

#[derive(Default, Serialize, Children)]
struct Misspelt {
    below: FlowRef<MisspeltBelow>,
}

#[derive(Default, Serialize, Children)]
struct MisspeltBelow {}

impl Flow for Misspelt {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

impl Flow for MisspeltBelow {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if cx.schedule("every now and then") {
            cx.stop("never");
        }
        Ok(())
    }
}

#[test]
fn an_expression_that_is_no_schedule_fails_the_flow_and_says_how_to_write_one() {
    let message = error(paused(Misspelt::default).wait_for_exit());
    assert_says(
        &message,
        &["flow `below`", "`every now and then` is not a schedule", "6 with seconds", "hourly"],
    );
}

/// An App whose clocks begin at a date, in seconds since 1970.
fn paused_at(second: u64, make: impl FnOnce(WallClock) -> Night + Send + 'static) -> TestApp {
    let clock = WallClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let app = App::new({
        let clock = clock.clone();
        move || make(clock)
    });
    TestApp::start_app(app.runtime(runtime).wall_clock(clock))
}

/// A Flow with schedules in Berlin, and a clock that is set by some seconds when the App has run for some seconds.
#[derive(Serialize, Children)]
struct Night {
    /// Times at which the schedules were true, in seconds since the start.
    ten_minutes: Times,
    at_half_past_two: Times,
    each_second: u32,
    hours: u64,
    steps: Vec<(u64, i64)>,
    #[serde(skip)]
    clock: WallClock,
    #[serde(skip)]
    start: Option<Instant>,
}

impl Night {
    fn of(hours: u64, steps: &[(u64, i64)], clock: WallClock) -> Self {
        let steps = steps.to_vec();
        Self {
            ten_minutes: vec![],
            at_half_past_two: vec![],
            each_second: 0,
            hours,
            steps,
            clock,
            start: None,
        }
    }
}

impl Flow for Night {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        // Deadlines are rounded up to whole milliseconds.
        let now = (elapsed(&mut self.start) + 500) / 1000;
        if cx.schedule_in("Europe/Berlin", "*/10 * * * *") {
            self.ten_minutes.push(now);
        }
        if cx.schedule_in("Europe/Berlin", "30 2 * * *") {
            self.at_half_past_two.push(now);
        }
        if cx.schedule_in("Europe/Berlin", "* * * * * *") {
            self.each_second += 1;
        }
        if let Some((_, by)) = self.steps.pop_if(|(at, _)| *at <= now) {
            match by {
                0.. => self.clock.set_forward(Duration::from_secs(by.unsigned_abs())),
                _ => self.clock.set_back(Duration::from_secs(by.unsigned_abs())),
            }
        }
        let end = self.hours * 3600;
        if now >= end {
            cx.stop("the night is over");
        }
        cx.wake_in(Duration::from_secs(end - now.min(end)));
        Ok(())
    }
}

fn night(second: u64, hours: u64, steps: &'static [(u64, i64)]) -> (Times, Times, u64) {
    let app = paused_at(second, move |clock| Night::of(hours, steps, clock)).limit(Duration::from_secs(300));
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    let times = |path: &str| exit.state.get(path).unwrap().decode().unwrap();
    let seconds = exit.state.get("each_second").unwrap().decode().unwrap();
    (times("ten_minutes"), times("at_half_past_two"), seconds)
}

const MIDNIGHT_BEFORE_SUMMER: u64 = 1_774_738_800; // 2026-03-29 00:00+01:00
const MIDNIGHT_BEFORE_WINTER: u64 = 1_792_879_200; // 2026-10-25 00:00+02:00

/// At the begin of summer time an interval goes on, and a skipped time fires at 3:00, two hours after midnight.
#[test]
fn spring_skips_no_fixed_time_and_no_interval() {
    let (ten, fixed, seconds) = night(MIDNIGHT_BEFORE_SUMMER, 6, &[]);
    assert_eq!(ten, (1..=36).map(|n| n * 600).collect::<Times>());
    assert_eq!(fixed, [2 * 3600]);
    assert_eq!(seconds, 6 * 3600);
}

/// At the end of summer time an interval goes on, and a repeated time fires only the first time.
#[test]
fn autumn_repeats_no_fixed_time_and_is_not_silent() {
    let (ten, fixed, seconds) = night(MIDNIGHT_BEFORE_WINTER, 6, &[]);
    assert_eq!(ten, (1..=36).map(|n| n * 600).collect::<Times>());
    assert_eq!(fixed, [2 * 3600 + 1800]);
    assert_eq!(seconds, 6 * 3600);
}

/// After 70 minutes the clock is set back by an hour: intervals go on as before, and 2:30 fires an hour later.
#[test]
fn clock_set_back_makes_no_silence() {
    let (ten, fixed, seconds) = night(MIDNIGHT_BEFORE_WINTER, 4, &[(4200, -3600)]);
    assert_eq!(ten, (1..=24).map(|n| n * 600).collect::<Times>());
    assert_eq!(fixed, [3 * 3600 + 1800]);
    assert!((4 * 3600 - 2..=4 * 3600).contains(&seconds), "{seconds}");
}

/// After 65 minutes the clock is set forward to 2:50: the skipped occurrences give one tick at once, and the rest fire
/// earlier.
#[test]
fn clock_set_forward_gives_one_tick_at_once() {
    let (ten, fixed, seconds) = night(MIDNIGHT_BEFORE_WINTER, 2, &[(3900, 6300)]);
    let (before, after) = ((1..=6).map(|n| n * 600), (0..=4).map(|n| 4500 + n * 600));
    assert_eq!(ten, before.chain([3900]).chain(after).collect::<Times>());
    assert_eq!(fixed, [3900]);
    assert!((2 * 3600 - 2..=2 * 3600 + 1).contains(&seconds), "{seconds}");
}

/// A Flow that requests a schedule that is not valid.
#[derive(Default, Serialize, Children)]
struct Impossible {
    zone: Option<&'static str>,
    expression: &'static str,
}

impl Flow for Impossible {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        match self.zone {
            Some(zone) => cx.schedule_in(zone, self.expression),
            None => cx.schedule(self.expression),
        };
        Ok(())
    }
}

#[test]
fn schedule_that_never_occurs_fails_the_flow() {
    let app = paused(|| Impossible { zone: None, expression: "0 0 30 2 *" });
    assert_says(&error(app.wait_for_exit()), &["`0 0 30 2 *` never occurs"]);
}

#[test]
fn schedule_in_an_unknown_zone_fails_the_flow() {
    let app = paused(|| Impossible { zone: Some("Europe/Berln"), expression: "0 9 * * *" });
    let parts = ["`Europe/Berln` is not a time zone", "IANA", "did you mean `Europe/Berlin`?"];
    assert_says(&error(app.wait_for_exit()), &parts);
}
