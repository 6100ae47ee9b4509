//! Files that are written under a temporary name and renamed into place.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use headstock_loader::source::parent_folder;
use tempfile::NamedTempFile;

use crate::error::TrainError;

/// Prefix of temporary files; leftovers of killed programs are ignored.
pub(crate) const TEMP_PREFIX: &str = ".headstock-part-";

/// Creates a temporary file in `folder`, for atomic writing: the caller writes all contents and then renames
/// it to its final name, so that no reader finds a partly written file. Creates the folder if it is missing.
pub(crate) fn temp_file_in(folder: &Path) -> io::Result<NamedTempFile> {
    fs::create_dir_all(folder)?;
    temp_builder(0o666).tempfile_in(folder)
}

/// Builds temporary files or folders with these permissions, of which the umask removes some. Without them they
/// would be private, but what becomes of them is not.
#[cfg_attr(not(unix), expect(unused_variables, reason = "other systems have no such permissions"))]
pub(crate) fn temp_builder(permissions: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMP_PREFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(permissions));
    builder
}

/// Creates a temporary file in the folder of `path`, which [`persist`] renames to `path`.
pub(crate) fn temp_file_beside(path: &Path) -> Result<NamedTempFile, TrainError> {
    temp_file_in(parent_folder(path)).map_err(TrainError::io("write", path))
}

/// Renames the temporary `file`, which has all its contents, to `path`.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<(), TrainError> {
    file.persist(path).map_err(|failed| TrainError::io("write", path)(failed.error))?;
    Ok(())
}

/// Writes `bytes` to `path` atomically: a reader or a crash finds the old contents or the new ones, never a
/// part.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut file = temp_file_beside(path)?;
    file.write_all(bytes).map_err(TrainError::io("write", path))?;
    persist(file, path)
}

/// Refuses to overwrite the file `path` unless it begins with `header` as CSV, so that headstock wrote it:
/// any other table may hold the user's labels. `Ok` if there is no file.
pub(crate) fn refuse_to_overwrite(path: &Path, header: &[&str]) -> Result<(), TrainError> {
    refuse_to_overwrite_unless(path, &[format!("{}\n", header.join(",")).into_bytes()])
}

/// Refuses to overwrite the file `path` unless its first bytes are one of `headers`, which headstock's files
/// of this kind begin with: any other file is the user's own. `Ok` if there is no file.
pub(crate) fn refuse_to_overwrite_unless(path: &Path, headers: &[Vec<u8>]) -> Result<(), TrainError> {
    let is_ours = || fs::read(path).is_ok_and(|bytes| headers.iter().any(|header| bytes.starts_with(header)));
    if fs::symlink_metadata(path).is_err() || is_ours() {
        return Ok(());
    }
    Err(TrainError::Usage(format!(
        "{} exists and is not a file that this command has written, so it is not overwritten: choose a \
         different file name",
        path.display()
    )))
}
