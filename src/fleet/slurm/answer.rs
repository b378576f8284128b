//! The answers of Slurm's commands to requests: the number of a job, and the classes of errors (pure).

use super::super::engine::EngineError;

/// Texts of errors after which the outcome is unknown or the controller may answer later, in lower case.
const UNREACHABLE: [&str; 10] = [
    "unable to contact slurm controller",
    "socket timed out",
    "zero bytes were transmitted",
    "connection refused",
    "connection timed out",
    "authentication error",
    "standby mode",
    "munge encode failed",
    "slurm temporarily unable",
    "resource temporarily unavailable",
];

/// Texts of errors that say that a limit of the user, the account or the queue has been reached, in lower case.
const QUOTA: [&str; 4] =
    ["violates accounting/qos policy", "job queue full", "maxsubmit", "submitjobsperuser"];

/// Parts of the names of limits on one job. A job above such a limit is above it later as well.
const OF_ONE_JOB: [&str; 4] = ["perjob", "walldurationper", "minbilling", "mincpunotsatisfied"];

/// Longest text of an error, in characters. A site's own checks may print pages.
const LONGEST: usize = 500;

/// Returns the number of the job that `sbatch --parsable` has printed: `123` or `123;CLUSTER`.
pub(super) fn job_id(stdout: &str) -> Option<&str> {
    // Wrappers of a site may print more, in front.
    let last = stdout.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let id = last.split(';').next().unwrap_or_default();
    is_number(id).then_some(id)
}

/// Returns true for the number of a job, of at most 20 digits.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the class of the error that a failed command has printed.
pub(super) fn error_of(printed: &str) -> EngineError {
    let words = words_of(printed);
    let lower = printed.to_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if words.is_empty() {
        return EngineError::Unreachable("the command failed without a word".to_owned());
    }
    if has(&UNREACHABLE) {
        return EngineError::Unreachable(words);
    }
    if has(&QUOTA) && !has(&OF_ONE_JOB) {
        return EngineError::Quota(words);
    }
    EngineError::Refused(words)
}

/// Returns what a command has printed as one line without the names of the commands, bounded.
pub(super) fn words_of(printed: &str) -> String {
    let line = |line: &str| {
        let mut line = line.trim();
        for prefix in ["sbatch:", "squeue:", "scancel:", "error:", "fatal:", "Batch job submission failed:"] {
            line = line.strip_prefix(prefix).unwrap_or(line).trim_start();
        }
        line.chars().map(|each| if each.is_control() { ' ' } else { each }).collect::<String>()
    };
    let lines: Vec<_> = printed.lines().map(line).filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The number of a job is the last line, with or without a cluster.
    #[test]
    fn number_of_job_is_read() {
        for (printed, id) in [
            ("123\n", Some("123")),
            ("123;west\n", Some("123")),
            ("Welcome!\n\n 42 \n\n", Some("42")),
            ("Submitted batch job 123\n", None),
            ("", None),
            ("12a\n", None),
            ("-3\n", None),
            (";west\n", None),
            ("123456789012345678901\n", None),
        ] {
            assert_eq!(job_id(printed), id, "{printed:?}");
        }
    }

    /// Each error of `sbatch` has its class, and the words of Slurm.
    #[test]
    fn errors_are_classed_by_their_words() {
        let refused = [
            (
                "sbatch: error: invalid partition specified: nope\n\
                 sbatch: error: Batch job submission failed: Invalid partition name specified\n",
                "invalid partition specified: nope; Invalid partition name specified",
            ),
            (
                "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n",
                "Invalid account or account/partition combination specified",
            ),
            (
                "sbatch: error: Batch job submission failed: Requested node configuration is not available\n",
                "Requested node configuration is not available",
            ),
            ("sbatch: unrecognized option '--bogus'\n", "unrecognized option '--bogus'"),
            (
                "sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates \
                 accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
                "QOSMaxWallDurationPerJobLimit; Job violates accounting/QOS policy (job submit limit, user's size and/or \
                 time limits)",
            ),
        ];
        for (printed, words) in refused {
            assert_eq!(error_of(printed), EngineError::Refused(words.to_owned()));
        }
        for printed in [
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates \
             accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates \
             accounting/QOS policy (job submit limit, the user's size and/or time limits)\n",
            "sbatch: error: Slurm job queue full, sleeping and retrying.\n",
        ] {
            assert!(matches!(error_of(printed), EngineError::Quota(_)), "{printed}");
        }
        for printed in [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n",
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n",
            "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received\n",
            "sbatch: error: Batch job submission failed: Protocol authentication error\n",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.\n",
            "",
            "\n \n",
        ] {
            assert!(matches!(error_of(printed), EngineError::Unreachable(_)), "{printed}");
        }
    }

    proptest! {
        /// No text makes the readers panic, and the words are bounded and one line.
        #[test]
        fn any_text_is_read(text in any::<String>(), long in "\\PC{0,900}") {
            for text in [text, long] {
                let _ = job_id(&text);
                let _ = error_of(&text);
                let words = words_of(&text);
                prop_assert!(words.chars().count() <= LONGEST + 1);
                prop_assert!(!words.contains(char::is_control));
            }
        }
    }
}
