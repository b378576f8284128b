//! What can be asked of a running App, and of its Works.

use serde_json::{Value as Json, json};

use super::{Turn, assert_problem, serve};
use crate::support::*;

crate::tests![
    a_work_is_asked_with_json,
    a_question_without_an_answer_says_why,
    works_are_stopped_started_and_restarted,
    runs_are_told_and_asked_for_again,
    the_app_is_stopped_with_a_word,
];

fn a_work_is_asked_with_json() {
    let served = serve();
    let answer = post(served.address, "/api/v1/works/dials.0/messages/Turn", "8");
    assert_eq!((answer.status, answer.json()), (200, json!(7)));
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let whole = format!("/api/v1/works/dials.0/messages/{}", std::any::type_name::<Turn>());
    assert_eq!(post(served.address, &whole, "9").json(), json!(8));
    served.stop();
}

fn a_question_without_an_answer_says_why() {
    let served = serve();
    let ask = |path: &str, body: &str| post(served.address, &format!("/api/v1/works/{path}"), body);
    assert_problem(&ask("nobody/messages/Turn", "8"), 404, "no work `nobody`");
    let unknown = ask("dials.0/messages/Trun", "8");
    assert_problem(&unknown, 404, "no message `Trun`");
    assert_eq!(unknown.json()["known"], json!(["Turn", "Break", "Hang"]));
    assert_problem(&ask("dials.0/messages/Turn", "\"eight\""), 422, "expected u32");
    assert_problem(&ask("dials.0/messages/Turn", "{"), 400, "no JSON");
    assert_problem(&ask("dials.0/messages/Turn?deadline=0", "8"), 400, "deadline");
    assert_problem(&ask("dials.0/messages/Turn?deadlin=1", "8"), 400, "deadlin");
    let untold = format!(
        "POST /api/v1/works/dials.0/messages/Turn HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: 1\r\n\r\n8",
        served.address
    );
    assert_problem(&request(served.address, untold.as_bytes()), 415, "application/json");
    assert_problem(&ask("dials.1/messages/Hang?deadline=0.05", "null"), 504, "did not answer");
    assert_problem(&ask("dials.0/messages/Break", "null"), 502, "failed while it handled");
    served.wait_for(|document| document["works"]["dials.0"]["stage"] == "failed");
    assert_problem(&ask("dials.0/messages/Turn", "8"), 409, "has failed");
    served.stop();
}

fn works_are_stopped_started_and_restarted() {
    let served = serve();
    let is_up = |up: bool| move |document: &Json| document["works"]["dials.0"]["is_up"] == up;
    served.act("/api/v1/works/dials.0/stop", "");
    served.wait_for(is_up(false));
    assert_problem(&post(served.address, "/api/v1/works/dials.0/messages/Turn", "8"), 409, "was stopped");
    served.act("/api/v1/works/dials.0/start", "");
    served.wait_for(is_up(true));
    served.act("/api/v1/works/dials.0/restart", "");
    served.wait_for(|document| document["works"]["dials.0"]["restarts"] == 2);
    assert_problem(&post(served.address, "/api/v1/works/nobody/stop", ""), 404, "nobody");
    served.stop();
}

fn runs_are_told_and_asked_for_again() {
    let served = serve();
    let succeeded =
        |runs: u64| move |document: &Json| document["works"]["dials.0"]["runs"]["succeeded"] == json!(runs);
    served.act("/api/v1/works/dials.0/rerun", r#"{"input": 9}"#);
    served.wait_for(succeeded(2));
    served.act("/api/v1/works/dials.0/rerun", r#"{"run": 1.0}"#);
    served.wait_for(succeeded(3));
    // Its Flow asks for it, so that it runs once more.
    served.act("/api/v1/works/dials.0/forget", r#"{"input": 7}"#);
    served.wait_for(succeeded(4));
    let runs = served.get("/api/v1/works/dials.0/runs?per_page=3");
    assert_eq!((&runs["total"], &runs["page"], &runs["per_page"]), (&json!(4), &json!(1), &json!(3)));
    let inputs: Vec<_> = runs["items"].as_array().unwrap().iter().map(|run| run["input"].clone()).collect();
    assert_eq!(inputs, [7, 7, 9]);
    let first = &served.get("/api/v1/works/dials.0/runs?per_page=3&page=2")["items"][0];
    assert_eq!(
        (&first["run"], &first["stage"], &first["node"]),
        (&json!(1), &json!("succeeded"), &json!("head"))
    );
    assert!(first["queued"].as_str().unwrap() <= first["ended"].as_str().unwrap(), "{first}");
    let rerun = |body: &str| post(served.address, "/api/v1/works/dials.0/rerun", body);
    assert_problem(&rerun(r#"{"input": "seven"}"#), 422, "expected u32");
    assert_problem(&rerun(r#"{"run": 77}"#), 409, "no run 77");
    assert_problem(&rerun(r#"{"run": 1, "input": 7}"#), 422, "either");
    for list in ["[]", "[1]", "[null, null]"] {
        assert_problem(&rerun(list), 422, "what is wanted");
    }
    for query in ["page=0", "per_page=201", "page=x", "pages=1", "page=1&page=2"] {
        assert_problem(&get(served.address, &format!("/api/v1/works/dials.0/runs?{query}")), 400, "");
    }
    served.stop();
}

fn the_app_is_stopped_with_a_word() {
    let served = serve();
    served.act("/api/v1/app/stop", r#"{"why": "it is late"}"#);
    served.runtime.block_on(served.app.wait()).result.unwrap();
}
