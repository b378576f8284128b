//! Rate-limited logging of connections that were refused: few, short and printable lines, whatever strangers send.
//!
//! # Guarantees
//! - For each address, one refusal per minute is logged, with the number of further ones.
//! - For all addresses together, at most a burst of ten refusals and then one per second are logged.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::printable::{LONGEST_REASON, brief};

/// Window of one logged refusal per address.
const WINDOW: Duration = Duration::from_secs(60);

/// Rate limit for all addresses together: one line per interval, after a burst.
const ONE_COMPLAINT: Duration = Duration::from_secs(1);
const FEW: u32 = 10;

/// Limit on the addresses that are tracked separately; all others share one entry.
const ADDRESSES: usize = 1024;

/// The log of refusals. Clones share its state.
#[derive(Clone, Default)]
pub(crate) struct Complaints {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The number of refusals without a line, per origin in its window. `None` stands for all origins beyond the limit.
    known: HashMap<Option<Origin>, u64>,
    last: Option<Instant>,
    /// Number of lines of the current burst.
    together: u32,
}

/// The origin of connections: an IPv4 address, an IPv6 network (the owner of one address of a /64 has all of them), or
/// processes of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Address(IpAddr),
    Network([u16; 4]),
    Here,
}

impl Origin {
    fn of(peer: &str) -> Self {
        match peer.parse::<SocketAddr>().map(|address| address.ip().to_canonical()) {
            Ok(IpAddr::V6(ip)) if ip != Ipv6Addr::LOCALHOST => {
                let [a, b, c, d, ..] = ip.segments();
                Self::Network([a, b, c, d])
            }
            Ok(ip) => Self::Address(ip),
            Err(_) => Self::Here,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Network([a, b, c, d]) => write!(f, "{}/64", Ipv6Addr::new(*a, *b, *c, *d, 0, 0, 0, 0)),
            Self::Here => f.write_str("this machine"),
        }
    }
}

impl Complaints {
    /// Logs what is wrong with `peer`, an address and port or a description, unless a limit is reached. Must be called
    /// within a runtime.
    pub(crate) fn note(&self, peer: &str, what: &str) {
        if let Some(text) = self.take(peer, what) {
            log::warn!("{text}");
        }
    }

    /// Returns the line to log now, if any.
    fn take(&self, peer: &str, what: &str) -> Option<String> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut origin = Some(Origin::of(peer));
        if !state.known.contains_key(&origin) && state.known.len() >= ADDRESSES {
            origin = None;
        }
        let is_first = !state.known.contains_key(&origin);
        let left_out = state.known.entry(origin).or_default();
        if !is_first {
            *left_out += 1;
            return None;
        }
        self.watch(origin);
        if state.may_log(now) {
            return Some(brief(what, LONGEST_REASON));
        }
        state.known.insert(origin, 1);
        None
    }

    /// Logs the number of further refusals at the end of the window, and forgets the origin.
    fn watch(&self, origin: Option<Origin>) {
        let complaints = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(WINDOW).await;
            let left_out = complaints.state.lock().known.remove(&origin).unwrap_or_default();
            if left_out > 0 {
                log::warn!("{}", summary(origin, left_out));
            }
        });
    }
}

fn summary(origin: Option<Origin>, left_out: u64) -> String {
    let from = origin.map_or_else(|| "many other addresses".to_owned(), |origin| origin.to_string());
    let connections = if left_out == 1 { "connection" } else { "connections" };
    format!("{left_out} more {connections} from {from} were refused within a minute")
}

impl State {
    fn may_log(&mut self, now: Instant) -> bool {
        let elapsed = self.last.map_or(ONE_COMPLAINT * FEW, |last| now - last);
        let over = u32::try_from(elapsed.as_millis() / ONE_COMPLAINT.as_millis()).unwrap_or(FEW);
        self.together = self.together.saturating_sub(over);
        if self.together >= FEW {
            return false;
        }
        self.together += 1;
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address gets one line per minute, whatever its ports and reasons; other addresses are logged meanwhile.
    #[tokio::test(start_paused = true)]
    async fn one_refusal_per_address_and_minute_is_logged() {
        let complaints = Complaints::default();
        assert_eq!(complaints.take("10.0.0.1:1", "no\x1b[2J\n"), Some("no\\u{1b}[2J ".to_owned()));
        for port in 2..1000 {
            assert_eq!(complaints.take(&format!("10.0.0.1:{port}"), &format!("reason {port}")), None);
        }
        assert!(complaints.take("10.0.0.2:1", "another").is_some());
        assert!(complaints.take("[2001:db8::1]:1", "six").is_some());
        assert_eq!(complaints.take("[2001:db8::ffff:2]:1", "the same network"), None);
        assert!(complaints.take("a Unix socket", "here").is_some());
        assert_eq!(complaints.state.lock().known[&Some(Origin::of("10.0.0.1:9"))], 998);
        tokio::time::sleep(WINDOW + Duration::from_secs(1)).await;
        assert!(complaints.take("10.0.0.1:1", "again").is_some());
    }

    /// Many addresses do not cause many lines, nor use much memory.
    #[tokio::test(start_paused = true)]
    async fn many_addresses_share_a_limit() {
        let complaints = Complaints::default();
        let logged = (0..100_000_u32)
            .filter(|n| {
                complaints.take(&format!("{}:1", std::net::Ipv4Addr::from(*n)), &"x".repeat(9999)).is_some()
            })
            .count();
        assert_eq!(logged, FEW as usize);
        assert_eq!(complaints.state.lock().known.len(), ADDRESSES + 1);
    }

    /// The summary gives the number of further refusals and the address.
    #[test]
    fn summary_names_the_address() {
        assert_eq!(
            summary(Some(Origin::of("10.0.0.1:9")), 2),
            "2 more connections from 10.0.0.1 were refused within a minute"
        );
        assert_eq!(Origin::of("[2001:db8:1:2:3::4]:9").to_string(), "2001:db8:1:2::/64");
    }
}
