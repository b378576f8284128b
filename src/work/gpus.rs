//! Graphics processors of one machine, assigned to Works by index.
//!
//! # Guarantees
//! - No device is assigned to two incarnations at once, and none leaks.
//! - A device is free again when its incarnation or its process has ended, for whatever reason.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// The set of free devices (pure). Devices are numbered from 0.
#[derive(Debug, Default)]
pub(crate) struct FreeGpus {
    free: BTreeSet<u32>,
    total: u32,
}

impl FreeGpus {
    pub(crate) fn new(total: u32) -> Self {
        Self { free: (0..total).collect(), total }
    }

    /// Takes the free devices with the lowest numbers; takes none and returns `None` if there are not enough.
    pub(crate) fn take(&mut self, count: u32) -> Option<Vec<u32>> {
        if self.free.len() < count as usize {
            return None;
        }
        Some((0..count).filter_map(|_| self.free.pop_first()).collect())
    }

    /// Takes those of these devices that are free, and returns them.
    #[cfg(feature = "remote")]
    pub(crate) fn take_these(&mut self, devices: &[u32]) -> Vec<u32> {
        devices.iter().copied().filter(|device| self.free.remove(device)).collect()
    }

    /// Returns devices to the set.
    pub(crate) fn give_back(&mut self, devices: &[u32]) {
        self.free.extend(devices.iter().filter(|device| **device < self.total));
    }
}

/// The devices of the machine of an App's head.
pub(crate) struct GpuPool {
    total: u32,
    free: Mutex<FreeGpus>,
    /// Callback after devices were returned.
    freed: Box<dyn Fn() + Send + Sync>,
}

impl GpuPool {
    pub(crate) fn new(total: u32, freed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { total, free: Mutex::new(FreeGpus::new(total)), freed: Box::new(freed) })
    }

    /// Leases those of these devices that are free, to an incarnation that has them already.
    #[cfg(feature = "remote")]
    pub(crate) fn lease_these(self: &Arc<Self>, devices: &[u32]) -> Gpus {
        let devices = self.free.lock().take_these(devices);
        match devices.is_empty() {
            true => Gpus(None),
            false => Gpus(Some(Arc::new(Assigned { devices, pool: Some(self.clone()) }))),
        }
    }

    /// Leases devices to one incarnation until the lease is dropped.
    ///
    /// # Errors
    /// The text of the reason to wait, if too few devices are free.
    pub(crate) fn lease(self: &Arc<Self>, count: u32) -> Result<Gpus, String> {
        let mut free = self.free.lock();
        let left = free.free.len();
        match free.take(count) {
            Some(devices) => Ok(Gpus(Some(Arc::new(Assigned { devices, pool: Some(self.clone()) })))),
            None if count > self.total => Err(format!(
                "waits for {count} gpus of the head, which has {}: give it more with --gpus, or place the work on a node",
                self.total
            )),
            None => Err(format!("waits for {count} gpus of the head: {left} of its {} are free", self.total)),
        }
    }
}

/// Lease of the devices of one incarnation.
#[derive(Clone, Default)]
pub(crate) struct Gpus(Option<Arc<Assigned>>);

struct Assigned {
    devices: Vec<u32>,
    /// Pool to which the devices return; `None` if another process manages them.
    pool: Option<Arc<GpuPool>>,
}

impl Gpus {
    /// Wraps devices that another process has assigned.
    #[cfg(feature = "remote")]
    pub(crate) fn given(devices: Vec<u32>) -> Self {
        match devices.is_empty() {
            true => Self(None),
            false => Self(Some(Arc::new(Assigned { devices, pool: None }))),
        }
    }

    pub(crate) fn indices(&self) -> &[u32] {
        self.0.as_deref().map_or(&[], |assigned| &assigned.devices)
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.free.lock().give_back(&self.devices);
            (pool.freed)();
        }
    }
}

/// Environment variables that restrict the devices visible to a program.
const CUDA: &str = "CUDA_VISIBLE_DEVICES";
const ROCR: &str = "ROCR_VISIBLE_DEVICES";
/// The devices of a job of Slurm, also where Slurm sets none of the other variables.
const SLURM: &str = "SLURM_JOB_GPUS";
#[cfg(feature = "remote")]
const ONEAPI: &str = "ONEAPI_DEVICE_SELECTOR";

/// Returns the variables that restrict a new process to these devices, given as indices into the devices that this
/// process sees.
#[cfg(feature = "remote")]
pub(crate) fn visibility(devices: &[u32]) -> [(&'static str, String); 3] {
    visibility_with(devices, |name| std::env::var(name).ok())
}

#[cfg(feature = "remote")]
fn visibility_with(
    devices: &[u32],
    variable: impl Fn(&str) -> Option<String>,
) -> [(&'static str, String); 3] {
    let listed = |outer: Option<&str>| {
        let outer: Vec<_> = outer.into_iter().flat_map(entries).collect();
        let seen = |device: &u32| match outer.get(*device as usize) {
            Some(name) => (*name).to_owned(),
            None => device.to_string(),
        };
        devices.iter().map(seen).collect::<Vec<_>>().join(",")
    };
    let plain = |name| listed(variable(name).as_deref());
    // For example `level_zero:0,1`.
    let outer = variable(ONEAPI);
    let (backend, outer) = match outer.as_deref().and_then(|outer| outer.split_once(':')) {
        Some((backend, devices)) if !devices.contains([':', ';', '*', '.']) => (backend, Some(devices)),
        _ => ("level_zero", None),
    };
    [(CUDA, plain(CUDA)), (ROCR, plain(ROCR)), (ONEAPI, format!("{backend}:{}", listed(outer)))]
}

/// Returns the number of devices that the environment makes visible to this process; `None` if it sets no restriction.
pub(crate) fn visible() -> Option<u32> {
    visible_with(|name| std::env::var(name).ok())
}

fn visible_with(variable: impl Fn(&str) -> Option<String>) -> Option<u32> {
    let listed = [CUDA, ROCR, SLURM].into_iter().find_map(variable)?;
    Some(u32::try_from(entries(&listed).count()).unwrap_or(u32::MAX))
}

/// Iterates over the devices of a list up to the first invalid entry, as CUDA does.
fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).take_while(|entry| !entry.is_empty() && !entry.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Leases are taken and dropped in any order: no device is taken twice, and all are free in the end.
        #[test]
        fn devices_are_taken_once_and_none_is_lost(
            total in 0_u32..9,
            steps in prop::collection::vec((any::<bool>(), 0_u32..5, any::<prop::sample::Index>()), 0..60),
        ) {
            let freed = Arc::new(AtomicUsize::new(0));
            let count = freed.clone();
            let pool = GpuPool::new(total, move || {
                count.fetch_add(1, Ordering::Relaxed);
            });
            let mut leases: Vec<Gpus> = Vec::new();
            let mut ended = 0;
            for (takes, wanted, which) in steps {
                let taken: usize = leases.iter().map(|lease| lease.indices().len()).sum();
                if takes {
                    let has_room = taken + wanted as usize <= total as usize;
                    match pool.lease(wanted) {
                        Ok(lease) => {
                            prop_assert!(has_room);
                            prop_assert_eq!(lease.indices().len(), wanted as usize);
                            leases.push(lease);
                        }
                        Err(_) => prop_assert!(!has_room),
                    }
                } else if !leases.is_empty() {
                    drop(leases.swap_remove(which.index(leases.len())));
                    ended += 1;
                }
                let all: Vec<_> = leases.iter().flat_map(|lease| lease.indices().to_vec()).collect();
                let distinct: BTreeSet<_> = all.iter().copied().collect();
                prop_assert_eq!(distinct.len(), all.len());
                prop_assert!(all.iter().all(|device| *device < total));
                prop_assert_eq!(freed.load(Ordering::Relaxed), ended);
            }
            drop(leases);
            prop_assert_eq!(pool.lease(total).map(|all| all.indices().to_vec()), Ok((0..total).collect()));
        }
    }

    #[cfg(feature = "remote")]
    /// A process sees its assigned devices, as a part of those that this process sees.
    #[test]
    fn devices_are_those_that_this_process_sees() {
        let shown = |devices: &[u32], outer: &[(&str, &str)]| {
            let variable = |name: &str| {
                outer.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            visibility_with(devices, variable).map(|(_, value)| value)
        };
        assert_eq!(shown(&[0, 2], &[]), ["0,2", "0,2", "level_zero:0,2"]);
        assert_eq!(shown(&[1], &[(CUDA, "2, 3")]), ["3", "1", "level_zero:1"]);
        assert_eq!(
            shown(&[0, 1], &[(CUDA, "GPU-8932f937,GPU-1"), (ROCR, "5,4")]),
            ["GPU-8932f937,GPU-1", "5,4", "level_zero:0,1"]
        );
        assert_eq!(shown(&[1], &[(ONEAPI, "opencl:4,7")])[2], "opencl:7");
        assert_eq!(shown(&[1], &[(ONEAPI, "level_zero:*")])[2], "level_zero:1");
        assert_eq!(visible_with(|name| (name == CUDA).then(|| "3,-1,2".to_owned())), Some(1));
        assert_eq!(visible_with(|name| (name == ROCR).then(String::new)), Some(0));
        assert_eq!(visible_with(|name| (name == SLURM).then(|| "2,3".to_owned())), Some(2));
        let hidden = |name: &str| (name != ROCR).then(|| if name == CUDA { "" } else { "0,1" }.to_owned());
        assert_eq!(visible_with(hidden), Some(0));
        assert_eq!(visible_with(|_| None), None);
    }
}
