//! The list of jobs that `squeue` prints (pure).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::SystemTime;

use chrono::NaiveDateTime;

use super::super::engine::{AllocationEnd, Listed, ListedStage};
use super::super::key::Key;
use super::answer::is_number;

/// The format in which `squeue` prints jobs: id, name, state, reason, time of the end, and nodes.
pub(super) const FORMAT: &str = "%i|%j|%T|%r|%e|%N";

/// Reads the jobs of the App with this tag from the output of `squeue`, one for each key.
///
/// # Errors
/// A description of what is wrong with the output. A list that may lack a job is an error, since a missing job has ended.
pub(super) fn jobs(printed: &str, tag: &str) -> Result<Vec<Listed>, String> {
    if !printed.is_empty() && !printed.ends_with('\n') {
        return Err(format!("the list of jobs ends within a line: `{}`", excerpt(printed)));
    }
    let mark = format!("fr-{tag}-");
    let mut found: BTreeMap<Key, Listed> = BTreeMap::new();
    let mut read = 0;
    let mut odd = None;
    for line in printed.lines().filter(|line| !line.trim().is_empty()) {
        match row(line) {
            Some(row) => {
                read += 1;
                let Some(key) = Key::of_job(row.name, tag) else { continue };
                let job = row.listed(key);
                match found.entry(job.key.clone()) {
                    Entry::Vacant(place) => {
                        place.insert(job);
                    }
                    // Two jobs of one name: the key is present as long as one of them is.
                    Entry::Occupied(mut place) if matches!(place.get().stage, ListedStage::Ended { .. }) => {
                        place.insert(job);
                    }
                    Entry::Occupied(_) => {}
                }
            }
            // The names of other jobs can have line breaks.
            None if line.contains(&mark) => {
                return Err(format!("the list has an incomplete line: `{}`", excerpt(line)));
            }
            None => odd = odd.or(Some(line)),
        }
    }
    match odd {
        Some(line) if read == 0 => Err(format!("this is no list of jobs: `{}`", excerpt(line))),
        _ => Ok(found.into_values().collect()),
    }
}

/// Returns the numbers of the jobs of this App that have not ended, with their keys. There may be several of one key.
pub(super) fn live_ids(printed: &str, tag: &str) -> Vec<(Key, String)> {
    let live = |line| {
        let row: Row<'_> = row(line)?;
        let key = Key::of_job(row.name, tag)?;
        let has_ended = matches!(row.stage(), ListedStage::Ended { .. });
        (!has_ended).then(|| (key, row.id.to_owned()))
    };
    printed.lines().filter_map(live).collect()
}

/// One line of the list.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    state: &'a str,
    reason: &'a str,
    end: &'a str,
    nodes: &'a str,
}

fn row(line: &str) -> Option<Row<'_>> {
    // Only the name can have the separator, so that the others are counted from the ends.
    let mut from_end = line.trim_end_matches('\r').rsplitn(5, '|');
    let nodes = from_end.next()?.trim();
    let end = from_end.next()?.trim();
    let reason = from_end.next()?.trim();
    let state = from_end.next()?.trim();
    let (id, name) = from_end.next()?.split_once('|')?;
    let id = id.trim();
    // `12`, or of an array or a heterogeneous job `12_3`, `12_[1-3]` and `12+1`.
    let number = id.split(['_', '+']).next().unwrap_or_default();
    let is_state = state.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
    (is_number(number) && is_state).then_some(Row { id, name, state, reason, end, nodes })
}

impl Row<'_> {
    fn listed(self, key: Key) -> Listed {
        let stage = self.stage();
        let ends_at = match stage {
            // An estimate, by when the job may begin.
            ListedStage::Queued { .. } => None,
            _ => time(self.end),
        };
        Listed { key, id: self.id.to_owned(), stage, ends_at }
    }

    fn stage(self) -> ListedStage {
        // As in `CANCELLED by 1000` and `CANCELLED+`.
        let state = self.state.split([' ', '+']).next().unwrap_or_default();
        let ended = |end| {
            let words = match self.reason {
                "" | "None" | "(null)" => state.to_owned(),
                reason => format!("{state} ({reason})"),
            };
            ListedStage::Ended { end, words }
        };
        match state {
            // It has not been tried to be scheduled yet.
            "PENDING" if ["", "None", "(null)"].contains(&self.reason) => {
                ListedStage::Queued { why: state.to_owned() }
            }
            "PENDING" => ListedStage::Queued { why: self.reason.to_owned() },
            "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD"
            | "SPECIAL_EXIT" => ListedStage::Queued { why: state.to_owned() },
            "COMPLETED" => ended(AllocationEnd::Completed),
            "CANCELLED" | "REVOKED" => ended(AllocationEnd::Cancelled),
            "TIMEOUT" | "DEADLINE" => ended(AllocationEnd::TimeLimit),
            "PREEMPTED" => ended(AllocationEnd::Preempted),
            "FAILED" | "NODE_FAIL" | "BOOT_FAIL" | "OUT_OF_MEMORY" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => {
                ended(AllocationEnd::Failed)
            }
            // RUNNING, COMPLETING, SUSPENDED, STOPPED, STAGE_OUT, and any state that a later version has: present.
            _ => ListedStage::Running { at: self.nodes.to_owned() },
        }
    }
}

/// Parses a time of `squeue`, which has been asked for UTC. `N/A`, `NONE` and `UNLIMITED` are no times.
fn time(text: &str) -> Option<SystemTime> {
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S").ok()?.and_utc();
    Some(time.into())
}

/// Returns the beginning of a text, for an error.
fn excerpt(text: &str) -> String {
    let last = text.lines().last().unwrap_or_default();
    last.chars().take(120).map(|each| if each.is_control() { ' ' } else { each }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn stage_of(state: &str, reason: &str) -> ListedStage {
        let printed = format!("7|fr-t-a-aaaaaa|{state}|{reason}|N/A|n[1-2]\n");
        jobs(&printed, "t").unwrap().remove(0).stage
    }

    /// The list of Slurm 22.05: other jobs are left out, and the times are UTC.
    #[test]
    fn list_of_jobs_is_read() {
        let printed = "1742864|j.sh|PENDING|PartitionTimeLimit|N/A|\n\
                       1742857|fr-t-a-aaaaaa|RUNNING|None|2026-11-30T19:09:37|n1\n\
                       1742858|fr-t-a-b-aaaaab|PENDING|Priority|2026-11-30T19:09:37|\n\
                       1742867|we|ird \"x|RUNNING|None|2026-11-30T19:15:23|n1\n\
                       1742868|fr-other-a-aaaaaa|RUNNING|None|2026-11-30T19:15:23|n1\n\
                       12_[1-3]|array|PENDING|Resources|N/A|\n\
                       1742860|fr-t-a-aaaaac|FAILED|NonZeroExitCode|2026-11-30T19:08:37|\n";
        let jobs = jobs(printed, "t").unwrap();
        let end = UNIX_EPOCH + Duration::from_secs(1_796_065_777);
        let key = |text: &str| text.parse::<Key>().unwrap();
        assert_eq!(
            jobs,
            [
                Listed {
                    key: key("a-aaaaaa"),
                    id: "1742857".to_owned(),
                    stage: ListedStage::Running { at: "n1".to_owned() },
                    ends_at: Some(end),
                },
                Listed {
                    key: key("a-aaaaac"),
                    id: "1742860".to_owned(),
                    stage: ListedStage::Ended {
                        end: AllocationEnd::Failed,
                        words: "FAILED (NonZeroExitCode)".to_owned()
                    },
                    ends_at: Some(end - Duration::from_secs(60)),
                },
                Listed {
                    key: key("a-b-aaaaab"),
                    id: "1742858".to_owned(),
                    stage: ListedStage::Queued { why: "Priority".to_owned() },
                    ends_at: None,
                },
            ]
        );
        assert_eq!(
            live_ids(printed, "t"),
            [(key("a-aaaaaa"), "1742857".to_owned()), (key("a-b-aaaaab"), "1742858".to_owned())]
        );
    }

    /// Each state of Slurm is one stage; states that are not known count as present.
    #[test]
    fn states_are_stages() {
        let queued = |why: &str| ListedStage::Queued { why: why.to_owned() };
        let running = ListedStage::Running { at: "n[1-2]".to_owned() };
        let ended = |end, words: &str| ListedStage::Ended { end, words: words.to_owned() };
        assert_eq!(stage_of("PENDING", "Resources"), queued("Resources"));
        assert_eq!(stage_of("PENDING", "None"), queued("PENDING"));
        for state in ["CONFIGURING", "REQUEUED", "REQUEUE_HOLD"] {
            assert_eq!(stage_of(state, "None"), queued(state));
        }
        for state in ["RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "RESIZING", "NEW_STATE"] {
            assert_eq!(stage_of(state, "None"), running, "{state}");
        }
        assert_eq!(stage_of("COMPLETED", "None"), ended(AllocationEnd::Completed, "COMPLETED"));
        assert_eq!(stage_of("CANCELLED by 1000", "None"), ended(AllocationEnd::Cancelled, "CANCELLED"));
        assert_eq!(stage_of("CANCELLED+", "(null)"), ended(AllocationEnd::Cancelled, "CANCELLED"));
        assert_eq!(stage_of("TIMEOUT", "TimeLimit"), ended(AllocationEnd::TimeLimit, "TIMEOUT (TimeLimit)"));
        assert_eq!(stage_of("DEADLINE", ""), ended(AllocationEnd::TimeLimit, "DEADLINE"));
        assert_eq!(stage_of("PREEMPTED", "None"), ended(AllocationEnd::Preempted, "PREEMPTED"));
        for state in ["FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"] {
            assert_eq!(stage_of(state, "None"), ended(AllocationEnd::Failed, state));
        }
    }

    /// A list that may lack a job is an error.
    #[test]
    fn incomplete_lists_are_errors() {
        for printed in [
            "7|fr-t-a-aaaaaa|RUNNING|None|N/A|n1",
            "7|fr-t-a-aaaaaa|RUNNING|None|N/A\n",
            "7|fr-t-a-aaaaaa|RUNN\n",
            "8|other|RUNNING|None|N/A|n1\nx|fr-t-a-aaaaaa|RUNNING|None|N/A|n1\n",
            "Segmentation fault\n",
            "<html>\n<body>\n",
        ] {
            assert!(jobs(printed, "t").is_err(), "{printed}");
        }
        for printed in
            ["", "\n", "CLUSTER: west\n8|other|RUNNING|None|N/A|n1\n", "8|two\nlines|RUNNING|None|N/A|n1\n"]
        {
            match printed.contains("two") {
                // This is no job of ours, but neither is it a list in which anything was understood.
                true => assert!(jobs(printed, "t").is_err()),
                false => assert_eq!(jobs(printed, "t"), Ok(Vec::new()), "{printed}"),
            }
        }
    }

    /// Of two jobs with one name the one that has not ended counts.
    #[test]
    fn live_job_of_a_key_counts() {
        let (ended, live) = ("7|fr-t-a-aaaaaa|FAILED|None|N/A|\n", "8|fr-t-a-aaaaaa|RUNNING|None|N/A|n1\n");
        for printed in [format!("{ended}{live}"), format!("{live}{ended}")] {
            let jobs = jobs(&printed, "t").unwrap();
            assert_eq!((jobs.len(), jobs[0].id.as_str()), (1, "8"));
        }
    }

    proptest! {
        /// Nothing that the command prints makes the reader panic.
        #[test]
        fn any_text_is_read(text in any::<String>(), lines in prop::collection::vec("[0-9_|]{0,6}[a-zA-Z|:\\[\\] -]{0,40}", 0..6)) {
            let _ = jobs(&text, "t");
            let printed: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let _ = jobs(&printed, "t");
            let _ = live_ids(&printed, "t");
        }

        /// A list cut off anywhere is an error or the beginning of the list up to a whole line.
        #[test]
        fn lists_that_are_cut_off_lose_nothing_silently(cut in 0_usize..200) {
            let line = |id: u32, name: &str| format!("{id}|fr-t-a-{name}|RUNNING|None|2026-11-30T19:09:37|n1\n");
            let printed = line(1, "aaaaaa") + &line(2, "aaaaab") + &line(3, "aaaaac");
            let cut = cut.min(printed.len());
            let whole = printed[..cut].matches('\n').count();
            match jobs(&printed[..cut], "t") {
                Ok(jobs) => prop_assert!(jobs.len() == whole && (cut == 0 || printed[..cut].ends_with('\n'))),
                Err(_) => prop_assert!(!printed[..cut].ends_with('\n')),
            }
        }
    }
}
