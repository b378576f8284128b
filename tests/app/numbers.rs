//! Metrics for Prometheus: the App's own, and those that programs record themselves.

use std::collections::BTreeSet;

use crate::elsewhere::spread;
use crate::support::*;
use crate::tests;

tests![
    what_a_program_records_is_beside_the_numbers_of_the_app,
    a_recorder_of_the_programs_own_is_left_to_it,
    what_works_record_in_other_processes_is_there_with_where,
];

/// Returns the metrics of a program, once its clerk has finished.
fn numbers_of(program: &str) -> (Process, String) {
    let mut process = Process::start(program, &["--port", "0"]);
    let address = process.address();
    Events::open(address).until(|document| document["works"]["clerk"]["stage"] == "succeeded");
    (process, get(address, "/metrics").body)
}

#[track_caller]
fn assert_has(numbers: &str, wanted: &[&str]) {
    for line in wanted {
        assert!(numbers.lines().any(|there| there == *line), "{line} is not in\n{numbers}");
    }
}

fn end(process: Process) {
    process.signal("TERM");
    process.end();
}

fn what_a_program_records_is_beside_the_numbers_of_the_app() {
    let (mut process, numbers) = numbers_of("clerk");
    let wanted = [
        "# HELP pages_read_total Pages that were read.",
        "# TYPE pages_read_total counter",
        "pages_read_total{format=\"pdf\",node=\"head\"} 3",
        "pages_read_total{format=\"the \\\"best\\\"\",node=\"head\"} 1",
        "# TYPE queue_length gauge",
        "queue_length{node=\"head\"} 2.5",
        "# TYPE page_seconds histogram",
        "page_seconds_bucket{node=\"head\",le=\"0.1\"} 1",
        "page_seconds_bucket{node=\"head\",le=\"2.5\"} 2",
        "page_seconds_bucket{node=\"head\",le=\"+Inf\"} 3",
        "page_seconds_sum{node=\"head\"} 1000002.06",
        "page_seconds_count{node=\"head\"} 3",
        "flowright_work_run_seconds_count{work=\"clerk\",outcome=\"succeeded\"} 1",
        // The program tried to set this metric to 99, and a warning was logged.
        "flowright_works 1",
    ];
    assert_has(&numbers, &wanted);
    assert!(!numbers.lines().any(|line| line.ends_with(" 99")), "{numbers}");
    process.expect("`flowright_works` is not recorded: names that begin with `flowright_`");
    process.expect("`page_seconds` is not recorded: the other metric `page_seconds`");
    let mut names = BTreeSet::new();
    for name in numbers.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(names.insert(name), "{name} is there twice:\n{numbers}");
    }
    end(process);
}

fn a_recorder_of_the_programs_own_is_left_to_it() {
    let (process, numbers) = numbers_of("clerk_with_recorder");
    assert_has(&numbers, &["flowright_works 1"]);
    assert!(!numbers.contains("pages_read"), "{numbers}");
    end(process);
}

fn what_works_record_in_other_processes_is_there_with_where() {
    for (place, labels) in [("n", "node=\"n\""), ("process", "node=\"head\",work=\"clerk\"")] {
        let office = spread("clerk", &["--place", &format!("clerk={place}")]);
        let line = format!("pages_read_total{{format=\"pdf\",{labels}}} 3");
        // The metrics of processes arrive with their periodic reports.
        let numbers = loop {
            let numbers = get(office.address, "/metrics").body;
            if numbers.lines().any(|there| there == line) {
                break numbers;
            }
        };
        let wanted = [format!("queue_length{{{labels}}} 2.5"), format!("page_seconds_count{{{labels}}} 3")];
        assert_has(&numbers, &[&wanted[0], &wanted[1], "flowright_works 1"]);
        office.end();
    }
}
