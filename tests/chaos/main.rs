//! Whole Apps under random faults: a head, nodes and processes of Works, with a network between them that breaks.
//!
//! A seed determines the processes, the messages and the faults ([`plan`]). All processes record their actions
//! ([`records`]), and a checker that shares no code with the crate judges the records ([`checker`]).
//!
//! `FLOWRIGHT_CHAOS_SEED` selects one seed, `FLOWRIGHT_CHAOS_SECONDS` the duration of the faults of a seed, and
//! `FLOWRIGHT_CHAOS_RUNS` the number of random seeds. With `FLOWRIGHT_CHAOS_KEEP` the records of good runs are kept as
//! well.

mod adoption;
mod checker;
mod conduct;
mod exchanges;
#[path = "../remote/held.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod held;
mod http;
mod plan;
#[path = "../remote/process.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod process;
mod processes;
#[path = "../remote/proxy.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod proxy;
mod records;
mod stage;
#[path = "../remote/tokens.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod tokens;
mod works;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::{Arguments, Failed, Trial};

use self::process::VARIABLE;

/// First argument of a process that conducts a run; seed, seconds and directory follow.
const CONDUCT: &str = "conduct";
/// Seeds that are always run.
const FIXED: [u64; 2] = [1, 2];
/// Default duration of the faults of each seed.
const SECONDS: u64 = 20;

fn main() -> ExitCode {
    if let Some(program) = std::env::var_os(VARIABLE) {
        return if program == adoption::PROGRAM { adoption::program() } else { works::program() };
    }
    if let [_, command, seed, seconds, directory] = &std::env::args().collect::<Vec<_>>()[..]
        && command == CONDUCT
    {
        let number = |text: &String| text.parse().expect("this program has written the argument");
        conduct::conduct(number(seed), Duration::from_secs(number(seconds)), Path::new(directory));
        return ExitCode::SUCCESS;
    }
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} has to be a whole number, and is `{text}`")),
        )
    };
    let lasts = Duration::from_secs(number("FLOWRIGHT_CHAOS_SECONDS").unwrap_or(SECONDS));
    let random =
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let mut rng = plan::Rng::new(random());
    let mut some = |count: u64| (0..count).map(|_| rng.below(1_000_000)).collect::<Vec<_>>();
    let seeds = match (number("FLOWRIGHT_CHAOS_SEED"), number("FLOWRIGHT_CHAOS_RUNS")) {
        (Some(seed), runs) => (seed..seed + runs.unwrap_or(1)).collect(),
        (None, Some(runs)) => some(runs),
        (None, None) => [FIXED.to_vec(), some(1)].concat(),
    };
    let tests = [adoption::TESTS, checker::tests::TESTS, checker::exchange_tests::TESTS, plan::TESTS]
        .concat()
        .into_iter();
    let mut trials: Vec<_> = tests
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    let adoptions = seeds.clone().into_iter();
    trials.extend(
        adoptions.map(|seed| {
            Trial::test(format!("adoption_{seed}"), move || adoption::adoption_under_faults(seed))
        }),
    );
    trials
        .extend(seeds.into_iter().map(|seed| Trial::test(format!("seed_{seed}"), move || run(seed, lasts))));
    let mut arguments = Arguments::from_args();
    // A run uses the whole machine.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Conducts a run in a process with its own network, disks and process ids, where that is possible, so that nothing can
/// be left behind.
fn conduct_alone(seed: u64, lasts: Duration, directory: &Path) -> Result<(), Failed> {
    const ALONE: [&str; 7] = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"];
    let can = Command::new("unshare").args(ALONE).args(["ip", "link", "set", "lo", "up"]).output();
    let this = std::env::current_exe()?;
    let mut command = if can.is_ok_and(|done| done.status.success()) {
        let mut command = Command::new("unshare");
        // The shell reaps orphaned processes.
        command.args(ALONE).args(["sh", "-c", "ip link set lo up; \"$0\" \"$@\"; exit $?"]).arg(this);
        command.env(stage::ALONE, "yes");
        command
    } else {
        Command::new(this)
    };
    let arguments = [CONDUCT.to_owned(), seed.to_string(), lasts.as_secs().to_string()];
    let status = command.args(arguments).arg(directory).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the run was not conducted to its end: {status}").into())
    }
}

fn run(seed: u64, lasts: Duration) -> Result<(), Failed> {
    let again = format!(
        "FLOWRIGHT_CHAOS_SEED={seed} FLOWRIGHT_CHAOS_SECONDS={} cargo test --features chaos-tests --test chaos seed_",
        lasts.as_secs()
    );
    println!("seed {seed}: again by `{again}`");
    let began = Instant::now();
    let directory = std::env::temp_dir().join(format!("fw-chaos-{}-{seed}", std::process::id()));
    conduct_alone(seed, lasts, &directory)?;
    let report = checker::check(&records::read(&directory));
    println!("seed {seed}, {:.0} s: {report}", began.elapsed().as_secs_f64());
    if report.violations.is_empty() {
        if std::env::var_os("FLOWRIGHT_CHAOS_KEEP").is_some() {
            println!("the records are in {}", directory.display());
            return Ok(());
        }
        let _ = std::fs::remove_dir_all(&directory);
        return Ok(());
    }
    let rules: std::collections::BTreeSet<_> =
        report.violations.iter().map(|violation| violation.rule).collect();
    Err(format!("{rules:?} violated; the records are in {}; again by `{again}`", directory.display()).into())
}
