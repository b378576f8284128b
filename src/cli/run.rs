//! `App::main`: from arguments to an exit code.

#[cfg(feature = "http")]
use std::ffi::OsString;
#[cfg(feature = "http")]
use std::io::IsTerminal;
use std::io::{self, Write};
#[cfg(feature = "http")]
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Instant;

use super::args::{Args, Asked, completions};
use super::init::run_as_init;
use super::output::{WRONG_USAGE, exit_code, report, say, wrong_usage};
use super::signals::{ONE_SIGNAL, Signals, catch};
#[cfg(feature = "remote")]
use crate::app::forwarding;
use crate::app::keeping;
use crate::app::{App, AppError, AppHandle};
use crate::descriptors;
#[cfg(feature = "http")]
use crate::http;
use crate::printable::lines;
use crate::program::{restore_name, this_program};
use crate::trace::export;

/// Returns `true` if a person probably sees a browser that this process opens: it runs on a terminal, and there is a
/// display, by the environment variables that `variable` reads.
#[cfg(feature = "http")]
fn has_display(on_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    // The last one is set in the Windows Subsystem for Linux, where the browser is that of Windows.
    let of_display = ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"];
    on_terminal && (cfg!(target_os = "macos") || of_display.iter().any(is_set))
}

impl App {
    /// Gives the program its command line and runs the App until it ends.
    ///
    /// Exit codes: 0 when a Flow, Ctrl-C, SIGTERM or SIGHUP stopped the App; 1 when it failed (the failure is printed
    /// to stderr at once); 2 for wrong usage. A second Ctrl-C ends the process without waiting for its Works.
    ///
    /// As PID 1 of a container the program starts itself again as a child, forwards signals to it, exits with it, and
    /// reaps orphaned processes. Code before this call therefore runs in both processes.
    pub fn main(self) -> ExitCode {
        restore_name();
        let asked = Asked::from_command_line();
        if asked.hosts_works()
            && let Some(code) = run_as_init()
        {
            return code;
        }
        let args = match asked {
            Asked::Run(args) => args,
            #[cfg(feature = "remote")]
            Asked::Node(args) => {
                init_node_log(args.log_level, args.is_process());
                return self.node(&args);
            }
            #[cfg(feature = "tls")]
            Asked::Certs(args) => return super::certs::make(&args),
            #[cfg(feature = "http")]
            Asked::Client(command) => return super::client::run(&command, self.name),
            Asked::Completions(shell) => {
                // A reader that has closed the pipe is no error.
                let _ = io::stdout().lock().write_all(&completions(shell));
                return ExitCode::SUCCESS;
            }
        };
        init_log(args.log_level);
        match args.environment().and_then(|variables| Ok((variables, args.config()?))) {
            Ok((variables, config)) => {
                if let Some(code) = restart_with(variables) {
                    return code;
                }
                self.config(config).run(&args)
            }
            Err(error) => wrong_usage(&error),
        }
    }

    fn run(mut self, args: &Args) -> ExitCode {
        descriptors::raise_limit();
        if let Some(directory) = &self.config.log_dir
            && let Err(error) = super::log_files::write_to(directory)
        {
            let directory = directory.display();
            eprintln!("error: --log-dir {directory}: {error}\n\nFor more information, try '--help'.");
            return ExitCode::from(WRONG_USAGE);
        }
        let _exporting = export();
        say("Your Flowright App is starting. This won't take long.");
        self.on_failure = Some(Box::new(report));
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
                begun = self.serve_and_begin(args) => begun,
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

    #[cfg(feature = "http")]
    async fn serve_and_begin(mut self, args: &Args) -> Result<AppHandle, AppError> {
        let (host, port) = (self.config.host_or_default().to_owned(), self.config.port_or_default());
        let options = http::Options::of(&mut self);
        let launched = self.launch().await?;
        if args.without_server {
            log::info!("Your app has started.");
            return Ok(launched.begin(None));
        }
        let address = http::start(&launched, listen(&host, port)?, options).await?;
        // A browser cannot connect to the unspecified address.
        let shown = match address.ip() {
            ip if ip.is_unspecified() => format!("127.0.0.1:{}", address.port()),
            _ => address.to_string(),
        };
        let url = format!("http://{shown}/view");
        log::info!("Your app has started. View it in your browser: {url}");
        let is_asked = args.open_ui;
        if is_asked.unwrap_or_else(|| has_display(io::stderr().is_terminal(), |name| std::env::var_os(name)))
        {
            if is_asked.is_none() {
                log::info!("It opens in your browser now; --open-ui=false turns that off.");
            }
            // On a thread of its own: finding and starting a browser may take long, or fail.
            std::thread::spawn(move || {
                if let Err(error) = webbrowser::open(&url) {
                    log::warn!(
                        "no browser could be opened ({error}); open {url} yourself, or pass --open-ui=false"
                    );
                }
            });
        }
        Ok(launched.begin(Some(address)))
    }

    #[cfg(not(feature = "http"))]
    async fn serve_and_begin(self, _: &Args) -> Result<AppHandle, AppError> {
        let launched = self.launch().await?;
        log::info!("Your app has started.");
        Ok(launched.begin(None))
    }
}

#[cfg(feature = "http")]
/// Listens on the requested port, or on a free one if it is taken.
fn listen(host: &str, port: u16) -> Result<TcpListener, AppError> {
    let failed = |source| AppError::Listen { address: format!("{host}:{port}"), source };
    match TcpListener::bind((host, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let listener = TcpListener::bind((host, 0)).map_err(failed)?;
            let free = listener.local_addr().map_err(failed)?.port();
            log::warn!("port {port} of {host} is taken by another program; using {free} instead");
            Ok(listener)
        }
        bound => bound.map_err(failed),
    }
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
                Err(_) => {}
            }
            exit.result.map_err(|_| ())
        }
        () = stopping => unreachable!("signals never end"),
    }
}

/// Sets environment variables by executing the program again in this process, since a process with threads cannot
/// change its environment safely. Returns `None` when they are already set, else the exit code of the failed attempt.
fn restart_with(variables: Vec<(String, String)>) -> Option<ExitCode> {
    if variables.iter().all(|(key, value)| std::env::var_os(key).is_some_and(|there| there == value.as_str()))
    {
        return None;
    }
    let arguments = std::env::args_os().skip(1);
    let error = match this_program() {
        Ok(mut program) => program.args(arguments).envs(variables).exec(),
        Err(error) => error,
    };
    eprintln!("error: the environment variables of --env could not be set: {error}");
    Some(ExitCode::FAILURE)
}

pub(super) fn init_log(level: log::LevelFilter) {
    let logger = logger(level).build();
    let level = logger.filter();
    // A program that has installed a logger keeps it.
    if log::set_boxed_logger(Box::new(keeping(logger))).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(feature = "remote")]
/// Logs on stderr, and at the head as well once this node has joined it. The process of a single Work logs through its
/// head only, which is on the same machine.
pub(super) fn init_node_log(level: log::LevelFilter, is_process: bool) {
    let logger = logger(level).build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(forwarding(logger, is_process))).is_ok() {
        log::set_max_level(level);
    }
}

fn logger(level: log::LevelFilter) -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).format(|out, record| {
        // Log lines may quote nodes, Works and unauthenticated peers.
        writeln!(out, "{}: {}", record.level(), lines(&record.args().to_string()))
    });
    if level < log::LevelFilter::Debug {
        // The server logs each of its own steps at this level.
        for module in ["actix_server", "actix_web"] {
            builder.filter_module(module, level.min(log::LevelFilter::Warn));
        }
        // This module logs every malformed request as an error.
        builder.filter_module("actix_http", log::LevelFilter::Off);
    }
    builder
}

#[cfg(all(test, feature = "http", target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn browser_needs_a_terminal_and_a_display() {
        let with = |set: &'static str| move |name: &str| (name == set).then(|| OsString::from(":0"));
        assert!(has_display(true, with("DISPLAY")));
        assert!(has_display(true, with("WAYLAND_DISPLAY")));
        assert!(!has_display(false, with("DISPLAY")));
        assert!(!has_display(true, with("HOME")));
        assert!(!has_display(true, |_| Some(OsString::new())));
    }
}
