//! Lower bounds: framed TCP (and a Unix socket) on one thread with the same encoding and no actors, and waking a
//! thread.

use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex};

use bytes::{Buf, BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::messages::{ASKS, Ping, TELLS};
use super::support::{Killed, figure, now_ns, p50_p99_us, percentile, this};

const WAKE_UPS: u32 = 20_000;
/// Control messages around a stream of messages that the server only counts: `QUIET` switches echoing off, `LOUD`
/// switches it on again.
const QUIET: u64 = u64::MAX - 1;
const LOUD: u64 = u64::MAX;

/// Encoding of messages: as Flowright encodes them, or with the fewest bytes that MessagePack allows.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Named,
    Compact,
}

/// The same message, decoded without copying its bytes.
#[derive(Serialize, Deserialize)]
struct Borrowed<'a> {
    number: u64,
    #[serde(with = "serde_bytes", borrow)]
    padding: &'a [u8],
}

struct Framed<S> {
    stream: S,
    form: Form,
    out: BytesMut,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    fn new(stream: S, form: Form) -> Self {
        Self { stream, form, out: BytesMut::with_capacity(1 << 18), buffer: BytesMut::with_capacity(1 << 18) }
    }

    fn put(&mut self, number: u64) {
        let start = self.out.len();
        self.out.put_u32(0);
        let mut out = (&mut self.out).writer();
        match self.form {
            Form::Named => rmp_serde::encode::write_named(&mut out, &Ping::new(number)),
            Form::Compact => rmp_serde::encode::write(&mut out, &Borrowed { number, padding: &[7; 40] }),
        }
        .expect("it serialises");
        let length = u32::try_from(self.out.len() - start - 4).expect("it is small");
        self.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    async fn flush(&mut self) {
        self.stream.write_all(&self.out).await.expect("it writes");
        self.out.clear();
    }

    /// Removes the first complete message from the buffer and returns its number.
    fn take(&mut self) -> Option<u64> {
        let length = u32::from_be_bytes(*self.buffer.first_chunk::<4>()?) as usize;
        let frame = self.buffer.get(4..4 + length)?;
        let number = match self.form {
            Form::Named => {
                let ping: Ping = rmp_serde::from_slice(frame).expect("it was encoded");
                std::hint::black_box(ping).number
            }
            Form::Compact => {
                let ping: Borrowed<'_> = rmp_serde::from_slice(frame).expect("it was encoded");
                std::hint::black_box(ping).number
            }
        };
        self.buffer.advance(4 + length);
        Some(number)
    }

    /// Waits for more bytes; `false` at the end of the stream.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(1 << 16);
        self.stream.read_buf(&mut self.buffer).await.expect("it reads") > 0
    }

    async fn exchange(&mut self, number: u64) {
        self.put(number);
        self.flush().await;
        while self.take().is_none() {
            assert!(self.fill().await, "the other end is there");
        }
    }

    /// Echoes messages, or only counts them.
    async fn serve(mut self) {
        let mut echo = true;
        loop {
            while let Some(number) = self.take() {
                echo = (echo && number != QUIET) || number == LOUD;
                if echo {
                    self.put(number);
                }
            }
            if !self.out.is_empty() {
                self.flush().await;
            }
            if !self.fill().await {
                return;
            }
        }
    }

    async fn asks(&mut self) {
        for number in 0..ASKS / 10 {
            self.exchange(number).await;
        }
        let mut times = Vec::with_capacity(ASKS as usize);
        for number in 0..ASKS {
            let began = now_ns();
            self.exchange(number).await;
            times.push(now_ns() - began);
        }
        let [p50, p99] = p50_p99_us(times);
        figure("ask-p50", p50);
        figure("ask-p99", p99);
    }

    async fn tells(&mut self, batch: u64) {
        self.put(QUIET);
        self.flush().await;
        let began = now_ns();
        for number in 0..TELLS {
            self.put(number);
            if number % batch == 0 {
                self.flush().await;
            }
        }
        self.exchange(LOUD).await;
        figure("tell", TELLS as f64 / (now_ns() - began) as f64 * 1e3);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Runs the server process.
pub fn serve(kind: &str) {
    block_on(async {
        if kind == "floor-unix" {
            let directory = std::env::temp_dir().join(format!("compare-{}", std::process::id()));
            std::fs::create_dir_all(&directory).expect("there is room");
            let socket = directory.join("floor");
            let listener = UnixListener::bind(&socket).expect("it is free");
            say(&socket.display().to_string());
            let (stream, _) = listener.accept().await.expect("the parent dials");
            let _ = std::fs::remove_dir_all(directory);
            return Framed::new(stream, Form::Named).serve().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it is free");
        say(&listener.local_addr().expect("it has one").to_string());
        let (stream, _) = listener.accept().await.expect("the parent dials");
        stream.set_nodelay(true).expect("it is TCP");
        let form = if kind == "floor-compact" { Form::Compact } else { Form::Named };
        Framed::new(stream, form).serve().await;
    });
}

fn say(address: &str) {
    println!("{address}");
    std::io::stdout().flush().expect("somebody reads");
}

pub fn measure(kind: &str) {
    let (_server, address) = Killed::start_and_hear(&mut this(kind, &["floor"]));
    block_on(async {
        match kind {
            "floor-unix" => {
                let stream = UnixStream::connect(address).await.expect("it listens");
                Framed::new(stream, Form::Named).asks().await;
            }
            kind => {
                let stream = TcpStream::connect(address).await.expect("it listens");
                stream.set_nodelay(true).expect("it is TCP");
                match kind {
                    "floor" => {
                        let mut floor = Framed::new(stream, Form::Named);
                        floor.asks().await;
                        floor.tells(1000).await;
                    }
                    "floor-compact" => Framed::new(stream, Form::Compact).tells(1000).await,
                    _ => Framed::new(stream, Form::Named).tells(1).await,
                }
            }
        }
    });
}

/// Measures the one-way latency of waking another thread: half the round trip between two threads over a condition
/// variable, and between two event loops.
pub fn wake_ups() {
    figure("wake-up", half_p50(condition_variable()));
    figure("wake-up-event-loop", half_p50(event_loops()));
}

fn half_p50(mut turns: Vec<u64>) -> f64 {
    turns.sort_unstable();
    percentile(&turns, 0.5) as f64 / 2e3
}

fn condition_variable() -> Vec<u64> {
    let shared = Arc::new((Mutex::new(0_u32), Condvar::new()));
    let wait_for = |shared: &(Mutex<u32>, Condvar), turn: u32| {
        let guard = shared.0.lock().expect("no panic");
        let mut guard = shared.1.wait_while(guard, |now| *now != turn).expect("no panic");
        *guard += 1;
        shared.1.notify_one();
    };
    let others = shared.clone();
    let other = std::thread::spawn(move || (0..WAKE_UPS).for_each(|turn| wait_for(&others, turn * 2 + 1)));
    let turns = (0..WAKE_UPS).map(|turn| {
        let began = now_ns();
        wait_for(&shared, turn * 2);
        drop(
            shared
                .1
                .wait_while(shared.0.lock().expect("no panic"), |now| *now != turn * 2 + 2)
                .expect("no panic"),
        );
        now_ns() - began
    });
    let turns = turns.collect();
    other.join().expect("no panic");
    turns
}

fn event_loops() -> Vec<u64> {
    use tokio::sync::Notify;
    let (there, back) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (theirs, backs) = (there.clone(), back.clone());
    let other = std::thread::spawn(move || {
        block_on(async {
            for _ in 0..WAKE_UPS {
                theirs.notified().await;
                backs.notify_one();
            }
        });
    });
    let turns = block_on(async {
        let mut turns = Vec::with_capacity(WAKE_UPS as usize);
        for _ in 0..WAKE_UPS {
            let began = now_ns();
            there.notify_one();
            back.notified().await;
            turns.push(now_ns() - began);
        }
        turns
    });
    other.join().expect("no panic");
    turns
}
