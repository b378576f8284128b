//! Large pages for large values.
//!
//! Memory that is written to for the first time costs a fault for each page. With pages of 2 MiB instead of 4 KiB a value
//! of 1 GiB is received in about half the time.

/// Below this it is not worth a call.
const LARGE: usize = 4 << 20;

/// Asks the system to back this memory, which was not written to yet, with large pages. It may decline.
#[cfg(target_os = "linux")]
pub(super) fn advise(memory: &mut [u8]) {
    const PAGE: usize = 4096;

    if memory.len() < LARGE {
        return;
    }
    // Whole pages only, and those inside.
    let skip = memory.as_ptr().align_offset(PAGE);
    let Some(inside) = memory.get_mut(skip..) else { return };
    let length = inside.len() / PAGE * PAGE;
    #[expect(
        unsafe_code,
        reason = "the one system call that has no safe wrapper for memory that a `Vec` owns"
    )]
    // SAFETY: the range is inside of memory that is borrowed exclusively, and MADV_HUGEPAGE changes neither its
    // content nor its protection, only the size of the pages behind it.
    let _declined = unsafe { libc::madvise(inside.as_mut_ptr().cast(), length, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn advise(_: &mut [u8]) {}
