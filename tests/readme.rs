//! What the README and the guarantees say is what the repository has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_program_is_the_example() {
    let readme = read("README.md");
    let (_, program) = readme.split_once("```rust,no_run\n").expect("it shows a program");
    let (program, _) = program.split_once("```\n").expect("the program ends");
    let example = read("examples/continuous_deployment.rs");
    let code = example.split_once("\n\n").expect("its docs come first").1;
    assert_eq!(program, code);
}

#[test]
fn the_examples_are_those_that_there_are() {
    let readme = read("README.md");
    let (_, examples) = readme.split_once("## Examples").expect("it lists examples");
    let (examples, _) = examples.split_once("\n## ").expect("another section follows");
    let named: BTreeSet<_> =
        examples.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let names: Vec<_> = fs::read_dir(folder)
        .expect("there are examples")
        .map(|entry| entry.expect("they can be read").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    assert_eq!(named, names.iter().map(String::as_str).collect());
}

#[test]
fn every_flag_is_in_the_table_and_none_else() {
    let readme = read("README.md");
    let (_, flags) = readme.split_once("## The command line").expect("it lists flags");
    let (flags, _) = flags.split_once("\n## ").expect("another section follows");
    let name =
        |text: &str| -> String { text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect() };
    let told: BTreeSet<_> =
        flags.lines().filter_map(|line| Some(name(line.strip_prefix("| `--")?))).collect();

    let test = std::env::current_exe().expect("a test is a program");
    let target = test.ancestors().nth(2).expect("it is in target/<profile>/deps");
    let help = Command::new(target.join("examples/continuous_deployment"))
        .arg("--help")
        .output()
        .expect("the example runs");
    let help = String::from_utf8(help.stdout).expect("help is text");
    let known: BTreeSet<_> =
        help.lines().filter_map(|line| Some(name(line.trim_start().strip_prefix("--")?))).collect();
    assert_eq!(told, known, "{help}");
}

/// The text of the tests at a path of the guarantees: a file or all files of a folder, in `src/` or else in `tests/`.
fn tests_at(path: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = if path.starts_with("src/") { root.join(path) } else { root.join("tests").join(path) };
    let mut left = vec![path.with_extension("rs"), path];
    let mut text = String::new();
    while let Some(path) = left.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => left.extend(entries.map(|entry| entry.expect("it can be read").path())),
            Err(_) => text += &fs::read_to_string(&path).unwrap_or_default(),
        }
    }
    // Some are programs of their own, in another language as well.
    let ways = ["#[test]", "#[tokio::test]", "tests![", "fn main(", "import sys"];
    ways.iter().any(|way| text.contains(way)).then_some(text)
}

#[test]
fn every_promise_names_tests_that_there_are() {
    let guarantees = read("docs/guarantees.md");
    let (promised, _) = guarantees.split_once("\n## Not promised").expect("it says what is not promised");
    let (_, promised) = promised.split_once("\n## Promised").expect("it says what is promised");
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
