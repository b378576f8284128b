//! A proxy between a node and its head that can cut, hold and slow down the network.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::tokens::Forwarded;

/// The treatment of bytes in transit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Bytes are delayed by this time.
    Delay(Duration),
    /// This many bytes pass each second; the rest waits at the sender.
    Slow(u32),
    /// Bytes do not arrive, and connections stay open.
    Hold,
    /// All connections are closed, and none is accepted.
    Cut,
}

/// The end of a connection after some number of bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    Close,
    /// One byte is changed.
    Flip,
}

/// A proxy that forwards connections to its own address. Closes all connections on drop.
pub(crate) struct Proxy {
    address: String,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    /// Lets nodes find the head's token by the address of the proxy.
    _token: Option<Forwarded>,
}

struct Shared {
    /// The address that connections are forwarded to.
    target: Mutex<String>,
    weather: Mutex<Weather>,
    changed: Condvar,
    streams: Mutex<HashMap<u64, [TcpStream; 2]>>,
    /// The number of connections so far, and the first of them that bytes may pass.
    connections: Mutex<(u64, u64)>,
    /// The trap: after how many bytes, its kind, and the number of connections that it is still set for.
    trap: Mutex<Option<(u64, Trap, u32)>>,
    /// The number of connections that were closed at once, since the network was cut.
    refused: AtomicU64,
    ended: AtomicBool,
}

/// A connection, shared by both directions; the last one to end closes it.
struct Passage {
    number: u64,
    shared: Arc<Shared>,
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.shared.streams.lock().unwrap().remove(&self.number);
    }
}

impl Shared {
    fn close_all(&self) {
        for stream in self.streams.lock().unwrap().values().flatten() {
            // The stream may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits while these bytes are held; `false` when the connection is to be closed.
    fn pass(&self, connection: u64, read_at: Instant, bytes: usize) -> bool {
        if connection < self.connections.lock().unwrap().1 {
            // Held for good: neither forwarded nor closed.
            return true;
        }
        let now = Instant::now();
        let mut weather = self.weather.lock().unwrap();
        loop {
            let until = match *weather {
                Weather::Fair => return true,
                Weather::Cut => return false,
                Weather::Hold => {
                    weather = self.changed.wait(weather).unwrap();
                    continue;
                }
                Weather::Delay(delay) => read_at + delay,
                Weather::Slow(each_second) => now + Duration::from_secs(1) * bytes as u32 / each_second,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            weather = self.changed.wait_timeout(weather, left).unwrap().0;
        }
    }
}

impl Proxy {
    /// Starts a proxy that leads to `target`.
    pub(crate) fn to(target: &str) -> Self {
        Self::at("127.0.0.1:0", target)
    }

    /// As [`to`](Self::to), at this address.
    pub(crate) fn at(address: &str, target: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_owned()),
            weather: Mutex::new(Weather::Fair),
            changed: Condvar::new(),
            streams: Mutex::default(),
            connections: Mutex::default(),
            trap: Mutex::default(),
            refused: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let token = Forwarded::new(&address, target);
        let passing = shared.clone();
        let accepting = thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if passing.ended.load(Ordering::Relaxed) {
                    break;
                }
                if *passing.weather.lock().unwrap() == Weather::Cut {
                    passing.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let target = passing.target.lock().unwrap().clone();
                let Ok(far) = TcpStream::connect(target) else { continue };
                passing.carry_between(near, far);
            }
        });
        Self { address, shared, accepting: Some(accepting), _token: token }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The number of connections that were closed at once, since the network was cut.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.lock().unwrap().0
    }

    /// Leads to another address from now on; existing connections are closed.
    pub(crate) fn lead_to(&self, target: &str) {
        *self.shared.target.lock().unwrap() = target.to_owned();
        self.shared.close_all();
    }

    pub(crate) fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap() = weather;
        self.shared.changed.notify_all();
        if weather == Weather::Cut {
            self.shared.close_all();
        }
    }
}

impl Proxy {
    /// Sets a trap for the next `times` connections.
    pub(crate) fn trap(&self, after: u64, trap: Trap, times: u32) {
        *self.shared.trap.lock().unwrap() = Some((after, trap, times));
    }

    /// The number of connections that the trap is still set for.
    pub(crate) fn traps_left(&self) -> u32 {
        self.shared.trap.lock().unwrap().map_or(0, |(_, _, left)| left)
    }

    /// Holds all bytes on the existing connections, without closing them, and waits until another is made.
    pub(crate) fn hold_until_the_next_connection(&self) {
        let before = {
            let mut connections = self.shared.connections.lock().unwrap();
            connections.1 = connections.0 + 1;
            connections.0
        };
        let mut weather = self.shared.weather.lock().unwrap();
        while self.shared.connections.lock().unwrap().0 == before {
            weather = self.shared.changed.wait_timeout(weather, Duration::from_millis(50)).unwrap().0;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.set(Weather::Cut);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn carry_between(self: &Arc<Self>, near: TcpStream, far: TcpStream) {
        let number = {
            let mut connections = self.connections.lock().unwrap();
            connections.0 += 1;
            connections.0
        };
        let both = || (near.try_clone().unwrap(), far.try_clone().unwrap());
        let (there, (to, from)) = (both(), both());
        self.streams.lock().unwrap().insert(number, [near, far]);
        let passage = Arc::new(Passage { number, shared: self.clone() });
        for (from, to) in [there, (from, to)] {
            let passage = passage.clone();
            thread::spawn(move || carry(from, to, &passage));
        }
        self.changed.notify_all();
    }
}

/// Reads at once and writes after the delay, so that a delay costs no throughput.
fn carry(mut from: TcpStream, mut to: TcpStream, passage: &Passage) {
    let (shared, connection) = (&passage.shared, passage.number);
    let (send, receive) = std::sync::mpsc::sync_channel::<(Instant, Vec<u8>)>(64);
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    if send.send((Instant::now(), buffer[..read].to_vec())).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    let mut passed = 0;
    while let Ok((read_at, mut bytes)) = receive.recv() {
        let before = passed;
        passed += bytes.len() as u64;
        let trap = {
            let mut trap = shared.trap.lock().unwrap();
            match &mut *trap {
                Some((after, what, left)) if (before..passed).contains(after) && *left > 0 => {
                    *left -= 1;
                    Some((*what, (*after - before) as usize))
                }
                _ => None,
            }
        };
        match trap {
            Some((Trap::Close, _)) => break,
            Some((Trap::Flip, at)) => bytes[at] ^= 1,
            None => {}
        }
        if !shared.pass(connection, read_at, bytes.len()) {
            break;
        }
        if shared.connections.lock().unwrap().1 > connection {
            continue;
        }
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // The reading side may wait for room here.
    drop(receive);
    let _ = to.shutdown(Shutdown::Both);
    let _ = reader.join();
}
