//! Messages that a Work sends to itself later, and Works that only handle messages.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Timer, Value};
use tokio::time::Instant;

use crate::support::{one, paused, wherever_it_runs};

/// The timers that a [`Clock`] sets when it starts.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
enum Plan {
    #[default]
    Nothing,
    /// One message after so many milliseconds.
    After(u64),
    /// A message every so many milliseconds, whose handler takes so many.
    Every(u64, u64),
    /// A message after 100 ms, while another handler executes that cancels it then.
    Cancelled,
    /// As `After`, and the incarnation fails before.
    Failing(u64),
}

/// A Work that notes when its messages arrive, in milliseconds since it started.
#[derive(Default, Serialize, Deserialize)]
struct Clock {
    plan: Plan,
    arrived: Vec<u64>,
    starts: u32,
    is_over: bool,
    #[serde(skip)]
    began: Option<Instant>,
    #[serde(skip)]
    timer: Option<Timer>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Tick {
    takes: u64,
}

/// Ends the test from within the Work.
#[derive(Serialize, Deserialize)]
struct Over;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

impl Clock {
    fn planned(plan: Plan) -> WorkRef<Self> {
        WorkRef::from(Self { plan, ..Self::default() })
    }
}

impl Work for Clock {
    type Input = ();

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.began = Some(Instant::now());
        self.starts += 1;
        match self.plan {
            Plan::Nothing => {}
            Plan::After(delay) => drop(cx.notify_after(ms(delay), Tick { takes: 0 })),
            Plan::Every(period, takes) => drop(cx.notify_every(ms(period), Tick { takes })),
            Plan::Cancelled => {
                self.timer = Some(cx.notify_after(ms(100), Tick { takes: 0 }));
                // Its handler has the Work until 200 ms.
                cx.notify_after(ms(50), Over);
            }
            Plan::Failing(delay) if self.starts == 1 => drop(cx.notify_after(ms(delay), Tick { takes: 0 })),
            Plan::Failing(_) => drop(cx.notify_after(ms(1000), Over)),
        }
        Ok(())
    }

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        cx.sleep(self, ms(50)).await?;
        assert!(self.starts > 1, "the first incarnation fails");
        Ok(())
    }
}

impl Handle<Tick> for Clock {
    type Reply = ();

    async fn handle(&mut self, tick: Tick, cx: &mut WorkContext<Self>) {
        let passed = self.began.map(|began| began.elapsed().as_millis() as u64);
        self.arrived.extend(passed);
        cx.publish(self);
        let _ = cx.sleep(self, ms(tick.takes)).await;
    }
}

impl Handle<Over> for Clock {
    type Reply = ();

    async fn handle(&mut self, _: Over, cx: &mut WorkContext<Self>) {
        if let Some(timer) = self.timer.take() {
            // The message waits in the mailbox by now.
            let _ = cx.sleep(self, ms(150)).await;
            timer.cancel();
            cx.notify_after(ms(1000), Over);
            return;
        }
        self.is_over = true;
        cx.publish(self);
    }
}

/// Runs a Clock until `is_over`, and returns when its messages have arrived.
fn arrivals(plan: Plan, is_over: fn(&Clock) -> bool) -> Vec<u64> {
    let app = paused(move || {
        one(Clock::planned(plan), move |work, cx| {
            if is_over(work) {
                cx.stop("the clock has gone far enough");
            }
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    arrived(&exit.state)
}

fn arrived(state: &Value) -> Vec<u64> {
    state.get("work.arrived").expect("the Work has a state").decode().unwrap()
}

#[test]
fn timer_sends_its_message_once_after_the_delay() {
    assert_eq!(arrivals(Plan::After(2_000), |clock| !clock.arrived.is_empty()), [2_000]);
}

/// A handler that takes longer than the period does not gather ticks, and those that follow keep to the period.
#[test]
fn repeated_message_waits_for_its_handler() {
    let arrived = arrivals(Plan::Every(100, 350), |clock| clock.arrived.len() == 3);
    assert_eq!(arrived, [100, 500, 900]);
}

#[test]
fn cancelled_timer_withdraws_its_message() {
    assert_eq!(arrivals(Plan::Cancelled, |clock| clock.is_over), Vec::<u64>::new());
}

#[test]
fn timer_ends_with_its_incarnation() {
    let app = paused(|| {
        one(Clock::planned(Plan::Failing(100)).restart(Restart::on_failure()), |work, cx| {
            if work.is_over {
                cx.stop("the second incarnation has waited");
            } else if work.starts < 2 {
                work.run(());
            }
            Ok(())
        })
    });
    let app = app.expect_panic("the first incarnation");
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(arrived(&exit.state), Vec::<u64>::new());
}

/// A counter that only handles messages.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Add(u64);

impl Work for Counter {
    type Input = ();

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Add>();
    }
}

impl Handle<Add> for Counter {
    type Reply = u64;

    async fn handle(&mut self, add: Add, cx: &mut WorkContext<Self>) -> u64 {
        self.count += add.0;
        cx.publish(self);
        self.count
    }
}

/// Messages are handled with and without a run, and a run goes on until the App ends.
#[test]
fn work_without_run_of_its_own_handles_messages() {
    wherever_it_runs(|placement| {
        for has_run in [false, true] {
            let app = TestApp::start(move || {
                one(WorkRef::from(Counter::default()).placed(placement), move |work, cx| {
                    if has_run {
                        work.run(());
                    }
                    if work.count >= 3 {
                        cx.stop("it has counted");
                    } else {
                        let _ = work.addr().try_tell(Add(1));
                    }
                    Ok(())
                })
            });
            app.wait_for_exit().result.unwrap();
        }
    });
}
