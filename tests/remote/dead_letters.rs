//! Messages that no handler saw reach the hook of the App, wherever they are lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{DeadLetter, DeadLetterReason, DeadLetterSender, OnNodeLost};

use crate::lab::{Add, Lab, Rest, Suite, Task, Unreadable, Until, give_up};
use crate::support::{
    Lodged, Process, joining, lab, node, signal, start_app_with, times, until, wherever_it_runs_with,
};

crate::tests![
    letters_of_a_stopped_work_name_their_senders,
    letters_that_cannot_be_read_say_why,
    given_up_questions_are_letters,
    letters_to_a_lost_process_are_reported,
    letters_of_a_process_that_ends_are_reported,
];

/// Letters that the hook of the last App has got.
#[derive(Clone, Default)]
struct Letters(Arc<Mutex<Arc<Mutex<Vec<DeadLetter>>>>>);

impl Letters {
    fn hook(&self, app: App) -> App {
        let letters = Arc::<Mutex<Vec<_>>>::default();
        *self.0.lock().expect("no test panics with it") = letters.clone();
        app.on_dead_letter(move |letter| letters.lock().expect("no test panics with it").push(letter.clone()))
    }

    fn all(&self) -> Vec<DeadLetter> {
        let letters = self.0.lock().expect("no test panics with it").clone();
        letters.lock().expect("no test panics with it").to_vec()
    }

    /// The numbers of letters by sender and reason. All are for `a`.
    fn counts(&self) -> BTreeMap<(String, DeadLetterReason), u64> {
        let mut counts = BTreeMap::new();
        for letter in self.all() {
            assert_eq!(letter.to.as_str(), "a", "{letter:?}");
            *counts.entry((letter.sender.to_string(), letter.reason)).or_default() += letter.count;
        }
        counts
    }
}

/// Runs a test wherever its Works run, each time with new letters.
fn wherever(test: impl Fn(&Letters, &dyn Fn(crate::support::Make) -> Lodged)) {
    let letters = Letters::default();
    let hook = letters.clone();
    wherever_it_runs_with(move |app| hook.hook(app), |lodge| test(&letters, lodge));
}

/// The path of a file that does not exist yet, for [`Until`].
fn gate(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("flowright-letters-{}-{name}", std::process::id()))
}

/// Messages that wait in the mailbox of a Work when it is stopped are letters, each once, with the Work or the code that
/// has sent them.
fn letters_of_a_stopped_work_name_their_senders() {
    wherever(|letters, lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let mut is_stopped = false;
            Suite::new(lab(a), lab(b), move |suite, _| {
                if suite.a.is_held
                    && suite.b.run(Task::Tell(suite.a.addr(), 30)).poll().is_some()
                    && !is_stopped
                {
                    is_stopped = true;
                    suite.a.stop();
                }
                Ok(())
            })
        }));
        let app = &lodged.app;
        let a = app.work::<Lab>("a");
        app.wait_for_work("a", |a| a.is_up);
        app.block_on(async {
            a.tell(Rest).await.expect("the Work runs");
            for number in 0..20 {
                a.tell(Add(number)).await.expect("the Work runs");
            }
        });
        app.wait_for_stage("b", Stage::Succeeded);
        let all = BTreeMap::from([
            (("work `b`".to_owned(), DeadLetterReason::Stopped), 30),
            (("outside".to_owned(), DeadLetterReason::Stopped), 20),
        ]);
        until("all letters", || letters.counts().values().sum::<u64>() >= 50);
        assert_eq!(letters.counts(), all, "{:?}", lodged.places);
        assert!(letters.all().iter().all(|letter| letter.message.ends_with("::Add")));
        drop(lodged);
        assert_eq!(letters.counts(), all);
    });
}

/// A message that the process of its Work cannot read is a letter with the error; one in the same process is read.
fn letters_that_cannot_be_read_say_why() {
    wherever(|letters, lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let app = &lodged.app;
        app.wait_for_work("a", |a| a.is_up);
        let a = app.work::<Lab>("a");
        app.block_on(a.tell(Unreadable)).expect("the Work runs");
        if lodged.places.0 == "thread" {
            return;
        }
        until("the letter", || !letters.all().is_empty());
        let letter = letters.all()[0].clone();
        assert_eq!((&letter.sender, letter.count), (&DeadLetterSender::Outside, 1), "{:?}", lodged.places);
        assert_eq!(letter.reason, DeadLetterReason::Unsendable);
        assert!(letter.why.contains("it is not read"), "{letter:?}");
        let node = lodged.places.0.trim_end_matches("/pool");
        assert_eq!(letter.node, if node == "process" { "head" } else { node });
    });
}

/// Each question that was given up before a handler began is one letter, also if the Work and its asker are on nodes.
fn given_up_questions_are_letters() {
    wherever(|letters, lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let is_here = |place| matches!(place, Placement::Thread | Placement::Pool);
            let is_beside = is_here(a) && is_here(b) || a == b && a != Placement::Process;
            Suite::new(lab(a), lab(b), move |suite, _| {
                // With the first message, the process of `b` knows where `a` is: a question that waits for that is not sent.
                if suite.a.is_held && suite.b.run(Task::Tell(suite.a.addr(), 1)).poll().is_some() {
                    suite.b.run(Task::GiveUp(suite.a.addr(), is_beside));
                }
                Ok(())
            })
        }));
        let (app, gate) = (&lodged.app, gate("given-up"));
        let a = app.work::<Lab>("a");
        app.wait_for_work("a", |a| a.is_up);
        app.block_on(a.tell(Until(gate.clone()))).expect("the Work runs");
        app.wait_for_state("b.count", |count: &u64| *count == 10);
        app.block_on(give_up(&a, 200, lodged.places.0 == "thread"));
        std::fs::write(&gate, "").expect("the file is writable");
        let all = BTreeMap::from([
            (("work `b`".to_owned(), DeadLetterReason::Abandoned), 10),
            (("outside".to_owned(), DeadLetterReason::Abandoned), 10),
        ]);
        until("all letters", || letters.counts().values().sum::<u64>() >= 20);
        assert_eq!(letters.counts(), all, "{:?}", lodged.places);
        std::fs::remove_file(&gate).expect("the file exists");
    });
}

/// Messages on the way to a process that is killed before it has got them are letters: those that it may have handled
/// ([`DeadLetterReason::NodeLost`]), and those that come back to a Work that has failed.
fn letters_to_a_lost_process_are_reported() {
    for place in [Placement::Process, node("n")] {
        let letters = Letters::default();
        let make = move || {
            let a = lab(place).on_node_lost(OnNodeLost::Fail).on_error(OnError::Capture);
            Suite::new(a, lab(Placement::Thread), |_, _| Ok(()))
        };
        let app: TestApp = start_app_with(make, |app| letters.hook(app));
        let _node = (place != Placement::Process).then(|| Process::node(&joining(&app), "n"));
        app.wait_for_work("a", |a| a.is_up);
        let a = app.work::<Lab>("a");
        // The channel is open from here on.
        app.block_on(a.ask(Add(0))).expect("the Work answers");
        let process = app.wait_for_state("a.process", |process: &u32| *process > 0);
        signal(process, "STOP");
        for number in 0..5 {
            a.try_tell(Add(number)).expect("there is credit");
        }
        signal(process, "KILL");
        until("all letters", || letters.counts().values().sum::<u64>() >= 5);
        let counts = letters.counts();
        let is_expected = |reason| matches!(reason, DeadLetterReason::NodeLost | DeadLetterReason::Failed);
        assert!(
            counts.keys().all(|(sender, reason)| sender == "outside" && is_expected(*reason)),
            "{counts:?}"
        );
        assert_eq!(counts.values().sum::<u64>(), 5, "{place}: {counts:?}");
    }
}

/// A Work in a process of its own tells a Work on a node that does not answer, and is stopped: its process ends, and then the
/// node is lost. The messages were on their way from one to the other.
fn letters_of_a_process_that_ends_are_reported() {
    let letters = Letters::default();
    let gate = gate("told");
    let is_frozen = gate.clone();
    let make = move || {
        let a = lab(node("n")).on_node_lost(OnNodeLost::Fail).on_error(OnError::Capture);
        Suite::new(a, lab(Placement::Process), move |suite, _| {
            // With the first message, the process of `b` has a session with the node.
            suite.a.run(Task::Serve);
            let is_up = suite.a.is_running() || suite.b.has_started();
            let is_open = is_up && suite.b.run(Task::Send(suite.a.addr(), 2)).poll().is_some();
            if is_open
                && suite.b.run(Task::Block(is_frozen.clone())).poll().is_some()
                && suite.b.run(Task::Tell(suite.a.addr(), 5)).poll().is_some()
            {
                suite.b.stop();
            }
            Ok(())
        })
    };
    let app: TestApp = start_app_with(make, |app| letters.hook(app.config(times(500, 4000))));
    let node = Process::node(&joining(&app), "n");
    app.wait_for_state("b.sum", |sum: &Option<u64>| sum.is_some());
    let process = app.wait_for_state("b.process", |process: &u32| *process > 0);
    node.signal("STOP");
    std::fs::write(&gate, "").expect("the file can be written");
    until("the end of the process of b", || crate::support::has_ended(process));
    node.signal("KILL");
    until("all letters", || letters.counts().values().sum::<u64>() >= 5);
    assert_eq!(letters.counts().values().sum::<u64>(), 5, "{:?}", letters.all());
    std::fs::remove_file(gate).expect("it was written");
}
