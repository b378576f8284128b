//! Services: versions that replace each other while they serve, rollbacks, routing and scale.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{
    AskError, Deferred, EndKind, Placement, ReplySender, Rollout, RolloutStage, Routing, ServiceRef,
};
use futures::future::{join_all, select_all};
use tokio::sync::Semaphore;

use crate::support::wherever_it_runs;

/// What is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Plan {
    number: u32,
    course: Course,
}

/// The course of the run of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Course {
    Serves,
    FailsToLoad,
    PanicsWhileItLoads,
    IsNeverReady,
    /// Fails when the test lets it.
    FailsLater,
    /// Returns once it has loaded.
    Returns,
}

fn good(number: u32) -> Plan {
    Plan { number, course: Course::Serves }
}

fn bad(number: u32, course: Course) -> Plan {
    Plan { number, course }
}

#[derive(Default, Serialize, Deserialize)]
struct Model {
    number: u32,
    handled: u32,
    #[serde(skip)]
    kept: Vec<ReplySender<u32>>,
}

impl Work for Model {
    type Input = Plan;

    async fn run(&mut self, Plan { number, course }: Plan, cx: &mut WorkContext<Self>) -> Result<()> {
        self.number = number;
        match course {
            Course::Serves => cx.ready(self),
            Course::FailsToLoad => bail!("the checkpoint {number} is damaged"),
            Course::PanicsWhileItLoads => panic!("no checkpoint {number}"),
            Course::IsNeverReady => {}
            Course::FailsLater => {
                Gate::Overlap.semaphore().acquire().await?.forget();
                bail!("it is late");
            }
            Course::Returns => return Ok(()),
        }
        cx.serve_forever(self).await?;
        Ok(())
    }
}

/// A question for the version and the name of the replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Which {
    user: u32,
}

const ANYBODY: Which = Which { user: 0 };

impl Handle<Which> for Model {
    type Reply = (u32, String);

    async fn handle(&mut self, _: Which, cx: &mut WorkContext<Self>) -> (u32, String) {
        self.handled += 1;
        (self.number, cx.path().to_string())
    }
}

/// A question whose handler panics.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Break;

impl Handle<Break> for Model {
    type Reply = ();

    async fn handle(&mut self, _: Break, _: &mut WorkContext<Self>) {
        panic!("broken");
    }
}

/// A question whose handler waits for the gate of its test.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hold(Gate);

/// The gates of tests, one for each test that runs beside others.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Gate {
    Drain,
    Late,
    Load,
    Extra,
    Lost,
    Overlap,
}

static GATES: [Semaphore; 6] = [const { Semaphore::const_new(0) }; 6];

impl Gate {
    fn semaphore(self) -> &'static Semaphore {
        &GATES[self as usize]
    }
}

impl Handle<Hold> for Model {
    type Reply = u32;

    async fn handle(&mut self, Hold(gate): Hold, _: &mut WorkContext<Self>) -> u32 {
        gate.semaphore().acquire().await.expect("it is never closed").forget();
        self.number
    }
}

/// A question that is answered once there are this many.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Together(usize);

impl Handle<Together> for Model {
    type Reply = Deferred<u32>;

    async fn handle(&mut self, Together(count): Together, cx: &mut WorkContext<Self>) -> Deferred<u32> {
        let (deferred, reply) = cx.defer();
        self.kept.push(reply);
        if self.kept.len() == count {
            self.kept.drain(..).for_each(|reply| reply.send(self.number));
        }
        deferred
    }
}

/// A Work whose state tells its Flow what to do with the service.
#[derive(Default, Serialize, Deserialize)]
struct Desk {
    orders: Vec<Order>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Order {
    Deploy(Plan),
    Forget(Plan),
    Scale(usize),
    /// The Flow discards the service.
    Discard,
}

impl Work for Desk {
    type Input = ();
}

impl Handle<Order> for Desk {
    type Reply = ();

    async fn handle(&mut self, order: Order, cx: &mut WorkContext<Self>) {
        self.orders.push(order);
        cx.publish(self);
    }
}

#[derive(Serialize, Children)]
struct Deployment {
    desk: WorkRef<Desk>,
    server: Option<ServiceRef<Model>>,
    done: usize,
    rollouts: Vec<Rollout>,
    version: Option<u64>,
    names: Vec<String>,
}

impl Flow for Deployment {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        for order in &self.desk.orders[self.done..] {
            self.done += 1;
            let Some(server) = &mut self.server else { break };
            match order {
                Order::Deploy(plan) => server.deploy(*plan),
                Order::Forget(plan) => server.forget(plan),
                Order::Scale(replicas) => server.scale(*replicas),
                Order::Discard => self.server = None,
            }
        }
        if let Some(server) = &self.server {
            self.rollouts = server.rollouts().cloned().collect();
            self.version = server.version();
            self.names = server.all().map(|(name, _)| name.to_owned()).collect();
        }
        Ok(())
    }
}

fn deployment(server: ServiceRef<Model>) -> Deployment {
    let (rollouts, names) = (Vec::new(), Vec::new());
    Deployment { desk: WorkRef::default(), server: Some(server), done: 0, rollouts, version: None, names }
}

fn start(server: impl FnOnce() -> ServiceRef<Model> + Send + 'static) -> TestApp {
    TestApp::start(move || deployment(server()))
}

fn order(app: &TestApp, order: Order) {
    app.block_on(app.work::<Desk>("desk").ask(order)).unwrap();
}

fn deploy(app: &TestApp, plan: Plan) {
    order(app, Order::Deploy(plan));
}

/// Waits until a version has reached a stage.
fn wait_for(app: &TestApp, version: u64, stage: RolloutStage) -> Rollout {
    let is_it = |rollout: &&Rollout| rollout.version == version && rollout.stage == stage;
    let rollouts = app.wait_for_state("rollouts", |all: &Vec<Rollout>| all.iter().any(|one| is_it(&one)));
    rollouts.iter().find(is_it).expect("it was waited for").clone()
}

fn ask(app: &TestApp, which: Which) -> (u32, String) {
    app.block_on(app.work::<Model>("server").ask(which)).expect("it serves")
}

/// Messages that are sent before anything was deployed wait for the first version.
#[test]
fn first_version_answers_messages_sent_before_it() {
    wherever_it_runs(|placement| {
        let app = start(move || ServiceRef::new(Model::default()).replicas(2).placed(placement));
        let server = app.work::<Model>("server");
        let asked = join_all((0..10).map(|_| server.ask(ANYBODY)));
        let desk = app.work::<Desk>("desk");
        let all = app.block_on(async { tokio::join!(asked, desk.ask(Order::Deploy(good(7)))).0 });
        for reply in all {
            assert_eq!(reply.unwrap().0, 7, "{placement}");
        }
        wait_for(&app, 1, RolloutStage::Serving);
        app.stop().result.unwrap();
    });
}

/// Callers that ask without pause while versions replace each other get each answer once, none of an older version than
/// one before, and no error, also if some versions are bad.
#[test]
fn callers_see_no_error_and_no_older_version_while_versions_change() {
    wherever_it_runs(|placement| {
        let server =
            move || ServiceRef::new(Model::default()).replicas(3).placed(placement).overlap(Overlap::Queue);
        let app = start(server);
        let app = app.expect_panic("no checkpoint");
        deploy(&app, good(1));
        wait_for(&app, 1, RolloutStage::Serving);
        let is_over = AtomicBool::new(false);
        let caller = |user: u32| {
            let (server, is_over) = (app.work::<Model>("server"), &is_over);
            async move {
                let (mut last, mut answers) = (0, 0_u32);
                while !is_over.load(Ordering::Relaxed) {
                    let (number, _) = server.ask(Which { user }).await.expect("it serves throughout");
                    assert!(number >= last, "{number} after {last}");
                    (last, answers) = (number, answers + 1);
                }
                answers
            }
        };
        let (desk, server) = (app.work::<Desk>("desk"), app.work::<Model>("server"));
        let change = async {
            for number in 2..=30 {
                let course = match number % 5 {
                    0 => Course::FailsToLoad,
                    3 => Course::PanicsWhileItLoads,
                    _ => Course::Serves,
                };
                desk.ask(Order::Deploy(bad(number, course))).await.unwrap();
            }
            while server.ask(ANYBODY).await.expect("it serves throughout").0 < 29 {
                tokio::task::yield_now().await;
            }
            is_over.store(true, Ordering::Relaxed);
        };
        let callers = join_all((0..16).map(caller));
        let (answers, ()) = app.block_on(async { tokio::join!(callers, change) });
        assert!(answers.iter().all(|answers| *answers > 0));
        wait_for(&app, 30, RolloutStage::RolledBack);
        app.wait_for_state("names", |names: &Vec<String>| {
            names.len() == 3 && names.iter().all(|name| name.starts_with("v29-"))
        });
        app.stop().result.unwrap();
    });
}

/// A version that fails while it loads, or is not ready in time, is rolled back with the reason; the one before serves on.
#[test]
fn bad_versions_are_rolled_back() {
    let server =
        || ServiceRef::new(Model::default()).ready_within(Duration::from_secs(5)).restart(Restart::never());
    let app = start(server);
    let app = app.expect_panic("no checkpoint");
    deploy(&app, good(1));
    wait_for(&app, 1, RolloutStage::Serving);
    let reasons = [
        (Course::FailsToLoad, "the checkpoint 2 is damaged"),
        (Course::PanicsWhileItLoads, "no checkpoint 3"),
        (Course::IsNeverReady, "it was not ready within 5s"),
    ];
    for ((course, reason), number) in reasons.into_iter().zip(2..) {
        deploy(&app, bad(number, course));
        let rollout = wait_for(&app, u64::from(number), RolloutStage::RolledBack);
        assert!(rollout.message.as_ref().unwrap().contains(reason), "{rollout:?}");
        assert_eq!(ask(&app, ANYBODY).0, 1);
    }
    app.wait_for_state("names", |names: &Vec<String>| *names == ["v1-1"]);
    app.stop().result.unwrap();
}

/// An input is rolled out once, and again after it was forgotten; one that serves is known as well.
#[test]
fn input_is_rolled_out_once_until_it_is_forgotten() {
    let app = start(ServiceRef::default);
    let broken = bad(2, Course::FailsToLoad);
    for plan in [good(1), good(1), broken] {
        deploy(&app, plan);
    }
    wait_for(&app, 2, RolloutStage::RolledBack);
    deploy(&app, broken);
    deploy(&app, good(3));
    wait_for(&app, 3, RolloutStage::Serving);
    order(&app, Order::Forget(good(1)));
    deploy(&app, good(1));
    wait_for(&app, 4, RolloutStage::Serving);
    assert_eq!(ask(&app, ANYBODY).0, 1);
    app.stop().result.unwrap();
}

/// While a rollout is under way, the newest of the inputs that come follows it; or each one; or the rollout is given up.
#[test]
fn overlap_decides_about_newer_inputs() {
    let stages = |overlap| {
        let app = start(move || ServiceRef::new(Model::default()).overlap(overlap).grace(Duration::ZERO));
        deploy(&app, good(1));
        wait_for(&app, 1, RolloutStage::Serving);
        deploy(&app, bad(2, Course::FailsLater));
        wait_for(&app, 2, RolloutStage::Starting);
        deploy(&app, good(3));
        deploy(&app, good(4));
        app.wait_for_state("done", |done: &usize| *done == 4);
        if overlap != Overlap::Restart {
            Gate::Overlap.semaphore().add_permits(1);
        }
        let rollouts = app.wait_for_state("rollouts", |all: &Vec<Rollout>| {
            let last = all.last().expect("there are rollouts");
            last.version > 2
                && last.stage == RolloutStage::Serving
                && (overlap != Overlap::Queue || last.version == 4)
        });
        assert_eq!(ask(&app, ANYBODY).0, 4);
        app.stop().result.unwrap();
        rollouts.iter().map(|rollout| rollout.stage).collect::<Vec<_>>()
    };
    use RolloutStage::{Replaced, RolledBack, Serving, Superseded};
    assert_eq!(stages(Overlap::Latest), [Replaced, RolledBack, Serving]);
    assert_eq!(stages(Overlap::Queue), [Replaced, RolledBack, Replaced, Serving]);
    // The third may have been given up as well, or not have begun.
    let stages = stages(Overlap::Restart);
    assert!(stages[1] == Superseded && stages.last() == Some(&Serving), "{stages:?}");
}

/// An old replica finishes the message that it handles while the new version answers; those that wait go to the new one.
#[test]
fn old_replica_finishes_its_message() {
    let app = start(ServiceRef::default);
    deploy(&app, good(1));
    wait_for(&app, 1, RolloutStage::Serving);
    let (desk, server) = (app.work::<Desk>("desk"), app.work::<Model>("server"));
    app.block_on(async {
        let mut held = Box::pin(server.ask(Hold(Gate::Drain)));
        let waiting = async { tokio::join!(server.ask(ANYBODY), desk.ask(Order::Deploy(good(2)))) };
        let waited = tokio::select! {
            biased;
            _ = &mut held => panic!("the gate is shut"),
            (waited, deployed) = waiting => {
                deployed.unwrap();
                waited
            }
        };
        assert_eq!(waited.unwrap().0, 2);
        assert_eq!(server.ask(ANYBODY).await.unwrap().0, 2);
        Gate::Drain.semaphore().add_permits(1);
        assert_eq!(held.await.unwrap(), 1);
    });
    app.wait_for_state("names", |names: &Vec<String>| *names == ["v2-2"]);
    app.stop().result.unwrap();
}

/// An old replica that has not finished its message in time is ended, and the caller is told that a handler had begun.
#[test]
fn message_that_takes_too_long_fails_at_its_caller() {
    let app = start(|| {
        let zero = Duration::ZERO;
        ServiceRef::new(Model::default()).drain(zero).grace(zero)
    });
    deploy(&app, good(1));
    wait_for(&app, 1, RolloutStage::Serving);
    let (desk, server) = (app.work::<Desk>("desk"), app.work::<Model>("server"));
    let (failed, deployed) =
        app.block_on(async { tokio::join!(server.ask(Hold(Gate::Late)), desk.ask(Order::Deploy(good(2)))) });
    deployed.unwrap();
    assert!(matches!(failed, Err(AskError::Failed { .. })), "{failed:?}");
    assert_eq!(ask(&app, ANYBODY).0, 2);
    app.stop().result.unwrap();
}

/// A panic fails the caller of the message alone; its replica starts again, and the others go on.
#[test]
fn panic_fails_one_caller() {
    let app = start(|| ServiceRef::new(Model::default()).replicas(2));
    let app = app.expect_panic("broken");
    deploy(&app, good(1));
    wait_for(&app, 1, RolloutStage::Serving);
    let server = app.work::<Model>("server");
    app.block_on(async {
        let broken = server.ask(Break);
        let others = join_all((0..20).map(|_| server.ask(ANYBODY)));
        let (broken, others) = tokio::join!(broken, others);
        assert!(matches!(broken, Err(AskError::Failed { .. })), "{broken:?}");
        assert!(others.iter().all(Result::is_ok));
    });
    // Both are back.
    let replicas = ["server.replicas.v1-1", "server.replicas.v1-2"];
    for replica in replicas {
        app.wait_for_stage(replica, Stage::Running);
    }
    app.stop().result.unwrap();
}

/// A service fails when a replica that serves has failed after its last restart, and its Flow with it.
#[test]
fn service_fails_with_a_replica_that_is_not_restarted() {
    let app = start(|| ServiceRef::new(Model::default()).restart(Restart::never()));
    let app = app.expect_panic("broken");
    deploy(&app, good(1));
    wait_for(&app, 1, RolloutStage::Serving);
    let broken = app.block_on(app.work::<Model>("server").ask(Break));
    assert!(matches!(broken, Err(AskError::Failed { .. })), "{broken:?}");
    let error = format!("{:#}", anyhow!(app.wait_for_exit().result.unwrap_err()));
    assert!(error.contains("server.replicas.v1-1") && error.contains("broken"), "{error}");
}

/// Messages go to each replica; with a key, those with the same key go to the same one.
#[test]
fn messages_are_distributed() {
    let names = |routing: Routing, users: [u32; 12]| {
        let app = start(move || ServiceRef::new(Model::default()).replicas(3).routing(routing));
        deploy(&app, good(1));
        wait_for(&app, 1, RolloutStage::Serving);
        let names = users.map(|user| ask(&app, Which { user }).1);
        app.stop().result.unwrap();
        names
    };
    for routing in [Routing::least_loaded(), Routing::round_robin()] {
        let names = names(routing, [0; 12]);
        assert_eq!(BTreeSet::from(names).len(), 3);
    }
    let by_user = Routing::by_key(|m: &Which| m.user);
    let one = names(by_user.clone(), [7; 12]);
    assert_eq!(BTreeSet::from(one).len(), 1);
    let many = names(by_user, std::array::from_fn(|user| u32::try_from(user).unwrap()));
    assert!(BTreeSet::from(many).len() > 1);
}

/// There are more replicas while many messages wait, and fewer once there are few.
#[test]
fn replicas_follow_the_load() {
    let app = start(|| {
        let server = ServiceRef::new(Model::default()).replicas(1..=4);
        server.target(2).cool_down(Duration::from_millis(100))
    });
    deploy(&app, good(1));
    wait_for(&app, 1, RolloutStage::Serving);
    let server = app.work::<Model>("server");
    app.block_on(async {
        let mut held: Vec<_> = (0..8).map(|_| Box::pin(server.ask(Hold(Gate::Load)))).collect();
        let four = app.control().changes();
        let grown = async {
            let mut changes = four;
            while app.control().status().await.unwrap().works.values().filter(|work| work.is_up).count() < 5 {
                changes.changed().await.unwrap();
            }
        };
        tokio::select! {
            biased;
            _ = select_all(&mut held) => panic!("the gate is shut"),
            () = grown => {}
        }
        Gate::Load.semaphore().add_permits(8);
        for reply in join_all(held).await {
            assert_eq!(reply.unwrap(), 1);
        }
    });
    app.wait_for_state("names", |names: &Vec<String>| names.len() == 1);
    assert_eq!(ask(&app, ANYBODY).0, 1);
    app.stop().result.unwrap();
}

/// The number of replicas can be set, within its range.
#[test]
fn replicas_are_scaled_within_their_range() {
    let app = start(|| ServiceRef::new(Model::default()).replicas(1..=4).cool_down(Duration::MAX));
    deploy(&app, good(1));
    for (wanted, expected) in [(3, 3), (9, 4), (0, 1)] {
        order(&app, Order::Scale(wanted));
        app.wait_for_state("names", |names: &Vec<String>| names.len() == expected);
    }
    app.stop().result.unwrap();
}

/// With one extra replica, a new version serves with one, and its others start as the old ones end.
#[test]
fn extra_replicas_are_limited() {
    let app = start(|| ServiceRef::new(Model::default()).replicas(3).max_extra(1));
    deploy(&app, good(1));
    app.wait_for_state("names", |names: &Vec<String>| names.len() == 3);
    for number in 1..=3 {
        app.wait_for_stage(&format!("server.replicas.v1-{number}"), Stage::Running);
    }
    let (desk, server) = (app.work::<Desk>("desk"), app.work::<Model>("server"));
    app.block_on(async {
        let mut held: Vec<_> = (0..3).map(|_| Box::pin(server.ask(Hold(Gate::Extra)))).collect();
        let second = async {
            desk.ask(Order::Deploy(good(2))).await.unwrap();
            while server.ask(ANYBODY).await.unwrap().0 < 2 {}
        };
        tokio::select! {
            biased;
            _ = select_all(&mut held) => panic!("the gate is shut"),
            () = second => {}
        }
        let names =
            app.control().state().await.unwrap().get("names").unwrap().decode::<Vec<String>>().unwrap();
        assert_eq!(names, ["v1-1", "v1-2", "v1-3", "v2-4"]);
        Gate::Extra.semaphore().add_permits(3);
        for reply in join_all(held).await {
            assert_eq!(reply.unwrap(), 1);
        }
    });
    app.wait_for_state("names", |names: &Vec<String>| *names == ["v2-4", "v2-5", "v2-6"]);
    app.stop().result.unwrap();
}

/// A handler that replies later makes room for the next message when it returns.
#[test]
fn deferred_replies_leave_room_for_others() {
    let app = start(ServiceRef::default);
    deploy(&app, good(1));
    let server = app.work::<Model>("server");
    let replies = app.block_on(join_all((0..5).map(|_| server.ask(Together(5)))));
    assert!(replies.iter().all(|reply| *reply.as_ref().unwrap() == 1));
    app.stop().result.unwrap();
}

/// A replica whose run returns counts as ready.
#[test]
fn replica_is_ready_once_its_run_has_succeeded() {
    let app = start(ServiceRef::default);
    deploy(&app, bad(1, Course::Returns));
    assert_eq!(ask(&app, ANYBODY).0, 1);
    app.stop().result.unwrap();
}

/// A service that is discarded refuses the messages that wait, and tells those who watch it.
#[test]
fn discarded_service_refuses_its_messages() {
    let app = start(ServiceRef::default);
    let (desk, server) = (app.work::<Desk>("desk"), app.work::<Model>("server"));
    let (waited, end, discarded) =
        app.block_on(async { tokio::join!(server.ask(ANYBODY), server.watch(), desk.ask(Order::Discard)) });
    discarded.unwrap();
    assert!(matches!(waited, Err(AskError::NotHandled(_))), "{waited:?}");
    assert_eq!(end.kind, EndKind::Stopped);
    let late = app.block_on(server.ask(ANYBODY));
    assert!(matches!(late, Err(AskError::NotHandled(_))), "{late:?}");
    app.stop().result.unwrap();
}

/// Messages that wait when the App stops are refused at once.
#[test]
fn waiting_messages_are_refused_when_the_app_stops() {
    let app =
        start(|| ServiceRef::new(Model::default()).placed(Placement::Pool).grace(Duration::from_millis(100)));
    deploy(&app, good(1));
    wait_for(&app, 1, RolloutStage::Serving);
    let server = app.work::<Model>("server");
    let failed = app.block_on(async {
        let mut held: Vec<_> = (0..4).map(|_| Box::pin(server.ask(Hold(Gate::Lost)))).collect();
        let control = app.control().clone();
        tokio::select! {
            biased;
            _ = select_all(&mut held) => panic!("the gate is shut"),
            () = tokio::task::yield_now() => control.stop("enough"),
        }
        join_all(held).await
    });
    // The replica may have begun one of them.
    let refused = failed.iter().filter(|reply| matches!(reply, Err(AskError::NotHandled(_))));
    assert!(refused.count() >= 3 && failed.iter().all(Result::is_err), "{failed:?}");
    app.wait_for_exit().result.unwrap();
}
