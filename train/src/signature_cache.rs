//! What near-duplicates are found by, kept from one run to the next: a photo is decoded for it once.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, mem};

use headstock_loader::duplicates::Signature;
use headstock_loader::{DecodeError, decode};
use redb::{Database, ReadOnlyTable, TableDefinition};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::features::cache::{self, CacheKey};

/// What a change in how signatures are made changes, so that older ones are not taken for them.
const CACHE_FORMAT: &str = "headstock signatures 1";
const FILE_NAME: &str = "signatures.redb";
const SIGNATURES: TableDefinition<'_, &CacheKey, &[u8]> = TableDefinition::new("signatures");
/// Pages of the store kept in memory.
const REDB_CACHE_BYTES: usize = 8 << 20;
/// New signatures that are written at a time; an interruption loses no more of them.
const WRITE_BATCH: usize = 256;

/// Signatures of photos, those that were made before from a store in the feature cache.
pub(crate) struct SignatureCache {
    max_pixels: u64,
    /// None where there can be no store: signatures are made all the same.
    store: Option<SignatureStore>,
}

struct SignatureStore {
    database: Database,
    path: PathBuf,
    stored: Option<ReadOnlyTable<&'static CacheKey, &'static [u8]>>,
    pending: Mutex<Vec<(CacheKey, Signature)>>,
}

impl SignatureCache {
    /// Those kept in the folder `cache`, of photos of at most `max_pixels`.
    pub(crate) fn open(cache: &Path, max_pixels: u64) -> Self {
        let store = SignatureStore::open(cache);
        let told =
            |error: &TrainError| tracing::warn!("near-duplicates are looked for without a cache: {error}");
        Self { max_pixels, store: store.inspect_err(told).ok() }
    }

    /// The signature of the photo that `bytes` are.
    ///
    /// # Errors
    /// [`DecodeError`] for one that cannot be decoded.
    pub(crate) fn signature(&self, bytes: &[u8]) -> Result<Signature, DecodeError> {
        let Some(store) = &self.store else { return Ok(Signature::new(&decode(bytes, self.max_pixels)?)) };
        let key = self.cache_key(bytes);
        if let Some(known) = store.get(&key) {
            return Ok(known);
        }
        let signature = Signature::new(&decode(bytes, self.max_pixels)?);
        store.insert(key, &signature);
        Ok(signature)
    }

    fn cache_key(&self, bytes: &[u8]) -> CacheKey {
        let format = Sha256::new().chain_update(CACHE_FORMAT).chain_update(self.max_pixels.to_le_bytes());
        format.chain_update(bytes).finalize().into()
    }
}

impl SignatureStore {
    fn open(folder: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(TrainError::io("make", folder))?;
        let path = folder.join(FILE_NAME);
        let database = cache::open_database(&path, REDB_CACHE_BYTES)?;
        let known = cache::open_table(&database, SIGNATURES, &path)?;
        Ok(Self { database, path, stored: known, pending: Mutex::default() })
    }

    fn get(&self, key: &CacheKey) -> Option<Signature> {
        let stored = self.stored.as_ref()?.get(key).ok()??;
        Signature::from_bytes(stored.value())
    }

    /// Keeps a signature with the next batch.
    fn insert(&self, key: CacheKey, signature: &Signature) {
        let mut fresh = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.push((key, signature.clone()));
        let full = (fresh.len() >= WRITE_BATCH).then(|| mem::take(&mut *fresh));
        drop(fresh);
        if let Some(batch) = full {
            self.write_batch(&batch);
        }
    }

    /// Writes some. Without them the next run has more to do.
    fn write_batch(&self, batch: &[(CacheKey, Signature)]) {
        let rows = batch.iter().map(|(key, signature)| (key, signature.to_bytes()));
        if let Err(error) = cache::insert_rows(&self.database, SIGNATURES, &self.path, rows) {
            tracing::warn!("signatures of {} photos are not kept: {error}", batch.len());
        }
    }
}

impl Drop for SignatureStore {
    fn drop(&mut self) {
        let rest = mem::take(self.pending.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !rest.is_empty() {
            self.write_batch(&rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use headstock_loader::encode::thumbnail;
    use image::{Rgb, RgbImage};

    use super::*;

    fn png_photo(step: u32) -> Vec<u8> {
        thumbnail(
            &RgbImage::from_fn(40, 30, |x, y| Rgb([(x * step) as u8, (y * 8) as u8, (x * y) as u8])),
            40,
        )
    }

    #[test]
    fn what_is_kept_is_taken_in_place_of_the_photo() {
        let folder = tempfile::tempdir().unwrap();
        let open = |max_pixels| SignatureCache::open(folder.path(), max_pixels);
        let (one, other) = (png_photo(3), png_photo(6));
        let of_other = open(10_000).signature(&other).unwrap();
        let signatures = open(10_000);
        assert_eq!(
            signatures.store.as_ref().unwrap().get(&signatures.cache_key(&other)).as_ref(),
            Some(&of_other)
        );
        // Another photo's, so that it can be told from what would be made.
        signatures.store.as_ref().unwrap().insert(signatures.cache_key(&one), &of_other);
        drop(signatures);
        assert_eq!(open(10_000).signature(&one).unwrap(), of_other);
        assert_ne!(open(20_000).signature(&one).unwrap(), of_other);
        assert!(open(100).signature(&one).is_err());
    }

    #[test]
    fn without_a_place_for_the_store_signatures_are_made_all_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let expected = Signature::new(&decode(&png_photo(3), 10_000).unwrap());
        assert_eq!(SignatureCache::open(file.path(), 10_000).signature(&png_photo(3)).unwrap(), expected);
    }
}
