//! Other actor systems between two processes: `remote-peers case NAME` starts the server process, measures, and
//! prints one line for each figure. The bench `remote` runs this program, alternating with its own cases.

mod peers;
mod support;

use std::process::ExitCode;
use std::time::Duration;

/// Time limit of a case.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        eprintln!("remote-peers: given up after {} s", LIMIT.as_secs());
        std::process::exit(124);
    });
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["case", name] => peers::call(name),
        ["serve", name, port] => match port.parse() {
            Ok(port) => peers::serve(name, port),
            Err(_) => false,
        },
        _ => false,
    }
    .then_some(ExitCode::SUCCESS)
    .unwrap_or_else(|| {
        eprintln!("remote-peers: `case NAME`, with a NAME of: {}", peers::NAMES.join(", "));
        ExitCode::FAILURE
    })
}
