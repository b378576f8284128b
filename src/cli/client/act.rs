//! Commands that change something, and waiting for their completion.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};

use super::api::{Api, Asked, Events};
use super::args::{ActArgs, AskArgs, DrainArgs, RerunArgs, RestartArgs, StopArgs};
use super::error::ClientError;
use super::model::{Document, RunView, WorkView};
use super::show::as_json;
use super::table::{colours, span};
use crate::machine::machine_name;
use crate::printable::{lines, one_line};

const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn ask(args: &AskArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.target)?;
    let path = format!("/messages/{}?timeout={}", super::api::escape(&args.message), args.timeout);
    // The App enforces the timeout; the rest is for the transport of its answer.
    let limit = Duration::try_from_secs_f64(args.timeout.min(1e9)).unwrap_or_default() + LIMIT;
    api.ask(&args.work, &path, &args.body, limit, &mut |answer| match answer {
        Asked::Value(value) => print(&as_json(&value)),
        Asked::Item(item) => print(&format!("{item}\n")),
    })
}

pub(super) fn stop(args: &StopArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.act.target)?;
    let events = api.events()?;
    match &args.work {
        Some(work) => {
            let by = super::api::escape(&operator());
            let accepted = api.post_work(work, &format!("/stop?by={by}"), None, LIMIT)?;
            let up = |api: &Api| api.of_work::<WorkView>(work, "").map(|view| (!view.is_up).then_some(()));
            finish(
                &args.act,
                &accepted,
                &api,
                events,
                &format!("stopping {work}"),
                &format!("{work} has stopped"),
                up,
            )
        }
        None => {
            let accepted =
                match api.post("app/stop", Some(&json!({ "why": "asked for on the command line" }))) {
                    // The App may have ended before its answer arrived; the events below tell.
                    Err(ClientError::Broken { .. }) => json!({ "accepted": true }),
                    accepted => accepted?,
                };
            // The App has ended when it closes the event stream or does not answer any more.
            let over = |api: &Api| match api.get_raw("status") {
                Err(ClientError::NoApp { .. } | ClientError::Broken { .. }) => Ok(Some(())),
                _ => Ok(None),
            };
            finish(&args.act, &accepted, &api, events, "stopping the App", "the App has stopped", over)
        }
    }
}

/// Returns the name of the operator as shown to others: user and machine.
fn operator() -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".to_owned());
    format!("{user}@{}", machine_name())
}

pub(super) fn start(args: &RestartArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.act.target)?;
    let events = api.events()?;
    let work = &args.work;
    let accepted = api.post_work(work, "/start", None, LIMIT)?;
    let up = |api: &Api| api.of_work::<WorkView>(work, "").map(|view| view.is_up.then_some(()));
    let (doing, told) = (format!("starting {work}"), format!("{work} has been started"));
    finish(&args.act, &accepted, &api, events, &doing, &told, up)
}

pub(super) fn restart(args: &RestartArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.act.target)?;
    let events = api.events()?;
    let work = &args.work;
    let before: WorkView = api.of_work(work, "")?;
    let accepted = api.post_work(work, "/restart", None, LIMIT)?;
    let mut was_down = !before.is_up;
    let is_done = |api: &Api| {
        let view: WorkView = api.of_work(work, "")?;
        was_down |= !view.is_up || view.since != before.since;
        Ok((was_down && view.is_up).then_some(()))
    };
    finish(
        &args.act,
        &accepted,
        &api,
        events,
        &format!("restarting {work}"),
        &format!("{work} has been restarted"),
        is_done,
    )
}

pub(super) fn resume(args: &ActArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.target)?;
    let events = api.events()?;
    let accepted = api.post("app/resume", None)?;
    let runs = |api: &Api| {
        let document: Document = api.understood(api.get_raw("status")?)?;
        Ok((document.app.stage != "safe_mode").then_some(()))
    };
    finish(args, &accepted, &api, events, "resuming the App", "the App goes on", runs)
}

pub(super) fn drain(args: &DrainArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.act.target)?;
    let events = api.events()?;
    let node = &args.node;
    let path = format!("nodes/{}/drain", super::api::escape(node));
    let accepted = api.post(&path, Some(&json!({ "why": args.why })))?;
    let is_gone = |api: &Api| Ok(api.get_raw("nodes")?.get(node).is_none().then_some(()));
    let (doing, told) = (format!("sending node {node} away"), format!("node {node} has left"));
    finish(&args.act, &accepted, &api, events, &doing, &told, is_gone)
}

pub(super) fn rerun(args: &RerunArgs) -> Result<(), ClientError> {
    let api = Api::new(&args.act.target)?;
    let events = api.events()?;
    let work = &args.work;
    let newest = |api: &Api| -> Result<Option<RunView>, ClientError> {
        let page = api.of_work_raw(work, "/runs?page=1&per_page=50")?;
        // Compared as sent, since the parsed view is sanitised for printing.
        let run = page["items"].as_array().into_iter().flatten().find(|run| run["input"] == args.input);
        run.map(|run| api.understood(run.clone())).transpose()
    };
    let before = newest(&api)?.map(|run| (run.run, run.attempt));
    let accepted = api.post_work(work, "/rerun", Some(&json!({ "input": args.input })), LIMIT)?;
    let mut ended = None;
    let done = |api: &Api| {
        let run = newest(api)?.filter(|run| Some((run.run, run.attempt)) != before && run.ended.is_some());
        Ok(run.map(|run| ended = Some(run)))
    };
    let input = args.input.to_string();
    finish(&args.act, &accepted, &api, events, &format!("running {work} with {input}"), "", done)?;
    match ended {
        None => Ok(()),
        Some(run) if run.stage == "succeeded" => {
            if args.act.target.json {
                Ok(())
            } else {
                print(&format!("run {} of {work} has succeeded\n", run.run.unwrap_or_default()))
            }
        }
        Some(run) => Err(ClientError::RunEnded {
            work: work.clone(),
            run: run.run.unwrap_or_default(),
            stage: if run.stage == "stopped" { "stopped" } else { "failed" },
            message: run.message,
        }),
    }
}

fn print(text: &str) -> Result<(), ClientError> {
    io::stdout().lock().write_all(lines(text).as_bytes())?;
    Ok(())
}

/// Waits until `done` returns a value, with a spinner on a terminal and a line in a pipe. `done` is called once at
/// first and after each event.
fn finish(
    args: &ActArgs,
    accepted: &Json,
    api: &Api,
    mut events: Events,
    doing: &str,
    told: &str,
    mut done: impl FnMut(&Api) -> Result<Option<()>, ClientError>,
) -> Result<(), ClientError> {
    if args.target.json {
        print(&as_json(accepted))?;
    }
    if args.no_wait {
        return if args.target.json { Ok(()) } else { print(&format!("{doing}: accepted\n")) };
    }
    let spinner = spinner(args, doing);
    if spinner.is_none() && !args.target.json {
        print(&format!("{doing}…\n"))?;
    }
    let begun = Instant::now();
    let result = loop {
        match done(api) {
            Ok(None) => {}
            other => break other.map(|_| ()),
        }
        // The stream ends with the App; check once more.
        if events.next()?.is_none() {
            break done(api).map(|_| ());
        }
    };
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    result?;
    if told.is_empty() || args.target.json {
        return Ok(());
    }
    print(&format!("{told} ({})\n", span(begun.elapsed().as_secs_f64())))
}

fn spinner(args: &ActArgs, doing: &str) -> Option<ProgressBar> {
    if !io::stderr().is_terminal() || !io::stdout().is_terminal() || args.target.json {
        return None;
    }
    let look = if colours() { "{spinner:.blue} {msg} {elapsed}" } else { "{spinner} {msg} {elapsed}" };
    let spinner = ProgressBar::new_spinner().with_message(one_line(doing).into_owned());
    let spinner = match ProgressStyle::with_template(look) {
        Ok(style) => spinner.with_style(style),
        Err(_) => spinner,
    };
    spinner.enable_steady_tick(Duration::from_millis(100));
    Some(spinner)
}
