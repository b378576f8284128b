//! Answers in JSON, and the ranges of parameters.

use actix_web::http::header;
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;

use super::model::Accepted;
use super::problem::Problem;

pub(super) type Answer = Result<HttpResponse, Problem>;

pub(super) fn fresh() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

pub(super) fn json<T: Serialize>(value: &T) -> HttpResponse {
    fresh().json(value)
}

/// Answers that a command was accepted.
pub(super) fn accepted() -> HttpResponse {
    HttpResponse::Accepted()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(Accepted { accepted: true })
}

/// The largest integer that every JSON parser reads exactly (2^53 - 1).
pub(super) const MOST: u64 = 9_007_199_254_740_991;

pub(super) fn within(name: &str, value: u64, least: u64, most: u64) -> Result<(), Problem> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Problem::bad_request(format!("`{name}` is {value}, but has to be from {least} to {most}")))
}
