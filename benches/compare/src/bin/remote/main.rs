//! Two processes over loopback: Flowright, other actor systems, and the floor beneath all of them.
//!
//! Each case is a new process that starts its own server process. The cases alternate over several rounds, and
//! medians are printed. `cargo run --release --bin remote -- --help`

mod cases;
mod floor;
mod load;
mod messages;
mod nodes;
mod support;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Time limit of a case.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Parser)]
#[command(about = "Messages between two processes: Flowright, other actor systems, and the floor")]
struct Options {
    /// Number of rounds in which each case is run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these cases (repeat it, or separate them with commas)
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    only: Vec<String>,
    /// The program that has the other systems, built in `remote-peers/`
    #[arg(long, value_name = "FILE", default_value = concat!(
        env!("CARGO_MANIFEST_DIR"), "/remote-peers/target/release/remote-peers"
    ))]
    peers: PathBuf,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let app = std::env::var(support::APP).unwrap_or_default();
    support::end_with_parent();
    let role = arguments.next();
    // Pin each end to its own core, like two machines with one core each. Otherwise the scheduler sometimes puts both
    // ends on one core, where a wake-up takes a tenth of the time, and that would dominate the figures.
    match role.as_deref() {
        Some("node" | "floor") => support::keep_to(1),
        Some("case") => support::keep_to(0),
        _ => {}
    }
    match role.as_deref() {
        Some("node") => match app.as_str() {
            "load" => load::node(),
            "nodes" => nodes::node(),
            _ => messages::node(),
        },
        Some("floor") => {
            floor::serve(&app);
            ExitCode::SUCCESS
        }
        Some("case") => {
            std::thread::spawn(|| {
                std::thread::sleep(LIMIT);
                eprintln!("remote: given up after {} s", LIMIT.as_secs());
                std::process::exit(124);
            });
            cases::run(&arguments.next().unwrap_or_default());
            ExitCode::SUCCESS
        }
        _ => compare(&Options::parse()),
    }
}

fn compare(options: &Options) -> ExitCode {
    let has_peers = options.peers.exists();
    if !has_peers {
        eprintln!("remote: the other systems are left out: there is no {}", options.peers.display());
    }
    let mut cases = cases::all(has_peers.then(|| options.peers.clone()));
    if let Some(unknown) = options.only.iter().find(|name| cases.iter().all(|case| case.name != **name)) {
        let known: Vec<_> = cases.iter().map(|case| case.name).collect();
        eprintln!("remote: no {unknown:?}; there are: {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    cases.retain(|case| options.only.is_empty() || options.only.iter().any(|name| name == case.name));

    let mut figures = table::Figures::default();
    let mut failed = false;
    for round in 0..options.rounds {
        // The first case rotates with each round, so that no case always runs first after a pause.
        let first = round as usize % cases.len();
        for case in cases[first..].iter().chain(&cases[..first]) {
            if round > 0 && case.once {
                continue;
            }
            match case.measure() {
                Ok(measured) => {
                    for (measure, value) in measured {
                        eprintln!(
                            "round {}/{}  {:<18} {measure:<18} {value:.2}",
                            round + 1,
                            options.rounds,
                            case.name
                        );
                        figures.add(&measure, case.name, value);
                    }
                }
                Err(error) => {
                    failed = true;
                    eprintln!("{}: {error}", case.name);
                }
            }
        }
    }
    figures.print();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
