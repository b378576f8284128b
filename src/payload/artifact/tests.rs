//! Packing and unpacking of trees, and refusal of malformed streams.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;

use super::manifest::{Item, Kind, Manifest};
use super::pack::Packing;
use super::unpack::{Destination, unpack};
use super::*;
use crate::wire;

/// A temporary directory for one test, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("flowright-artifact-{:016x}", crate::id::unique()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn packed(root: &Path) -> Result<Vec<u8>, ArtifactError> {
    packed_files(&Files::at(root))
}

fn packed_files(files: &Files) -> Result<Vec<u8>, ArtifactError> {
    let packing = Packing::of(files)?;
    let mut bytes = Vec::new();
    packing.write(&mut bytes, |_| unreachable!("a `Vec` takes all bytes"))?;
    assert_eq!(bytes.len() as u64, packing.length());
    Ok(bytes)
}

fn unpacked(bytes: &[u8], into: &Path, overwrite: bool) -> Result<(), ArtifactError> {
    unpack(&mut &*bytes, bytes.len() as u64, &Destination { into, overwrite, is_wanted: &|| true })
}

fn stream(items: Vec<Item>, contents: &[u8]) -> Vec<u8> {
    let manifest = wire::encode(&Manifest(items)).unwrap();
    let length = manifest.len() as u64;
    [&length.to_be_bytes(), &*manifest, contents].concat()
}

fn item(path: &str, kind: Kind) -> Item {
    Item { path: Bytes::copy_from_slice(path.as_bytes()), mode: 0o644, kind }
}

/// Returns everything below `root` with its mode and content.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let what = if metadata.is_symlink() {
            format!("to {}", fs::read_link(&path).unwrap().display())
        } else if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_owned()
        } else {
            format!("{:?}", fs::read(&path).unwrap())
        };
        let mode = if metadata.is_symlink() { 0 } else { metadata.mode() & 0o7777 };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), (mode, what));
    }
    found
}

/// An item of a generated tree.
#[derive(Debug, Clone)]
enum Part {
    File(Vec<u8>, u32),
    Directory(u32),
    Symlink(String),
}

fn parts() -> impl Strategy<Value = Vec<(String, Part)>> {
    let name = prop::sample::select(vec!["a", "b", "c d", "ä", "a-", ".hidden", "x"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let mode = prop::sample::select(vec![0o644, 0o755, 0o600, 0o400, 0o777]);
    let target =
        prop::sample::select(vec!["a", "b/../a", "..", "../..", "/etc", ".", "../x", "a/../../x", "b"]);
    let part = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..2000), mode).prop_map(|(bytes, mode)| Part::File(bytes, mode)),
        prop::sample::select(vec![0o755, 0o700, 0o500]).prop_map(Part::Directory),
        target.prop_map(|target| Part::Symlink(target.to_owned())),
    ];
    prop::collection::vec((path, part), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_is_unpacked_is_what_was_packed_or_an_error_says_why_not(parts in parts()) {
        let scratch = Scratch::new();
        let root = scratch.at("made");
        fs::create_dir(&root).unwrap();
        let mut modes = Vec::new();
        for (path, part) in parts {
            let path = root.join(path);
            // The parent may be a file, or a symlink that leads out of the tree; then the item is skipped.
            let above = path.parent().unwrap();
            if fs::create_dir_all(above).is_err() || !above.canonicalize().is_ok_and(|above| above.starts_with(&root)) {
                continue;
            }
            if path.symlink_metadata().is_ok() {
                continue;
            }
            match part {
                Part::File(bytes, mode) => {
                    fs::write(&path, bytes).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
                Part::Directory(mode) => {
                    fs::create_dir(&path).unwrap();
                    modes.push((path, mode));
                }
                Part::Symlink(target) => symlink(target, &path).unwrap(),
            }
        }
        for (path, mode) in modes {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        match packed(&root) {
            Ok(bytes) => {
                let into = scratch.at("fetched");
                unpacked(&bytes, &into, false).unwrap();
                prop_assert_eq!(tree(&into), tree(&root));
                prop_assert_eq!(packed(&into).unwrap(), bytes, "equal trees are equal bytes");
            }
            Err(ArtifactError::Symlink { path, .. }) => prop_assert!(path.starts_with(&root)),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn whatever_is_sent_nothing_is_written_outside(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        items in prop::collection::vec(("(/|\\.\\.|\\.|a|b){0,4}", 0..3_u8, "(/|\\.\\.|\\.|a|b){0,4}"), 0..5),
    ) {
        let scratch = Scratch::new();
        let items = items.into_iter().map(|(path, kind, target)| {
            let kind = match kind {
                0 => Kind::Directory,
                1 => Kind::File { size: 1 },
                _ => Kind::Symlink { target: Bytes::from(target) },
            };
            item(&path, kind)
        });
        let root = Some(item("", Kind::Directory));
        for sent in [bytes.clone(), stream(root.into_iter().chain(items).collect(), &bytes)] {
            let into = scratch.at("into");
            let unpacked = unpacked(&sent, &into, false);
            let left: Vec<_> = fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().path()).collect();
            prop_assert_eq!(left, unpacked.iter().map(|()| into.clone()).collect::<Vec<_>>());
            if unpacked.is_ok() {
                fs::remove_dir_all(&into).unwrap();
            }
        }
    }
}

fn refusal(sent: &[u8]) -> String {
    let scratch = Scratch::new();
    let into = scratch.at("into");
    let error = unpacked(sent, &into, false).unwrap_err();
    assert!(matches!(error, ArtifactError::Malformed { .. }), "{error}");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing is left");
    error.to_string()
}

#[test]
fn streams_that_lie_are_refused() {
    let directory = || item("", Kind::Directory);
    let file = |path, size| item(path, Kind::File { size });
    for (sent, why) in [
        (stream(vec![directory(), file("../a", 1)], b"x"), "is no name"),
        (stream(vec![directory(), file("/tmp/a", 1)], b"x"), "absolute"),
        (stream(vec![directory(), file("a", 1), file("a", 1)], b"xx"), "comes twice"),
        (
            stream(
                vec![directory(), item("a", Kind::Symlink { target: "/etc".into() }), file("a/b", 1)],
                b"x",
            ),
            "no directory",
        ),
        (stream(vec![directory(), item("a", Kind::Symlink { target: "..".into() })], b""), "outside"),
        (stream(vec![directory(), file("a", 2)], b"x"), "files of 2 bytes, but 1 bytes follow"),
        (stream(vec![directory(), file("a", 1)], b"xx"), "files of 1 bytes, but 2 bytes follow"),
        (stream(vec![directory(), file("a", u64::MAX), file("b", 1)], b"xx"), "larger than can be counted"),
        (stream(vec![], b""), "nothing in it"),
        (u64::MAX.to_be_bytes().to_vec(), "exceeds its length"),
        (vec![1, 2, 3], "cannot be read"),
        ([&3_u64.to_be_bytes()[..], b"abc"].concat(), "cannot be read"),
    ] {
        let refusal = refusal(&sent);
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
}

#[test]
fn a_stream_that_ends_early_leaves_nothing() {
    let sent = stream(vec![item("", Kind::File { size: 10 })], b"0123456789");
    let scratch = Scratch::new();
    let into = scratch.at("into");
    let destination = Destination { into: &into, overwrite: false, is_wanted: &|| true };
    assert!(unpack(&mut &sent[..sent.len() - 1], sent.len() as u64, &destination).is_err());
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    let destination = Destination { is_wanted: &|| false, ..destination };
    let given_up = unpack(&mut &*sent, sent.len() as u64, &destination);
    assert!(matches!(given_up, Err(ArtifactError::GivenUp { .. })));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn what_is_there_is_replaced_only_when_that_is_asked_for() {
    let scratch = Scratch::new();
    let file = stream(vec![item("", Kind::File { size: 3 })], b"new");
    let directory = stream(vec![item("", Kind::Directory), item("f", Kind::File { size: 3 })], b"new");
    let into = scratch.at("into");
    let make: [&dyn Fn(); 4] = [
        &|| fs::write(&into, "old").unwrap(),
        &|| fs::create_dir(&into).unwrap(),
        &|| {
            fs::create_dir(&into).unwrap();
            fs::write(into.join("old"), "old").unwrap();
        },
        &|| symlink("nowhere", &into).unwrap(),
    ];
    for sent in [&file, &directory] {
        for make in make {
            make();
            let before = tree(&into);
            let refused = unpacked(sent, &into, false);
            assert!(matches!(refused, Err(ArtifactError::Exists { .. })), "{refused:?}");
            assert_eq!(tree(&into), before);
            unpacked(sent, &into, true).unwrap();
            let read = fs::read(if into.is_dir() { into.join("f") } else { into.clone() });
            assert_eq!(read.unwrap(), b"new");
            assert!(!into.join("old").exists());
            assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "nothing is left beside it");
            if into.is_dir() { fs::remove_dir_all(&into).unwrap() } else { fs::remove_file(&into).unwrap() }
        }
    }
}

#[test]
fn what_is_no_file_and_what_leads_out_is_named() {
    let scratch = Scratch::new();
    let root = scratch.at("made");
    fs::create_dir(&root).unwrap();
    let nothing = packed(&scratch.at("nothing")).unwrap_err();
    assert!(matches!(&nothing, ArtifactError::NothingThere { .. }), "{nothing}");
    let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let error = packed(&root).unwrap_err();
    assert!(matches!(&error, ArtifactError::NoFile { path } if path.ends_with("socket")), "{error}");
    drop(socket);
    fs::remove_file(root.join("socket")).unwrap();
    symlink("/etc/hostname", root.join("link")).unwrap();
    let error = packed(&root).unwrap_err().to_string();
    assert!(error.contains("made/link points to /etc/hostname, which is absolute"), "{error}");
    // The root itself may be a symlink.
    symlink("made", scratch.at("by_link")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    assert_eq!(packed(&scratch.at("by_link")).unwrap(), packed(&root).unwrap());
}

#[test]
fn names_that_are_no_text_are_kept() {
    let scratch = Scratch::new();
    let root = scratch.at("made");
    fs::create_dir(&root).unwrap();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    fs::File::create(root.join(name)).unwrap().write_all(b"x").unwrap();
    unpacked(&packed(&root).unwrap(), &scratch.at("into"), false).unwrap();
    assert_eq!(fs::read(scratch.at("into").join(name)).unwrap(), b"x");
}

/// Patterns have the semantics of `.gitignore`, and the error of a malformed pattern names it.
#[test]
fn excluded_files_are_left_out() {
    let scratch = Scratch::new();
    let root = scratch.at("root");
    for file in
        ["a", "b.tmp", "keep.tmp", "cache/x", "sub/b.tmp", "sub/cache/x", "sub/target/deep/y", "sub/c"]
    {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    // A symlink to an excluded file would dangle; it is excluded by the same pattern.
    std::os::unix::fs::symlink("b.tmp", root.join("link.tmp")).unwrap();
    let files = Files::at(&root)
        .exclude("# a comment")
        .exclude("*.tmp")
        .exclude("!keep.tmp")
        .exclude("/cache")
        .exclude("target/");
    unpacked(&packed_files(&files).unwrap(), &scratch.at("into"), false).unwrap();
    let left: Vec<_> = tree(&scratch.at("into")).into_keys().map(|path| path.display().to_string()).collect();
    let names = |part: &str| left.iter().any(|path| path == part);
    for there in ["a", "keep.tmp", "sub/cache/x", "sub/c"] {
        assert!(names(there), "{there}: {left:?}");
    }
    for gone in ["b.tmp", "link.tmp", "cache", "cache/x", "sub/b.tmp", "sub/target", "sub/target/deep/y"] {
        assert!(!names(gone), "{gone}: {left:?}");
    }
    let error = packed_files(&Files::at(&root).exclude("[z-a]")).unwrap_err().to_string();
    assert!(error.contains("[z-a]") && error.contains(".gitignore"), "{error}");
}
