//! Pulls of large values, whose chunks are read on demand.
//!
//! # Guarantees
//! - Everything runs on the thread that reads the value, with a connection that lives as long as the pull.
//! - A pull whose connection breaks resumes at the next byte. A pull ends when no reader waits for it any more.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use super::super::bridge::Bridge;
use super::super::protocol::Source;
use super::ask::{Given, NotGiven, ask, dial};
use super::nested::nested;
use super::sources::Sources;
use crate::payload::{Chunks, FetchError, Opened, PayloadGuards, Waited, Want};
use crate::transport::Connection;

/// Begins to pull a large value. All reads run on the calling thread, and block it.
pub(in crate::remote) fn open(
    bridge: Arc<Bridge>,
    sources: Vec<Source>,
    want: &Want,
    waited: Waited,
) -> Result<Opened, FetchError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| FetchError::Lost(format!("cannot create a runtime for the pull: {error}")))?;
    let mut sources = Sources::new(bridge, sources, want.clone());
    let mut waited = waited;
    let opened = sources.until_given(async |bridge, source, want| {
        let mut connection = dial(bridge, source).await?;
        let Given { hashes, type_name, refers } = ask(&mut connection, want, 0, true).await?;
        let nested = if refers { nested(bridge, source, want.id).await? } else { PayloadGuards::default() };
        Ok((Current { connection, source: source.id, at: 0 }, hashes, type_name, nested))
    });
    let (current, hashes, type_name, nested) = until_given_up(&runtime, &mut waited, opened)?;
    sources.progress();
    let chunks = Box::new(Pull { runtime, sources, waited, current: Some(current) });
    Ok(Opened { hashes, type_name, nested, chunks })
}

/// The pull of a large value.
struct Pull {
    /// First, since its drop needs the runtime.
    current: Option<Current>,
    runtime: Runtime,
    sources: Sources,
    waited: Waited,
}

struct Current {
    connection: Connection,
    source: u64,
    /// Offset of the next byte.
    at: u64,
}

impl Chunks for Pull {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
        let Self { current, runtime, sources, waited } = self;
        let read = sources.until_given(async |bridge, source, want| {
            let read = async {
                let mut open = match current.take() {
                    Some(open) if open.at == offset && open.source == source.id => open,
                    _ => {
                        let mut connection = dial(bridge, source).await?;
                        ask(&mut connection, want, offset, false).await?;
                        Current { connection, source: source.id, at: offset }
                    }
                };
                open.connection.read_bytes(buffer).await?;
                open.at += buffer.len() as u64;
                Ok(open)
            };
            read.await.inspect_err(|why| {
                if let NotGiven::Unreachable(why) = why {
                    log::debug!("the pull of {} broke at {offset}: {why}", want.what);
                }
            })
        });
        let open = until_given_up(runtime, waited, read)?;
        sources.progress();
        Ok(current.insert(open).source)
    }

    fn distrust(&mut self, source: u64) -> Result<(), FetchError> {
        self.current = None;
        if !self.sources.distrust(source) {
            return Ok(());
        }
        let asked = until_given_up(&self.runtime, &mut self.waited, self.sources.ask_the_head());
        asked.map_err(|error| match error {
            FetchError::Lost(why) => FetchError::Corrupt(why),
            error => error,
        })
    }
}

fn until_given_up<T>(
    runtime: &Runtime,
    waited: &mut Waited,
    what: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    runtime.block_on(async {
        tokio::select! {
            biased;
            done = what => done,
            // No value is ever sent: the channel closes when no reader waits any more.
            _ = waited.changed() => Err(FetchError::Cancelled),
        }
    })
}
