//! Tests of the checker: a good history breaks no rule, and each rule finds what breaks it.

use serde_json::{Value as Json, json};

use super::{Checker, FORGOTTEN, Hold, OPERATED, REPEATED, Source};
use crate::plan;
use crate::record::{Line, What};

crate::tests![
    good_history_breaks_no_rule,
    counter_that_goes_back_is_found,
    counter_of_an_answer_goes_back_in_the_next_life,
    state_apart_from_the_outcomes_is_found,
    children_of_another_wave_are_found,
    work_that_comes_back_is_found,
    lost_stop_of_an_operator_is_found,
    run_of_a_stopped_work_is_found,
    attempt_that_changes_or_is_lost_is_found,
    second_run_after_a_shown_success_is_found,
    second_run_that_was_asked_for_is_right,
    attempt_without_a_failure_is_found,
    link_that_begins_after_the_next_one_is_found,
    wave_that_begins_after_the_next_one_is_found,
    number_that_is_made_again_is_found,
    run_that_is_missing_at_the_end_is_found,
    run_that_is_done_twice_at_the_end_is_found,
    acknowledged_request_that_is_lost_is_found,
];

/// A document in this wave, with nothing else done.
fn document(wave: u64) -> Json {
    let work = |succeeded: u64| json!({"held": null, "current": null, "runs": {"waiting": 0, "succeeded": succeeded, "failed": 0}});
    let job = |done: u64| json!({"done": done, "steps": 0});
    let mut works = json!({"feeder": work(0), "below.chain": work(0), "below.beater": work(0)});
    for name in [REPEATED, "alone", "captured", OPERATED, FORGOTTEN] {
        works[name] = work(0);
    }
    let mut cells = json!({});
    for cell in plan::cells(wave) {
        cells[&cell] = job(0);
        works[format!("cells.{cell}")] = work(0);
    }
    let lines: Vec<_> = (0..plan::lines(wave)).map(|_| job(0)).collect();
    // No name is used again in a later wave.
    (0..lines.len() as u64).for_each(|line| works[format!("lines.{}", 10 * wave + line)] = work(0));
    json!({
        "state": {
            "asked": 0, "ticks": 0, "wave": wave, "built": plan::built_before(wave),
            "feeder": {"made": 0}, "pooled": job(0), "alone": job(0), "captured": job(0), "operated": job(0),
            "ticker": job(0), "cells": cells, "lines": lines,
            "below": {"link": 0, "beats": 0, "repeats": 0, "chain": job(0), "beater": job(0)},
        },
        "works": works,
    })
}

fn line(at: u64, path: &str, what: What, input: u64, attempt: u32) -> Line {
    Line { at, path: path.to_owned(), what, input, attempt }
}

fn page(run: u64, input: u64, stage: &str) -> Json {
    json!({"total": 1, "items": [{"run": run, "input": input, "stage": stage, "attempt": 1, "ended": "2026-01-01"}]})
}

#[track_caller]
fn finds(checker: &Checker, text: &str) {
    let found = checker.violations();
    assert!(found.len() == 1 && found[0].contains(text), "{found:#?}");
}

/// Two lives, in which a wave passes and a run is made again because the operator asked for it.
fn good_history_breaks_no_rule() {
    let mut checker = Checker::new();
    checker.life_begins(1);
    checker.see(&document(0));
    checker.see(&document(1));
    checker.see_runs(10, REPEATED, &page(1, 7, "succeeded"));
    checker.life_begins(20);
    checker.see(&document(1));
    checker.see(&document(2));
    checker.see_runs(30, REPEATED, &page(1, 7, "succeeded"));
    let lines = [
        line(2, REPEATED, What::Begin, 7, 1),
        line(3, REPEATED, What::Fail, 7, 1),
        line(4, REPEATED, What::Begin, 7, 2),
        line(5, "cells.w0-0", What::Begin, 0, 1),
        line(6, "lines.0", What::Begin, 1, 1),
        line(7, "below.chain", What::Begin, 1, 1),
        line(21, "below.chain", What::Begin, 1, 1),
        line(22, "below.chain", What::Begin, 2, 1),
        line(23, "feeder", What::Begin, 7, 1),
    ];
    checker.check_record(&lines);
    checker.check_end(&document(2));
    checker.check_repeats_are_done(&lines);
    assert!(checker.violations().is_empty(), "{:#?}", checker.violations());
}

/// In the same life or a later one.
fn counter_that_goes_back_is_found() {
    for (pointer, text) in [
        ("/state/ticks", "ticks was shown as 5 and is shown as 4"),
        ("/state/below/link", "below.link was shown as 5 and is shown as 4"),
        ("/state/pooled/steps", "pooled: steps was shown as 5 and is shown as 4"),
        ("/works/pooled/runs/failed", "pooled: failed was shown as 5 and is shown as 4"),
    ] {
        for is_later in [false, true] {
            let mut checker = Checker::new();
            checker.life_begins(1);
            let mut shown = document(0);
            *shown.pointer_mut(pointer).unwrap() = json!(5);
            checker.see(&shown);
            if is_later {
                checker.life_begins(2);
            }
            *shown.pointer_mut(pointer).unwrap() = json!(4);
            checker.see(&shown);
            finds(&checker, text);
        }
    }
}

/// Events may be later than answers in one life, and not in the next.
fn counter_of_an_answer_goes_back_in_the_next_life() {
    let mut checker = Checker::new();
    checker.life_begins(1);
    let mut shown = document(0);
    shown["state"]["ticks"] = json!(5);
    checker.see_state(Source::Answers, &shown["state"]);
    shown["state"]["ticks"] = json!(4);
    checker.see(&shown);
    assert!(checker.violations().is_empty(), "{:#?}", checker.violations());
    checker.life_begins(2);
    checker.see(&shown);
    finds(&checker, "ticks was shown as 5 and is shown as 4");
}

fn state_apart_from_the_outcomes_is_found() {
    for path in ["pooled", "lines.0"] {
        let mut checker = Checker::new();
        let mut shown = document(0);
        shown["works"][path]["runs"]["succeeded"] = json!(1);
        checker.see(&shown);
        finds(&checker, "shows 0 runs in its state, and 1 have succeeded");
    }
}

fn children_of_another_wave_are_found() {
    let mut checker = Checker::new();
    let mut shown = document(1);
    shown["state"]["lines"] = json!([]);
    shown["works"].as_object_mut().unwrap().retain(|path, _| !path.starts_with("lines."));
    checker.see(&shown);
    finds(&checker, "in wave 1 there are the cells");

    let mut checker = Checker::new();
    let mut shown = document(1);
    shown["state"]["built"] = json!(0);
    checker.see(&shown);
    finds(&checker, "wave Some(1) begins after Some(0) runs");
}

fn work_that_comes_back_is_found() {
    let mut checker = Checker::new();
    for is_there in [true, false, true] {
        checker.life_begins(1);
        let mut shown = document(0);
        if is_there {
            shown["works"]["cells.other"] = shown["works"]["cells.w0-0"].clone();
            shown["state"]["cells"]["other"] = json!({"done": 0, "steps": 0});
        }
        let before = checker.violations.len();
        checker.see(&shown);
        // The other cell is none of the wave.
        checker.violations.retain(|found| !found.contains("there are the cells"));
        assert!(checker.violations.len() <= before + 1);
    }
    finds(&checker, "cells.other had left, and is back");
}

fn lost_stop_of_an_operator_is_found() {
    for (hold, is_shown, text) in [(Hold::Held, false, "is lost"), (Hold::Free, true, "is back")] {
        let mut checker = Checker::new();
        checker.operator_sends(1);
        checker.operator_is_answered(hold);
        let mut shown = document(0);
        // Nothing is said about the same life, in which events may be late.
        checker.see(&shown);
        checker.life_begins(5);
        shown["works"][OPERATED]["held"] = if is_shown { json!({"by": "alice"}) } else { Json::Null };
        checker.see(&shown);
        finds(&checker, text);
    }
}

fn run_of_a_stopped_work_is_found() {
    let lines = [line(10, OPERATED, What::Begin, 1, 1)];
    for (started, is_right) in [(None, false), (Some(7), true)] {
        let mut checker = Checker::new();
        checker.operator_sends(1);
        checker.operator_is_answered(Hold::Held);
        checker.life_begins(5);
        if let Some(at) = started {
            checker.operator_sends(at);
        }
        checker.check_record(&lines);
        assert_eq!(checker.violations().is_empty(), is_right, "{:#?}", checker.violations());
    }
}

fn attempt_that_changes_or_is_lost_is_found() {
    for (later, text) in [
        (page(3, 7, "failed"), "run 3 of pooled was shown as"),
        (page(3, 8, "succeeded"), "run 3 of pooled was shown as"),
        (page(2, 6, "succeeded"), "is not listed any more"),
        (json!({"total": 0, "items": []}), "is not listed any more"),
    ] {
        let mut checker = Checker::new();
        checker.see_runs(1, REPEATED, &page(3, 7, "succeeded"));
        checker.life_begins(2);
        checker.see_runs(3, REPEATED, &later);
        finds(&checker, text);
    }
}

fn second_run_after_a_shown_success_is_found() {
    let mut checker = Checker::new();
    checker.see_runs(5, "alone", &page(1, 7, "succeeded"));
    checker.check_record(&[line(6, "alone", What::Begin, 7, 1)]);
    finds(&checker, "after its end was shown");
    // It was shown later, or it has failed and is tried again.
    let mut checker = Checker::new();
    checker.see_runs(5, "alone", &page(1, 7, "succeeded"));
    checker.see_runs(5, REPEATED, &page(1, 7, "failed"));
    checker.check_record(&[line(4, "alone", What::Begin, 7, 1), line(6, REPEATED, What::Begin, 7, 1)]);
    assert!(checker.violations().is_empty(), "{:#?}", checker.violations());
    // A failure that was captured is an end.
    let mut checker = Checker::new();
    checker.see_runs(5, "captured", &page(1, 7, "failed"));
    checker.check_record(&[line(6, "captured", What::Begin, 7, 1)]);
    finds(&checker, "after its end was shown");
}

fn second_run_that_was_asked_for_is_right() {
    let mut checker = Checker::new();
    checker.see_runs(5, REPEATED, &page(1, 7, "succeeded"));
    checker.repeat_is_sent(REPEATED, 7, 6);
    let mut lines = vec![line(7, REPEATED, What::Begin, 7, 1)];
    checker.check_record(&lines);
    assert!(checker.violations().is_empty(), "{:#?}", checker.violations());
    checker.see_runs(
        8,
        REPEATED,
        &json!({"items": [page(1, 7, "succeeded")["items"][0], page(2, 7, "succeeded")["items"][0]]}),
    );
    lines.push(line(9, REPEATED, What::Begin, 7, 1));
    checker.check_record(&lines);
    finds(&checker, "after its end was shown");
}

fn attempt_without_a_failure_is_found() {
    let mut checker = Checker::new();
    checker.check_record(&[line(1, "alone", What::Begin, 3, 1), line(2, "alone", What::Begin, 3, 2)]);
    finds(&checker, "after 0 failures");
}

fn link_that_begins_after_the_next_one_is_found() {
    let begin = |at, input| line(at, "below.chain", What::Begin, input, 1);
    let mut checker = Checker::new();
    checker.check_record(&[begin(1, 1), begin(2, 2), begin(3, 1)]);
    finds(&checker, "which depends on it");
    let mut checker = Checker::new();
    checker.check_record(&[begin(1, 1), begin(2, 3)]);
    finds(&checker, "a link is missing");
}

fn wave_that_begins_after_the_next_one_is_found() {
    let mut checker = Checker::new();
    checker.check_record(&[line(1, "cells.w0-0", What::Begin, 1, 1), line(2, "lines.4", What::Begin, 0, 1)]);
    finds(&checker, "which depends on it");
}

fn number_that_is_made_again_is_found() {
    let mut checker = Checker::new();
    checker.check_record(&[line(1, "alone", What::Begin, 8, 1), line(2, "feeder", What::Begin, 7, 1)]);
    finds(&checker, "after a run with the number 8 has begun");
}

fn run_that_is_missing_at_the_end_is_found() {
    for (pointer, text) in [
        ("/state/ticks", "0 runs of ticker have succeeded, of 1 requested by its Flow"),
        ("/state/below/repeats", "0 runs of below.beater have succeeded, of 1 requested by its Flow"),
        ("/state/below/link", "0 runs of below.chain have succeeded, of 1 requested by its Flow"),
        ("/state/feeder/made", "1 numbers were made, and 0 asked for"),
    ] {
        let mut checker = Checker::new();
        let mut last = document(0);
        *last.pointer_mut(pointer).unwrap() = json!(1);
        checker.check_end(&last);
        finds(&checker, text);
    }
}

fn run_that_is_done_twice_at_the_end_is_found() {
    let mut checker = Checker::new();
    let mut last = document(0);
    last["works"]["alone"]["runs"]["succeeded"] = json!(1);
    checker.check_end(&last);
    finds(&checker, "1 runs of alone have succeeded, of 0 requested");
}

fn acknowledged_request_that_is_lost_is_found() {
    let mut checker = Checker::new();
    let request = checker.repeat_is_sent(REPEATED, 7, 5);
    checker.check_repeats_are_done(&[]);
    assert!(checker.violations().is_empty(), "its answer is not known: {:#?}", checker.violations());
    checker.repeat_is_acknowledged(request);
    checker.check_repeats_are_done(&[line(6, REPEATED, What::End, 7, 1)]);
    assert!(checker.violations().is_empty(), "{:#?}", checker.violations());
    checker.check_repeats_are_done(&[line(4, REPEATED, What::End, 7, 1)]);
    finds(&checker, "was acknowledged and is lost");
}
