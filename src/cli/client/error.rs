//! Errors of the commands.

use std::io;

use thiserror::Error;

#[derive(Debug, Error)]
pub(super) enum ClientError {
    #[error(
        "no App answers at {address} ({why}); start it, or say with --url where it is served (it is in the line that an App \
         writes when it has started)"
    )]
    NoApp { address: String, why: String },
    #[error("--url {0:?}: write it as HOST:PORT, such as 127.0.0.1:7501; the API is served without TLS")]
    Url(String),
    #[error("--token-file {path} cannot be read")]
    TokenFile {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the App at {address} requires a token; give it with --token-file")]
    NoToken { address: String },
    #[error("the App at {address} rejects the token in --token-file; give the one it was started with")]
    WrongToken { address: String },
    #[error(
        "the App at {address} is `{there}`, and this program is `{here}`: say with --url where yours is served (it is in the line that it \
         writes when it has started), or do it all the same with --any-app"
    )]
    AnotherProgram { address: String, there: String, here: String },
    #[error("there is no Work {path:?}{}", hint(near))]
    UnknownWork { path: String, near: Vec<String> },
    #[error("there is nothing at {path:?} in the state")]
    NoState { path: String },
    #[error("the history has no run {run} of `{work}`; `history {work}` lists the runs that it has")]
    NoRun { work: String, run: u64 },
    #[error("{0}")]
    Refused(String),
    #[error("the server at {address} is not a Flowright App, or an incompatible version of it: {why}")]
    Strange { address: String, why: String },
    #[error("the connection to the App at {address} broke: {why}")]
    Broken { address: String, why: String },
    #[error("run {run} of {work} has {stage}{}", told(message))]
    RunEnded { work: String, run: u64, stage: &'static str, message: Option<String> },
    #[error("`top` needs a terminal; `status --watch` writes to anything")]
    NoTerminal,
    #[error(transparent)]
    Output(#[from] io::Error),
}

impl ClientError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Url(_) | Self::TokenFile { .. } => 2,
            _ => 1,
        }
    }
}

fn told(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(": {message}")).unwrap_or_default()
}

fn hint(near: &[String]) -> String {
    match near {
        [] => "; `graph` shows those that there are".to_owned(),
        near => {
            let names: Vec<_> = near.iter().map(|name| format!("`{name}`")).collect();
            format!("; did you mean {}?", names.join(" or "))
        }
    }
}
