//! Code shared by the peers: the size of messages, the clock, the server process.

use std::io::BufRead;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

const WARM_UP: u64 = 2_000;
const ASKS: u64 = 20_000;

/// Padding of each message, in addition to its number.
pub const PADDING: [u8; 40] = [7; 40];

/// Runs `main` on a runtime with one thread.
pub fn on_one_thread<T>(main: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(main)
}

/// Times sequential asks: `while let Some(number) = asks.next()`, and [`answered`](Self::answered) after each reply.
/// Prints the percentiles once all asks have been answered.
#[derive(Default)]
pub struct Asks {
    number: u64,
    began: Option<Instant>,
    times: Vec<Duration>,
}

impl Asks {
    pub fn next(&mut self) -> Option<u64> {
        if self.times.len() as u64 == ASKS {
            self.times.sort();
            let at =
                |share: f64| self.times[((ASKS - 1) as f64 * share).round() as usize].as_secs_f64() * 1e6;
            println!("ask-p50 {}", at(0.5));
            println!("ask-p99 {}", at(0.99));
            return None;
        }
        self.number += 1;
        self.began = Some(Instant::now());
        Some(self.number)
    }

    pub fn answered(&mut self) {
        let took = self.began.take().expect("it was asked").elapsed();
        if self.number > WARM_UP {
            self.times.push(took);
        }
    }
}

/// Prints the throughput in millions of messages a second.
pub fn tells(count: u64, began: Instant) {
    println!("tell {}", count as f64 / began.elapsed().as_secs_f64() / 1e6);
}

/// The server process, killed when the case is over.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts this program as the server.
    pub fn start(name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program knows its file"));
        Self::started_by(|port| {
            command.args(["serve", name, &port.to_string()]);
            command
        })
    }

    /// Starts the server with `command`, and waits for the line that it prints when it is ready.
    pub fn started_by(command: impl FnOnce(u16) -> Command) -> Self {
        let port = free_port();
        // As in the cases of `remote`, each end has one core.
        keep_to(1);
        let mut child =
            command(port).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        keep_to(0);
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        std::io::BufReader::new(out).read_line(&mut line).expect("it is ready");
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pins this thread, and all threads and processes that it starts, to one core.
fn keep_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("there are two cores");
}

pub fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("there is one");
    free.local_addr().expect("it has one").port()
}

/// Tells the parent that this process is ready, and exits with the parent.
pub fn ready() {
    use std::io::Write;
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    println!("ready");
    std::io::stdout().flush().expect("somebody reads");
}
