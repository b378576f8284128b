//! DBOS, which is measured in Python: `peers/dbos_steps.py`.

use std::process::{Command, Stdio};

use super::{Directory, Figures, beside, figures_of};

/// Environment variable with the Python interpreter that has the peers installed; `python3` by default.
const PYTHON: &str = "PEERS_PYTHON";

/// Measures DBOS once, with a new database.
pub fn measure(mode: &str) -> Result<Figures, String> {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".to_owned());
    let there = Command::new(&python).args(["-c", "import dbos"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        return Err(format!("not installed: `{python}` has no `dbos`; {PYTHON} names another Python"));
    }
    let directory = Directory::new("dbos");
    let mut command = Command::new(&python);
    figures_of(command.arg(beside("peers/dbos_steps.py")).arg(directory.0.join("dbos.sqlite")).arg(mode))
}
