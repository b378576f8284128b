//! Control messages: those that the head, nodes and peers exchange besides the messages of Works.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Location, Source};
use crate::id::ActorPath;
use crate::payload::{ContentId, Hex, PayloadId, Replicas};
use crate::recorder::Family;
use crate::state::{Patch, Value};
use crate::trace::Cause;
use crate::work::{
    ByReason, CloseReason, DeadLetter, FencingToken, Found, KnownStep, LoadReport, NoReply, Published,
    Report, StreamEnd, TopicCounts, TopicRefusal, TopicReport, WaitOrder, WaitReport,
};

/// A reference that is part of the next message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) id: PayloadId,
    /// True if the sender pins the value until the receiver releases it.
    pub(crate) counted: bool,
    /// The process in which the value was made.
    pub(crate) owner: Source,
    /// Other processes that have the value.
    pub(crate) copies: Vec<Source>,
    /// The number of processes that are to have a replica.
    pub(crate) replicas: Option<Replicas>,
    /// Hash and length of the content, if the sender knows them; may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<ContentId>,
    /// True if the journal is to keep the value, whatever its size; may be absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) durable: bool,
}

/// A control message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Control {
    // From the head.
    /// The head has given this process up: its Works are lost, and nothing that it sends counts any more.
    ProcessLost {
        process: u64,
    },
    /// Starts an incarnation.
    Launch {
        incarnation: u64,
        path: ActorPath,
        work: String,
        pooled: bool,
        state: Value,
        max_state_bytes: u64,
        mailbox: u64,
        /// Indices of the GPUs assigned to it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<u32>,
        /// Fencing token of the incarnation.
        token: FencingToken,
    },
    /// A step that is known of a run; sent before `Run`.
    Known {
        incarnation: u64,
        run: u64,
        step: KnownStep,
    },
    Run {
        incarnation: u64,
        run: u64,
        attempt: u32,
        input: Bytes,
        #[serde(default, skip_serializing_if = "Cause::is_none")]
        trace: Cause,
    },
    Cancel {
        incarnation: u64,
        run: u64,
    },
    Stop {
        incarnation: u64,
    },
    /// The head has taken over an incarnation that the node has kept: its updates go on.
    Resume {
        incarnation: u64,
    },
    /// The reports of an incarnation up to this number are durable; sent by heads with a journal.
    Acknowledge {
        incarnation: u64,
        reports: u64,
    },
    /// Ends an incarnation by force.
    Kill {
        incarnation: u64,
    },
    /// Closes the mailbox of an incarnation.
    Close {
        incarnation: u64,
        why: CloseReason,
    },
    /// The location of a Work. Sent once per `Locate`, and on each change.
    Located {
        path: ActorPath,
        location: Location<Source>,
    },
    /// Answers `LookUp`.
    LookedUp {
        number: u64,
        found: Found,
    },
    /// Checks or ends a wait of a Work for an ask.
    Wait(WaitOrder),
    /// Answers `UseTopic`.
    TopicUsed {
        number: u64,
        /// The reason why the process may not use the topic.
        refused: Option<TopicRefusal>,
    },
    /// Acknowledges a [`LoadReport`](Self::LoadReport).
    LoadReportAck,
    /// Tells a node that is about to leave that nothing runs on it any more, or a process that its Work is over: it
    /// hands over the values that are still referenced.
    MayLeave,
    /// Sends the node away: it leaves in good order, as if it had been asked to on its machine.
    Drain {
        why: String,
    },
    /// The time until the allocation of the node ends, in milliseconds, if the head has learned of another one.
    Lifetime {
        ends_in_ms: Option<u64>,
    },
    /// The App is over, or no longer needs this process.
    End {
        why: String,
    },
    /// Answers `Where`: the processes that have a value, or the reason for its loss.
    There {
        id: PayloadId,
        sources: Vec<Source>,
        /// Processes of `among` that are no longer part of the App; may be absent.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gone: Vec<u64>,
        lost: Option<String>,
    },
    /// Requests a replica: pull the bytes of this value and keep them.
    Keep {
        id: PayloadId,
        hash: Hex<32>,
        length: u64,
    },
    /// The value is unreferenced; a copy is no longer wanted.
    Discard {
        id: PayloadId,
    },
    /// The state of the App, for a watcher.
    State {
        version: u64,
        state: Value,
    },
    /// Everything that the incarnation has sent before this barrier is durable.
    Durable {
        incarnation: u64,
        barrier: u64,
    },
    // From a node.
    /// A step of a run was intended or done.
    Stepped {
        incarnation: u64,
        run: u64,
        step: KnownStep,
        /// True if more of the same update follows; the head takes all of it at once.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    Update {
        incarnation: u64,
        patch: Option<Patch>,
        /// True if the state now refers to exactly the values that were carried.
        refers: bool,
        reports: Vec<Report>,
        /// True if more of the same update follows; the head takes all of it at once.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        #[serde(default, skip_serializing_if = "Cause::is_none")]
        trace: Cause,
    },
    /// An incarnation that the node has kept while it had no head.
    Hosts {
        incarnation: u64,
        path: ActorPath,
        work: String,
        /// Number of the last run that it was ordered.
        last_run: u64,
        /// Number of the reports that were acknowledged. The reports since follow when it is resumed.
        acknowledged: u64,
        /// The last published state, which refers to exactly the values that were carried. It counts with the reports
        /// that follow.
        state: Value,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<u32>,
    },
    /// The node hosts no other incarnations; sent at the beginning of each session with a head that has a journal.
    HostsAll,
    Log {
        path: Option<ActorPath>,
        run: Option<u64>,
        level: log::Level,
        target: String,
        text: String,
    },
    /// Messages that were lost on a node, and the numbers, by reason, of those that it had no room to keep.
    DeadLetters {
        letters: Vec<DeadLetter>,
        omitted: ByReason,
    },
    /// Subscribes the sender to the location of this Work.
    Locate {
        path: ActorPath,
    },
    /// A Work waits for an ask, or does not any more.
    WaitReport(WaitReport),
    /// Asks what is at this path of the App; answered by `LookedUp`.
    LookUp {
        number: u64,
        path: ActorPath,
    },
    /// The sender uses a topic with messages of this type. The last one of a topic counts. Answered by `TopicUsed`.
    UseTopic {
        number: u64,
        topic: String,
        message: String,
        /// True if the sender is to get what is published.
        subscribes: bool,
    },
    /// The sender does not use a topic any more.
    LeaveTopic {
        topic: String,
        /// The messages of the topic in the sender.
        counts: TopicCounts,
    },
    /// All topics that the sender uses, up to a number.
    TopicReports {
        topics: Vec<TopicReport>,
    },
    /// Ends a subscription to the location of a Work.
    Unlocate {
        path: ActorPath,
    },
    /// Load of a node, and the round trip time of its previous load report.
    LoadReport {
        load_report: LoadReport,
        round_trip_us: Option<u64>,
    },
    /// The changes to the metrics that were recorded on a node.
    Recorded {
        families: Vec<Family>,
    },
    /// The sender has a copy of the bytes of a value, or failed to make one.
    Copied {
        id: PayloadId,
        failed: Option<String>,
    },
    /// Asks which processes have a value, and which of `among` are gone; answered by `There`.
    Where {
        id: PayloadId,
        /// The processes that may have the value as far as the sender knows; may be absent.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        among: Vec<u64>,
    },
    /// The sender is about to leave, and its Works are to continue elsewhere.
    Leave,
    /// Has the App keep this value, which was carried, without the process that holds it for the sender and is about to
    /// end. Answered by `Held` once that is so.
    Adopt {
        id: PayloadId,
        /// True if the sender has a copy.
        has: bool,
    },
    /// Requests replicas of this value, which was carried together with their number.
    Replicate {
        id: PayloadId,
    },
    /// Only the values that the head and other processes need keep the sender from ending.
    HandedOver,
    // From the head or a node.
    /// A message that is published: from a node to the head, and from the head to each process that subscribes.
    Published(Published),
    // From any process.
    /// The references in the next message, and its cause.
    Carries {
        payloads: Vec<Carried>,
        #[serde(default, skip_serializing_if = "Cause::is_none")]
        trace: Cause,
    },
    /// The Work that this process calls by `number` as the sender of messages.
    Sender {
        number: u32,
        path: ActorPath,
    },
    /// Releases a value that is unreferenced at the sender and whose references were received `count` times.
    Release {
        id: PayloadId,
        count: u32,
    },
    /// Asks the owner to hold this value for the sender, which has its reference from a third process.
    Hold {
        id: PayloadId,
    },
    Held {
        id: PayloadId,
        there: bool,
    },
    /// The sender is about to end: the head is to hold the values that the sender holds for the receiver.
    MoveLeases,
    /// Asks for the values to which this value refers, beginning with number `from`.
    WhatRefers {
        id: PayloadId,
        from: u64,
    },
    /// Answers `WhatRefers` with the values that were carried. With `more`, there are others to ask for.
    Refers {
        id: PayloadId,
        /// True if the sender has the value.
        there: bool,
        more: bool,
    },
    /// Opens a channel for messages of one type to one incarnation of a Work.
    Open {
        channel: u32,
        path: ActorPath,
        message: String,
        incarnation: u64,
        /// True if the head is to forward the messages to wherever the Work runs.
        relayed: bool,
        /// True if the messages go before others in the mailbox; may be absent.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        first: bool,
    },
    /// No more messages follow on this channel. With `recall`, messages that no handler has begun are to be returned.
    Shut {
        channel: u32,
        recall: bool,
    },
    /// Every message of a channel that was shut is done with: its number can be reused.
    Drained {
        channel: u32,
    },
    /// No asker waits for the answer to this question any more. It is not handled, unless that has begun, and need not
    /// be answered.
    Abandoned {
        question: u64,
    },
    /// The question has no answer.
    Unanswered {
        question: u64,
        why: NoReply,
    },
    /// The handler of the question has returned, and the answer follows later.
    Deferred {
        question: u64,
    },
    /// The answer to the question is a stream, whose items follow.
    StreamOpened {
        question: u64,
    },
    /// No more items of the stream follow.
    StreamEnd {
        question: u64,
        end: StreamEnd,
    },
}

impl Control {
    /// Returns the name of the message in the protocol.
    pub(in crate::remote) fn name(&self) -> &'static str {
        match self {
            Self::Launch { .. } => "launch",
            Self::Known { .. } => "known",
            Self::Run { .. } => "run",
            Self::Durable { .. } => "durable",
            Self::Stepped { .. } => "stepped",
            Self::Cancel { .. } => "cancel",
            Self::Stop { .. } => "stop",
            Self::Resume { .. } => "resume",
            Self::Acknowledge { .. } => "acknowledge",
            Self::Hosts { .. } => "hosts",
            Self::HostsAll => "hosts_all",
            Self::Kill { .. } => "kill",
            Self::Close { .. } => "close",
            Self::ProcessLost { .. } => "process_lost",
            Self::Located { .. } => "located",
            Self::End { .. } => "end",
            Self::State { .. } => "state",
            Self::Update { .. } => "update",
            Self::Log { .. } => "log",
            Self::DeadLetters { .. } => "dead_letters",
            Self::Sender { .. } => "sender",
            Self::LoadReport { .. } => "load_report",
            Self::Recorded { .. } => "recorded",
            Self::LoadReportAck => "load_report_ack",
            Self::Locate { .. } => "locate",
            Self::Wait(_) => "wait",
            Self::WaitReport(_) => "wait_report",
            Self::UseTopic { .. } => "use_topic",
            Self::TopicUsed { .. } => "topic_used",
            Self::LeaveTopic { .. } => "leave_topic",
            Self::TopicReports { .. } => "topic_reports",
            Self::Published(_) => "published",
            Self::LookUp { .. } => "look_up",
            Self::LookedUp { .. } => "looked_up",
            Self::Unlocate { .. } => "unlocate",
            Self::Open { .. } => "open",
            Self::Shut { .. } => "shut",
            Self::Drained { .. } => "drained",
            Self::Abandoned { .. } => "abandoned",
            Self::Unanswered { .. } => "unanswered",
            Self::Deferred { .. } => "deferred",
            Self::StreamOpened { .. } => "stream_opened",
            Self::StreamEnd { .. } => "stream_end",
            Self::Copied { .. } => "copied",
            Self::Where { .. } => "where",
            Self::Carries { .. } => "carries",
            Self::Release { .. } => "release",
            Self::Hold { .. } => "hold",
            Self::Held { .. } => "held",
            Self::There { .. } => "there",
            Self::Keep { .. } => "keep",
            Self::Discard { .. } => "discard",
            Self::Leave => "leave",
            Self::Adopt { .. } => "adopt",
            Self::Replicate { .. } => "replicate",
            Self::HandedOver => "handed_over",
            Self::MoveLeases => "move_leases",
            Self::WhatRefers { .. } => "what_refers",
            Self::Refers { .. } => "refers",
            Self::MayLeave => "may_leave",
            Self::Drain { .. } => "drain",
            Self::Lifetime { .. } => "lifetime",
        }
    }
}
