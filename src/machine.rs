//! Layer 1: resources of this machine or container.
//!
//! # Guarantees
//! - The memory is the smallest of the machine's memory and the limits of the control groups (version 1 or 2) of this
//!   process.
//! - The processors are those that this process may use, by its CPU affinity and the quotas of its control groups.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Returns the memory available to this process, in bytes; `None` where the system does not report it.
pub(crate) fn memory() -> Option<u64> {
    memory_at(Path::new("/"))
}

/// Returns the number of processors that this process may use.
pub(crate) fn cpus() -> usize {
    // `available_parallelism` respects affinity and the quotas of both versions.
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get())
}

fn memory_at(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let groups = read("proc/self/cgroup");
    let limits = groups.lines().flat_map(|line| limits(root, line));
    limits.chain(total(&read("proc/meminfo"))).min()
}

/// Parses the total memory of the machine, in bytes, from `/proc/meminfo`.
// No crate: `procfs-core` and `sysinfo` would replace these lines only, since neither reads the limits of all ancestors.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim();
    let kib: u64 = line.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Returns the memory limits, in bytes, of the control group in a line of `/proc/self/cgroup` and of its ancestors.
fn limits(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (mounts, file) = match controllers {
        // Version 2, alone or mounted beside version 1.
        "" => (["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            (["sys/fs/cgroup/memory", "sys/fs/cgroup/memory,hugetlb"], "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    // In a container the line may have the path outside of it: then the group is the root of the mount.
    let group: PathBuf =
        Path::new(group).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let mounts = mounts.map(|mount| root.join(mount));
    let places = mounts.iter().flat_map(|mount| group.ancestors().map(move |above| mount.join(above)));
    // Neither "max" nor, in version 1, a number larger than any memory is a limit.
    places.filter_map(|place| fs::read_to_string(place.join(file)).ok()?.trim().parse().ok()).collect()
}

/// Returns the host name of this machine, or `node` if it has none.
#[cfg(any(feature = "cli", feature = "remote"))]
pub(crate) fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "node".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Returns the memory of a machine of 1,024 MiB with these files.
    fn memory_with(name: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = std::env::temp_dir().join(format!("flowright-test-machine-{name}-{}", std::process::id()));
        let meminfo = ("proc/meminfo", "MemTotal:        1048576 kB\nMemFree:          17 kB\n");
        for (path, text) in files.iter().chain([&meminfo]) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let memory = memory_at(&root);
        fs::remove_dir_all(root).unwrap();
        memory
    }

    /// The memory of the machine counts if there are no control groups or they have no limits.
    #[test]
    fn memory_without_limits_is_the_machines() {
        assert_eq!(memory_with("none", &[]), Some(1024 * MIB));
        let unlimited = [("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")];
        assert_eq!(memory_with("max", &unlimited), Some(1024 * MIB));
        let huge = [
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(memory_with("huge", &huge), Some(1024 * MIB));
    }

    /// The smallest limit of a version-2 group and its ancestors counts.
    #[test]
    fn memory_is_limited_by_groups_of_version_2() {
        let of = |max: &str| {
            let files = [
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/memory.max", "314572800\n"),
                ("sys/fs/cgroup/a/b/memory.max", max),
            ];
            memory_with("v2", &files)
        };
        assert_eq!(of("max\n"), Some(300 * MIB));
        assert_eq!(of("104857600\n"), Some(100 * MIB));
        assert_eq!(of("999999999999\n"), Some(300 * MIB));
        // Inside of a container, its own group is the root.
        let inside = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "314572800\n")];
        assert_eq!(memory_with("v2-inside", &inside), Some(300 * MIB));
    }

    /// The version-1 group of the memory controller counts, under whatever path it has outside of a container.
    #[test]
    fn memory_is_limited_by_groups_of_version_1() {
        let groups = "7:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n0::/\n";
        let limit = |place| [("proc/self/cgroup", groups), (place, "314572800\n")];
        let known = limit("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes");
        assert_eq!(memory_with("v1", &known), Some(300 * MIB));
        let inside = limit("sys/fs/cgroup/memory/memory.limit_in_bytes");
        assert_eq!(memory_with("v1-inside", &inside), Some(300 * MIB));
        let other = limit("sys/fs/cgroup/cpu/docker/x/memory.limit_in_bytes");
        assert_eq!(memory_with("v1-other", &other), Some(1024 * MIB));
    }

    /// Unreadable files set no limit.
    #[test]
    fn memory_with_files_that_make_no_sense_is_the_machines() {
        let files = [("proc/self/cgroup", "x\n::\n0::/../..\n"), ("sys/fs/cgroup/memory.max", "much\n")];
        assert_eq!(memory_with("nonsense", &files), Some(1024 * MIB));
    }
}
