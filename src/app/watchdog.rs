//! The watchdog of an App: a thread that detects code of a Flow that does not return.
//!
//! # Guarantees
//! - Code of a Flow that blocks the App's thread is logged every ten seconds, with the path of the Flow.
//! - An App that is asked to stop ends within its grace period, or within a second if that is longer, even when a Flow
//!   never returns. Code that has been executing for less than a second is not given up.
//! - The watchdog sleeps while no Flow reacts, and wakes once in ten seconds while Flows react.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::error::AppError;
use crate::id::ActorPath;

/// The time after which code of a Flow counts as stuck, and the interval of the log lines about it.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The minimum time that a Flow has to return while its App stops, however short the grace period: code that is about
/// to return has been executing for a moment, too.
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// The activity of the App's thread, shared by that thread, the watchdog, and callers of the API.
#[derive(Clone)]
pub(crate) struct Watchdog(Arc<Shared>);

struct Shared {
    watch: Mutex<Watch>,
    changed: Condvar,
}

/// A Flow whose code has been executing for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stuck {
    pub(crate) path: ActorPath,
    pub(crate) time: Duration,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, time } = self;
        let seconds = time.as_secs();
        write!(f, "flow `{path}` has kept the App's thread for {seconds} s and has not returned")
    }
}

/// The state machine of the watchdog: pure.
#[derive(Debug)]
struct Watch {
    grace: Duration,
    /// The Flow whose code is executing, and the start of the call.
    busy: Option<(ActorPath, Instant)>,
    /// The number of log lines about this call.
    told: u32,
    /// The time at which the App was asked to stop.
    asked: Option<Instant>,
    /// True once the driver has begun the shutdown.
    is_ending: bool,
    is_over: bool,
    /// True while the watchdog waits for the next change without a timeout.
    is_asleep: bool,
}

/// The next step of the watchdog.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Sleep(Option<Duration>),
    Tell(Stuck),
    GiveUp(Stuck),
    End,
}

impl Watch {
    fn new(grace: Duration) -> Self {
        Self { grace, busy: None, told: 0, asked: None, is_ending: false, is_over: false, is_asleep: false }
    }

    fn stuck(&self, now: Instant) -> Option<Stuck> {
        let (path, since) = self.busy.as_ref()?;
        let time = now.saturating_duration_since(*since);
        (time >= STUCK_AFTER).then(|| Stuck { path: path.clone(), time })
    }

    fn next(&mut self, now: Instant) -> Next {
        if self.is_over {
            return Next::End;
        }
        let Some((path, since)) = &self.busy else { return Next::Sleep(None) };
        let time = now.saturating_duration_since(*since);
        let stuck = || Stuck { path: path.clone(), time };
        let mut wait = (STUCK_AFTER * (self.told + 1)).saturating_sub(time);
        if let Some(asked) = self.asked {
            // Once the shutdown has begun, a call that starts later has its time from its own start.
            let from = if self.is_ending { asked.max(*since) } else { asked };
            let grace = self.grace.max(LEAST_GRACE);
            let rest = grace
                .saturating_sub(now.saturating_duration_since(from))
                .max(LEAST_GRACE.saturating_sub(time));
            if rest.is_zero() {
                return Next::GiveUp(stuck());
            }
            wait = wait.min(rest);
        }
        if !wait.is_zero() {
            return Next::Sleep(Some(wait));
        }
        let told = stuck();
        self.told += 1;
        Next::Tell(told)
    }
}

impl Watchdog {
    /// Starts the watchdog thread. When a Flow does not return though the App is to stop, the watchdog gives up and
    /// sends the error with which the App ends.
    pub(super) fn start(grace: Duration) -> std::io::Result<(Self, oneshot::Receiver<AppError>)> {
        let shared = Arc::new(Shared { watch: Mutex::new(Watch::new(grace)), changed: Condvar::new() });
        let (give_up, gave_up) = oneshot::channel();
        let watched = shared.clone();
        std::thread::Builder::new()
            .name("flowright-watch".to_owned())
            .stack_size(128 << 10)
            .spawn(move || watched.watch(give_up))?;
        Ok((Self(shared), gave_up))
    }

    /// Calls code of the Flow at `path` under supervision. Calls may nest.
    pub(super) fn during<R>(&self, path: &ActorPath, call: impl FnOnce() -> R) -> R {
        /// Restores the outer call on drop, so also after a panic.
        struct Busy<'a>(&'a Shared, Option<(ActorPath, Instant)>);

        impl Drop for Busy<'_> {
            fn drop(&mut self) {
                let mut watch = self.0.watch.lock();
                watch.busy = self.1.take();
                watch.told = 0;
            }
        }

        let mut watch = self.0.watch.lock();
        let before = watch.busy.replace((path.clone(), Instant::now()));
        watch.told = 0;
        let wakes = std::mem::take(&mut watch.is_asleep);
        drop(watch);
        if wakes {
            self.0.changed.notify_one();
        }
        let _busy = Busy(&self.0, before);
        call()
    }

    /// Records that the App was asked to stop.
    pub(super) fn ask_to_end(&self) {
        self.change(|watch| watch.asked = watch.asked.or_else(|| Some(Instant::now())));
    }

    /// Records that the driver has begun the shutdown.
    pub(super) fn ending(&self) {
        self.change(|watch| {
            watch.asked = watch.asked.or_else(|| Some(Instant::now()));
            watch.is_ending = true;
        });
    }

    /// Ends the watchdog with its App.
    pub(super) fn end(&self) {
        self.change(|watch| watch.is_over = true);
    }

    /// Returns the Flow whose code has blocked the App's thread for at least ten seconds.
    pub(crate) fn stuck(&self) -> Option<Stuck> {
        self.0.watch.lock().stuck(Instant::now())
    }

    fn change(&self, change: impl FnOnce(&mut Watch)) {
        change(&mut self.0.watch.lock());
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn watch(&self, give_up: oneshot::Sender<AppError>) {
        let mut watch = self.watch.lock();
        loop {
            match watch.next(Instant::now()) {
                Next::Sleep(None) => {
                    watch.is_asleep = true;
                    self.changed.wait(&mut watch);
                }
                Next::Sleep(Some(time)) => {
                    self.changed.wait_for(&mut watch, time);
                }
                Next::Tell(stuck) => {
                    drop(watch);
                    log::error!(
                        "{stuck}: no Flow of the App reacts meanwhile, and the API does not answer; move long \
                         computations into a Work"
                    );
                    watch = self.watch.lock();
                }
                Next::GiveUp(Stuck { path, time }) => {
                    drop(watch);
                    // The handle of the App may have been dropped.
                    let _ = give_up.send(AppError::Stuck { path: path.to_string(), time });
                    return;
                }
                Next::End => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn busy(grace: Duration) -> (Watch, Instant) {
        let start = Instant::now();
        let mut watch = Watch::new(grace);
        watch.busy = Some((ActorPath::from("team"), start));
        (watch, start)
    }

    fn stuck(seconds: u32) -> Stuck {
        Stuck { path: ActorPath::from("team"), time: seconds * S }
    }

    /// A Flow that does not return is logged after ten seconds, and every ten seconds from then on.
    #[test]
    fn stuck_flow_is_told_of_every_ten_seconds() {
        let (mut watch, start) = busy(S);
        assert_eq!(watch.next(start + 9 * S), Next::Sleep(Some(S)));
        assert_eq!(watch.stuck(start + 9 * S), None);
        for told in 1..4 {
            assert_eq!(watch.next(start + 10 * told * S), Next::Tell(stuck(10 * told)));
            assert_eq!(watch.next(start + 10 * told * S), Next::Sleep(Some(10 * S)));
            assert_eq!(watch.stuck(start + 10 * told * S), Some(stuck(10 * told)));
        }
        watch.busy = None;
        assert_eq!(watch.next(start + 50 * S), Next::Sleep(None));
        assert_eq!(watch.stuck(start + 50 * S), None);
    }

    /// An App that is asked to stop while a Flow does not return is given up after its grace period, and not before.
    #[test]
    fn stuck_app_is_given_up_after_its_grace() {
        let (mut watch, start) = busy(3 * S);
        watch.asked = Some(start + 2 * S);
        assert_eq!(watch.next(start + 2 * S), Next::Sleep(Some(3 * S)));
        assert_eq!(watch.next(start + 5 * S), Next::GiveUp(stuck(5)));
        // Another reaction may have started in the meantime.
        watch.busy = Some((ActorPath::from("team"), start + 4 * S));
        assert_eq!(watch.next(start + 5 * S), Next::GiveUp(stuck(1)));
        // Once the shutdown has begun, the code on the thread has the grace period to itself.
        watch.is_ending = true;
        assert_eq!(watch.next(start + 5 * S), Next::Sleep(Some(2 * S)));
        assert_eq!(watch.next(start + 7 * S), Next::GiveUp(stuck(3)));
        watch.is_over = true;
        assert_eq!(watch.next(start + 7 * S), Next::End);
    }

    /// Code of a Flow that has only just started is not given up, however short the grace period is and however long
    /// ago the App was asked to stop.
    #[test]
    fn code_that_has_just_begun_is_not_given_up() {
        const MS: Duration = Duration::from_millis(1);
        for grace in [Duration::ZERO, MS, 500 * MS, S] {
            for is_ending in [false, true] {
                let (mut watch, start) = busy(grace);
                (watch.asked, watch.is_ending) = (Some(start), is_ending);
                assert_eq!(watch.next(start), Next::Sleep(Some(S)), "{grace:?}, {is_ending}");
                assert_eq!(watch.next(start + 999 * MS), Next::Sleep(Some(MS)), "{grace:?}, {is_ending}");
                assert_eq!(watch.next(start + S), Next::GiveUp(stuck(1)), "{grace:?}, {is_ending}");
                // Another reaction may be executing at the end of the grace period.
                watch.busy = Some((ActorPath::from("team"), start + 5 * S));
                assert_eq!(watch.next(start + 5 * S), Next::Sleep(Some(S)), "{grace:?}, {is_ending}");
                assert_eq!(watch.next(start + 6 * S), Next::GiveUp(stuck(1)), "{grace:?}, {is_ending}");
                // Long-running code has the minimum time as well, counted from the request to stop.
                watch.asked = Some(start + 9 * S);
                assert_eq!(watch.next(start + 9 * S), Next::Sleep(Some(S)), "{grace:?}, {is_ending}");
                assert_eq!(watch.next(start + 10 * S), Next::GiveUp(stuck(5)), "{grace:?}, {is_ending}");
            }
        }
    }

    /// An unlimited grace period gives up no code.
    #[test]
    fn endless_grace_gives_nothing_up() {
        let (mut watch, start) = busy(Duration::MAX);
        watch.asked = Some(start);
        assert_eq!(watch.next(start + 10 * S), Next::Tell(stuck(10)));
        assert_eq!(watch.next(start + 10 * S), Next::Sleep(Some(10 * S)));
    }
}
