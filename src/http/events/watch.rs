//! The task that takes snapshots of the App and writes the changes to the hub.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::Serialize;

use super::hub::Hub;
use crate::app::{Control, Snapshot};
use crate::http::model::{About, LogView, StatusView, status_view};
use crate::state::Value;
use crate::work::logs::{self, AppLog, Line, Wanted};

/// The minimum time between two updates: one frame of a screen.
const FRAME: Duration = Duration::from_millis(16);

/// The interval of refreshes while clients are connected, for values that do not count as a change, such as mailbox
/// depths.
const REFRESH: Duration = Duration::from_secs(2);

/// The time for which events are still recorded after the last client has disconnected, so that it can resume.
const LINGER: Duration = Duration::from_secs(30);

/// The maximum number of log lines in one frame.
const LINES: usize = 500;

#[derive(Serialize)]
struct StateDocument<'a> {
    #[serde(flatten)]
    status: StatusView,
    state: &'a Value,
}

/// Runs until the App ends.
pub(in crate::http) async fn watch(control: Control, about: About, hub: Arc<Hub>) {
    let log = AppLog::of(control.runtime());
    let mut lines = logs::last();
    let mut shown: Option<u64> = None;
    let mut next: Option<Snapshot> = None;
    let mut line = 0;
    let mut watched = Instant::now();
    loop {
        if hub.streams() > 0 {
            watched = Instant::now();
        } else if watched.elapsed() >= LINGER || shown.is_none() {
            hub.clear();
            (shown, next) = (None, None);
            tokio::select! {
                () = hub.joined.notified() => {}
                () = control.ended() => return,
            }
            watched = Instant::now();
            continue;
        }
        if shown.is_none() {
            line = *lines.borrow_and_update();
        }
        let began = Instant::now();
        let snapshot = match next.take() {
            Some(snapshot) => snapshot,
            None => match control.snapshot().await {
                Ok(snapshot) => snapshot,
                Err(_) => return,
            },
        };
        let state = snapshot.state.as_ref().cloned().unwrap_or_default();
        let document = StateDocument { status: status_view(&snapshot, &about), state: &state };
        let last = *lines.borrow_and_update();
        let wanted = Wanted {
            work: None,
            level: ::log::Level::Trace,
            since: UNIX_EPOCH,
            after: Some(line),
            limit: usize::MAX,
        };
        let said = if last > line { log.find(&wanted) } else { Vec::new() };
        let skipped = said.len().saturating_sub(LINES);
        let written = |line: &Arc<Line>| serde_json::to_string(&LogView::from(&**line)).unwrap_or_default();
        let text: Vec<_> = said[skipped..].iter().map(written).collect();
        line = last.max(said.last().map_or(0, |line| line.seq));
        if let Err(error) = hub.show(&document, snapshot.version, &text, skipped as u64) {
            log::error!("the App cannot be shown to clients of the event stream: {error}");
            return;
        }
        shown = Some(snapshot.version);
        // Snapshots take at most a tenth of the App's thread, and writing them half of this one.
        let rest = FRAME.max(snapshot.took * 10).max(began.elapsed());
        tokio::time::sleep(rest).await;
        let linger = if hub.streams() > 0 { REFRESH } else { LINGER };
        let Ok(changed) = control.snapshot_after(snapshot.version).await else { return };
        tokio::select! {
            snapshot = changed => match snapshot {
                Ok(snapshot) => next = Some(snapshot),
                Err(_) => return,
            },
            _ = lines.changed() => {}
            () = tokio::time::sleep(linger) => {}
        }
    }
}
