//! Apps without a Flow, to which a program adds Works one by one.

use flowright::prelude::*;
use flowright::{AskError, EndKind, SpawnError};
use serde_json::json;

use crate::programs::VARIABLE;
use crate::support::*;
use crate::tests;

tests![
    spawned_work_answers_and_is_shown,
    spawned_work_is_supervised_by_its_settings,
    spawned_works_live_in_processes_and_on_nodes,
    names_that_cannot_be_used_are_refused,
    removed_work_makes_room_for_another,
    spawn_ends_with_the_app,
    app_with_a_root_spawns_nothing,
    empty_app_has_no_journal,
];

/// Counts what it is told, and panics at 13.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
}

impl Work for Counter {
    type Input = ();

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Add>();
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Add(u64);

impl Handle<Add> for Counter {
    type Reply = u64;

    async fn handle(&mut self, Add(amount): Add, cx: &mut WorkContext<Self>) -> u64 {
        self.count += amount;
        assert_ne!(self.count, 13, "an unlucky number");
        cx.publish(self);
        self.count
    }
}

/// The program of the processes and nodes of the test.
pub(crate) fn actors() -> ExitCode {
    App::empty().hosts::<Counter>().main()
}

fn within<T>(future: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await }).expect("it ends").unwrap()
}

fn spawned_work_answers_and_is_shown() {
    within(async {
        let system = App::empty().serve("127.0.0.1:0".parse()?).spawn().await?;
        let counter = system.spawn("counter", Counter::default()).await?;
        assert_eq!(counter.ask(Add(2)).await?, 2);
        assert_eq!(counter.ask(Add(3)).await?, 5);
        let address = system.address().expect("it is served");
        let shown = tokio::task::spawn_blocking(move || {
            Events::open(address).until(|document| document["state"]["counter"]["count"] == 5);
            post(address, "/api/v1/works/counter/messages/Add", "4").json()
        });
        assert_eq!(shown.await?, json!(9));
        Ok(system.stop().await.result?)
    });
}

/// Each failure of a Work is handled as its `WorkRef` says: restarted, captured, or the end of the App.
fn spawned_work_is_supervised_by_its_settings() {
    within(async {
        let system = App::empty().spawn().await?;
        let restarted = WorkRef::new(Counter::default()).restart(Restart::on_failure().max(1));
        let restarted = system.spawn("restarted", restarted).await?;
        let captured = WorkRef::new(Counter::default()).on_error(OnError::Capture);
        let captured = system.spawn("captured", captured).await?;
        let plain = system.spawn("plain", Counter::default()).await?;
        for counter in [&restarted, &captured] {
            counter.ask(Add(10)).await?;
            assert!(matches!(counter.ask(Add(3)).await, Err(AskError::Failed { .. })));
        }
        // From the last state that was published.
        assert_eq!(restarted.ask(Add(1)).await?, 11);
        assert!(captured.ask(Add(1)).await.is_err());
        assert!(plain.ask(Add(13)).await.is_err());
        let error = system.wait().await.result.unwrap_err().to_string();
        ensure!(error.contains("work `plain` failed") && error.contains("an unlucky number"), "{error}");
        Ok(())
    });
}

fn spawned_works_live_in_processes_and_on_nodes() {
    let command = || {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.env(VARIABLE, "actors");
        Ok(command)
    };
    within(async {
        let app = App::empty().hosts::<Counter>().process(command).pool_threads(1);
        let system = app.spawn().await?;
        for (name, placement) in
            [("thread", Placement::Thread), ("pool", Placement::Pool), ("apart", Placement::Process)]
        {
            let counter = system.spawn(name, WorkRef::new(Counter::default()).placed(placement)).await?;
            assert_eq!((counter.ask(Add(2)).await?, counter.ask(Add(2)).await?), (2, 4), "{name}");
        }
        Ok(system.stop().await.result?)
    });
    let mut head = Process::start("actors", &["--port", "0", "--listen", "127.0.0.1:0"]);
    head.expect("nodes join at ");
    head.signal("TERM");
    assert_eq!(head.end().0, Some(0));
}

fn names_that_cannot_be_used_are_refused() {
    within(async {
        let system = App::empty().max_state_bytes(100).spawn().await?;
        system.spawn("counter", Counter::default()).await?;
        let taken = system.spawn("counter", Counter::default()).await.expect_err("it is refused");
        assert!(matches!(&taken, SpawnError::NameTaken { name } if name == "counter"), "{taken}");
        for name in ["", "a.b"] {
            let bad = system.spawn(name, Counter::default()).await.expect_err("it is refused");
            assert!(matches!(bad, SpawnError::BadName { .. }), "{name}");
        }
        let large = system.spawn("large", Text("x".repeat(200))).await.expect_err("it is refused");
        assert!(matches!(large, SpawnError::State { .. }), "{large}");
        // None of it has harmed what is there.
        let counter = system.control().work::<Counter>("counter").await?.expect("it is there");
        assert_eq!(counter.ask(Add(1)).await?, 1);
        Ok(system.stop().await.result?)
    });
}

#[derive(Serialize, Deserialize)]
struct Text(String);

impl Work for Text {
    type Input = ();
}

fn removed_work_makes_room_for_another() {
    within(async {
        let system = App::empty().spawn().await?;
        for _ in 0..3 {
            let counter = system.spawn("counter", Counter::default()).await?;
            assert_eq!(counter.ask(Add(1)).await?, 1);
            let (end, removed) = tokio::join!(counter.watch(), system.control().remove("counter"));
            removed?;
            assert!(matches!(end.kind, EndKind::Stopped), "{end:?}");
        }
        let unknown = system.control().remove("counter").await.unwrap_err();
        assert!(matches!(unknown, SpawnError::Unknown { .. }), "{unknown}");
        Ok(system.stop().await.result?)
    });
}

fn spawn_ends_with_the_app() {
    within(async {
        let system = App::empty().spawn().await?;
        let control = system.control().clone();
        system.stop().await.result?;
        let ended = control.spawn("counter", Counter::default()).await.expect_err("it is refused");
        assert!(matches!(ended, SpawnError::App(_)), "{ended}");
        assert!(matches!(control.remove("counter").await, Err(SpawnError::App(_))));
        Ok(())
    });
}

fn app_with_a_root_spawns_nothing() {
    within(async {
        let app = App::of_work(Counter::default).spawn().await?;
        let refused = app.spawn("counter", Counter::default()).await.expect_err("it is refused");
        assert!(matches!(refused, SpawnError::HasRoot { .. }), "{refused}");
        Ok(app.stop().await.result?)
    });
}

fn empty_app_has_no_journal() {
    let directory = std::env::temp_dir().join(format!("flowright-spawned-{}", std::process::id()));
    let mut app = Process::start("actors", &["--journal", directory.to_str().expect("text"), "--port", "0"]);
    app.expect("declare them in a Flow");
    assert_eq!(app.end().0, Some(1));
    let _ = std::fs::remove_dir_all(&directory);
}
