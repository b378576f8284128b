//! Cost of moving bytes between two processes on this machine without Flowright: the lower bound.

use std::fs::File;
use std::io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::{GIB, Killed, median, this};

const MIB: usize = 1 << 20;

/// Throughput of each method, in GB/s.
pub struct Floor {
    /// 1 GiB over TCP into one buffer of 1 MiB, which is reused.
    pub large: f64,
    /// 100 MiB over TCP into one buffer of 1 MiB, which is reused.
    pub hundred: f64,
    /// 1 GiB over TCP into an existing buffer of the full size, hashed by another thread.
    pub verified: f64,
    /// The same through a memory file, whose descriptor is passed to the reader while the file is being written.
    pub passed: f64,
    /// A memory file that was complete before, hashed by two threads through a small buffer, without a copy of the
    /// whole.
    pub shared: f64,
}

pub fn measure(rounds: u64) -> Floor {
    let path = std::env::temp_dir().join(format!("floor-{}", std::process::id()));
    let path = path.to_str().expect("it is text");
    let mut child = this(&["floor", path]);
    let mut child = Killed(child.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
    let address = lines.next().expect("it says where").expect("text");
    lines.next();
    let mut whole = vec![1; GIB];
    let mut figures = Vec::new();
    for _ in 0..rounds {
        let verified = verified(&mut whole, TcpStream::connect(&address).expect("it listens"));
        let passed = passed(&mut whole, path);
        figures.push([tcp(&address, GIB), tcp(&address, 100 * MIB), verified, passed, shared(path)]);
    }
    let column = |n: usize| median(figures.iter().map(|row| row[n]).collect());
    let [large, hundred, verified, passed, shared] = [0, 1, 2, 3, 4].map(column);
    let _ = std::fs::remove_file(path);
    Floor { large, hundred, verified, passed, shared }
}

/// Serves one GiB to each connection.
pub fn serve(path: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let unix = UnixListener::bind(path).expect("there is no such file");
    println!("{}", listener.local_addr().expect("it has one"));
    let bytes = vec![7; GIB];
    let ready = in_memory();
    (&ready).write_all(&bytes).expect("there is room");
    println!("ready");
    std::io::stdout().flush().expect("somebody reads");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in unix.incoming() {
                pass(&mut stream.expect("the parent dials"), &bytes, &ready);
            }
        });
        for stream in listener.incoming() {
            let mut stream = stream.expect("the parent dials");
            // A client that needs fewer bytes closes the connection.
            let _ = bytes.chunks(MIB).try_for_each(|chunk| stream.write_all(chunk));
        }
    });
}

fn in_memory() -> File {
    memfd_create("floor", MemfdFlags::CLOEXEC).expect("there is memory").into()
}

fn pass(stream: &mut UnixStream, bytes: &[u8], ready: &File) {
    let mut wanted = [0];
    stream.read_exact(&mut wanted).expect("it says what it wants");
    if wanted == *b"r" {
        return send_file(stream, ready);
    }
    let file = in_memory();
    send_file(stream, &file);
    for chunk in bytes.chunks(MIB) {
        (&file).write_all(chunk).expect("there is room");
        stream.write_all(b".").expect("it reads");
    }
}

fn send_file(stream: &UnixStream, file: &File) {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    rustix::net::sendmsg(stream, &[IoSlice::new(b".")], &mut control, SendFlags::empty())
        .expect("it is sent");
}

fn receive_file(stream: &UnixStream) -> File {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let into = &mut [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(stream, into, &mut control, RecvFlags::empty()).expect("it comes");
    let mut files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let file: OwnedFd = files.next().expect("a file was passed");
    file.into()
}

fn rate(length: usize, began: Instant) -> f64 {
    length as f64 / began.elapsed().as_secs_f64() / 1e9
}

fn tcp(address: &str, length: usize) -> f64 {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let mut buffer = vec![0; MIB];
    let began = Instant::now();
    for _ in 0..length / MIB {
        stream.read_exact(&mut buffer).expect("it comes");
    }
    rate(length, began)
}

/// Fills the buffer chunk by chunk, while another thread hashes the filled chunks.
fn fill(whole: &mut [u8], mut read: impl FnMut(usize, &mut [u8])) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (arrived, to_hash) = sync_channel::<&mut [u8]>(8);
        scope.spawn(move || {
            for chunk in to_hash {
                std::hint::black_box(blake3::hash(chunk));
            }
        });
        for (n, chunk) in whole.chunks_mut(MIB).enumerate() {
            read(n, chunk);
            arrived.send(chunk).expect("it hashes");
        }
    });
    rate(GIB, began)
}

fn verified(whole: &mut [u8], mut stream: TcpStream) -> f64 {
    fill(whole, |_, chunk| stream.read_exact(chunk).expect("it comes"))
}

fn passed(whole: &mut [u8], path: &str) -> f64 {
    let mut stream = UnixStream::connect(path).expect("it listens");
    stream.write_all(b"w").expect("it reads");
    let file = receive_file(&stream);
    fill(whole, |n, chunk| {
        stream.read_exact(&mut [0]).expect("it is written");
        file.read_exact_at(chunk, (n * MIB) as u64).expect("it is there");
    })
}

fn shared(path: &str) -> f64 {
    let mut stream = UnixStream::connect(path).expect("it listens");
    let began = Instant::now();
    stream.write_all(b"r").expect("it reads");
    let file = &receive_file(&stream);
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                // Fits into the cache of the core, so that reading is about as cheap as mapping the file.
                let mut chunk = vec![0; 64 << 10];
                for n in (half * GIB / 2..(half + 1) * GIB / 2).step_by(chunk.len()) {
                    file.read_exact_at(&mut chunk, n as u64).expect("it is there");
                    std::hint::black_box(blake3::hash(&chunk));
                }
            });
        }
    });
    rate(GIB, began)
}
