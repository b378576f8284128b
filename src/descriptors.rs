//! File descriptors of this process: how many there may be, how many there are, and how they are shared out.
//!
//! # Guarantees
//! - What the runtime limits itself (clients of the API, connections of other processes) leaves a reserve, so that a
//!   small limit of the system keeps neither out.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are left to Works, logs, values on disk and the runtime itself.
const RESERVE: u64 = 256;

/// Some programs close every descriptor that there could be before they start another: beyond this that takes long.
const MOST: u64 = 1 << 20;

/// Raises the soft limit on open files to the hard one, as far as that is at most a million. Processes that are started
/// from now on inherit it.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MOST).min(MOST);
    let Some(before) = current.filter(|current| *current < wanted) else { return };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => log::debug!("the limit on open files is {wanted} now, and was {before}"),
        Err(error) => log::warn!("the limit on open files stays at {before}: {error}"),
    }
}

/// The soft limit on open files.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many descriptors are open; `None` where the system does not tell.
pub(crate) fn open() -> Option<u64> {
    let listed = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // The one that the list itself is read from.
    Some(listed.saturating_sub(1))
}

/// How many of at most `most` there may be of what takes a descriptor each: a `share`th of the limit beyond the reserve.
pub(crate) fn share(most: usize, share: u64) -> usize {
    share_of(limit(), most, share)
}

fn share_of(limit: u64, most: usize, share: u64) -> usize {
    // With a limit below twice the reserve, half of it is the reserve.
    let beyond = limit - RESERVE.min(limit / 2);
    usize::try_from(beyond / share).unwrap_or(usize::MAX).clamp(4, most)
}

/// Whether an error says that no more descriptors can be had.
pub(crate) fn are_exhausted(error: &io::Error) -> bool {
    let out = [Errno::MFILE, Errno::NFILE].map(|errno| errno.raw_os_error());
    error.raw_os_error().is_some_and(|errno| out.contains(&errno))
}

/// What to do, as the end of a sentence about an error, where the cause is that no more descriptors can be had.
pub(crate) fn hint(error: &io::Error) -> String {
    if are_exhausted(error) { advice() } else { String::new() }
}

fn advice() -> String {
    let limit = limit();
    let open = open().map_or_else(|| "all".to_owned(), |open| open.to_string());
    format!(
        " ({open} of the {limit} files that this process may open are open: raise the limit with `ulimit -n`, or LimitNOFILE= of a \
         service)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary limit leaves the reserve, a small one half of itself, and a large one all that is wanted.
    #[test]
    fn shares_leave_a_reserve() {
        assert_eq!((share_of(1024, 4096, 2), share_of(1024, 1024, 4)), (384, 192));
        assert_eq!((share_of(64, 4096, 2), share_of(64, 1024, 4)), (16, 8));
        assert_eq!((share_of(1 << 20, 4096, 2), share_of(u64::MAX, 1024, 4)), (4096, 1024));
        assert_eq!(share_of(0, 4096, 2), 4);
    }

    /// Only errors about descriptors are explained, with how many there are.
    #[test]
    fn exhaustion_is_explained() {
        let out = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        assert!(
            hint(&out).contains("`ulimit -n`") && hint(&out).contains(&limit().to_string()),
            "{}",
            hint(&out)
        );
        assert_eq!(hint(&io::ErrorKind::NotFound.into()), "");
        assert!(open().is_some_and(|open| open > 2));
    }
}
