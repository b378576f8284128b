//! Handlers that wait: their Work handles no other message meanwhile, and they return when it is asked to stop.

use std::future::pending;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Stage};

use crate::support::wherever_it_runs;

/// The call in which a handler waits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Way {
    Sleep(Duration),
    Turn,
    Serve(Duration),
    Forever,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Task {
    Serve,
    /// Serve for this time, then drop the handler in progress, then serve again.
    Interrupted(Duration),
}

#[derive(Default, Serialize, Deserialize)]
struct Waiter {
    /// The messages whose handlers began, in order.
    begun: Vec<u32>,
    ended: Vec<u32>,
    most_at_once: usize,
    stopped: Vec<u32>,
    is_interrupted: bool,
}

impl Work for Waiter {
    type Input = Task;

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        if let Task::Interrupted(after) = task {
            let _ = tokio::time::timeout(after, cx.serve(self, pending::<()>())).await;
            self.is_interrupted = true;
            cx.publish(self);
        }
        cx.serve_forever(self).await?;
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Wait(u32, Way);

impl Handle<Wait> for Waiter {
    type Reply = ();

    async fn handle(&mut self, Wait(number, way): Wait, cx: &mut WorkContext<Self>) {
        self.begun.push(number);
        self.most_at_once = self.most_at_once.max(self.begun.len() - self.ended.len());
        cx.publish(self);
        let waited = match way {
            Way::Sleep(time) => cx.sleep(self, time).await,
            Way::Turn => cx.turn(self).await,
            Way::Serve(time) => cx.serve(self, tokio::time::sleep(time)).await,
            Way::Forever => cx.serve_forever(self).await.map(drop),
        };
        if waited.is_err() {
            self.stopped.push(number);
        }
        self.ended.push(number);
    }
}

/// A message whose handler asks another Work, within this time.
#[derive(Debug, Serialize, Deserialize)]
struct Via(WorkAddr<Waiter>, Option<WorkAddr<Waiter>>, Duration);

impl Handle<Via> for Waiter {
    type Reply = std::result::Result<(), String>;

    async fn handle(&mut self, Via(other, back, within): Via, _: &mut WorkContext<Self>) -> Self::Reply {
        let answer = match back {
            Some(back) => other.ask(Via(back, None, within)).timeout(within).await,
            None => other.ask(Wait(1, Way::Turn)).timeout(within).await.map(Ok).map_err(|error| {
                let said = error.to_string();
                match error {
                    AskError::Timeout { .. } => AskError::Failed { path: said, why: "" },
                    other => panic!("{other}"),
                }
            }),
        };
        answer.map_err(|error| error.to_string())?
    }
}

#[derive(Serialize, Children)]
struct Pair {
    a: WorkRef<Waiter>,
    b: WorkRef<Waiter>,
    #[serde(skip)]
    task: Option<Task>,
    #[serde(skip)]
    stop_when_begun: bool,
}

impl Flow for Pair {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        if self.stop_when_begun && !self.a.begun.is_empty() {
            self.a.stop();
        } else if let Some(task) = self.task {
            self.a.run(task);
        }
        Ok(())
    }
}

fn start(placement: Placement, task: Option<Task>, stop_when_begun: bool) -> TestApp {
    let app = TestApp::start(move || {
        let work = || WorkRef::from(Waiter::default()).placed(placement);
        Pair { a: work(), b: work(), task, stop_when_begun }
    });
    match task {
        Some(_) => app.wait_for_stage("a", Stage::Running),
        None => app.wait_for_work("a", |a| a.is_up),
    };
    app
}

/// A thousand messages whose handlers all wait are handled one after the other, in order, whether a run serves them or
/// the Work is idle.
#[test]
fn handlers_that_wait_do_not_nest() {
    const MESSAGES: u32 = 1000;
    wherever_it_runs(|placement| {
        for task in [None, Some(Task::Serve)] {
            let app = start(placement, task, false);
            let a = app.work::<Waiter>("a");
            app.block_on(async {
                for number in 0..MESSAGES {
                    let way = match number % 3 {
                        0 => Way::Sleep(Duration::from_micros(100)),
                        1 => Way::Turn,
                        _ => Way::Serve(Duration::from_micros(100)),
                    };
                    a.tell(Wait(number, way)).await.expect("the Work runs");
                }
                a.ask(Wait(MESSAGES, Way::Turn)).await.expect("the Work answers");
            });
            let exit = app.stop();
            let read =
                |path: &str| exit.state.get(path).expect("the state has the field").decode::<Vec<u32>>();
            let all: Vec<_> = (0..=MESSAGES).collect();
            assert_eq!(
                (read("a.begun"), read("a.ended")),
                (Ok(all.clone()), Ok(all)),
                "{placement}, {task:?}"
            );
            let most = exit.state.get("a.most_at_once").and_then(|most| most.decode().ok());
            assert_eq!(most, Some(1_usize), "{placement}, {task:?}");
        }
    });
}

/// A handler that waits, in whichever call, ends with `Stopped` when its Work is asked to stop, and the Work stops in
/// good order.
#[test]
fn handlers_that_wait_hear_a_stop() {
    let long = Duration::from_secs(3600);
    wherever_it_runs(|placement| {
        for task in [None, Some(Task::Serve)] {
            for way in [Way::Sleep(long), Way::Serve(long), Way::Forever] {
                let app = start(placement, task, true);
                let a = app.work::<Waiter>("a");
                app.block_on(async {
                    a.tell(Wait(7, way)).await.expect("the Work runs");
                    // No other message is handled meanwhile.
                    let _ = a.tell(Wait(8, Way::Turn)).await;
                });
                app.wait_for_work("a", |a| !a.is_up);
                app.wait_for_state("a.stopped", |stopped: &Vec<u32>| *stopped == [7]);
                app.wait_for_state("a.begun", |begun: &Vec<u32>| *begun == [7]);
                app.stop().result.expect("the App ends without an error");
            }
        }
    });
}

/// Two Works whose handlers ask each other within less time than a cycle takes to be found wait until the first timeout
/// has passed; the error names both and calls it a deadlock. Both Works go on afterwards.
#[test]
fn handlers_that_ask_each_other_end_at_the_deadline() {
    wherever_it_runs(|placement| {
        let app = start(placement, None, false);
        let (a, b) = (app.work::<Waiter>("a"), app.work::<Waiter>("b"));
        let within = Duration::from_millis(80);
        let said = app.block_on(a.ask(Via(b.clone(), Some(a.clone()), within))).expect("the Work answers");
        let said = said.expect_err("nobody can answer");
        for part in ["did not answer within 80ms", "`a`", "`b`", "deadlock"] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
        for work in [a, b] {
            app.block_on(work.ask(Wait(9, Way::Turn))).expect("the Work goes on");
        }
    });
}

/// The code from which a Work sends messages to itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Own {
    Handler,
    Run,
    RunThatServes,
    RunBesideService,
    OnStart,
    OnStop,
}

#[derive(Default, Serialize, Deserialize)]
struct Selfish {
    from: Option<Own>,
    /// Result of a question to itself; `told` is the result of sending more messages than there is room for.
    asked: Option<String>,
    told: Option<String>,
    handled: u32,
}

/// Capacity of its mailbox.
const ROOM: usize = 8;

fn said<T>(result: std::result::Result<T, impl std::fmt::Display>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "ok".to_owned())
}

impl Selfish {
    async fn send(addr: WorkAddr<Self>) -> (String, String) {
        let asked = said(addr.ask(Note).await);
        let mut told = "ok".to_owned();
        for _ in 0..=2 * ROOM {
            told = said(addr.tell(Note).await);
            if told != "ok" {
                break;
            }
        }
        (asked, told)
    }

    async fn note(&mut self, own: Own, cx: &mut WorkContext<Self>) -> Result<()> {
        let sent = Self::send(cx.addr());
        let (asked, told) = match own {
            Own::RunThatServes => cx.serve(self, sent).await?,
            Own::RunBesideService => {
                tokio::select! {
                    sent = sent => sent,
                    stopped = cx.serve_forever(self) => return stopped.map(drop).map_err(Error::from),
                }
            }
            _ => sent.await,
        };
        (self.asked, self.told) = (Some(asked), Some(told));
        cx.publish(self);
        Ok(())
    }
}

impl Work for Selfish {
    type Input = Own;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        if self.from == Some(Own::OnStart) {
            self.note(Own::OnStart, cx).await?;
        }
        Ok(())
    }

    async fn run(&mut self, own: Own, cx: &mut WorkContext<Self>) -> Result<()> {
        self.note(own, cx).await
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        if self.from == Some(Own::OnStop) {
            self.note(Own::OnStop, cx).await?;
        }
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Note;

impl Handle<Note> for Selfish {
    type Reply = ();

    async fn handle(&mut self, _: Note, _: &mut WorkContext<Self>) {
        self.handled += 1;
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Begin;

impl Handle<Begin> for Selfish {
    type Reply = ();

    async fn handle(&mut self, _: Begin, cx: &mut WorkContext<Self>) {
        self.note(Own::Handler, cx).await.expect("the Work is not stopped");
    }
}

#[derive(Serialize, Children)]
struct Alone {
    work: WorkRef<Selfish>,
}

impl Flow for Alone {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        match self.work.from {
            Some(own @ (Own::Run | Own::RunThatServes | Own::RunBesideService)) => drop(self.work.run(own)),
            Some(Own::OnStop) if self.work.has_started() => {}
            Some(Own::OnStop) => self.work.stop(),
            _ => {}
        }
        Ok(())
    }
}

/// A Work that asks itself, or has no room for a message to itself, gets an error at once where it handles no messages;
/// where it handles some, it gets an answer.
#[test]
fn work_that_waits_for_itself_is_told_at_once() {
    use Own::*;
    wherever_it_runs(|placement| {
        for own in [Handler, Run, RunThatServes, RunBesideService, OnStart, OnStop] {
            let app = TestApp::start(move || {
                let work = Selfish { from: Some(own), ..Selfish::default() };
                Alone { work: WorkRef::from(work).placed(placement).mailbox(ROOM) }
            });
            if own == Handler {
                app.block_on(app.work::<Selfish>("work").tell(Begin)).expect("the Work runs");
            }
            let seen = app.wait_for_state("work", |work: &Selfish| work.asked.is_some());
            let (asked, told) = (seen.asked.unwrap_or_default(), seen.told.unwrap_or_default());
            if matches!(own, RunThatServes | RunBesideService) {
                assert_eq!((&*asked, &*told), ("ok", "ok"), "{placement}, {own:?}");
            } else {
                for said in [asked, told] {
                    // The mailbox of a Work that stops is already closed.
                    let is_told = said.contains("`work` waits for itself")
                        || own == OnStop && said.contains("`work` was stopped");
                    assert!(is_told, "{placement}, {own:?}: {said}");
                }
            }
        }
    });
}

/// A run that drops the handler that it serves, while that waits, can serve again.
#[test]
fn run_serves_on_after_a_handler_was_dropped() {
    wherever_it_runs(|placement| {
        let app = start(placement, Some(Task::Interrupted(Duration::from_millis(50))), false);
        let a = app.work::<Waiter>("a");
        let dropped = app.block_on(a.ask(Wait(1, Way::Forever)));
        assert!(dropped.is_err(), "its handler was dropped");
        app.wait_for_state("a.is_interrupted", |is_interrupted: &bool| *is_interrupted);
        app.block_on(a.ask(Wait(2, Way::Turn))).expect("the Work serves");
        app.block_on(a.ask(Wait(3, Way::Sleep(Duration::from_millis(1))))).expect("the Work serves");
    });
}
