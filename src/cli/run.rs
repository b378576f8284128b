//! `App::main`: from arguments to an exit code.

#[cfg(feature = "http")]
use std::ffi::OsString;
#[cfg(feature = "http")]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use super::args::{Args, Asked, completions};
use super::error::wrong_usage;
#[cfg(feature = "remote")]
use crate::app::forwarding;
use crate::app::{App, AppError, AppHandle};
#[cfg(feature = "remote")]
use crate::entry::LogLines;
use crate::entry::{self, WRONG_USAGE, init_log, run_as_init};
use crate::program::{restore_name, this_program};

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
    /// Gives the program its command line and runs the App until it ends. `docs/command-line.md` lists the commands and
    /// flags with their defaults.
    ///
    /// ```no_run
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Hello;
    /// # impl Flow for Hello {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// fn main() -> ExitCode {
    ///     App::new(Hello::default).main()
    /// }
    /// ```
    ///
    /// Exit codes: 0 when a Flow, Ctrl-C, SIGTERM or SIGHUP stopped the App; 1 when it failed (the failure is printed
    /// to stderr at once); 2 for wrong usage. A second Ctrl-C ends the process without waiting for its Works.
    ///
    /// As PID 1 of a container the program starts itself again as a child, forwards signals to it, exits with it, and
    /// reaps orphaned processes. Code before this call therefore runs in both processes.
    pub fn main(self) -> ExitCode {
        restore_name();
        let own = self.own_args();
        let (asked, args_of_app) = Asked::from_command_line(own);
        if let Some(args) = args_of_app {
            self.arguments.set(args);
        }
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
            #[cfg(feature = "journal")]
            Asked::Journal(command) => {
                if let Some(args) = command.args()
                    && let Err(code) = self.read_args(args)
                {
                    return code;
                }
                return super::journal::run(self, &command);
            }
            #[cfg(feature = "http")]
            Asked::Client(command) => return super::client::run(&command, self.name),
            Asked::Completions(shell) => {
                // A reader that has closed the pipe is no error.
                let _ = io::stdout().lock().write_all(&completions(shell, own));
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

    fn run(self, args: &Args) -> ExitCode {
        if let Some(directory) = &self.config.log_dir
            && let Err(error) = super::log_files::write_to(directory)
        {
            let directory = directory.display();
            eprintln!("error: --log-dir {directory}: {error}\n\nFor more information, try '--help'.");
            return ExitCode::from(WRONG_USAGE);
        }
        entry::run(self, async |app| begin(app, args).await)
    }
}

#[cfg(feature = "http")]
async fn begin(app: App, args: &Args) -> Result<AppHandle, AppError> {
    if args.without_server {
        return begin_without_server(app).await;
    }
    let (launched, address, url) = entry::serve(app).await?;
    let is_asked = args.open_ui;
    if is_asked.unwrap_or_else(|| has_display(io::stderr().is_terminal(), |name| std::env::var_os(name))) {
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
async fn begin(app: App, _: &Args) -> Result<AppHandle, AppError> {
    begin_without_server(app).await
}

async fn begin_without_server(app: App) -> Result<AppHandle, AppError> {
    let launched = app.launch().await?;
    log::info!("Your app has started.");
    Ok(launched.begin(None))
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

#[cfg(feature = "remote")]
/// Logs on stderr, and at the head as well once this node has joined it. The process of a single Work logs through its
/// head only, which is on the same machine.
fn init_node_log(level: log::LevelFilter, is_process: bool) {
    if log::set_boxed_logger(Box::new(forwarding(LogLines(level), is_process))).is_ok() {
        log::set_max_level(level);
    }
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
