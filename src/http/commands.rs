//! Handlers of actions: controlling Works, asking Works, stopping the App.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, ResponseError, web};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa::IntoParams;

use super::answers::accepted;
use super::body;
use super::model::{Accepted, InputBody, Rerun, StopBody};
use super::problem::{OfActions, OfQuestions, Problem};
use super::queries::{Answer, fresh};
use super::query::query;
use super::streamed;
use crate::app::{Action, Control, NoAnswer, NotDone};
use crate::printable::one_line;
use crate::work::{DEFAULT_ASK_TIMEOUT, Input, JsonAnswered, JsonReplied, RunKey, Unanswered};

/// The maximum length of an operator's name, in characters.
const LONGEST_NAME: usize = 100;

async fn perform(control: &Control, path: &str, action: Action) -> Answer {
    match control.perform(path, action).await? {
        Ok(()) => Ok(accepted()),
        Err(NotDone::NoSuchWork) => Err(Problem::no_such_work(path)),
        Err(NotDone::NotRunning) => Err(Problem::conflict("the App has not started, or is stopping")),
        Err(NotDone::SafeMode) => Err(Problem::conflict(
            "the App is in safe mode, in which a Work can be stopped only; resume the App first",
        )),
        Err(NotDone::QueueFull) => {
            Err(Problem::conflict(format!("the run queue of work `{path}` is full; try again later")))
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StopQuery {
    /// The operator's name for display; the client's address by default.
    #[param(example = "alice@machine-0", max_length = 100, nullable = false)]
    by: Option<String>,
}

/// Stops a Work until it is started over the API or its Flow releases it.
///
/// Runs that the Flow requests in the meantime do not start the Work.
#[utoipa::path(post, path = "/api/v1/works/{path}/stop", tag = "actions",
    params(("path" = String, Path, description = "the path of the Work", example = "train"), StopQuery),
    responses((status = 202, description = "the Work will be stopped", body = Accepted), OfActions),
)]
pub(super) async fn stop(
    request: HttpRequest,
    control: web::Data<Control>,
    path: web::Path<String>,
) -> Answer {
    let StopQuery { by } = query(&request)?;
    if by.as_ref().is_some_and(|by| by.chars().count() > LONGEST_NAME) {
        return Err(Problem::bad_request(format!("`by` is longer than {LONGEST_NAME} characters")));
    }
    let by = by.filter(|by| !by.trim().is_empty()).unwrap_or_else(|| match request.peer_addr() {
        Some(peer) => format!("a client at {}", peer.ip()),
        None => "a client".to_owned(),
    });
    perform(&control, &path, Action::Stop(one_line(&by).into())).await
}

/// Starts a Work that was stopped or has failed, without a run.
#[utoipa::path(post, path = "/api/v1/works/{path}/start", tag = "actions",
    params(("path" = String, Path, description = "the path of the Work", example = "train")),
    responses((status = 202, description = "the Work will be started", body = Accepted), OfActions),
)]
pub(super) async fn start(control: web::Data<Control>, path: web::Path<String>) -> Answer {
    perform(&control, &path, Action::Start).await
}

/// Restarts a Work: ends its incarnation and starts the next from its last published state.
///
/// A run in progress starts again.
#[utoipa::path(post, path = "/api/v1/works/{path}/restart", tag = "actions",
    params(("path" = String, Path, description = "the path of the Work", example = "train")),
    responses((status = 202, description = "the Work will be restarted", body = Accepted), OfActions),
)]
pub(super) async fn restart(control: web::Data<Control>, path: web::Path<String>) -> Answer {
    perform(&control, &path, Action::Restart).await
}

/// The body of a rerun, with the input as raw JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RerunBody<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    input: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "whole")]
    run: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetBody<'a> {
    #[serde(borrow)]
    input: &'a RawValue,
}

/// Deserialises a field that is present, even if it is `null`: `null` is an input like any other.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Deserialises an integer as JSON Schema defines it: `7.0` is one.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    if let Some(number) = number.as_u64() {
        return Ok(Some(number));
    }
    // Larger floats are not exact integers.
    const MOST: f64 = 9_007_199_254_740_991.0;
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && (0.0..=MOST).contains(&float) => Ok(Some(float as u64)),
        _ => Err(serde::de::Error::custom(format!("`run` is {number}, but has to be the number of a run"))),
    }
}

async fn input(control: &Control, path: &str, json: &RawValue) -> Result<(RunKey, Input), Problem> {
    let input = control.input(path, json.get().as_bytes()).await?;
    let input = input.ok_or_else(|| Problem::no_such_work(path))?;
    input.map_err(|why| body::unfit(format!("work `{path}` does not accept this input: {why}")))
}

/// Runs an input again, whatever the outcome of earlier runs.
#[utoipa::path(post, path = "/api/v1/works/{path}/rerun", tag = "actions",
    params(("path" = String, Path, description = "the path of the Work", example = "train")),
    request_body(content = Rerun, description = "the input, or the number of an earlier run with it"),
    responses((status = 202, description = "the input will run, unless queued or running", body = Accepted), OfActions),
)]
pub(super) async fn rerun(
    request: HttpRequest,
    control: web::Data<Control>,
    path: web::Path<String>,
    payload: web::Payload,
) -> Answer {
    let body = body::read_json(&request, payload).await?;
    let (key, input) = match body::parse_object::<RerunBody<'_>>(&body)? {
        RerunBody { input: Some(json), run: None } => input(&control, &path, json).await?,
        RerunBody { input: None, run: Some(run) } => {
            let input = control.input_of_run(&path, run).await?;
            let input = input.ok_or_else(|| Problem::no_such_work(&path))?;
            input.map_err(Problem::conflict)?
        }
        _ => return Err(body::unfit("give either `input` or `run`")),
    };
    perform(&control, &path, Action::Rerun(key, input)).await
}

/// Forgets the outcome of an input, so that it runs when the Flow next requests it.
#[utoipa::path(post, path = "/api/v1/works/{path}/forget", tag = "actions",
    params(("path" = String, Path, description = "the path of the Work", example = "train")),
    request_body(content = InputBody, description = "the input"),
    responses((status = 202, description = "the outcome of the input will be forgotten", body = Accepted), OfActions),
)]
pub(super) async fn forget(
    request: HttpRequest,
    control: web::Data<Control>,
    path: web::Path<String>,
    payload: web::Payload,
) -> Answer {
    let body = body::read_json(&request, payload).await?;
    let ForgetBody { input: json } = body::parse_object(&body)?;
    let (key, _) = input(&control, &path, json).await?;
    perform(&control, &path, Action::Forget(key)).await
}

/// Stops the App gracefully: all Works first, in reverse order of their start.
#[utoipa::path(post, path = "/api/v1/app/stop", tag = "actions",
    request_body(content = StopBody, description = "the reason"),
    responses((status = 202, description = "the App will stop", body = Accepted), OfActions),
)]
pub(super) async fn stop_app(
    request: HttpRequest,
    control: web::Data<Control>,
    payload: web::Payload,
) -> Answer {
    let body = body::read_json(&request, payload).await?;
    let StopBody { why } = body::parse_object(&body)?;
    let why: String = why.chars().filter(|c| !c.is_control()).take(256).collect();
    control.stop(format!("asked for over HTTP: {why}"));
    Ok(accepted())
}

/// Sends a node away: its Works continue elsewhere, and its process ends.
///
/// Nothing more is placed there from now on. The Works stop at their next turn, which is no failure, and values that would
/// be lost with the node are moved. The head itself cannot be sent away.
#[utoipa::path(post, path = "/api/v1/nodes/{name}/drain", tag = "actions",
    params(("name" = String, Path, description = "the name of the node", example = "gpu-1")),
    request_body(content = StopBody, description = "the reason"),
    responses((status = 202, description = "the node will leave", body = Accepted), OfActions),
)]
pub(super) async fn drain(
    request: HttpRequest,
    control: web::Data<Control>,
    name: web::Path<String>,
    payload: web::Payload,
) -> Answer {
    let body = body::read_json(&request, payload).await?;
    let StopBody { why } = body::parse_object(&body)?;
    let why: String = why.chars().filter(|c| !c.is_control()).take(256).collect();
    if control.drain(&name, format!("asked for over HTTP: {why}")).await? {
        return Ok(accepted());
    }
    Err(Problem::no_such_node(&name, control.status().await?.nodes.into_keys()))
}

/// Lets an App in safe mode go on.
///
/// An App with a journal starts in safe mode after a crash loop: everything is restored, and nothing goes on. A Work that
/// is stopped in safe mode stays stopped.
#[utoipa::path(post, path = "/api/v1/app/resume", tag = "actions",
    responses((status = 202, description = "the App goes on", body = Accepted), OfActions),
)]
pub(super) async fn resume(control: web::Data<Control>) -> Answer {
    match control.resume().await? {
        true => Ok(accepted()),
        false => Err(Problem::conflict("the App is not in safe mode")),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AskQuery {
    /// The maximum time to wait for the answer, or until a stream is open, in seconds.
    #[param(minimum = 0.001, maximum = 3600, default = 30, nullable = false)]
    timeout: Option<f64>,
}

/// Sends a message to a Work and returns its reply.
///
/// The message is named by its Rust type, without modules where that is unambiguous, and must be listed in the Work's
/// `fn messages`. The body is the message as JSON; an empty body stands for `null`.
///
/// A handler that replies with a stream has its items sent as they are made: one JSON value a line, or server-sent events
/// if the header `Accept` has `text/event-stream`. A stream that breaks off ends with a line `{"$error": …}` that has a
/// problem document, or with the event `error`; a complete one with its last line, or with the event `end`. A client that
/// closes its connection ends the stream.
///
/// At the path of a service, one of its replicas handles the message, and the header `flowright-version` says which version
/// that is.
#[utoipa::path(post, path = "/api/v1/works/{path}/messages/{message}", tag = "ask",
    params(
        ("path" = String, Path, description = "the path of the Work or the service", example = "server"),
        ("message" = String, Path, description = "the name of the message", example = "Predict"),
        AskQuery,
    ),
    request_body(content = Option<serde_json::Value>, description = "the message, as its type is read from JSON"),
    responses(
        (status = 200, description = "the reply of the handler; of a `Result`, the value in `Ok`", headers(
            ("flowright-version" = Option<u64>, description = "the version of the service that has replied, at the path of a service"),
        ), content(
            (serde_json::Value = "application/json"),
            (String = "application/x-ndjson", example = "1\n2\n"),
            (String = "text/event-stream", example = "data: 1\n\nevent: end\ndata: null\n\n"),
        )),
        OfQuestions,
    ),
)]
pub(super) async fn ask(
    request: HttpRequest,
    control: web::Data<Control>,
    target: web::Path<(String, String)>,
    payload: web::Payload,
) -> Answer {
    let (path, message) = target.into_inner();
    reply(&request, &control, payload, &path, &message).await
}

/// Sends a message to a service and returns the reply of one of its replicas, as the same route below `works` does.
///
/// The header `flowright-version` says which version has replied.
#[utoipa::path(post, path = "/api/v1/services/{path}/messages/{message}", tag = "ask",
    params(
        ("path" = String, Path, description = "the path of the service", example = "server"),
        ("message" = String, Path, description = "the name of the message", example = "Predict"),
        AskQuery,
    ),
    request_body(content = Option<serde_json::Value>, description = "the message, as its type is read from JSON"),
    responses(
        (status = 200, description = "the reply of the handler; of a `Result`, the value in `Ok`", headers(
            ("flowright-version" = u64, description = "the version of the service that has replied"),
        ), content(
            (serde_json::Value = "application/json"),
            (String = "application/x-ndjson", example = "1\n2\n"),
            (String = "text/event-stream", example = "data: 1\n\nevent: end\ndata: null\n\n"),
        )),
        OfQuestions,
    ),
)]
pub(super) async fn ask_service(
    request: HttpRequest,
    control: web::Data<Control>,
    target: web::Path<(String, String)>,
    payload: web::Payload,
) -> Answer {
    let (path, message) = target.into_inner();
    if control.service(&path).await?.is_none() {
        return Err(Problem::no_such_service(&path, &control.services().await?));
    }
    reply(&request, &control, payload, &path, &message).await
}

/// Asks the Work or the service at `path`, and returns its reply.
async fn reply(
    request: &HttpRequest,
    control: &Control,
    payload: web::Payload,
    path: &str,
    message: &str,
) -> Answer {
    let AskQuery { timeout } = query(request)?;
    let timeout = match timeout {
        None => DEFAULT_ASK_TIMEOUT,
        Some(seconds) if (0.001..=3600.0).contains(&seconds) => Duration::from_secs_f64(seconds),
        Some(seconds) => {
            let detail = format!("`timeout` is {seconds}, but has to be from 0.001 to 3600 seconds");
            return Err(Problem::bad_request(detail));
        }
    };
    let mut json = match body::read_json(request, payload).await {
        Ok(json) => json,
        // An empty body needs no content type.
        Err(problem) if !has_body(request) && problem.is(StatusCode::UNSUPPORTED_MEDIA_TYPE) => Bytes::new(),
        Err(problem) => return Err(problem),
    };
    if json.is_empty() {
        json = Bytes::from_static(b"null");
    }
    // Parsed once without a type, to tell invalid JSON (400) from JSON of another form (422).
    body::parse::<serde::de::IgnoredAny>(&json)?;
    let JsonReplied { answer, version } = match control.ask_json(path, message, &json, timeout).await? {
        Ok(replied) => replied,
        Err(why) => return Err(not_asked(path, message, why)),
    };
    let mut response = match answer {
        Ok(JsonAnswered::Value(answer)) => fresh().content_type("application/json").body(answer),
        Ok(JsonAnswered::Items(items)) => streamed::respond(request, items),
        Err(why) => without_answer(path, why).error_response(),
    };
    if let Some(version) = version {
        response.headers_mut().insert(VERSION, version.into());
    }
    Ok(response)
}

/// The version of the service that has answered.
const VERSION: HeaderName = HeaderName::from_static("flowright-version");

fn has_body(request: &HttpRequest) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH);
    request.headers().contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

fn not_asked(path: &str, message: &str, why: NoAnswer) -> Problem {
    match why {
        NoAnswer::NoSuchWork => Problem::no_such_work(path),
        NoAnswer::NoSuchMessage(known) => {
            let detail = if known.is_empty() {
                format!(
                    "work `{path}` accepts no messages from outside: list `{message}` in its `fn messages`"
                )
            } else {
                format!("work `{path}` accepts no message `{message}`; `known` lists those that it accepts")
            };
            Problem::not_found(detail).known(known)
        }
        NoAnswer::Ambiguous(known) => {
            Problem::conflict(format!("`{message}` is ambiguous; give the full name of one of `known`"))
                .known(known)
        }
        NoAnswer::BadMessage(why) => body::unfit(format!("it is not a valid `{message}`: {why}")),
    }
}

fn without_answer(path: &str, why: Unanswered) -> Problem {
    match why {
        Unanswered::NotRunning(why) | Unanswered::Unsendable(why) => Problem::conflict(why),
        Unanswered::Timeout(why) => Problem::new(StatusCode::GATEWAY_TIMEOUT, why),
        Unanswered::Failed(why) | Unanswered::NodeLost(why) | Unanswered::Unwritable(why) => {
            Problem::new(StatusCode::BAD_GATEWAY, why)
        }
        Unanswered::Err(error) => Problem::of_handler(path, &error),
    }
}
