//! The manifest of an artifact, and the check that a manifest from a peer is safe to unpack. Pure: no I/O.
//!
//! # Guarantees
//! - A manifest that passes [`Manifest::check`] writes nothing outside of its root: no path is absolute, contains
//!   `..` or occurs twice, the parent of each item is a directory of the same tree, and no symlink leads out of the
//!   tree, not even through other symlinks.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Maximum number of symlinks that are followed from one symlink, as in the kernel.
const LINKS: usize = 40;

/// The permission bits of a mode. `setuid`, `setgid` and `sticky` are dropped: those are for the owner of the
/// destination to set.
pub(super) const PERMISSIONS: u32 = 0o777;

/// The items of a tree, ordered by their paths as bytes. The root, whose path is empty, is the first item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest(pub(super) Vec<Item>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    /// Path relative to the root, with `/` as separator.
    pub(super) path: Bytes,
    pub(super) mode: u32,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Directory,
    File { size: u64 },
    Symlink { target: Bytes },
}

/// A symlink, by its index in the manifest, and the reason why it is refused.
pub(super) struct BadLink {
    pub(super) nth: usize,
    pub(super) why: &'static str,
}

impl Manifest {
    /// Returns the total size of all files in bytes; `None` if it overflows.
    pub(super) fn size(&self) -> Option<u64> {
        self.0.iter().try_fold(0_u64, |sum, item| match item.kind {
            Kind::File { size } => sum.checked_add(size),
            _ => Some(sum),
        })
    }

    /// Refuses a manifest that is not a well-formed tree.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some((root, below)) = self.0.split_first() else {
            return Err("there is nothing in it".to_owned());
        };
        let shown = |path: &[u8]| format!("`{}`", String::from_utf8_lossy(path));
        if !root.path.is_empty() || matches!(root.kind, Kind::Symlink { .. }) {
            return Err(format!(
                "it begins with {}, and not with a file or directory as its root",
                shown(&root.path)
            ));
        }
        if let (Kind::File { .. }, Some(item)) = (&root.kind, below.first()) {
            return Err(format!("{} is below a file", shown(&item.path)));
        }
        let kinds = self.kinds();
        for (before, item) in self.0.iter().zip(below) {
            let path = &*item.path;
            if path.starts_with(b"/") {
                return Err(format!("the path {} is absolute", shown(path)));
            }
            if let Some(part) = path.split(|byte| *byte == b'/').find(|part| !is_name(part)) {
                return Err(format!("{} is no name, in the path {}", shown(part), shown(path)));
            }
            if before.path >= item.path {
                let why = if before.path == item.path { "comes twice" } else { "is out of order" };
                return Err(format!("the path {} {why}", shown(path)));
            }
            if !matches!(kinds.get(parent(path)), Some(Kind::Directory)) {
                return Err(format!("what {} is in is no directory of the tree", shown(path)));
            }
        }
        if self.size().is_none() {
            return Err("its files are larger than can be counted".to_owned());
        }
        self.check_links().map_err(|BadLink { nth, why }| {
            format!("the target of the symlink {} {why}", shown(&self.0[nth].path))
        })
    }

    /// Refuses symlinks that lead out of the tree.
    pub(super) fn check_links(&self) -> Result<(), BadLink> {
        let kinds = self.kinds();
        for (nth, item) in self.0.iter().enumerate() {
            if let Kind::Symlink { target } = &item.kind {
                leads_inside(&kinds, &item.path, target).map_err(|why| BadLink { nth, why })?;
            }
        }
        Ok(())
    }

    fn kinds(&self) -> HashMap<&[u8], &Kind> {
        self.0.iter().map(|item| (&*item.path, &item.kind)).collect()
    }
}

fn is_name(part: &[u8]) -> bool {
    !part.is_empty() && part != b"." && part != b".." && !part.contains(&0)
}

/// Returns the path of the parent directory.
fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..end]
}

/// Resolves the target of the symlink at `path` as the kernel would, and refuses it if it leaves the tree.
fn leads_inside(kinds: &HashMap<&[u8], &Kind>, path: &[u8], target: &[u8]) -> Result<(), &'static str> {
    let mut at = parent(path).to_vec();
    let mut left: Vec<&[u8]> = Vec::new();
    let mut followed = 0;
    let mut next = Some(target);
    loop {
        if let Some(target) = next.take() {
            if target.is_empty() || target.contains(&0) {
                return Err("is no path");
            }
            if target.starts_with(b"/") {
                return Err("is absolute, so that it is another one on each machine");
            }
            left.extend(target.split(|byte| *byte == b'/').rev());
        }
        match left.pop() {
            None => return Ok(()),
            Some(b"" | b".") => {}
            Some(b"..") if at.is_empty() => return Err("is outside of the tree"),
            Some(b"..") => at.truncate(parent(&at).len()),
            Some(name) => {
                let directory = at.len();
                if !at.is_empty() {
                    at.push(b'/');
                }
                at.extend_from_slice(name);
                if let Some(Kind::Symlink { target }) = kinds.get(&*at) {
                    followed += 1;
                    if followed > LINKS {
                        return Err("leads in a circle, or by way of too many others");
                    }
                    at.truncate(directory);
                    next = Some(target);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &'static str, kind: Kind) -> Item {
        Item { path: Bytes::from_static(path.as_bytes()), mode: 0o644, kind }
    }

    fn file(path: &'static str) -> Item {
        item(path, Kind::File { size: 1 })
    }

    fn directory(path: &'static str) -> Item {
        item(path, Kind::Directory)
    }

    fn link(path: &'static str, target: &'static str) -> Item {
        item(path, Kind::Symlink { target: Bytes::from_static(target.as_bytes()) })
    }

    fn check(items: impl IntoIterator<Item = Item>) -> Result<(), String> {
        Manifest([directory("")].into_iter().chain(items).collect()).check()
    }

    #[test]
    fn trees_are_taken() {
        check([]).unwrap();
        check([directory("a"), file("a-b"), file("a/b"), directory("a/c"), file("a/c/d"), file("…")])
            .unwrap();
        Manifest(vec![file("")]).check().unwrap();
        check([directory("a"), link("a/b", "../c"), link("a/d", "b/../a/./b"), file("c"), link("e", ".")])
            .unwrap();
        check([link("to_nothing", "not/there")]).unwrap();
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for (items, why) in [
            (vec![file("../a")], "`..` is no name"),
            (vec![directory("a"), file("a/../../b")], "`..` is no name"),
            (vec![file("/etc/passwd")], "absolute"),
            (vec![file(".")], "`.` is no name"),
            (vec![directory("a"), file("a//b")], "`` is no name"),
            (vec![directory("a"), file("a/")], "`` is no name"),
            (vec![file("a\0b")], "is no name"),
            (vec![file("a"), file("a")], "comes twice"),
            (vec![file("b"), file("a")], "out of order"),
            (vec![file("a"), file("a/b")], "no directory"),
            (vec![file("a/b")], "no directory"),
            (vec![link("a", "."), file("a/b")], "no directory"),
            (vec![directory("")], "is no name"),
        ] {
            let error = check(items).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn roots_that_are_none_are_refused() {
        for items in [vec![], vec![link("", "a")], vec![file("a")], vec![file(""), file("a")]] {
            assert!(Manifest(items.clone()).check().is_err(), "{items:?}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let huge = |path| item(path, Kind::File { size: u64::MAX });
        assert!(check([huge("a"), huge("b")]).unwrap_err().contains("larger"));
    }

    #[test]
    fn symlinks_that_lead_out_are_refused_whatever_way_they_take() {
        for (items, why) in [
            (vec![link("a", "/etc")], "absolute"),
            (vec![link("a", "..")], "outside"),
            (vec![link("a", "b/../../c")], "outside"),
            (vec![link("a", "")], "no path"),
            (vec![link("a", "a")], "circle"),
            (vec![link("a", "b"), link("b", "a")], "circle"),
            // Lexically this is `deep/etc`; but `up` points to the root, so that `..` leaves the tree.
            (
                vec![
                    directory("deep"),
                    directory("deep/er"),
                    link("deep/er/out", "up/../etc"),
                    link("deep/er/up", "../.."),
                ],
                "outside",
            ),
        ] {
            let error = check(items).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
