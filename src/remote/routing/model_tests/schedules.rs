//! Schedules: the events of a test in random order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Offer(usize, usize),
    Deliver(usize),
    Handle(usize, usize),
    Launch(usize, usize),
    Restart(usize, usize, bool),
    Stop(usize),
    Kill(usize),
    Notice(usize, usize),
    Cut(usize, usize),
    Forget(usize, usize),
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let (process, work) = (0..8_usize, 0..WORKS);
    prop_oneof![
        12 => (process.clone(), work.clone()).prop_map(|(p, w)| Event::Offer(p, w)),
        16 => any::<usize>().prop_map(Event::Deliver),
        6 => (process.clone(), work.clone()).prop_map(|(p, w)| Event::Handle(p, w)),
        3 => (work.clone(), process.clone()).prop_map(|(w, p)| Event::Launch(w, p)),
        3 => (work.clone(), process.clone(), any::<bool>()).prop_map(|(w, p, f)| Event::Restart(w, p, f)),
        1 => work.clone().prop_map(Event::Stop),
        1 => process.clone().prop_map(Event::Kill),
        2 => (process.clone(), process.clone()).prop_map(|(a, b)| Event::Notice(a, b)),
        1 => (process.clone(), process.clone()).prop_map(|(a, b)| Event::Cut(a, b)),
        1 => (process, work).prop_map(|(p, w)| Event::Forget(p, w)),
    ]
}

impl World {
    /// Performs an event; numbers beyond those in use are reduced to these.
    pub(super) fn perform(&mut self, event: Event) {
        let processes = self.processes.len();
        match event {
            Event::Offer(process, work) => self.offer(process % processes, work),
            Event::Deliver(which) => {
                let lines = self.lines.iter().filter(|(_, line)| !line.packets.is_empty());
                let lines: Vec<_> = lines.map(|(key, _)| *key).collect();
                if !lines.is_empty() {
                    let (from, to, session) = lines[which % lines.len()];
                    self.deliver(from, to, session);
                }
            }
            Event::Handle(process, work) => drop(self.handle(process % processes, work)),
            Event::Launch(work, process) => {
                if matches!(self.lives[work], Life::Stopped | Life::Unplaced) {
                    self.launch(work, process % processes);
                }
            }
            Event::Restart(work, process, by_force) => self.restart(work, process % processes, by_force),
            Event::Stop(work) => self.stop(work),
            Event::Kill(node) if processes < 7 => self.kill(node % processes),
            Event::Kill(_) => {}
            Event::Notice(process, dead) => drop(self.notice(process % processes, dead % processes)),
            Event::Cut(a, b) => {
                let (a, b) = (a % processes, b % processes);
                if !self.processes[a].is_dead && !self.processes[b].is_dead {
                    self.cut(a, b);
                }
            }
            Event::Forget(process, work) => self.forget(process % processes, work),
        }
    }
}
