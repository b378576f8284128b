//! An App inside another program.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowright::prelude::*;
use flowright::{AppError, AppHandle, AppStage, WorkAddr};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::LIMIT;
use crate::tests;

tests![
    it_runs_inside_a_program_with_many_threads,
    it_runs_inside_a_program_of_actix,
    two_apps_in_one_program_do_not_mix,
    works_are_stopped_in_reverse_order_of_their_start,
    dropping_the_handle_stops_the_app,
    giving_up_the_wait_stops_the_app,
    a_work_that_does_not_stop_is_ended_after_the_grace_period,
    control_shows_the_app_while_it_runs_and_says_when_it_has_ended,
    a_port_that_is_taken_is_an_error_of_the_embedding_program,
    a_work_as_the_root_is_run_once,
];

/// A counter, which sends a line to its journal when it stops.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u32,
    stubborn: bool,
    journal: u64,
}

impl Work for Counter {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        self.count += 1;
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        journal(self.journal).lock().unwrap().push(cx.path().to_string());
        if self.stubborn {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Add(u32);

impl Handle<Add> for Counter {
    type Reply = u32;

    async fn handle(&mut self, Add(amount): Add, cx: &mut WorkContext<Self>) -> u32 {
        self.count += amount;
        cx.publish(self);
        self.count
    }
}

type Journal = Arc<Mutex<Vec<String>>>;

static JOURNALS: Mutex<Vec<Journal>> = Mutex::new(Vec::new());

fn new_journal() -> u64 {
    let mut journals = JOURNALS.lock().unwrap();
    journals.push(Journal::default());
    journals.len() as u64 - 1
}

fn journal(number: u64) -> Journal {
    JOURNALS.lock().unwrap()[usize::try_from(number).unwrap()].clone()
}

#[derive(Serialize, Children)]
struct Counters {
    first: WorkRef<Counter>,
    second: WorkRef<Counter>,
    list: Vec<WorkRef<Counter>>,
}

impl Flow for Counters {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.first.run(());
        Ok(())
    }
}

fn counters(number: u64, stubborn: bool) -> App {
    App::new(move || {
        let counter = |stubborn| WorkRef::new(Counter { count: 0, stubborn, journal: number });
        Counters {
            first: counter(false),
            second: counter(stubborn),
            list: vec![counter(false), counter(false)],
        }
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs a future with a time limit.
fn block_on<F: Future>(runtime: &Runtime, future: F) -> F::Output {
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("the wait ends in time") })
}

async fn counter(app: &AppHandle, path: &str) -> WorkAddr<Counter> {
    app.control().work(path).await.unwrap().expect("the Work exists")
}

/// Waits until all Works have started and the first run is over.
async fn settled(app: &AppHandle) {
    let mut changes = app.control().changes();
    loop {
        changes.mark_unchanged();
        if app.control().status().await.unwrap().works["first"].successes == 1 {
            break;
        }
        changes.changed().await.unwrap();
    }
    for path in ["first", "second", "list.0", "list.1"] {
        counter(app, path).await.ask(Add(0)).await.unwrap();
    }
}

fn it_runs_inside_a_program_with_many_threads() {
    let runtime = runtime();
    let exit = block_on(&runtime, async {
        let app = counters(new_journal(), false).spawn().await.unwrap();
        settled(&app).await;
        let first = counter(&app, "first").await;
        // Several tasks of the program, on its own threads.
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let first = first.clone();
                tokio::spawn(async move { first.ask(Add(1)).await.unwrap() })
            })
            .collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        answers.sort_unstable();
        assert_eq!(answers, (2..=11).collect::<Vec<_>>());
        app.stop().await
    });
    exit.result.unwrap();
    assert_eq!(exit.state.to_json()["first"]["count"], 11);
}

fn it_runs_inside_a_program_of_actix() {
    let (tell, told) = std::sync::mpsc::channel();
    // The program's own System, which outlives the App.
    let program = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let app = counters(new_journal(), false).spawn().await.unwrap();
            settled(&app).await;
            assert_eq!(counter(&app, "second").await.ask(Add(3)).await.unwrap(), 3);
            let exit = app.stop().await;
            assert!(actix_rt::System::try_current().is_some());
            let after = actix_rt::spawn(async { "it goes on" }).await.unwrap();
            tell.send((exit, after)).unwrap();
        });
    });
    let (exit, after) = told.recv_timeout(LIMIT).unwrap();
    program.join().unwrap();
    exit.result.unwrap();
    assert_eq!((exit.state.to_json()["second"]["count"].clone(), after), (json!(3), "it goes on"));
}

fn two_apps_in_one_program_do_not_mix() {
    let runtime = runtime();
    block_on(&runtime, async {
        let one = counters(new_journal(), false).spawn().await.unwrap();
        let other = counters(new_journal(), false).spawn().await.unwrap();
        settled(&one).await;
        settled(&other).await;
        let address = counter(&one, "second").await;
        assert_eq!(address.ask(Add(5)).await.unwrap(), 5);
        assert_eq!(counter(&other, "second").await.ask(Add(1)).await.unwrap(), 1);
        // A deserialised address finds the Work of the App that it came from.
        let text = serde_json::to_string(&address).unwrap();
        let back: WorkAddr<Counter> = serde_json::from_str(&text).unwrap();
        assert_eq!(back.ask(Add(5)).await.unwrap(), 10);
        one.stop().await.result.unwrap();
        let error = back.ask(Add(1)).await.unwrap_err().to_string();
        assert!(error.contains("`second`"), "{error}");
        assert_eq!(counter(&other, "second").await.ask(Add(1)).await.unwrap(), 2);
        other.stop().await.result.unwrap();
    });
}

fn works_are_stopped_in_reverse_order_of_their_start() {
    let number = new_journal();
    let runtime = runtime();
    let exit = block_on(&runtime, async {
        let app = counters(number, false).spawn().await.unwrap();
        settled(&app).await;
        app.stop().await
    });
    exit.result.unwrap();
    assert_eq!(*journal(number).lock().unwrap(), ["list.1", "list.0", "second", "first"]);
    assert_eq!(exit.status.stage, AppStage::Ended);
    assert_eq!(exit.status.works["first"].status.stage, Stage::Succeeded, "it keeps its outcome");
    assert_eq!(exit.status.works["second"].status.stage, Stage::NotStarted);
    assert!(exit.status.works.values().all(|work| !work.is_up));
}

/// Waits until the App is over, without its handle.
async fn over(mut changes: tokio::sync::watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {}
}

fn dropping_the_handle_stops_the_app() {
    let number = new_journal();
    let runtime = runtime();
    block_on(&runtime, async {
        let app = counters(number, false).spawn().await.unwrap();
        settled(&app).await;
        let control = app.control().clone();
        drop(app);
        over(control.changes()).await;
        assert!(matches!(control.state().await, Err(AppError::Ended)));
    });
    assert_eq!(journal(number).lock().unwrap().len(), 4);
}

fn giving_up_the_wait_stops_the_app() {
    let number = new_journal();
    let runtime = runtime();
    block_on(&runtime, async {
        let app = counters(number, false).spawn().await.unwrap();
        settled(&app).await;
        let control = app.control().clone();
        tokio::select! {
            biased;
            _ = app.wait() => panic!("nothing ends it"),
            () = std::future::ready(()) => {}
        }
        over(control.changes()).await;
    });
    assert_eq!(journal(number).lock().unwrap().len(), 4);
}

fn a_work_that_does_not_stop_is_ended_after_the_grace_period() {
    let number = new_journal();
    let runtime = runtime();
    let exit = block_on(&runtime, async {
        let app = counters(number, true).grace(Duration::from_secs(1)).spawn().await.unwrap();
        settled(&app).await;
        app.stop().await
    });
    exit.result.unwrap();
    assert_eq!(*journal(number).lock().unwrap(), ["list.1", "list.0", "second", "first"]);
}

fn control_shows_the_app_while_it_runs_and_says_when_it_has_ended() {
    let runtime = runtime();
    block_on(&runtime, async {
        let app = counters(new_journal(), false).spawn().await.unwrap();
        settled(&app).await;
        let control = app.control().clone();
        assert_eq!(control.state().await.unwrap().get("first.count").unwrap().to_json(), json!(1));
        assert_eq!(control.status().await.unwrap().stage, AppStage::Running);
        assert!(app.address().is_none(), "nothing is served unless asked for");
        assert!(control.work::<Counter>("third").await.unwrap().is_none());
        assert!(control.work::<Counter>("").await.unwrap().is_none());
        assert!(control.work::<Once>("first").await.unwrap().is_none(), "it is of another type");
        let mut changes = control.changes();
        changes.mark_unchanged();
        let before = *changes.borrow();
        counter(&app, "first").await.tell(Add(1)).await.unwrap();
        changes.changed().await.unwrap();
        assert!(*changes.borrow() > before);
        control.stop("it has been looked at enough");
        control.stop("really");
        app.wait().await.result.unwrap();
        assert!(matches!(control.state().await, Err(AppError::Ended)));
        assert!(matches!(control.status().await, Err(AppError::Ended)));
        assert!(matches!(control.work::<Counter>("first").await, Err(AppError::Ended)));
        over(changes).await;
    });
}

fn a_port_that_is_taken_is_an_error_of_the_embedding_program() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let number = new_journal();
    let app = counters(number, false).serve(taken.local_addr().unwrap());
    let error = match block_on(&runtime(), app.spawn()) {
        Ok(_) => panic!("it listens"),
        Err(error) => error.to_string(),
    };
    let port = taken.local_addr().unwrap().port().to_string();
    assert!(error.contains(&port) && error.contains("--port"), "{error}");
    assert!(journal(number).lock().unwrap().is_empty());
}

/// A Work that counts its runs.
#[derive(Default, Serialize, Deserialize)]
struct Once {
    runs: u32,
}

impl Work for Once {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        self.runs += 1;
        Ok(())
    }
}

fn a_work_as_the_root_is_run_once() {
    let exit =
        block_on(&runtime(), async { App::of_work(Once::default).spawn().await.unwrap().wait().await });
    exit.result.unwrap();
    assert_eq!(exit.state.to_json(), json!({ "work": { "runs": 1 } }));
    assert_eq!(exit.status.works["work"].status.stage, Stage::Succeeded);
}
