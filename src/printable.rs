//! Layer 1: text from outside (peers, clients, servers, users' values) made safe to print.
//!
//! # Guarantees
//! - The returned text has no control characters of C0 or C1, so that it cannot send escape sequences to a terminal,
//!   and no invisible characters that reorder text or break lines. They are escaped, as in `\u{1b}`.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write;

/// Longest text from a peer that is logged or stored as a reason, in characters.
pub(crate) const LONGEST_REASON: usize = 1000;

/// Returns true for a character that is escaped.
fn is_hidden(c: char) -> bool {
    // Bidirectional marks, and line breaks that are not control characters.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(text: &str, replace: impl Fn(char) -> Option<char>) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match replace(c) {
            Some(c) => out.push(c),
            None if is_hidden(c) => out.extend(c.escape_unicode()),
            None => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Escapes a text of several lines: tabs and line feeds stay, and CRLF becomes a line feed.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        return Cow::Owned(
            escaped(&text.replace("\r\n", "\n"), |c| matches!(c, '\n' | '\t').then_some(c)).into_owned(),
        );
    }
    escaped(text, |c| matches!(c, '\n' | '\t').then_some(c))
}

/// Joins the messages of an error and its causes by colons, outermost first. An error that returns its source leaves
/// the source out of its own message, so errors are printed with this function.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Escapes a text and turns line feeds, carriage returns and tabs into spaces, for one line.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\r' | '\t').then_some(' '))
}

/// Escapes at most the first `limit` characters of a text, on one line, and appends the number of omitted characters.
pub(crate) fn brief(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => one_line(text).into_owned(),
        Some((end, _)) => {
            let left_out = text[end..].chars().count();
            format!("{}… ({left_out} more characters)", one_line(&text[..end]))
        }
    }
}

/// Escapes JSON without changing its meaning: hidden characters in its strings become `\u` escapes. Line feeds between
/// tokens stay.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| is_hidden(c) && c != '\n';
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if is_hidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Printable text is returned without a copy.
    #[test]
    fn printable_text_is_borrowed() {
        for text in ["", "a Work", "größer 🦀 \u{a0}x"] {
            assert!(matches!(lines(text), Cow::Borrowed(_)), "{text}");
            assert!(matches!(one_line(text), Cow::Borrowed(_)), "{text}");
        }
    }

    /// Escape sequences of both forms and bidirectional marks are escaped.
    #[test]
    fn hidden_characters_are_escaped() {
        assert_eq!(lines("a\x1b[2J\u{9b}31m\nb\tc\r\nd\re"), "a\\u{1b}[2J\\u{9b}31m\nb\tc\nd\\u{d}e");
        assert_eq!(one_line("a\nb\u{202e}c\u{7f}"), "a b\\u{202e}c\\u{7f}");
    }

    /// A long text is cut between characters and ends with the number of omitted ones.
    #[test]
    fn brief_text_says_what_was_left_out() {
        assert_eq!(brief("äöü", 3), "äöü");
        assert_eq!(brief("äöüß\x1b", 3), "äöü… (2 more characters)");
    }

    proptest! {
        /// No hidden character is left, and JSON keeps its meaning.
        #[test]
        fn nothing_hidden_is_left(text in "\\PC*|[\\x00-\\u{a0}\\u{2028}\\u{202e}a]*", limit in 0_usize..20) {
            prop_assert!(!one_line(&text).contains(is_hidden));
            prop_assert!(!brief(&text, limit).contains(is_hidden));
            prop_assert!(!lines(&text).contains(|c| is_hidden(c) && c != '\n' && c != '\t'));
            let value = serde_json::json!({ &text: [&text] });
            let pretty = format!("{value:#}");
            let safe = json(&pretty);
            prop_assert!(!safe.contains(|c| is_hidden(c) && c != '\n'));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }
}
