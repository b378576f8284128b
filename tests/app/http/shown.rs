//! Views of an App, its state and its Works.

use serde_json::json;

use super::{assert_problem, board_and_waiting, serve, serve_app};
use crate::support::*;

crate::tests![
    health_state_and_status_are_shown,
    readiness_waits_for_the_works_that_count,
    a_state_that_is_known_is_not_sent_again,
    the_graph_has_flows_and_works,
    numbers_are_there_for_prometheus,
];

fn health_state_and_status_are_shown() {
    let served = serve();
    assert_eq!(served.get("/healthz"), json!({ "status": "ok" }));
    assert_eq!(served.get("/readyz"), json!({ "status": "ok" }));
    let state = get(served.address, "/api/v1/state");
    let board = json!({ "title": "a board", "dials": [{ "value": 7 }, { "value": 7 }] });
    assert_eq!((state.status, &state.json()["state"]), (200, &board));
    assert!(state.head.contains("cache-control: no-store"), "{}", state.head);
    assert_eq!(served.get("/api/v1/state?path=dials.1.value")["state"], 7);
    assert_problem(&get(served.address, "/api/v1/state?path=dials.2"), 404, "nothing at `dials.2`");
    let status = served.get("/api/v1/status");
    assert_eq!(status["app"]["stage"], "running");
    let dial = &status["works"]["dials.0"];
    assert_eq!(dial, &served.get("/api/v1/works/dials.0"));
    let shown = |name: &str| dial[name].clone();
    assert_eq!(shown("type"), "Dial");
    assert_eq!(
        (shown("stage"), shown("attempt"), shown("is_up")),
        ("succeeded".into(), 1.into(), true.into())
    );
    assert_eq!(shown("runs"), json!({ "waiting": 0, "succeeded": 1, "failed": 0, "stopped": 0 }));
    assert_eq!(shown("messages"), json!(["Turn", "Break", "Hang", "Call"]));
    assert_eq!((shown("node"), shown("placement")), ("head".into(), "thread".into()));
    assert_eq!(status["flows"][""]["type"], "Board");
    assert_eq!(status["nodes"]["head"]["works"], json!(["dials.0", "dials.1"]));
    assert_eq!(served.get("/api/v1/payloads"), json!({ "items": [] }));
    served.stop();
}

/// A Work that waits for a node counts only where its Flow has said so; `detail` lists it in any case.
fn readiness_waits_for_the_works_that_count() {
    for (counts, status) in [(None, 200), (Some(false), 200), (Some(true), 503)] {
        let served = serve_app(board_and_waiting(counts), "");
        served.wait_for(|document| document["works"]["dials.2"]["stage"] == "pending");
        let plain = get(served.address, "/readyz");
        assert_eq!(plain.status, status, "{counts:?}: {plain:?}");
        let detailed = get(served.address, "/readyz?detail=true");
        assert_eq!(detailed.status, status);
        if status == 200 {
            assert_eq!(plain.json(), json!({ "status": "ok" }));
            let pending = &detailed.json()["pending"];
            assert_eq!((&pending[0]["path"], &pending[0]["counts"]), (&json!("dials.2"), &json!(false)));
            assert!(
                pending[0]["message"].as_str().is_some_and(|why| why.contains("waits for node `n`")),
                "{pending}"
            );
        } else {
            assert_eq!(plain.json()["known"], json!(["dials.2"]));
        }
        served.stop();
    }
    let served = serve();
    assert_problem(&get(served.address, "/readyz?detail=perhaps"), 400, "`true` or `false`");
    served.stop();
}

fn a_state_that_is_known_is_not_sent_again() {
    let served = serve();
    let tag = |answer: &Answer| {
        let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).map(str::to_owned);
        tag.expect("the response has a tag")
    };
    let whole = get(served.address, "/api/v1/state");
    let first = tag(&whole);
    let same = get(served.address, "/api/v1/state");
    assert_eq!((tag(&same), same.body), (first.clone(), whole.body));
    let known = format!("If-None-Match: \"other\", {first}\r\n");
    let again = get_with(served.address, "/api/v1/state", &known);
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    served.turn(8);
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let changed = get_with(served.address, "/api/v1/state", &known);
    assert_eq!((changed.status, &changed.json()["state"]["dials"][0]["value"]), (200, &json!(8)));
    assert_ne!(tag(&changed), first);
    served.stop();
}

fn the_graph_has_flows_and_works() {
    let served = serve();
    let graph = served.get("/api/v1/graph");
    let root = json!({ "path": "", "kind": "flow", "type": "Board", "parent": null, "node": null,
        "placement": null, "stage": "running" });
    let dial = json!({ "path": "dials.1", "kind": "work", "type": "Dial", "parent": "", "node": "head",
        "placement": "thread", "stage": "succeeded" });
    assert_eq!((&graph["items"][0], &graph["items"][2]), (&root, &dial));
    served.stop();
}

fn numbers_are_there_for_prometheus() {
    let served = serve();
    served.turn(8);
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let numbers = get(served.address, "/metrics");
    assert!(numbers.head.contains("content-type: text/plain; version=0.0.4"), "{}", numbers.head);
    for line in [
        "flowright_work_messages_total{work=\"dials.0\"} 1",
        "flowright_work_messages_total{work=\"dials.1\"} 0",
        "flowright_work_run_seconds_count{work=\"dials.0\",outcome=\"succeeded\"} 1",
        "flowright_node_connected{node=\"head\"} 1",
        "flowright_works 2",
    ] {
        assert!(numbers.body.lines().any(|there| there == line), "{line} is not in\n{}", numbers.body);
    }
    served.stop();
}
