//! Prints the public API of a crate, one item a line, from the JSON that rustdoc has written about it.

use std::collections::HashSet;
use std::error::Error;
use std::path::PathBuf;

/// Traits that the compiler implements by itself and that programs on a stable compiler cannot name.
const UNSTABLE_TRAITS: [&str; 3] =
    ["core::marker::Freeze", "core::marker::StructuralPartialEq", "core::marker::UnsafeUnpin"];

fn main() -> Result<(), Box<dyn Error>> {
    let json = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: list-public-api JSON")?;
    let api = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).build()?;
    let lines = api.items().map(ToString::to_string);
    let lines: Vec<String> =
        lines.filter(|line| !UNSTABLE_TRAITS.iter().any(|name| line.contains(name))).collect();
    // The members of a type that the prelude exports too are listed twice. The second time is below the type's own path.
    let mut seen = HashSet::new();
    let mut last: Vec<&String> = lines.iter().rev().filter(|line| seen.insert(line.as_str())).collect();
    last.reverse();
    last.into_iter().for_each(|line| println!("{line}"));
    Ok(())
}
