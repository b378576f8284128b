//! `top`: a live view of an App in the terminal.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::api::Api;
use super::args::Target;
use super::error::ClientError;
use super::model::{Document, Items, LogView};
use super::show::{age, busy, headline, kept, mailbox, place, runs_of, why};
use super::table::{clock, colours};
use crate::printable;

const EVERY: Duration = Duration::from_millis(500);
/// The sort order of Works; those that need attention come first.
const STAGES: [&str; 7] = ["failed", "running", "pending", "stopped", "succeeded", "up", "not_started"];

/// The columns of the Works: title, width, and the terminal width from which the column is shown.
const COLUMNS: [(&str, Constraint, u16); 7] = [
    ("WORK", Constraint::Fill(2), 0),
    ("STAGE", Constraint::Length(11), 0),
    ("WHERE", Constraint::Length(14), 70),
    ("SINCE", Constraint::Length(13), 90),
    ("RUNS", Constraint::Length(18), 90),
    ("MAILBOX", Constraint::Length(9), 100),
    ("WHY", Constraint::Fill(3), 0),
];

fn one_line(text: &str) -> String {
    printable::one_line(text).into_owned()
}

/// The contents of the screen.
struct Screen {
    document: Document,
    log: Vec<LogView>,
    /// The error of the last request, if it failed; the rest is stale then.
    trouble: Option<String>,
    by_path: bool,
    table: TableState,
    colours: bool,
}

pub(super) fn top(target: &Target) -> Result<(), ClientError> {
    let api = Api::new(target)?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(ClientError::NoTerminal);
    }
    let mut screen = Screen {
        document: api.get("status")?,
        log: Vec::new(),
        trouble: None,
        by_path: false,
        table: TableState::default().with_selected(0),
        colours: colours(),
    };
    let mut terminal = ratatui::try_init()?;
    let result = show(&api, &mut screen, &mut terminal);
    ratatui::restore();
    result
}

fn show(api: &Api, screen: &mut Screen, terminal: &mut ratatui::DefaultTerminal) -> Result<(), ClientError> {
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            screen.look(api);
            next = Instant::now() + EVERY;
        }
        terminal.draw(|frame| screen.draw(frame))?;
        if !event::poll(next.saturating_duration_since(Instant::now()))? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
            KeyCode::Char('s') => screen.by_path = !screen.by_path,
            KeyCode::Down | KeyCode::Char('j') => screen.table.select_next(),
            KeyCode::Up | KeyCode::Char('k') => screen.table.select_previous(),
            KeyCode::PageDown => screen.table.scroll_down_by(20),
            KeyCode::PageUp => screen.table.scroll_up_by(20),
            KeyCode::Home => screen.table.select_first(),
            KeyCode::End => screen.table.select_last(),
            _ => {}
        }
    }
}

impl Screen {
    fn look(&mut self, api: &Api) {
        let asked =
            api.get("status").and_then(|document| Ok((document, api.get("logs?limit=50&level=info")?)));
        match asked {
            Ok((document, Items { items })) => {
                self.document = document;
                self.log = items;
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(printable::chain(&error)),
        }
    }

    fn colour(&self, stage: &str) -> Style {
        let style = Style::default();
        if !self.colours {
            return if stage == "failed" { style.add_modifier(Modifier::BOLD) } else { style };
        }
        match stage {
            "running" => style.fg(Color::Blue),
            "up" => style.fg(Color::Cyan),
            "pending" => style.fg(Color::Yellow),
            "succeeded" => style.fg(Color::Green),
            "failed" => style.fg(Color::Red),
            "stopped" => style.fg(Color::Magenta),
            _ => style.add_modifier(Modifier::DIM),
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let nodes = u16::try_from(self.document.nodes.len()).unwrap_or(u16::MAX).min(6);
        let parts = [
            Constraint::Length(2),
            Constraint::Length(nodes + 1),
            Constraint::Min(4),
            Constraint::Length(8),
            Constraint::Length(1),
        ];
        let [head, machines, works, log, foot] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Paragraph::new(vec![self.title(), self.counts()]), head);
        frame.render_widget(Paragraph::new(self.machines()), machines);
        let table = self.works(works.width);
        frame.render_stateful_widget(table, works, &mut self.table);
        frame.render_widget(Paragraph::new(self.lines(usize::from(log.height))), log);
        let keys = format!("q quit   ↑↓ move   s sort by {}", if self.by_path { "stage" } else { "path" });
        frame.render_widget(Paragraph::new(keys).style(Style::default().add_modifier(Modifier::DIM)), foot);
    }

    fn title(&self) -> Line<'static> {
        let bold = Style::default().add_modifier(Modifier::BOLD);
        match &self.trouble {
            None => Line::styled(headline(&self.document), bold),
            Some(trouble) => Line::styled(format!("STALE: {}", one_line(trouble)), self.colour("failed")),
        }
    }

    fn counts(&self) -> Line<'static> {
        let works = &self.document.works;
        let mut spans = vec![Span::raw(format!("{} Works", works.len()))];
        for stage in STAGES {
            let count = works.values().filter(|work| work.shown_stage() == stage).count();
            if count > 0 {
                spans.push(Span::raw("   "));
                spans.push(Span::styled(format!("{count} {}", stage.replace('_', " ")), self.colour(stage)));
            }
        }
        Line::from(spans)
    }

    fn machines(&self) -> Vec<Line<'static>> {
        let line = |(name, node): (&String, &super::model::NodeView)| {
            let cpus = format!("{}/{} cpus", node.used.cpus, node.resources.cpus);
            let kept = node.payloads.map(|all| format!(", payloads {}", kept(all))).unwrap_or_default();
            let busy = node.load.map(|load| format!(", busy {}", busy(load))).unwrap_or_default();
            let text = format!("{name:16} {} Works, {cpus}{busy}{kept}", node.works.len());
            if node.is_connected || node.is_head {
                Line::raw(one_line(&text))
            } else {
                Line::styled(one_line(&format!("{text}, not connected")), self.colour("failed"))
            }
        };
        self.document.nodes.iter().take(6).map(line).collect()
    }

    fn works(&self, width: u16) -> Table<'static> {
        let mut works: Vec<_> = self.document.works.iter().collect();
        if !self.by_path {
            let rank = |stage: &str| STAGES.iter().position(|name| *name == stage);
            works.sort_by_key(|(_, work)| rank(work.shown_stage()));
        }
        let there = |(_, _, from): &(&str, Constraint, u16)| width >= *from;
        let rows = works.into_iter().map(|(path, work)| {
            let cells = [
                Cell::from(one_line(path)),
                Cell::from(one_line(&work.shown_stage().replace('_', " ")))
                    .style(self.colour(work.shown_stage())),
                Cell::from(one_line(&place(work))),
                Cell::from(age(work)),
                Cell::from(runs_of(work)),
                Cell::from(mailbox(work)),
                Cell::from(one_line(&why(work))),
            ];
            Row::new(COLUMNS.iter().zip(cells).filter(|(column, _)| there(column)).map(|(_, cell)| cell))
        });
        let columns = || COLUMNS.iter().filter(|column| there(column));
        let head = Row::new(columns().map(|(title, ..)| *title));
        Table::new(rows, columns().map(|(_, width, _)| *width))
            .header(head.style(Style::default().add_modifier(Modifier::DIM)))
            .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED))
    }

    fn lines(&self, height: usize) -> Vec<Line<'static>> {
        let from = self.log.len().saturating_sub(height);
        let line = |line: &LogView| {
            let work = line.work.as_ref().map(|work| format!(" {work}:")).unwrap_or_default();
            let text = format!("{} {}{work} {}", clock(&line.time), line.level.to_uppercase(), line.text);
            match line.level.to_lowercase().as_str() {
                "error" => Line::styled(one_line(&text), self.colour("failed")),
                "warn" => Line::styled(one_line(&text), self.colour("pending")),
                _ => Line::raw(one_line(&text)),
            }
        };
        self.log[from..].iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn what_failed_is_on_top_and_trouble_is_told() {
        let document = serde_json::json!({
            "app": { "name": "demo", "version": "1", "stage": "running", "reactions": 3 },
            "works": {
                "a": { "stage": "succeeded", "node": "head" },
                "b": { "stage": "failed", "reason": "panic", "message": "no\u{1b}[2J luck", "node": "head" },
            },
            "nodes": { "head": {
                "is_head": true, "works": ["a", "b"], "load": { "cpus": 0.25, "memory": 3 << 20 },
            } },
        });
        let mut screen = Screen {
            document: serde_json::from_value(document).unwrap(),
            log: Vec::new(),
            trouble: None,
            by_path: false,
            table: TableState::default(),
            colours: false,
        };
        let mut terminal = Terminal::new(TestBackend::new(110, 24)).unwrap();
        let mut picture = |screen: &mut Screen| {
            terminal.draw(|frame| screen.draw(frame)).unwrap();
            format!("{}", terminal.backend())
        };
        let text = picture(&mut screen);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in\n{text}"));
        assert!(
            at("demo 1: running") < at("1 failed")
                && at("1 failed") < at("busy 0.25 cpus, 3.1 MB")
                && at("panic: no\\u{1b}[2J luck") < at("succeeded   head"),
            "{text}"
        );
        screen.trouble = Some("no App answers".to_owned());
        assert!(picture(&mut screen).contains("STALE: no App answers"));
    }
}
