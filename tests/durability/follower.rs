//! A client of the event stream, which sees all that an App shows.

use std::io::{BufRead, BufReader};

use serde_json::Value as Json;
use ureq::Agent;

use crate::json_patch::apply;

/// Follows the events of the App at `address` until the connection ends, and calls `see` with the whole document after
/// each.
///
/// # Errors
/// When there is no connection.
pub(crate) fn follow(address: &str, mut see: impl FnMut(&Json)) -> Result<(), ureq::Error> {
    follow_while(address, |document| {
        see(document);
        true
    })
}

/// As [`follow`], until `see` returns false.
pub(crate) fn follow_while(address: &str, mut see: impl FnMut(&Json) -> bool) -> Result<(), ureq::Error> {
    let agent = Agent::config_builder().proxy(None).build().new_agent();
    let answer = agent.get(format!("http://{address}/api/v1/events")).call()?;
    let mut document = Json::Null;
    let mut name = String::new();
    for line in BufReader::new(answer.into_body().into_reader()).lines().map_while(Result::ok) {
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut name);
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        // The process was killed while it wrote.
        let Ok(data) = serde_json::from_str::<Json>(data) else { continue };
        match name.as_str() {
            "snapshot" => document = data,
            "patch" => {
                for operation in data["ops"].as_array().expect("a patch has operations") {
                    apply(&mut document, operation);
                }
            }
            _ => continue,
        }
        if !see(&document) {
            break;
        }
    }
    Ok(())
}
