//! Back-off between attempts to reach another process.
//!
//! # Guarantees
//! - A connection or session that ends soon after it began counts as a failed attempt: the next attempt waits, and
//!   longer each time.
//! - Waits are jittered, so that processes that lost the same peer at the same moment do not all dial it at the same
//!   moment.
//! - A peer that was out of reach for a short time is reached soon after its return: within a tenth of that time, or 50
//!   milliseconds.

use std::time::Duration;

use crate::transport::Endpoint;

/// The first wait.
const FIRST: Duration = Duration::from_millis(20);

/// Lifetime from which on a connection counts as a success.
const STEADY: Duration = Duration::from_secs(1);

/// Returns the longest wait between attempts to reach a process at this endpoint.
pub(super) fn longest_pause(endpoint: &Endpoint) -> Duration {
    match endpoint {
        Endpoint::Tcp(_) => Duration::from_secs(1),
        // An attempt costs next to nothing on this machine, where a head may be started again at any moment.
        Endpoint::Unix(_) => Duration::from_millis(100),
    }
}

/// Longest wait for a peer that has just gone out of reach.
const SOON: Duration = Duration::from_millis(50);

/// Returns the longest wait before an attempt to reach a peer that has been out of reach for `absence`, up to `longest`.
pub(super) fn longest_within(absence: Duration, longest: Duration) -> Duration {
    (absence / 10).max(SOON).min(longest)
}

/// Exponential backoff with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, next: FIRST }
    }

    /// Records a failed attempt. Returns the wait before the next one: between half and all of the present back-off,
    /// which then doubles.
    pub(super) fn failed(&mut self) -> Duration {
        self.failed_within(self.longest)
    }

    /// Records a failed attempt like [`failed`](Self::failed), with another limit on the wait.
    pub(super) fn failed_within(&mut self, longest: Duration) -> Duration {
        let pause = self.next.min(longest);
        self.next = pause.saturating_mul(2).min(longest);
        jitter(pause)
    }

    /// Records that a connection ended after `time`. Returns the wait before the next attempt if `time` was too short
    /// for a success.
    pub(super) fn lived(&mut self, time: Duration) -> Option<Duration> {
        if time >= STEADY {
            self.next = FIRST;
            return None;
        }
        Some(self.failed())
    }
}

/// Returns a random duration between half and all of `pause`, so that processes that begin to wait at the same moment do not
/// all end their waits at the same moment.
pub(super) fn jitter(pause: Duration) -> Duration {
    jittered(pause, random())
}

/// Returns a duration between half and all of `pause`, chosen by 16 random bits.
fn jittered(pause: Duration, random: u16) -> Duration {
    let half = pause / 2;
    half + half * u32::from(random) / u32::from(u16::MAX)
}

fn random() -> u16 {
    // Without random bytes there is no jitter.
    getrandom::u32().map_or(u16::MAX, |bits| (bits >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(1);

    /// Connections that end at once are followed by longer and longer waits, up to the limit.
    #[test]
    fn short_lives_back_off_and_long_ones_do_not() {
        let mut backoff = Backoff::new(LONGEST);
        let waits: Vec<_> = (0..12).map(|_| backoff.lived(Duration::from_millis(3)).unwrap()).collect();
        assert!(waits.iter().sum::<Duration>() >= 3 * LONGEST, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST), "{waits:?}");
        assert_eq!(backoff.lived(STEADY), None);
        assert!(backoff.lived(Duration::ZERO).unwrap() <= FIRST);
    }

    /// A peer is found soon after a short absence, and is not dialed often during a long one.
    #[test]
    fn short_absences_have_short_waits() {
        let (mut backoff, mut absence, mut attempts) = (Backoff::new(LONGEST), Duration::ZERO, 0);
        while absence < Duration::from_secs(60) {
            let wait = backoff.failed_within(longest_within(absence, LONGEST));
            assert!(wait <= LONGEST && wait <= (absence / 10).max(SOON), "{wait:?} after {absence:?}");
            absence += wait;
            attempts += 1;
        }
        assert!(attempts < 250, "{attempts}");
    }

    proptest! {
        /// A jittered wait is between half and all of the pause.
        #[test]
        fn jitter_stays_within_half_and_whole(millis in 0_u64..100_000, random: u16) {
            let pause = Duration::from_millis(millis);
            let wait = jittered(pause, random);
            prop_assert!(wait >= pause / 2 && wait <= pause);
        }
    }
}
