//! The engine: a cluster that Slurm manages.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use super::super::engine::{Checked, Engine, EngineError, Listed, Request};
use super::super::key::Key;
use super::answer::{job_id, words_of};
use super::commands::{Commands, Environment, Printed};
use super::job::{self, JobFiles};
use super::queue;
use super::settings::SlurmSettings;
use super::shared_directory::{ProgramCopy, SharedDirectory};

/// Number of requests that are under way at once.
const REQUESTS: usize = 4;

/// Number of jobs that one `scancel` ends.
const BATCH: usize = 200;

/// Most keys whose numbers of jobs are remembered. Those that are forgotten are asked for.
const MOST_KNOWN: usize = 10_000;

/// Time limit of reading and writing files, since a file system of the network may hang.
const FILES: Duration = Duration::from_secs(60);

/// A cluster, as one group of one App uses it.
pub(crate) struct Slurm {
    settings: SlurmSettings,
    /// The tag of the App, which is in the name of each of its jobs.
    tag: String,
    token: Option<String>,
    commands: Commands,
    directory: SharedDirectory,
    /// Copies of programs, by the path of the program.
    programs: Mutex<HashMap<PathBuf, Prepared>>,
    /// Numbers of the jobs that may still be there. Two jobs can have one key.
    ids: Mutex<HashMap<Key, BTreeSet<String>>>,
}

/// The files that jobs need.
#[derive(Debug, Clone)]
struct Prepared {
    program: ProgramCopy,
    /// The SHA-256 hash of the copy in hexadecimal digits.
    sha256: String,
    token: Option<PathBuf>,
}

impl Slurm {
    /// Returns the engine for a group with these settings, of the App with this tag.
    ///
    /// # Errors
    /// A description of what is wrong with the settings.
    pub(crate) fn new(settings: SlurmSettings, tag: String, token: Option<String>) -> Result<Self, String> {
        settings.check()?;
        let directory = SharedDirectory::new(settings.directory_path()?);
        Ok(Self {
            settings,
            tag,
            token,
            commands: Commands::new(),
            directory,
            programs: Mutex::default(),
            ids: Mutex::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn with_limit(mut self, limit: Duration) -> Self {
        self.commands = Commands::with_limit(limit);
        self
    }

    async fn run(
        &self,
        name: &str,
        arguments: Vec<String>,
        environment: Environment,
        input: &str,
    ) -> Result<Printed, EngineError> {
        self.commands.run(self.settings.command_path(name), arguments, environment, input).await
    }

    /// Copies the program and writes the token, unless that was done.
    async fn prepare(&self, program: &Path) -> Result<Prepared, EngineError> {
        let known = self.programs.lock().get(program).cloned();
        let (directory, from, tag, token) =
            (self.directory.clone(), program.to_owned(), self.tag.clone(), self.token.clone());
        let is_there =
            |known: &Prepared| known.program.is_there() && known.token.as_deref().is_none_or(Path::exists);
        if let Some(known) = known
            && in_time({
                let known = known.clone();
                move || is_there(&known)
            })
            .await?
        {
            return Ok(known);
        }
        let (program_copy, token) = in_time(move || {
            directory.create()?;
            let copy = directory.copy_program(&from)?;
            let token = token.map(|token| directory.write_token(&tag, &token)).transpose()?;
            Ok((copy, token))
        })
        .await?
        .map_err(EngineError::Refused)?;
        let sha256 = self.sha256_of(&program_copy.path).await?;
        let prepared = Prepared { program: program_copy, sha256, token };
        self.programs.lock().insert(program.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// Returns the SHA-256 hash of a file, by the tool that jobs use: it takes a fraction of the time that code without
    /// optimisation would, which programs under development are.
    async fn sha256_of(&self, path: &Path) -> Result<String, EngineError> {
        let arguments = vec![path.display().to_string()];
        let printed = self.commands.run("sha256sum".into(), arguments, Environment::Listing, "").await?;
        let digits = printed.stdout.split(' ').next().unwrap_or_default();
        match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(digits.to_owned()),
            false => Err(EngineError::Refused(format!(
                "`sha256sum` printed no hash: {}",
                words_of(&printed.stdout)
            ))),
        }
    }

    /// Returns the arguments of `sbatch` and the script for one key.
    fn job(&self, request: &Request, prepared: &Prepared, key: &Key) -> (Vec<String>, String) {
        let output = self.directory.output_path(&key.job_name(&self.tag));
        let files = JobFiles {
            program: &prepared.program.path,
            sha256: &prepared.sha256,
            token: prepared.token.as_deref(),
            output: &output,
        };
        let arguments = job::arguments(&self.settings, request, &self.tag, key, files);
        (arguments, job::script(&self.settings, request, key, files))
    }

    async fn submit_one(&self, request: &Request, prepared: &Prepared, key: &Key) -> Result<(), EngineError> {
        let (arguments, script) = self.job(request, prepared, key);
        let printed = self.run("sbatch", arguments, Environment::Submitting, &script).await?;
        match job_id(&printed.stdout) {
            Some(id) => {
                let mut known = self.ids.lock();
                if known.len() >= MOST_KNOWN {
                    known.clear();
                }
                known.entry(key.clone()).or_default().insert(id.to_owned());
                Ok(())
            }
            None => Err(EngineError::Unreachable(format!(
                "`sbatch` printed no number of a job: `{}`",
                words_of(&printed.stdout)
            ))),
        }
    }

    async fn submit_all(&self, request: &Request, keys: &[Key]) -> Vec<Result<(), EngineError>> {
        let prepared = match self.prepare(&request.command.program).await {
            Ok(prepared) => prepared,
            Err(error) => return vec![Err(error); keys.len()],
        };
        let mut outcomes = Vec::with_capacity(keys.len());
        for some in keys.chunks(REQUESTS) {
            let requests = some.iter().map(|key| self.submit_one(request, &prepared, key));
            outcomes.extend(join_all(requests).await);
            // The others are alike, and would fail in the same way.
            if let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()).cloned() {
                outcomes.resize(keys.len(), Err(error));
                break;
            }
        }
        outcomes
    }

    async fn list_all(&self) -> Result<Vec<Listed>, EngineError> {
        let user = rustix::process::getuid().as_raw().to_string();
        let arguments =
            ["--noheader", "--user", &user, "--states", "all", "--format", queue::FORMAT].map(str::to_owned);
        let printed = self.run("squeue", arguments.into(), Environment::Listing, "").await;
        let printed = printed.map_err(|error| match error {
            // No answer to a question can be a limit, and a list is never wrong in itself: the next one may succeed.
            EngineError::Quota(why) => EngineError::Unreachable(why),
            error => error,
        })?;
        let jobs = queue::jobs(&printed.stdout, &self.tag)
            .map_err(|why| EngineError::Unreachable(format!("`squeue`: {why}")))?;
        let mut ids: HashMap<Key, BTreeSet<String>> = HashMap::new();
        for (key, id) in queue::live_ids(&printed.stdout, &self.tag) {
            ids.entry(key).or_default().insert(id);
        }
        *self.ids.lock() = ids;
        Ok(jobs)
    }

    async fn end_all(&self, keys: &[Key]) -> Result<(), EngineError> {
        let is_known = |key: &Key| self.ids.lock().contains_key(key);
        if !keys.iter().all(is_known) {
            // A key that is not in this list either has no job, or has one that a later list shows.
            self.list_all().await?;
        }
        let ids: Vec<_> = {
            let known = self.ids.lock();
            keys.iter().filter_map(|key| known.get(key)).flatten().cloned().collect()
        };
        for some in ids.chunks(BATCH) {
            match self.run("scancel", some.to_vec(), Environment::Listing, "").await {
                Ok(_) => {}
                Err(EngineError::Refused(why) | EngineError::Quota(why)) if has_ended(&why) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn check_one(&self, request: &Request) -> Result<Checked, EngineError> {
        let prepared = self.prepare(&request.command.program).await?;
        // No job gets this key.
        let key = Key::new("check", 0);
        let (mut arguments, script) = self.job(request, &prepared, &key);
        // In front, since the arguments of the user are at the end.
        arguments.insert(0, "--test-only".to_owned());
        let verdict = match self.run("sbatch", arguments, Environment::Submitting, &script).await {
            Ok(printed) => Ok(words_of(&printed.stderr)),
            Err(EngineError::Refused(why) | EngineError::Quota(why)) => Err(why),
            Err(unreachable @ EngineError::Unreachable(_)) => return Err(unreachable),
        };
        Ok(Checked { script, verdict: Some(verdict) })
    }
}

impl Engine for Slurm {
    fn submit<'a>(
        &'a self,
        request: &'a Request,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Vec<Result<(), EngineError>>> {
        self.submit_all(request, keys).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Listed>, EngineError>> {
        self.list_all().boxed()
    }

    fn end<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), EngineError>> {
        self.end_all(keys).boxed()
    }

    fn output<'a>(&'a self, key: &'a Key, lines: usize) -> BoxFuture<'a, Result<String, EngineError>> {
        let (directory, name) = (self.directory.clone(), key.job_name(&self.tag));
        let read = in_time(move || directory.last_output(&name, lines));
        async { read.await?.map_err(EngineError::Unreachable) }.boxed()
    }

    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Checked, EngineError>> {
        self.check_one(request).boxed()
    }
}

/// Returns true for the words with which `scancel` says that a job has ended.
fn has_ended(why: &str) -> bool {
    // Each job that could not be ended has a line, and all have to say so. A text that is too long ends within one.
    why.split("; ").filter(|line| !line.ends_with('…')).all(|line| {
        let line = line.to_lowercase();
        line.contains("invalid job id") || line.contains("already completing or completed")
    })
}

/// Executes a function that uses files on another thread, with a time limit.
async fn in_time<T: Send + 'static>(function: impl FnOnce() -> T + Send + 'static) -> Result<T, EngineError> {
    match tokio::time::timeout(FILES, tokio::task::spawn_blocking(function)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(EngineError::Unreachable(format!("access to files failed: {error}"))),
        Err(_) => Err(EngineError::Unreachable(format!("the file system did not answer within {FILES:?}"))),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
