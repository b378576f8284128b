//! Lines that Works log and print.

use serde_json::json;

use crate::support::*;

crate::tests![
    what_a_work_logs_is_kept_and_written_to_files,
    what_the_process_of_a_work_prints_is_kept_and_shown,
];

fn what_a_work_logs_is_kept_and_written_to_files() {
    let directory = std::env::temp_dir().join(format!("flowright-app-logs-{}", std::process::id()));
    let path = directory.to_str().expect("valid UTF-8");
    let mut process = Process::start("service", &["--port", "0", "--log-dir", path]);
    let address = process.address();
    process.expect("a warning");
    Events::open(address).until(|document| {
        ["first", "second"].iter().all(|work| document["works"][*work]["stage"] == "running")
    });
    let said = |query: &str| {
        let logs = get(address, &format!("/api/v1/logs?{query}")).json();
        logs["items"].as_array().expect("an array").clone()
    };
    // The run has begun, so its first lines arrive soon.
    let lines = loop {
        let lines = said("work=first&level=warn");
        if !lines.is_empty() {
            break lines;
        }
    };
    let line = &lines[0];
    assert_eq!((&line["text"], &line["level"]), (&json!("a warning"), &json!("warn")));
    assert_eq!((&line["work"], &line["run"], &line["node"]), (&json!("first"), &json!(1), &json!("head")));
    assert!(said("work=third").is_empty());
    assert!(said("level=error").is_empty());
    let after = line["seq"].as_u64().expect("a number");
    assert!(said(&format!("after={after}")).iter().all(|line| line["seq"].as_u64() > Some(after)));
    process.signal("TERM");
    process.end();
    let file = std::fs::read_to_string(directory.join("app.log")).expect("the file was written");
    std::fs::remove_dir_all(&directory).expect("the directory belongs to the test");
    assert!(file.lines().any(|line| line.contains("WARN  [first#1 on head] a warning")), "{file}");
}

fn what_the_process_of_a_work_prints_is_kept_and_shown() {
    let mut process = Process::start("service", &["--port", "0", "--place", "first=process"]);
    let address = process.address();
    let shown = process.expect("first serves");
    assert!(shown.starts_with("out| first serves"), "{shown}");
    process.expect("[first on");
    let said = || {
        let logs = get(address, "/api/v1/logs?work=first").json();
        let items = logs["items"].as_array().expect("an array").clone();
        items.into_iter().map(|line| (line["target"].clone(), line["text"].clone())).collect::<Vec<_>>()
    };
    let has =
        |part: &str| said().iter().any(|(_, text)| text.as_str().is_some_and(|text| text.contains(part)));
    // Both lines have been shown; the printed one may enter the log a moment later.
    while !(has("a warning") && has("first serves")) {}
    let said = said();
    let printed = said.iter().find(|(_, text)| text.as_str().is_some_and(|text| text.contains("serves")));
    assert_eq!(printed.expect("the line was logged").0, "stdout");
    let warnings = said.iter().filter(|(_, text)| text.as_str().is_some_and(|text| text.contains("warning")));
    assert_eq!(warnings.count(), 1, "{said:?}");
    process.signal("TERM");
    process.end();
}
