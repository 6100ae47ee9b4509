//! Files that hold many photos, read record by record: memory holds a record at a time, whatever the file's size.

mod cursor_pool;
pub(crate) mod parquet;
mod pattern;
pub(crate) mod tar;

use std::fmt;
use std::path::Path;

pub use pattern::find_shards;

use crate::decode::DecodeError;

/// A record that unfolds to more than this is refused: a small file can claim gigabytes.
pub(crate) const MAX_RECORD_BYTES: u64 = 1 << 28;

/// The photos of a shard.
pub(crate) trait RecordReader: fmt::Debug + Send + Sync {
    /// The shard.
    fn path(&self) -> &Path;

    /// What the record is called in messages.
    fn name(&self, index: usize) -> String;

    /// The bytes of the record.
    fn read(&self, index: usize) -> Result<Vec<u8>, DecodeError>;
}

/// For `map_err`: the shard is not what its index said.
pub(crate) fn record_error(error: impl fmt::Display) -> DecodeError {
    DecodeError::Shard(error.to_string())
}
