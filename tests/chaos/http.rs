//! Client of the head's API, for the conductor.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

/// Beginning of the paths of services, and of their replicas.
pub(crate) const SERVICES: &str = "services.";

/// Part of the path of a replica, between the path of its service and its own name.
const REPLICAS: &str = ".replicas.";

/// Requests to the present head.
#[derive(Clone)]
pub(crate) struct Api {
    agent: Agent,
    address: Arc<Mutex<Option<String>>>,
}

/// The result of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Status(u16, String),
    /// The connection failed; the effect of the request is unknown.
    None(String),
}

impl Answer {
    pub(crate) fn ok(self) -> Result<Value, String> {
        match self {
            Self::Status(200..300, body) => serde_json::from_str(&body).map_err(|error| error.to_string()),
            Self::Status(status, body) => Err(format!("{status}: {body}")),
            Self::None(why) => Err(why),
        }
    }
}

impl Api {
    pub(crate) fn new() -> Self {
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0).build();
        Self { agent: config.new_agent(), address: Arc::default() }
    }

    pub(crate) fn set_address(&self, address: Option<String>) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    pub(crate) fn address(&self) -> Option<String> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn get(&self, path: &str, limit: Duration) -> Answer {
        let Some(address) = self.address() else { return Answer::None("there is no head".to_owned()) };
        let request = self.agent.get(format!("http://{address}/{path}"));
        read(request.config().timeout_global(Some(limit)).build().call())
    }

    pub(crate) fn post(&self, path: &str, body: Option<&Value>, limit: Duration) -> Answer {
        let Some(address) = self.address() else { return Answer::None("there is no head".to_owned()) };
        let request = self.agent.post(format!("http://{address}/{path}"));
        let request = request.config().timeout_global(Some(limit)).build();
        read(match body {
            Some(body) => request.header("Content-Type", "application/json").send(body.to_string()),
            None => request.send_empty(),
        })
    }

    /// Asks a Work or a service.
    pub(crate) fn ask(&self, work: &str, message: &str, body: &Value, limit: Duration) -> Answer {
        let is_service = work.starts_with(SERVICES) && !work.contains(REPLICAS);
        let below = if is_service { "services" } else { "works" };
        let path = format!("api/v1/{below}/{work}/messages/{message}?timeout={}", limit.as_secs_f64());
        self.post(&path, Some(body), limit + Duration::from_secs(5))
    }
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    match answer {
        Ok(mut answer) => match answer.body_mut().read_to_string() {
            Ok(body) => Answer::Status(answer.status().as_u16(), body),
            Err(error) => Answer::None(error.to_string()),
        },
        Err(error) => Answer::None(error.to_string()),
    }
}
