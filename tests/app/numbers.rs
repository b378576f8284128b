//! Numbers for Prometheus: the App's own, and those that programs record themselves.

use std::collections::BTreeSet;

use crate::support::*;
use crate::tests;

tests![what_a_program_records_is_beside_the_numbers_of_the_app, a_recorder_of_the_programs_own_is_left_to_it];

/// Its numbers, once its clerk has done its work.
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
        "pages_read_total{format=\"pdf\"} 3",
        "pages_read_total{format=\"the \\\"best\\\"\"} 1",
        "# TYPE queue_length gauge",
        "queue_length 2.5",
        "# TYPE page_seconds histogram",
        "page_seconds_bucket{le=\"0.1\"} 1",
        "page_seconds_bucket{le=\"2.5\"} 2",
        "page_seconds_bucket{le=\"+Inf\"} 3",
        "page_seconds_sum 1000002.06",
        "page_seconds_count 3",
        "flowright_work_run_seconds_count{work=\"clerk\",outcome=\"succeeded\"} 1",
        // The program has tried to set it to 99, and was told.
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
