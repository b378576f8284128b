//! File descriptors of this process: the limit, the number that is open, and the share of each of their users.
//!
//! # Guarantees
//! - The runtime's own limits (clients of the API, connections of other processes) leave a reserve, so that a small
//!   limit of the system excludes neither.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors reserved for Works, logs, values on disk and the runtime itself.
const RESERVE: u64 = 256;

/// Upper bound for the raised limit: some programs close every possible descriptor before they start another program,
/// which takes long with a larger limit.
const MOST: u64 = 1 << 20;

/// Raises the soft limit on open files to the hard limit, at most [`MOST`]. Processes that are started afterwards
/// inherit it.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MOST).min(MOST);
    let Some(before) = current.filter(|current| *current < wanted) else { return };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => log::debug!("the limit on open files is {wanted} now, and was {before}"),
        Err(error) => log::warn!("the limit on open files stays at {before}: {error}"),
    }
}

/// Returns the soft limit on open files.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns the number of open descriptors, or `None` where the system does not report it.
pub(crate) fn open() -> Option<u64> {
    let listed = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // The descriptor from which the list itself is read is closed again.
    Some(listed.saturating_sub(1))
}

/// Returns how many objects that take one descriptor each may exist: the part `1/share` of the limit beyond the
/// reserve, at least 4 and at most `most`.
pub(crate) fn share(most: usize, share: u64) -> usize {
    share_of(limit(), most, share)
}

fn share_of(limit: u64, most: usize, share: u64) -> usize {
    // With a limit below twice the reserve, half of it is the reserve.
    let beyond = limit - RESERVE.min(limit / 2);
    usize::try_from(beyond / share).unwrap_or(usize::MAX).clamp(4, most)
}

/// Returns true if an error means that the process or the system has run out of descriptors.
pub(crate) fn are_exhausted(error: &io::Error) -> bool {
    let out = [Errno::MFILE, Errno::NFILE].map(|errno| errno.raw_os_error());
    error.raw_os_error().is_some_and(|errno| out.contains(&errno))
}

/// Returns advice to append to the message of an error caused by exhausted descriptors, and an empty text otherwise.
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

    /// An ordinary limit leaves the reserve, a small limit leaves half of itself, and a large limit allows `most`.
    #[test]
    fn shares_leave_a_reserve() {
        assert_eq!((share_of(1024, 4096, 2), share_of(1024, 1024, 4)), (384, 192));
        assert_eq!((share_of(64, 4096, 2), share_of(64, 1024, 4)), (16, 8));
        assert_eq!((share_of(1 << 20, 4096, 2), share_of(u64::MAX, 1024, 4)), (4096, 1024));
        assert_eq!(share_of(0, 4096, 2), 4);
    }

    /// Only errors about exhausted descriptors are explained, with the limit.
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
