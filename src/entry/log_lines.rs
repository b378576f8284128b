//! Log lines on stderr.

use std::io::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::app::keeping;
use crate::printable::lines;

/// Modules of the HTTP server that log less than the rest below the level DEBUG: the server logs each of its own steps,
/// and the last one every malformed request as an error.
const QUIET: [(&str, LevelFilter); 3] =
    [("actix_server", LevelFilter::Warn), ("actix_web", LevelFilter::Warn), ("actix_http", LevelFilter::Off)];

/// A logger that writes to stderr, up to a level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLines(pub(crate) LevelFilter);

impl LogLines {
    /// Returns the level for a target, which is a module or one within it.
    fn level_of(self, target: &str) -> LevelFilter {
        let is_in = |module: &str| {
            target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        match QUIET.iter().find(|(module, _)| is_in(module)) {
            Some((_, quiet)) if self.0 < Level::Debug => self.0.min(*quiet),
            _ => self.0,
        }
    }
}

impl Log for LogLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level_of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // Log lines may quote nodes, Works and unauthenticated peers.
            let line = format!("{}: {}\n", record.level(), lines(&record.args().to_string()));
            // There is no other place to report that stderr cannot be written.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Installs the logger of a program that runs an App, unless the program has installed one.
pub(crate) fn init_log(level: LevelFilter) {
    if log::set_boxed_logger(Box::new(keeping(LogLines(level)))).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_the_server_log_less_below_debug() {
        let logs = |level, target: &str| {
            let logger = LogLines(level);
            let is_enabled = |at| logger.enabled(&Metadata::builder().level(at).target(target).build());
            [Level::Error, Level::Warn, Level::Info, Level::Debug].map(is_enabled)
        };
        assert_eq!(logs(LevelFilter::Info, "flowright::app"), [true, true, true, false]);
        assert_eq!(logs(LevelFilter::Info, "actix_server::builder"), [true, true, false, false]);
        assert_eq!(logs(LevelFilter::Error, "actix_web"), [true, false, false, false]);
        assert_eq!(logs(LevelFilter::Info, "actix_http::h1"), [false; 4]);
        assert_eq!(logs(LevelFilter::Info, "actix_https"), [true, true, true, false]);
        assert_eq!(logs(LevelFilter::Debug, "actix_http::h1"), [true; 4]);
        assert_eq!(logs(LevelFilter::Off, "flowright"), [false; 4]);
    }
}
