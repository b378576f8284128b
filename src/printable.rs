//! Layer 1: text from outside (peers, clients, servers, users' values) made safe to print.
//!
//! # Guarantees
//! - What these functions give has no control characters of C0 or C1, so that it cannot drive a terminal, and no characters that
//!   reorder text or break lines without being seen. They are written as escapes, `\u{1b}`.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write;

/// The longest text from a peer that is logged or kept as a reason, in characters.
pub(crate) const LONGEST_REASON: usize = 1000;

/// Whether a character is written as an escape.
fn is_hidden(c: char) -> bool {
    // Marks that change the direction of text, and the line breaks that are not control characters.
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

/// Text that may have several lines: line feeds and tabs stay, also before a carriage return.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        return Cow::Owned(
            escaped(&text.replace("\r\n", "\n"), |c| matches!(c, '\n' | '\t').then_some(c)).into_owned(),
        );
    }
    escaped(text, |c| matches!(c, '\n' | '\t').then_some(c))
}

/// The messages of an error and of its causes, the outermost first and joined by colons. An error that returns its source leaves
/// it out of its own message, so that whoever prints an error prints this.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Text on one line: white space that breaks lines becomes a blank.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\r' | '\t').then_some(' '))
}

/// Text on one line of at most `limit` characters of the original; how many were left out is said.
pub(crate) fn brief(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => one_line(text).into_owned(),
        Some((end, _)) => {
            let left_out = text[end..].chars().count();
            format!("{}… ({left_out} more characters)", one_line(&text[..end]))
        }
    }
}

/// JSON of the same meaning: what would be hidden in its strings is escaped there. Line feeds outside of strings stay.
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

    /// What is printable stays as it is, without a copy.
    #[test]
    fn printable_text_is_borrowed() {
        for text in ["", "a Work", "größer 🦀 \u{a0}x"] {
            assert!(matches!(lines(text), Cow::Borrowed(_)), "{text}");
            assert!(matches!(one_line(text), Cow::Borrowed(_)), "{text}");
        }
    }

    /// Escape sequences in both forms, and text that is turned around, are shown.
    #[test]
    fn hidden_characters_are_escaped() {
        assert_eq!(lines("a\x1b[2J\u{9b}31m\nb\tc\r\nd\re"), "a\\u{1b}[2J\\u{9b}31m\nb\tc\nd\\u{d}e");
        assert_eq!(one_line("a\nb\u{202e}c\u{7f}"), "a b\\u{202e}c\\u{7f}");
    }

    /// A long text is cut between characters, and says so.
    #[test]
    fn brief_text_says_what_was_left_out() {
        assert_eq!(brief("äöü", 3), "äöü");
        assert_eq!(brief("äöüß\x1b", 3), "äöü… (2 more characters)");
    }

    proptest! {
        /// Nothing hidden is left, and JSON means the same.
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
