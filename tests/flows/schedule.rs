//! Cron schedules, under a clock that jumps from one deadline to the next.

use flowright::prelude::*;
use tokio::time::Instant;

use crate::support::*;

/// Milliseconds since the first reaction at which a schedule was true.
type Times = Vec<u64>;

/// Two schedules, and a Flow that reacts far more often than they come.
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
    // The first and the last one depend on the moment of the minute at which the test began.
    assert!((59..=61).contains(&ten.len()) && gaps(&ten).iter().all(|gap| *gap == 10), "{ten:?}");
    assert!((39..=41).contains(&fifteen.len()) && gaps(&fifteen).iter().all(|gap| *gap == 15), "{fifteen:?}");
    assert_eq!(exit.state.to_json()["disagreements"], 0, "one reaction gets one answer");
    assert!(exit.status.reactions > 800);
}

/// Leaves `react` early whenever the schedule wakes it, and asks only when it is woken by itself.
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
            return Err(Interrupt::Pending);
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
        &["flow `below`", "`every now and then` is no schedule", "6 with seconds", "hourly"],
    );
}
