//! Lower bound for everything that crosses threads: no actor system at all.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use crate::support::{current_thread, median, on_other_thread, spawned};

pub fn run(measure: &str, n: u64) -> Option<f64> {
    match measure {
        "wakeup" => Some(wakeup(n)),
        "wakeup-eventloop" => Some(wakeup_eventloop(n)),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Here,
    There,
}

fn wakeup(n: u64) -> f64 {
    let table = Arc::new((Mutex::new(Turn::Here), Condvar::new()));
    let other = Arc::clone(&table);
    std::thread::spawn(move || {
        for _ in 0..n {
            pass(&other, Turn::There, Turn::Here);
        }
    });
    let mut trips = Vec::with_capacity(n as usize);
    for _ in 0..n {
        let start = Instant::now();
        pass(&table, Turn::Here, Turn::There);
        // When the turn is back, the other thread was woken and has woken this one.
        let mut turn = table.0.lock().expect("no panic");
        while *turn != Turn::Here {
            turn = table.1.wait(turn).expect("no panic");
        }
        drop(turn);
        trips.push(start.elapsed().as_nanos() as f64);
    }
    median(&mut trips) / 2.0
}

/// Waits for the turn `mine` and passes it on.
fn pass(table: &(Mutex<Turn>, Condvar), mine: Turn, next: Turn) {
    let mut turn = table.0.lock().expect("no panic");
    while *turn != mine {
        turn = table.1.wait(turn).expect("no panic");
    }
    *turn = next;
    drop(turn);
    table.1.notify_one();
}

fn wakeup_eventloop(n: u64) -> f64 {
    let ping = Arc::new(Notify::new());
    let pong = Arc::new(Notify::new());
    let (ping2, pong2) = (Arc::clone(&ping), Arc::clone(&pong));
    on_other_thread(move || async move {
        tokio::spawn(async move {
            loop {
                ping2.notified().await;
                pong2.notify_one();
            }
        });
    });
    spawned(&current_thread(), async move {
        let mut trips = Vec::with_capacity(n as usize);
        for _ in 0..n {
            let start = Instant::now();
            ping.notify_one();
            pong.notified().await;
            trips.push(start.elapsed().as_nanos() as f64);
        }
        median(&mut trips) / 2.0
    })
}
