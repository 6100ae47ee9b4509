//! Fixed-size records in a flat file, with an index (redb) of their slots.
//!
//! A record holds its key and its values, so a records file that does not match the index is detected.
//! Records are added to the index only when they are on disk, in a transaction that excludes other writers:
//! leftovers of a killed writer come after the indexed records, and the next writer overwrites them. If the
//! file is shorter than the index says, the records lost at its end count as missing. Records are read
//! straight from the file, so that the operating system caches them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use redb::{ReadOnlyTable, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::half_precision;
use crate::error::TrainError;
use crate::features::cache::{CacheDatabase, CacheKey, cache_error};

/// The table of the index: the slot of each key's record. Slot `i` is the `i`-th record of the file, from 0.
const SLOTS: TableDefinition<'_, &CacheKey, u64> = TableDefinition::new("slots");

/// Memory for pages of the index; a record takes 40 bytes there.
const INDEX_CACHE_BYTES: usize = 8 << 20;

/// The cached activations on disk. A record holds the activations of one view of an image as
/// `values_per_record` values of two bytes, under the cache key of the view. Several processes may use the
/// store at the same time; records are stored atomically.
pub(super) struct RecordStore {
    index_database: CacheDatabase,
    pub(super) records_path: PathBuf,
    values_per_record: usize,
}

impl RecordStore {
    /// Opens or creates a store of cached activations in `folder`. It has two files: the records, with `name`
    /// and the ending `.records`, and their index, a database with the ending `.redb`. A record holds the
    /// activations of one view (a rendering of an image): `values_per_record` values of two bytes.
    pub(super) fn open(folder: &Path, name: &str, values_per_record: usize) -> Result<Self, TrainError> {
        let records_path = folder.join(format!("{name}.records"));
        let index_database = CacheDatabase::open(folder, &format!("{name}.redb"), INDEX_CACHE_BYTES)?;
        open_or_create(&records_path)?;
        Ok(Self { index_database, records_path, values_per_record })
    }

    /// Size of a record in bytes.
    pub(super) fn record_bytes(&self) -> u64 {
        size_of::<CacheKey>() as u64 + self.values_per_record as u64 * half_precision::BYTES_PER_VALUE
    }

    /// A snapshot of the index, to look up which keys are stored and where; records stored later are not in
    /// it.
    pub(super) fn index(&self) -> Result<RecordIndex<'_>, TrainError> {
        let slots = self.index_database.table(SLOTS)?;
        let length =
            fs::metadata(&self.records_path).map_err(TrainError::io("read", &self.records_path))?.len();
        Ok(RecordIndex {
            slots,
            n_whole_records: length / self.record_bytes(),
            index_path: &self.index_database.path,
        })
    }

    /// Stores activations of images in one transaction; when this returns, they are safely on disk. Each of
    /// the `records` is the cache key of a view of an image, and its activations as half-precision bits. A
    /// record whose key is already stored is left unchanged. The slot of a record is its position in the
    /// records file, counted in records; the index has the slot of each key.
    pub(super) fn insert<'a>(
        &self,
        records: impl Iterator<Item = (&'a CacheKey, &'a [u16])>,
    ) -> Result<(), TrainError> {
        let write_error = |error| TrainError::io("write", &self.records_path)(error);
        let CacheDatabase { database, path: index_path } = &self.index_database;
        let transaction = database.begin_write().map_err(cache_error(index_path))?;
        {
            let mut slots = transaction.open_table(SLOTS).map_err(cache_error(index_path))?;
            let mut file = open_or_create(&self.records_path)?;
            let n_whole = file.metadata().map_err(write_error)?.len() / self.record_bytes();
            // Slots are 0, 1, 2 and so on, one per key of the index. Records that a truncated file has lost
            // are removed from the index.
            if slots.len().map_err(cache_error(index_path))? > n_whole {
                slots.retain(|_, slot| slot < n_whole).map_err(cache_error(index_path))?;
            }
            let mut next_slot = slots.len().map_err(cache_error(index_path))?;
            file.seek(SeekFrom::Start(next_slot * self.record_bytes())).map_err(write_error)?;
            for (key, values) in records {
                debug_assert_eq!(values.len(), self.values_per_record);
                if slots.get(key).map_err(cache_error(index_path))?.is_none() {
                    file.write_all(key).map_err(write_error)?;
                    file.write_all(bytemuck::cast_slice(values)).map_err(write_error)?;
                    slots.insert(key, next_slot).map_err(cache_error(index_path))?;
                    next_slot += 1;
                }
            }
            file.sync_data().map_err(write_error)?;
        }
        transaction.commit().map_err(cache_error(index_path))
    }

    /// A reader with its own file position.
    pub(super) fn reader(&self) -> Result<RecordReader<'_>, TrainError> {
        Ok(RecordReader { file: open_or_create(&self.records_path)?, store: self })
    }
}

/// Opens the records file `path` for reading and writing. Creates it if it is missing; never empties it.
fn open_or_create(path: &Path) -> Result<File, TrainError> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(TrainError::io("open", path))
}

/// A snapshot of the index of a store: which keys are stored, and in which slot of the records file.
pub(super) struct RecordIndex<'a> {
    /// The slot of each key; `None` if nothing has been stored yet.
    slots: Option<ReadOnlyTable<&'static CacheKey, u64>>,
    /// Number of whole records in the file. The records in later slots are lost, because the file was cut
    /// off.
    n_whole_records: u64,
    index_path: &'a Path,
}

impl RecordIndex<'_> {
    /// Number of stored records: those in the index that the file really has, in case that its end is lost.
    pub(super) fn n_records(&self) -> Result<u64, TrainError> {
        let n_indexed =
            self.slots.as_ref().map_or(Ok(0), ReadOnlyTable::len).map_err(cache_error(self.index_path))?;
        Ok(n_indexed.min(self.n_whole_records))
    }

    /// The slot of the record of `key`, which is its position in the records file counted in records, for
    /// [`RecordReader::read`]. `None` if the key is not stored, or if the end of the file with its record is
    /// lost.
    pub(super) fn slot(&self, key: &CacheKey) -> Result<Option<u64>, TrainError> {
        let Some(slots) = &self.slots else { return Ok(None) };
        let slot = slots.get(key).map_err(cache_error(self.index_path))?.map(|slot| slot.value());
        Ok(slot.filter(|slot| *slot < self.n_whole_records))
    }
}

/// Reads records by slot, their position in the records file.
pub(super) struct RecordReader<'a> {
    file: File,
    store: &'a RecordStore,
}

impl RecordReader<'_> {
    /// Reads the cached activations of the view with the cache key `key` into `values`, as half-precision
    /// bits. `slot` is the position of its record in the records file, counted in records; the index has it.
    ///
    /// # Errors
    /// [`TrainError::Inference`] if the slot cannot be read or holds a different key.
    pub(super) fn read(&mut self, slot: u64, key: &CacheKey, values: &mut [u16]) -> Result<(), TrainError> {
        let path = &self.store.records_path;
        let read_error = |error| TrainError::io("read", path)(error);
        self.file.seek(SeekFrom::Start(slot * self.store.record_bytes())).map_err(read_error)?;
        let mut stored_key = CacheKey::default();
        self.file.read_exact(&mut stored_key).map_err(read_error)?;
        if stored_key != *key {
            let index = self.store.index_database.path.display();
            let problem = format!(
                "the file does not match its index {index}: delete both files; their activations are then computed again"
            );
            return Err(TrainError::format(path)(problem));
        }
        self.file.read_exact(bytemuck::cast_slice_mut(values)).map_err(read_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 5;

    fn store(folder: &Path) -> RecordStore {
        RecordStore::open(folder, "some", WIDTH).unwrap()
    }

    fn insert_numbered(store: &RecordStore, numbers: &[u8]) {
        let records: Vec<(CacheKey, [u16; WIDTH])> =
            numbers.iter().map(|&n| ([n; 32], [n.into(); WIDTH])).collect();
        store.insert(records.iter().map(|(key, values)| (key, values.as_slice()))).unwrap();
    }

    /// The numbers below 10 whose records are stored; checks their values.
    fn stored_numbers(store: &RecordStore) -> Vec<u8> {
        let (index, mut reader) = (store.index().unwrap(), store.reader().unwrap());
        let mut numbers = Vec::new();
        for number in 0..10 {
            let Some(slot) = index.slot(&[number; 32]).unwrap() else { continue };
            let mut values = [0; WIDTH];
            reader.read(slot, &[number; 32], &mut values).unwrap();
            assert_eq!(values, [u16::from(number); WIDTH]);
            numbers.push(number);
        }
        numbers
    }

    #[test]
    fn records_survive_reopening_the_store() {
        let folder = tempfile::tempdir().unwrap();
        assert!(stored_numbers(&store(folder.path())).is_empty());
        insert_numbered(&store(folder.path()), &[3, 1]);
        assert_eq!(stored_numbers(&store(folder.path())), [1, 3]);
        insert_numbered(&store(folder.path()), &[1, 2, 2]);
        let again = store(folder.path());
        assert_eq!(stored_numbers(&again), [1, 2, 3]);
        // Records that existed or came twice take no space.
        assert_eq!(fs::metadata(&again.records_path).unwrap().len(), 3 * again.record_bytes());
    }

    #[test]
    fn leftovers_of_a_killed_writer_are_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        insert_numbered(&store(folder.path()), &[1]);
        let mut file = File::options().append(true).open(&store(folder.path()).records_path).unwrap();
        file.write_all(&[9; 61]).unwrap();
        let store = store(folder.path());
        assert_eq!(stored_numbers(&store), [1]);
        insert_numbered(&store, &[2, 3]);
        assert_eq!(stored_numbers(&store), [1, 2, 3]);
        assert_eq!(fs::metadata(&store.records_path).unwrap().len(), 3 * store.record_bytes());
    }

    #[test]
    fn records_that_the_file_has_lost_count_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        insert_numbered(&store, &[1, 2, 3, 4]);
        let file = File::options().write(true).open(&store.records_path).unwrap();
        file.set_len(2 * store.record_bytes() + 7).unwrap();
        assert_eq!(stored_numbers(&store), [1, 2]);
        // Storing them again does not bring back the records before them.
        insert_numbered(&store, &[4]);
        assert_eq!(stored_numbers(&store), [1, 2, 4]);
        fs::remove_file(&store.records_path).unwrap();
        insert_numbered(&store, &[3]);
        assert_eq!(stored_numbers(&store), [3]);
    }

    #[test]
    fn a_mismatched_records_file_is_reported_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        insert_numbered(&store, &[1]);
        fs::write(&store.records_path, vec![0; 100]).unwrap();
        let slot = store.index().unwrap().slot(&[1; 32]).unwrap().unwrap();
        let error = store.reader().unwrap().read(slot, &[1; 32], &mut [0; WIDTH]).unwrap_err().to_string();
        assert!(error.contains("some.records") && error.contains("some.redb: delete both files"), "{error}");
    }

    #[test]
    fn concurrent_writers_store_the_records_of_both() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (store(folder.path()), store(folder.path()));
        std::thread::scope(|scope| {
            for (store, numbers) in [(&first, [1, 2, 3, 4, 5, 6]), (&second, [6, 5, 7, 3, 8, 9])] {
                scope.spawn(move || numbers.map(|number| insert_numbered(store, &[number, 0])));
            }
        });
        for store in [&first, &second] {
            assert_eq!(stored_numbers(store), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        }
        assert_eq!(fs::metadata(&first.records_path).unwrap().len(), 10 * first.record_bytes());
    }
}
