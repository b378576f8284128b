//! Comparison of Flowright with other actor systems, as one table.
//!
//! The parent runs each (system, measure) pair as a new child process of this binary, in several rounds with the
//! systems alternating, and prints medians.

mod measures;
mod peers;
mod support;

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use measures::{MEASURES, Measure};
use peers::{SYSTEMS, System};

/// The system that all ratios in the table are relative to.
const BASELINE: &str = "actix";

/// Time limit of a child process.
const CHILD_LIMIT: Duration = Duration::from_secs(300);

#[derive(Parser)]
#[command(about = "Compares actor systems, one fresh process for each case")]
struct Cli {
    #[command(subcommand)]
    command: Option<Internal>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// Number of rounds in which each case is run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these measures (repeat it, or separate them with commas)
    #[arg(long, value_name = "MEASURE", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these systems (repeat it, or separate them with commas)
    #[arg(long, value_name = "SYSTEM", value_delimiter = ',')]
    system: Vec<String>,
    /// Smaller counts: to see that everything runs, not to compare
    #[arg(long)]
    quick: bool,
    /// Print what each measure is, and run nothing
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Internal {
    /// Run a case in this process: print its figure, or nothing if the system lacks the measure
    #[command(hide = true)]
    Case { system: String, measure: String, n: u64 },
}

/// A line of the table: a pair of system and measure, and the figures of its rounds.
struct Row {
    measure: &'static Measure,
    system: &'static System,
    values: Vec<f64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Internal::Case { system, measure, n }) => case(&system, &measure, n),
        None if cli.options.list => {
            list();
            Ok(())
        }
        None => compare(&cli.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("compare: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one case in the child process. It leaves by `exit`, so that it does not wait for threads that still hold
/// actors.
fn case(system: &str, measure: &str, n: u64) -> Result<(), String> {
    let system = SYSTEMS.iter().find(|s| s.name == system).ok_or_else(|| format!("no system {system:?}"))?;
    std::thread::spawn(|| {
        std::thread::sleep(CHILD_LIMIT);
        eprintln!("compare: given up after {} s", CHILD_LIMIT.as_secs());
        std::process::exit(124);
    });
    if let Some(value) = (system.run)(measure, n) {
        println!("{value}");
        std::io::stdout().flush().map_err(|e| e.to_string())?;
    }
    std::process::exit(0);
}

fn list() {
    for m in MEASURES {
        println!("{} [{}] n = {} (--quick {})\n    {}", m.name, m.unit, m.n, m.quick, m.doc);
    }
}

fn compare(options: &Options) -> Result<(), String> {
    let unknown =
        |given: &[String], known: Vec<&str>| match given.iter().find(|g| !known.contains(&g.as_str())) {
            Some(g) => Err(format!("no {g:?}; there are: {}", known.join(", "))),
            None => Ok(()),
        };
    unknown(&options.only, MEASURES.iter().map(|m| m.name).collect())?;
    unknown(&options.system, SYSTEMS.iter().map(|s| s.name).collect())?;
    let wanted = |filter: &[String], name: &str| filter.is_empty() || filter.iter().any(|f| f == name);

    // Ordered by measure, like the lines of the table.
    let mut rows: Vec<Row> = Vec::new();
    for measure in MEASURES.iter().filter(|m| wanted(&options.only, m.name)) {
        for system in SYSTEMS.iter().filter(|s| wanted(&options.system, s.name)) {
            rows.push(Row { measure, system, values: Vec::new() });
        }
    }

    let mut failures = 0u32;
    for round in 0..options.rounds {
        for measure in MEASURES {
            let mut turn: Vec<&mut Row> =
                rows.iter_mut().filter(|row| std::ptr::eq(row.measure, measure)).collect();
            // The first system rotates with each round, so that none always runs first after a pause.
            if !turn.is_empty() {
                let first = round as usize % turn.len();
                turn.rotate_left(first);
            }
            for row in turn {
                // A pair without a figure in the first round does not exist, and is skipped later.
                if round > 0 && row.values.is_empty() {
                    continue;
                }
                let n = if options.quick { measure.quick } else { measure.n };
                match child(row.system, measure, n) {
                    Ok(Some(value)) => {
                        eprintln!(
                            "round {}/{}  {:<24} {:<10} {}",
                            round + 1,
                            options.rounds,
                            measure.name,
                            row.system.name,
                            short(value)
                        );
                        row.values.push(value);
                    }
                    Ok(None) => {}
                    Err(message) => {
                        failures += 1;
                        eprintln!("{} {}: {message}", row.system.name, measure.name);
                    }
                }
            }
        }
    }

    rows.retain(|row| !row.values.is_empty());
    table(&rows);
    match failures {
        0 => Ok(()),
        n => Err(format!("{n} case(s) failed, see above")),
    }
}

fn child(system: &System, measure: &Measure, n: u64) -> Result<Option<f64>, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(this)
        .args(["case", system.name, measure.name, &n.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("the child ended with {}", output.status));
    }
    // The figure is in the last line; a library may have printed other lines.
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last().map(str::trim) {
        None | Some("") => Ok(None),
        Some(line) => line.parse().map(Some).map_err(|e| format!("{line:?}: {e}")),
    }
}

fn table(rows: &[Row]) {
    let ratio_title = format!("system / {BASELINE}");
    let mut lines: Vec<[String; 6]> = vec![[
        "measure".into(),
        "unit".into(),
        "system".into(),
        "median".into(),
        "min–max".into(),
        ratio_title,
    ]];
    for row in rows {
        let mut sorted = row.values.clone();
        sorted.sort_by(f64::total_cmp);
        let base = rows
            .iter()
            .find(|r| r.system.name == BASELINE && std::ptr::eq(r.measure, row.measure))
            .map(|r| support::median(&mut r.values.clone()));
        let middle = support::median(&mut sorted);
        lines.push([
            row.measure.name.into(),
            row.measure.unit.into(),
            row.system.name.into(),
            short(middle),
            format!("{}–{}", short(sorted[0]), short(sorted[sorted.len() - 1])),
            base.map_or_else(|| "-".into(), |b| format!("{:.2}", middle / b)),
        ]);
    }
    let width: Vec<usize> =
        (0..6).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    for (at, line) in lines.iter().enumerate() {
        println!(
            "| {:<w0$} | {:<w1$} | {:<w2$} | {:>w3$} | {:>w4$} | {:>w5$} |",
            line[0],
            line[1],
            line[2],
            line[3],
            line[4],
            line[5],
            w0 = width[0],
            w1 = width[1],
            w2 = width[2],
            w3 = width[3],
            w4 = width[4],
            w5 = width[5],
        );
        if at == 0 {
            let dash = |i: usize| "-".repeat(width[i]);
            println!(
                "| {} | {} | {} | {}: | {}: | {}: |",
                dash(0),
                dash(1),
                dash(2),
                "-".repeat(width[3] - 1),
                "-".repeat(width[4] - 1),
                "-".repeat(width[5] - 1)
            );
        }
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
