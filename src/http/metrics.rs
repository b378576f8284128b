//! `/metrics`: numbers for Prometheus.

use std::fmt::Write;

use actix_web::web;

use super::problem::Common;
use super::read::{Answer, fresh};
use crate::app::Control;

/// Numbers in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "the numbers", body = String, content_type = "text/plain"),
    Common,
))]
pub(super) async fn metrics(control: web::Data<Control>) -> Answer {
    let snapshot = control.snapshot().await?;
    let mut out = String::new();
    let _ = writeln!(out, "# HELP flowright_reactions_total How many times the Flows have reacted.");
    let _ = writeln!(out, "# TYPE flowright_reactions_total counter");
    let _ = writeln!(out, "flowright_reactions_total {}", snapshot.reactions);
    Ok(fresh().content_type("text/plain; version=0.0.4; charset=utf-8").body(out))
}
