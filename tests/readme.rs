//! Checks the README and the pages in `docs/` against the code: examples, features, flags, commands, keys, routes, tests.

mod built;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of a page below this heading, down to the next heading of the same or a higher level.
fn section(page: &str, heading: &str) -> String {
    let level = heading.chars().take_while(|c| *c == '#').count();
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "no heading {heading:?}");
    let mut in_code = false;
    let section = lines.take_while(|line| {
        in_code ^= line.trim_start().starts_with("```");
        let depth = line.chars().take_while(|c| *c == '#').count();
        in_code || depth == 0 || depth > level
    });
    section.map(|line| format!("{line}\n")).collect()
}

/// The cells of each row of the tables in a text, without their headings.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let is_rule = |line: &str| line.starts_with("| ---");
    let rows = lines.iter().enumerate().filter(|(at, line)| {
        let is_heading = lines.get(at + 1).is_some_and(|next| is_rule(next));
        line.starts_with("| ") && !is_rule(line) && !is_heading
    });
    rows.map(|(_, row)| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The texts between backticks.
fn in_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of the flags in a text, such as `log-level` in "`--log-level LEVEL`".
fn flags(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
    text.split("--").skip(1).map(name).filter(|name: &String| !name.is_empty()).collect()
}

/// The output of `--help` of the program in the README.
fn help(command: &[&str]) -> String {
    let example = built::example("continuous_deployment", false);
    let output = Command::new(example).args(command).arg("--help").output().expect("the example runs");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The flags that help has a line for, except `--help` itself.
fn flags_of(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    // The description, which may name other flags, follows after two spaces.
    let names = lines.filter_map(|line| line.split("  ").next());
    let mut flags: BTreeSet<_> = names.flat_map(flags).collect();
    flags.remove("help");
    flags
}

/// The subcommands that help lists.
fn commands_of(help: &str) -> BTreeSet<String> {
    let (_, commands) = help.split_once("Commands:\n").expect("help lists commands");
    let (commands, _) = commands.split_once("\n\n").expect("options follow");
    let names = commands.lines().filter(|line| !line.starts_with("   "));
    names
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .filter(|n| n != "help")
        .collect()
}

/// The program in the README is identical to the example of that name.
#[test]
fn readme_program_is_the_example() {
    let readme = read("README.md");
    let (_, program) = readme.split_once("```rust,no_run\n").expect("the README shows a program");
    let (program, _) = program.split_once("```\n").expect("the program ends");
    let example = read("examples/continuous_deployment.rs");
    let code = example.split_once("\n\n").expect("its docs come first").1;
    assert_eq!(program, code);
}

/// The README lists the files in `examples/`, all of them and no others.
#[test]
fn readme_lists_every_example() {
    let readme = read("README.md");
    let examples = section(&readme, "## Examples");
    let named: BTreeSet<_> = rows(&examples).iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let names = fs::read_dir(folder)
        .expect("there are examples")
        .map(|entry| entry.expect("the entries can be read").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    assert_eq!(named, names.collect());
}

/// The README lists the Cargo features, except those that only add tests.
#[test]
fn readme_lists_every_cargo_feature() {
    let manifest = read("Cargo.toml");
    let (_, features) = manifest.split_once("\n[features]\n").expect("there are features");
    let (features, _) = features.split_once("\n\n").expect("another table follows");
    let features =
        features.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned());
    let features: BTreeSet<_> =
        features.filter(|name| !name.ends_with("-tests") && name != "default").collect();
    let readme = read("README.md");
    let text = section(&readme, "## What there is");
    let listed = rows(&text).into_iter().filter(|row| row[0].starts_with('`'));
    let listed: BTreeSet<_> = listed.map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(listed, features);
}

/// The README is short enough to be read at once, and the lines of every page fit a terminal. In some pages the rows of
/// tables may be wider.
#[test]
fn pages_are_short_and_narrow() {
    let with_tables = ["actix", "api", "command-line", "durability", "lightning", "operations", "security"];
    let with_tables = with_tables.map(|page| format!("docs/{page}.md"));
    let narrow = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/guarantees.md", "docs/protocol.md"];
    let mut wide = Vec::new();
    for page in with_tables.iter().map(String::as_str).chain(narrow) {
        let text = read(page);
        for (at, line) in text.lines().enumerate() {
            let is_table = line.trim_start().starts_with('|') && !narrow.contains(&page);
            if line.chars().count() > 120 && !is_table {
                wide.push(format!("{page}:{}: {} columns", at + 1, line.chars().count()));
            }
        }
    }
    assert!(wide.is_empty(), "lines of more than 120 columns: {wide:#?}");
    let lines = read("README.md").lines().count();
    assert!(lines <= 250, "the README has {lines} lines, and may have 250: move reference material to docs/");
}

/// The tables of `run`, `node` and `certs` have the flags that `--help` lists.
#[test]
fn command_line_page_has_every_flag() {
    let page = read("docs/command-line.md");
    for command in ["run", "node", "certs"] {
        let text = section(&page, &format!("## {command}"));
        let documented: BTreeSet<_> = rows(&text).iter().flat_map(|row| flags(row[0])).collect();
        let help = help(&[command]);
        assert_eq!(documented, flags_of(&help), "{command}: {help}");
    }
    let without_command: BTreeSet<_> = flags_of(&help(&[]));
    assert_eq!(without_command, flags_of(&help(&["run"])), "`run` may be left out");
}

/// The table of `journal` has the commands and the flags that `--help` lists.
#[test]
fn command_line_page_has_every_journal_command() {
    let page = read("docs/command-line.md");
    let text = section(&page, "## journal");
    let mut described = BTreeSet::new();
    for row in rows(&text) {
        let usage = row[0].trim_matches('`');
        let command = usage.split(' ').nth(1).expect("a usage has the command");
        described.insert(command.to_owned());
        let help = help(&["journal", command]);
        assert_eq!(flags(usage), flags_of(&help), "{command}: {help}");
    }
    assert_eq!(described, commands_of(&help(&["journal"])));
}

/// The table of `fleet` has the commands and the flags that `--help` lists, beside those of all commands for an App.
#[test]
fn command_line_page_has_every_fleet_command() {
    let page = read("docs/command-line.md");
    let text = section(&page, "## fleet");
    let common = flags_of(&help(&["topics"]));
    let mut described = BTreeSet::new();
    for row in rows(&text) {
        let usage = row[0].trim_matches('`');
        let command = usage.split(' ').nth(1).expect("a usage has the command");
        described.insert(command.to_owned());
        let help = help(&["fleet", command]);
        let all: BTreeSet<_> = flags(usage).union(&common).cloned().collect();
        assert_eq!(all, flags_of(&help), "{command}: {help}");
    }
    assert_eq!(described, commands_of(&help(&["fleet"])));
}

/// The tables of commands have the commands and the flags that `--help` lists.
#[test]
fn command_line_page_has_every_command() {
    let page = read("docs/command-line.md");
    let (overview, _) = page.split_once("\n## ").expect("sections follow");
    let listed: BTreeSet<_> =
        rows(overview).iter().flat_map(|row| in_backticks(row[0])).map(str::to_owned).collect();
    let commands = commands_of(&help(&[]));
    assert_eq!(listed, commands);

    let text = section(&page, "## Commands for an App that runs");
    let rows = rows(&text);
    let common: BTreeSet<_> =
        rows.iter().filter(|row| row[0].starts_with("`--")).flat_map(|r| flags(r[0])).collect();
    assert!(common.contains("url"), "there are common flags: {common:?}");
    let mut described = BTreeSet::new();
    for row in rows.iter().filter(|row| !row[0].starts_with("`--")) {
        let usage = row[0].trim_matches('`');
        let command = usage.split(' ').next().expect("a usage begins with the command");
        described.insert(command.to_owned());
        let help = help(&[command]);
        let mut own = flags_of(&help);
        if command != "completions" {
            assert!(common.is_subset(&own), "{command} has {common:?}: {help}");
            own = own.difference(&common).cloned().collect();
        }
        assert_eq!(flags(usage), own, "{command}: {help}");
    }
    let own_sections = ["run", "node", "certs", "journal", "fleet"].map(str::to_owned);
    assert_eq!(described, commands.into_iter().filter(|name| !own_sections.contains(name)).collect());
}

/// The table of the configuration file has the fields of `Config`.
#[test]
fn command_line_page_has_every_key() {
    let page = read("docs/command-line.md");
    let text = section(&page, "## Configuration file");
    let documented: BTreeSet<_> = rows(&text).iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let source = read("src/app/config.rs");
    let (_, fields) = source.split_once("pub struct Config {").expect("the file has the structure");
    let (fields, _) = fields.split_once("\n}").expect("the structure ends");
    let mut keys = BTreeSet::new();
    let mut renamed = None;
    for line in fields.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("serde(rename = \"") {
            renamed = rest.split('"').next();
        } else if let Some((name, _)) =
            line.strip_prefix("pub(crate) ").and_then(|field| field.split_once(": "))
        {
            keys.insert(renamed.take().unwrap_or(name).to_owned());
        }
    }
    assert_eq!(documented, keys);
}

/// The table of routes has the routes of the server, with their methods.
#[test]
fn api_page_has_every_route() {
    let page = read("docs/api.md");
    let (table, _) = page.split_once("\n## ").expect("sections follow");
    let documented: BTreeSet<_> =
        rows(table).iter().map(|row| (row[0].to_owned(), row[1].trim_matches('`').to_owned())).collect();
    let source = read("src/http/routes.rs");
    let mut served = BTreeSet::new();
    for method in ["get", "post", "put", "delete", "patch"] {
        for call in source.split(&format!(".service({method}(\"")).skip(1) {
            let route = call.split('"').next().expect("the text ends");
            served.insert((method.to_uppercase(), route.to_owned()));
        }
    }
    assert_eq!(served.len(), source.matches(".service(").count(), "each service is seen");
    assert_eq!(documented, served);
}

/// The pages of the documentation, by their paths in the repository.
fn pages() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("there are pages");
    let docs = docs.map(|entry| {
        entry.expect("the entries can be read").file_name().into_string().expect("names are text")
    });
    let mut pages: Vec<_> =
        docs.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    let others = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "benches/README.md",
    ];
    pages.extend(others.map(str::to_owned));
    pages
}

/// Each file or folder that a page names in full exists.
#[test]
fn pages_name_paths_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tops = [".ci/", "benches/", "docs/", "examples/", "fuzz/", "macros/", "src/", "tests/"];
    let mut wrong = Vec::new();
    let mut named = 0;
    for page in pages() {
        let text = read(&page);
        let text = prose(&text).join("\n");
        for path in in_backticks(&text).filter(|text| tops.iter().any(|top| text.starts_with(top))) {
            let path = path.split_once("::").map_or(path, |(file, _)| file);
            named += 1;
            if path.split_whitespace().count() == 1 && !root.join(path).exists() {
                wrong.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(named > 50, "pages name paths: {named}");
    assert!(wrong.is_empty(), "these paths do not exist: {wrong:#?}");
}

/// Each file or folder that the architecture names exists, in `src/` unless its path begins at the root.
#[test]
fn architecture_names_paths_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = read("ARCHITECTURE.md");
    let (text, page) = text.split_once("\n### The page\n").expect("the README describes the page");
    let (_, rest) = page.split_once("\n## ").expect("another section follows");
    let text = prose(&format!("{text}\n{rest}")).join("\n");
    let is_path = |text: &&str| text.ends_with(".rs") || text.contains('/');
    let paths = in_backticks(&text).filter(is_path).filter(|path| !path.contains(char::is_whitespace));
    let paths: BTreeSet<_> = paths.filter(|path| *path != "mod.rs").collect();
    assert!(paths.len() > 100, "it names the files: {paths:?}");
    let missing = |path: &&&str| !root.join("src").join(path).exists() && !root.join(path).exists();
    let wrong: Vec<_> = paths.iter().filter(missing).collect();
    assert!(wrong.is_empty(), "these paths do not exist: {wrong:#?}");
}

/// Each "`Name` in `path`" of the glossary is defined there.
#[test]
fn glossary_names_types_that_exist() {
    let glossary = read("docs/glossary.md");
    let named: Vec<_> = glossary.split("` in `src/").collect();
    assert!(named.len() > 40, "it has about 40 terms: {}", named.len());
    let mut wrong = Vec::new();
    for (before, after) in named.iter().zip(&named[1..]) {
        let name = before.rsplit('`').next().expect("a split has parts");
        let path = format!("src/{}", after.split('`').next().expect("a split has parts"));
        let source = read(&path);
        let kinds = ["struct", "enum", "trait", "type", "fn"];
        let words = source.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let words: Vec<_> = words.collect();
        let is_defined = words.windows(2).any(|pair| kinds.contains(&pair[0]) && pair[1] == name);
        if !is_defined {
            wrong.push(format!("{name} in {path}"));
        }
    }
    assert!(wrong.is_empty(), "these are not defined there: {wrong:#?}");
}

/// The anchor that a heading gets: lower case, words joined by hyphens, without punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The lines of a page that are not code.
fn prose(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    });
    lines.collect()
}

/// Each link from page to page leads to a file, and to a heading where it has an anchor.
#[test]
fn links_lead_to_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    let mut followed = 0;
    for page in pages() {
        let text = read(&page);
        let folder = root.join(&page).parent().expect("a page is in a folder").to_owned();
        for line in prose(&text) {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if link.contains("://") {
                    continue;
                }
                followed += 1;
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                let target = if file.is_empty() { root.join(&page) } else { folder.join(file) };
                let leads = match fs::read_to_string(&target) {
                    Ok(target) if !heading.is_empty() => {
                        prose(&target).iter().any(|line| line.starts_with('#') && anchor(line) == heading)
                    }
                    _ => target.exists() && heading.is_empty(),
                };
                if !leads {
                    wrong.push(format!("{page}: {link}"));
                }
            }
        }
    }
    assert!(followed > 50, "pages link to each other: {followed}");
    assert!(wrong.is_empty(), "these links lead nowhere: {wrong:#?}");
}

/// The text of the tests at a path of the guarantees: a file or all files of a folder, in `src/` or else in `tests/`.
fn tests_at(path: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = if path.starts_with("src/") { root.join(path) } else { root.join("tests").join(path) };
    let mut left = vec![path.with_extension("rs"), path];
    let mut text = String::new();
    while let Some(path) = left.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => left.extend(entries.map(|entry| entry.expect("the entry can be read").path())),
            Err(_) => text += &fs::read_to_string(&path).unwrap_or_default(),
        }
    }
    // Some tests are programs of their own, in another language as well.
    let ways = ["#[test]", "#[tokio::test]", "tests![", "fn main(", "import sys"];
    ways.iter().any(|way| text.contains(way)).then_some(text)
}

/// Each promise names tests, and each test that is named exists.
#[test]
fn every_promise_names_tests_that_exist() {
    let guarantees = read("docs/guarantees.md");
    let (promised, _) =
        guarantees.split_once("\n## Not promised").expect("the page says what is not promised");
    let (_, promised) = promised.split_once("\n## Promised").expect("the page says what is promised");
    let promises: Vec<_> =
        promised.split("\n- ").skip(1).filter_map(|promise| promise.split("\n\n").next()).collect();
    assert!(promises.len() > 50, "it promises much: {promises:#?}");
    let mut wrong = Vec::new();
    for promise in promises {
        let named = promise.trim_end().strip_suffix(']').and_then(|promise| promise.rsplit_once('['));
        let Some((_, named)) = named else {
            wrong.push(format!("no test is named: {promise}"));
            continue;
        };
        let mut tests = String::new();
        for name in named.split([',', ';', ':']).map(str::trim) {
            let test = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
            let is_there = match test.map(|test| test.strip_suffix('…').ok_or(test)) {
                Some(Ok(prefix)) => tests.contains(&format!("fn {prefix}")),
                Some(Err(test)) => tests.contains(&format!("fn {test}(")),
                None => {
                    tests = tests_at(name).unwrap_or_default();
                    !tests.is_empty()
                }
            };
            if !is_there {
                wrong.push(format!("there is no test {name}: {promise}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
