//! Layer 1: files with a secret, which only their owner may read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Reads the text of a file that only its owner may access.
///
/// # Errors
/// A description of the problem, if the file cannot be read or its mode gives access to others.
pub(crate) fn read_secret(path: &Path) -> Result<String, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("others may read the file; run `chmod 600 {}`", path.display()));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
