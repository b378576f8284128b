//! Children: their names, their state in the tree, and children that are added and removed.

use std::collections::{BTreeMap, HashMap};

use flowright::prelude::*;
use flowright::testing::TestApp;
use serde_json::json;

use crate::support::*;

#[derive(Default, Serialize, Children)]
struct Team {
    goal: u32,
    lead: WorkRef<Probe>,
    members: Vec<WorkRef<Probe>>,
}

impl Flow for Team {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

fn team(members: usize) -> Team {
    Team { members: (0..members).map(|_| WorkRef::default()).collect(), ..Team::default() }
}

/// A Flow whose children's types are passed through a macro.
macro_rules! flow_of {
    ($name:ident, $one:ty, $many:ty) => {
        #[derive(Default, Serialize, Children)]
        #[serde(rename_all = "snake_case")]
        struct $name {
            one: $one,
            many: $many,
        }

        impl Flow for $name {
            fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
                Ok(())
            }
        }
    };
}

flow_of!(ByMacro, WorkRef<Probe>, Vec<Option<WorkRef<Probe>>>);

/// Types that were passed to a macro as `$t:ty` are found as children like any others.
#[test]
fn children_whose_types_come_from_a_macro_are_found() {
    let app = TestApp::start(|| ByMacro { many: vec![Some(WorkRef::default())], ..ByMacro::default() });
    let paths: Vec<_> = app.status().works.into_keys().collect();
    assert_eq!(paths, ["many.0", "one"]);
    app.stop();
}

/// A Flow with one child of every kind.
#[derive(Default, Serialize, Children)]
struct Everything {
    one: WorkRef<Probe>,
    none: Option<WorkRef<Probe>>,
    some: Option<WorkRef<Probe>>,
    list: Vec<WorkRef<Probe>>,
    sorted: BTreeMap<String, WorkRef<Probe>>,
    numbered: BTreeMap<u32, WorkRef<Probe>>,
    hashed: HashMap<String, WorkRef<Probe>>,
    lists: BTreeMap<String, Vec<WorkRef<Probe>>>,
    gaps: Vec<Option<WorkRef<Probe>>>,
    team: FlowRef<Team>,
    teams: Vec<FlowRef<Team>>,
    teams_by_name: BTreeMap<String, FlowRef<Team>>,
    own: Vec<u32>,
    #[serde(skip)]
    private: u32,
}

impl Flow for Everything {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.private += 1;
        Ok(())
    }
}

fn everything() -> Everything {
    Everything {
        some: Some(WorkRef::default()),
        list: vec![WorkRef::default(), WorkRef::default()],
        sorted: [("b".to_owned(), WorkRef::default()), ("a".to_owned(), WorkRef::default())].into(),
        numbered: [(7, WorkRef::default())].into(),
        hashed: [("x".to_owned(), WorkRef::default())].into(),
        lists: [("even".to_owned(), vec![WorkRef::default()])].into(),
        gaps: vec![None, Some(WorkRef::default())],
        team: team(0).into(),
        teams: vec![team(0).into(), team(1).into()],
        teams_by_name: [("red".to_owned(), team(1).into())].into(),
        own: vec![1, 2],
        ..Everything::default()
    }
}

#[test]
fn children_are_called_by_their_path_from_the_root() {
    let app = TestApp::start(everything);
    let status = app.status();
    let expected = [
        "gaps.0",
        "hashed.x",
        "list.0",
        "list.1",
        "lists.even.0",
        "numbered.7",
        "one",
        "some",
        "sorted.a",
        "sorted.b",
        "team.lead",
        "teams.0.lead",
        "teams.1.lead",
        "teams.1.members.0",
        "teams_by_name.red.lead",
        "teams_by_name.red.members.0",
    ];
    assert_eq!(status.works.keys().collect::<Vec<_>>(), expected);
    let flows = ["root", "team", "teams.0", "teams.1", "teams_by_name.red"];
    assert_eq!(status.flows.keys().collect::<Vec<_>>(), flows);
    for path in expected {
        // Each child runs and answers under its name.
        assert_eq!(app.block_on(app.work::<Probe>(path).ask(Ping)).unwrap(), 0);
    }
}

#[test]
fn the_state_of_an_app_is_the_tree_of_its_structs() {
    let app = TestApp::start(everything);
    for path in app.status().works.keys() {
        app.wait_for_state(&format!("{}.starts", path.replace("gaps.0", "gaps.1")), |starts: &u32| {
            *starts == 1
        });
    }
    let probe = json!({ "journal": "", "starts": 1, "value": 0 });
    let empty = json!({ "goal": 0, "lead": probe, "members": [] });
    let with_one = json!({ "goal": 0, "lead": probe, "members": [probe] });
    assert_eq!(
        json(&app),
        json!({
            "one": probe,
            "none": null,
            "some": probe,
            "list": [probe, probe],
            "sorted": { "a": probe, "b": probe },
            "numbered": { "7": probe },
            "hashed": { "x": probe },
            "lists": { "even": [probe] },
            "gaps": [null, probe],
            "team": empty,
            "teams": [empty, with_one],
            "teams_by_name": { "red": with_one },
            "own": [1, 2],
        })
    );
}

/// A Flow that adds and removes workers as its Work `boss` says: a value of `boss` is the number of workers that there
/// should be, or, if it is negative, the worker to remove.
#[derive(Serialize, Children)]
struct Crew {
    boss: WorkRef<Probe>,
    workers: Vec<WorkRef<Probe>>,
    teams: BTreeMap<String, FlowRef<Team>>,
    helper: Option<WorkRef<Probe>>,
    done: i64,
    #[serde(skip)]
    journal: &'static str,
}

impl Crew {
    fn new(journal: &'static str) -> Self {
        Self {
            boss: WorkRef::default(),
            workers: Vec::new(),
            teams: BTreeMap::new(),
            helper: None,
            done: 0,
            journal,
        }
    }
}

impl Flow for Crew {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let order = self.boss.value;
        if order == self.done {
            return Ok(());
        }
        match order {
            100 => self.helper = Some(WorkRef::new(Probe::of(self.journal))),
            101 => self.helper = None,
            200 => {
                self.teams.insert("blue".to_owned(), team(2).into());
            }
            201 => self.teams.clear(),
            wanted if wanted > 0 => {
                while self.workers.len() < usize::try_from(wanted)? {
                    self.workers.push(WorkRef::new(Probe::of(self.journal)));
                }
            }
            index => {
                self.workers.remove(usize::try_from(-index)?);
            }
        }
        self.done = order;
        Ok(())
    }
}

fn order(app: &TestApp, order: i64) {
    app.block_on(app.work::<Probe>("boss").tell(Set(order))).unwrap();
    app.wait_for_state("done", |done: &i64| *done == order);
}

#[test]
fn names_in_a_list_never_drift_and_are_never_given_twice() {
    let app = TestApp::start(|| Crew::new("drift"));
    order(&app, 3);
    for (index, value) in [(0, 10), (1, 11), (2, 12)] {
        app.block_on(app.work::<Probe>(&format!("workers.{index}")).tell(Set(value))).unwrap();
    }
    let values = |app: &TestApp| -> Vec<i64> {
        let state = app.state();
        let workers = json_list(&state.to_json()["workers"]);
        workers.iter().map(|worker| worker["value"].as_i64().unwrap()).collect()
    };
    app.wait_for_state("workers.2.value", |value: &i64| *value == 12);
    app.wait_for_state("workers.1.value", |value: &i64| *value == 11);
    app.wait_for_state("workers.0.value", |value: &i64| *value == 10);
    order(&app, -1);
    assert_eq!(works(&app), ["boss", "workers.0", "workers.2"]);
    assert_eq!(values(&app), [10, 12]);
    // The worker that has moved up still answers, and publishes, under its own name.
    assert_eq!(app.block_on(app.work::<Probe>("workers.2").ask(Set(22))).unwrap(), 12);
    app.wait_for_state("workers.1.value", |value: &i64| *value == 22);
    order(&app, 4);
    assert_eq!(works(&app), ["boss", "workers.0", "workers.2", "workers.3", "workers.4"]);
    assert_eq!(values(&app), [10, 22, 0, 0]);
    for place in ["workers.2.starts", "workers.3.starts"] {
        app.wait_for_state(place, |starts: &u32| *starts == 1);
    }
    assert_eq!(noted("drift", "start").len(), 5, "nobody was started twice");
}

fn json_list(json: &serde_json::Value) -> Vec<serde_json::Value> {
    json.as_array().cloned().unwrap_or_default()
}

#[test]
fn a_work_that_is_removed_is_stopped_and_its_address_leads_nowhere() {
    let app = TestApp::start(|| Crew::new("removed"));
    order(&app, 100);
    let helper = app.work::<Probe>("helper");
    assert_eq!(app.block_on(helper.ask(Ping)).unwrap(), 0);
    order(&app, 101);
    assert_eq!(works(&app), ["boss"]);
    assert_eq!(json(&app)["helper"], json!(null));
    let error = app.block_on(helper.ask(Ping)).unwrap_err().to_string();
    assert_says(&error, &["`helper`"]);
    let exit = app.stop();
    exit.result.unwrap();
    assert_eq!(noted("removed", "stop"), ["stop helper"]);
}

#[test]
fn a_name_in_a_field_is_free_again_when_its_work_is_gone() {
    let app = TestApp::start(|| Crew::new("again"));
    order(&app, 100);
    app.block_on(app.work::<Probe>("helper").tell(Set(5))).unwrap();
    app.wait_for_state("helper.value", |value: &i64| *value == 5);
    order(&app, 101);
    order(&app, 100);
    app.wait_for_state("helper.starts", |starts: &u32| *starts == 1);
    assert_eq!(app.block_on(app.work::<Probe>("helper").ask(Ping)).unwrap(), 0, "it is another one");
}

#[test]
fn flows_come_and_go_with_all_that_is_below_them() {
    let app = TestApp::start(|| Crew::new("flows"));
    order(&app, 200);
    assert_eq!(works(&app), ["boss", "teams.blue.lead", "teams.blue.members.0", "teams.blue.members.1"]);
    assert!(app.status().flows.contains_key("teams.blue"));
    app.wait_for_state("teams.blue.members.1.starts", |starts: &u32| *starts == 1);
    order(&app, 201);
    assert_eq!(works(&app), ["boss"]);
    assert!(!app.status().flows.contains_key("teams.blue"));
    assert_eq!(json(&app)["teams"], json!({}));
}

/// A Flow that adds a Work and runs it in the same reaction.
#[derive(Default, Serialize, Children)]
struct Hurried {
    jobs: BTreeMap<String, WorkRef<Probe>>,
}

impl Flow for Hurried {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut sum = 0;
        for (name, value) in [("a", 1), ("b", 2), ("c", 4)] {
            let work = self.jobs.entry(name.to_owned()).or_default();
            sum += work.run(Job::Set(value)).finished()?.value;
        }
        cx.stop(format!("{sum}"));
        Ok(())
    }
}

#[test]
fn a_work_can_be_run_in_the_reaction_that_adds_it() {
    let exit = TestApp::start(Hurried::default).wait_for_exit();
    exit.result.unwrap();
    let state = exit.state.to_json();
    let values: Vec<_> = ["a", "b", "c"].map(|name| state["jobs"][name]["value"].clone()).into();
    assert_eq!(values, [1, 2, 4]);
    assert!(exit.status.works.values().all(|work| work.successes == 1));
}

/// A Flow that moves its Work from one field to the other, and puts a new one in its place if `refill`.
#[derive(Default, Serialize, Children)]
struct Mover {
    first: Option<WorkRef<Probe>>,
    second: Option<WorkRef<Probe>>,
    refill: bool,
}

impl Flow for Mover {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        if self.first.as_ref().is_some_and(|first| first.value == 1) {
            self.second = self.first.take();
            if self.refill {
                self.first = Some(WorkRef::default());
            }
        }
        Ok(())
    }
}

#[test]
fn a_work_that_is_moved_lives_on_under_its_first_name() {
    let app = TestApp::start(|| Mover { first: Some(WorkRef::default()), ..Mover::default() });
    let probe = app.work::<Probe>("first");
    app.block_on(probe.tell(Set(1))).unwrap();
    app.wait_for_state("second.value", |value: &i64| *value == 1);
    assert_eq!(works(&app), ["first"]);
    assert_eq!(app.block_on(probe.ask(Set(2))).unwrap(), 1);
    app.wait_for_state("second.value", |value: &i64| *value == 2);
    app.wait_for_state("second.starts", |starts: &u32| *starts == 1);
}

#[test]
fn two_children_of_one_name_are_refused_with_the_remedy() {
    let app = TestApp::start(|| Mover { first: Some(WorkRef::default()), second: None, refill: true });
    app.block_on(app.work::<Probe>("first").tell(Set(1))).unwrap();
    let message = error(app.wait_for_exit());
    assert_says(&message, &["two children are called `first`", "remove one"]);
}

#[derive(Serialize, Children)]
struct Keyed {
    team: FlowRef<KeyedTeam>,
}

#[derive(Serialize, Children)]
struct KeyedTeam {
    members: HashMap<String, WorkRef<Probe>>,
}

impl Flow for Keyed {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

impl Flow for KeyedTeam {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

#[test]
fn a_key_that_cannot_be_part_of_a_path_is_refused_with_its_map() {
    for key in ["a.b", "", "."] {
        let message = refusal(move || Keyed {
            team: KeyedTeam { members: [(key.to_owned(), WorkRef::default())].into() }.into(),
        });
        assert_says(&message, &["the map `team.members`", &format!("{key:?}"), "must not be empty"]);
    }
}
