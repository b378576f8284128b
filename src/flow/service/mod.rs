//! Services: replicas of a Work behind one address, whose versions are replaced while they serve.
//!
//! A service is a Flow whose children are its replicas, so that their placement, supervision and record are those of every
//! Work. Its decisions are made by the pure module `rollouts`; the way of its messages is that of
//! [`Frontend`](crate::work::Frontend).

mod rollouts;
#[allow(clippy::module_inception, reason = "the Flow is what the module is named for")]
mod service;
mod service_ref;
mod settings;

pub use self::service_ref::ServiceRef;
pub use self::settings::Replicas;
