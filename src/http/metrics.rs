//! `/metrics`: metrics in the text format of Prometheus.
//!
//! All values come from a snapshot taken at each scrape, so that metrics cost nothing in between. Label values are
//! bounded: paths of Works up to a number, names of nodes, types of Flows. The metrics that the program records by the
//! `metrics` facade follow those of the App.
//!
//! `prometheus-client` writes the format. The exporter of the facade could not write the App's own metrics: its
//! counters are integers, while seconds of runs are not; and its histograms consist of single observations, while those
//! here are already aggregated into buckets.

use std::collections::BTreeMap;
use std::fmt;

use actix_web::web;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::model::{NodeView, UsageView, nodes};
use super::problem::Common;
use super::queries::{Answer, fresh};
use crate::app::{Control, HEAD, JournalStatus, Snapshot, short_name};
use crate::descriptors as files;
use crate::recorder::{self, Family, Gathered, Kind, Reading};
use crate::work::{DeadLetters, RecordedBy, Stage, TopicStatus, Topics, Traffic};

/// The maximum number of services with series of their own. The others are left out.
const SERVICES: usize = 1000;

/// The maximum number of Works with series of their own. All others are summed up as one.
const WORKS: usize = 1000;

/// The label of the sum of all other Works. No Work has this path, since no child has an empty name.
const OTHERS: &str = "others..";

/// Returns metrics in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "the metrics", body = String, content_type = "text/plain"),
    Common,
))]
pub(super) async fn metrics(control: web::Data<Control>) -> Answer {
    let snapshot = control.snapshot().await?;
    Ok(fresh().content_type(prometheus_text::CONTENT_TYPE).body(text(snapshot)))
}

fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Look(snapshot)));
    let mut text = String::new();
    // Writing to a `String` does not fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

struct Look(Snapshot);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").finish_non_exhaustive()
    }
}

impl Collector for Look {
    fn encode(&self, page: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(snapshot) = self;
        let mut page = Page(page);
        works(&mut page, &numbers(snapshot))?;
        let help = "Works that are part of the App.";
        page.family("flowright_works", MetricType::Gauge, help)?.gauge(&NONE, snapshot.works.len() as f64)?;
        services(&mut page, snapshot)?;
        reactions(&mut page, snapshot)?;
        descriptors(&mut page)?;
        journal(&mut page, snapshot.journal.as_ref())?;
        let nodes = nodes(snapshot);
        every_node(&mut page, &nodes)?;
        bridge(&mut page, snapshot)?;
        payloads(&mut page, &nodes)?;
        topics(&mut page, snapshot)?;
        #[cfg(feature = "remote")]
        fleet(&mut page, snapshot)?;
        dead_letters(&mut page, snapshot)?;
        messages_lost(&mut page, &nodes)?;
        questions_abandoned(&mut page, &nodes)?;
        deadlocks(&mut page, &nodes)?;
        streams_open(&mut page, &nodes)?;
        of_the_program(&mut page, snapshot)
    }
}

/// The journal, with which only an App that has one is listed.
fn journal(page: &mut Page<'_>, journal: Option<&JournalStatus>) -> fmt::Result {
    let Some(journal) = journal else { return Ok(()) };
    let counters = [
        ("flowright_journal_commits", "Commits of the journal.", journal.commits),
        ("flowright_journal_transactions", "Transactions that were committed.", journal.transactions),
        ("flowright_journal_written_bytes", "Bytes that the journal has written.", journal.written_bytes),
        (
            "flowright_adopted_works",
            "Works that went on while there was no head, and were taken over by this one.",
            journal.adopted,
        ),
    ];
    for (name, help, value) in counters {
        page.family(name, MetricType::Counter, help)?.counter(&NONE, value)?;
    }
    let gauges = [
        ("flowright_journal_position", "The last transaction that is durable.", journal.position as f64),
        ("flowright_journal_waiting", "Transactions that are not durable yet.", journal.waiting as f64),
        (
            "flowright_journal_waiting_bytes",
            "Bytes of transactions that are not durable yet.",
            journal.waiting_bytes as f64,
        ),
        (
            "flowright_journal_largest_group",
            "Transactions in the largest commit.",
            journal.largest_group as f64,
        ),
        (
            "flowright_journal_commits_seconds",
            "Time that commits have taken.",
            journal.commit_time.as_secs_f64(),
        ),
        (
            "flowright_journal_slowest_commit_seconds",
            "Time that the slowest commit has taken.",
            journal.slowest_commit.as_secs_f64(),
        ),
        (
            "flowright_adoption_seconds",
            "Time from the moment at which the head listened for nodes to the last adoption of a Work.",
            journal.adoption_time.as_secs_f64(),
        ),
        (
            "flowright_journal_full",
            "1 while the disk of the journal is full.",
            f64::from(u8::from(journal.full.is_some())),
        ),
    ];
    for (name, help, value) in gauges {
        page.family(name, MetricType::Gauge, help)?.gauge(&NONE, value)?;
    }
    Ok(())
}

/// The empty label set.
const NONE: [(&str, &str); 0] = [];

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// Starts a metric family. The encoder appends `_total` to the names of counters.
    fn family<'a>(&'a mut self, name: &'a str, kind: MetricType, help: &str) -> Result<Of<'a>, fmt::Error> {
        Ok(Of(self.0.encode_descriptor(name, help, None, kind)?))
    }
}

/// A metric family whose samples are being written.
struct Of<'a>(MetricEncoder<'a>);

impl Of<'_> {
    fn counter(&mut self, labels: &[impl EncodeLabel], value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, labels: &[impl EncodeLabel], value: f64) -> fmt::Result {
        let mut family = self.0.encode_family(&labels)?;
        match value as i64 {
            // Integers are written without a decimal point.
            whole if whole as f64 == value => family.encode_gauge(&whole),
            _ => family.encode_gauge(&value),
        }
    }

    /// Writes a histogram from its buckets: the upper bound and the number of observations of each.
    fn histogram(&mut self, labels: &[impl EncodeLabel], sum: f64, classes: &[(f64, u64)]) -> fmt::Result {
        let count = classes.iter().map(|(_, count)| count).sum();
        self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, classes, None)
    }
}

/// The metrics of one Work, or the sum of those beyond [`WORKS`].
#[derive(Default, Clone)]
struct Numbers {
    messages: u64,
    depth: u64,
    published: u64,
    conflated: u64,
    waiting: u64,
    running: u64,
    restarts: u64,
    runs: [u64; 3],
    seconds: [f64; 3],
}

const OUTCOMES: [&str; 3] = ["succeeded", "failed", "stopped"];

fn numbers(snapshot: &Snapshot) -> Vec<(String, Numbers)> {
    let mut all: Vec<(String, Numbers)> = Vec::new();
    let mut others = Numbers::default();
    for work in &snapshot.works {
        let one = Numbers {
            messages: work.accepted,
            depth: work.waiting_messages as u64,
            published: work.published,
            conflated: work.conflated,
            waiting: work.waiting_runs as u64,
            running: u64::from(work.status.stage == Stage::Running),
            restarts: u64::from(work.restarts),
            runs: [work.outcomes.succeeded, work.outcomes.failed, work.outcomes.stopped],
            seconds: work.outcomes.seconds,
        };
        if all.len() < WORKS {
            all.push((work.path.as_str().to_owned(), one));
            continue;
        }
        others.messages += one.messages;
        others.depth += one.depth;
        others.published += one.published;
        others.conflated += one.conflated;
        others.waiting += one.waiting;
        others.running += one.running;
        others.restarts += one.restarts;
        for place in 0..3 {
            others.runs[place] += one.runs[place];
            others.seconds[place] += one.seconds[place];
        }
    }
    if snapshot.works.len() > WORKS {
        all.push((OTHERS.to_owned(), others));
    }
    all
}

fn works(page: &mut Page<'_>, all: &[(String, Numbers)]) -> fmt::Result {
    type Get = fn(&Numbers) -> u64;
    let counters: [(&str, &str, Get); 4] = [
        ("flowright_work_messages", "Messages that the mailbox has accepted.", |n| n.messages),
        ("flowright_work_publishes", "States that the Work has published.", |n| n.published),
        (
            "flowright_work_conflations",
            "Published states that were conflated: a newer one replaced them before they were seen.",
            |n| n.conflated,
        ),
        ("flowright_work_restarts", "Restarts of the Work.", |n| n.restarts),
    ];
    for (name, help, get) in counters {
        let mut family = page.family(name, MetricType::Counter, help)?;
        for (path, numbers) in all {
            family.counter(&[("work", path)], get(numbers))?;
        }
    }
    let gauges: [(&str, &str, Get); 3] = [
        ("flowright_work_mailbox_depth", "Messages that wait in the mailbox.", |n| n.depth),
        ("flowright_work_runs_waiting", "Runs that wait for their turn.", |n| n.waiting),
        ("flowright_work_running", "Runs in progress.", |n| n.running),
    ];
    for (name, help, get) in gauges {
        let mut family = page.family(name, MetricType::Gauge, help)?;
        for (path, numbers) in all {
            family.gauge(&[("work", path)], get(numbers) as f64)?;
        }
    }
    let help = "Duration of runs, by outcome.";
    let mut family = page.family("flowright_work_run_seconds", MetricType::Histogram, help)?;
    for (path, numbers) in all {
        for (place, outcome) in OUTCOMES.iter().enumerate() {
            // Buckets for each Work would be too many series; count and sum are kept.
            let all = [(f64::INFINITY, numbers.runs[place])];
            family.histogram(
                &[("work", path.as_str()), ("outcome", outcome)],
                numbers.seconds[place],
                &all,
            )?;
        }
    }
    Ok(())
}

fn services(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let mut services: Vec<_> = snapshot.flows.iter().filter_map(|flow| flow.service.as_ref()).collect();
    if services.is_empty() {
        return Ok(());
    }
    services.sort_by(|a, b| a.path.cmp(&b.path));
    let help =
        "Messages of services: those that wait for a replica, and those that replicas have not answered.";
    let mut family = page.family("flowright_service_messages", MetricType::Gauge, help)?;
    for service in services.into_iter().take(SERVICES) {
        let load = service.load();
        for (state, messages) in [("waiting", load.waiting), ("handed", load.handed())] {
            family.gauge(&[("service", service.path.as_str()), ("state", state)], messages as f64)?;
        }
    }
    Ok(())
}

fn reactions(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Duration of reactions, by type of Flow.";
    let mut family = page.family("flowright_reaction_seconds", MetricType::Histogram, help)?;
    for (flow, times) in &snapshot.reaction_times {
        family.histogram(&[("flow", short_name(flow))], times.sum(), &times.classes())?;
    }
    let help = "Reactions of all Flows.";
    page.family("flowright_reactions", MetricType::Counter, help)?.counter(&NONE, snapshot.reactions)
}

/// Writes the metrics of file descriptors, under the conventional names of Prometheus.
fn descriptors(page: &mut Page<'_>) -> fmt::Result {
    if let Some(open) = files::open() {
        let help = "Open file descriptors of the process of the App.";
        page.family("process_open_fds", MetricType::Gauge, help)?.gauge(&NONE, open as f64)?;
    }
    let help = "The limit on open file descriptors.";
    page.family("process_max_fds", MetricType::Gauge, help)?.gauge(&NONE, files::limit() as f64)
}

fn every_node(page: &mut Page<'_>, nodes: &BTreeMap<String, NodeView>) -> fmt::Result {
    type Get = fn(&NodeView) -> Option<f64>;
    let families: [(&str, &str, Get); 6] = [
        ("flowright_node_connected", "1 while the node is connected, else 0.", |n| {
            Some(f64::from(u8::from(n.is_connected)))
        }),
        ("flowright_node_works", "Works that live on the node.", |n| Some(n.works.len() as f64)),
        ("flowright_node_heartbeat_age_seconds", "Time since the last message from the node.", |n| {
            Some(n.heartbeat_age)
        }),
        ("flowright_node_busy_cpus", "Processor cores that the process of the node keeps busy.", |n| {
            Some(n.load?.cpus)
        }),
        ("flowright_node_memory_bytes", "Memory that the process of the node uses.", |n| {
            Some(n.load?.memory as f64)
        }),
        ("flowright_bridge_round_trip_seconds", "Round-trip time between the head and the node.", |n| {
            n.round_trip
        }),
    ];
    for (name, help, get) in families {
        let mut family = page.family(name, MetricType::Gauge, help)?;
        for (node, view) in nodes {
            if let Some(value) = get(view) {
                family.gauge(&[("node", node)], value)?;
            }
        }
    }
    Ok(())
}

fn bridge(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    type Get = fn(&Traffic) -> u64;
    let families: [(&str, &str, Get); 5] = [
        ("flowright_bridge_sent_bytes", "Bytes sent to the node.", |t| t.sent_bytes),
        ("flowright_bridge_received_bytes", "Bytes of messages received from the node.", |t| {
            t.received_bytes
        }),
        ("flowright_bridge_sent_frames", "Messages sent to the node.", |t| t.sent_messages),
        ("flowright_bridge_received_frames", "Messages received from the node.", |t| t.received_messages),
        ("flowright_bridge_resends", "Buffers retransmitted to the node.", |t| t.resent),
    ];
    for (name, help, get) in families {
        let mut family = page.family(name, MetricType::Counter, help)?;
        for (node, status) in &snapshot.nodes {
            family.counter(&[("node", node)], get(&status.traffic))?;
        }
    }
    Ok(())
}

fn payloads(page: &mut Page<'_>, nodes: &BTreeMap<String, NodeView>) -> fmt::Result {
    let known = || nodes.iter().filter_map(|(node, view)| Some((node.as_str(), view.payloads?)));
    let help = "Bytes that payload values occupy on the node.";
    let mut family = page.family("flowright_payload_bytes", MetricType::Gauge, help)?;
    for (node, usage) in known() {
        family.gauge(&[("node", node), ("where", "memory")], usage.memory as f64)?;
        family.gauge(&[("node", node), ("where", "disk")], usage.disk as f64)?;
    }
    type Get = fn(&UsageView) -> u64;
    let families: [(&str, &str, Get); 3] = [
        ("flowright_payload_hits", "Reads of a value that was in memory.", |u| u.hits),
        ("flowright_payload_pulls", "Values pulled from another process.", |u| u.pulls),
        ("flowright_payload_spills", "Values spilled to disk to make room in memory.", |u| u.spills),
    ];
    for (name, help, get) in families {
        let mut family = page.family(name, MetricType::Counter, help)?;
        for (node, usage) in known() {
            family.counter(&[("node", node)], get(&usage))?;
        }
    }
    Ok(())
}

/// Topics that are listed, so that the number of series is bounded.
const TOPICS: usize = 256;

fn topics(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let topics = Topics::of(&snapshot.runtime).status(HEAD);
    let topics = &topics[..topics.len().min(TOPICS)];
    type Get = fn(&TopicStatus) -> u64;
    let families: [(&str, &str, Get); 3] = [
        ("flowright_topic_published", "Messages that were published to a topic.", |t| t.counts.published),
        (
            "flowright_topic_delivered",
            "Messages of a topic that handlers have begun, counted for each subscriber.",
            |t| t.counts.delivered,
        ),
        (
            "flowright_topic_dropped",
            "Messages of a topic that were dropped: a backlog or a session was full, or a subscription has ended.",
            |t| t.counts.dropped,
        ),
    ];
    for (name, help, get) in families {
        let mut family = page.family(name, MetricType::Counter, help)?;
        for topic in topics {
            family.counter(&[("topic", &topic.topic)], get(topic))?;
        }
    }
    let mut family =
        page.family("flowright_topic_subscribers", MetricType::Gauge, "Subscribers of a topic.")?;
    for topic in topics {
        family.gauge(&[("topic", &topic.topic)], topic.subscriber_count as f64)?;
    }
    Ok(())
}

/// The groups of nodes that engines start, with which only an App that has some is listed.
#[cfg(feature = "remote")]
fn fleet(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let groups = super::model::groups_of(&snapshot.runtime);
    if groups.is_empty() {
        return Ok(());
    }
    let help = "Allocations of a group of nodes that an engine starts, by their stage.";
    let mut family = page.family("flowright_fleet_allocations", MetricType::Gauge, help)?;
    for group in &groups {
        let mut stages = BTreeMap::new();
        for allocation in &group.allocations {
            *stages.entry(allocation.stage).or_insert(0_u32) += 1;
        }
        for (stage, count) in stages {
            family.gauge(&[("group", group.name.as_str()), ("stage", stage)], f64::from(count))?;
        }
    }
    let help = "Time for which nodes of a group had no Work, all together.";
    let mut family = page.family("flowright_fleet_idle_seconds", MetricType::Gauge, help)?;
    for group in &groups {
        family.gauge(&[("group", group.name.as_str())], group.idle.as_secs_f64())?;
    }
    let help = "1 if a group requests nothing, because it was paused or fails.";
    let mut family = page.family("flowright_fleet_stuck", MetricType::Gauge, help)?;
    for group in &groups {
        let is_stuck = group.paused.is_some() || group.problem.is_some();
        family.gauge(&[("group", group.name.as_str())], f64::from(u8::from(is_stuck)))?;
    }
    Ok(())
}

fn dead_letters(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Messages that no handler saw and whose senders were not told so.";
    let mut family = page.family("flowright_dead_letters", MetricType::Counter, help)?;
    for (work, reason, count) in DeadLetters::of(&snapshot.runtime).counts() {
        let work = work.as_ref().map_or(OTHERS, |work| work.as_str());
        family.counter(&[("work", work), ("reason", reason.name())], count)?;
    }
    Ok(())
}

fn messages_lost(page: &mut Page<'_>, nodes: &BTreeMap<String, NodeView>) -> fmt::Result {
    let help = "Messages lost: no handler saw them, and their senders got no error.";
    let mut family = page.family("flowright_messages_lost", MetricType::Counter, help)?;
    for (node, view) in nodes {
        if let Some(lost) = view.messages_lost {
            family.counter(&[("node", node.as_str())], lost)?;
        }
    }
    Ok(())
}

fn questions_abandoned(page: &mut Page<'_>, nodes: &BTreeMap<String, NodeView>) -> fmt::Result {
    let help = "Asks dropped before a handler began, because the caller had stopped waiting.";
    let mut family = page.family("flowright_questions_abandoned", MetricType::Counter, help)?;
    for (node, view) in nodes {
        if let Some(abandoned) = view.questions_abandoned {
            family.counter(&[("node", node.as_str())], abandoned)?;
        }
    }
    Ok(())
}

fn deadlocks(page: &mut Page<'_>, nodes: &BTreeMap<String, NodeView>) -> fmt::Result {
    let help = "Asks that failed because Works waited for each other's replies.";
    let mut family = page.family("flowright_ask_deadlocks", MetricType::Counter, help)?;
    for (node, view) in nodes {
        if let Some(deadlocks) = view.deadlocks {
            family.counter(&[("node", node.as_str())], deadlocks)?;
        }
    }
    Ok(())
}

fn streams_open(page: &mut Page<'_>, nodes: &BTreeMap<String, NodeView>) -> fmt::Result {
    let help = "Streamed replies that Works are sending.";
    let mut family = page.family("flowright_streams_open", MetricType::Gauge, help)?;
    for (node, view) in nodes {
        if let Some(open) = view.streams_open {
            family.gauge(&[("node", node.as_str())], open as f64)?;
        }
    }
    Ok(())
}

/// Writes the metrics that the program has recorded, in this process and in others.
fn of_the_program(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let mut all = Gathered::default();
    all.add(&recorder::families(), &[("node", HEAD)]);
    for (by, recorded) in &snapshot.recorded {
        match by {
            RecordedBy::Node(node) => all.add(recorded.families(), &[("node", node)]),
            RecordedBy::Process(work) => all.add(recorded.families(), &[("node", HEAD), ("work", work)]),
        }
    }
    for Family { name, kind, help, series } in all.families() {
        let (name, kind) = match kind {
            Kind::Counter => (name.strip_suffix("_total").unwrap_or(&name), MetricType::Counter),
            Kind::Gauge => (name.as_str(), MetricType::Gauge),
            Kind::Histogram => (name.as_str(), MetricType::Histogram),
        };
        let mut family = page.family(name, kind, help.as_deref().unwrap_or("Recorded by the program."))?;
        for (labels, reading) in &series {
            match reading {
                Reading::Counter(count) => family.counter(labels, *count)?,
                Reading::Gauge(level) => family.gauge(labels, *level)?,
                Reading::Histogram { sum, counts } => {
                    let ends = recorder::BOUNDS.iter().copied().chain([f64::INFINITY]);
                    let classes: Vec<_> = ends.zip(counts.iter().copied()).collect();
                    family.histogram(labels, *sum, &classes)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::AppStage;
    use crate::state::Value;
    use crate::work::Resources;

    fn nothing() -> Snapshot {
        Snapshot {
            version: 1,
            stage: AppStage::Running,
            safe_mode: None,
            reactions: 0,
            reaction_times: BTreeMap::new(),
            listening: None,
            journal: Some(crate::app::JournalStatus::default()),
            state: Ok(Value::Nil),
            works: Vec::new(),
            flows: Vec::new(),
            nodes: BTreeMap::new(),
            resources: Resources::default(),
            runtime: std::sync::Arc::new(crate::runtime::Runtime::new(crate::id::AppId::next())),
            processes: Vec::new(),
            recorded: Vec::new(),
            took: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn the_dashboard_shows_numbers_that_there_are() {
        let page = text(nothing());
        let kinds: BTreeMap<_, _> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        let dashboard = include_str!("../../docs/dashboard.json");
        let names = dashboard.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut count = 0;
        for name in names.filter(|name| name.starts_with("flowright_")) {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let kind = kinds.get(histogram.unwrap_or(name));
            assert!(
                kind.is_some_and(|kind| (*kind == "histogram") == histogram.is_some()),
                "{name}: {kind:?}"
            );
            count += 1;
        }
        assert!(count > 10);
    }
}
