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

/// Reads the images of a shard by index.
pub(crate) trait RecordReader: fmt::Debug + Send + Sync {
    /// Path of the shard.
    fn path(&self) -> &Path;

    /// Name of a record for messages.
    fn name(&self, index: usize) -> String;

    /// Bytes of a record.
    fn read(&self, index: usize) -> Result<Vec<u8>, DecodeError>;
}

/// Converts an error of a shard, for `map_err`.
pub(crate) fn record_error(error: impl fmt::Display) -> DecodeError {
    DecodeError::Shard(error.to_string())
}
