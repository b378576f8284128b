//! Messages between Works and from outside: order, capacity, answers, and messages that cannot be delivered.

use std::cell::Cell;
use std::sync::Arc;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Reason, SendError, Stage};
use futures::FutureExt;
use tokio::sync::Notify;

use crate::support::{Gated, GoOn, go_on, one, two, wherever_it_runs};

/// The call in which a Server's run waits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Pastime {
    Sleep,
    Turn,
    Serve,
    ServeForever,
    /// Keeps the thread of control, without serving messages, until the test notifies the [`alarm`] of this number.
    Deaf(u32),
}

/// A Work that answers and records its messages.
#[derive(Default, Serialize, Deserialize)]
struct Server {
    got: Vec<u32>,
    at_work: bool,
    lives: u32,
    #[serde(skip)]
    quit: Arc<Notify>,
}

/// The notification that the deaf run with this number waits for.
fn alarm(number: u32) -> Arc<Notify> {
    static ALARMS: std::sync::Mutex<std::collections::BTreeMap<u32, Arc<Notify>>> =
        std::sync::Mutex::new(std::collections::BTreeMap::new());
    ALARMS.lock().unwrap().entry(number).or_default().clone()
}

/// Returns a number for [`alarm`] that no other test uses.
fn unused() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

impl Work for Server {
    type Input = Pastime;

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.lives += 1;
        Ok(())
    }

    async fn run(&mut self, pastime: Pastime, cx: &mut WorkContext<Self>) -> Result<()> {
        self.at_work = true;
        cx.publish(self);
        let quit = self.quit.clone();
        match pastime {
            Pastime::Sleep => cx.sleep(self, Duration::from_secs(3600)).await?,
            Pastime::Turn => loop {
                cx.turn(self).await?;
            },
            Pastime::Serve => cx.serve(self, async move { quit.notified().await }).await?,
            Pastime::ServeForever => {
                cx.serve_forever(self).await?;
            }
            Pastime::Deaf(number) => alarm(number).notified().await,
        }
        self.at_work = false;
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Put(u32);

impl Handle<Put> for Server {
    type Reply = u32;

    async fn handle(&mut self, Put(number): Put, cx: &mut WorkContext<Self>) -> u32 {
        self.got.push(number);
        cx.publish(self);
        2 * number
    }
}

/// A message whose handler panics.
#[derive(Debug, Serialize, Deserialize)]
struct Poison;

impl Handle<Poison> for Server {
    type Reply = ();

    async fn handle(&mut self, Poison: Poison, _cx: &mut WorkContext<Self>) {
        panic!("poisoned");
    }
}

/// Starts a Server whose run does this, or that is idle.
fn serve(
    pastime: Option<Pastime>,
    make: impl FnOnce(WorkRef<Server>) -> WorkRef<Server> + Send + 'static,
) -> TestApp {
    let app = TestApp::start(move || {
        one(make(WorkRef::from(Server::default())), move |work, _| {
            if let Some(pastime) = pastime {
                work.run(pastime);
            }
            Ok(())
        })
    });
    if pastime.is_some() {
        app.wait_for_state("work.at_work", |at_work| *at_work);
    }
    app
}

#[test]
fn an_idle_work_answers() {
    wherever_it_runs(|placement| {
        let app = serve(None, move |work| work.placed(placement));
        assert_eq!(app.block_on(app.work::<Server>("work").ask(Put(21))).unwrap(), 42);
        app.wait_for_state("work.got", |got: &Vec<u32>| *got == [21]);
        app.stop().result.unwrap();
    });
}

#[test]
fn a_run_answers_while_it_sleeps_takes_turns_and_serves() {
    wherever_it_runs(|placement| {
        for pastime in [Pastime::Sleep, Pastime::Turn, Pastime::Serve, Pastime::ServeForever] {
            let app = serve(Some(pastime), move |work| work.placed(placement));
            let server = app.work::<Server>("work");
            assert_eq!(app.block_on(server.ask(Put(1))).unwrap(), 2, "{pastime:?}");
            assert_eq!(app.block_on(server.ask(Put(2))).unwrap(), 4, "{pastime:?}");
            assert_eq!(app.status().works["work"].status.stage, Stage::Running);
            app.stop().result.unwrap();
        }
    });
}

#[test]
fn a_run_that_takes_no_turns_is_not_interrupted_and_the_message_waits() {
    wherever_it_runs(|placement| {
        let number = unused();
        let app = serve(Some(Pastime::Deaf(number)), move |work| work.placed(placement));
        let server = app.work::<Server>("work");
        app.block_on(server.tell(Put(5))).unwrap();
        assert_eq!(server.waiting(), 1);
        assert!(app.wait_for_state("work.got", |_: &Vec<u32>| true).is_empty());
        alarm(number).notify_one();
        app.wait_for_state("work.got", |got: &Vec<u32>| *got == [5]);
        assert!(!app.wait_for_state("work.at_work", |_: &bool| true), "the run was over before");
        app.stop().result.unwrap();
    });
}

#[test]
fn messages_of_one_sender_arrive_in_order() {
    wherever_it_runs(|placement| {
        let app = serve(None, move |work| work.placed(placement).mailbox(7));
        let server = app.work::<Server>("work");
        app.block_on(async {
            for number in 0..1_000 {
                match number % 3 {
                    0 => drop(server.ask(Put(number)).await.unwrap()),
                    _ => server.tell(Put(number)).await.unwrap(),
                }
            }
        });
        let got = app.wait_for_state("work.got", |got: &Vec<u32>| got.len() == 1_000);
        assert_eq!(got, (0..1_000).collect::<Vec<_>>());
        app.stop().result.unwrap();
    });
}

#[test]
fn a_full_mailbox_refuses_with_the_message_and_a_remedy() {
    wherever_it_runs(|placement| {
        let number = unused();
        let app = serve(Some(Pastime::Deaf(number)), move |work| work.placed(placement).mailbox(2));
        let server = app.work::<Server>("work");
        server.try_tell(Put(1)).unwrap();
        server.try_tell(Put(2)).unwrap();
        let error = server.try_tell(Put(3)).unwrap_err();
        let text = error.to_string();
        for part in ["`work`", "2 messages", "tell(…).await", ".mailbox(…)"] {
            assert!(text.contains(part), "no {part} in: {text}");
        }
        assert!(matches!(&error, SendError::Full { capacity: 2, .. }));
        assert_eq!(error.into_message().0, 3);
        alarm(number).notify_one();
        app.wait_for_state("work.got", |got: &Vec<u32>| *got == [1, 2]);
        app.stop().result.unwrap();
    });
}

#[test]
fn a_sender_waits_for_room_and_keeps_its_place_and_one_that_gives_up_is_not_heard() {
    wherever_it_runs(|placement| {
        let number = unused();
        let app = serve(Some(Pastime::Deaf(number)), move |work| work.placed(placement).mailbox(1));
        let server = app.work::<Server>("work");
        app.block_on(async {
            server.tell(Put(1)).await.unwrap();
            let mut second = Box::pin(server.tell(Put(2)));
            let mut given_up = Box::pin(server.tell(Put(3)));
            let mut fourth = Box::pin(server.tell(Put(4)));
            for waiting in [&mut second, &mut given_up, &mut fourth] {
                assert!(waiting.now_or_never().is_none(), "there is no room");
            }
            drop(given_up);
            assert!(server.try_tell(Put(5)).is_err(), "nobody overtakes those that wait");
            alarm(number).notify_one();
            // Polled in the other order, so that only the mailbox can keep the order.
            let (fourth, second) = tokio::join!(fourth, second);
            fourth.unwrap();
            second.unwrap();
        });
        app.wait_for_state("work.got", |got: &Vec<u32>| *got == [1, 2, 4]);
        app.stop().result.unwrap();
    });
}

#[test]
fn an_answer_that_does_not_come_in_time_is_a_timeout_that_names_the_work() {
    let number = unused();
    let app = serve(Some(Pastime::Deaf(number)), |work| work);
    let error =
        app.block_on(app.work::<Server>("work").ask(Put(1)).timeout(Duration::from_millis(1))).unwrap_err();
    assert!(matches!(error, AskError::Timeout { .. }));
    assert!(error.to_string().contains("work `work` did not answer within 1ms"), "{error}");
    alarm(number).notify_one();
    app.stop().result.unwrap();
}

#[test]
fn a_question_that_finds_no_room_in_time_is_never_heard() {
    let number = unused();
    let app = serve(Some(Pastime::Deaf(number)), |work| work.mailbox(1));
    let server = app.work::<Server>("work");
    server.try_tell(Put(1)).unwrap();
    app.block_on(server.ask(Put(2)).timeout(Duration::from_millis(1))).unwrap_err();
    alarm(number).notify_one();
    assert_eq!(app.block_on(server.ask(Put(3))).unwrap(), 6);
    assert_eq!(app.wait_for_state("work.got", |got: &Vec<u32>| got.len() == 2), [1, 3]);
    app.stop().result.unwrap();
}

#[test]
fn a_handler_that_panics_fails_the_asker_and_the_work() {
    wherever_it_runs(|placement| {
        let app = serve(None, move |work| work.placed(placement).on_error(OnError::Capture));
        let app = app.expect_panic("poisoned");
        let error = app.block_on(app.work::<Server>("work").ask(Poison)).unwrap_err();
        assert!(matches!(&error, AskError::Failed { path, .. } if path == "work"), "{error}");
        let failed = app.wait_for_stage("work", Stage::Failed);
        assert_eq!(failed.status.reason, Some(Reason::Panic));
        assert!(failed.status.message.unwrap().contains("poisoned"));
        app.stop().result.unwrap();
    });
}

#[test]
fn messages_that_wait_survive_the_panic_of_the_one_before_them() {
    wherever_it_runs(|placement| {
        let number = unused();
        let app = serve(Some(Pastime::Deaf(number)), move |work| {
            let restart = Restart::on_failure().backoff(Duration::ZERO..Duration::ZERO);
            work.placed(placement).restart(restart)
        });
        let app = app.expect_panic("poisoned");
        let server = app.work::<Server>("work");
        for number in 1..=20 {
            server.try_tell(Put(number)).unwrap();
        }
        server.try_tell(Poison).unwrap();
        for number in 21..=40 {
            server.try_tell(Put(number)).unwrap();
        }
        alarm(number).notify_one();
        // The address is valid for the next incarnation as well.
        assert_eq!(app.block_on(server.ask(Put(41))).unwrap(), 82);
        let got = app.wait_for_state("work.got", |got: &Vec<u32>| got.len() == 41);
        assert_eq!(got, (1..=41).collect::<Vec<_>>());
        assert_eq!(app.wait_for_state("work.lives", |_: &u32| true), 2);
        app.stop().result.unwrap();
    });
}

#[test]
fn a_message_to_a_stopped_work_comes_back() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Server::default()).placed(placement), |work, _| {
                if work.got == [1] {
                    work.stop();
                }
                Ok(())
            })
        });
        let server = app.work::<Server>("work");
        app.block_on(server.tell(Put(1))).unwrap();
        app.wait_for_work("work", |work| !work.is_up);
        let error = server.try_tell(Put(2)).unwrap_err();
        assert!(error.to_string().contains("work `work` was stopped"), "{error}");
        assert_eq!(error.into_message().0, 2);
        assert_eq!(app.block_on(server.tell(Put(3))).unwrap_err().into_message().0, 3);
        match app.block_on(server.ask(Put(4))).unwrap_err() {
            AskError::NotHandled(error) => assert_eq!(error.into_message().0, 4),
            other => panic!("{other}"),
        }
        app.stop().result.unwrap();
    });
}

#[test]
fn questions_that_wait_when_the_work_stops_come_back_unheard() {
    let number = unused();
    let app = TestApp::start(move || {
        two(WorkRef::from(Server::default()), WorkRef::from(Gated::default()), move |a, b, _| {
            a.run(Pastime::Deaf(number));
            b.run(1).finished()?;
            a.stop();
            Ok(())
        })
    });
    app.wait_for_state("a.at_work", |at_work| *at_work);
    let server = app.work::<Server>("a");
    let gated = app.work::<Gated>("b");
    app.block_on(async {
        let mut question = Box::pin(server.ask(Put(8)));
        assert!((&mut question).now_or_never().is_none());
        gated.tell(GoOn).await.unwrap();
        match question.await.unwrap_err() {
            AskError::NotHandled(error) => assert_eq!(error.into_message().0, 8),
            other => panic!("{other}"),
        }
    });
    alarm(number).notify_one();
    app.wait_for_work("a", |work| !work.is_up);
    assert!(app.wait_for_state("a.got", |_: &Vec<u32>| true).is_empty());
    app.stop().result.unwrap();
}

/// A Work of another type that sends messages to a Server.
#[derive(Default, Serialize, Deserialize)]
struct Client {
    answers: Vec<u32>,
}

impl Work for Client {
    type Input = (WorkAddr<Server>, u32);

    async fn run(&mut self, (server, number): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        server.tell(Put(number)).await?;
        self.answers.push(server.ask(Put(number + 1)).await?);
        Ok(())
    }
}

#[test]
fn an_address_is_an_input_by_which_works_talk_to_each_other() {
    for (a, b) in [
        (Placement::Thread, Placement::Thread),
        (Placement::Thread, Placement::Pool),
        (Placement::Pool, Placement::Pool),
    ] {
        let app = TestApp::start(move || {
            let works =
                (WorkRef::from(Server::default()).placed(a), WorkRef::from(Client::default()).placed(b));
            two(works.0, works.1, |server, client, cx| {
                client.run((server.addr(), 10)).finished()?;
                client.run((server.addr(), 20)).finished()?;
                client.run((server.addr(), 10)).finished()?;
                cx.stop("the client has its answers");
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.state.get("b.answers").unwrap().decode::<Vec<u32>>().unwrap(), [22, 42]);
        assert_eq!(exit.state.get("a.got").unwrap().decode::<Vec<u32>>().unwrap(), [10, 11, 20, 21]);
    }
}

#[test]
fn an_address_is_good_after_the_work_was_stopped_and_started_again() {
    let app = TestApp::start(|| {
        two(WorkRef::from(Server::default()), WorkRef::from(Gated::default()), |a, b, _| {
            if a.got == [1] && a.lives == 1 {
                a.stop();
                b.run(1).finished()?;
                a.start();
            }
            Ok(())
        })
    });
    let server = app.work::<Server>("a");
    app.block_on(server.tell(Put(1))).unwrap();
    app.wait_for_work("a", |work| !work.is_up);
    go_on(&app, "b");
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    assert_eq!(app.block_on(server.ask(Put(2))).unwrap(), 4);
    app.wait_for_state("a.got", |got: &Vec<u32>| *got == [1, 2]);
    app.stop().result.unwrap();
}

#[test]
fn a_serialised_address_leads_to_its_work_and_an_unknown_one_nowhere() {
    let app = serve(None, |work| work);
    let text = serde_json::to_string(&app.work::<Server>("work")).unwrap();
    let again: WorkAddr<Server> = serde_json::from_str(&text).unwrap();
    assert_eq!(app.block_on(again.ask(Put(4))).unwrap(), 8);
    let error = serde_json::from_str::<WorkAddr<Gated>>(&text).unwrap_err().to_string();
    assert!(error.contains("work `work` is not a") && error.contains("Gated"), "{error}");
    let nobody: WorkAddr<Server> = serde_json::from_str(&text.replace("work", "nobody")).unwrap();
    let error = nobody.try_tell(Put(6)).unwrap_err();
    assert!(matches!(&error, SendError::Unknown { path, .. } if path == "nobody"), "{error}");
    assert_eq!(error.into_message().0, 6);
    app.stop().result.unwrap();
}

#[test]
fn an_address_that_outlives_its_app_gives_the_message_back() {
    let app = serve(None, |work| work);
    let server = app.work::<Server>("work");
    app.stop().result.unwrap();
    let error = server.try_tell(Put(5)).unwrap_err();
    assert!(matches!(error, SendError::Stopped { .. }), "{error}");
    assert_eq!(error.into_message().0, 5);
}

/// A message that is `Send` and not `Sync`.
#[derive(Serialize, Deserialize)]
struct Tally(Cell<u32>);

impl Handle<Tally> for Server {
    type Reply = Cell<u32>;

    async fn handle(&mut self, Tally(number): Tally, _cx: &mut WorkContext<Self>) -> Cell<u32> {
        number.set(2 * number.get());
        number
    }
}

/// A Work that asks with messages that are not `Sync`.
#[derive(Default, Serialize, Deserialize)]
struct Teller {
    answers: Vec<u32>,
}

impl Work for Teller {
    type Input = (WorkAddr<Server>, u32);

    async fn run(&mut self, (server, number): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.answers.push(server.ask(Tally(Cell::new(number))).await?.get());
        server.tell(Tally(Cell::new(number))).await?;
        Ok(())
    }
}

/// `?` passes the errors of `ask` and `tell` on for messages that are not `Sync`; the message can be taken from them.
#[test]
fn error_of_a_message_that_is_not_sync_passes_by_the_question_mark() {
    let app = TestApp::start(|| {
        let works = (WorkRef::from(Server::default()), WorkRef::from(Teller::default()));
        two(works.0, works.1, |server, teller, cx| {
            teller.run((server.addr(), 4)).finished()?;
            cx.stop("it has been answered");
            Ok(())
        })
    });
    let server = app.work::<Server>("a");
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.state.get("b.answers").unwrap().decode::<Vec<u32>>().unwrap(), [8]);

    let asked = || -> Result<u32> { Ok(server.ask(Tally(Cell::new(7))).now_or_never().unwrap()?.get()) };
    match asked().unwrap_err().downcast::<AskError<Tally>>() {
        Ok(AskError::NotHandled(error @ SendError::Stopped { .. })) => {
            assert_eq!(error.into_message().0.get(), 7);
        }
        other => panic!("{other:?}"),
    }
    let told = || -> Result<()> { Ok(server.try_tell(Tally(Cell::new(9)))?) };
    let error = told().unwrap_err().downcast::<SendError<Tally>>().unwrap();
    assert_eq!(error.into_message().0.get(), 9);
}

#[test]
fn a_flow_can_tell_its_works_something() {
    let app = TestApp::start(|| {
        one(WorkRef::from(Server::default()), |work, cx| {
            if work.got.is_empty() {
                work.try_tell(Put(3))?;
            } else {
                cx.stop("it has arrived");
            }
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.state.get("work.got").unwrap().decode::<Vec<u32>>().unwrap()[0], 3);
}

#[derive(Serialize, Children)]
struct Crowd {
    servers: Vec<WorkRef<Server>>,
    /// Channel by which the test gets the addresses.
    #[serde(skip)]
    addresses: Option<tokio::sync::oneshot::Sender<Vec<WorkAddr<Server>>>>,
}

impl Flow for Crowd {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        if let Some(addresses) = self.addresses.take() {
            // The receiver is gone when the test has failed.
            let _ = addresses.send(self.servers.iter().map(WorkRef::addr).collect());
        }
        Ok(())
    }
}

#[test]
fn ten_thousand_pooled_works_answer_one_question_each() {
    let (addresses, found) = tokio::sync::oneshot::channel();
    let app = TestApp::start(|| Crowd {
        servers: (0..10_000).map(|_| WorkRef::from(Server::default()).placed(Placement::Pool)).collect(),
        addresses: Some(addresses),
    })
    .limit(Duration::from_secs(120));
    app.block_on(async {
        for (number, server) in (0..).zip(found.await.unwrap()) {
            assert_eq!(server.ask(Put(number)).await.unwrap(), 2 * number);
        }
    });
    app.stop().result.unwrap();
}
