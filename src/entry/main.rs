//! `App::main` without the feature `cli`.

use std::process::ExitCode;

use log::LevelFilter;

use super::init::run_as_init;
use super::log_lines::init_log;
use super::output::WRONG_USAGE;
use super::run::run;
use crate::app::{App, AppError, AppHandle};
use crate::printable::one_line;
use crate::program::restore_name;

impl App {
    /// Runs the App until it ends, as the configuration that the program gives it says. The command line needs the
    /// feature `cli`; without it, every argument is wrong usage.
    ///
    /// Exit codes: 0 when a Flow, Ctrl-C, SIGTERM or SIGHUP stopped the App; 1 when it failed (the failure is printed
    /// to stderr at once); 2 for wrong usage. A second Ctrl-C ends the process without waiting for its Works.
    ///
    /// As PID 1 of a container the program starts itself again as a child, forwards signals to it, exits with it, and
    /// reaps orphaned processes. Code before this call therefore runs in both processes.
    pub fn main(self) -> ExitCode {
        restore_name();
        if let Some(argument) = std::env::args_os().nth(1) {
            eprintln!(
                "error: this program takes no arguments, but was given `{}`; build it with the feature `cli` of flowright \
                 for a command line",
                one_line(&argument.to_string_lossy())
            );
            return ExitCode::from(WRONG_USAGE);
        }
        if let Some(code) = run_as_init() {
            return code;
        }
        init_log(LevelFilter::Info);
        run(self, begin)
    }
}

#[cfg(feature = "http")]
async fn begin(app: App) -> Result<AppHandle, AppError> {
    let (launched, address, _) = super::serve::serve(app).await?;
    Ok(launched.begin(Some(address)))
}

#[cfg(not(feature = "http"))]
async fn begin(app: App) -> Result<AppHandle, AppError> {
    let launched = app.launch().await?;
    log::info!("Your app has started.");
    Ok(launched.begin(None))
}
