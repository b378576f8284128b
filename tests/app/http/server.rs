//! Other routes of the server, and requests that it refuses.

use flowright::{Control, WorkAddr};

use super::{Dial, Turn, assert_problem, board, serve, serve_app};
use crate::support::*;

crate::tests![
    services_of_the_users_own_are_beside_the_api,
    panic_of_a_users_service_leaves_the_api,
    the_document_describes_every_route,
    the_page_is_served_and_other_addresses_are_not,
    nonsense_harms_nobody,
    the_server_ends_with_its_app,
];

fn services_of_the_users_own_are_beside_the_api() {
    use actix_web::{HttpResponse, web};

    async fn sum(control: web::Data<Control>) -> HttpResponse {
        let dial: WorkAddr<Dial> = control.work("dials.0").await.unwrap().unwrap();
        let before = dial.ask(Turn(100)).await.unwrap();
        HttpResponse::Ok().body(format!("it was {before}"))
    }

    let served = serve_app(
        board().routes(|config| {
            config.route("/sum", web::get().to(sum));
        }),
        "",
    );
    assert_eq!(get(served.address, "/sum").body, "it was 7");
    assert_eq!(get_as(served.address, "/sum", "evil.example").status, 421);
    assert_eq!(served.get("/healthz")["status"], "ok");
    served.stop();
}

/// A panic while services are mounted costs the routes of that call, a panic in a handler its connection; the API and
/// other services go on.
fn panic_of_a_users_service_leaves_the_api() {
    use actix_web::{HttpResponse, web};

    async fn breaks() -> HttpResponse {
        panic!("a trap")
    }

    let app = board()
        .routes(|config| {
            config.route("/breaks", web::get().to(breaks));
        })
        .routes(|_| panic!("a trap"))
        .routes(|config| {
            config.route("/works", web::get().to(HttpResponse::Ok));
        });
    let served = serve_app(app, "");
    for _ in 0..3 {
        use std::io::{Read, Write};
        let mut stream = connect(served.address);
        let head = format!("GET /breaks HTTP/1.1\r\nHost: {}\r\n\r\n", served.address);
        stream.write_all(head.as_bytes()).expect("the server listens");
        let mut answer = Vec::new();
        // The connection ends, in whichever way, without an answer.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(get(served.address, "/works").status, 200);
        assert_eq!(served.get("/healthz")["status"], "ok");
    }
    served.turn(3);
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 3);
    served.stop();
}

fn the_document_describes_every_route() {
    let served = serve();
    let document = served.get("/api/v1/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 35, "{:?}", paths.keys());
    for (path, item) in paths {
        // Every path of the document exists: its answer is not the one for an unknown route.
        let address = path.replace("{path}", "dials.0").replace("{message}", "Turn");
        let address = address.replace("{name}", "nobody");
        let answer = match item.get("post") {
            Some(_) if path.ends_with("/stop") => continue,
            Some(_) => post(served.address, &address, "8"),
            None if path.ends_with("/events") => continue,
            None => get(served.address, &address),
        };
        assert!(!answer.body.contains("there is nothing at this address"), "{path}: {answer:?}");
        // This App has no journal, no service and no fleet.
        let is_absent = path == "/api/v1/history"
            || path.starts_with("/api/v1/services/")
            || path.starts_with("/api/v1/fleet/");
        assert_eq!(answer.status == 404, is_absent, "{path}: {answer:?}");
        for operation in item.as_object().unwrap().values() {
            let described = operation["responses"].get(answer.status.to_string());
            assert!(described.is_some(), "{path} does not say {}", answer.status);
        }
    }
    served.stop();
}

fn the_page_is_served_and_other_addresses_are_not() {
    let served = serve();
    let page = get(served.address, "/view");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(page.body.contains("Flowright"), "{}", page.body);
    assert_eq!(get(served.address, "/view/view.css").status, 200);
    let home = get(served.address, "/");
    assert_eq!(home.status, 303);
    assert!(home.head.contains("location: view\r"), "{}", home.head);
    for path in ["/api", "/api/v1", "/api/v2/state", "/api/v1/state/x", "/view/x", "/../Cargo.toml"] {
        assert_problem(&get(served.address, path), 404, "no");
    }
    served.stop();
}

fn nonsense_harms_nobody() {
    use std::io::Write;

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
        // The server may close the connection during the write.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let text = format!(
            "{method} /api/v1/state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = request(served.address, text.as_bytes());
        assert_problem(&answer, 405, method);
        assert!(answer.head.contains("allow: get"), "{}", answer.head);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_problem(&post(served.address, "/api/v1/works/dials.0/messages/Turn", &deep), 422, "expected u32");
    assert_eq!(served.get("/api/v1/state")["state"]["dials"][0]["value"], 7);
    served.stop();
}

fn the_server_ends_with_its_app() {
    let served = serve();
    let address = served.address;
    let mut open = Events::open(address);
    open.some();
    served.stop();
    // Clients of the event stream are disconnected.
    open.drain();
}
