//! What the peers share: the messages' size, the clock, the process at the other end.

use std::io::BufRead;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

const WARM_UP: u64 = 2_000;
const ASKS: u64 = 20_000;

/// The bytes beside the number that each message has.
pub const PADDING: [u8; 40] = [7; 40];

/// A runtime of one thread.
pub fn on_one_thread<T>(main: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(main)
}

/// Times questions, one after the other: `while let Some(number) = asks.next()`, and [`answered`](Self::answered) behind
/// each. Prints what it took when all have been asked.
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

/// Prints how many messages a second it was, in millions.
pub fn tells(count: u64, began: Instant) {
    println!("tell {}", count as f64 / began.elapsed().as_secs_f64() / 1e6);
}

/// The process at the other end, until the case is over.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// This program again.
    pub fn start(name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program knows its file"));
        Self::started_by(|port| {
            command.args(["serve", name, &port.to_string()]);
            command
        })
    }

    /// Waits until it has said something, which it does when it is ready.
    pub fn started_by(command: impl FnOnce(u16) -> Command) -> Self {
        let port = free_port();
        // As in the cases of `remote`: a core for each end.
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

/// Keeps this thread, and all that it starts, to one core.
fn keep_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("there are two cores");
}

pub fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("there is one");
    free.local_addr().expect("it has one").port()
}

/// Says so to whoever started this process, and ends with it.
pub fn ready() {
    use std::io::Write;
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    println!("ready");
    std::io::stdout().flush().expect("somebody reads");
}
