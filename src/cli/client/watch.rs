//! Showing a result once, or again after each change.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::api::Api;
use super::args::Target;
use super::error::ClientError;

/// The minimum time between two updates.
const PAUSE: Duration = Duration::from_millis(200);

/// A rendered result: text for people, or JSON.
pub(super) type Picture = Result<String, ClientError>;

pub(super) fn once(target: &Target, picture: impl Fn(&Api, bool) -> Picture) -> Result<(), ClientError> {
    let api = Api::new(target)?;
    let text = picture(&api, target.json)?;
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Shows a result, and with `watch` again after each change: in place on a terminal, appended in a pipe. Returns when
/// the App ends.
pub(super) fn watched(
    target: &Target,
    watch: bool,
    picture: impl Fn(&Api, bool) -> Picture,
) -> Result<(), ClientError> {
    if !watch {
        return once(target, picture);
    }
    let api = Api::new(target)?;
    let mut events = api.events()?;
    let (sender, changes) = channel();
    // A thread of its own drains the events, so that a slow terminal does not delay them.
    std::thread::spawn(move || {
        while let Ok(Some(_)) = events.next() {
            if sender.send(()).is_err() {
                return;
            }
        }
    });
    let in_place = io::stdout().is_terminal() && !target.json;
    let mut shown = String::new();
    loop {
        let text = match picture(&api, target.json) {
            // The App has ended between the event and the request.
            Err(ClientError::NoApp { .. } | ClientError::Broken { .. }) if !shown.is_empty() => return Ok(()),
            text => text?,
        };
        if text != shown {
            let mut out = io::stdout().lock();
            if in_place {
                write!(out, "\x1b[H\x1b[2J\x1b[3J")?;
            } else if !target.json && !shown.is_empty() {
                writeln!(out)?;
            }
            out.write_all(text.as_bytes())?;
            out.flush()?;
            shown = text;
        }
        std::thread::sleep(PAUSE);
        // Ages advance without events.
        let patience = if in_place { Duration::from_secs(1) } else { Duration::from_secs(3_600) };
        match changes.recv_timeout(patience) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        while changes.try_recv().is_ok() {}
    }
}
