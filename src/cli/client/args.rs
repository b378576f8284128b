//! The arguments of the commands.

use std::path::PathBuf;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::builder::UnknownArgumentValueParser;
use clap::{Args, Subcommand};

use crate::duration::parse_duration;

/// A command for a running App.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Client {
    /// Show the status of a running App and its Works
    Status(WatchArgs),
    /// Show the state of a running App, or a part of it
    State(StateArgs),
    /// Show what happened in a running App with a journal, the oldest first
    History(HistoryArgs),
    /// Show how a running App with a journal differs between two moments
    Diff(DiffArgs),
    /// Show what led to a run, in a running App with a journal: its request, what the Flow saw then, and what led to that
    Why(WhyArgs),
    /// Show the tree of Flows and Works, and where each runs
    Graph(Target),
    /// Show the processes of an App with their load
    Nodes(Target),
    /// Show the runs of a Work, the newest first
    Runs(RunsArgs),
    /// Show the payloads of an App: size, location and holders
    Payloads(Target),
    /// Show the topics of an App: messages and subscribers
    Topics(Target),
    /// Show the log of the App or of a Work
    Logs(LogsArgs),
    /// Send a message to a Work and show its answer
    Ask(AskArgs),
    /// Stop a Work until `start`, whatever its Flow requests, or the whole App
    Stop(StopArgs),
    /// Start a Work that was stopped or has failed; its Flow controls it again
    Start(RestartArgs),
    /// Restart a Work: stop it and start it again from its last published state
    Restart(RestartArgs),
    /// Let an App go on that is in safe mode after a crash loop
    Resume(ActArgs),
    /// Send a node away: its Works continue elsewhere, and its process ends
    Drain(DrainArgs),
    /// Run a Work with an input, even if that input has been run before
    Rerun(RerunArgs),
    #[cfg(feature = "remote")]
    /// Show and steer the groups of nodes that engines start
    #[command(subcommand)]
    Fleet(FleetCommand),
    #[cfg(feature = "top")]
    /// Show an App in the terminal, live; q quits
    Top(Target),
}

/// The App to query, and the format of the output.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Target {
    /// The address at which the App is served
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7501")]
    pub(super) url: String,

    /// A file with the token of an App that requires one [default: none]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,

    /// Write JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Continue even if the App at this address belongs to another program
    #[arg(long)]
    pub(super) any_app: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WatchArgs {
    #[command(flatten)]
    pub(super) target: Target,

    /// Update the output after every change, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StateArgs {
    /// The path of a Flow, a Work or a field, such as team.train [default: everything]
    pub(super) path: Option<String>,

    /// Update the output after every change, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,

    /// A moment of the past of an App with a journal: a position, or a time such as 2026-11-24T19:00:00Z [default: now]
    #[arg(long, value_name = "POSITION|TIME", conflicts_with = "watch")]
    pub(super) at: Option<String>,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HistoryArgs {
    /// The path of a Work or Flow: what happened to it and below it [default: everything]
    pub(super) path: Option<String>,

    /// The position to begin at [default: the newest events are shown]
    #[arg(long, value_name = "POSITION")]
    pub(super) from: Option<u64>,

    /// The last position to show [default: the last one]
    #[arg(long, value_name = "POSITION")]
    pub(super) to: Option<u64>,

    /// The number of events to show
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) limit: u32,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// The earlier moment: a position, or a time such as 2026-11-24T19:00:00Z
    #[arg(value_name = "A")]
    pub(super) a: String,

    /// The later moment: a position, or a time [default: now]
    #[arg(value_name = "B")]
    pub(super) b: Option<String>,

    /// The path of a Flow, a Work or a field: what differs there and below it [default: everything]
    #[arg(long)]
    pub(super) path: Option<String>,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WhyArgs {
    /// The path of the Work
    pub(super) work: String,

    /// The number of the run, as `runs` and `history` show it
    pub(super) run: u64,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RunsArgs {
    /// The path of the Work
    pub(super) work: String,

    /// The number of runs to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) limit: u32,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// The path of a Work [default: the whole App]
    pub(super) work: Option<String>,

    /// Continue with new lines, until Ctrl-C
    #[arg(short, long)]
    pub(super) follow: bool,

    /// The lowest severity to show: error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub(super) level: String,

    /// Show only lines since: a span such as 90s, 10m, 2h or 1d, or a time such as 2026-11-24T19:00:00Z
    /// [default: all that are kept]
    #[arg(long, value_name = "SPAN|TIME", value_parser = since)]
    pub(super) since: Option<String>,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AskArgs {
    /// The path of the Work
    pub(super) work: String,

    /// The Rust type of the message, such as Predict
    pub(super) message: String,

    /// The message as JSON
    #[arg(value_name = "JSON", allow_negative_numbers = true, default_value = "null", value_parser = json)]
    pub(super) body: serde_json::Value,

    /// The time to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    pub(super) timeout: f64,

    /// The former name of `--timeout`, which is refused with a tip
    #[arg(long = "deadline", hide = true, value_parser = UnknownArgumentValueParser::suggest_arg("--timeout"))]
    _deadline: Option<String>,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// The path of a Work [default: the whole App]
    pub(super) work: Option<String>,

    #[command(flatten)]
    pub(super) act: ActArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestartArgs {
    /// The path of the Work
    pub(super) work: String,

    #[command(flatten)]
    pub(super) act: ActArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    /// The name of the node
    pub(super) node: String,

    /// The reason, as the log and the node show it
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    pub(super) why: String,

    #[command(flatten)]
    pub(super) act: ActArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RerunArgs {
    /// The path of the Work
    pub(super) work: String,

    /// The input as JSON
    #[arg(value_name = "JSON", allow_negative_numbers = true, value_parser = json)]
    pub(super) input: serde_json::Value,

    #[command(flatten)]
    pub(super) act: ActArgs,
}

/// A command for the fleet of a running App.
#[cfg(feature = "remote")]
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FleetCommand {
    /// Show the groups with their allocations
    Status(Target),
    /// Show what a group would request, and what its engine says to that, without starting anything
    Check(GroupArgs),
    /// Show the last lines of the output of an allocation
    Logs(OutputArgs),
    /// Request no more nodes for a group
    Pause(GroupArgs),
    /// Go on with a group that somebody, a refusal of its engine or failures have paused
    Resume(GroupArgs),
    /// End an allocation: the Works on its node continue elsewhere
    End(AllocationArgs),
}

#[cfg(feature = "remote")]
#[derive(Debug, Args)]
pub(in crate::cli) struct OutputArgs {
    /// The name of the allocation, as `fleet status` shows it
    pub(super) allocation: String,

    /// The number of lines to show
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) lines: u32,

    #[command(flatten)]
    pub(super) target: Target,
}

#[cfg(feature = "remote")]
#[derive(Debug, Args)]
pub(in crate::cli) struct GroupArgs {
    /// The name of the group
    pub(super) group: String,

    #[command(flatten)]
    pub(super) target: Target,
}

#[cfg(feature = "remote")]
#[derive(Debug, Args)]
pub(in crate::cli) struct AllocationArgs {
    /// The name of the allocation, as `fleet status` shows it
    pub(super) allocation: String,

    #[command(flatten)]
    pub(super) target: Target,
}

/// The arguments of all commands that change something.
#[derive(Debug, Args)]
pub(in crate::cli) struct ActArgs {
    /// Do not wait for completion
    #[arg(long)]
    pub(super) no_wait: bool,

    #[command(flatten)]
    pub(super) target: Target,
}

fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("this is not JSON ({error}); write a string with its quotes, as '\"text\"'"))
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| "write it in seconds, such as 2.5".to_owned())
}

/// Converts a span before now, or a time, to a time of the API (RFC 3339).
fn since(text: &str) -> Result<String, String> {
    since_at(text, Utc::now())
}

fn since_at(text: &str, now: DateTime<Utc>) -> Result<String, String> {
    if DateTime::parse_from_rfc3339(text).is_ok() {
        return Ok(text.to_owned());
    }
    let wrong = || "write it as 90s, 10m, 2h or 1d, or as a time such as 2026-11-24T19:00:00Z".to_owned();
    let ago = parse_duration(text).map_err(|_| wrong())?;
    let ago = chrono::TimeDelta::from_std(ago).map_err(|_| wrong())?;
    let time = now.checked_sub_signed(ago).ok_or_else(wrong)?;
    Ok(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_without_quotes_is_told_how_it_is_written() {
        assert_eq!(json("[1, 2]").unwrap(), serde_json::json!([1, 2]));
        assert!(json("text").unwrap_err().contains("'\"text\"'"));
        for bad in ["0", "-1", "inf", "NaN", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    /// The error for a former flag names the flag that replaces it.
    #[test]
    fn former_deadline_of_ask_is_refused_with_a_tip() {
        #[derive(Debug, clap::Parser)]
        struct Asking {
            #[command(flatten)]
            _ask: AskArgs,
        }
        for flag in [&["--deadline=5"][..], &["--deadline", "5"]] {
            let asked = [&["app", "server", "Predict", "1"], flag].concat();
            let error = <Asking as clap::Parser>::try_parse_from(asked).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument);
            assert!(error.to_string().contains("'--timeout'"), "{error}");
        }
    }

    #[test]
    fn a_span_is_counted_back_from_now() {
        let now = "2026-11-24T19:00:00Z".parse().unwrap();
        assert_eq!(since_at("90s", now).unwrap(), "2026-11-24T18:58:30.000Z");
        assert_eq!(since_at("1d", now).unwrap(), "2026-11-23T19:00:00.000Z");
        assert_eq!(since_at("2026-11-24T19:00:00+01:00", now).unwrap(), "2026-11-24T19:00:00+01:00");
        for bad in ["", "m", "10", "-5m", "ten minutes", "5ä", "4294967295d"] {
            assert!(since_at(bad, now).is_err(), "{bad}");
        }
    }
}
