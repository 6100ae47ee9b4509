//! Files that are written beside their place and renamed into it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::TrainError;

/// What temporary names begin with; a killed program may leave one behind, which nobody reads.
pub(crate) const TEMP_PREFIX: &str = ".headstock-part-";

/// A new file in `folder`, which is made where it is not there.
pub(crate) fn temp_file_in(folder: &Path) -> io::Result<NamedTempFile> {
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMP_PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any other file of the user's, not private as temporary files are; the umask still applies.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// A new file that is going to be renamed to `path`.
pub(crate) fn temp_file_beside(path: &Path) -> io::Result<NamedTempFile> {
    temp_file_in(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Writes `bytes` to `path`, whole or not at all.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temp_file_beside(path)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Refuses to replace a file that is not a table of ours, which begins with `header`: it may be the user's labels.
pub(crate) fn refuse_to_overwrite(path: &Path, header: &[&str]) -> Result<(), TrainError> {
    refuse_to_overwrite_unless(path, &[format!("{}\n", header.join(",")).into_bytes()])
}

/// Refuses to replace a file that begins with none of `begins`.
pub(crate) fn refuse_to_overwrite_unless(path: &Path, begins: &[Vec<u8>]) -> Result<(), TrainError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let ours = fs::read(path).is_ok_and(|bytes| begins.iter().any(|header| bytes.starts_with(header)));
    if ours {
        Ok(())
    } else {
        Err(TrainError::Usage(format!(
            "{} is there already, and is not what would be written: name another file",
            path.display()
        )))
    }
}
