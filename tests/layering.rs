//! The layers of the crate: imports go down only, and siblings on one layer do not import each other.
//!
//! The tests read the source as text. Comments (doc links may point anywhere) and string literals do not count;
//! everything else does, tests included.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules of the crate and their layers. `lib.rs`, which re-exports from all of them, has none.
const LAYERS: [(&str, u32); 24] = [
    ("id", 0),
    ("error", 0),
    ("fence", 0),
    ("descriptors", 1),
    ("atomic_file", 1),
    ("machine", 1),
    ("program", 1),
    ("printable", 1),
    ("recorder", 1),
    ("secret_file", 1),
    ("trace", 1),
    ("wire", 1),
    ("drive", 2),
    ("drive_off", 2),
    ("payload", 2),
    ("state", 2),
    ("transport", 2),
    ("work", 3),
    ("flow", 4),
    ("remote", 4),
    ("app", 5),
    ("http", 6),
    ("cli", 7),
    ("testing", 7),
];

/// Names that only these modules may use, each by itself or as the beginning of a path.
const ONLY: [(&str, &[&str]); 16] = [
    ("object_store", &["drive"]),
    ("rmp", &["wire"]),
    ("tokio_rustls", &["transport"]),
    ("rcgen", &["transport"]),
    ("actix_web", &["http"]),
    ("clap", &["cli"]),
    ("env_logger", &["cli"]),
    ("croner", &["flow"]),
    ("jiff", &["flow"]),
    ("ureq", &["cli", "trace"]),
    ("opentelemetry", &["trace"]),
    ("opentelemetry_http", &["trace"]),
    ("opentelemetry_otlp", &["trace"]),
    ("opentelemetry_sdk", &["trace"]),
    ("prometheus_client", &["http"]),
    ("ratatui", &["cli"]),
];

/// The one file with `unsafe` calls into the system, which it explains.
const UNSAFE: &str = "payload/huge.rs";

/// The files that may use actix. A new one needs a reason, since actix differs from the guarantees of this crate.
const ACTIX: [&str; 7] = [
    "app/control.rs",
    "app/driver.rs",
    "app/hosts/elsewhere.rs",
    "app/launch.rs",
    "app/node.rs",
    "http/server.rs",
    "work/local.rs",
];

fn layer(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// The text without comments, and with string and character literals emptied.
fn code_only(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(n, c)| bytes.get(at + n) == Some(&c));
    while at < bytes.len() {
        if starts(at, "//") {
            while at < bytes.len() && bytes[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    depth += 1;
                    at += 2;
                } else if starts(at, "*/") {
                    depth -= 1;
                    at += 2;
                } else {
                    at += 1;
                }
                if depth == 0 || at >= bytes.len() {
                    break;
                }
            }
        } else if let Some(hashes) = raw_string(&bytes, at) {
            let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            at += hashes + 2;
            while at < bytes.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
            code.push_str("\"\"");
        } else if bytes[at] == '"' {
            at += 1;
            while at < bytes.len() && bytes[at] != '"' {
                at += if bytes[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            code.push_str("\"\"");
        } else if bytes[at] == '\'' && bytes.get(at + 1) == Some(&'\\') {
            // An escaped character; its closing quote is at least three characters further.
            at += 3;
            while at < bytes.len() && bytes[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if bytes[at] == '\'' && bytes.get(at + 2) == Some(&'\'') {
            at += 3;
        } else {
            code.push(bytes[at]);
            at += 1;
        }
    }
    code
}

/// The number of `#` of a raw string literal that begins here.
fn raw_string(bytes: &[char], at: usize) -> Option<usize> {
    let in_word = at > 0 && is_word(bytes[at - 1]);
    if bytes[at] != 'r' || in_word {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|c| **c == '#').count();
    (bytes.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Splits code into words, `::`, and single other characters.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = c.to_string();
        if is_word(c) {
            while let Some(next) = chars.next_if(|next| is_word(*next)) {
                token.push(next);
            }
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            token.push(':');
        } else if c.is_whitespace() {
            continue;
        }
        tokens.push(token);
    }
    tokens
}

/// The top-level names that a file at this module depth uses: the first segment of each path that begins with
/// `crate::`, or with enough `super::`, groups (`crate::{a::b, c}`) included.
fn named_at_the_top(text: &str, depth: usize) -> BTreeSet<String> {
    let tokens = tokens(&code_only(text));
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    let mut names = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        // `$crate` is the crate that uses a macro's text; `pub(crate)` has no `::`.
        let is_macro = at > 0 && word(at - 1) == "$";
        let continues = at > 0 && word(at - 1) == "::";
        let begin = if word(at) == "crate" && word(at + 1) == "::" && !is_macro && !continues {
            Some(at + 2)
        } else if word(at) == "super" && !continues {
            let supers =
                (0..).take_while(|n| word(at + 2 * n) == "super" && word(at + 2 * n + 1) == "::").count();
            (supers > 0 && supers >= depth).then_some(at + 2 * supers)
        } else {
            None
        };
        if let Some(begin) = begin {
            let mut found = BTreeSet::new();
            first_segments(&tokens, begin, &mut found);
            // A module within a file is deeper than the file, so that `super` may not have led up to the top.
            found.retain(|name| word(at) == "crate" || layer(name).is_some());
            names.append(&mut found);
        }
        at += 1;
    }
    names
}

/// Collects the first segment of the path at `at`, or of each path in the group there.
fn first_segments(tokens: &[String], at: usize, names: &mut BTreeSet<String>) {
    let Some(first) = tokens.get(at) else { return };
    if first != "{" {
        names.insert(first.clone());
        return;
    }
    let mut depth = 1;
    let mut expected = true;
    for token in &tokens[at + 1..] {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            name if depth == 1 && expected => {
                names.insert(name.to_owned());
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

/// True if the code names this crate: `name::…`, `use name`.
fn names_crate(text: &str, name: &str) -> bool {
    let tokens = tokens(&code_only(text));
    tokens.iter().enumerate().any(|(at, token)| {
        let next = tokens.get(at + 1).map(String::as_str);
        let before = at.checked_sub(1).map(|at| tokens[at].as_str());
        token == name
            && before != Some("::")
            && before != Some(".")
            && (next == Some("::") || before == Some("use"))
    })
}

/// The violations in a file at `path` below `src`, such as `flow/mod.rs`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let top = path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    if top == "lib" {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let Some(own) = layer(top) else {
        return vec![format!("{path}: the module `{top}` has no layer; give it one in tests/layering.rs")];
    };
    // `flow/mod.rs` is the module `flow`; `flow/ledger.rs` is one below it.
    let depth = path.split('/').filter(|part| *part != "mod.rs").count();
    for name in named_at_the_top(text, depth) {
        match layer(&name) {
            _ if name == top => {}
            // Exported macros are at the top of the crate, whatever file they are in.
            None if name == "bail" => {}
            None => wrong.push(format!(
                "{path}: `crate::{name}` is an export of the crate; name the module that it is in, so that its layer shows"
            )),
            Some(other) if other < own => {}
            Some(other) if other == own => {
                wrong.push(format!("{path}: `{top}` and `{name}` are siblings on layer {own}"));
            }
            Some(other) => {
                wrong.push(format!("{path}: `{top}` (layer {own}) must not know `{name}` (layer {other})"));
            }
        }
    }
    for (name, modules) in ONLY {
        if !modules.contains(&top) && names_crate(text, name) {
            wrong.push(format!("{path}: only {modules:?} may use {name}"));
        }
    }
    if !ACTIX.contains(&path) && ["actix", "actix_rt"].iter().any(|name| names_crate(text, name)) {
        wrong.push(format!("{path}: actix is used in few files, and this is not one of them"));
    }
    wrong
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder of the sources can be read") {
        let path = entry.expect("its entries can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn each_source(mut look: impl FnMut(&str, &str)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "the sources were not found");
    for file in files {
        let parts: Vec<_> = file.strip_prefix(&root).expect("it is below").iter().collect();
        let path =
            parts.iter().map(|part| part.to_str().expect("names are ASCII")).collect::<Vec<_>>().join("/");
        look(&path, &fs::read_to_string(&file).expect("a source can be read"));
    }
}

#[test]
fn every_import_goes_down() {
    let mut wrong = Vec::new();
    each_source(|path, text| wrong.extend(violations(path, text)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_list_of_files_that_use_actix_is_true() {
    let mut used = BTreeSet::new();
    each_source(|path, text| {
        if ["actix", "actix_rt"].iter().any(|name| names_crate(text, name)) {
            used.insert(path.to_owned());
        }
    });
    assert_eq!(used, ACTIX.map(str::to_owned).into());
}

#[test]
fn the_list_of_files_with_unsafe_code_is_true() {
    let mut used = BTreeSet::new();
    each_source(|path, text| {
        if tokens(&code_only(text)).iter().any(|token| token == "unsafe") {
            used.insert(path.to_owned());
        }
    });
    assert_eq!(used, [UNSAFE.to_owned()].into());
}

#[test]
fn an_import_that_goes_up_is_found_however_it_is_written() {
    for bad in [
        "use crate::app::Control;",
        "use crate::{app::Control, id::ActorPath};",
        "use crate::{\n    id::{ActorPath, AppId},\n    app,\n};",
        "pub(crate) use crate :: app;",
        "fn f(control: &crate::app::Control) {}",
        "use super::app::Control;",
        "/* crate::id */ use crate::app::Control; // crate::id",
        "const A: &str = \"\\\"\"; use crate::app::Control;",
        "const A: &str = r#\"\"//\"#; use crate::app::Control;",
        "const A: char = '\"'; use crate::app::Control; const B: char = '\\'';",
        "fn f<'a>(x: &'a str) { crate::app::g(x) }",
    ] {
        let wrong = violations("flow/mod.rs", bad);
        assert_eq!(wrong.len(), 1, "{bad}: {wrong:?}");
        assert!(wrong[0].contains("`flow` (layer 4) must not know `app` (layer 5)"), "{wrong:?}");
    }
    let deeper = violations("flow/ledger.rs", "use super::super::app::Control;");
    assert_eq!(deeper.len(), 1, "{deeper:?}");
}

#[test]
fn what_is_allowed_is_not_reported() {
    for good in [
        "use crate::work::Work;",
        "use crate::{work::{Work, app}, id::ActorPath};",
        "use crate::flow::Flow;",
        "use super::Flow;",
        "mod tests { use super::super::{Flow, reaction}; }",
        "/// See [`crate::app::App`].\npub(crate) struct A;",
        "// crate::app\n/* /* crate::app */ crate::app */",
        "const A: &str = \"crate::app::App\";",
        "macro_rules! m { () => { $crate::App } }",
        "crate::bail!(\"no\");",
        "let actix = 1; a::actix_web::b();",
    ] {
        let wrong = violations("flow/ledger.rs", good);
        assert!(wrong.is_empty(), "{good}: {wrong:?}");
    }
}

#[test]
fn siblings_exports_and_foreign_crates_are_found() {
    for (path, text, expected) in [
        ("state/mod.rs", "use crate::payload::Payload;", "`state` and `payload` are siblings on layer 2"),
        ("flow/mod.rs", "use crate::Value;", "`crate::Value` is an export of the crate"),
        ("app/mod.rs", "use rmp::Marker;", "may use rmp"),
        ("app/mod.rs", "use actix_web::web;", "may use actix_web"),
        ("flow/mod.rs", "use actix::Actor;", "actix is used in few files"),
        ("flow/mod.rs", "fn f() { actix_rt::spawn(g()) }", "actix is used in few files"),
        ("attic/mod.rs", "", "`attic` has no layer"),
    ] {
        let wrong = violations(path, text);
        assert!(wrong.len() == 1 && wrong[0].contains(expected), "{path} {text}: {wrong:?}");
    }
}

/// The variants of errors in a text that both show their source in their message and return it.
fn shown_twice(text: &str) -> Vec<String> {
    let attributes = text.split("#[error(").skip(1);
    let twice = attributes.filter_map(|rest| {
        let (message, rest) = rest.split_once(")]\n")?;
        // A variant ends before the next attribute, or at the end of its enum or struct.
        let variant = rest.split("\n}").next()?;
        let is_returned =
            variant.contains("#[source]") || variant.contains("#[from]") || variant.contains(" source:");
        let shows_it = ["{source", ".source", "{0"].iter().any(|shown| message.contains(shown));
        (is_returned && shows_it).then(|| message.trim().lines().next().unwrap_or_default().to_owned())
    });
    twice.collect()
}

/// Errors are printed with their chain of sources, so that a source that is also in the message would be printed twice.
#[test]
fn errors_show_their_source_or_return_it() {
    let mut wrong = Vec::new();
    each_source(|path, text| {
        wrong.extend(shown_twice(text).into_iter().map(|message| format!("{path}: {message}")));
    });
    assert!(wrong.is_empty(), "these show their source and return it:\n{}", wrong.join("\n"));

    let twice = "#[error(\"no {source}\")]\n    A {\n        #[source]\n        source: E,\n    },\n}";
    assert_eq!(shown_twice(twice), ["\"no {source}\""]);
    assert_eq!(shown_twice("#[error(\"no: {0}\")]\n    A(#[from] E),\n}").len(), 1);
    for right in [
        "#[error(\"no\")]\n    A(#[source] E),\n    #[error(\"no: {0}\")]\n    B(String),\n}",
        "#[error(transparent)]\n    A(#[from] E),\n}",
        "#[error(\"no: {error}\")]\n    A { error: E },\n}",
    ] {
        assert_eq!(shown_twice(right), Vec::<String>::new(), "{right}");
    }
}
