//! Readers that go forwards only.

use std::sync::{Mutex, PoisonError};

/// Readers kept, at most: about one for each thread that reads somewhere else.
const MOST: usize = 16;

/// A reader that stands before a record.
pub(super) trait Cursor {
    /// How far it stands, where it can get to the record.
    fn before(&self, record: usize) -> Option<usize>;
}

/// Readers of one shard, each where it was left. What reads in order goes on with its own; what goes back has one opened anew.
#[derive(Debug)]
pub(super) struct Cursors<C>(Mutex<Vec<C>>);

impl<C> Default for Cursors<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Cursor> Cursors<C> {
    /// Has `read` read `record` with the reader that stands closest before it, or with one that `open` gives. A reader that
    /// fails is not used again.
    pub(super) fn read<T, E>(
        &self,
        record: usize,
        open: impl FnOnce() -> Result<C, E>,
        read: impl FnOnce(&mut C) -> Result<T, E>,
    ) -> Result<T, E> {
        let closest = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let stands = kept.iter().enumerate().filter_map(|(i, cursor)| Some((cursor.before(record)?, i)));
            stands.max().map(|(_, i)| kept.remove(i))
        };
        let mut cursor = match closest {
            Some(cursor) => cursor,
            None => open()?,
        };
        let value = read(&mut cursor)?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MOST {
            // The one that was used longest ago.
            kept.remove(0);
        }
        kept.push(cursor);
        Ok(value)
    }
}
