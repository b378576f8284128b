//! What an App shows over HTTP.

use std::io::Write;
use std::net::SocketAddr;

use flowright::prelude::*;
use flowright::{AppHandle, WorkAddr};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::*;
use crate::tests;

tests![
    health_state_and_status_are_shown,
    events_come_at_once_and_after_each_change,
    the_page_is_served_and_other_addresses_are_not,
    requests_that_name_another_host_are_refused,
    nonsense_harms_nobody,
    the_server_ends_with_its_app,
];

/// Has a number, which it is told.
#[derive(Default, Serialize, Deserialize)]
struct Dial {
    value: u32,
}

impl Work for Dial {
    type Input = u32;

    async fn run(&mut self, value: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.value = value;
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Turn(u32);

impl Handle<Turn> for Dial {
    type Reply = ();

    async fn handle(&mut self, Turn(value): Turn, cx: &mut WorkContext<Self>) {
        self.value = value;
        cx.publish(self);
    }
}

#[derive(Default, Serialize, Children)]
struct Board {
    title: &'static str,
    dials: Vec<WorkRef<Dial>>,
}

impl Flow for Board {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.title = "a board";
        for dial in &self.dials {
            dial.run(7);
        }
        Ok(())
    }
}

struct Served {
    runtime: Runtime,
    app: AppHandle,
    address: SocketAddr,
}

fn serve() -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let board = || Board { title: "", dials: vec![WorkRef::default()] };
    let app = App::new(board).serve("127.0.0.1:0".parse().unwrap());
    let app = runtime.block_on(app.spawn()).unwrap();
    let address = app.address().unwrap();
    // Both dials have turned and everybody knows.
    let mut events = Events::open(address);
    while events.next()["status"]["works"]["dials.0"]["stage"] != "succeeded" {}
    Served { runtime, app, address }
}

impl Served {
    fn turn(&self, value: u32) {
        self.runtime.block_on(async {
            let dial: WorkAddr<Dial> = self.app.control().work("dials.0").await.unwrap().unwrap();
            dial.tell(Turn(value)).await.unwrap();
        });
    }

    fn stop(self) {
        self.runtime.block_on(self.app.stop()).result.unwrap();
    }
}

fn health_state_and_status_are_shown() {
    let served = serve();
    let health = get(served.address, "/healthz");
    assert_eq!((health.status, health.json()), (200, json!({ "status": "ok" })));
    let state = get(served.address, "/api/v1/state");
    assert_eq!((state.status, state.json()), (200, json!({ "title": "a board", "dials": [{ "value": 7 }] })));
    assert!(state.head.contains("cache-control: no-store"), "{}", state.head);
    let status = get(served.address, "/api/v1/status").json();
    assert_eq!(status["stage"], "running");
    let dial = &status["works"]["dials.0"];
    assert_eq!(
        (&dial["stage"], &dial["attempt"], &dial["successes"]),
        (&json!("succeeded"), &json!(1), &json!(1))
    );
    assert_eq!(dial["is_up"], true);
    assert!(dial["type_name"].as_str().unwrap().ends_with("Dial"), "{dial}");
    assert!(status["flows"]["root"].is_object(), "{status}");
    served.stop();
}

fn events_come_at_once_and_after_each_change() {
    let served = serve();
    let mut events = Events::open(served.address);
    assert_eq!(events.next()["state"]["dials"][0]["value"], 7);
    let mut last = 7;
    for value in 8..30 {
        served.turn(value);
        // Intermediate values may be skipped, but none goes back, and the last one comes.
        while last != value {
            let next = events.next()["state"]["dials"][0]["value"].as_u64().unwrap();
            assert!(next >= u64::from(last), "{next} after {last}");
            last = u32::try_from(next).unwrap();
        }
    }
    served.stop();
}

fn the_page_is_served_and_other_addresses_are_not() {
    let served = serve();
    let page = get(served.address, "/view");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    assert!(page.body.contains("Flowright"), "{}", page.body);
    let home = get(served.address, "/");
    assert_eq!(home.status, 303);
    assert!(home.head.contains("location: /view"), "{}", home.head);
    for path in ["/api", "/api/v1", "/api/v2/state", "/api/v1/state/x", "/view/x", "/../Cargo.toml"] {
        let answer = get(served.address, path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["error"].is_string());
    }
    served.stop();
}

fn requests_that_name_another_host_are_refused() {
    let served = serve();
    let port = served.address.port();
    for host in ["evil.example", &format!("evil.example:{port}"), "127.0.0.1.evil.example", ""] {
        for path in ["/api/v1/state", "/api/v1/events", "/view", "/nothing"] {
            let answer = get_as(served.address, path, host);
            assert_eq!(answer.status, 403, "{host} {path}: {answer:?}");
            assert!(!answer.body.contains("a board"));
        }
    }
    for host in [format!("localhost:{port}"), "127.0.0.1".to_owned(), format!("[::1]:{port}")] {
        assert_eq!(get_as(served.address, "/healthz", &host).status, 200, "{host}");
    }
    served.stop();
}

fn nonsense_harms_nobody() {
    let served = serve();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1_000_000));
    let requests: [&[u8]; 6] = [
        b"\0\x01\x02\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"BREW /pot HTCPCP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        long.as_bytes(),
    ];
    for bytes in requests {
        let mut stream = connect(served.address);
        // It may hang up in the middle.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let text = format!(
            "{method} /api/v1/state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let status = request(served.address, text.as_bytes()).status;
        assert!((400..500).contains(&status), "{method}: {status}");
    }
    assert_eq!(get(served.address, "/api/v1/state").json()["dials"][0]["value"], 7);
    served.stop();
}

fn the_server_ends_with_its_app() {
    let served = serve();
    let address = served.address;
    let mut open = Events::open(address);
    open.next();
    served.stop();
    // What hangs on its events is let go.
    open.drain();
}
