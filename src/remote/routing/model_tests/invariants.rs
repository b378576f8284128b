//! The invariants that are checked at the end of a schedule.

use super::*;

impl World {
    /// Runs everything that is pending to completion, without failures.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut progress = false;
            self.take_in_all(HEAD);
            for process in 0..self.processes.len() {
                for dead in 0..self.processes.len() {
                    progress |= self.notice(process, dead);
                }
            }
            let lines: Vec<_> = self.lines.keys().copied().collect();
            for (from, to, session) in lines {
                progress |= self.deliver(from, to, session);
            }
            for work in 0..WORKS {
                if self.lives[work] == Life::Unplaced {
                    self.launch(work, self.processes.len() - 1);
                    progress = true;
                }
            }
            for process in 0..self.processes.len() {
                for work in 0..WORKS {
                    progress |= self.handle(process, work);
                }
            }
            if !progress {
                return;
            }
        }
        panic!("the model does not come to rest");
    }

    /// Asserts that all messages are accounted for, every Work is reachable from everywhere, and no state is left over.
    pub(super) fn check(mut self) {
        self.settle();
        let missing: Vec<_> = self
            .accepted
            .iter()
            .filter(|message| !self.handled.contains(message) && !self.lost.contains(message))
            .collect();
        assert!(missing.is_empty(), "neither handled nor lost: {missing:?}");
        for work in 0..WORKS {
            if self.lives[work] == Life::Stopped {
                self.launch(work, self.processes.len() - 1);
            }
        }
        self.settle();
        for process in 0..self.processes.len() {
            for work in 0..WORKS {
                if self.processes[process].is_dead {
                    continue;
                }
                let before = self.sent.get(&(process, work)).copied().unwrap_or(0);
                for _ in 0..4 {
                    self.offer(process, work);
                    self.settle();
                }
                let after = self.sent.get(&(process, work)).copied().unwrap_or(0);
                assert!(after > before, "work {work} takes nothing from process {process}");
                let last = Message { sender: process, work, number: after - 1 };
                assert!(self.handled.contains(&last), "work {work} is not reached from process {process}");
            }
        }
        (0..WORKS).for_each(|work| self.stop(work));
        self.settle();
        for process in 1..self.processes.len() {
            (0..WORKS).for_each(|work| self.forget(process, work));
        }
        self.settle();
        // A route that was never used has no counterpart at the other end.
        let alive = |route: &Route| {
            route.is_open && !self.processes[route.from].is_dead && !self.processes[route.to].is_dead
        };
        let left: Vec<_> = self.routes.values().filter(|route| alive(route)).collect();
        assert!(left.is_empty(), "routes are left: {left:?}");
        assert!(self.registry.is_empty(), "the head keeps what nobody asks for");
    }
}
