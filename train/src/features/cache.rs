//! The on-disk feature cache (redb), and helpers for other redb stores in its folder.

use std::fs;
use std::path::{Path, PathBuf};

use redb::{
    AccessGuard, ConcurrencyMode, Database, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase,
    TableDefinition, TableError,
};

use crate::error::TrainError;

/// SHA-256 of everything that a feature vector depends on.
pub(crate) type CacheKey = [u8; 32];

/// The file of the cache in its folder.
const FILE_NAME: &str = "features.redb";
/// The table of feature vectors: `f32` in little-endian order.
const FEATURES: TableDefinition<'_, &CacheKey, &[u8]> = TableDefinition::new("features");

/// Memory for pages of the database; a batch takes a few hundred kilobytes.
const REDB_CACHE_BYTES: usize = 32 << 20;

/// A crash-safe store of feature vectors on disk, shared by processes. Each is stored completely or not at
/// all.
pub(crate) struct FeatureCache(CacheDatabase);

impl FeatureCache {
    /// Opens the feature cache in `folder`; creates the folder and an empty cache if they do not exist.
    pub(crate) fn open(folder: &Path) -> Result<Self, TrainError> {
        CacheDatabase::open(folder, FILE_NAME, REDB_CACHE_BYTES).map(Self)
    }

    /// The current content for reading, which stays the same while others write.
    pub(crate) fn snapshot(&self) -> Result<CacheSnapshot<'_>, TrainError> {
        Ok(CacheSnapshot { table: self.0.table(FEATURES)?, path: &self.0.path })
    }

    /// Stores feature vectors, each under its key, in one transaction, and returns when they are on disk.
    pub(crate) fn store<'a>(
        &self,
        vectors: impl Iterator<Item = (&'a CacheKey, &'a [f32])>,
    ) -> Result<(), TrainError> {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        self.0.insert(FEATURES, vectors.map(|(key, values)| (key, bytes(values))))
    }
}

/// The content of the cache at one moment.
pub(crate) struct CacheSnapshot<'a> {
    table: Option<ReadOnlyTable<&'static CacheKey, &'static [u8]>>,
    path: &'a Path,
}

impl CacheSnapshot<'_> {
    /// Whether the cache has a feature vector of `width` values under `key`, so that it need not be computed.
    pub(crate) fn contains(&self, key: &CacheKey, width: usize) -> Result<bool, TrainError> {
        // 4 bytes per `f32`.
        Ok(self.get(key)?.is_some_and(|bytes| bytes.value().len() == width * 4))
    }

    /// Looks up the feature vector under `key` and appends it to `out`. Returns whether a vector of `width`
    /// values was found; if not, `out` is unchanged.
    pub(crate) fn append(
        &self,
        key: &CacheKey,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<bool, TrainError> {
        Ok(self.get(key)?.is_some_and(|stored| append_values(stored.value(), width, out)))
    }

    fn get(&self, key: &CacheKey) -> Result<Option<AccessGuard<'_, &'static [u8]>>, TrainError> {
        let Some(table) = &self.table else { return Ok(None) };
        table.get(key).map_err(cache_error(self.path))
    }
}

/// Appends the feature vector `stored` to `out`; returns whether it has `width` values, otherwise `out` is unchanged.
fn append_values(stored: &[u8], width: usize, out: &mut Vec<f32>) -> bool {
    let (values, incomplete_value) = stored.as_chunks::<4>();
    let is_complete = values.len() == width && incomplete_value.is_empty();
    if is_complete {
        out.extend(values.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    is_complete
}

/// A cache that exists and is only read: its folder may be read-only.
pub(crate) struct ReadOnlyCache {
    table: ReadOnlyTable<&'static CacheKey, &'static [u8]>,
    /// Keeps the file open.
    _database: ReadOnlyDatabase,
}

impl ReadOnlyCache {
    /// Opens the feature cache in `folder` with its current content; `None` if there is no cache or it is empty.
    pub(crate) fn open(folder: &Path) -> Result<Option<Self>, TrainError> {
        let path = folder.join(FILE_NAME);
        if !path.is_file() {
            return Ok(None);
        }
        let open = || -> Result<Option<Self>, redb::Error> {
            let database = Database::builder()
                .set_cache_size(REDB_CACHE_BYTES)
                .set_concurrency_mode(ConcurrencyMode::MultiWriter)
                .open_read_only(&path)?;
            let transaction = database.begin_read()?;
            match transaction.open_table(FEATURES) {
                Ok(table) => Ok(Some(Self { table, _database: database })),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        open().map_err(cache_error(&path))
    }

    /// The feature vector of `width` values under `key`; `None` if there is none or it cannot be read.
    pub(crate) fn get(&self, key: &CacheKey, width: usize) -> Option<Vec<f32>> {
        let stored = self.table.get(key).ok()??;
        let mut values = Vec::new();
        append_values(stored.value(), width, &mut values).then_some(values)
    }
}

/// A redb database in the folder of the cache, which several processes may write to at the same time.
pub(crate) struct CacheDatabase {
    pub(crate) database: Database,
    /// The file, for error messages.
    pub(crate) path: PathBuf,
}

impl CacheDatabase {
    /// Opens or creates the database `file_name` in `folder`, which is created as well. redb keeps up to
    /// `cache_bytes` of its pages in memory.
    pub(crate) fn open(folder: &Path, file_name: &str, cache_bytes: usize) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
        let path = folder.join(file_name);
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .set_concurrency_mode(ConcurrencyMode::MultiWriter)
            .create(&path)
            .map_err(cache_error(&path))?;
        Ok(Self { database, path })
    }

    /// Inserts `rows` (key and value) into the table `definition` in one transaction, replacing those of the
    /// same keys, and returns when they are on disk.
    pub(crate) fn insert<'a>(
        &self,
        definition: TableDefinition<'_, &'static CacheKey, &'static [u8]>,
        rows: impl Iterator<Item = (&'a CacheKey, Vec<u8>)>,
    ) -> Result<(), TrainError> {
        let insert = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(definition)?;
                for (key, bytes) in rows {
                    table.insert(key, bytes.as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        };
        insert().map_err(cache_error(&self.path))
    }

    /// Opens the table `definition` for reading its current content; `None` if nothing was ever inserted into
    /// it.
    pub(crate) fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Option<ReadOnlyTable<K, V>>, TrainError> {
        let transaction = self.database.begin_read().map_err(cache_error(&self.path))?;
        match transaction.open_table(definition) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(cache_error(&self.path)(error)),
        }
    }
}

/// For `map_err`: the error that the cache file `path` failed.
pub(crate) fn cache_error<E: Into<redb::Error>>(path: &Path) -> impl FnOnce(E) -> TrainError {
    let path = path.to_path_buf();
    move |error| TrainError::Cache { path, source: Box::new(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored_vector(cache: &FeatureCache, key: &CacheKey, width: usize) -> Option<Vec<f32>> {
        let mut out = Vec::new();
        cache.snapshot().unwrap().append(key, width, &mut out).unwrap().then_some(out)
    }

    #[test]
    fn vectors_survive_reopening_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE];
        let cache = FeatureCache::open(folder.path()).unwrap();
        assert_eq!(stored_vector(&cache, &[1; 32], 3), None);
        cache.store([(&[1; 32], values.as_slice())].into_iter()).unwrap();
        drop(cache);
        let cache = FeatureCache::open(folder.path()).unwrap();
        assert_eq!(stored_vector(&cache, &[1; 32], 3).unwrap(), values);
        assert_eq!(stored_vector(&cache, &[2; 32], 3), None);
    }

    #[test]
    fn a_vector_of_another_length_counts_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(folder.path()).unwrap();
        cache.store([(&[1; 32], [1.0].as_slice())].into_iter()).unwrap();
        assert!(!cache.snapshot().unwrap().contains(&[1; 32], 2).unwrap());
        assert_eq!(stored_vector(&cache, &[1; 32], 2), None);
    }

    #[test]
    fn two_handles_share_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) =
            (FeatureCache::open(folder.path()).unwrap(), FeatureCache::open(folder.path()).unwrap());
        first.store([(&[1; 32], [1.0].as_slice())].into_iter()).unwrap();
        second.store([(&[2; 32], [2.0].as_slice())].into_iter()).unwrap();
        assert_eq!(stored_vector(&first, &[2; 32], 1), Some(vec![2.0]));
        assert_eq!(stored_vector(&second, &[1; 32], 1), Some(vec![1.0]));
    }

    #[test]
    fn a_cache_is_read_without_writing_while_others_write() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ReadOnlyCache::open(folder.path()).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was created");
        let writer = FeatureCache::open(folder.path()).unwrap();
        writer.store([(&[1; 32], [1.5, -0.0].as_slice())].into_iter()).unwrap();
        let reader = ReadOnlyCache::open(folder.path()).unwrap().unwrap();
        writer.store([(&[2; 32], [2.0].as_slice())].into_iter()).unwrap();
        assert_eq!(reader.get(&[1; 32], 2), Some(vec![1.5, -0.0]));
        assert_eq!(reader.get(&[1; 32], 1), None, "another length");
        assert_eq!(reader.get(&[3; 32], 2), None);
        drop((reader, writer));
        fs::write(folder.path().join(FILE_NAME), "not a database, but long enough to be probed").unwrap();
        assert!(ReadOnlyCache::open(folder.path()).is_err());
    }

    #[test]
    fn a_file_that_is_not_a_database_is_reported_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), "not a database, but long enough to be probed").unwrap();
        let error = FeatureCache::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("features.redb") && error.contains("delete it"), "{error}");
    }
}
