//! Tables, colours, and formats of numbers.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Local, Utc};

use crate::printable::one_line;

/// Returns true when output may be coloured: stdout is a terminal, and `NO_COLOR` is unset or empty.
pub(super) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns the ANSI colour of a stage or of a log level.
fn code(word: &str) -> &'static str {
    match word {
        "running" | "info" => "34",
        "pending" | "warn" => "33",
        "succeeded" | "connected" => "32",
        "failed" | "error" | "away" => "31",
        "stopped" => "35",
        "up" => "36",
        _ => "2",
    }
}

/// Returns `text` in the colour of `word`, or unchanged without `colours`.
pub(super) fn paint(text: &str, word: &str, colours: bool) -> String {
    if colours { format!("\x1b[{}m{text}\x1b[0m", code(word)) } else { text.to_owned() }
}

/// A table whose columns are as wide as their widest cell.
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// The text of a cell, and the word that determines its colour.
pub(super) struct Cell(String, Option<String>);

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(one_line(&text.into()).into_owned(), None)
    }
}

/// Returns a cell with a stage in its colour.
pub(super) fn stage(stage: &str) -> Cell {
    Cell(one_line(&stage.replace('_', " ")).into_owned(), Some(stage.to_owned()))
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(super) fn write(&self, out: &mut dyn Write, colours: bool) -> io::Result<()> {
        let width = |column: usize, head: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.0.chars().count());
            cells.chain([head.len()]).max().unwrap_or_default()
        };
        let widths: Vec<_> = self.head.iter().enumerate().map(|(column, head)| width(column, head)).collect();
        let mut line = String::new();
        for (head, width) in self.head.iter().zip(&widths) {
            line.push_str(&format!("{head:width$}  "));
        }
        writeln!(out, "{}", paint(line.trim_end(), "", colours))?;
        for row in &self.rows {
            line.clear();
            let last = row.iter().rposition(|cell| !cell.0.is_empty()).unwrap_or_default();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate().take(last + 1) {
                let pad = if column == last { 0 } else { width - cell.0.chars().count() + 2 };
                match &cell.1 {
                    Some(word) => line.push_str(&paint(&cell.0, word, colours)),
                    None => line.push_str(&cell.0),
                }
                line.push_str(&" ".repeat(pad));
            }
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// Truncates text to `limit` characters.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// Formats a duration: `340 ms`, `12.3 s`, `3 min 4 s`.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds.max(0.0) * 1000.0),
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    let mut rest = bytes as f64;
    if rest < 1000.0 {
        return format!("{bytes} B");
    }
    for unit in ["KB", "MB", "GB"] {
        rest /= 1000.0;
        if rest < 999.5 {
            return format!("{rest:.*} {unit}", usize::from(rest < 9.95));
        }
    }
    format!("{:.1} TB", rest / 1000.0)
}

fn moment(time: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(time).ok().map(|time| time.with_timezone(&Utc))
}

/// Returns the seconds between two times of the API; `to` defaults to now.
pub(super) fn seconds_between(from: Option<&str>, to: Option<&str>) -> Option<f64> {
    let to = to.map_or_else(|| Some(Utc::now()), moment)?;
    let millis = (to - moment(from?)?).num_milliseconds();
    Some(millis.max(0) as f64 / 1000.0)
}

/// Formats a time of the API as local time of day.
pub(super) fn clock(time: &str) -> String {
    moment(time).map_or_else(
        || one_line(time).into_owned(),
        |time| time.with_timezone(&Local).format("%H:%M:%S").to_string(),
    )
}

/// Returns a type without its modules: `demo::Train` → `Train`.
pub(super) fn type_name(name: &str) -> String {
    let mut short = String::new();
    let mut word = String::new();
    for c in name.chars() {
        match c {
            _ if c.is_alphanumeric() || c == '_' => word.push(c),
            ':' => word.clear(),
            _ => {
                short.push_str(&std::mem::take(&mut word));
                short.push(c);
            }
        }
    }
    short + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        for (seconds, text) in [
            (0.02, "20 ms"),
            (3.26, "3.3 s"),
            (61.0, "1 min 1 s"),
            (7_260.0, "2 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
        for (count, text) in
            [(999, "999 B"), (1_500, "1.5 KB"), (184_320_000, "184 MB"), (3_221_225_472, "3.2 GB")]
        {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(type_name("alloc::vec::Vec<alloc::string::String>"), "Vec<String>");
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_nothing_moves_the_cursor() {
        let mut table = Table::new(&["WORK", "STAGE", "WHY"]);
        table.row(vec!["team.train".into(), stage("not_started"), "".into()]);
        table.row(vec!["a".into(), stage("failed"), "bad\x1b[2J\nnews".into()]);
        let mut out = Vec::new();
        table.write(&mut out, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "WORK        STAGE        WHY\nteam.train  not started\na           failed       bad\\u{1b}[2J news\n"
        );
        let mut out = Vec::new();
        table.write(&mut out, true).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\x1b[31mfailed\x1b[0m"));
    }
}
