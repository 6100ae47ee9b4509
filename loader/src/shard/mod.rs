//! Shards: files that hold many images. They are read record by record, so memory use does not depend on the
//! file size.

mod cursor_pool;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
mod pattern;
pub(crate) mod tar;
pub(crate) mod zip;

use std::fmt;

pub use pattern::find_shards;
pub(crate) use pattern::sorted_entries;

use crate::image_ref::ReadError;

/// Maximum size of a decompressed record in bytes; a small file can claim gigabytes.
pub(crate) const MAX_RECORD_BYTES: u64 = 1 << 28;

/// The message for a record of `size` bytes, more than [`MAX_RECORD_BYTES`].
fn too_large_message(size: u64) -> String {
    format!("the photo has {size} bytes, more than the limit of {MAX_RECORD_BYTES}")
}

/// Converts an error of a shard (anything with a message) to [`ReadError::Record`], for `map_err` where a
/// record is read.
fn record_error(error: impl fmt::Display) -> ReadError {
    ReadError::Record(error.to_string())
}
