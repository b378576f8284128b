//! What the README says is what the repository has.

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
