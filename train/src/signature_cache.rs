//! Perceptual signatures of images for duplicate search, cached so that an image is decoded for it once.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, mem};

use headstock_loader::duplicates::Signature;
use headstock_loader::{DecodeError, decode};
use redb::{Database, ReadOnlyTable, TableDefinition};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::features::cache::{self, CacheKey};

/// Cache format version; bump when signatures change.
const CACHE_FORMAT: &str = "headstock signatures 1";
const FILE_NAME: &str = "signatures.redb";
const SIGNATURES: TableDefinition<'_, &CacheKey, &[u8]> = TableDefinition::new("signatures");
/// Memory for pages of the database.
const REDB_CACHE_BYTES: usize = 8 << 20;
/// New signatures written at a time; an interruption loses at most this many.
const WRITE_BATCH: usize = 256;

/// Computes image signatures, with a persistent store in the feature cache.
pub(crate) struct SignatureCache {
    max_pixels: u64,
    /// `None` if the store cannot be opened: all signatures are then computed.
    store: Option<SignatureStore>,
}

/// A persistent store of signatures.
struct SignatureStore {
    database: Database,
    path: PathBuf,
    /// The signatures stored before this store was opened; `None` if there are none.
    stored: Option<ReadOnlyTable<&'static CacheKey, &'static [u8]>>,
    /// New signatures that are not written yet.
    pending: Mutex<Vec<(CacheKey, Signature)>>,
}

impl SignatureCache {
    /// Opens the store in the folder `cache`, for images of at most `max_pixels`.
    pub(crate) fn open(cache: &Path, max_pixels: u64) -> Self {
        let store = SignatureStore::open(cache);
        let warn =
            |error: &TrainError| tracing::warn!("near-duplicates are searched without a cache: {error}");
        Self { max_pixels, store: store.inspect_err(warn).ok() }
    }

    /// The signature of the image encoded in `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] for an image that cannot be decoded.
    pub(crate) fn signature(&self, bytes: &[u8]) -> Result<Signature, DecodeError> {
        let Some(store) = &self.store else { return Ok(Signature::new(&decode(bytes, self.max_pixels)?)) };
        let key = self.cache_key(bytes);
        if let Some(signature) = store.get(&key) {
            return Ok(signature);
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
        fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
        let path = folder.join(FILE_NAME);
        let database = cache::open_database(&path, REDB_CACHE_BYTES)?;
        let stored = cache::open_table(&database, SIGNATURES, &path)?;
        Ok(Self { database, path, stored, pending: Mutex::default() })
    }

    fn get(&self, key: &CacheKey) -> Option<Signature> {
        let stored = self.stored.as_ref()?.get(key).ok()??;
        Signature::from_bytes(stored.value())
    }

    /// Stores a signature with the next batch.
    fn insert(&self, key: CacheKey, signature: &Signature) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.push((key, signature.clone()));
        let full = (pending.len() >= WRITE_BATCH).then(|| mem::take(&mut *pending));
        drop(pending);
        if let Some(batch) = full {
            self.write_batch(&batch);
        }
    }

    /// Writes a batch; failure only costs time, so it is only logged.
    fn write_batch(&self, batch: &[(CacheKey, Signature)]) {
        let rows = batch.iter().map(|(key, signature)| (key, signature.to_bytes()));
        if let Err(error) = cache::insert_rows(&self.database, SIGNATURES, &self.path, rows) {
            tracing::warn!("signatures of {} photos were not cached: {error}", batch.len());
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

    fn png_image(step: u32) -> Vec<u8> {
        thumbnail(
            &RgbImage::from_fn(40, 30, |x, y| Rgb([(x * step) as u8, (y * 8) as u8, (x * y) as u8])),
            40,
        )
    }

    #[test]
    fn a_cached_signature_is_used_instead_of_decoding() {
        let folder = tempfile::tempdir().unwrap();
        let open = |max_pixels| SignatureCache::open(folder.path(), max_pixels);
        let (first, second) = (png_image(3), png_image(6));
        let signature_of_second = open(10_000).signature(&second).unwrap();
        let cache = open(10_000);
        assert_eq!(
            cache.store.as_ref().unwrap().get(&cache.cache_key(&second)).as_ref(),
            Some(&signature_of_second)
        );
        // Store another image's signature, to tell a cache hit from a computed one.
        cache.store.as_ref().unwrap().insert(cache.cache_key(&first), &signature_of_second);
        drop(cache);
        assert_eq!(open(10_000).signature(&first).unwrap(), signature_of_second);
        assert_ne!(open(20_000).signature(&first).unwrap(), signature_of_second);
        assert!(open(100).signature(&first).is_err());
    }

    #[test]
    fn without_a_store_signatures_are_computed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let expected = Signature::new(&decode(&png_image(3), 10_000).unwrap());
        assert_eq!(SignatureCache::open(file.path(), 10_000).signature(&png_image(3)).unwrap(), expected);
    }
}
