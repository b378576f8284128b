//! Compiler errors for programs that are nearly right.
//!
//! Each file in `tests/compile_fail` must not compile, and lists in its first lines (`//! says: …`) texts of this crate
//! that must be in the output of the compiler, and texts that must not be (`//! never says: …`). The rest of the output
//! may change with the compiler.
//!
//! The tests call the compiler directly, with the crates that cargo has built for this test: that needs no network and
//! no second build of the dependencies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

/// The files of the crates that the programs name, and the folder of all others.
struct Crates {
    named: Vec<(String, PathBuf)>,
    others: PathBuf,
}

/// Queries cargo, which has nothing left to build, for the built crates.
fn crates() -> Crates {
    let own = std::env::current_exe().expect("the path of the test binary is known");
    let others = own.parent().expect("the directory has a parent").to_owned();
    let profile = others.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--no-run", "--offline", "--quiet", "--message-format=json"]);
    cargo.args(["--test", "messages_of_the_compiler"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = others.ancestors().nth(2) {
        cargo.arg("--target-dir").arg(target);
    }
    if profile == Some("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo can be called");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let named = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .filter_map(|message| {
            let target = &message["target"];
            let name = target["name"].as_str().filter(|name| ["flowright", "serde"].contains(name))?;
            let has = |list: &Json, word: &str| {
                list.as_array().is_some_and(|list| list.iter().any(|item| item == word))
            };
            // serde for build scripts is built separately, without derives.
            let is_ours =
                has(&target["kind"], "lib") && (name == "flowright" || has(&message["features"], "derive"));
            let mut files = message["filenames"].as_array()?.iter().filter_map(Json::as_str);
            let file = files.rfind(|file| file.ends_with(".rlib"))?;
            is_ours.then(|| (name.to_owned(), file.into()))
        })
        .collect();
    Crates { named, others }
}

impl Crates {
    /// Compiles a program; returns success and the output of the compiler.
    fn compile(&self, program: &Path) -> (bool, String) {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut command = Command::new(rustc);
        command.args(["--edition=2024", "--crate-type=bin", "--emit=metadata", "--color=never"]);
        command.arg("--out-dir").arg(env!("CARGO_TARGET_TMPDIR"));
        command.arg("-L").arg(format!("dependency={}", self.others.display()));
        for (name, file) in &self.named {
            command.arg("--extern").arg(format!("{name}={}", file.display()));
        }
        let output = command.arg(program).output().expect("rustc can be called");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn a_program_that_is_nearly_right_is_told_what_is_missing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = crates();
    let names: Vec<_> = crates.named.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"flowright") && names.contains(&"serde"), "{names:?}");
    // If this valid program does not compile, the results for the others mean nothing.
    let (taken, answer) = crates.compile(&root.join("examples/continuous_deployment.rs"));
    assert!(taken, "{answer}");

    let mut wrong = Vec::new();
    let mut programs = 0;
    for entry in fs::read_dir(root.join("tests/compile_fail")).expect("the programs are there") {
        let program = entry.expect("their folder can be read").path();
        let text = fs::read_to_string(&program).expect("a program can be read");
        let listed = |prefix| text.lines().filter_map(move |line| line.strip_prefix(prefix));
        let says: Vec<_> = listed("//! says: ").collect();
        let (taken, answer) = crates.compile(&program);
        let missing: Vec<_> = says.iter().filter(|words| !answer.contains(**words)).collect();
        let extra: Vec<_> = listed("//! never says: ").filter(|words| answer.contains(words)).collect();
        if taken || says.is_empty() || !missing.is_empty() || !extra.is_empty() {
            let program = program.display();
            wrong.push(format!("{program}: {missing:?} is not, or {extra:?} is, in\n{answer}"));
        }
        programs += 1;
    }
    assert!(programs >= 7, "only {programs} programs were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
