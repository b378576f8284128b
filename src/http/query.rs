//! Query strings.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Parses the query string as a `T`. Unknown and repeated parameters are refused with 400.
pub(super) fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    let wrong = |why: String| Problem::bad_request(format!("the query is invalid: {why}"));
    let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
    let mut names = BTreeMap::new();
    for (name, _) in pairs.map_err(|error| wrong(error.to_string()))?.into_inner() {
        if names.insert(name.clone(), ()).is_some() {
            return Err(wrong(format!("`{name}` is given twice")));
        }
    }
    let query = web::Query::<T>::from_query(request.query_string());
    Ok(query.map_err(|error| wrong(error.to_string()))?.into_inner())
}
