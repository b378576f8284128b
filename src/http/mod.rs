//! Layer 6: the HTTP server of an App, on `actix-web`: the API, the page, metrics and the users' own services.
//!
//! The whole API is under `/api/v1`; `/api/v1/openapi.json` describes it and is generated from the handlers. The page
//! is at `/view`. [`App::routes`](crate::App::routes) mounts users' own services beside the API.
//!
//! # Guarantees
//! - A server on a loopback address refuses requests with a foreign `Host` or `Origin`. A server on any other address
//!   does not start without a token.
//! - The cost of one client is bounded: the size of its body and headers, the time in which both must arrive, and its
//!   position in the event stream, whose events are stored once for all clients. Slow clients skip events. The memory
//!   held for clients that do not read is bounded for all of them together; beyond the limit their connections are
//!   closed.
//! - Expensive work is done on the server's thread. The App's thread is asked for one snapshot at a time.

mod answers;
mod body;
mod commands;
mod events;
#[cfg(feature = "remote")]
mod fleet;
mod guard;
mod metrics;
mod model;
mod openapi;
mod page;
#[cfg(feature = "journal")]
mod past;
mod pieces;
mod problem;
mod queries;
mod query;
mod routes;
mod server;
mod streamed;

pub(crate) use self::server::{Options, start};

/// Identifies this run of the App: a number unique to this server instance, and the id of the App.
struct Instance(u64);
