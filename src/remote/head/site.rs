//! The head's handling of its nodes: their control messages, and their loss.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::bridge::{Destination, PeerHandler, Whereabouts};
use super::super::dead_letters;
use super::super::link::{Link, Target};
use super::super::process::{Joined, Starting, is_process_name};
use super::super::protocol::{Control, Hello, Location, Refusal, Role};
use super::super::references::hold_at;
use super::super::replication::Nodes;
use super::super::topics;
use super::deadline::Deadline;
use super::{Head, Node, Partial, acknowledgement, is_over};
use crate::id::ActorPath;
use crate::payload::{PayloadGuard, PayloadGuards, PayloadId};
use crate::printable::lines;
use crate::work::logs::{FROM_AFAR, Said, shorten};
use crate::work::{
    BadNode, Claim, Failure, FreeGpus, GROUP_LABEL, HostEvent, Published, Reason, Report, Resources,
    TopicRoutes, WaitOrder, WaitReport, WaitsElsewhere, check_labels, check_node_name,
};

/// Longest pause between checks of the process of an unreachable node.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Head {
    /// Takes a part of an update, and passes the update to the driver unless `more` of it follows.
    fn update(&self, link: &Arc<Link>, incarnation: u64, part: Partial, more: bool) {
        let mut state = self.state.lock();
        let away = state.incarnations.get_mut(&incarnation).filter(|away| away.node == link.peer().id);
        // Fenced otherwise: the incarnation was given up.
        let Some(away) = away else { return };
        away.reports += part.reports.len() as u64;
        let before = away.partial.add(part);
        let whole = (!more).then(|| std::mem::take(&mut away.partial));
        let (outbox, count) = (away.outbox.clone(), away.reports);
        drop(state);
        drop(before);
        let Some(Partial { patch, holds, reports, trace }) = whole else { return };
        let over = is_over(&reports);
        let is_acknowledged = self.bridge.epoch() > 0 && !reports.is_empty();
        let acknowledge = is_acknowledged.then(|| acknowledgement(link, incarnation, count));
        outbox.update(patch, holds, reports, acknowledge, trace);
        if over {
            self.forget(incarnation);
            self.ready_queue.ring_again();
        }
    }

    fn lost_node(&self, link: &Arc<Link>, why: &str) {
        let id = link.peer().id;
        let name = &link.peer().name;
        let mut state = self.state.lock();
        // Another session may have replaced this one.
        if state.nodes.get(&id).is_none_or(|node| !Arc::ptr_eq(&node.link, link)) {
            return;
        }
        let Some(node) = state.nodes.remove(&id) else { return };
        drop(state);
        self.cycles.lost(id);
        self.topics.lost(id);
        self.copies.lost_node(link, why, node.is_leaving);
        if !node.is_leaving || !node.incarnations.is_empty() {
            self.tell_of_loss(id);
        }
        let mut state = self.state.lock();
        let mut lost = Vec::new();
        for number in &node.incarnations {
            if let Some(away) = state.incarnations.remove(number) {
                state.registry.over(&away.path, *number);
                lost.push(away);
            }
        }
        drop(state);
        // Not under the lock, since dropping the last reference to a value sends messages.
        lost.iter_mut().for_each(|away| away.partial = Partial::default());
        lost.iter().for_each(|away| self.left(away));
        self.tell_locations();
        let mut state = self.state.lock();
        if node.is_process {
            drop(state);
            self.processes.lost(name, lost.into_iter().map(|away| away.outbox).next());
            return;
        }
        let mut paths: Vec<_> = lost.iter().map(|away| format!("`{}`", away.path)).collect();
        paths.sort();
        let what = match paths.len() {
            0 => "no Work ran on it".to_owned(),
            1 => format!("work {} ran on it", paths[0]),
            _ => format!("works {} ran on it", paths.join(", ")),
        };
        let labels: String =
            link.peer().labels.iter().map(|(key, value)| format!(" --label {key}={value}")).collect();
        // A node that an engine has started is replaced by its fleet.
        let is_of_fleet = link.peer().labels.contains_key(GROUP_LABEL);
        let back = match self.joining().filter(|_| !is_of_fleet) {
            Some(endpoint) => {
                format!("; to bring it back: `node --join {endpoint} --name {name}{labels}` on its machine")
            }
            None => String::new(),
        };
        if node.is_leaving && paths.is_empty() {
            log::info!("node `{name}` has left; its Works had ended in good order");
        } else if !state.is_ending {
            log::warn!("node `{name}` is lost ({why}): {what}{back}");
        }
        for away in lost {
            let why = format!("node `{name}` was lost ({why})");
            state.events.push(HostEvent::NodeLost { outbox: away.outbox, why });
        }
        state.events.push(HostEvent::Room);
        drop(state);
        self.ready_queue.ring_again();
    }

    /// Tells all nodes of a process that is lost, before they are told where its Works are now: the sessions between them
    /// would hold up what is sent to these Works until their own grace period has passed.
    fn tell_of_loss(&self, process: u64) {
        let nodes: Vec<_> = self.state.lock().nodes.values().map(|node| node.link.clone()).collect();
        nodes.iter().for_each(|link| link.control(&Control::ProcessLost { process }));
    }

    /// Returns true for the session of a process that takes part in the App. What one says that was given up would not be
    /// forgotten again.
    fn is_current(&self, link: &Arc<Link>) -> bool {
        let state = self.state.lock();
        state.nodes.get(&link.peer().id).is_some_and(|node| Arc::ptr_eq(&node.link, link))
    }

    /// Returns the number of the process and the name of a node that may still describe the incarnations it has kept.
    fn claimant(&self, link: &Arc<Link>) -> Result<(u64, Arc<str>), String> {
        let card = link.peer();
        let state = self.state.lock();
        let node = state.nodes.get(&card.id).filter(|node| Arc::ptr_eq(&node.link, link));
        match node.filter(|node| !node.has_claimed) {
            // Processes of single Works count as this machine.
            Some(node) if node.is_process => Ok((card.id, Arc::from(self.bridge.me().name.as_str()))),
            Some(_) => Ok((card.id, Arc::from(card.name.as_str()))),
            None => {
                Err("it has described all incarnations that it has kept, or the head has no journal"
                    .to_owned())
            }
        }
    }

    /// Gives a node up before its grace period is over when its process has provably ended, which only a process of the
    /// same machine can prove. A refused connection proves nothing, since a firewall may refuse it.
    async fn watch_process(link: Arc<Link>) {
        let Some(process) = link.peer().process.clone() else { return };
        let mut pause = Duration::from_millis(1);
        while !link.is_connected() && !link.is_over() {
            if process.has_ended() {
                return link.give_up("its process is gone");
            }
            // The connections of a process close a moment before it has ended.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl WaitsElsewhere for Head {
    fn order(&self, process: u64, order: WaitOrder) {
        if let Some(link) = Nodes::link_of(self, process) {
            link.control(&Control::Wait(order));
        }
    }
}

impl TopicRoutes for Head {
    fn publish(&self, process: u64, message: &Published, holds: &PayloadGuards) -> Result<bool, String> {
        match Nodes::link_of(self, process) {
            Some(link) => topics::publish(&link, message, holds),
            None => Ok(false),
        }
    }
}

impl PeerHandler for Head {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        let card = &hello.node;
        let checked = || check_node_name(&card.name).and_then(|()| check_labels(&card.labels));
        let refused = |why: BadNode| Refusal::for_good(why.to_string());
        match hello.role {
            Role::Watcher | Role::Puller | Role::Drive => return Ok(()),
            Role::Peer => return checked().map_err(refused),
            Role::Node => checked().map_err(refused)?,
        }
        let name = &card.name;
        if self.processes.expects(name) {
            return Ok(());
        }
        let returns = hello.app.is_some() && self.processes.has(name);
        if self.bridge.epoch() > 0 && is_process_name(name) && !returns {
            let reason = "an earlier head has started this process, and its Work is launched again";
            // The process has nothing to lose if it has not joined before.
            return Err(Refusal { epoch: self.bridge.epoch(), ..Refusal::lost(reason.to_owned()) });
        }
        let same_name: Vec<_> = {
            let state = self.state.lock();
            let nodes = state.nodes.values().filter(|node| &node.link.peer().name == name);
            nodes.map(|node| node.link.clone()).collect()
        };
        let connected = same_name.iter().filter(|link| link.is_connected());
        if let Some(silent) = connected.map(|link| link.silent_for()).min() {
            return Err(Refusal {
                reason: format!(
                    "there is a node `{name}` already; give this one another name with --name, or end the other first"
                ),
                // Wait, unless the other node was heard since this one began to wait for the end of that one.
                wait: silent >= Duration::from_millis(hello.waited_ms),
                ..Refusal::default()
            });
        }
        // The node was started again: the Works of its previous process are lost.
        same_name.iter().for_each(|link| link.give_up("it was started again"));
        Ok(())
    }

    fn joined(&self, link: &Arc<Link>, role: Role) {
        match role {
            Role::Peer | Role::Puller | Role::Drive => return,
            Role::Watcher => {
                self.watchers.add(link);
                self.state.lock().events.push(HostEvent::Room);
                self.ready_queue.ring_again();
                return;
            }
            Role::Node => {}
        }
        let card = link.peer();
        // The process was here in another session, which is fenced from now on.
        let before = self.state.lock().nodes.get(&card.id).map(|node| node.link.clone());
        if let Some(before) = before {
            self.lost_node(&before, "it has joined again");
        }
        let process = self.processes.joined(&card.name);
        let node = Node {
            link: link.clone(),
            used: Resources::default(),
            gpus: FreeGpus::new(card.resources.gpus),
            incarnations: HashSet::new(),
            is_process: process.is_some(),
            is_reachable: true,
            has_claimed: self.bridge.epoch() == 0,
            is_leaving: false,
            is_handed_over: false,
            load_report: None,
            recorded: Arc::default(),
            round_trip: None,
            deadline: card.ends_in_ms.and_then(|left| Deadline::after(Duration::from_millis(left))),
            drain_before: Duration::from_millis(card.drain_before_ms),
        };
        self.state.lock().nodes.insert(card.id, node);
        self.copies.nodes_changed();
        if let Some(Joined::Started(Starting { what, commands, begun })) = process {
            begun.into_iter().for_each(|mark| link.set_mark(mark));
            let outbox = what.outbox.clone();
            if let Err(error) = self.launch_on(card.id, Resources::default(), false, what, Some(&commands)) {
                let failure = Failure::new(Reason::ProcessDied, error.to_string());
                outbox.report(Report::Died { failure });
            }
            return;
        }
        if process.is_some() {
            return;
        }
        log::info!("node `{}` has joined, with {}", card.name, card.resources);
        self.state.lock().events.push(HostEvent::Room);
        self.ready_queue.ring_again();
    }

    fn control(&self, link: &Arc<Link>, control: Control, carried: PayloadGuards) -> Result<(), String> {
        match control {
            Control::Update { incarnation, patch, refers, reports, more, trace } => {
                let part = Partial { patch, holds: refers.then_some(carried), reports, trace };
                self.update(link, incarnation, part, more);
            }
            Control::Stepped { incarnation, run, step, more } => {
                if !step.is_within_limits() {
                    return Err(format!("a step of {run} exceeds the limits of a step"));
                }
                let reports = vec![Report::Stepped { run, step: step.arrived(carried) }];
                self.update(link, incarnation, Partial { reports, ..Partial::default() }, more);
            }
            Control::Hosts { incarnation, path, work, last_run, acknowledged, state, gpus } => {
                let (process, node) = self.claimant(link)?;
                if self.state.lock().incarnations.contains_key(&incarnation) {
                    return Err(format!("incarnation {incarnation} is hosted already"));
                }
                let holds = carried;
                let claim = Claim {
                    process,
                    node,
                    incarnation,
                    path,
                    work,
                    last_run,
                    acknowledged,
                    state,
                    holds,
                    gpus,
                };
                self.state.lock().events.push(HostEvent::Kept(Box::new(claim)));
                self.ready_queue.ring_again();
            }
            Control::HostsAll => {
                let (process, node) = self.claimant(link)?;
                // Works on other nodes, which were taken over before, may refer to values of this node.
                hold_at(&self.bridge, link);
                let work = self.processes.path_of(&link.peer().name);
                self.state.lock().events.push(HostEvent::AllKept { process, node, work });
                self.ready_queue.ring_again();
            }
            Control::Locate { path } => self.locate(link, &path)?,
            Control::WaitReport(report) => {
                if let WaitReport::Waits { work, asked, .. } = &report {
                    let is_long = |path: &ActorPath| path.as_str().len() > ActorPath::LONGEST_FROM_AFAR;
                    if is_long(work) || is_long(asked) {
                        return Err("the peer reported a wait at a path that is too long".to_owned());
                    }
                }
                if self.is_current(link) {
                    self.cycles.arrived(link.peer().id, report);
                }
            }
            Control::UseTopic { number, topic, message, subscribes } => {
                if self.is_current(link) {
                    topics::declared(&self.topics, link, number, (&topic, &message), subscribes)?;
                }
            }
            Control::LeaveTopic { topic, counts } => {
                if self.is_current(link) {
                    self.topics.left(link.peer().id, &topic, counts);
                }
            }
            Control::TopicReports { topics: reports } => {
                if self.is_current(link) {
                    topics::reported(&self.topics, link.peer().id, &self.name_of(link), reports)?;
                }
            }
            Control::Published(message) => self.topics.relay(link.peer().id, &message, &carried),
            Control::LookUp { number, path } => {
                if path.as_str().len() > ActorPath::LONGEST_FROM_AFAR {
                    return Err("the peer looked up a path that is too long".to_owned());
                }
                let found = self.bridge.look_up(&path);
                link.reply(&Control::LookedUp { number, found });
            }
            Control::Unlocate { path } => self.state.lock().registry.unsubscribe(link.number(), &path),
            Control::Where { id, among } => {
                let Whereabouts { sources, gone, lost } = self.copies.who_has(id, &among);
                link.reply(&Control::There { id, sources, gone, lost });
            }
            Control::Copied { id, failed } => {
                self.copies.copied(link, id, failed);
            }
            Control::Leave => self.leaves(link),
            Control::Adopt { id, has } => {
                self.departures.adopt_for(link, id, has, carried);
            }
            // The number of replicas has come with the reference.
            Control::Replicate { .. } => {}
            Control::HandedOver => self.handed_over(link),
            Control::LoadReport { load_report, round_trip_us } => {
                if let Some(node) = self.state.lock().nodes.get_mut(&link.peer().id) {
                    node.load_report = Some(load_report);
                    node.round_trip = round_trip_us.map(Duration::from_micros);
                }
                link.reply(&Control::LoadReportAck);
            }
            Control::Recorded { families } => {
                if let Some(node) = self.state.lock().nodes.get_mut(&link.peer().id) {
                    Arc::make_mut(&mut node.recorded).update(families);
                }
            }
            Control::DeadLetters { letters, omitted } => {
                dead_letters::arrived(&self.dead_letters, &self.name_of(link), letters, omitted)?;
            }
            Control::Log { path, run, level, mut target, mut text } => {
                let name = &link.peer().name;
                shorten(&mut text);
                shorten(&mut target);
                if log::log_enabled!(target: &target, level) {
                    self.bridge.log().keep(Said {
                        level,
                        work: path.clone(),
                        run,
                        node: Some(self.name_of(link)),
                        target: &target,
                        text: text.clone(),
                    });
                }
                // A logger of the program's own may print the text as it is.
                let text = lines(&text);
                match path {
                    Some(path) => log::log!(target: FROM_AFAR, level, "[{path} on {name}] {text}"),
                    None => log::log!(target: FROM_AFAR, level, "[{name}] {text}"),
                }
            }
            other => return Err(format!("a node may not send {}", other.name())),
        }
        Ok(())
    }

    fn destination(&self, path: &ActorPath, target: Target) -> Destination {
        let here = Location::At { node: self.bridge.me().id, incarnation: target.incarnation };
        let is_elsewhere = |location: &Location<u64>| *location != here;
        if !target.relayed && self.state.lock().registry.location(path).is_some_and(is_elsewhere) {
            // The sender was told of another location, or will be.
            return Destination::Gone;
        }
        self.bridge.find_address(path).map_or(Destination::Gone, Destination::Anywhere)
    }

    fn disconnected(&self, link: &Arc<Link>, role: Role, why: &str) {
        if role != Role::Node {
            return;
        }
        let name = &link.peer().name;
        self.set_reachable(link, false);
        if self.processes.has(name) {
            // The process may merely hang. If it has ended, everything that it had sent has been read by now.
            if self.processes.is_gone(name) {
                link.end();
            }
            return;
        }
        if self.state.lock().is_ending {
            return;
        }
        log::warn!(
            "the connection to node `{name}` broke ({why}); it has {:?} to come back",
            self.bridge.settings().grace
        );
        tokio::spawn(Self::watch_process(link.clone()));
    }

    fn connected_again(&self, link: &Arc<Link>, role: Role) {
        if role == Role::Node {
            let name = &link.peer().name;
            let level = if self.processes.has(name) { log::Level::Debug } else { log::Level::Info };
            log::log!(level, "node `{name}` is connected again; nothing was lost");
            self.set_reachable(link, true);
            self.state.lock().events.push(HostEvent::Room);
            self.ready_queue.ring_again();
        }
    }

    fn lost(&self, link: &Arc<Link>, role: Role, why: &str) {
        self.state.lock().registry.end_session(link.number());
        if role == Role::Node {
            self.lost_node(link, why);
        }
    }

    fn head(&self) -> Option<Arc<Link>> {
        None
    }

    fn link_to(&self, process: u64) -> Option<Arc<Link>> {
        Nodes::link_of(self, process)
    }

    fn reference(&self, hold: &Arc<PayloadGuard>) {
        self.copies.see_to_copies(hold);
    }

    fn pulled(&self, _: PayloadId) {}

    fn whereabouts(&self, id: PayloadId, among: Vec<u64>) -> BoxFuture<'static, Option<Whereabouts>> {
        futures::future::ready(Some(self.copies.who_has(id, &among))).boxed()
    }
}
