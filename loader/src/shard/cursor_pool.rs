//! Readers that go forwards only.

use std::sync::{Mutex, PoisonError};

/// Readers kept, at most: about one for each thread that reads somewhere else.
const MAX_CURSORS: usize = 16;

/// A reader that stands before a record.
pub(super) trait Cursor {
    /// How far it stands, where it can get to the record.
    fn position_before(&self, record: usize) -> Option<usize>;
}

/// Readers of one shard, each where it was left. What reads in order goes on with its own; what goes back has one opened anew.
#[derive(Debug)]
pub(super) struct CursorPool<C>(Mutex<Vec<C>>);

impl<C> Default for CursorPool<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Cursor> CursorPool<C> {
    /// Has `read` read `record` with the reader that stands closest before it, or with one that `open` gives. A reader that
    /// fails is not used again.
    pub(super) fn read<T, E>(
        &self,
        record: usize,
        open: impl FnOnce() -> Result<C, E>,
        read: impl FnOnce(&mut C) -> Result<T, E>,
    ) -> Result<T, E> {
        let nearest = {
            let mut cursors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let candidates = cursors
                .iter()
                .enumerate()
                .filter_map(|(i, cursor)| Some((cursor.position_before(record)?, i)));
            candidates.max().map(|(_, i)| cursors.remove(i))
        };
        let mut cursor = match nearest {
            Some(cursor) => cursor,
            None => open()?,
        };
        let value = read(&mut cursor)?;
        let mut cursors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cursors.len() == MAX_CURSORS {
            // The one that was used longest ago.
            cursors.remove(0);
        }
        cursors.push(cursor);
        Ok(value)
    }
}
