//! `fleet`: the groups of nodes that engines start.

use std::io::{self, Write};

use serde::Deserialize;

use super::api::{Api, escape};
use super::args::{FleetCommand, Target};
use super::error::ClientError;
use super::model::{Items, Resources};
use super::table::{Table, colours, span, stage};
use super::watch;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupView {
    name: String,
    least: usize,
    most: usize,
    brings: Resources,
    paused: Option<String>,
    problem: Option<String>,
    idle_seconds: f64,
    allocations: Vec<AllocationView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AllocationView {
    name: String,
    id: Option<String>,
    stage: String,
    seconds: f64,
    reason: Option<String>,
    at: Option<String>,
    ends_in: Option<f64>,
    works: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CheckView {
    script: String,
    verdict: String,
    words: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputView {
    text: String,
}

pub(super) fn run(command: &FleetCommand) -> Result<(), ClientError> {
    match command {
        FleetCommand::Status(target) => watch::once(target, |api, json| {
            super::show::either(json, api.get_raw("fleet")?, |groups: Items<GroupView>, out| {
                status(&groups.items, out)
            })
        }),
        FleetCommand::Check(args) => watch::once(&args.target, |api, json| {
            let path = format!("fleet/groups/{}/check", escape(&args.group));
            super::show::either(json, api.get_raw(&path)?, |checked: CheckView, out| {
                let words = checked.words.map(|words| format!(": {words}")).unwrap_or_default();
                writeln!(out, "{}\n\n{}{words}", checked.script.trim_end(), checked.verdict)
            })
        }),
        FleetCommand::Logs(args) => watch::once(&args.target, |api, json| {
            let path = format!("fleet/allocations/{}/log?lines={}", escape(&args.allocation), args.lines);
            super::show::either(json, api.get_raw(&path)?, |output: OutputView, out| {
                match output.text.is_empty() {
                    true => writeln!(out, "no output yet"),
                    false => writeln!(out, "{}", crate::printable::lines(&output.text)),
                }
            })
        }),
        FleetCommand::Pause(args) => {
            act(&args.target, "groups", &args.group, "pause", "no more nodes are requested for")
        }
        FleetCommand::Resume(args) => act(&args.target, "groups", &args.group, "resume", "resumed"),
        FleetCommand::End(args) => act(&args.target, "allocations", &args.allocation, "end", "ending"),
    }
}

/// Sends a command, and says that it was accepted.
fn act(target: &Target, kind: &str, name: &str, action: &str, told: &str) -> Result<(), ClientError> {
    let api = Api::new(target)?;
    let accepted = api.post(&format!("fleet/{kind}/{}/{action}", escape(name)), None)?;
    let text = match target.json {
        true => super::show::as_json(&accepted),
        false => format!("{told} {}\n", crate::printable::one_line(name)),
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn status(groups: &[GroupView], out: &mut dyn Write) -> io::Result<()> {
    if groups.is_empty() {
        return writeln!(out, "no fleet: the configuration of this App has no [fleet.NAME]");
    }
    let mut table = Table::new(&[
        "GROUP", "NODES", "CPUS", "GPUS", "STATE", "FOR", "WORKS", "ID", "AT", "ENDS IN", "WHY",
    ]);
    for group in groups {
        let state = match (&group.paused, &group.problem) {
            (Some(_), _) => "paused",
            (None, Some(_)) => "failing",
            (None, None) => "",
        };
        let idle = match group.idle_seconds {
            seconds if seconds >= 1.0 => format!("{} without Works in all", span(seconds)),
            _ => String::new(),
        };
        let why = group.paused.clone().or_else(|| group.problem.clone()).unwrap_or(idle);
        table.row(vec![
            group.name.as_str().into(),
            format!("{} of {}..{}", group.allocations.len(), group.least, group.most).into(),
            group.brings.cpus.to_string().into(),
            group.brings.gpus.to_string().into(),
            stage(state),
            "".into(),
            group.allocations.iter().map(|allocation| allocation.works).sum::<usize>().to_string().into(),
            "".into(),
            "".into(),
            "".into(),
            super::table::cut(&why, 120).into(),
        ]);
        for allocation in &group.allocations {
            table.row(vec![
                format!("  {}", allocation.name).into(),
                "".into(),
                "".into(),
                "".into(),
                stage(&allocation.stage),
                span(allocation.seconds).into(),
                allocation.works.to_string().into(),
                allocation.id.clone().unwrap_or_default().into(),
                allocation.at.clone().unwrap_or_default().into(),
                allocation.ends_in.map(span).unwrap_or_default().into(),
                allocation.reason.clone().unwrap_or_default().into(),
            ]);
        }
    }
    table.write(out, colours())
}
