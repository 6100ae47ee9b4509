//! Shards: files that hold many images. They are read record by record, so memory use does not depend on the
//! file size.

mod cursor_pool;
pub(crate) mod parquet;
mod pattern;
pub(crate) mod tar;

use std::fmt;
use std::path::Path;

pub use pattern::find_shards;

use crate::decode::DecodeError;

/// Maximum size of a decompressed record in bytes; a small file can claim gigabytes.
pub(crate) const MAX_RECORD_BYTES: u64 = 1 << 28;

/// The message for a record of `size` bytes, more than [`MAX_RECORD_BYTES`].
fn too_large_message(size: u64) -> String {
    format!("the photo has {size} bytes, more than the limit of {MAX_RECORD_BYTES}")
}

/// Reads the records of a shard (a Parquet file or tar archive), each of which is an encoded image, by index.
pub(crate) trait RecordReader: fmt::Debug + Send + Sync {
    /// Path of the shard. Together with the index it identifies a record.
    fn path(&self) -> &Path;

    /// Name of the record `index` within the shard for messages, such as `row 5`.
    fn name(&self, index: usize) -> String;

    /// Reads the record `index`: the bytes of an encoded image.
    fn read(&self, index: usize) -> Result<Vec<u8>, DecodeError>;
}

/// Converts an error of a shard (anything with a message) to [`DecodeError::Shard`], for `map_err` where a
/// record is read.
pub(crate) fn record_error(error: impl fmt::Display) -> DecodeError {
    DecodeError::Shard(error.to_string())
}
