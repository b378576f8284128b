//! Requests to an App.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder};

use super::args::Target;
use super::error::ClientError;
use super::model::{AppView, Graph, Problem};
use crate::printable::{lines, one_line};

/// The time limit of a request, except for events and asks.
const LIMIT: Duration = Duration::from_secs(30);
/// The maximum size of an answer in bytes; a state may have 1 MiB for each Work.
const MOST: u64 = 1 << 30;

/// A part of the answer to an ask.
pub(super) enum Asked {
    Value(Json),
    /// An item of a stream.
    Item(Json),
}

/// A client of one App.
pub(super) struct Api {
    agent: Agent,
    address: String,
    authorization: Option<String>,
}

impl Api {
    pub(super) fn new(target: &Target) -> Result<Self, ClientError> {
        let given = || ClientError::Url(target.url.clone());
        let address = target.url.strip_prefix("http://").unwrap_or(&target.url).trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(given)?;
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(given());
        }
        let authorization = match &target.token_file {
            None => None,
            Some(path) => {
                let failed = |source| ClientError::TokenFile { path: path.display().to_string(), source };
                let token = fs::read_to_string(path).map_err(failed)?;
                Some(format!("Bearer {}", token.trim()))
            }
        };
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0).build();
        let api = Self { agent: config.new_agent(), address: address.to_owned(), authorization };
        if !target.any_app {
            api.expect(super::program())?;
        }
        Ok(api)
    }

    /// Refuses the App of another program, so that a command does not control a neighbour's App that happens to use the
    /// default port.
    fn expect(&self, program: &str) -> Result<(), ClientError> {
        let app: AppView = self.get("app")?;
        if app.program == program {
            return Ok(());
        }
        let (there, here) = (app.program, program.to_owned());
        Err(ClientError::AnotherProgram { address: self.address.clone(), there, here })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1/{path}", self.address)
    }

    /// Parses a part of an answer, with its texts sanitised for printing.
    pub(super) fn understood<T: DeserializeOwned>(&self, value: Json) -> Result<T, ClientError> {
        serde_json::from_value(cleaned(value))
            .map_err(|error| ClientError::Strange { address: self.address.clone(), why: error.to_string() })
    }

    /// Requests `path` and returns the JSON as sent; `None` for 404.
    pub(super) fn find_raw(&self, path: &str) -> Result<Option<Json>, ClientError> {
        let answer = self.request(path)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        self.json(answer).map(Some)
    }

    /// Requests something of the past of the App, whose answer says why there is nothing.
    pub(super) fn past(&self, path: &str) -> Result<Json, ClientError> {
        let answer = self.request(path)?;
        self.json(answer)
    }

    fn request(&self, path: &str) -> Result<Response<Body>, ClientError> {
        let mut request = self.agent.get(self.url(path));
        if let Some(value) = &self.authorization {
            request = request.header("Authorization", value);
        }
        let answer = request.config().timeout_global(Some(LIMIT)).build().call();
        answer.map_err(|error| self.no_answer(&error))
    }

    /// Requests `path`, which every App serves, with texts sanitised for printing.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.understood(self.get_raw(path)?)
    }

    /// Like [`get`](Self::get), but returns the JSON as sent.
    pub(super) fn get_raw(&self, path: &str) -> Result<Json, ClientError> {
        let strange = || ClientError::Strange {
            address: self.address.clone(),
            why: format!("there is no /api/v1/{}", path.split('?').next().unwrap_or_default()),
        };
        self.find_raw(path)?.ok_or_else(strange)
    }

    /// Requests a resource of a Work. The error for an unknown Work suggests similar names.
    pub(super) fn of_work<T: DeserializeOwned>(&self, work: &str, rest: &str) -> Result<T, ClientError> {
        self.understood(self.of_work_raw(work, rest)?)
    }

    /// Like [`of_work`](Self::of_work), but returns the JSON as sent.
    pub(super) fn of_work_raw(&self, work: &str, rest: &str) -> Result<Json, ClientError> {
        match self.find_raw(&format!("works/{}{rest}", escape(work)))? {
            Some(found) => Ok(found),
            None => Err(self.unknown(work)),
        }
    }

    /// Posts to a resource of a Work and returns the answer.
    pub(super) fn post_work(
        &self,
        work: &str,
        rest: &str,
        body: Option<&Json>,
        limit: Duration,
    ) -> Result<Json, ClientError> {
        let path = format!("works/{}{rest}", escape(work));
        let answer = self.send(&path, body, limit)?;
        self.json(self.of_known_work(work, answer)?)
    }

    /// Asks a Work, and shows its answer: a value, or the items of a stream as they arrive, for which there is no limit of
    /// time.
    pub(super) fn ask(
        &self,
        work: &str,
        rest: &str,
        body: &Json,
        limit: Duration,
        show: &mut dyn FnMut(Asked) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let path = format!("works/{}{rest}", escape(work));
        let request = self.authorized(self.agent.post(self.url(&path)));
        let request = request.config().timeout_recv_response(Some(limit)).build();
        let sent = request.header("Content-Type", "application/json").send(body.to_string());
        let answer = sent.map_err(|error| self.no_answer(&error))?;
        let answer = self.of_known_work(work, answer)?;
        let kind = answer.headers().get("Content-Type").and_then(|kind| kind.to_str().ok());
        if !answer.status().is_success() || kind != Some("application/x-ndjson") {
            return show(Asked::Value(self.json(answer)?));
        }
        let mut lines = BufReader::new(answer.into_body().into_reader());
        loop {
            let mut line = String::new();
            let read = (&mut lines).take(MOST).read_line(&mut line);
            let read = read.map_err(|error| self.broken(error.to_string()))?;
            if read == 0 {
                return Ok(());
            }
            let item =
                serde_json::from_str::<Json>(&line).map_err(|error| self.strange(error.to_string()))?;
            match item.get("$error").map(|problem| serde_json::from_value::<Problem>(problem.clone())) {
                Some(Ok(problem)) => return Err(ClientError::Refused(problem.to_string())),
                Some(Err(_)) | None => show(Asked::Item(item))?,
            }
        }
    }

    /// Returns the answer about a Work, unless it says that there is no such Work.
    fn of_known_work(&self, work: &str, answer: Response<Body>) -> Result<Response<Body>, ClientError> {
        if answer.status() == 404 {
            // The Work may be unknown, or the resource; the error differs.
            let known = self.find_raw(&format!("works/{}", escape(work)))?;
            if known.is_none() {
                return Err(self.unknown(work));
            }
        }
        Ok(answer)
    }

    fn broken(&self, why: String) -> ClientError {
        ClientError::Broken { address: self.address.clone(), why }
    }

    pub(super) fn strange(&self, why: impl Into<String>) -> ClientError {
        ClientError::Strange { address: self.address.clone(), why: why.into() }
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.authorization {
            Some(value) => request.header("Authorization", value),
            None => request,
        }
    }

    pub(super) fn post(&self, path: &str, body: Option<&Json>) -> Result<Json, ClientError> {
        let answer = self.send(path, body, LIMIT)?;
        self.json(answer)
    }

    fn send(&self, path: &str, body: Option<&Json>, limit: Duration) -> Result<Response<Body>, ClientError> {
        let request = self.authorized(self.agent.post(self.url(path)));
        let request = request.config().timeout_global(Some(limit)).build();
        let sent = match body {
            Some(body) => request.header("Content-Type", "application/json").send(body.to_string()),
            None => request.send_empty(),
        };
        sent.map_err(|error| self.no_answer(&error))
    }

    /// Subscribes to the events of the App.
    pub(super) fn events(&self) -> Result<Events, ClientError> {
        let mut request = self.agent.get(self.url("events")).header("Accept", "text/event-stream");
        if let Some(value) = &self.authorization {
            request = request.header("Authorization", value);
        }
        let answer = request.call().map_err(|error| self.no_answer(&error))?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer));
        }
        let reader = BufReader::new(answer.into_body().into_reader());
        Ok(Events { reader: Box::new(reader), address: self.address.clone() })
    }

    fn json(&self, answer: Response<Body>) -> Result<Json, ClientError> {
        if !answer.status().is_success() {
            return Err(self.refusal(answer));
        }
        let text = self.text(answer)?;
        let text = if text.is_empty() { "null" } else { &text };
        serde_json::from_str(text)
            .map_err(|error| ClientError::Strange { address: self.address.clone(), why: error.to_string() })
    }

    fn text(&self, answer: Response<Body>) -> Result<String, ClientError> {
        let broken = |why: String| ClientError::Broken { address: self.address.clone(), why };
        let mut bytes = Vec::new();
        let read = answer.into_body().into_reader().take(MOST).read_to_end(&mut bytes);
        read.map_err(|error| broken(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| broken(error.to_string()))
    }

    fn refusal(&self, answer: Response<Body>) -> ClientError {
        let status = answer.status();
        let address = self.address.clone();
        if status == 401 {
            return match self.authorization {
                None => ClientError::NoToken { address },
                Some(_) => ClientError::WrongToken { address },
            };
        }
        match self.text(answer).map(|text| serde_json::from_str::<Problem>(&text)) {
            Ok(Ok(problem)) => ClientError::Refused(problem.to_string()),
            Ok(Err(_)) => ClientError::Strange { address, why: format!("it responds with status {status}") },
            Err(error) => error,
        }
    }

    fn no_answer(&self, error: &ureq::Error) -> ClientError {
        let address = self.address.clone();
        match error {
            ureq::Error::Io(source) if source.kind() != std::io::ErrorKind::ConnectionRefused => {
                ClientError::Broken { address, why: source.to_string() }
            }
            ureq::Error::Timeout(_) => ClientError::Broken { address, why: "no answer in time".to_owned() },
            ureq::Error::Io(_) => ClientError::NoApp { address, why: "nothing listens there".to_owned() },
            ureq::Error::ConnectionFailed => {
                ClientError::NoApp { address, why: "nothing listens there".to_owned() }
            }
            ureq::Error::HostNotFound => {
                ClientError::NoApp { address, why: "the host name is unknown".to_owned() }
            }
            other => ClientError::Strange { address, why: other.to_string() },
        }
    }

    pub(super) fn unknown(&self, work: &str) -> ClientError {
        let paths = self.get::<Graph>("graph").map(|graph| graph.items).unwrap_or_default();
        let works = paths.into_iter().filter(|item| item.kind == "work").map(|item| item.path);
        ClientError::UnknownWork { path: work.to_owned(), near: near(work, works.collect()) }
    }
}

/// Sanitises all texts for printing. Names are put on one line; texts may keep several.
pub(super) fn cleaned(value: Json) -> Json {
    match value {
        Json::String(text) => Json::String(lines(&text).into_owned()),
        Json::Array(items) => items.into_iter().map(cleaned).collect(),
        Json::Object(fields) => {
            fields.into_iter().map(|(name, value)| (one_line(&name).into_owned(), cleaned(value))).collect()
        }
        other => other,
    }
}

/// Returns up to three of `names` that are similar to `name`, the most similar first.
fn near(name: &str, names: Vec<String>) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |candidate: &str| {
        let whole = strsim::jaro_winkler(name, candidate);
        whole.max(strsim::jaro_winkler(&last(name), &last(candidate)) * 0.98)
    };
    let mut scored: Vec<_> = names.into_iter().map(|candidate| (score(&candidate), candidate)).collect();
    scored.retain(|(score, _)| *score > 0.8);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// Percent-encodes a path as one segment of a URL.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// The event stream of an App.
pub(super) struct Events {
    reader: Box<dyn BufRead + Send>,
    address: String,
}

/// An event of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

impl Events {
    /// Returns the next event; `None` when the App has ended.
    pub(super) fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let (mut name, mut data) = (String::new(), String::new());
        let mut line = String::new();
        loop {
            line.clear();
            match self.reader.read_line(&mut line) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // An App that ends may reset its connections.
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => {
                    return Err(ClientError::Broken {
                        address: self.address.clone(),
                        why: error.to_string(),
                    });
                }
            }
            let field = line.trim_end_matches(['\n', '\r']);
            if field.is_empty() {
                if !data.is_empty() {
                    return Ok(Some(Event { name, data }));
                }
                name.clear();
            } else if let Some(value) = field.strip_prefix("data:") {
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value.strip_prefix(' ').unwrap_or(value));
            } else if let Some(value) = field.strip_prefix("event:") {
                name = value.trim_start().to_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_near_are_found() {
        let names = || ["train", "team.trainer", "model_deployment", "workers.3"].map(str::to_owned).to_vec();
        assert_eq!(near("trian", names()), ["train", "team.trainer"]);
        assert_eq!(near("model_deploymnet", names()), ["model_deployment"]);
        assert!(near("zzz", names()).is_empty());
    }

    #[test]
    fn events_are_read_as_they_come() {
        let text =
            ": hello\r\nid: 1\nevent: patch\ndata: {\ndata: }\n\nevent: ignored\n\ndata: x\n\nevent: half";
        let mut events = Events { reader: Box::new(text.as_bytes()), address: String::new() };
        let event = |name: &str, data: &str| Some(Event { name: name.to_owned(), data: data.to_owned() });
        assert_eq!(events.next().unwrap(), event("patch", "{\n}"));
        assert_eq!(events.next().unwrap(), event("", "x"));
        assert_eq!(events.next().unwrap(), None);
    }

    #[test]
    fn a_path_is_one_segment() {
        assert_eq!(escape("workers.3"), "workers.3");
        assert_eq!(escape("a/b ä"), "a%2Fb%20%C3%A4");
    }
}
