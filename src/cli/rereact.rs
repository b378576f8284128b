//! The command `journal rereact`: how the reactions of this program differ from the recorded ones.
//!
//! Exit code 0 if all are equal, 1 if some differ or cannot be read.

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use thiserror::Error;

use super::past_text::{pretty, time};
use crate::app::history::AtRange;
use crate::app::{App, Ask, Comparison, Differing, NoRehearsal, Part, Reenacted, Rereaction};
use crate::flow::Asked;
use crate::printable::{brief, one_line};
use crate::state::Value;
use crate::wire;

/// Longest input that is shown, in characters.
const BRIEF: usize = 80;

/// The reason why the command does not end with exit code 0.
#[derive(Debug, Error)]
pub(super) enum NotCompared {
    #[error(transparent)]
    Rehearsal(#[from] NoRehearsal),
    #[error("the result cannot be written")]
    Output(#[from] io::Error),
    /// The result says what differs.
    #[error("some reactions differ")]
    Differs,
}

/// The numbers of reactions by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    equal: u64,
    different: u64,
    unreadable: u64,
    unrecorded: u64,
}

impl Counts {
    fn add(&mut self, comparison: &Comparison) {
        *match comparison {
            Comparison::Equal => &mut self.equal,
            Comparison::Different(_) => &mut self.different,
            Comparison::Unreadable(_) => &mut self.unreadable,
            Comparison::Unrecorded => &mut self.unrecorded,
        } += 1;
    }

    fn compared(self) -> u64 {
        self.equal + self.different
    }
}

fn key_text(key: [u8; 16]) -> String {
    key[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn input_text(input: Option<&Bytes>) -> Option<String> {
    let value = wire::decode::<Value>(input?).ok()?;
    Some(brief(&value.to_json().to_string(), BRIEF))
}

fn part_text(part: &Part) -> String {
    match part {
        Part::Ask(Ask::Work(work, asked), input) => match asked {
            Asked::Run(key) => match input_text(input.as_ref()) {
                Some(input) => format!("run {work} with {input}"),
                None => format!("run {work} with input {}", key_text(*key)),
            },
            Asked::Forget(key) => format!("forget input {} of {work}", key_text(*key)),
            Asked::Stop => format!("stop {work}"),
            Asked::Start => format!("start {work}"),
        },
        Part::Ask(Ask::Joined(child), _) => format!("child {child} joins"),
        Part::Ask(Ask::Left(child), _) => format!("child {child} leaves"),
        Part::Wake(delay) => format!("wake in {delay:?}"),
        Part::Failed(message) => format!("fail: {}", brief(message, 400)),
    }
}

fn part_texts(parts: &[Part]) -> Vec<String> {
    parts.iter().map(|part| one_line(&part_text(part)).into_owned()).collect()
}

/// Returns the line about a reaction that is not equal to the recorded one.
fn line(reaction: &Rereaction) -> Option<String> {
    let Rereaction { position, wall, flow, comparison } = reaction;
    let text = match comparison {
        Comparison::Equal | Comparison::Unrecorded => return None,
        Comparison::Unreadable(why) => format!("cannot be read: {why}"),
        Comparison::Different(Differing { then_only, now_only }) => {
            let side = |what: &str, parts: &[Part]| {
                (!parts.is_empty()).then(|| format!("{what}: {}", part_texts(parts).join(", ")))
            };
            let sides = [side("asked then, not now", then_only), side("asks now, not then", now_only)];
            sides.into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
    };
    Some(one_line(&format!("{position:>6}  {}  {flow}  {text}", time(*wall))).into_owned())
}

fn item(reaction: &Rereaction) -> Option<Json> {
    let Rereaction { position, wall, flow, comparison } = reaction;
    let mut item = match comparison {
        Comparison::Equal | Comparison::Unrecorded => return None,
        Comparison::Unreadable(why) => json!({ "error": why }),
        Comparison::Different(Differing { then_only, now_only }) => {
            json!({ "then_only": part_texts(then_only), "now_only": part_texts(now_only) })
        }
    };
    item["position"] = (*position).into();
    item["time"] = time(*wall).into();
    item["flow"] = flow.as_str().into();
    Some(item)
}

/// Compares the reactions in a range, and writes those that differ.
pub(super) fn rereact(
    app: App,
    dir: &Path,
    range: AtRange,
    is_json: bool,
    out: &mut dyn Write,
) -> Result<(), NotCompared> {
    let (mut counts, mut items, mut written) = (Counts::default(), Vec::new(), Ok::<(), io::Error>(()));
    let Reenacted { from, to } = app.rereact(dir, range, |reaction| {
        counts.add(&reaction.comparison);
        if is_json {
            items.extend(item(&reaction));
        } else if let Some(line) = line(&reaction)
            && written.is_ok()
        {
            written = writeln!(out, "{line}");
        }
    })?;
    written?;
    let Counts { equal, different, unreadable, unrecorded } = counts;
    let compared = counts.compared();
    if is_json {
        let counts = json!({
            "from": from, "to": to, "items": items, "compared": compared, "equal": equal,
            "different": different, "unreadable": unreadable, "unrecorded": unrecorded,
        });
        pretty(out, &counts)?;
    } else {
        let reactions = if compared == 1 { "reaction" } else { "reactions" };
        writeln!(
            out,
            "positions {from} to {to}: {compared} {reactions} compared, {equal} equal, {different} different; {unreadable} \
             cannot be read, {unrecorded} are not recorded in full"
        )?;
    }
    if different + unreadable > 0 { Err(NotCompared::Differs) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn reaction(then_only: Vec<Part>, now_only: Vec<Part>) -> Rereaction {
        Rereaction {
            position: 17,
            wall: SystemTime::UNIX_EPOCH,
            flow: "team".into(),
            comparison: Comparison::Different(Differing { then_only, now_only }),
        }
    }

    /// A line names the position, the time, the Flow and both sides, and cannot be broken by what a Flow has made.
    #[test]
    fn differing_reaction_is_one_line() {
        let input = wire::encode(&"a\nb").unwrap();
        let run = Part::Ask(Ask::Work("team.train".into(), Asked::Run([7; 16])), Some(input));
        let found =
            reaction(vec![run], vec![Part::Wake(Duration::from_secs(5)), Part::Failed("x\ny".to_owned())]);
        let line = line(&found).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(
            line,
            r#"    17  1970-01-01T00:00:00.000Z  team  asked then, not now: run team.train with "a\nb"; "#
                .to_owned()
                + "asks now, not then: wake in 5s, fail: x y"
        );
    }
}
