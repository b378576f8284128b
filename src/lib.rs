//! Flowright: applications made of long-running, stateful parts.

mod app;
mod cli;
mod error;
mod flow;
mod http;
mod id;
mod payload;
pub mod state;
pub mod testing;
mod wire;
mod work;

pub use crate::app::{
    App, AppError, AppHandle, AppStage, AppStatus, Config, Control, Exit, Root, WorkStatus,
};
pub use crate::error::{Error, Result};
pub use crate::flow::{
    Children, Flow, FlowContext, FlowError, FlowRef, Interrupt, OnError, Overlap, Reaction, Restart, Run,
    ScheduleError, Strategy, WorkRef,
};
pub use crate::id::ActorPath;
pub use crate::payload::{Payload, PayloadError};
pub use crate::state::{StateError, Value};
pub use crate::wire::CodecError;
pub use crate::work::{
    AskError, DEFAULT_ASK_DEADLINE, DEFAULT_MAILBOX, DEFAULT_MAX_STATE_BYTES, Handle, Message, Placement,
    Reason, SendError, Stage, Status, Stopped, UnknownPlacement, Work, WorkAddr, WorkContext,
};
pub use flowright_macros::Children;

/// What `#[derive(Children)]` is written in terms of.
#[doc(hidden)]
pub mod derive {
    pub use crate::flow::{ChildGroup, Children, Found, Route, Walk};
}

/// What a program that uses Flowright imports.
pub mod prelude {
    pub use std::process::ExitCode;
    pub use std::time::Duration;

    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        App, Children, Error, Flow, FlowContext, FlowRef, Handle, Interrupt, OnError, Overlap, Payload,
        Placement, Reaction, Restart, Result, Stage, Stopped, Strategy, Work, WorkAddr, WorkContext, WorkRef,
        bail,
    };
}
