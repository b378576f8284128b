//! What a head, its nodes and processes that know each other tell each other, besides the messages of Works.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::references::{Carried, Source};
use super::super::routing::Location;
use crate::id::ActorPath;
use crate::payload::{Hex, PayloadId};
use crate::recorder::Family;
use crate::state::{Patch, Value};
use crate::trace::Cause;
use crate::work::{CloseReason, LoadReport, Report};

/// What a head and its nodes tell each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Control {
    // From the head.
    /// Start an incarnation.
    Launch {
        incarnation: u64,
        path: ActorPath,
        work: String,
        pooled: bool,
        state: Value,
        max_state_bytes: u64,
        mailbox: u64,
        /// Indices of the devices that it has.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<u32>,
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
    /// End it by force.
    Kill {
        incarnation: u64,
    },
    /// Refuse messages.
    Close {
        incarnation: u64,
        why: CloseReason,
    },
    /// Where a Work is. Said once for each `Locate`, and at each change.
    Located {
        path: ActorPath,
        location: Location<Source>,
    },
    /// Acknowledges a [`LoadReport`](Self::LoadReport).
    LoadReportAck,
    /// Nothing runs any more on the node that is about to leave, or in the process whose Work is over: it hands over the
    /// values that are still referred to.
    MayLeave,
    /// The App is over, or nothing in it needs this process any more.
    End {
        why: String,
    },
    /// Who has a value; or how it was lost.
    There {
        id: PayloadId,
        sources: Vec<Source>,
        lost: Option<String>,
    },
    /// Pull the bytes of this value, and keep them.
    Keep {
        id: PayloadId,
        hash: Hex<32>,
        length: u64,
    },
    /// Nothing refers to this value any more: a copy of it is not wanted.
    Discard {
        id: PayloadId,
    },
    /// The App's state, for a watcher.
    State {
        version: u64,
        state: Value,
    },
    // From a node.
    Update {
        incarnation: u64,
        patch: Option<Patch>,
        /// Whether the state now refers to what was carried, and to nothing else.
        refers: bool,
        reports: Vec<Report>,
        #[serde(default, skip_serializing_if = "Cause::is_none")]
        trace: Cause,
    },
    Log {
        path: Option<ActorPath>,
        run: Option<u64>,
        level: log::Level,
        target: String,
        text: String,
    },
    /// Tell this process where this Work is, from now on.
    Locate {
        path: ActorPath,
    },
    /// Tell it no more.
    Unlocate {
        path: ActorPath,
    },
    /// How loaded it is, and how long the answer to the last of these took.
    LoadReport {
        load_report: LoadReport,
        round_trip_us: Option<u64>,
    },
    /// What has changed of what programs have recorded there.
    Recorded {
        families: Vec<Family>,
    },
    /// The bytes of a value are in this process as well, or cannot be.
    Copied {
        id: PayloadId,
        failed: Option<String>,
    },
    /// Who has this value?
    Where {
        id: PayloadId,
    },
    /// It is about to leave, and wants its Works to go on elsewhere.
    Leave,
    /// Have the App keep this value, which was carried, without the process that holds it for the sender and is about to
    /// end. Answered by `Held` once that is so.
    Adopt {
        id: PayloadId,
        /// Whether the sender has a copy.
        has: bool,
    },
    /// Nothing keeps the sender from ending but the values that the head and others need of it.
    HandedOver,
    // From anybody.
    /// The next message has these references, and this has led to it.
    Carries {
        payloads: Vec<Carried>,
        #[serde(default, skip_serializing_if = "Cause::is_none")]
        trace: Cause,
    },
    /// Nothing here refers to this value any more, which came so often.
    Release {
        id: PayloadId,
        count: u32,
    },
    /// Have this value held for this process, which has it from somebody else.
    Hold {
        id: PayloadId,
    },
    Held {
        id: PayloadId,
        there: bool,
    },
    /// The sender is about to end: the head is to hold the values that the sender holds for the receiver.
    MoveLeases,
    /// Which values does this one refer to? The first so many are known.
    WhatRefers {
        id: PayloadId,
        from: u64,
    },
    /// It refers to what was carried, and to others that are to be asked for.
    Refers {
        id: PayloadId,
        /// Whether the sender has the value.
        there: bool,
        more: bool,
    },
    /// What is sent on this channel is for this incarnation of this Work and of this type.
    Open {
        channel: u32,
        path: ActorPath,
        message: String,
        incarnation: u64,
        /// Whether the head is to send messages on, wherever the Work is.
        relayed: bool,
    },
    /// No more messages come on this channel. With `recall`, those that no handler has begun are to come back.
    Shut {
        channel: u32,
        recall: bool,
    },
    /// Nothing is left here of what came on a channel that was shut: its number is free.
    Drained {
        channel: u32,
    },
    /// Nobody waits for the answer to this question any more: it is not to be handled, unless that has begun. No answer is expected.
    Abandoned {
        question: u64,
    },
    /// A question was not answered.
    Unanswered {
        question: u64,
        why: Unanswered,
    },
}

impl Control {
    /// What it is called in the protocol.
    pub(in crate::remote) fn name(&self) -> &'static str {
        match self {
            Self::Launch { .. } => "launch",
            Self::Run { .. } => "run",
            Self::Cancel { .. } => "cancel",
            Self::Stop { .. } => "stop",
            Self::Kill { .. } => "kill",
            Self::Close { .. } => "close",
            Self::Located { .. } => "located",
            Self::End { .. } => "end",
            Self::State { .. } => "state",
            Self::Update { .. } => "update",
            Self::Log { .. } => "log",
            Self::LoadReport { .. } => "load_report",
            Self::Recorded { .. } => "recorded",
            Self::LoadReportAck => "load_report_ack",
            Self::Locate { .. } => "locate",
            Self::Unlocate { .. } => "unlocate",
            Self::Open { .. } => "open",
            Self::Shut { .. } => "shut",
            Self::Drained { .. } => "drained",
            Self::Abandoned { .. } => "abandoned",
            Self::Unanswered { .. } => "unanswered",
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
            Self::HandedOver => "handed_over",
            Self::MoveLeases => "move_leases",
            Self::WhatRefers { .. } => "what_refers",
            Self::Refers { .. } => "refers",
            Self::MayLeave => "may_leave",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unanswered {
    Refused(CloseReason),
    Failed,
    NodeLost,
    Unreadable(String),
    /// The handler ended, and its answer could not be sent, for this reason.
    ReplyNotSent(String),
}
