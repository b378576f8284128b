//! Clients without authorization, and clients that exceed limits.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use flowright::Config;

use crate::http::{assert_problem, board, serve, serve_app};
use crate::support::*;
use crate::tests;

tests![
    requests_that_name_another_host_are_refused,
    pages_of_other_origins_are_refused,
    a_page_that_is_let_in_may_use_the_api,
    without_the_token_nothing_is_shown_but_the_page,
    beyond_the_machine_there_is_no_server_without_a_token,
    a_file_that_others_may_read_is_no_secret,
    five_hundred_clients_at_once_are_answered,
    slow_streams_are_told_what_they_missed_and_harm_nobody,
    clients_that_do_not_read_cost_little_and_are_let_go,
    a_client_that_sends_a_byte_now_and_then_is_let_go,
    a_body_without_end_is_refused_at_its_beginning,
];

fn requests_that_name_another_host_are_refused() {
    let served = serve();
    let port = served.address.port();
    for host in ["evil.example", &format!("evil.example:{port}"), "127.0.0.1.evil.example", ""] {
        for path in ["/api/v1/state", "/api/v1/events", "/view", "/nothing", "/healthz"] {
            let answer = get_as(served.address, path, host);
            assert_problem(&answer, 421, "another host");
            assert!(!answer.body.contains("a board"));
        }
    }
    for host in [format!("localhost:{port}"), "127.0.0.1".to_owned(), format!("[::1]:{port}")] {
        assert_eq!(get_as(served.address, "/healthz", &host).status, 200, "{host}");
    }
    let twice = format!("Host: evil.example\r\nOrigin: http://{}\r\n", served.address);
    assert_eq!(get_with(served.address, "/api/v1/state", &twice).status, 400);
    served.stop();
}

fn pages_of_other_origins_are_refused() {
    let served = serve();
    let as_page = |path: &str, headers: &str| get_with(served.address, path, headers);
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1", "file://"] {
        let headers = format!("Origin: {origin}\r\n");
        assert_problem(&as_page("/api/v1/state", &headers), 403, "another origin");
        let body = format!(
            "POST /api/v1/works/dials.0/messages/Turn HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\n{headers}Content-Length: 1\r\n\r\n8",
            served.address
        );
        assert_problem(&request(served.address, body.as_bytes()), 403, "another origin");
    }
    let picture = "Sec-Fetch-Site: cross-site\r\n";
    assert_problem(&as_page("/api/v1/state", picture), 403, "another origin");
    assert_eq!(as_page("/view", picture).status, 200, "a link to the page is no harm");
    let own = format!("Origin: http://{}\r\n", served.address);
    let answer = as_page("/api/v1/state", &own);
    assert_eq!((answer.status, answer.head.contains("access-control")), (200, false));
    assert_eq!(served.get("/api/v1/state")["state"]["dials"][0]["value"], 7);
    served.stop();
}

fn a_page_that_is_let_in_may_use_the_api() {
    let config = Config::new().allow_origin("https://good.example");
    let served = serve_app(board().config(config), "");
    let answer = get_with(served.address, "/api/v1/state", "Origin: https://good.example\r\n");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("access-control-allow-origin: https://good.example"), "{}", answer.head);
    let preflight = format!(
        "OPTIONS /api/v1/app/stop HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nOrigin: https://good.example\r\n\
         Access-Control-Request-Method: POST\r\n\r\n",
        served.address
    );
    let answer = request(served.address, preflight.as_bytes());
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.head.contains("access-control-allow-methods: get, post"), "{}", answer.head);
    let preflight = preflight.replace("good.example", "evil.example");
    assert_eq!(request(served.address, preflight.as_bytes()).status, 403);
    served.stop();
}

const TOKEN: &str = "a-token-of-some-length";

struct TokenFile(PathBuf);

impl TokenFile {
    fn new(name: &str, mode: u32) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-http-{name}-{}", std::process::id()));
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Self(path)
    }

    fn config(&self) -> Config {
        Config::new().http_token_file(&self.0)
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn without_the_token_nothing_is_shown_but_the_page() {
    let file = TokenFile::new("token", 0o600);
    let good = format!("Authorization: Bearer {TOKEN}\r\n");
    let served = serve_app(board().config(file.config()), &good);
    for path in ["/api/v1/state", "/api/v1/events", "/metrics", "/readyz", "/api/v1/openapi.json", "/nothing"]
    {
        for wrong in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Basic YTpi\r\n",
            "Authorization: Bearer\r\n",
            &format!("Authorization: {TOKEN}\r\n"),
        ] {
            let answer = get_with(served.address, path, wrong);
            assert_problem(&answer, 401, "token");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        }
    }
    assert_eq!(get(served.address, &format!("/api/v1/state?token={TOKEN}")).status, 401);
    assert_eq!(post(served.address, "/api/v1/app/stop", r#"{"why": "no"}"#).status, 401);
    for path in ["/healthz", "/view", "/view/view.css"] {
        assert_eq!(get(served.address, path).status, 200, "{path}");
    }
    assert_eq!(get_with(served.address, "/api/v1/state", &good).status, 200);
    served.stop();
}

fn beyond_the_machine_there_is_no_server_without_a_token() {
    let file = TokenFile::new("everywhere", 0o600);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let error =
        runtime.block_on(board().serve(everywhere).spawn()).err().expect("the start is refused").to_string();
    assert!(error.contains("--http-token-file"), "{error}");
    let app = board().serve(everywhere).config(file.config());
    let app = runtime.block_on(app.spawn()).unwrap();
    let port = app.address().unwrap().port();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    // With a token, host names are not checked.
    assert_eq!(get_as(address, "/api/v1/state", "app.example").status, 401);
    let head = format!(
        "GET /api/v1/state HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    );
    assert_eq!(request(address, head.as_bytes()).status, 200);
    runtime.block_on(app.stop()).result.unwrap();
}

fn a_file_that_others_may_read_is_no_secret() {
    let file = TokenFile::new("open", 0o644);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let app = board().serve("127.0.0.1:0".parse().unwrap()).config(file.config());
    let error = runtime.block_on(app.spawn()).err().expect("the start is refused").to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

fn five_hundred_clients_at_once_are_answered() {
    let served = serve();
    let address = served.address;
    let mut clients: Vec<_> = (0..500).map(|_| connect(address)).collect();
    let head = format!("GET /api/v1/state HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    for client in &mut clients {
        client.write_all(head.as_bytes()).unwrap();
    }
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("a board"), "{answer}");
    }
    served.stop();
}

fn slow_streams_are_told_what_they_missed_and_harm_nobody() {
    const LAST: u32 = 300;
    let served = serve();
    // Clients that do not read.
    let mut slow: Vec<_> = (0..50).map(|_| Events::open(served.address)).collect();
    let mut quick: Vec<_> = (0..150).map(|_| Events::open(served.address)).collect();
    for events in slow.iter_mut().chain(&mut quick) {
        events.some();
    }
    for value in 8..=LAST {
        served.turn(value);
        quick[0].until(|document| document["state"]["dials"][0]["value"] == value);
    }
    for events in quick.iter_mut().chain(&mut slow) {
        events.until(|document| document["state"]["dials"][0]["value"] == LAST);
    }
    assert!(quick.iter().all(|events| events.document["state"] == quick[0].document["state"]));
    served.stop();
}

/// Clients that read neither events nor the state do not hold a copy of a large state each, and the server disconnects
/// them after a while.
fn clients_that_do_not_read_cost_little_and_are_let_go() {
    const CLIENTS: usize = 120;
    let mut process = Process::start("large", &["--port=0"]);
    let address = process.address();
    let round = |document: &serde_json::Value| document["state"]["work"]["round"].as_u64().unwrap_or(0);
    Events::open(address).until(|document| round(document) > 0);
    let before = process.descriptors();
    let mut idle = Vec::new();
    for path in ["/api/v1/events", "/api/v1/state"].into_iter().cycle().take(CLIENTS) {
        let began = std::time::Instant::now();
        idle.push(loop {
            let mut client = connect(address);
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
            // The answer has begun, or refuses because too much is in flight.
            let mut first = [0; 12];
            client.read_exact(&mut first).unwrap();
            match &first {
                b"HTTP/1.1 200" | b"HTTP/1.1 503" => break client,
                // On a busy machine the head of the request may not have been read in time.
                b"HTTP/1.1 408" if began.elapsed() < LIMIT => {}
                other => panic!("{}", String::from_utf8_lossy(other)),
            }
        });
    }
    let mut quick = Events::open(address);
    let now = round(quick.until(|document| round(document) > 0));
    quick.until(|document| round(document) > now + 10);
    drop(quick);
    let memory = process.memory();
    assert!(memory < 700 << 20, "{} MiB", memory >> 20);
    let began = std::time::Instant::now();
    while process.descriptors() > before {
        assert!(
            began.elapsed().as_secs() < 120,
            "{} descriptors, and {before} before",
            process.descriptors()
        );
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    drop(idle);
    process.signal("TERM");
    assert_eq!(process.end().0, Some(0));
}

fn a_client_that_sends_a_byte_now_and_then_is_let_go() {
    let served = serve();
    let mut slow = connect(served.address);
    slow.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let mut answer = Vec::new();
    // One byte a second, until the server closes the connection.
    for byte in std::iter::once(b"GET /".as_slice()).chain(std::iter::repeat(b"x".as_slice())).take(30) {
        let mut buffer = [0; 1024];
        if slow.write_all(byte).is_err() {
            break;
        }
        match slow.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(_) => break,
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    assert_eq!(served.get("/healthz")["status"], "ok");
    served.stop();
}

fn a_body_without_end_is_refused_at_its_beginning() {
    let served = serve();
    let head = |length: &str| {
        format!(
            "POST /api/v1/works/dials.0/messages/Turn HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{length}\r\n\r\n",
            served.address
        )
    };
    for (length, before) in [("Content-Length: 1000000000", ""), ("Transfer-Encoding: chunked", "100000\r\n")]
    {
        let mut client = connect(served.address);
        client.write_all(head(length).as_bytes()).unwrap();
        let piece = vec![b'1'; 1 << 20];
        // Up to a gigabyte, as much as the server reads before it closes the connection.
        for _ in 0..1000 {
            let sent = client.write_all(before.as_bytes()).and_then(|()| client.write_all(&piece));
            let ended = if before.is_empty() { Ok(()) } else { client.write_all(b"\r\n") };
            if sent.and(ended).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        // A reset after the server closed the connection may have discarded the answer.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer:?}");
    }
    // A client that sends only the head of its request gets the answer before it sends the body.
    let mut client = connect(served.address);
    client.write_all(head("Content-Length: 1000000000").as_bytes()).unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(served.get("/healthz")["status"], "ok");
    served.stop();
}
