//! An App from its start to its exit code.

use std::process::ExitCode;
use std::time::Instant;

use super::output::{exit_code, report, say};
use super::signals::{ONE_SIGNAL, Signals, catch};
use crate::app::{App, AppError, AppHandle};
use crate::descriptors;
use crate::trace::export;

/// Runs an App, which `begin` launches, until it ends.
pub(crate) fn run(mut app: App, begin: impl AsyncFnOnce(App) -> Result<AppHandle, AppError>) -> ExitCode {
    descriptors::raise_limit();
    let _exporting = export();
    say("Your Flowright App is starting. This won't take long.");
    app.on_failure = Some(Box::new(report));
    // Installed before the App is visible to others: whoever sees it may signal it.
    let (runtime, signals) = match catch() {
        Ok(caught) => caught,
        Err(error) => {
            report(&AppError::Signals(error));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let mut signals = signals;
        let begun = tokio::select! {
            begun = begin(app) => begun,
            // The constructor of the root may never return; no Work runs yet.
            _ = signals.next() => return ExitCode::SUCCESS,
        };
        match begun {
            Ok(app) => ExitCode::from(u8::from(wait(app, signals).await.is_err())),
            Err(error) => {
                report(&error);
                ExitCode::from(exit_code(&error))
            }
        }
    })
}

async fn wait(app: AppHandle, mut signals: Signals) -> Result<(), ()> {
    let control = app.control().clone();
    let stopping = async move {
        let mut asked: Option<Instant> = None;
        loop {
            let name = signals.next().await;
            match asked {
                // A process and its group may be signalled together, as by `timeout`; that is one signal.
                Some(asked) if asked.elapsed() < ONE_SIGNAL => continue,
                Some(_) => {
                    log::warn!("a second {name}: ending without waiting for the Works");
                    std::process::exit(0);
                }
                None => asked = Some(Instant::now()),
            }
            say("Your Flowright App is being stopped. This won't take long.");
            control.stop(name);
        }
    };
    tokio::select! {
        exit = app.wait() => {
            match &exit.result {
                Ok(()) => say("Your Flowright App has been stopped successfully!"),
                // Other failures were printed when they happened.
                Err(error @ AppError::Stuck { .. }) => report(error),
                #[cfg(feature = "journal")]
                Err(error @ AppError::JournalFull { .. }) => report(error),
                Err(_) => {}
            }
            exit.result.map_err(|_| ())
        }
        () = stopping => unreachable!("signals never end"),
    }
}
