//! The layers of the crate: imports go down only, and siblings on one layer do not import each other.
//!
//! The tests read the source as text. Comments (doc links may point anywhere) and string literals do not count;
//! everything else does, tests included.
//!
//! Below the layers, the files of one folder may import each other, and the import cycles between them are those listed
//! in [`CYCLES`] and no others. For these, unit tests do not count.
//!
//! An App keeps what belongs to it in its `Runtime`. The variables of the process and of a thread are those listed in
//! [`STATICS`] and [`THREAD_LOCALS`] and no others; unit tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules of the crate and their layers. `lib.rs`, which re-exports from all of them, has none.
const LAYERS: [(&str, u32); 29] = [
    ("id", 0),
    ("error", 0),
    ("fence", 0),
    ("crash_evidence", 1),
    ("descriptors", 1),
    ("atomic_file", 1),
    ("duration", 1),
    ("machine", 1),
    ("program", 1),
    ("printable", 1),
    ("recorder", 1),
    ("runtime", 1),
    ("secret_file", 1),
    ("trace", 1),
    ("wire", 1),
    ("drive", 2),
    ("payload", 2),
    ("state", 2),
    ("transport", 2),
    ("journal", 3),
    ("work", 3),
    ("fleet", 4),
    ("flow", 4),
    ("remote", 4),
    ("app", 5),
    ("http", 6),
    ("entry", 7),
    ("testing", 7),
    ("cli", 8),
];

/// Names that only these modules may use, each by itself or as the beginning of a path.
const ONLY: [(&str, &[&str]); 19] = [
    ("object_store", &["drive"]),
    ("rmp", &["wire"]),
    ("tokio_rustls", &["transport"]),
    ("rcgen", &["transport"]),
    ("actix_web", &["http"]),
    ("clap", &["cli"]),
    ("croner", &["flow"]),
    ("jiff", &["flow"]),
    ("ureq", &["cli", "trace"]),
    ("opentelemetry", &["trace"]),
    ("opentelemetry_http", &["trace"]),
    ("opentelemetry_otlp", &["trace"]),
    ("opentelemetry_sdk", &["trace"]),
    ("tracing", &["trace"]),
    ("tracing_opentelemetry", &["trace"]),
    ("tracing_subscriber", &["trace"]),
    ("prometheus_client", &["http"]),
    ("ratatui", &["cli"]),
    ("rusqlite", &["journal"]),
];

/// The one file with `unsafe` calls into the system, which it explains.
const UNSAFE: &str = "payload/huge.rs";

/// The files that may use actix. A new one needs a reason, since actix differs from the guarantees of this crate.
const ACTIX: [&str; 7] = [
    "app/control.rs",
    "app/driver/mod.rs",
    "app/hosts/elsewhere.rs",
    "app/launch.rs",
    "app/node.rs",
    "http/server.rs",
    "work/local.rs",
];

/// The static variables, each with the reason for which it belongs to the process and not to an App.
const STATICS: [(&str, &str, &str); 17] = [
    ("app/hosts/mod.rs", "HERE", "a constant, shared by all that name it"),
    ("cli/client/mod.rs", "PROGRAM", "the program's own name, set once by its command line"),
    ("flow/policy.rs", "DEFAULT", "a constant, shared by all Works with default options"),
    ("payload/hex.rs", "PROCESS", "a number of the process, by which ids of payloads are unique"),
    ("payload/hex.rs", "NEXT", "a counter, by which ids of payloads are unique"),
    ("program.rs", "BUILD", "the hash of the executable of this process"),
    ("program.rs", "MARK", "identifies the file of the executable of this process"),
    ("recorder/on.rs", "HERE", "the recorder of metrics, which a process has one of"),
    ("recorder/on.rs", "ONCE", "the recorder of metrics is installed once"),
    ("remote/process_id.rs", "MACHINE", "the name of the machine"),
    ("runtime.rs", "RUNNING", "lets a thread that belongs to no App find the only one"),
    ("state/tracker.rs", "NIL", "a constant"),
    ("trace/export.rs", "PROVIDER", "the exporter of spans, which a process has one of"),
    ("work/load_report.rs", "MEASURED", "the last measurement of this process's use of processors"),
    ("work/logs.rs", "PROCESS", "the logger, which a process has one of"),
    ("work/policy.rs", "TEXTS", "interned texts of constants"),
    ("work/run_markers.rs", "MARKING", "the standard output, which a process has one of"),
];

/// The variables of a thread that connect parts of the crate. There are no more than these three.
const WIRING: [(&str, &str); 3] =
    [("runtime.rs", "OF_THREAD"), ("work/executing.rs", "EXECUTING"), ("flow/scope.rs", "SCOPE")];

/// The variables of a thread, each with its reason.
const THREAD_LOCALS: [(&str, &str, &str); 10] = [
    ("work/cycles/mod.rs", "LAST", "a counter, by which ids of asks are unique"),
    (
        "flow/scope.rs",
        "SCOPE",
        "the reaction in progress, which collects the commands of methods without a context",
    ),
    ("payload/blocking.rs", "MUST_NOT_WAIT", "a property of the thread: `Deref` must not block it"),
    ("payload/deferred.rs", "WAITING", "`Drop` gets no context, and must not recurse"),
    ("payload/store.rs", "COLLECTED", "`Serialize` gets no context: the references that it has written"),
    (
        "payload/store.rs",
        "BY_CONTENT",
        "`Serialize` gets no context: whether references are written by content",
    ),
    ("runtime.rs", "OF_THREAD", "the App of the thread, for `Deserialize`, `Drive` and log lines"),
    (
        "work/executing.rs",
        "EXECUTING",
        "the Work that is executing, for addresses, which get no context, and log lines",
    ),
    ("wire/codec.rs", "IS_ENCODING", "`Serialize` gets no context: whether the format is the crate's own"),
    ("wire/codec.rs", "BUFFER", "a buffer that encodings reuse"),
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
        let parts: Vec<_> = file.strip_prefix(&root).expect("the file is below the root").iter().collect();
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

/// The names of the static variables in code, and those of the variables of a thread.
fn variables(text: &str) -> [Vec<String>; 2] {
    let tokens = without_tests(&tokens(&code_only(text)));
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    let mut found = [Vec::new(), Vec::new()];
    let mut locals_end = 0;
    for at in 0..tokens.len() {
        if begins_with(&tokens[at..], &["thread_local", "!"]) {
            locals_end = end_of_group(&tokens, at + 2);
        }
        // A lifetime has a quote in front.
        if word(at) == "static" && (at == 0 || word(at - 1) != "'") {
            let name = at + if word(at + 1) == "mut" { 2 } else { 1 };
            if word(name + 1) == ":" {
                found[usize::from(at < locals_end)].push(word(name).to_owned());
            }
        }
    }
    found
}

#[test]
fn variables_of_the_process_and_of_threads_are_known() {
    let (mut statics, mut locals) = (BTreeSet::new(), BTreeSet::new());
    each_source(|path, text| {
        let [of_process, of_thread] = variables(text);
        statics.extend(of_process.into_iter().map(|name| (path.to_owned(), name)));
        locals.extend(of_thread.into_iter().map(|name| (path.to_owned(), name)));
    });
    let known = |list: &[(&str, &str, &str)]| -> BTreeSet<(String, String)> {
        list.iter().map(|(path, name, _)| ((*path).to_owned(), (*name).to_owned())).collect()
    };
    let advice = "what belongs to an App is a part of its `Runtime` (src/runtime.rs); a variable that does not needs an \
                  entry in tests/layering.rs with its reason";
    assert_eq!(statics, known(&STATICS), "{advice}");
    assert_eq!(locals, known(&THREAD_LOCALS), "{advice}");
    let wiring = WIRING.map(|(path, name)| (path.to_owned(), name.to_owned()));
    assert!(wiring.iter().all(|variable| locals.contains(variable)));
}

/// Variables are found wherever they are declared; lifetimes, text and tests are none.
#[test]
fn variables_are_found_wherever_declared() {
    let code = "static A: Mutex<&'static str> = x; fn f(s: &'static str) { static mut B: u8 = 1; } \
                thread_local! { /// Text.\n static C: Cell<u8> = const { Cell::new(1) }; pub static D: u8 = 1; } \
                pub(crate) static E: u8 = 1; // static F: u8\n const G: &str = \"static H: u8\"; \
                #[cfg(test)] mod tests { static I: u8 = 1; } impl<T: 'static> X for T {}";
    assert_eq!(variables(code), [vec!["A", "B", "E"], vec!["C", "D"]]);
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

// Cycles between the modules of one folder.

/// The import cycles that remain between the modules of one folder below `src`: the folder, the modules, and the reason
/// why no move of a type or function closes the cycle. [`cycles_between_siblings_are_known`] compares the list with the
/// code. The list should only shrink.
const CYCLES: [(&str, &str, &str); 3] = [
    (
        "payload",
        "entry remote_source store stored_blob",
        "a stored value owns guards of the values it refers to, and a guard owns the entry of its stored value",
    ),
    (
        "state",
        "decode diff error json key map_diff number patch seq_diff size value walk",
        "values are built, compared and decoded by recursion over the shapes of serde; errors show a Value",
    ),
    (
        "work",
        "actor address any_mailbox ask context envelope json mailbox message probe recipient remote_messages route watch \
         work_type",
        "an envelope runs its handler on a WorkContext, which receives envelopes from the mailbox",
    ),
];

/// Absolute path of a module or of a name in one, without `crate`.
type Segments = Vec<String>;

/// A path that the code of a module names.
#[derive(Debug, PartialEq)]
struct NamedPath {
    segments: Segments,
    /// The file and the path as they are written, for messages.
    written: String,
}

/// The facts of a module that resolution needs.
#[derive(Default)]
struct Module {
    /// Modules with a file of their own.
    children: BTreeSet<String>,
    /// Names of the items defined here.
    items: BTreeSet<String>,
    /// Names that a `use` brings here, with the paths that they stand for.
    bindings: BTreeMap<String, Vec<Segments>>,
    /// Modules from which a `use` brings all names.
    globs: Vec<Segments>,
    paths: Vec<NamedPath>,
    /// Words that may be names brought by a glob, with their files.
    words: BTreeSet<(String, String)>,
}

/// Keywords in front of the name of an item.
const ITEMS: [&str; 8] = ["struct", "enum", "union", "trait", "fn", "type", "const", "static"];

/// Removes the items under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at = end_of_item(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn begins_with(tokens: &[String], expected: &[&str]) -> bool {
    tokens.len() >= expected.len() && tokens.iter().zip(expected).all(|(token, expected)| token == expected)
}

fn is_test_attribute(tokens: &[String]) -> bool {
    begins_with(tokens, &["#", "[", "cfg", "(", "test", ")", "]"])
        || begins_with(tokens, &["#", "[", "cfg", "(", "all", "(", "test", ","])
}

/// The position behind the group of brackets that begins at `at`.
fn end_of_group(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return n + 1;
        }
    }
    tokens.len()
}

/// The position behind the item, field, variant or statement at `at`, its attributes included.
fn end_of_item(tokens: &[String], mut at: usize) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    while word(at) == "#" {
        at = end_of_group(tokens, at + 1);
    }
    if word(at) == "pub" {
        at += 1;
        if word(at) == "(" {
            at = end_of_group(tokens, at);
        }
    }
    let to_semicolon = matches!(word(at), "use" | "let" | "type" | "static")
        || (word(at) == "const"
            && !ITEMS.contains(&word(at + 1))
            && !matches!(word(at + 1), "unsafe" | "async"));
    let is_item = to_semicolon
        || ITEMS.contains(&word(at))
        || matches!(word(at), "mod" | "impl" | "async" | "unsafe" | "extern" | "macro_rules");
    while at < tokens.len() {
        match word(at) {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            "}" | ")" | "]" => return at,
            "{" if !to_semicolon => return end_of_group(tokens, at),
            "{" | "(" | "[" => at = end_of_group(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// One leaf of a `use`: its path, and the name that it binds (`None` for `*` and `_`).
type Leaf = (Segments, Option<String>);

/// Collects the leaves of the tree of a `use` at `at`, and returns the position behind it.
fn use_tree(tokens: &[String], mut at: usize, prefix: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    let mut path = prefix.to_vec();
    loop {
        match word(at) {
            "::" => at += 1,
            "{" => {
                at += 1;
                while at < tokens.len() && word(at) != "}" {
                    at = use_tree(tokens, at, &path, leaves);
                    if word(at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "*" => {
                path.push("*".to_owned());
                leaves.push((path, None));
                return at + 1;
            }
            "as" => {
                let name = word(at + 1);
                leaves.push((path, (name != "_").then(|| name.to_owned())));
                return at + 2;
            }
            "self" if !path.is_empty() => at += 1,
            name if name.chars().all(is_word) && !name.is_empty() => {
                path.push(name.to_owned());
                at += 1;
            }
            _ => {
                let name = path.last().cloned();
                leaves.push((path, name));
                return at;
            }
        }
    }
}

/// The absolute path of `path` in the module `here`: `None` if it begins with a name and not with a keyword.
fn absolute(here: &[String], path: &[String]) -> Option<Segments> {
    let (first, mut rest) = path.split_first()?;
    let mut base = match first.as_str() {
        "crate" => Vec::new(),
        "self" => here.to_vec(),
        "super" => here[..here.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    while let Some(("super", behind)) = rest.split_first().map(|(first, behind)| (first.as_str(), behind)) {
        base.pop()?;
        rest = behind;
    }
    base.extend_from_slice(rest);
    Some(base)
}

impl Module {
    /// Reads the code of a file of the module `here`. Returns the modules that the file declares.
    fn read(&mut self, here: &[String], file: &str, text: &str) -> BTreeSet<String> {
        let tokens = without_tests(&tokens(&code_only(text)));
        let word = |at: usize| tokens.get(at).map_or("", String::as_str);
        let mut declared = BTreeSet::new();
        let mut uses: Vec<Leaf> = Vec::new();
        // The modules within the file that are open, with the depth of brackets in which each is.
        let mut inline: Vec<(String, usize)> = Vec::new();
        let mut depth = 0_usize;
        let mut at = 0;
        while at < tokens.len() {
            let before = at.checked_sub(1).map_or("", word);
            let scope: Segments = here.iter().chain(inline.iter().map(|(name, _)| name)).cloned().collect();
            match word(at) {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => {
                    depth = depth.saturating_sub(1);
                    inline.pop_if(|(_, outside)| *outside == depth);
                }
                "mod" if word(at + 2) == ";" && depth == 0 => {
                    declared.insert(word(at + 1).to_owned());
                }
                "mod" if word(at + 2) == "{" => {
                    if depth == 0 {
                        self.items.insert(word(at + 1).to_owned());
                    }
                    inline.push((word(at + 1).to_owned(), depth));
                    depth += 1;
                    at += 2;
                }
                "use" if word(at + 1) != "<" => {
                    let mut leaves = Vec::new();
                    at = use_tree(&tokens, at + 1, &[], &mut leaves);
                    for (path, name) in leaves {
                        if let Some(segments) = absolute(&scope, &path) {
                            let written = format!("{file}: use {}", path.join("::"));
                            self.paths.push(NamedPath { segments, written });
                        }
                        if inline.is_empty() && (depth == 0 || path.last().is_some_and(|last| last == "*")) {
                            uses.push((path, name));
                        }
                    }
                    continue;
                }
                "crate" | "super" | "self" if word(at + 1) == "::" && !matches!(before, "::" | "$") => {
                    let mut path = vec![word(at).to_owned()];
                    while word(at + 1) == "::"
                        && word(at + 2).chars().all(is_word)
                        && !word(at + 2).is_empty()
                    {
                        path.push(word(at + 2).to_owned());
                        at += 2;
                    }
                    if let Some(segments) = absolute(&scope, &path) {
                        self.paths
                            .push(NamedPath { segments, written: format!("{file}: {}", path.join("::")) });
                    }
                }
                keyword if depth == 0 && ITEMS.contains(&keyword) => {
                    let name = (at + 1..).map(word).find(|name| {
                        !ITEMS.contains(name)
                            && !matches!(*name, "unsafe" | "async" | "extern" | "mut" | "\"")
                    });
                    self.items.extend(name.map(str::to_owned));
                }
                name if name.chars().all(is_word) && !matches!(before, "::" | ".") => {
                    self.words.insert((name.to_owned(), file.to_owned()));
                }
                _ => {}
            }
            at += 1;
        }
        self.children.extend(declared.iter().cloned());
        // In `use anyhow::anyhow` the first name is another crate, and not the one that is bound.
        let own = uses.iter().filter(|(path, name)| path.first() != name.as_ref());
        let own: BTreeSet<String> = own.filter_map(|(_, name)| name.clone()).collect();
        for (path, name) in uses {
            let is_own = path.first().is_some_and(|first| {
                self.children.contains(first)
                    || self.items.contains(first)
                    || (path.len() > 1 && own.contains(first))
            });
            let mut segments = match absolute(here, &path) {
                Some(segments) => segments,
                None if is_own => here.iter().cloned().chain(path).collect(),
                // From another crate.
                None => continue,
            };
            match name {
                Some(name) => self.bindings.entry(name).or_default().push(segments),
                None if segments.last().is_some_and(|last| last == "*") => {
                    segments.pop();
                    self.globs.push(segments);
                }
                None => {}
            }
        }
        declared
    }
}

/// The modules of the crate by path, tests excluded.
struct Modules(BTreeMap<Segments, Module>);

impl Modules {
    /// Follows the declarations of modules from `lib.rs`. The sources are by path below `src`.
    fn new(sources: &BTreeMap<String, String>) -> Self {
        let mut modules = Self(BTreeMap::new());
        let mut waiting = vec![(Segments::new(), "lib.rs".to_owned())];
        while let Some((here, file)) = waiting.pop() {
            let Some(text) = sources.get(&file) else { continue };
            let module = modules.0.entry(here.clone()).or_default();
            let beside = file.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
            for name in module.read(&here, &file, text) {
                let child: Segments = here.iter().cloned().chain([name.clone()]).collect();
                waiting.push((child.clone(), format!("{}.rs", child.join("/"))));
                waiting.push((child.clone(), format!("{}/mod.rs", child.join("/"))));
                for path in paths_of_module(text, &name) {
                    waiting.push((child.clone(), format!("{beside}{path}")));
                }
            }
        }
        modules
    }

    /// Collects the modules that a path leads through: those that re-export it, and the one that it ends in.
    fn resolve(&self, path: &[String], seen: &mut BTreeSet<Segments>, found: &mut BTreeSet<Segments>) {
        if !seen.insert(path.to_vec()) {
            return;
        }
        let mut here = Segments::new();
        for (n, name) in path.iter().enumerate() {
            let module = &self.0[&here];
            let child: Segments = here.iter().cloned().chain([name.clone()]).collect();
            if self.0.contains_key(&child) {
                here = child;
            } else if let Some(targets) = module.bindings.get(name) {
                for target in targets {
                    let target: Segments = target.iter().chain(&path[n + 1..]).cloned().collect();
                    self.resolve(&target, seen, found);
                }
                break;
            } else if !module.items.contains(name)
                && let Some(glob) = self.glob_with(module, name)
            {
                let target: Segments = glob.iter().chain(&path[n..]).cloned().collect();
                self.resolve(&target, seen, found);
                break;
            } else {
                break;
            }
        }
        found.insert(here);
    }

    /// The module among the globs of `module` that has the name.
    fn glob_with<'a>(&self, module: &'a Module, name: &str) -> Option<&'a Segments> {
        module.globs.iter().find(|glob| self.has(glob, name, &mut BTreeSet::new()))
    }

    fn has(&self, here: &[String], name: &str, seen: &mut BTreeSet<Segments>) -> bool {
        let Some(module) = self.0.get(here) else { return false };
        seen.insert(here.to_vec())
            && (module.items.contains(name)
                || module.children.contains(name)
                || module.bindings.contains_key(name)
                || module.globs.iter().any(|glob| self.has(glob, name, seen)))
    }

    /// The imports between the children of one module, by the path of that module. An import by a deeper module counts
    /// for the child that it is below.
    fn edges(&self) -> BTreeMap<Segments, Edges> {
        let mut edges: BTreeMap<Segments, Edges> = BTreeMap::new();
        for (here, module) in &self.0 {
            let by_glob = module.words.iter().filter_map(|(name, file)| {
                let known = module.items.contains(name) || module.bindings.contains_key(name);
                let glob = if known { None } else { self.glob_with(module, name) }?;
                let segments = glob.iter().chain([name]).cloned().collect();
                Some(NamedPath { segments, written: format!("{file}: {name}, by a glob") })
            });
            for path in by_glob.collect::<Vec<_>>().iter().chain(&module.paths) {
                let mut found = BTreeSet::new();
                self.resolve(&path.segments, &mut BTreeSet::new(), &mut found);
                for target in found {
                    let common = here.iter().zip(&target).take_while(|(a, b)| a == b).count();
                    if let (Some(from), Some(to)) = (here.get(common), target.get(common)) {
                        edges
                            .entry(here[..common].to_vec())
                            .or_default()
                            .entry(from.clone())
                            .or_default()
                            .entry(to.clone())
                            .or_insert_with(|| path.written.clone());
                    }
                }
            }
        }
        edges
    }
}

/// The files that `#[path = "…"]` gives to the module in a text.
fn paths_of_module(text: &str, module: &str) -> Vec<String> {
    let declaration = format!("mod {module};");
    let files = text.split("#[path = \"").skip(1).filter_map(|rest| {
        let (file, rest) = rest.split_once("\"]")?;
        let declared = rest.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
        declared.ends_with(&declaration).then(|| file.to_owned())
    });
    files.collect()
}

/// The imports from each module of a folder to others of the same folder, each with one place where it is written.
type Edges = BTreeMap<String, BTreeMap<String, String>>;

/// The strongly connected components of more than one module, by Tarjan's algorithm.
fn components(edges: &Edges) -> Vec<BTreeSet<String>> {
    #[derive(Default)]
    struct Search {
        index: BTreeMap<String, usize>,
        lowest: BTreeMap<String, usize>,
        stack: Vec<String>,
        components: Vec<BTreeSet<String>>,
    }

    fn visit(name: &str, edges: &Edges, search: &mut Search) {
        let index = search.index.len();
        search.index.insert(name.to_owned(), index);
        search.stack.push(name.to_owned());
        let mut lowest = index;
        for to in edges.get(name).into_iter().flat_map(BTreeMap::keys) {
            if !search.index.contains_key(to) {
                visit(to, edges, search);
                lowest = lowest.min(search.lowest[to]);
            } else if search.stack.contains(to) {
                lowest = lowest.min(search.index[to]);
            }
        }
        search.lowest.insert(name.to_owned(), lowest);
        if lowest == index {
            let begin =
                search.stack.iter().position(|other| other == name).expect("the node is on the stack");
            let component: BTreeSet<String> = search.stack.drain(begin..).collect();
            if component.len() > 1 {
                search.components.push(component);
            }
        }
    }

    let mut search = Search::default();
    for name in edges.keys() {
        if !search.index.contains_key(name) {
            visit(name, edges, &mut search);
        }
    }
    search.components
}

/// The differences between the cycles in the sources and the list of those that are known.
fn cycle_violations(sources: &BTreeMap<String, String>, known: &[(&str, &str, &str)]) -> Vec<String> {
    let mut known: BTreeSet<(String, BTreeSet<String>)> = known
        .iter()
        .map(|(folder, modules, _)| {
            ((*folder).to_owned(), modules.split_whitespace().map(str::to_owned).collect())
        })
        .collect();
    let mut wrong = Vec::new();
    for (folder, edges) in Modules::new(sources).edges() {
        let folder = folder.join("/");
        for component in components(&edges) {
            if known.remove(&(folder.clone(), component.clone())) {
                continue;
            }
            let mut message = format!(
                "src/{folder}: the modules {component:?} import each other in a cycle that is not in CYCLES. Close it: move \
                 the type, constant or function that leads back to the module that it belongs to, or to one below both. \
                 If it is what remains of a larger cycle, shorten the entry in CYCLES. The imports:"
            );
            for (from, targets) in &edges {
                for (to, written) in targets {
                    if component.contains(from) && component.contains(to) {
                        message.push_str(&format!("\n    {from} -> {to}   ({written})"));
                    }
                }
            }
            wrong.push(message);
        }
    }
    wrong.extend(known.into_iter().map(|(folder, modules)| {
        format!("src/{folder}: the cycle of {modules:?} in CYCLES is no longer in the code; remove or shorten its entry")
    }));
    wrong
}

#[test]
fn cycles_between_siblings_are_known() {
    let mut sources = BTreeMap::new();
    each_source(|path, text| {
        sources.insert(path.to_owned(), text.to_owned());
    });
    let wrong = cycle_violations(&sources, &CYCLES);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The sources of a crate in which `a` is a folder with the files `b.rs`, `c.rs` and `d/`.
fn crate_with(b: &str, door: &str) -> BTreeMap<String, String> {
    let sources = [
        ("lib.rs", "mod a; mod other; mod up;"),
        ("other.rs", "pub struct Other;"),
        ("up.rs", "pub use crate::a::Re;"),
        ("a/mod.rs", door),
        ("a/b.rs", b),
        ("a/c.rs", "pub struct C; pub mod inner { pub struct I; } pub struct Other;"),
        ("a/d/mod.rs", "mod e; pub(super) struct D;"),
        ("a/d/e.rs", "pub struct E;"),
    ];
    sources.map(|(path, text)| (path.to_owned(), text.to_owned())).into()
}

const DOOR: &str = "mod b; mod c; mod d; pub use self::c::C as Re; pub(crate) use c::*; use self::d::{self as dd, D}; \
                    use crate::other::Other as FromOther; pub struct Own;";

/// The modules that the file `a/b.rs` with this text imports, by the resolver.
fn imports_of(b: &str) -> Vec<String> {
    let edges = Modules::new(&crate_with(b, DOOR)).edges();
    let targets = edges.get(["a".to_owned()].as_slice()).and_then(|edges| edges.get("b"));
    targets.map(|targets| targets.keys().cloned().collect()).unwrap_or_default()
}

/// An import of a sibling is found however its path is written, and through the names that the parent re-exports.
#[test]
fn siblings_imports_are_resolved_however_written() {
    for to_c in [
        "use super::c::C;",
        "use super::c;",
        "use super::{c::{self, C}};",
        "use crate::a::c::C as Renamed;",
        "use crate::{other::Other, a::{c::C}};",
        "use super::Re;",
        "use super::{Own, Re};",
        "use super::C;",
        "use super::inner::I;",
        "use super::super::a::c::C;",
        "use crate::up::Re;",
        "use super::*; struct B(C);",
        "fn f(c: &super::c::C) {}",
        "fn f() { let x = crate::a::Re; }",
        "fn f() { use super::c::C; }",
        "impl T for super::Re {}",
        "mod inline { use super::super::c::C; }",
        "mod inline { fn f() { super::super::Re } }",
        "#[cfg(feature = \"x\")] use super::c::C;",
        "#[cfg(not(test))] use super::c::C;",
        "struct A { #[cfg(test)] a: u8, c: super::c::C }",
        "#[cfg(test)] use super::d::{D}; use super::c::C;",
        "#[cfg(test)] const A: B = B { b: 1 }; use super::c::C;",
        "#[cfg(test)] fn f<A, B>(a: A) -> B { super::d::g() } use super::c::C;",
        "#[cfg(test)] mod tests { use super::super::d::D; } use super::c::C;",
        "const A: &str = \"\\\"\"; use super::c::C; // super::d",
    ] {
        assert_eq!(imports_of(to_c), ["c"], "{to_c}");
    }
    for to_d in ["use super::d::e::E;", "use super::D;", "use super::dd::e;", "use super::*; type A = D;"] {
        assert_eq!(imports_of(to_d), ["d"], "{to_d}");
    }
    assert_eq!(imports_of("use super::{Re, D};"), ["c", "d"]);
}

/// Names of the parent itself, of other folders and in text that is no code, or only in tests, are no imports.
#[test]
fn names_that_are_no_sibling_are_no_imports() {
    for none in [
        "use super::Own;",
        "use super::*; struct B(Own);",
        "use super::*; struct C; struct B(C);",
        "use super::FromOther;",
        "use crate::other::Other;",
        "use super::b::X;",
        "use self::c::C;",
        "use c::C;",
        "pub(super) struct B; pub(in crate::a) struct A;",
        "mod c { pub struct C; } use self::c::C; fn f() -> self::c::C { c::C }",
        "mod inline { use super::c::C; }",
        "/// See [`super::c::C`].\n// super::c\n/* super::c */ struct B;",
        "const A: &str = \"super::c::C\";",
        "#[cfg(test)] mod tests { use super::super::c::C; }",
        "#[cfg(test)] use super::c::{C};",
        "#[cfg(test)] impl A { fn f() { super::c::g() } }",
        "#[cfg(all(test, feature = \"x\"))] fn f() -> super::c::C { super::c::C }",
        "#[cfg(test)] #[path = \"b_tests.rs\"] mod tests;",
        "macro_rules! m { () => { $crate::a::c::C } }",
        "pub use e::{e, C}; fn f() { self::e!() }",
        "fn f(x: X) { x.c.C() }",
    ] {
        assert_eq!(imports_of(none), Vec::<String>::new(), "{none}");
    }
}

/// Imports by the files of a subfolder count for the subfolder, and the parent is no part of a cycle.
#[test]
fn a_subfolder_counts_as_one_module() {
    let mut sources = crate_with("use super::d::e::E;", DOOR);
    assert_eq!(cycle_violations(&sources, &[]), Vec::<String>::new());
    sources.insert("a/d/e.rs".to_owned(), "use super::super::b::B;".to_owned());
    let wrong = cycle_violations(&sources, &[]);
    assert!(wrong.len() == 1 && wrong[0].starts_with("src/a: the modules {\"b\", \"d\"}"), "{wrong:?}");
    assert!(wrong[0].contains("b -> d   (a/b.rs: use super::d::e::E)"), "{wrong:?}");
    assert!(wrong[0].contains("d -> b   (a/d/e.rs: use super::super::b::B)"), "{wrong:?}");
}

/// Files that `#[path]` gives to a module are read, and files that are declared for tests only are not.
#[test]
fn files_of_modules_follow_their_declarations() {
    let mut sources = crate_with("use super::c::C;", &format!("{DOOR} #[cfg(test)] mod t;"));
    sources.insert("a/t.rs".to_owned(), "use super::b;".to_owned());
    sources.insert(
        "a/c.rs".to_owned(),
        "pub struct C;\n#[cfg(test)]\n#[path = \"c_tests.rs\"]\nmod tests;".to_owned(),
    );
    sources.insert("a/c_tests.rs".to_owned(), "use super::super::b;".to_owned());
    assert_eq!(cycle_violations(&sources, &[]), Vec::<String>::new());
    let door = format!("{DOOR}\n#[cfg(not(feature = \"x\"))]\n#[path = \"c_off.rs\"]\nmod c;");
    sources.insert("a/mod.rs".to_owned(), door);
    sources.insert("a/c_off.rs".to_owned(), "use super::b;".to_owned());
    assert_eq!(cycle_violations(&sources, &[]).len(), 1);
}

/// A cycle must be in the list exactly as it is in the code: neither new, grown, shrunk nor gone.
#[test]
fn cycles_differ_from_the_list_when_they_change() {
    let mut sources = crate_with("use super::c::C;", DOOR);
    sources.insert("a/c.rs".to_owned(), "use super::b; use super::d;".to_owned());
    let known: [(&str, &str, &str); 1] = [("a", "b c", "a reason")];
    assert_eq!(cycle_violations(&sources, &known), Vec::<String>::new());

    sources.insert("a/d/e.rs".to_owned(), "use super::super::b;".to_owned());
    let grown = cycle_violations(&sources, &known);
    assert_eq!(grown.len(), 2, "{grown:?}");
    assert!(
        grown[0].contains("{\"b\", \"c\", \"d\"}") && grown[1].contains("no longer in the code"),
        "{grown:?}"
    );

    sources.insert("a/c.rs".to_owned(), String::new());
    let gone = cycle_violations(&sources, &known);
    assert!(gone.len() == 1 && gone[0].contains("{\"b\", \"c\"}") && gone[0].contains("remove"), "{gone:?}");
}

/// The components are the strongly connected ones, not all that are connected.
#[test]
fn components_are_strongly_connected() {
    let edges = |pairs: &[(&str, &str)]| {
        let mut edges = Edges::new();
        for (from, to) in pairs {
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned(), String::new());
        }
        edges
    };
    let found = |pairs: &[(&str, &str)]| {
        let mut found: Vec<String> =
            components(&edges(pairs)).into_iter().map(|found| found.into_iter().collect()).collect();
        found.sort();
        found
    };
    assert_eq!(found(&[("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]), Vec::<String>::new());
    assert_eq!(found(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "c")]), ["ab", "cd"]);
    assert_eq!(found(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("c", "e")]), ["bcd"]);
    assert_eq!(found(&[("a", "b"), ("b", "c"), ("c", "a"), ("x", "b"), ("c", "y"), ("y", "c")]), ["abcy"]);
}
