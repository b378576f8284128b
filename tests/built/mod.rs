//! Builds the programs in `examples/`. `cargo test` builds them beside the tests, but `cargo test --test NAME` does
//! not, so that they would be missing or outdated.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The features of this build. The examples are built with the same ones: others would build the library again.
const FEATURES: [(&str, bool); 12] = [
    ("chaos-tests", cfg!(feature = "chaos-tests")),
    ("cli", cfg!(feature = "cli")),
    ("drive", cfg!(feature = "drive")),
    ("http", cfg!(feature = "http")),
    ("journal", cfg!(feature = "journal")),
    ("metrics", cfg!(feature = "metrics")),
    ("network-tests", cfg!(feature = "network-tests")),
    ("remote", cfg!(feature = "remote")),
    ("s3", cfg!(feature = "s3")),
    ("tls", cfg!(feature = "tls")),
    ("top", cfg!(feature = "top")),
    ("traces", cfg!(feature = "traces")),
];

/// Returns the path of an example's program, up to date: the first call in a process has cargo build it, or all with
/// `all`.
pub(crate) fn example(name: &str, all: bool) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let test = std::env::current_exe().expect("a test has a path");
    let directory = test.parent().and_then(Path::parent).expect("tests are in `deps`");
    BUILT.get_or_init(|| build(directory, (!all).then_some(name)));
    let program = directory.join("examples").join(name);
    assert!(program.exists(), "there is no {}; build it with `cargo build --examples`", program.display());
    program
}

fn build(directory: &Path, one: Option<&str>) {
    // A test that is started without cargo uses the existing programs.
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let features: Vec<_> = FEATURES.iter().filter_map(|(name, is_on)| is_on.then_some(*name)).collect();
    let mut build = Command::new(cargo);
    // Examples that `cargo test` has just built are not built again, and nothing is downloaded.
    build.args(["build", "--quiet", "--locked", "--offline", "--profile", profile]);
    build.args(["--no-default-features", "--features", &features.join(",")]);
    build.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    build.arg("--target-dir").arg(directory.parent().expect("a profile is in the target directory"));
    match one {
        Some(name) => build.args(["--example", name]),
        None => build.arg("--examples"),
    };
    let output = build.output().expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{build:?} fails: {errors}");
}
