//! The settings of a group, as a configuration file has them below `[fleet.NAME]`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::limits::Limits;
use super::slurm::SlurmSettings;
use crate::duration::{parse_duration, parse_positive_duration};
use crate::work::{GROUP_LABEL, Resources, check_labels};

/// Longest name of a group, which is part of the names of jobs, Pods and nodes.
const LONGEST_NAME: usize = 20;

/// The settings of one group.
///
/// ```toml
/// [fleet.west]
/// engine = "process"
/// brings = { cpus = 4, gpus = 1, memory_mib = 8000 }
/// labels = { zone = "west" }
/// nodes = "0..20"
/// backlog = 2
/// time = "4h"
/// drain = "5m"
/// idle = "5m"
/// join_within = "3m"
/// without_head = "5m"
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupSettings {
    pub(crate) engine: EngineSettings,
    brings: Brings,
    labels: BTreeMap<String, String>,
    nodes: Range,
    backlog: usize,
    time: Option<Duration>,
    drain: Duration,
    idle: Duration,
    join_within: Duration,
    /// The time after which a node without a head ends.
    pub(crate) without_head: Duration,
}

/// The engine of a group, with its own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineSettings {
    /// Processes on this machine.
    Process,
    /// Jobs of Slurm.
    Slurm(SlurmSettings),
}

impl EngineSettings {
    /// The names of the engines.
    const NAMES: [&str; 2] = ["process", "slurm"];

    /// Returns the name of the engine.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Slurm(_) => "slurm",
        }
    }

    fn read(name: &str, rest: BTreeMap<String, serde_json::Value>) -> Result<Self, String> {
        match name {
            "process" => match rest.into_keys().next() {
                None => Ok(Self::Process),
                Some(key) => Err(format!("unknown field `{key}`")),
            },
            "slurm" => {
                let rest = serde_json::Value::Object(rest.into_iter().collect());
                let settings = SlurmSettings::deserialize(rest).map_err(|error| error.to_string())?;
                settings.check()?;
                Ok(Self::Slurm(settings))
            }
            other => Err(format!("there is no engine `{other}`; there are {}", Self::NAMES.join(", "))),
        }
    }
}

/// Resources that a node of the group brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Brings {
    cpus: u32,
    gpus: u32,
    memory_mib: u64,
}

impl Default for Brings {
    fn default() -> Self {
        Self { cpus: 1, gpus: 0, memory_mib: 0 }
    }
}

/// A number of nodes: `0..20`, or `20` for at most so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    least: usize,
    most: usize,
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Range;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of nodes, as \"0..20\" or 20")
            }

            fn visit_u64<E: serde::de::Error>(self, most: u64) -> Result<Range, E> {
                let most = usize::try_from(most).map_err(E::custom)?;
                Ok(Range { least: 0, most })
            }

            fn visit_i64<E: serde::de::Error>(self, most: i64) -> Result<Range, E> {
                self.visit_u64(u64::try_from(most).map_err(E::custom)?)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Range, E> {
                let wrong = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
                let range = match text.split_once("..") {
                    Some((least, most)) => Range { least: number(least)?, most: number(most)? },
                    None => Range { least: 0, most: number(text)? },
                };
                if range.least <= range.most { Ok(range) } else { Err(wrong()) }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The settings as they are written.
#[derive(Deserialize)]
struct Written {
    engine: String,
    #[serde(default)]
    brings: Brings,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    nodes: Option<Range>,
    backlog: Option<usize>,
    #[serde(default, deserialize_with = "positive")]
    time: Option<Duration>,
    #[serde(default, deserialize_with = "any")]
    drain: Option<Duration>,
    #[serde(default, deserialize_with = "any")]
    idle: Option<Duration>,
    #[serde(default, deserialize_with = "positive")]
    join_within: Option<Duration>,
    #[serde(default, deserialize_with = "positive")]
    without_head: Option<Duration>,
    /// The settings of the engine.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

fn any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_positive_duration(&text).map(Some).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
}

impl<'de> Deserialize<'de> for GroupSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const MINUTE: Duration = Duration::from_secs(60);
        let written = Written::deserialize(deserializer)?;
        let engine = EngineSettings::read(&written.engine, written.rest).map_err(|why| {
            D::Error::custom(format!(
                "{why}; beside those of the engine, the settings of a group are engine, brings, labels, nodes, backlog, time, \
                 drain, idle, join_within and without_head"
            ))
        })?;
        check_labels(&written.labels).map_err(D::Error::custom)?;
        if written.labels.contains_key(GROUP_LABEL) {
            return Err(D::Error::custom(format!("the label `{GROUP_LABEL}` is that of the group itself")));
        }
        let backlog = written.backlog.unwrap_or(2);
        if backlog == 0 {
            return Err(D::Error::custom("with a backlog of 0 no node could ever be started"));
        }
        let drain = written.drain.unwrap_or(5 * MINUTE);
        if let Some(time) = written.time.filter(|time| *time <= drain) {
            return Err(D::Error::custom(format!(
                "of the time of {time:?}, the last {drain:?} are for leaving, so that nothing could run: raise `time` or lower \
                 `drain`"
            )));
        }
        Ok(Self {
            engine,
            brings: written.brings,
            labels: written.labels,
            nodes: written.nodes.unwrap_or(Range { least: 0, most: 4 }),
            backlog,
            time: written.time,
            drain,
            idle: written.idle.unwrap_or(5 * MINUTE),
            join_within: written.join_within.unwrap_or(3 * MINUTE),
            without_head: written.without_head.unwrap_or(5 * MINUTE),
        })
    }
}

impl GroupSettings {
    /// Returns the limits for the planner. `name` is that of the group.
    pub(crate) fn limits(&self, name: &str) -> Limits {
        let Brings { cpus, gpus, memory_mib } = self.brings;
        let mut labels = self.labels.clone();
        labels.insert(GROUP_LABEL.to_owned(), name.to_owned());
        Limits {
            brings: Resources::cpus(cpus).and_gpus(gpus).and_memory(memory_mib << 20),
            labels,
            least: self.nodes.least,
            most: self.nodes.most,
            backlog: self.backlog,
            time: self.time,
            drain: self.drain,
            idle: self.idle,
            join_within: self.join_within,
        }
    }
}

/// The groups of an App, in the order in which they are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Groups(pub(crate) Vec<(String, GroupSettings)>);

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Groups;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of groups")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Groups, A::Error> {
                let mut groups = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    check_group_name(&name)
                        .map_err(|why| A::Error::custom(format!("group `{name}`: {why}")))?;
                    groups.push((name, map.next_value()?));
                }
                Ok(Groups(groups))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Checks the name of a group, which is part of the names of jobs, Pods and nodes.
///
/// # Errors
/// A description of the problem.
pub(crate) fn check_group_name(name: &str) -> Result<(), String> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_valid = name.bytes().all(|byte| is_letter(byte) || byte == b'-')
        && name.bytes().next().is_some_and(is_letter)
        && name.bytes().last().is_some_and(is_letter)
        && name.len() <= LONGEST_NAME;
    match is_valid {
        true => Ok(()),
        false => Err(format!(
            "a name of a group has at most {LONGEST_NAME} lower-case letters, digits and hyphens, and neither begins nor \
             ends with a hyphen"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GroupSettings, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Only the engine has to be given.
    #[test]
    fn settings_have_defaults() {
        let limits = read(r#"{ "engine": "process" }"#).unwrap().limits("west");
        assert_eq!((limits.least, limits.most, limits.backlog), (0, 4, 2));
        assert_eq!(limits.brings, Resources::cpus(1));
        assert_eq!(limits.labels, [("fleet".to_owned(), "west".to_owned())].into());
        let text = r#"{ "engine": "process", "nodes": "1..3", "brings": { "gpus": 2 }, "time": "1h30m", "idle": "0s" }"#;
        let limits = read(text).unwrap().limits("west");
        assert_eq!((limits.least, limits.most, limits.time), (1, 3, Some(Duration::from_secs(5400))));
        assert_eq!(limits.brings, Resources::cpus(1).and_gpus(2));
        assert_eq!(read(r#"{ "engine": "process", "nodes": 7 }"#).unwrap().limits("west").most, 7);
    }

    /// A setting that is wrong is told with what is right.
    #[test]
    fn wrong_settings_are_told() {
        for (text, told) in [
            (r#"{ "engine": "slrum" }"#, "no engine `slrum`; there are process, slurm"),
            (
                r#"{ "engine": "process", "partition": "a" }"#,
                "unknown field `partition`; beside those of the engine",
            ),
            (
                r#"{ "engine": "slurm", "partitoin": "a" }"#,
                "unknown field `partitoin`, expected one of `partition`",
            ),
            (r#"{ "engine": "process", "nodes": "3..1" }"#, "\"0..20\" or 20"),
            (r#"{ "engine": "process", "nodes": -1 }"#, "out of range"),
            (r#"{ "engine": "process", "time": "4" }"#, "`4`: write a duration as 90s"),
            (r#"{ "engine": "process", "time": "5m" }"#, "raise `time` or lower `drain`"),
            (r#"{ "engine": "process", "backlog": 0 }"#, "backlog of 0"),
            (
                r#"{ "engine": "process", "brings": { "gpu": 1 } }"#,
                "unknown field `gpu`, expected one of `cpus`",
            ),
            (r#"{ "engine": "process", "labels": { "fleet": "x" } }"#, "the label `fleet`"),
            (r#"{}"#, "missing field `engine`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    /// Names of groups are valid in names of jobs and Pods.
    #[test]
    fn names_of_groups_are_checked() {
        for good in ["a", "a100", "west-2"] {
            assert_eq!(check_group_name(good), Ok(()));
        }
        for bad in ["", "A100", "-a", "a-", "a_b", "ü", "a b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(check_group_name(bad).is_err(), "{bad}");
        }
    }
}
