//! Resources of the machine that this process runs on.

use crate::machine;
use crate::work::Resources;

/// Resources of this machine, or of the container that this process is in, as far as the system says.
pub(crate) fn resources() -> Resources {
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |gpus| gpus.count());
    Resources {
        cpus: u32::try_from(machine::cpus()).unwrap_or(u32::MAX),
        gpus: u32::try_from(gpus).unwrap_or(u32::MAX),
        memory: machine::memory().unwrap_or(0),
    }
}
