//! Decides which siblings are restarted with a child, and when there were too many restarts (pure).
//!
//! The strategies are those of Erlang/OTP's supervisors.

use std::ops::Range;
use std::time::Duration;

use super::restart::Window;

/// Supervision strategy: the children of a Flow that are restarted when one of them fails, and the limit of restarts.
///
/// Returned by [`Flow::strategy`](crate::Flow::strategy). A restart beyond the limit fails the Flow and escalates to
/// its parent; without a limit only the [`Restart`](crate::Restart) policy of each child counts.
///
/// ```
/// # use std::time::Duration;
/// # use flowright::Strategy;
/// let strategy = Strategy::all_for_one().limit(3, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a strategy does nothing until `Flow::strategy` returns it"]
pub struct Strategy {
    kind: Kind,
    limit: Option<(u32, Duration)>,
}

/// Children that are restarted with the failed child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    One,
    All,
    Rest,
}

impl Strategy {
    /// Restarts only the failed child. The default.
    pub const fn one_for_one() -> Self {
        Self { kind: Kind::One, limit: None }
    }

    /// Restarts all children, for children that depend on each other.
    pub const fn all_for_one() -> Self {
        Self { kind: Kind::All, limit: None }
    }

    /// Restarts the failed child and those declared after it, for children that depend on earlier ones.
    pub const fn rest_for_one() -> Self {
        Self { kind: Kind::Rest, limit: None }
    }

    /// Limits the restarts: more than `max` restarts of children within `within` fail this Flow.
    pub const fn limit(self, max: u32, within: Duration) -> Self {
        Self { limit: Some((max, within)), ..self }
    }
}

impl Default for Strategy {
    fn default() -> Self {
        Self::one_for_one()
    }
}

/// Consequence of the restart of a child.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Restarts these children, as positions in the order of declaration; the failed child may be among them.
    Restart(Range<usize>),
    /// The limit was exceeded, which fails the Flow itself.
    Escalate { max: u32, within: Duration },
}

/// Restart history of one Flow's children.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    window: Window,
}

impl Supervisor {
    /// Restores the times of the restarts in the window, oldest first.
    pub(crate) fn restored(times: &[Duration]) -> Self {
        Self { window: Window::restored(times) }
    }

    /// Returns the times of the restarts in the window, oldest first.
    pub(crate) fn times(&self) -> Vec<Duration> {
        self.window.times()
    }

    /// Records that child number `child` of `children` is being restarted at `now`, and decides about its siblings.
    pub(crate) fn on_restart(
        &mut self,
        strategy: Strategy,
        child: usize,
        children: usize,
        now: Duration,
    ) -> Decision {
        if let Some((max, within)) = strategy.limit
            && self.window.admit(max, within, now).is_none()
        {
            return Decision::Escalate { max, within };
        }
        Decision::Restart(match strategy.kind {
            Kind::One => child..child + 1,
            Kind::All => 0..children,
            Kind::Rest => child..children,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy as _, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn strategy() -> impl proptest::strategy::Strategy<Value = Strategy> {
        let kinds = [Strategy::one_for_one(), Strategy::all_for_one(), Strategy::rest_for_one()];
        (proptest::sample::select(kinds.to_vec()), proptest::option::of((0_u32..4, 1_u64..50))).prop_map(
            |(strategy, limit)| match limit {
                Some((max, within)) => strategy.limit(max, Duration::from_millis(within)),
                None => strategy,
            },
        )
    }

    proptest! {
        /// The model keeps all permitted restarts and counts those within the window each time.
        #[test]
        fn it_decides_as_the_model_does(
            strategy in strategy(),
            failures in proptest::collection::vec((0_usize..5, 0_u64..40), 0..30),
        ) {
            let mut supervisor = Supervisor::default();
            let mut let_through: Vec<Duration> = Vec::new();
            let mut now = Duration::ZERO;
            for (child, wait) in failures {
                now += Duration::from_millis(wait);
                let too_many = strategy.limit.is_some_and(|(max, within)| {
                    let recent = let_through.iter().filter(|time| **time + within > now).count();
                    recent >= max as usize
                });
                let decision = supervisor.on_restart(strategy, child, 5, now);
                if too_many {
                    let escalated = matches!(decision, Decision::Escalate { .. });
                    prop_assert!(escalated);
                    continue;
                }
                let_through.push(now);
                let expected = match strategy.kind {
                    Kind::One => child..child + 1,
                    Kind::All => 0..5,
                    Kind::Rest => child..5,
                };
                prop_assert_eq!(decision, Decision::Restart(expected));
            }
        }
    }
}
