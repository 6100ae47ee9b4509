//! A pool of forward-only readers of one shard.

use std::sync::{Mutex, PoisonError};

/// Maximum number of pooled readers, about one per thread.
const MAX_CURSORS: usize = 16;

/// A reader of the records of one shard that can only move forward, because the data is compressed.
pub(super) trait Cursor {
    /// The index of the record that this reader reads next, if it can still reach `record` by moving forward;
    /// `None` if it is past `record` or ends before it.
    fn position_before(&self, record: usize) -> Option<usize>;
}

/// Readers of one shard at the positions where they stopped, for use by several threads. Sequential reads
/// reuse a reader; a backward read opens a new one. `C` is the type of a reader.
#[derive(Debug)]
pub(super) struct CursorPool<C>(pub(super) Mutex<Vec<C>>);

impl<C: Cursor> CursorPool<C> {
    /// Reads the record with index `record`: calls `read` with the nearest reader before it, or with a new
    /// one from `open`, and returns the result of `read`. The reader is put back afterwards; one that fails
    /// is dropped.
    pub(super) fn read<T, E>(
        &self,
        record: usize,
        open: impl FnOnce() -> Result<C, E>,
        read: impl FnOnce(&mut C) -> Result<T, E>,
    ) -> Result<T, E> {
        // The reader leaves the pool while it is in use, so the lock is not held during the read.
        let nearest = {
            let mut cursors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let candidates = cursors
                .iter()
                .enumerate()
                .filter_map(|(i, cursor)| Some((cursor.position_before(record)?, i)));
            candidates.max().map(|(_, i)| cursors.remove(i))
        };
        let mut cursor = nearest.map_or_else(open, Ok)?;
        let value = read(&mut cursor)?;
        let mut cursors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cursors.len() == MAX_CURSORS {
            // The least recently used reader.
            cursors.remove(0);
        }
        cursors.push(cursor);
        Ok(value)
    }
}
