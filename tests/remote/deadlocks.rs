//! Works in several processes that wait for each other's answers are told.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{DEFAULT_ASK_TIMEOUT, Placement};

use crate::lab::{Lab, Round, Suite};
use crate::process::LIMIT;
use crate::proxy::{Proxy, Weather};
use crate::support::{Process, joining, lab, node, program, start_with, times, wherever_it_runs};

crate::tests![
    cycle_of_two_is_told_wherever_they_run,
    cycle_through_all_kinds_of_places_is_told,
    cycle_is_told_over_connections_that_break,
];

/// Rotates a cycle, which begins with the Work whose ask has failed, so that it begins with the first by name.
fn from_first(mut cycle: Vec<String>) -> Vec<String> {
    assert!(cycle.len() > 1 && cycle.first() == cycle.last(), "{cycle:?}");
    cycle.pop();
    let first = cycle.iter().enumerate().min_by_key(|(_, path)| *path).expect("it has Works").0;
    cycle.rotate_left(first);
    cycle.push(cycle[0].clone());
    cycle
}

/// Two Works whose handlers ask each other get an error that names both, and go on.
fn cycle_of_two_is_told_wherever_they_run() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let app = &lodged.app;
        for path in ["a", "b"] {
            app.wait_for_work(path, |work| work.is_up);
        }
        let (a, b) = (app.work::<Lab>("a"), app.work::<Lab>("b"));
        for _ in 0..3 {
            let began = std::time::Instant::now();
            let told = app.block_on(a.ask(Round(vec![b.clone(), a.clone()]))).expect("it answers");
            let cycle = from_first(told.expect_err("nobody can answer"));
            assert_eq!(cycle, ["a", "b", "a"], "{:?}", lodged.places);
            assert!(
                began.elapsed() < DEFAULT_ASK_TIMEOUT / 2,
                "{:?}: it waited for a timeout",
                lodged.places
            );
            for work in [&a, &b] {
                assert_eq!(app.block_on(work.ask(Round(Vec::new()))).expect("it goes on"), Ok(()));
            }
        }
    });
}

#[derive(Serialize, Children)]
pub(crate) struct Ring {
    works: Vec<WorkRef<Lab>>,
}

impl Flow for Ring {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

pub(crate) fn ring() -> Ring {
    let places =
        [Placement::Thread, node("m"), Placement::Process, node("n"), Placement::Pool, Placement::Process];
    Ring { works: places.into_iter().map(lab).collect() }
}

/// Six Works in the head, in processes of their own and on nodes wait for each other in a circle.
fn cycle_through_all_kinds_of_places_is_told() {
    let app = App::new(ring).listen("127.0.0.1:0").process(|| Ok(program("ring")));
    let app = TestApp::start_app(app).limit(LIMIT);
    let _nodes = ["m", "n"].map(|name| Process::node_of("ring", &joining(&app), name, &[]));
    let paths: Vec<_> = (0..6).map(|number| format!("works.{number}")).collect();
    let works: Vec<_> = paths
        .iter()
        .map(|path| {
            app.wait_for_work(path, |work| work.is_up);
            app.work::<Lab>(path)
        })
        .collect();
    for first in 0..works.len() {
        let mut route = works.clone();
        route.rotate_left(first);
        let start = route.remove(0);
        route.push(start.clone());
        let told = app.block_on(start.ask(Round(route))).expect("it answers");
        let cycle = from_first(told.expect_err("nobody can answer"));
        assert_eq!(cycle[..6], paths[..], "from {first}");
    }
}

/// Cycles between the head and a node are told over connections that break.
fn cycle_is_told_over_connections_that_break() {
    let app =
        start_with(times(400, 60_000), || Suite::new(lab(node("n")), lab(Placement::Thread), |_, _| Ok(())));
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    for path in ["a", "b"] {
        app.wait_for_work(path, |work| work.is_up);
    }
    let (a, b) = (app.work::<Lab>("a"), app.work::<Lab>("b"));
    for round in 0..5 {
        let told = app.block_on(async {
            let asked = async { a.ask(Round(vec![b.clone(), a.clone()])).await };
            let cut = async {
                // While the cycle closes, is reported, or is checked.
                tokio::time::sleep(Duration::from_millis(20 * round)).await;
                proxy.set(Weather::Cut);
                proxy.set(Weather::Fair);
            };
            tokio::join!(asked, cut).0
        });
        let cycle = from_first(told.expect("it answers").expect_err("nobody can answer"));
        assert_eq!(cycle, ["a", "b", "a"], "round {round}");
    }
}
