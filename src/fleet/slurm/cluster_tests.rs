//! The engine against scripts in place of Slurm's commands, which lose answers, hang, refuse and print garbage.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::*;
use crate::fleet::engine::{AllocationEnd, ListedStage, NodeCommand};
use crate::work::Resources;

/// A cluster whose commands are scripts. The file `jobs` has the list of jobs.
struct Fake {
    directory: PathBuf,
}

/// Adds a job to the list, and prints its number.
const SBATCH: &str = r#"
cat > "$here/script"
printf '%s\n' "$@" > "$here/arguments"
env > "$here/environment"
echo call >> "$here/sbatch-calls"
for word; do case $word in --job-name=*) name=${word#--job-name=} ;; esac; done
echo "$$|$name|PENDING|Resources|N/A|" >> "$here/jobs"
"#;
const SQUEUE: &str = r#"
echo call >> "$here/squeue-calls"
cat "$here/jobs""#;
/// Removes jobs from the list.
const SCANCEL: &str = r#"
echo "$@" >> "$here/scancel-calls"
for id; do sed -i "/^$id|/d" "$here/jobs"; done
"#;

impl Fake {
    fn new(name: &str) -> Self {
        let name = format!("flowright-slurm-fake-{name}-{}", std::process::id());
        let fake = Self { directory: std::env::temp_dir().join(name) };
        fs::create_dir_all(fake.directory.join("commands")).unwrap();
        fs::write(fake.directory.join("jobs"), "1|other|RUNNING|None|N/A|n1\n").unwrap();
        fake.command("sbatch", &format!("{SBATCH} echo $$"));
        fake.command("squeue", SQUEUE);
        fake.command("scancel", SCANCEL);
        fake
    }

    /// Makes a command of this script. Another process writes it, since this one forks, and a file that is open for
    /// writing anywhere cannot be executed.
    fn command(&self, name: &str, script: &str) {
        let path = self.directory.join("commands").join(name);
        let text = format!("#!/bin/sh\nhere={}\n{script}\n", self.directory.display());
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0.new\" && chmod +x \"$0.new\" && mv \"$0.new\" \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
    }

    fn engine(&self) -> Slurm {
        self.engine_with(SlurmSettings::default())
    }

    fn engine_with(&self, settings: SlurmSettings) -> Slurm {
        let settings = SlurmSettings {
            directory: Some(self.directory.join("shared")),
            commands: Some(self.directory.join("commands")),
            ..settings
        };
        Slurm::new(settings, "tag".to_owned(), Some(TOKEN.to_owned())).unwrap()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    fn calls(&self, name: &str) -> usize {
        self.text(&format!("{name}-calls")).lines().count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

const TOKEN: &str = "a-secret-that-nobody-may-see";

fn request() -> Request {
    Request {
        command: NodeCommand {
            program: "/bin/true".into(),
            arguments: ["node", "--join", "head:7502"].map(str::to_owned).into(),
            environment: Vec::new(),
        },
        brings: Resources::cpus(1),
        time: Some(Duration::from_secs(600)),
        drain: Duration::from_secs(60),
    }
}

fn keys(count: u64) -> Vec<Key> {
    (0..count).map(|random| Key::new("group", random)).collect()
}

/// Requests become jobs that are listed with their keys, and ended by one command.
#[tokio::test]
async fn jobs_are_submitted_listed_and_ended() {
    let fake = Fake::new("jobs");
    let engine = fake.engine();
    let keys = keys(6);
    assert_eq!(engine.submit(&request(), &keys).await, vec![Ok(()); 6]);
    let listed = engine.list().await.unwrap();
    assert_eq!(listed.iter().map(|job| job.key.clone()).collect::<Vec<_>>(), keys);
    assert_eq!(listed[0].stage, ListedStage::Queued { why: "Resources".to_owned() });
    engine.end(&keys[1..]).await.unwrap();
    assert_eq!(fake.calls("scancel"), 1);
    let left = engine.list().await.unwrap();
    assert_eq!(left.iter().map(|job| &job.key).collect::<Vec<_>>(), [&keys[0]]);
    // Once more, and with one that was never there.
    engine.end(&[keys[1].clone(), Key::new("group", 99)]).await.unwrap();
    assert_eq!(fake.calls("scancel"), 1);
}

/// The token is in the file that the script names, and neither in the script nor in arguments or the environment.
#[tokio::test]
async fn token_is_in_its_file_only() {
    let fake = Fake::new("token");
    let engine = fake.engine();
    assert_eq!(engine.submit(&request(), &keys(1)).await, [Ok(())]);
    for name in ["script", "arguments", "environment"] {
        let text = fake.text(name);
        assert!(!text.is_empty() && !text.contains(TOKEN), "{name}: {text}");
    }
    let file = fake.directory.join("shared/tokens/tag");
    assert!(fake.text("script").contains(&format!("--token-file {}", file.display())));
    assert_eq!(fs::read_to_string(&file).unwrap(), TOKEN);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A request whose answer was lost is unknown, and its job is in the next list.
#[tokio::test]
async fn lost_answer_is_found_by_list() {
    let fake = Fake::new("lost");
    let keys = keys(3);
    for (at, loss) in ["sleep 600", "kill -9 $$", "echo 'Submitted batch job'"].into_iter().enumerate() {
        fake.command("sbatch", &format!("{SBATCH}{loss}"));
        let limit = if at == 0 { 2 } else { 30 };
        let engine = fake.engine().with_limit(Duration::from_secs(limit));
        let outcome = engine.submit(&request(), &keys[at..=at]).await.remove(0);
        assert!(matches!(outcome, Err(EngineError::Unreachable(_))), "{loss}: {outcome:?}");
        let listed = engine.list().await.unwrap();
        assert_eq!(listed.len(), at + 1, "{loss}");
        assert!(listed.iter().any(|job| job.key == keys[at]));
    }
    // An engine that knows the number of none of them finds and ends them all.
    fake.engine().end(&keys).await.unwrap();
    assert_eq!(fake.text("jobs"), "1|other|RUNNING|None|N/A|n1\n");
}

/// The first failure is the outcome of the others, which are alike, without asking Slurm for each.
#[tokio::test]
async fn failure_stops_further_requests() {
    let refused = "sbatch: error: Batch job submission failed: Invalid partition name specified";
    let quota = "sbatch: error: QOSMaxSubmitJobPerUserLimit\n\
                 sbatch: error: Batch job submission failed: Job violates accounting/QOS policy";
    let unreachable = "sbatch: error: Batch job submission failed: Unable to contact slurm controller";
    for (name, words, class) in [
        ("refused", refused, EngineError::Refused as fn(String) -> EngineError),
        ("quota", quota, EngineError::Quota),
        ("unreachable", unreachable, EngineError::Unreachable),
    ] {
        let fake = Fake::new(name);
        fake.command(
            "sbatch",
            &format!("echo call >> $here/sbatch-calls; cat > /dev/null; echo '{words}' >&2; exit 1"),
        );
        let outcomes = fake.engine().submit(&request(), &keys(20)).await;
        assert_eq!(outcomes, vec![Err(class(words_of(words))); 20]);
        assert_eq!(fake.calls("sbatch"), REQUESTS);
    }
}

/// A list that is garbage, cut off, late or refused is no list, so that no allocation seems to have ended.
#[tokio::test]
async fn bad_list_is_unreachable() {
    let fake = Fake::new("list");
    for script in [
        "echo '<html>'",
        "printf '7|fr-tag-group-aaaaaa|RUNNING|None|N/A'",
        "echo '7|fr-tag-group-aaaaaa|RUNN'",
        "head -c 100000 /dev/zero",
        "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
        "exit 1",
        "kill -9 $$",
        "sleep 600",
    ] {
        fake.command("squeue", script);
        let limit = if script.starts_with("sleep") { 1 } else { 30 };
        let listed = fake.engine().with_limit(Duration::from_secs(limit)).list().await;
        assert!(matches!(listed, Err(EngineError::Unreachable(_))), "{script}: {listed:?}");
    }
}

/// Without Slurm's commands the error says what to install.
#[tokio::test]
async fn missing_commands_are_refused() {
    let fake = Fake::new("missing");
    fs::remove_dir_all(fake.directory.join("commands")).unwrap();
    let engine = fake.engine();
    let errors = [
        engine.submit(&request(), &keys(1)).await.remove(0).unwrap_err(),
        engine.list().await.unwrap_err(),
        engine.end(&keys(1)).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(&error, EngineError::Refused(why) if why.contains("install the client")), "{error}");
    }
}

/// Jobs that end before they are cancelled are no error; a controller that cannot be reached is.
#[tokio::test]
async fn cancelling_ended_jobs_is_no_error() {
    let fake = Fake::new("cancel");
    let engine = fake.engine();
    let keys = keys(2);
    assert_eq!(engine.submit(&request(), &keys).await, vec![Ok(()); 2]);
    let error = "scancel: error: Kill job error on job id 7:";
    let ended = format!(
        "echo '{error} Job/step already completing or completed' >&2; echo '{error} Invalid job id specified' >&2; exit 1"
    );
    fake.command("scancel", &ended);
    assert_eq!(engine.end(&keys).await, Ok(()));
    fake.command("scancel", &format!("echo '{error} Unable to contact slurm controller' >&2; exit 1"));
    assert!(matches!(engine.end(&keys).await, Err(EngineError::Unreachable(_))));
    fake.command("scancel", &format!("echo '{error} Access/permission denied' >&2; exit 1"));
    assert!(matches!(engine.end(&keys).await, Err(EngineError::Refused(_))));
}

/// A check starts nothing, and has the script and the verdict.
#[tokio::test]
async fn check_has_script_and_verdict() {
    let fake = Fake::new("check");
    let record = "cat > /dev/null; printf '%s\\n' \"$@\" > $here/arguments;";
    fake.command(
        "sbatch",
        &format!("{record} echo 'sbatch: Job 7 to start at 2026-11-30T19:08:37 on n1' >&2"),
    );
    let settings = SlurmSettings { setup: Some("module load cuda".to_owned()), ..SlurmSettings::default() };
    let engine = fake.engine_with(settings);
    let checked = engine.check(&request()).await.unwrap();
    assert_eq!(checked.verdict, Some(Ok("Job 7 to start at 2026-11-30T19:08:37 on n1".to_owned())));
    assert!(
        checked.script.contains("module load cuda\n") && checked.script.contains("node --join head:7502")
    );
    assert!(fake.text("arguments").starts_with("--test-only\n"));
    fake.command("sbatch", "echo 'sbatch: error: Invalid --time specification' >&2; exit 1");
    let checked = engine.check(&request()).await.unwrap();
    assert_eq!(checked.verdict, Some(Err("Invalid --time specification".to_owned())));
}

/// The output of a job is read from its file, and its end is listed.
#[tokio::test]
async fn output_of_a_job_is_read() {
    let fake = Fake::new("output");
    let engine = fake.engine();
    let key = &keys(1)[0];
    assert_eq!(engine.output(key, 20).await, Ok(String::new()));
    engine.submit(&request(), std::slice::from_ref(key)).await.remove(0).unwrap();
    fs::write(fake.directory.join("shared/output/fr-tag-group-aaaaaa.out"), "one\ntwo\n").unwrap();
    assert_eq!(engine.output(key, 1).await, Ok("two\n".to_owned()));
    let jobs = "9|fr-tag-group-aaaaaa|FAILED|NonZeroExitCode|2026-11-30T19:08:37|n1\n";
    fs::write(fake.directory.join("jobs"), jobs).unwrap();
    let listed = engine.list().await.unwrap();
    let words = "FAILED (NonZeroExitCode)".to_owned();
    assert_eq!(listed[0].stage, ListedStage::Ended { end: AllocationEnd::Failed, words });
}

/// A program that cannot be copied is refused before anything is requested.
#[tokio::test]
async fn unreadable_program_is_refused() {
    let fake = Fake::new("program");
    let mut request = request();
    request.command.program = "/nowhere/app".into();
    let outcomes = fake.engine().submit(&request, &keys(2)).await;
    for outcome in outcomes {
        assert!(
            matches!(&outcome, Err(EngineError::Refused(why)) if why.contains("/nowhere/app")),
            "{outcome:?}"
        );
    }
    assert_eq!(fake.calls("sbatch"), 0);
}
