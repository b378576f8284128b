//! Huge pages for large values.
//!
//! The first write to each page of new memory causes a page fault. With pages of 2 MiB instead of 4 KiB a value of 1
//! GiB is received in about half the time.

/// Minimum size in bytes for which the system call pays off.
const LARGE: usize = 4 << 20;

/// Asks the system to back `memory`, which must not have been written to yet, with huge pages. The system may
/// decline.
#[cfg(target_os = "linux")]
pub(super) fn advise(memory: &mut [u8]) {
    const PAGE: usize = 4096;

    if memory.len() < LARGE {
        return;
    }
    // `madvise` takes whole pages, and only those inside `memory` belong to it.
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
