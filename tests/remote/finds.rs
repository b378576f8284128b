//! Works are found by their paths wherever they run.

use flowright::ServiceRef;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::lab::{Add, Find, Lab, Other, Suite};
use crate::process::LIMIT;
use crate::proxy::{Proxy, Weather};
use crate::support::{Process, joining, lab, node, program, serve, start_with, times, wherever_it_runs};

crate::tests![
    works_are_found_by_path_wherever_they_run,
    errors_of_a_node_say_what_is_at_the_path,
    lookups_survive_broken_connections,
];

/// Each of two Works finds the other by its path, and is told what is similar to a path that does not exist.
fn works_are_found_by_path_wherever_they_run() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let app = &lodged.app;
        for path in ["a", "b"] {
            app.wait_for_work(path, |work| work.is_up);
        }
        let (a, b) = (app.work::<Lab>("a"), app.work::<Lab>("b"));
        app.block_on(async {
            a.tell(Add(3)).await.expect("it runs");
            b.tell(Add(4)).await.expect("it runs");
            for (asker, path, sum) in [(&a, "b", 4), (&b, "a", 3)] {
                let reply = asker.ask(Find(path.to_owned())).await.expect("it answers");
                assert_eq!(reply, Ok(sum), "{:?}", lodged.places);
            }
            let none = a.ask(Find("c".to_owned())).await.expect("it answers");
            let text = "there is no work or service `c` in the App";
            assert!(none.as_ref().is_err_and(|error| error.starts_with(text)), "{none:?}");
        });
    });
}

#[derive(Serialize, Children)]
pub(crate) struct Kinds {
    asker: WorkRef<Lab>,
    other: WorkRef<Other>,
    team: FlowRef<Team>,
    service: ServiceRef<Lab>,
}

#[derive(Default, Serialize, Children)]
pub(crate) struct Team {
    /// It waits for a node that never joins.
    late: WorkRef<Lab>,
}

impl Flow for Team {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

impl Flow for Kinds {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

pub(crate) fn kinds() -> Kinds {
    Kinds {
        asker: lab(node("n")),
        other: WorkRef::default(),
        team: FlowRef::new(Team { late: lab(node("never")) }),
        service: ServiceRef::new(Lab::default()),
    }
}

/// A Work on a node is told of a Work of another type, of a Flow, and of similar paths. It finds a Work that has not
/// started, and a service that serves no version.
fn errors_of_a_node_say_what_is_at_the_path() {
    let app = App::new(kinds).listen("127.0.0.1:0").process(|| Ok(program("finds")));
    let app = TestApp::start_app(app).limit(LIMIT);
    let _node = Process::node_of("finds", &joining(&app), "n", &[]);
    app.wait_for_work("asker", |asker| asker.is_up);
    let asker = app.work::<Lab>("asker");
    app.block_on(async {
        for (path, parts) in [
            ("other", &["work `other` is a `", "::Other` and not a `", "::Lab`"][..]),
            ("team", &["`team` is the flow `", "::Team`, which takes no messages"]),
            ("", &["`root` is the flow `", "::Kinds`"]),
            ("team.lates", &["there is no work or service `team.lates`", "did you mean `team.late`?"]),
            ("team.late", &["work `team.late` waits for a node to run on; messages reach it once it runs"]),
        ] {
            let error = asker.ask(Find(path.to_owned())).await.expect("it answers").expect_err("no sum");
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
        let service = asker.ask(Find("service".to_owned())).timeout(Duration::from_millis(500)).await;
        let waits = service.expect_err("no version serves").to_string();
        assert!(waits.contains("did not answer within 500ms"), "{waits}");
    });
    drop(app);
}

/// Lookups of a Work on a node are answered over connections that break.
fn lookups_survive_broken_connections() {
    let app = start_with(times(400, 60_000), serve);
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let (a, b) = (app.work::<Lab>("a"), app.work::<Lab>("b"));
    app.block_on(async {
        b.tell(Add(5)).await.expect("it runs");
        for round in 0..10 {
            let finds = (0..50).map(|_| a.ask(Find("b".to_owned())));
            let cut = async {
                proxy.set(Weather::Cut);
                proxy.set(Weather::Fair);
            };
            let (found, ()) = tokio::join!(futures::future::join_all(finds), cut);
            for reply in found {
                assert_eq!(reply.expect("it answers"), Ok(5), "round {round}");
            }
        }
    });
}
