//! Layer 6: what an App shows over HTTP and what can be asked of it there, on `actix-web`.
//!
//! All of the API is under `/api/v1` and described by `/api/v1/openapi.json`, which is made from the handlers; the page is at
//! `/view`. Users' own services are mounted beside it by [`App::routes`](crate::App::routes).
//!
//! # Guarantees
//! - On a loopback address, requests that name another host and those of pages of other origins are refused. On any other
//!   there is no server without a token.
//! - What one client costs is bounded: its body, its headers, the time that both take, and its place in the stream of
//!   events, whose content is kept once for all. Clients that are slow to read skip. What is kept for those that do not read is
//!   bounded for all together, and their connections end.
//! - What takes time is done on the server's thread; the App's own is asked for one look at a time.

mod body;
mod commands;
mod events;
mod guard;
mod metrics;
mod model;
mod openapi;
mod page;
mod pieces;
mod problem;
mod queries;
mod query;
mod routes;
mod server;

pub(crate) use self::server::{Options, start};

/// This life of the App: a number that no other has, and the App's own.
struct Instance(u64, crate::id::AppId);
