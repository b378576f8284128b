//! Resources of this machine.

use crate::machine;
use crate::work::{Resources, visible_gpus};

/// Returns the resources of this machine, or of the container around this process, as far as they are known.
pub(crate) fn resources() -> Resources {
    Resources {
        cpus: u32::try_from(machine::cpus()).unwrap_or(u32::MAX),
        gpus: known_gpus(None).unwrap_or(0),
        memory: machine::memory().unwrap_or(0),
    }
}

/// Returns the number of GPUs for Works on this machine: the given number, or the detected one, limited by the devices
/// visible to this process. `None` when nothing is known about GPUs.
pub(crate) fn known_gpus(given: Option<u32>) -> Option<u32> {
    let visible = visible_gpus();
    if let (Some(given), Some(visible)) = (given, visible)
        && given > visible
    {
        log::warn!(
            "of {given} gpus this process sees {visible} (CUDA_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES or SLURM_JOB_GPUS)"
        );
    }
    let there_are = || {
        let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |gpus| gpus.count());
        u32::try_from(gpus).ok().filter(|count| *count > 0)
    };
    match (given, visible) {
        (Some(given), Some(visible)) => Some(given.min(visible)),
        (given, visible) => given.or(visible).or_else(there_are),
    }
}
