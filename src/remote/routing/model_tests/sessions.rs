//! Sessions of the model: packets on their way, and the loss of sessions and processes.

use super::*;

impl World {
    pub(super) fn deliver(&mut self, from: usize, to: usize, session: usize) -> bool {
        if self.processes[to].is_dead {
            return false;
        }
        let Some(line) = self.lines.get_mut(&(from, to, session)) else { return false };
        match &mut line.broken_at {
            Some(0) => return false,
            Some(written) => *written -= 1,
            None => {}
        }
        let Some(packet) = line.packets.pop_front() else { return false };
        self.arrive(from, to, session, packet);
        self.take_in_all(HEAD);
        true
    }

    fn arrive(&mut self, from: usize, to: usize, session: usize, packet: Packet) {
        match packet {
            Packet::Tell { route, .. } | Packet::Shut { route, .. } => {
                if let Packet::Shut { recall, .. } = packet
                    && let Some(entry) = self.routes.get_mut(&route)
                {
                    entry.recall = recall;
                }
                if let Packet::Tell { .. } = packet
                    && let Some(entry) = self.routes.get_mut(&route)
                {
                    entry.held += 1;
                }
                let Some(entry) = self.routes.get(&route) else { return };
                let work = entry.work;
                let line = self.lines.entry((from, to, session)).or_default();
                line.waiting.entry(work).or_default().push_back(packet);
                self.take_in(from, to, session, work);
            }
            Packet::Drained { route } => {
                if let Some(entry) = self.routes.remove(&route) {
                    self.with_queue(to, entry.work, |queue| queue.drained(&route));
                }
            }
            Packet::Returned { route, message } => {
                if !self.processes[to].queues.contains_key(&message.work) {
                    return self.lose(message);
                }
                let mail = Mail { message, came: None };
                self.with_queue(to, message.work, |queue| queue.returned(&route, mail));
            }
            Packet::Locate { work } => {
                let next = &mut self.next;
                let place = self.processes[HEAD].queues[&work].place();
                assert!(self.registry.subscribe(from as u64, &path(work), || match place {
                    Place::Closed(why) => Location::Closed(*why),
                    _ => {
                        *next += 1;
                        Location::At { node: HEAD as u64, incarnation: *next }
                    }
                }));
                self.tell();
            }
            Packet::Unlocate { work } => self.registry.unsubscribe(from as u64, &path(work)),
            Packet::Located { work, location } => self.follow(to, work, location),
            Packet::Launch { work, incarnation } => {
                self.address(to, work);
                if self.processes[to].relayed.contains(&work) {
                    self.unordered.insert((to, work));
                }
                self.processes[to].launched = incarnation;
                self.processes[to].hosted.insert(incarnation, work);
                self.with_queue(to, work, |queue| queue.set_place(Place::Here));
                self.take_in_all(to);
            }
            Packet::Stop { incarnation } => {
                if let Some(work) = self.processes[to].hosted.remove(&incarnation) {
                    self.leave(to, work);
                    self.say(to, HEAD, Packet::Over { work, incarnation });
                }
            }
            Packet::Kill { incarnation } => {
                if let Some(work) = self.processes[to].hosted.remove(&incarnation) {
                    self.leave(to, work);
                }
            }
            Packet::Close { incarnation, why } => {
                if let Some(work) = self.processes[to].hosted.get(&incarnation).copied() {
                    self.leave(to, work);
                    self.with_queue(to, work, |queue| queue.set_place(Place::Closed(why)));
                }
            }
            Packet::Over { work, incarnation } => match self.lives[work] {
                Life::Stopping { incarnation: stopping, route, next, .. } if stopping == incarnation => {
                    self.over(work, incarnation, route);
                    self.lives[work] = Life::Stopped;
                    if let Some(to) = next {
                        self.launch(work, to);
                    }
                }
                _ => {}
            },
        }
    }

    /// Drops the first packet that waits for a Work on a line.
    fn drop_first(&mut self, line: (usize, usize, usize), work: usize) {
        if let Some(waiting) = self.lines.get_mut(&line).and_then(|line| line.waiting.get_mut(&work)) {
            waiting.pop_front();
        }
    }

    /// Accepts the waiting messages of one sender for a Work.
    fn take_in(&mut self, from: usize, to: usize, session: usize, work: usize) {
        loop {
            let line = self.lines.entry((from, to, session)).or_default();
            let Some(waiting) = line.waiting.get_mut(&work) else { return };
            let Some(packet) = waiting.front().cloned() else { return };
            let (Packet::Tell { route, .. } | Packet::Shut { route, .. }) = packet else {
                unreachable!("only these wait")
            };
            let Some(entry) = self.routes.get(&route) else {
                if let Packet::Tell { message, .. } = packet {
                    self.lose(message);
                }
                self.drop_first((from, to, session), work);
                continue;
            };
            let (incarnation, recall) = (entry.incarnation, entry.recall);
            let is_relay = entry.is_relay;
            let is_here = self.processes[to].hosted.contains_key(&incarnation);
            if to != HEAD && !is_here && self.processes[to].launched < incarnation && !recall {
                return;
            }
            self.drop_first((from, to, session), work);
            match packet {
                Packet::Tell { message, .. } => {
                    let mail = Mail { message, came: Some(route) };
                    let line = self.lines.entry((from, to, session)).or_default();
                    let is_refused = line.refused.get(&work).is_some_and(|refused| *refused >= incarnation);
                    let is_elsewhere = to == HEAD
                        && !is_relay
                        && self.registry.location(&path(work)).is_some_and(|location| {
                            *location != Location::At { node: HEAD as u64, incarnation }
                        });
                    let refused = if is_refused || is_elsewhere {
                        Some(mail)
                    } else if to == HEAD {
                        let queue = self.processes[HEAD].queues.get_mut(&work).expect("the head has all");
                        match queue.offer(mail, true) {
                            Offer::Queued => None,
                            Offer::Forward(_, next) if self.is_over(next) => {
                                self.route_lost(HEAD, next);
                                let line = self.lines.entry((from, to, session)).or_default();
                                line.waiting.entry(work).or_default().push_front(packet);
                                continue;
                            }
                            Offer::Forward(mail, next) => {
                                self.forward(next, mail);
                                None
                            }
                            // Must stay behind the messages that are being returned to the head.
                            Offer::Wait(_) => {
                                let line = self.lines.entry((from, to, session)).or_default();
                                line.waiting.entry(work).or_default().push_front(packet);
                                return;
                            }
                            Offer::Refused(mail, _) => Some(mail),
                        }
                    } else if is_here && self.processes[to].queues[&work].is_here() {
                        self.address(to, work).deliver(mail);
                        None
                    } else {
                        Some(mail)
                    };
                    if let Some(mail) = refused {
                        let line = self.lines.entry((from, to, session)).or_default();
                        if !recall {
                            line.refused.insert(work, incarnation);
                        }
                        self.give_back(mail);
                    }
                }
                _ => {
                    if recall && is_here {
                        let mine = self.address(to, work).take(|mail| mail.came == Some(route));
                        mine.into_iter().for_each(|mail| self.give_back(mail));
                    }
                    if let Some(entry) = self.routes.get_mut(&route) {
                        entry.is_shut_there = true;
                    }
                    self.drain_if_done(route);
                }
            }
        }
    }

    pub(super) fn take_in_all(&mut self, to: usize) {
        let waiting: Vec<_> = self
            .lines
            .iter()
            .filter(|((_, at, _), _)| *at == to)
            .flat_map(|((from, _, session), line)| line.waiting.keys().map(|work| (*from, *session, *work)))
            .collect();
        for (from, session, work) in waiting {
            self.take_in(from, to, session, work);
        }
    }

    fn follow(&mut self, process: usize, work: usize, location: Location<u64>) {
        let Some(queue) = self.processes[process].queues.get(&work) else { return };
        let is_relayed = self.processes[process].relayed.contains(&work);
        let is_by_head = matches!(queue.place(), Place::At(route) if self.routes[route].is_relay);
        let is_here = queue.is_here();
        if let Location::At { incarnation, .. } = location {
            let last = self.processes[process].followed.entry(work).or_default();
            if *last >= incarnation {
                return;
            }
            *last = incarnation;
        }
        let place = match location {
            Location::Pending | Location::At { .. } if is_by_head => return,
            Location::Pending => Place::Pending,
            Location::Closed(why) => Place::Closed(why),
            Location::At { node, .. } if node as usize == process => {
                if is_here {
                    return;
                }
                Place::Pending
            }
            Location::At { incarnation, .. } if is_relayed => {
                Place::At(self.relay(process, work, incarnation))
            }
            Location::At { node, incarnation } => {
                let node = node as usize;
                Place::At(self.route(process, node, work, incarnation))
            }
        };
        self.leave(process, work);
        self.with_queue(process, work, |queue| queue.set_place(place));
    }

    /// Cuts two nodes off from each other for longer than the grace period.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if a == b || a == HEAD || b == HEAD {
            return;
        }
        let session = self.session(a, b);
        for (from, to) in [(a, b), (b, a)] {
            let line = self.lines.entry((from, to, session)).or_default();
            line.broken_at.get_or_insert(line.packets.len() / 2);
        }
        self.end_session(a, b, session);
        self.end_session(b, a, session);
        self.sessions.insert((a.min(b), a.max(b)), session + 1);
    }

    /// Makes a process give up its session with another.
    fn end_session(&mut self, process: usize, peer: usize, session: usize) {
        self.ended.insert((process, peer, session));
        let mine: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, route)| (route.from, route.to, route.session) == (process, peer, session))
            .map(|(number, route)| (*number, route.work))
            .collect();
        for (route, work) in &mine {
            self.with_queue(process, *work, |queue| queue.stop(route));
        }
        // Messages that were never written come back; those that were written may have arrived.
        let packets = self.lines.get_mut(&(process, peer, session)).map(|line| {
            let written = line.broken_at.unwrap_or(line.packets.len());
            line.broken_at = Some(0);
            let unsent = line.packets.split_off(written.min(line.packets.len()));
            (std::mem::take(&mut line.packets), unsent)
        });
        let (written, unsent) = packets.unwrap_or_default();
        for packet in written {
            if let Packet::Tell { message, .. } | Packet::Returned { message, .. } = packet {
                self.lose(message);
            }
        }
        for packet in unsent {
            match packet {
                Packet::Tell { route, message } => {
                    let mail = Mail { message, came: None };
                    self.with_queue(process, message.work, |queue| queue.returned(&route, mail));
                }
                Packet::Returned { message, .. } => self.lose(message),
                _ => {}
            }
        }
        for (route, _) in mine {
            self.route_lost(process, route);
        }
        // Messages of the peer that still wait here cannot be returned to it.
        let waiting =
            self.lines.get_mut(&(peer, process, session)).map(|line| std::mem::take(&mut line.waiting));
        for packet in waiting.into_iter().flatten().flat_map(|(_, packets)| packets) {
            if let Packet::Tell { message, .. } = packet {
                self.lose(message);
            }
        }
    }

    pub(super) fn route_lost(&mut self, process: usize, route: u64) {
        let Some(entry) = self.routes.remove(&route) else { return };
        let work = entry.work;
        let instead =
            if process != HEAD && entry.to != HEAD && self.processes[process].queues.contains_key(&work) {
                Place::At(self.relay(process, work, entry.incarnation))
            } else {
                Place::Pending
            };
        let relay = match &instead {
            Place::At(relay) => Some(*relay),
            _ => None,
        };
        self.with_queue(process, work, |queue| queue.lost(&route, instead));
        let used = self.processes[process].queues.get(&work).map(|queue| queue.place().clone());
        if let Some(relay) = relay {
            if used == Some(Place::At(relay)) {
                self.processes[process].relayed.insert(work);
            } else {
                self.routes.remove(&relay);
            }
        }
    }

    /// Kills a node without warning. Its messages and Works are lost.
    pub(super) fn kill(&mut self, node: usize) {
        if node == HEAD || self.processes[node].is_dead {
            return;
        }
        self.processes[node].is_dead = true;
        for ((from, to, _), line) in &mut self.lines {
            if *from == node || *to == node {
                line.broken_at.get_or_insert(line.packets.len());
            }
        }
        // Packets that the node had not written, and packets whose reader is dead.
        let mut gone = Vec::new();
        for ((from, to, _), line) in &mut self.lines {
            if (*from == node || *to == node) && self.processes[*from].is_dead {
                let unread = if self.processes[*to].is_dead { 0 } else { line.broken_at.unwrap_or(0) };
                gone.extend(line.packets.split_off(unread.min(line.packets.len())));
            }
        }
        for packet in gone {
            if let Packet::Tell { message, .. } | Packet::Returned { message, .. } = packet {
                self.lose(message);
            }
        }
        let queues = std::mem::take(&mut self.processes[node].queues);
        for (_, mut queue) in queues {
            queue.clear().into_iter().for_each(|mail| self.lose(mail.message));
        }
        // The dead node will not send the packets that it still owed.
        for route in self.routes.values_mut().filter(|route| route.to == node) {
            (route.held, route.is_shut_there) = (0, false);
        }
        for line in self.lines.iter_mut().filter(|((_, to, _), _)| *to == node).map(|(_, line)| line) {
            let waiting = std::mem::take(&mut line.waiting);
            let packets = waiting.into_values().flatten();
            let messages = packets.filter_map(|packet| match packet {
                Packet::Tell { message, .. } => Some(message),
                _ => None,
            });
            self.lost.extend(messages);
        }
        self.processes.push(Process::default());
    }

    /// Makes a process notice that another has ended.
    pub(super) fn notice(&mut self, process: usize, dead: usize) -> bool {
        if !self.processes[dead].is_dead
            || self.processes[process].is_dead
            || process == dead
            || !self.processes[process].lost.insert(dead)
        {
            return false;
        }
        let session = self.session(process, dead);
        // Packets that had arrived are processed first.
        while self.deliver(dead, process, session) {}
        if process == HEAD {
            for work in 0..WORKS {
                if let Life::Up { process, incarnation, route }
                | Life::Stopping { process, incarnation, route, .. } = self.lives[work]
                    && process == dead
                {
                    let is_stopped = matches!(self.lives[work], Life::Stopping { next: None, .. });
                    self.over(work, incarnation, route);
                    self.lives[work] = if is_stopped { Life::Stopped } else { Life::Unplaced };
                    if !is_stopped {
                        self.close(work, CloseReason::NodeLost);
                    }
                }
            }
            self.registry.end_session(dead as u64);
        }
        self.end_session(process, dead, session);
        true
    }

    /// Drops the addresses in a process, which then no longer sends to the Work.
    pub(super) fn forget(&mut self, process: usize, work: usize) {
        let is_idle = |queue: &Queue<Mail, u64>| !queue.is_here() && queue.len() == 0;
        if process == HEAD || !self.processes[process].queues.get(&work).is_some_and(is_idle) {
            return;
        }
        let mine: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, route)| route.from == process && route.work == work)
            .map(|(number, _)| *number)
            .collect();
        // A route that waits to be drained, or may still return messages, is kept until then.
        if mine
            .iter()
            .any(|route| self.routes[route].is_shut || self.routes[route].is_open && !self.is_settled(*route))
        {
            return;
        }
        for number in mine {
            let route = self.routes.get_mut(&number).expect("listed just now");
            route.is_shut = true;
            if route.is_open {
                let (to, session) = (route.to, route.session);
                self.push(process, to, session, Packet::Shut { route: number, recall: false });
            } else {
                self.routes.remove(&number);
            }
        }
        self.processes[process].queues.remove(&work);
        self.processes[process].followed.remove(&work);
        if self.processes[process].asked.remove(&work) {
            self.say(process, HEAD, Packet::Unlocate { work });
        }
    }

    /// Returns `true` when no message that was sent along a route can come back.
    fn is_settled(&self, route: u64) -> bool {
        let entry = &self.routes[&route];
        let under_way =
            self.lines.values().flat_map(|line| line.packets.iter().chain(line.waiting.values().flatten()));
        let mut under_way = under_way.filter(
            |packet| matches!(packet, Packet::Tell { route: r, .. } | Packet::Returned { route: r, .. } if *r == route),
        );
        entry.held == 0 && under_way.next().is_none()
    }
}
