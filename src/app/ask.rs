//! Asking a Work with JSON, wherever it runs.

use std::sync::Arc;
use std::time::Duration;

use super::control::Control;
use super::error::AppError;
use crate::id::{ActorPath, AppId, WorkId};
use crate::work::{AnyMailbox, Directory, Input, JsonAnswer, JsonReplied, RunKey};

/// The reason why an ask was not sent.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    NoSuchWork,
    /// The Work does not accept such a message; carries the names of those it accepts.
    NoSuchMessage(Vec<String>),
    /// Several messages have this short name; carries their full names.
    Ambiguous(Vec<String>),
    /// The JSON does not deserialise as the message; carries the error.
    BadMessage(String),
}

/// Returns the name of a type without modules: `app::Predict<app::Text>` is `Predict<Text>`.
pub(crate) fn short_name(type_name: &str) -> String {
    let mut out = String::new();
    let mut word = 0;
    for c in type_name.chars() {
        if c == ':' {
            out.truncate(word);
            continue;
        }
        out.push(c);
        if !c.is_alphanumeric() && c != '_' {
            word = out.len();
        }
    }
    out
}

/// Returns the names of messages: short where that is unambiguous.
pub(crate) fn message_names(all: &[&'static str]) -> Vec<String> {
    let short: Vec<_> = all.iter().map(|name| short_name(name)).collect();
    let names = all.iter().zip(&short).map(|(name, own)| {
        let twice = short.iter().filter(|other| *other == own).count() > 1;
        if twice { (*name).to_owned() } else { own.clone() }
    });
    names.collect()
}

/// Returns the message called `name`, by its full or its short name.
fn find(all: &[&'static str], name: &str) -> Result<&'static str, NoAnswer> {
    if let Some(exact) = all.iter().find(|known| **known == name) {
        return Ok(exact);
    }
    let meant: Vec<_> = all.iter().filter(|known| short_name(known) == name).collect();
    match meant[..] {
        [one] => Ok(one),
        [] => Err(NoAnswer::NoSuchMessage(message_names(all))),
        _ => Err(NoAnswer::Ambiguous(meant.into_iter().map(|name| (*name).to_owned()).collect())),
    }
}

impl Control {
    /// Sends the JSON as the named message to the Work at `path` and returns its reply as JSON, within `timeout`. A stream
    /// is returned once it is open.
    pub(crate) async fn ask_json(
        &self,
        path: &str,
        message: &str,
        json: &[u8],
        timeout: Duration,
    ) -> Result<Result<JsonReplied, NoAnswer>, AppError> {
        let Some(Addressed { path, mailbox, works }) = self.addressed(path).await? else {
            return Ok(Err(NoAnswer::NoSuchWork));
        };
        let answer = match question(self.runtime().app(), path, mailbox, message, json, timeout) {
            Ok(answer) => answer,
            Err(why) => return Ok(Err(why)),
        };
        let answer = answer.await;
        // The answer may tell of a state that the Work has published before it.
        self.call(move |driver| driver.take_updates(works)).await?;
        Ok(Ok(answer))
    }

    /// Finds the mailbox of the Work, or of the service, at `path`.
    async fn addressed(&self, path: &str) -> Result<Option<Addressed>, AppError> {
        if let Some(record) = self.record(path).await? {
            let record = record.lock();
            let (path, mailbox) = (record.path.clone(), record.mailbox.clone());
            return Ok(Some(Addressed { path, mailbox, works: vec![record.id] }));
        }
        let path = ActorPath::from(path);
        let Some(mailbox) = self.service_mailbox(&path) else { return Ok(None) };
        let below = path.clone();
        let works = self.call(move |driver| driver.works_of_service(&below)).await?;
        Ok(Some(Addressed { path, mailbox, works }))
    }

    /// Returns the mailbox of the service at `path`.
    pub(super) fn service_mailbox(&self, path: &ActorPath) -> Option<Arc<dyn AnyMailbox>> {
        Directory::of(self.runtime()).find(path)
    }

    /// Parses an input of the Work at `path` from JSON; the inner error says why it is invalid. `None` when there is no
    /// such Work.
    pub(crate) async fn input(
        &self,
        path: &str,
        json: &[u8],
    ) -> Result<Option<Result<(RunKey, Input), String>>, AppError> {
        let Some(record) = self.record(path).await? else { return Ok(None) };
        let kind = record.lock().kind;
        Ok(Some(kind.input(json)))
    }

    /// Returns the input of a past run; the inner error says why it is not available. `None` when there is no such
    /// Work.
    pub(crate) async fn input_of_run(
        &self,
        path: &str,
        run: u64,
    ) -> Result<Option<Result<(RunKey, Input), String>>, AppError> {
        let Some(record) = self.record(path).await? else { return Ok(None) };
        let (kind, input) = {
            let record = record.lock();
            (record.kind, record.ledger.input_of(run))
        };
        Ok(Some(match input {
            None => Err(format!("there is no run {run} of work `{path}`, or its history is no longer kept")),
            Some(None) => Err(format!("the input of run {run} was too large to be kept; give it as `input`")),
            Some(Some(bytes)) => kind.same_input(&bytes).map_err(|error| error.to_string()),
        }))
    }
}

/// The destination of an ask.
struct Addressed {
    path: ActorPath,
    mailbox: Arc<dyn AnyMailbox>,
    /// The Works that may answer.
    works: Vec<WorkId>,
}

fn question(
    app: AppId,
    path: ActorPath,
    mailbox: Arc<dyn AnyMailbox>,
    message: &str,
    json: &[u8],
    timeout: Duration,
) -> Result<JsonAnswer, NoAnswer> {
    let kind = mailbox.kind();
    let name = find(&kind.messages(), message)?;
    let asked = mailbox.ask(app, path, name, json, timeout);
    let asked = asked.ok_or_else(|| NoAnswer::NoSuchMessage(message_names(&kind.messages())))?;
    asked.map_err(|error| NoAnswer::BadMessage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_left_out_of_names() {
        assert_eq!(short_name("app::deep::Predict"), "Predict");
        assert_eq!(short_name("app::Batch<alloc::vec::Vec<f32>, app::Text>"), "Batch<Vec<f32>, Text>");
        assert_eq!(short_name("(app::A, u8)"), "(A, u8)");
    }

    #[test]
    fn a_name_that_two_messages_have_is_ambiguous_and_their_whole_names_are_not() {
        let all = ["app::v1::Predict", "app::v2::Predict", "app::Load"];
        assert_eq!(message_names(&all), ["app::v1::Predict", "app::v2::Predict", "Load"]);
        assert_eq!(find(&all, "Load").unwrap(), "app::Load");
        assert_eq!(find(&all, "app::v2::Predict").unwrap(), "app::v2::Predict");
        assert!(matches!(find(&all, "Predict"), Err(NoAnswer::Ambiguous(which)) if which == all[..2]));
        assert!(matches!(find(&all, "Save"), Err(NoAnswer::NoSuchMessage(known)) if known.len() == 3));
    }
}
