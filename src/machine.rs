//! Layer 1: what this machine, or the container that this process is in, has.
//!
//! # Guarantees
//! - The memory is the smaller of the machine's and of the limits of the control groups of this process, of version 1 or 2.
//! - The processors are those that this process may use: its affinity and the quota of its control groups count.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The memory that there is for this process, in bytes; `None` where the system does not say.
pub(crate) fn memory() -> Option<u64> {
    memory_at(Path::new("/"))
}

/// The processors that this process may use.
pub(crate) fn cpus() -> usize {
    // It knows of affinity, and of quotas of both versions.
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get())
}

fn memory_at(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let groups = read("proc/self/cgroup");
    let limits = groups.lines().flat_map(|line| limits(root, line));
    limits.chain(total(&read("proc/meminfo"))).min()
}

/// The memory of the machine.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim();
    let kib: u64 = line.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The limits of a control group and of those above it, as a line of `/proc/self/cgroup` names it.
fn limits(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (mounts, file) = match controllers {
        // Version 2, alone or beside version 1.
        "" => (["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            (["sys/fs/cgroup/memory", "sys/fs/cgroup/memory,hugetlb"], "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    // In a container the group may be named as it is seen from outside: then it is that at the root of the mount.
    let group: PathBuf =
        Path::new(group).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let mounts = mounts.map(|mount| root.join(mount));
    let places = mounts.iter().flat_map(|mount| group.ancestors().map(move |above| mount.join(above)));
    // "max" is no limit, and so is, in version 1, a number larger than any memory.
    places.filter_map(|place| fs::read_to_string(place.join(file)).ok()?.trim().parse().ok()).collect()
}

/// The name of this machine.
#[cfg(feature = "cli")]
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

    /// The memory of a machine of 1,024 MiB with these files.
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

    /// Without control groups, or without limits, it is that of the machine.
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

    /// In version 2 the smallest limit of the group and of those above it counts.
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
        // In a container, its own group is the root.
        let inside = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "314572800\n")];
        assert_eq!(memory_with("v2-inside", &inside), Some(300 * MIB));
    }

    /// In version 1 the group is that of the controller of memory, under whatever name it is known outside.
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

    /// What cannot be read is no limit.
    #[test]
    fn memory_with_files_that_make_no_sense_is_the_machines() {
        let files = [("proc/self/cgroup", "x\n::\n0::/../..\n"), ("sys/fs/cgroup/memory.max", "much\n")];
        assert_eq!(memory_with("nonsense", &files), Some(1024 * MIB));
    }
}
