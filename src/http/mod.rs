//! Floor 6: what an App shows over HTTP, on `actix-web`.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /healthz` | `{"status":"ok"}` while the App runs |
//! | `GET /api/v1/state` | the state tree |
//! | `GET /api/v1/status` | the status of the App, its Flows and its Works |
//! | `GET /api/v1/events` | server-sent events: `{"state": …, "status": …}` at once and after each change |
//! | `GET /view` | a page that shows both live; its style and script are at `/view/view.css` and `/view/view.js` |
//!
//! # Guarantees
//! - Nothing here can change the App.
//! - A page that is slow to read skips intermediate states: it costs one pending event, whatever happens.
//! - Requests that name another host are refused, so that no web page can read an App by rebinding its name to
//!   the loopback address.

mod routes;
mod server;

pub(crate) use self::server::start;
