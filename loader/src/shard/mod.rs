//! Shards: files that hold many images. They are read record by record, so memory use does not depend on the
//! file size.

mod cursor_pool;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
mod pattern;
pub(crate) mod tar;
pub(crate) mod zip;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use pattern::find_shards;
pub(crate) use pattern::sorted_entries;

use crate::image_ref::ReadError;

/// Maximum size of a decompressed record in bytes; a small file can claim gigabytes.
pub(crate) const MAX_RECORD_BYTES: u64 = 1 << 28;

/// The message for a record of `size` bytes, more than [`MAX_RECORD_BYTES`].
fn too_large_message(size: u64) -> String {
    format!("the photo has {size} bytes, more than the limit of {MAX_RECORD_BYTES}")
}

/// The first bytes of a pointer of Git LFS, which a clone has in place of a large file.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Whether `start` is the beginning of a pointer of Git LFS.
pub(crate) fn is_lfs_pointer(start: &[u8]) -> bool {
    start.starts_with(LFS_POINTER)
}

/// The message for a pointer of Git LFS.
pub(crate) const LFS_POINTER_MESSAGE: &str =
    "this is a Git LFS pointer, a small file in place of the data: run `git lfs pull` in its repository";

/// Refuses the file `path` if it is a pointer of Git LFS; a file that cannot be read passes.
fn refuse_lfs_pointer(path: &Path) -> Result<(), String> {
    let mut start = [0; LFS_POINTER.len()];
    match File::open(path).and_then(|mut file| file.read_exact(&mut start)) {
        Ok(()) if is_lfs_pointer(&start) => Err(LFS_POINTER_MESSAGE.to_owned()),
        _ => Ok(()),
    }
}

/// Converts an error of a shard (anything with a message) to [`ReadError::Record`], for `map_err` where a
/// record is read.
fn record_error(error: impl fmt::Display) -> ReadError {
    ReadError::Record(error.to_string())
}
