//! Ray and Dask, which run the same measurements in Python: `peers/*.py`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::median;

/// Throughput of large values in GB/s; latencies in microseconds.
#[derive(Deserialize)]
pub struct Figures {
    pub large: f64,
    pub floats: f64,
    pub small_us: f64,
    pub near_us: f64,
    pub ask_us: f64,
}

/// Environment variable with the Python interpreter that has the peers installed; `python3` by default.
const PYTHON: &str = "PEERS_PYTHON";

/// Returns the medians of a peer, or the reason why it could not be measured.
pub fn measure(module: &str, script: &str, rounds: u64) -> Result<Figures, String> {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".to_owned());
    let mut probe = Command::new(&python);
    let there = probe.args(["-c", &format!("import numpy, {module}")]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        return Err(format!("not installed: `{python}` has no `{module}`; {PYTHON} names another Python"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
    let mut command = Command::new(&python);
    // The first round is discarded, as for Flowright.
    command.arg(script).arg((rounds + 1).to_string()).stderr(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Figures>(line).ok());
    let figures: Vec<Figures> = lines.skip(1).collect();
    if !output.status.success() || figures.is_empty() {
        return Err(format!("`{module}` did not get through: {}", output.status));
    }
    let column = |of: fn(&Figures) -> f64| median(figures.iter().map(of).collect());
    Ok(Figures {
        large: column(|f| f.large),
        floats: column(|f| f.floats),
        small_us: column(|f| f.small_us),
        near_us: column(|f| f.near_us),
        ask_us: column(|f| f.ask_us),
    })
}
