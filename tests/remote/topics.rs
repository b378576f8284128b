//! Topics reach their subscribers wherever they and the publishers run.

use flowright::Topic;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::http_caller::HttpCaller;
use crate::lab::{Add, Lab, OnTopic, Suite, Sum, Task};
use crate::process::LIMIT;
use crate::proxy::{Proxy, Weather};
use crate::support::{
    Process, joining, lab, node, serve, start, start_with, times, until, wherever_it_runs,
    wherever_it_runs_with,
};

crate::tests![
    messages_reach_all_subscribers_wherever_they_run,
    topic_has_one_type_in_all_processes,
    api_and_metrics_sum_up_the_topics_of_all_processes,
    topics_survive_broken_connections,
    held_connection_drops_messages_and_holds_nobody_up,
    killed_node_costs_its_own_subscriptions_only,
];

fn on(app: &TestApp, path: &str, what: OnTopic) -> std::result::Result<(), String> {
    let work = app.work::<Lab>(path);
    app.block_on(async { work.ask(what).timeout(LIMIT).await.expect("it answers") })
}

/// Waits until a Work has received as many numbers, which `sum` publishes.
fn received(app: &TestApp, path: &str, mut enough: impl FnMut(&[u32]) -> bool) -> Vec<u32> {
    let work = app.work::<Lab>(path);
    let mut received = Vec::new();
    until("the messages", || {
        app.block_on(async { work.ask(Sum).timeout(LIMIT).await.expect("it answers") });
        received = app.wait_for_state(&format!("{path}.received"), |_: &Vec<u32>| true);
        enough(&received)
    });
    received
}

fn numbers(app: &TestApp) -> Topic<Add> {
    app.block_on(app.control().topic("numbers")).expect("it has numbers")
}

/// Both Works and the program publish, and both Works get everything that was published since they subscribed, in the order
/// of each publisher, and nothing after they have cancelled.
fn messages_reach_all_subscribers_wherever_they_run() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let (app, places) = (&lodged.app, lodged.places);
        ["a", "b"].iter().for_each(|path| drop(app.wait_for_work(path, |work| work.is_up)));
        let numbers = numbers(app);
        assert_eq!(on(app, "a", OnTopic::Subscribe("numbers".to_owned(), 1000)), Ok(()));
        assert_eq!(on(app, "b", OnTopic::SubscribeTo(numbers.clone())), Ok(()));
        for (path, from) in [("a", 0), ("b", 1000)] {
            assert_eq!(on(app, path, OnTopic::Publish("numbers".to_owned(), from, from + 100)), Ok(()));
        }
        (2000..2100).for_each(|number| numbers.publish(Add(number)).expect("it is published"));
        for path in ["a", "b"] {
            let all = received(app, path, |received| received.len() == 300);
            for from in [0, 1000, 2000] {
                let of_one = all.iter().copied().filter(|number| (from..from + 100).contains(number));
                assert!(of_one.eq(from..from + 100), "{places:?} {path}: {all:?}");
            }
        }
        assert_eq!(on(app, "b", OnTopic::Cancel), Ok(()));
        assert_eq!(on(app, "b", OnTopic::Publish("numbers".to_owned(), 3000, 3010)), Ok(()));
        let all = received(app, "a", |received| received.len() == 310);
        assert!(all[300..].iter().copied().eq(3000..3010), "{places:?}");
        assert_eq!(received(app, "b", |_| true).len(), 300, "{places:?}");
    });
}

/// A Work that uses a topic with another type is told both types, wherever the others are.
fn topic_has_one_type_in_all_processes() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let app = &lodged.app;
        ["a", "b"].iter().for_each(|path| drop(app.wait_for_work(path, |work| work.is_up)));
        assert_eq!(on(app, "a", OnTopic::Subscribe("numbers".to_owned(), 8)), Ok(()));
        let error = on(app, "b", OnTopic::OpenOther("numbers".to_owned())).expect_err("it has numbers");
        let is_both = error.contains("::Add` and not `") && error.contains("::Load`");
        assert!(is_both, "{:?}: {error}", lodged.places);
        let error = app.block_on(app.control().topic::<String>("numbers")).expect_err("it has numbers");
        assert!(error.to_string().contains("::Add` and not `alloc::string::String`"), "{error}");
        // Once nobody uses it any more, it may have another type.
        assert_eq!(on(app, "a", OnTopic::Cancel), Ok(()));
        until("a free topic", || on(app, "b", OnTopic::OpenOther("numbers".to_owned())).is_ok());
    });
}

/// The API and the metrics have the numbers of all processes, and the subscribers with their nodes.
fn api_and_metrics_sum_up_the_topics_of_all_processes() {
    let serve = |app: App| app.serve("127.0.0.1:0".parse().expect("an address"));
    wherever_it_runs_with(serve, |lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let (app, places) = (&lodged.app, lodged.places);
        ["a", "b"].iter().for_each(|path| drop(app.wait_for_work(path, |work| work.is_up)));
        for (path, bound) in [("a", 16), ("b", 17)] {
            assert_eq!(on(app, path, OnTopic::Subscribe("numbers".to_owned(), bound)), Ok(()));
        }
        assert_eq!(on(app, "a", OnTopic::Publish("numbers".to_owned(), 0, 10)), Ok(()));
        let address = app.address().expect("the App is served");
        let mut topic = serde_json::Value::Null;
        until("the numbers of all processes", || {
            let answer =
                app.block_on(async { HttpCaller::connect(address).await.get("/api/v1/topics").await });
            let topics: serde_json::Value = serde_json::from_str(&answer.body).expect("it is JSON");
            topic = topics["items"][0].clone();
            topic["published"] == 10 && topic["delivered"] == 20 && topic["subscriber_count"] == 2
        });
        assert_eq!((&topic["name"], &topic["dropped"]), (&"numbers".into(), &0.into()), "{topic}");
        assert!(topic["type"].as_str().is_some_and(|name| name.ends_with("::Add")), "{topic}");
        let of = |path: &str| {
            let all = topic["subscribers"].as_array().expect("they are listed");
            all.iter().find(|each| each["path"] == path).cloned().expect("it is listed")
        };
        for (path, place, bound) in [("a", places.0, 16), ("b", places.1, 17)] {
            let place = place.trim_end_matches("/pool");
            let node = if matches!(place, "m" | "n") { place } else { "head" };
            let expected = serde_json::json!({
                "path": path, "node": node, "bound": bound, "overflow": "drop_oldest", "waiting": 0,
                "delivered": 10, "dropped": 0,
            });
            assert_eq!(of(path), expected, "{places:?}");
        }
        let metrics = app.block_on(async { HttpCaller::connect(address).await.get("/metrics").await }).body;
        for line in ["published_total{topic=\"numbers\"} 10", "delivered_total{topic=\"numbers\"} 20"] {
            assert!(metrics.contains(&format!("flowright_topic_{line}\n")), "{metrics}");
        }
    });
}

/// What is published while connections break arrives once, in order, and as a whole if the session has room for it.
fn topics_survive_broken_connections() {
    let app = start_with(times(400, 60_000), serve);
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    assert_eq!(on(&app, "a", OnTopic::Subscribe("numbers".to_owned(), 10_000)), Ok(()));
    assert_eq!(on(&app, "b", OnTopic::Subscribe("numbers".to_owned(), 10_000)), Ok(()));
    let numbers = numbers(&app);
    for round in 0..10 {
        let from = round * 200;
        (from..from + 100).for_each(|number| numbers.publish(Add(number)).expect("it is published"));
        proxy.set(Weather::Cut);
        (from + 100..from + 150).for_each(|number| numbers.publish(Add(number)).expect("it is published"));
        proxy.set(Weather::Fair);
        let published = OnTopic::Publish("numbers".to_owned(), from + 150, from + 200);
        assert_eq!(on(&app, "a", published), Ok(()));
    }
    for path in ["a", "b"] {
        let all = received(&app, path, |received| received.len() == 2000);
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..2000), "{path}: {all:?}");
        let of_program = all.iter().copied().filter(|number| number % 200 < 150);
        assert!(of_program.is_sorted(), "{path}: {all:?}");
        let of_a = all.iter().copied().filter(|number| number % 200 >= 150);
        assert!(of_a.is_sorted(), "{path}: {all:?}");
    }
}

/// A node that takes nothing in loses messages once half of the room of its session is used. Nobody waits for it, what is
/// kept for it is bounded, and it goes on with later messages.
fn held_connection_drops_messages_and_holds_nobody_up() {
    let app = start_with(times(60_000, 180_000), serve);
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    assert_eq!(on(&app, "a", OnTopic::Subscribe("numbers".to_owned(), 1_000_000)), Ok(()));
    let numbers = numbers(&app);
    proxy.set(Weather::Hold);
    let (count, later) = (200_000, 1_000_000);
    // More than 8 MiB, which is all that a session keeps.
    (0..count).for_each(|number| numbers.publish(Add(number)).expect("it is published"));
    proxy.set(Weather::Fair);
    let mut next = later;
    let all = received(&app, "a", |received| {
        numbers.publish(Add(next)).expect("it is published");
        next += 1;
        received.last().is_some_and(|last| *last >= later)
    });
    let arrived = all.iter().filter(|number| **number < later).count();
    assert!((1..150_000).contains(&arrived), "{arrived} of {count} have arrived");
    assert!(all.is_sorted_by(|a, b| a < b), "they have come in order, each once");
}

/// When a node is killed its subscription is gone, others keep theirs, and its next incarnation can subscribe again.
fn killed_node_costs_its_own_subscriptions_only() {
    let app = start(|| {
        Suite::new(lab(node("n")), lab(node("m")), |suite, _| {
            suite.a.run(Task::Serve);
            Ok(())
        })
    });
    let address = joining(&app);
    let (first, _m) = (Process::node(&address, "n"), Process::node(&address, "m"));
    app.wait_for_stage("a", Stage::Running);
    app.wait_for_work("b", |b| b.is_up);
    for path in ["a", "b"] {
        assert_eq!(on(&app, path, OnTopic::Subscribe("numbers".to_owned(), 100)), Ok(()));
    }
    let numbers = numbers(&app);
    numbers.publish(Add(1)).expect("it is published");
    received(&app, "a", |received| received == [1]);
    first.signal("KILL");
    app.wait_for_stage("a", Stage::Pending);
    numbers.publish(Add(2)).expect("it is published");
    received(&app, "b", |received| received == [1, 2]);
    let _second = Process::node(&address, "n");
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    assert_eq!(on(&app, "b", OnTopic::Publish("numbers".to_owned(), 3, 4)), Ok(()));
    received(&app, "b", |received| received == [1, 2, 3]);
    assert_eq!(received(&app, "a", |_| true), [1]);
    assert_eq!(on(&app, "a", OnTopic::Subscribe("numbers".to_owned(), 100)), Ok(()));
    numbers.publish(Add(4)).expect("it is published");
    received(&app, "a", |received| received == [1, 4]);
    received(&app, "b", |received| received == [1, 2, 3, 4]);
}
