//! Resources of the machine that this process runs on.

use crate::machine;
use crate::work::{Resources, visible_gpus};

/// Resources of this machine, or of the container that this process is in, as far as the system says.
pub(crate) fn resources() -> Resources {
    Resources {
        cpus: u32::try_from(machine::cpus()).unwrap_or(u32::MAX),
        gpus: known_gpus(None).unwrap_or(0),
        memory: machine::memory().unwrap_or(0),
    }
}

/// How many graphics processors there are for Works of this machine: as many as were given, or as the system says, and no more
/// than the environment lets this process see. `None` where nothing is known of them.
pub(crate) fn known_gpus(given: Option<u32>) -> Option<u32> {
    let visible = visible_gpus();
    if let (Some(given), Some(visible)) = (given, visible)
        && given > visible
    {
        log::warn!(
            "of {given} gpus this process sees {visible} (CUDA_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES)"
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
