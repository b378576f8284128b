//! The job of an allocation: the arguments of `sbatch` and the script (pure).

use std::path::Path;
use std::time::Duration;

use super::super::engine::Request;
use super::super::key::Key;
use super::settings::SlurmSettings;

/// Longest time before the end of a job at which Slurm can be told to signal it, in seconds.
const LONGEST_NOTICE: u64 = 65535;

/// Paths in the shared directory that a job needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobFiles<'a> {
    /// The copy of the program.
    pub(super) program: &'a Path,
    /// The SHA-256 hash of the program, in hexadecimal digits: the one hash for which every machine has a tool.
    pub(super) sha256: &'a str,
    /// The file with the token, if the App has one.
    pub(super) token: Option<&'a Path>,
    /// The file for the output of the job.
    pub(super) output: &'a Path,
}

/// Returns the arguments of `sbatch`, which reads the script from its standard input.
///
/// A job for each key, and no job array: all jobs of an array have the same name, by which an allocation is found
/// again if the answer to its request was lost.
pub(super) fn arguments(
    settings: &SlurmSettings,
    request: &Request,
    tag: &str,
    key: &Key,
    files: JobFiles<'_>,
) -> Vec<String> {
    let brings = request.brings;
    // A percent sign begins a placeholder in the path of the output.
    let output = files.output.display().to_string().replace('%', "%%");
    let mut arguments = vec![
        "--parsable".to_owned(),
        format!("--job-name={}", key.job_name(tag)),
        format!("--comment=Flowright node {key}"),
        format!("--output={output}"),
        "--nodes=1".to_owned(),
        "--ntasks=1".to_owned(),
        "--no-requeue".to_owned(),
    ];
    let mut option = |name: &str, value: Option<String>| {
        arguments.extend(value.map(|value| format!("--{name}={value}")));
    };
    option("partition", settings.partition.clone());
    option("account", settings.account.clone());
    option("qos", settings.qos.clone());
    option("cpus-per-task", (brings.cpus > 0).then(|| brings.cpus.to_string()));
    option("mem", (brings.memory > 0).then(|| format!("{}M", brings.memory.div_ceil(1 << 20))));
    match &settings.gres {
        _ if brings.gpus == 0 => {}
        Some(gres) => option("gres", Some(format!("{gres}:{}", brings.gpus))),
        None => option("gpus-per-node", Some(brings.gpus.to_string())),
    }
    option("time", request.time.map(|time| minutes(time).to_string()));
    // `B:` is the process of the script only, which is the node.
    let notice = request.drain.as_secs().min(LONGEST_NOTICE);
    option("signal", (notice > 0).then(|| format!("B:TERM@{notice}")));
    arguments.extend(settings.extra.iter().cloned());
    arguments
}

/// Returns a duration in minutes, rounded up as Slurm does. It is at least one, because zero means no limit there.
fn minutes(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).div_ceil(60).max(1)
}

/// Returns the script of the job. It becomes the node, so that signals reach the node and its exit code is the job's.
pub(super) fn script(settings: &SlurmSettings, request: &Request, key: &Key, files: JobFiles<'_>) -> String {
    let mut node = vec![files.program.display().to_string()];
    node.extend(request.command.arguments.iter().cloned());
    node.extend(["--name".to_owned(), key.to_string()]);
    let mut resource = |name: &str, number: u64| {
        if !has_option(&request.command.arguments, name) {
            node.extend([name.to_owned(), number.to_string()]);
        }
    };
    let brings = request.brings;
    if brings.cpus > 0 {
        resource("--cpus", brings.cpus.into());
    }
    // A job without GPUs may see all those of its machine, which other jobs have.
    if brings.gpus > 0 || !settings.extra.iter().any(|word| word.contains("gpu")) {
        resource("--gpus", brings.gpus.into());
    }
    if brings.memory > 0 {
        resource("--memory", brings.memory >> 20);
    }
    if let Some(token) = files.token {
        node.extend(["--token-file".to_owned(), token.display().to_string()]);
    }
    let node: Vec<_> = node.iter().map(|word| quoted(word)).collect();
    let (program, sha256) = (quoted(&files.program.display().to_string()), files.sha256);
    let setup = settings.setup.as_deref().unwrap_or_default().trim_end();
    let mut script = format!("#!/bin/bash\n# Node {key} of a Flowright App, requested by its head.\n");
    for (name, value) in &request.command.environment {
        let (name, value) = (name.to_string_lossy(), value.as_deref().map(|value| value.to_string_lossy()));
        match value {
            _ if !is_variable(&name) => {}
            Some(value) => script.push_str(&format!("export {name}={}\n", quoted(&value))),
            None => script.push_str(&format!("unset {name}\n")),
        }
    }
    if !setup.is_empty() {
        script.push_str(setup);
        script.push('\n');
    }
    script.push_str(&format!(
        "program={program}\n\
         found=$(sha256sum \"$program\")\n\
         if [ \"${{found%% *}}\" != {sha256} ]; then\n    \
             echo \"$program on $(hostname) is not the program of the head: its SHA-256 hash is '${{found%% *}}' and not\" \\\n        \
                 \"{sha256}. Is its directory on a file system that all machines share?\" >&2\n    \
             exit 126\n\
         fi\n\
         exec {}\n",
        node.join(" ")
    ));
    script
}

/// Returns true for a name that a shell takes for that of a variable.
fn is_variable(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(is_letter)
        && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// Returns true if the arguments set this option.
fn has_option(arguments: &[String], name: &str) -> bool {
    arguments
        .iter()
        .any(|word| word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@+".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::fleet::engine::NodeCommand;
    use crate::work::Resources;

    fn request(arguments: &[&str], brings: Resources) -> Request {
        Request {
            command: NodeCommand {
                program: "/bin/app".into(),
                arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
                environment: Vec::new(),
            },
            brings,
            time: Some(Duration::from_secs(4 * 3600)),
            drain: Duration::from_secs(300),
        }
    }

    fn files<'a>(program: &'a Path, sha256: &'a str) -> JobFiles<'a> {
        JobFiles {
            program,
            sha256,
            token: Some(Path::new("/f/tokens/t")),
            output: Path::new("/f/50%/fr-t-a-aaaaaa.out"),
        }
    }

    /// Each setting is an option of `sbatch`, and those of the user come last.
    #[test]
    fn arguments_have_every_setting() {
        let settings = SlurmSettings {
            partition: Some("a100".to_owned()),
            account: Some("physics".to_owned()),
            qos: Some("high".to_owned()),
            extra: vec!["--constraint=nvlink".to_owned()],
            ..SlurmSettings::default()
        };
        let key = Key::new("a", 0);
        let brings = Resources::cpus(16).and_gpus(4).and_memory((120_000 << 20) - 1);
        let request = request(&["node"], brings);
        let files = files(Path::new("/p"), "00");
        assert_eq!(
            arguments(&settings, &request, "t", &key, files),
            [
                "--parsable",
                "--job-name=fr-t-a-aaaaaa",
                "--comment=Flowright node a-aaaaaa",
                "--output=/f/50%%/fr-t-a-aaaaaa.out",
                "--nodes=1",
                "--ntasks=1",
                "--no-requeue",
                "--partition=a100",
                "--account=physics",
                "--qos=high",
                "--cpus-per-task=16",
                "--mem=120000M",
                "--gpus-per-node=4",
                "--time=240",
                "--signal=B:TERM@300",
                "--constraint=nvlink",
            ]
        );
        let settings = SlurmSettings { gres: Some("gpu:a100".to_owned()), ..SlurmSettings::default() };
        let arguments = arguments(&settings, &request, "t", &key, files);
        assert!(arguments.contains(&"--gres=gpu:a100:4".to_owned()), "{arguments:?}");
        assert!(!arguments.iter().any(|word| word.starts_with("--gpus") || word.starts_with("--partition")));
    }

    /// The engine's defaults hold for what a request leaves open.
    #[test]
    fn arguments_without_limits_are_left_out() {
        let mut request = request(&["node"], Resources::default());
        request.time = None;
        request.drain = Duration::ZERO;
        let key = Key::new("a", 0);
        let arguments =
            arguments(&SlurmSettings::default(), &request, "t", &key, files(Path::new("/p"), "00"));
        for option in ["--time", "--signal", "--mem", "--cpus", "--gpus", "--gres", "--partition"] {
            assert!(!arguments.iter().any(|word| word.starts_with(option)), "{option} in {arguments:?}");
        }
    }

    /// A time that is no number of minutes is rounded up, never down.
    #[test]
    fn time_is_rounded_up_to_minutes() {
        for (seconds, rounded) in [(0.0, 1), (0.1, 1), (60.0, 1), (60.5, 2), (90.0, 2), (86_400.0, 1440)] {
            assert_eq!(minutes(Duration::from_secs_f64(seconds)), rounded, "{seconds}");
        }
        assert!(minutes(Duration::MAX) > 1 << 40);
    }

    /// The node gets what the group brings, unless its arguments have it already.
    #[test]
    fn script_passes_resources_once() {
        let request = request(&["node", "--cpus=3"], Resources::cpus(4).and_gpus(2).and_memory(1 << 30));
        let script =
            script(&SlurmSettings::default(), &request, &Key::new("a", 0), files(Path::new("/p q"), "00"));
        let last = script.lines().last().unwrap();
        assert_eq!(
            last,
            "exec '/p q' node --cpus=3 --name a-aaaaaa --gpus 2 --memory 1024 --token-file /f/tokens/t"
        );
    }

    /// A node does not take GPUs that its job has not got, unless the user's own arguments ask for some.
    #[test]
    fn script_without_gpus_says_so() {
        let last = |extra: &str| {
            let settings = SlurmSettings { extra: vec![extra.to_owned()], ..SlurmSettings::default() };
            let request = request(&["node"], Resources::default());
            script(&settings, &request, &Key::new("a", 0), files(Path::new("/p"), "00"))
        };
        assert!(last("--exclusive").contains("node --name a-aaaaaa --gpus 0 --token-file"));
        assert!(!last("--gres=gpu:2").contains("--gpus 0"));
    }

    /// Executes a script with bash, and returns its exit code and output.
    fn executed(script: &str) -> (Option<i32>, String, String) {
        let output = Command::new("bash").args(["-c", script]).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Returns the SHA-256 hash of a file, by the tool that jobs use.
    fn sha256(path: &str) -> String {
        executed(&format!("sha256sum {path}")).1.split(' ').next().unwrap().to_owned()
    }

    /// A node whose file is another program, or none, does not start, and says so.
    #[test]
    fn script_with_other_program_fails() {
        let request = request(&["node"], Resources::default());
        for program in ["/bin/echo", "/nowhere/echo"] {
            let script = script(
                &SlurmSettings::default(),
                &request,
                &Key::new("a", 0),
                files(Path::new(program), "abcd"),
            );
            let (code, stdout, stderr) = executed(&script);
            assert_eq!((code, stdout.as_str()), (Some(126), ""));
            assert!(stderr.contains("is not the program of the head"), "{stderr}");
        }
    }

    /// The variables of the command are set and removed before the setup, which may use them.
    #[test]
    fn variables_of_the_command_reach_the_node() {
        let settings =
            SlurmSettings { setup: Some("export TWO=$ONE".to_owned()), ..SlurmSettings::default() };
        let mut request = request(&["-c", "echo \"$TWO${HOME-none}\""], Resources::default());
        let variable = |name: &str, value: Option<&str>| (name.into(), value.map(Into::into));
        request.command.environment =
            vec![variable("ONE", Some("it's $x\n")), variable("HOME", None), variable("a b;ls", Some("x"))];
        let sha256 = sha256("/bin/sh");
        let script = script(&settings, &request, &Key::new("a", 0), files(Path::new("/bin/sh"), &sha256));
        assert_eq!(executed(&script), (Some(0), "it's $x\nnone\n".to_owned(), String::new()));
    }

    /// The setup is executed before the node, in the same shell.
    #[test]
    fn setup_comes_before_node() {
        let settings = SlurmSettings {
            setup: Some("export LOADED=yes\necho first".to_owned()),
            ..SlurmSettings::default()
        };
        let request = request(&["-c", "echo $LOADED"], Resources::default());
        let sha256 = sha256("/bin/sh");
        let script = script(&settings, &request, &Key::new("a", 0), files(Path::new("/bin/sh"), &sha256));
        assert_eq!(executed(&script), (Some(0), "first\nyes\n".to_owned(), String::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Arguments reach the node as they are, whatever is in them.
        #[test]
        fn arguments_reach_the_node(mut words in prop::collection::vec("[^\0]{0,12}", 0..5)) {
            let mut all = vec!["%s\\0"];
            all.extend(words.iter().map(String::as_str));
            let request = request(&all, Resources::default());
            let sha256 = sha256("/usr/bin/printf");
            let key = Key::new("a", 0);
            let mut files = files(Path::new("/usr/bin/printf"), &sha256);
            files.token = None;
            let script = script(&SlurmSettings::default(), &request, &key, files);
            words.extend(["--name", "a-aaaaaa", "--gpus", "0"].map(str::to_owned));
            let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
            prop_assert_eq!(executed(&script), (Some(0), expected, String::new()));
        }
    }
}
