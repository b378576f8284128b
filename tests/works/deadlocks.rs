//! Works that wait for each other's answers: cycles are told, and what only looks like one is not.

use std::future::pending;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, DEFAULT_ASK_TIMEOUT, Deferred, ReplySender, ServiceRef};

use crate::support::wherever_it_runs;

/// The way in which a Work awaits an answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Way {
    /// Nothing else.
    Plain,
    /// Beside a timer, in `select!`.
    Select,
    /// Beside another answer that never comes, in `join!`.
    Join,
    /// Within another timeout.
    Timeout,
    /// In another task, for which it waits.
    Task,
    /// In another task, for which it does not wait.
    Detached,
    /// Beside a flag, which it polls again and again, as another thread sets it.
    Flag,
    /// As plain, after it has waited for a timer, taken a turn and published.
    AfterOthers,
}

/// A question whose handler asks the first Work of the route to ask the rest of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ask {
    route: Vec<(WorkAddr<Player>, Way)>,
}

/// The names of a cycle, or how an answer came about.
type Told = std::result::Result<String, Vec<String>>;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Player {
    /// Result of the ask of its run.
    told: Option<Told>,
    /// True once the reply to [`Later`] was deferred, and once it has arrived.
    has_deferred: bool,
    is_answered: bool,
    #[serde(skip)]
    kept: Vec<ReplySender<()>>,
}

impl Work for Player {
    /// Whom the run asks, and whether it serves messages meanwhile.
    type Input = (Ask, bool);

    async fn run(&mut self, (ask, serves): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        self.told = Some(match serves {
            true => cx.serve(self, ask.next(Way::Plain)).await?,
            false => ask.next(Way::Plain).await,
        });
        Ok(())
    }
}

/// Longer than a cycle takes to be found.
const LONG: Duration = Duration::from_millis(700);

impl Ask {
    fn of(route: &[(&WorkAddr<Player>, Way)]) -> Self {
        Self { route: route.iter().map(|(work, way)| ((*work).clone(), *way)).collect() }
    }

    /// Asks the first Work of the route in this way.
    async fn next(self, way: Way) -> Told {
        let mut route = self.route;
        if route.is_empty() {
            return Ok("at its end".to_owned());
        }
        let (work, _) = route.remove(0);
        let other = work.clone();
        let ask = async move {
            match work.ask(Ask { route }).await {
                Ok(told) => told,
                Err(AskError::Deadlock { cycle, .. }) => Err(cycle),
                Err(error) => Ok(error.to_string()),
            }
        };
        match way {
            Way::Plain | Way::AfterOthers => ask.await,
            Way::Select => tokio::select! {
                told = ask => told,
                () = tokio::time::sleep(LONG) => Ok("gave up".to_owned()),
            },
            Way::Join => {
                let beside = tokio::time::timeout(LONG, other.ask(Never));
                tokio::select! {
                    (told, _) = async { tokio::join!(ask, beside) } => told,
                    () = tokio::time::sleep(LONG) => Ok("gave up".to_owned()),
                }
            }
            Way::Timeout => tokio::time::timeout(LONG, ask).await.unwrap_or(Ok("gave up".to_owned())),
            Way::Task => {
                let task = tokio::task::spawn_local(ask);
                let stopped = tokio::time::timeout(LONG, task).await;
                stopped.map_or(Ok("gave up".to_owned()), |told| told.expect("it does not panic"))
            }
            Way::Flag => {
                let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
                let set = flag.clone();
                let setter = std::thread::spawn(move || {
                    std::thread::sleep(LONG);
                    set.store(true, std::sync::atomic::Ordering::Release);
                });
                let is_set = std::future::poll_fn(|cx| {
                    if flag.load(std::sync::atomic::Ordering::Acquire) {
                        return std::task::Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                });
                let told = tokio::select! { told = ask => told, () = is_set => Ok("gave up".to_owned()) };
                setter.join().expect("it does not panic");
                told
            }
            Way::Detached => {
                tokio::task::spawn_local(ask);
                Ok("went on".to_owned())
            }
        }
    }
}

impl Handle<Ask> for Player {
    type Reply = Told;

    async fn handle(&mut self, ask: Ask, cx: &mut WorkContext<Self>) -> Told {
        let way = ask.route.first().map_or(Way::Plain, |(_, way)| *way);
        if way == Way::AfterOthers {
            cx.sleep(self, Duration::from_millis(1)).await.map_err(|_| Vec::new())?;
            cx.turn(self).await.map_err(|_| Vec::new())?;
            tokio::select! { () = pending() => {}, () = tokio::time::sleep(Duration::from_millis(1)) => {} }
            cx.publish(self);
        }
        ask.next(way).await
    }
}

/// A question that is never answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Never;

impl Handle<Never> for Player {
    type Reply = Deferred<()>;

    async fn handle(&mut self, _: Never, cx: &mut WorkContext<Self>) -> Deferred<()> {
        let (deferred, reply) = cx.defer();
        self.kept.push(reply);
        deferred
    }
}

/// A question that another task answers after a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Later;

impl Handle<Later> for Player {
    type Reply = Deferred<()>;

    async fn handle(&mut self, _: Later, cx: &mut WorkContext<Self>) -> Deferred<()> {
        let (deferred, reply) = cx.defer();
        self.has_deferred = true;
        cx.publish(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(LONG).await;
            reply.send(());
        });
        deferred
    }
}

/// A question whose handler asks a Work for [`Later`].
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AskLater(WorkAddr<Player>);

impl Handle<AskLater> for Player {
    type Reply = ();

    async fn handle(&mut self, AskLater(work): AskLater, cx: &mut WorkContext<Self>) {
        work.ask(Later).await.expect("it is answered");
        self.is_answered = true;
        cx.publish(self);
    }
}

/// Rotates a cycle, which begins with the Work whose ask has failed, so that it begins with the first by name.
fn from_first(mut cycle: Vec<String>) -> Vec<String> {
    assert!(cycle.len() > 1 && cycle.first() == cycle.last(), "{cycle:?}");
    cycle.pop();
    let first = cycle.iter().enumerate().min_by_key(|(_, path)| *path).expect("it has Works").0;
    cycle.rotate_left(first);
    cycle.push(cycle[0].clone());
    cycle
}

#[derive(Serialize, Children)]
struct Ring {
    a: WorkRef<Player>,
    b: WorkRef<Player>,
    c: WorkRef<Player>,
    /// Whether `a` asks `b` in its run, and serves messages meanwhile.
    #[serde(skip)]
    runs: Option<bool>,
}

impl Flow for Ring {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        if let Some(serves) = self.runs {
            let (a, b) = (self.a.addr(), self.b.addr());
            self.a.run((Ask::of(&[(&b, Way::Plain), (&a, Way::Plain)]), serves));
        }
        Ok(())
    }
}

fn ring(placement: Placement, runs: Option<bool>) -> (TestApp, [WorkAddr<Player>; 3]) {
    let work = move || WorkRef::from(Player::default()).placed(placement);
    let app = TestApp::start(move || Ring { a: work(), b: work(), c: work(), runs });
    let paths = ["a", "b", "c"];
    paths.iter().for_each(|path| drop(app.wait_for_work(path, |work| work.is_up)));
    let works = paths.map(|path| app.work::<Player>(path));
    (app, works)
}

/// Asks that wait for each other in a cycle fail at once, one of each cycle, and name it. All Works go on afterwards.
#[test]
fn cycle_of_asks_is_told_and_named() {
    use Way::{AfterOthers, Plain};
    wherever_it_runs(|placement| {
        let (app, [a, b, c]) = ring(placement, None);
        let began = std::time::Instant::now();
        for (route, cycle) in [
            (vec![(&a, Plain), (&b, Plain), (&a, Plain)], &["a", "b", "a"][..]),
            (vec![(&a, Plain), (&b, AfterOthers), (&a, AfterOthers)], &["a", "b", "a"]),
            (vec![(&a, Plain), (&b, Plain), (&c, Plain), (&a, Plain)], &["a", "b", "c", "a"]),
            // The first is not part of the cycle.
            (vec![(&a, Plain), (&b, Plain), (&c, Plain), (&b, Plain)], &["b", "c", "b"]),
        ] {
            let told = app.block_on(Ask::of(&route).next(Plain));
            assert_eq!(from_first(told.unwrap_err()), cycle, "{placement}");
        }
        assert!(began.elapsed() < DEFAULT_ASK_TIMEOUT / 2, "it did not wait for a timeout");
        for work in [&a, &b, &c] {
            let told = app.block_on(Ask::of(&[(work, Plain)]).next(Plain));
            assert_eq!(told, Ok("at its end".to_owned()));
        }
    });
}

/// A `run` that serves no messages while it asks is part of a cycle; one that does answers.
#[test]
fn run_is_part_of_a_cycle_unless_it_serves() {
    wherever_it_runs(|placement| {
        for serves in [false, true] {
            let (app, _) = ring(placement, Some(serves));
            let told = app.wait_for_state("a.told", |told: &Option<Told>| told.is_some());
            match serves {
                false => {
                    let cycle = told.and_then(Result::err).map(from_first);
                    assert_eq!(cycle, Some(["a", "b", "a"].map(String::from).to_vec()));
                }
                true => assert_eq!(told, Some(Ok("at its end".to_owned()))),
            }
        }
    });
}

/// Many Works in many cycles are all told: each cycle costs one ask.
#[test]
fn each_of_many_cycles_costs_one_ask() {
    wherever_it_runs(|placement| {
        let (app, [a, b, c]) = ring(placement, None);
        app.block_on(async {
            for _ in 0..10 {
                let plain = Way::Plain;
                // Two of them meet: then they are one cycle, or one waits for the other to be broken.
                let first = Ask::of(&[(&a, plain), (&b, plain), (&a, plain)]).next(plain);
                let second = Ask::of(&[(&b, plain), (&c, plain), (&b, plain)]).next(plain);
                let third = Ask::of(&[(&c, plain), (&a, plain)]).next(plain);
                let told = tokio::join!(first, second, third);
                for told in [told.0, told.1, told.2].into_iter().filter_map(Result::err) {
                    assert!(from_first(told.clone()).len() >= 3, "{told:?}");
                }
            }
        });
    });
}

/// A Work that awaits something beside the answer goes on by itself: no ask fails, and the one that waits for it is
/// answered.
#[test]
fn work_that_awaits_more_than_the_answer_is_in_no_deadlock() {
    wherever_it_runs(|placement| {
        let (app, [a, b, _]) = ring(placement, None);
        for way in [Way::Select, Way::Join, Way::Timeout, Way::Task, Way::Flag, Way::Detached] {
            // `b` asks `a` in this way, which waits for `b`.
            let route = [(&a, Way::Plain), (&b, Way::Plain), (&a, way)];
            let told = app.block_on(Ask::of(&route).next(Way::Plain));
            let expected = if way == Way::Detached { "went on" } else { "gave up" };
            assert_eq!(told, Ok(expected.to_owned()), "{placement} {way:?}");
        }
    });
}

/// A Work that has deferred its reply is not waited for: `b` asks `a`, which waits for what `b` has deferred.
#[test]
fn deferred_reply_is_no_part_of_a_cycle() {
    wherever_it_runs(|placement| {
        let (app, [a, b, _]) = ring(placement, None);
        app.block_on(a.tell(AskLater(b.clone()))).expect("it runs");
        app.wait_for_state("b.has_deferred", |has_deferred: &bool| *has_deferred);
        let back = Ask::of(&[(&b, Way::Plain), (&a, Way::Plain)]).next(Way::Plain);
        assert_eq!(app.block_on(back), Ok("at its end".to_owned()), "{placement}");
        app.wait_for_state("a.is_answered", |is_answered: &bool| *is_answered);
    });
}

/// A replica of a service, whose handlers ask the Work at the address.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Server;

impl Work for Server {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        cx.ready(self);
        cx.serve_forever(self).await?;
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Serve(WorkAddr<Player>);

impl Handle<Serve> for Server {
    type Reply = Told;

    async fn handle(&mut self, Serve(client): Serve, _: &mut WorkContext<Self>) -> Told {
        Ask::of(&[(&client, Way::Plain)]).next(Way::Plain).await
    }
}

/// A question whose handler asks a service.
#[derive(Debug, Serialize, Deserialize)]
struct Use(WorkAddr<Server>);

impl Handle<Use> for Player {
    type Reply = Told;

    async fn handle(&mut self, Use(server): Use, cx: &mut WorkContext<Self>) -> Told {
        match server.ask(Serve(cx.addr())).await {
            Ok(told) => told,
            Err(AskError::Deadlock { cycle, .. }) => Err(cycle),
            Err(error) => Ok(error.to_string()),
        }
    }
}

#[derive(Serialize, Children)]
struct Shop {
    client: WorkRef<Player>,
    server: ServiceRef<Server>,
}

impl Flow for Shop {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.server.deploy(());
        Ok(())
    }
}

/// A replica that asks the Work whose question it handles is part of a cycle, which names the replica.
#[test]
fn cycle_through_a_service_names_its_replica() {
    let app = TestApp::start(|| Shop { client: WorkRef::default(), server: ServiceRef::new(Server) });
    app.wait_for_work("client", |client| client.is_up);
    let (client, server) = (app.work::<Player>("client"), app.work::<Server>("server"));
    let told = app.block_on(client.ask(Use(server))).expect("it answers");
    let cycle = from_first(told.expect_err("nobody can answer"));
    assert!(cycle.len() == 3 && cycle[0] == "client" && cycle[1].starts_with("server."), "{cycle:?}");
}

/// A question whose handler waits for a time, and then asks the Work at the address, if there is one.
#[derive(Debug, Serialize, Deserialize)]
struct Slow(Option<WorkAddr<Player>>, Duration);

impl Handle<Slow> for Player {
    type Reply = std::result::Result<(), String>;

    async fn handle(&mut self, Slow(next, time): Slow, _: &mut WorkContext<Self>) -> Self::Reply {
        tokio::time::sleep(time).await;
        match next {
            Some(next) => next.ask(Slow(None, time)).await.map_err(|error| error.to_string())?,
            None => Ok(()),
        }
    }
}

/// Asks that take about as long as one counts as slow go the one way in one turn and the other way in the next, without a
/// cycle at any time: none fails, however reports and answers cross.
#[test]
fn slow_asks_in_turns_are_no_deadlock() {
    wherever_it_runs(|placement| {
        let (app, works) = ring(placement, None);
        app.block_on(async {
            for turn in 0..20_u64 {
                let pairs = [(0, 1), (1, 2), (0, 2), (1, 2), (0, 1)];
                let asks = pairs.into_iter().zip(0..).map(|((from, to), number)| {
                    let (from, to) = if turn % 2 == 0 { (from, to) } else { (to, from) };
                    // The asks for one Work wait for each other, for two to four times as long.
                    let time = Duration::from_millis(23 + (turn * 7 + number * 11) % 12);
                    works[from].ask(Slow(Some(works[to].clone()), time))
                });
                for told in futures::future::join_all(asks).await {
                    assert_eq!(told.expect("it answers"), Ok(()), "{placement}, turn {turn}");
                }
            }
        });
    });
}
