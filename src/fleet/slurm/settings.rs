//! Settings of a group of allocations that are Slurm's own.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Settings of Slurm for one group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SlurmSettings {
    /// The partition; Slurm's default without one.
    pub(crate) partition: Option<String>,
    /// The account that is charged.
    pub(crate) account: Option<String>,
    /// The quality of service.
    pub(crate) qos: Option<String>,
    /// The generic resource that is requested for each GPU, such as `gpu:a100`, instead of `--gpus-per-node`.
    pub(crate) gres: Option<String>,
    /// Lines of bash that the job executes before the node, such as `module load cuda`.
    pub(crate) setup: Option<String>,
    /// More arguments of `sbatch`. They come last, so that they win.
    pub(crate) extra: Vec<String>,
    /// The directory for the program, the token and the output of jobs, on a file system that all machines share; by
    /// default `~/.flowright/fleet`.
    pub(crate) directory: Option<PathBuf>,
    /// The directory of Slurm's commands; without one they are searched in `PATH`.
    pub(crate) commands: Option<PathBuf>,
}

/// Options of `sbatch` that this engine sets itself, and options that make more or other jobs of a request, with their
/// short forms.
const OWN: [(&str, Option<char>); 13] = [
    ("--array", Some('a')),
    ("--job-name", Some('J')),
    ("--output", Some('o')),
    ("--error", Some('e')),
    ("--nodes", Some('N')),
    ("--ntasks", Some('n')),
    ("--signal", None),
    ("--requeue", None),
    ("--parsable", None),
    ("--test-only", None),
    ("--wrap", None),
    ("--wait", Some('W')),
    ("--clusters", Some('M')),
];

impl SlurmSettings {
    /// Checks the settings as far as that is possible without Slurm.
    ///
    /// # Errors
    /// A description of the first problem.
    pub(crate) fn check(&self) -> Result<(), String> {
        let texts = [
            ("partition", &self.partition),
            ("account", &self.account),
            ("qos", &self.qos),
            ("gres", &self.gres),
        ];
        for (name, text) in texts {
            if text.as_deref().is_some_and(|text| text.is_empty() || text.contains(char::is_control)) {
                return Err(format!("the setting `{name}` is empty or has control characters"));
            }
        }
        if self.setup.as_deref().is_some_and(|setup| setup.contains('\0')) {
            return Err("the setting `setup` has a NUL character".to_owned());
        }
        for word in &self.extra {
            if word.contains('\0') {
                return Err("the setting `extra` has a NUL character".to_owned());
            }
            if let Some(option) = own_option(word) {
                return Err(format!("the setting `extra` has `{word}`: Flowright sets {option} itself"));
            }
        }
        let directory = self.directory_path()?;
        match directory.to_str() {
            // Slurm has a syntax for the path of a job's output, in which a backslash changes the meaning of the rest.
            Some(text) if !text.contains(char::is_control) && !text.contains('\\') => Ok(()),
            _ => Err(format!(
                "the directory {} has control characters, a backslash or is not UTF-8: choose another one with `directory`",
                directory.display()
            )),
        }
    }

    /// Returns the absolute path of the shared directory.
    ///
    /// # Errors
    /// A description of the problem, if it is relative or there is no home directory.
    pub(super) fn directory_path(&self) -> Result<PathBuf, String> {
        let home = || std::env::home_dir().filter(|home| home.is_absolute());
        let chosen = match &self.directory {
            None => home().map(|home| home.join(".flowright/fleet")),
            Some(directory) => match directory.strip_prefix("~") {
                Ok(below) => home().map(|home| home.join(below)),
                Err(_) => Some(directory.clone()),
            },
        };
        let chosen = chosen.ok_or("there is no home directory: set `directory`")?;
        match chosen.is_absolute() {
            true => Ok(chosen),
            false => Err(format!("the directory {} is not absolute", chosen.display())),
        }
    }

    /// Returns the path of a command of Slurm.
    pub(super) fn command_path(&self, name: &str) -> PathBuf {
        self.commands.as_deref().unwrap_or(Path::new("")).join(name)
    }
}

/// Returns the option that an argument of `sbatch` sets, if it is one of [`OWN`].
fn own_option(word: &str) -> Option<&'static str> {
    let long = word.split_once('=').map_or(word, |(name, _)| name);
    let is = |(name, short): &(&str, Option<char>)| {
        // `sbatch` takes unambiguous beginnings of long options.
        let is_long = long.len() > 4 && name.starts_with(long);
        let is_short =
            short.is_some_and(|short| word.strip_prefix('-').is_some_and(|rest| rest.starts_with(short)));
        is_long || is_short
    };
    OWN.iter().find(|own| is(own)).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options that change which job a request makes are refused, in all their forms.
    #[test]
    fn extra_with_own_options_is_refused() {
        for word in
            ["--array=1-3", "-a1-3", "--job-name", "-J", "--job=x", "--out=x", "-o/x", "--wrap=true", "-W"]
        {
            let settings = SlurmSettings { extra: vec![word.to_owned()], ..SlurmSettings::default() };
            assert!(settings.check().unwrap_err().contains(word), "{word}");
        }
        for word in ["--constraint=nvlink", "-C", "nvlink", "--exclusive", "--no-kill", "--reservation=a"] {
            let settings = SlurmSettings { extra: vec![word.to_owned()], ..SlurmSettings::default() };
            assert_eq!(settings.check(), Ok(()), "{word}");
        }
    }

    /// The directory is absolute, and `~` is the home directory.
    #[test]
    fn directory_is_absolute() {
        let of = |directory: &str| {
            SlurmSettings { directory: Some(directory.into()), ..SlurmSettings::default() }.directory_path()
        };
        assert_eq!(of("/scratch/a"), Ok("/scratch/a".into()));
        assert!(of("scratch").is_err());
        let home = std::env::home_dir().unwrap();
        assert_eq!(of("~/a"), Ok(home.join("a")));
        assert_eq!(SlurmSettings::default().directory_path(), Ok(home.join(".flowright/fleet")));
    }
}
