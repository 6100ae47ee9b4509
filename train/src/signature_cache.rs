//! Perceptual signatures of images for duplicate search, cached so that an image is decoded for it once.

use std::mem;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use headstock_loader::duplicates::Signature;
use headstock_loader::{DecodeError, DecodeOptions, decode};
use redb::{ReadOnlyTable, TableDefinition};
use sha2::{Digest, Sha256};

use crate::error::{TrainError, error_chain};
use crate::features::ImageHash;
use crate::features::cache::{CacheDatabase, CacheKey};

/// Cache format version, a part of each key; bump when signatures change.
const CACHE_FORMAT: &str = "headstock signatures 3";
/// The file of the store in the folder of the feature cache.
const FILE_NAME: &str = "signatures.redb";
/// The table of the database: the bytes of each signature, by the hash of the image's file.
const SIGNATURES: TableDefinition<'_, &CacheKey, &[u8]> = TableDefinition::new("signatures");
/// Memory for pages of the database.
const REDB_CACHE_BYTES: usize = 8 << 20;
/// New signatures written at a time; an interruption loses at most this many.
const WRITE_BATCH: usize = 256;

/// Computes the signatures of images by which near-duplicates are found, and keeps them in a file beside the
/// feature cache, so that the next search need not decode the images again.
pub(crate) struct SignatureCache {
    /// How images are decoded.
    decode: DecodeOptions,
    /// `None` if the store cannot be opened: all signatures are then computed.
    store: Option<SignatureStore>,
}

/// A database file of signatures.
struct SignatureStore {
    database: CacheDatabase,
    /// The signatures stored before this store was opened; `None` if there are none.
    stored: Option<ReadOnlyTable<&'static CacheKey, &'static [u8]>>,
    /// New signatures that are not written yet.
    pending: Mutex<Vec<(CacheKey, Signature)>>,
}

impl SignatureCache {
    /// Opens the store of image signatures, by which near-duplicates are found, in the folder `cache` of the
    /// feature cache. Images are decoded as `decode` says. If the store cannot be opened, it warns, and all
    /// signatures are computed.
    pub(crate) fn open(cache: &Path, decode: impl Into<DecodeOptions>) -> Self {
        let store = SignatureStore::open(cache);
        let warn = |error: &TrainError| {
            let reason = error_chain(error);
            tracing::warn!("near-duplicate photos are searched without a cache, which is slower: {reason}");
        };
        Self { decode: decode.into(), store: store.inspect_err(warn).ok() }
    }

    /// The signature of the image encoded in `bytes`, a summary by which near-duplicates of it are found. It
    /// is read from the store, or computed and then stored.
    ///
    /// # Errors
    /// [`DecodeError`] for an image that cannot be decoded.
    pub(crate) fn signature(&self, bytes: &[u8]) -> Result<Signature, DecodeError> {
        let Some(store) = &self.store else { return Ok(Signature::new(&decode(bytes, self.decode)?)) };
        let key = self.cache_key(bytes);
        if let Some(signature) = store.get(&key) {
            return Ok(signature);
        }
        let signature = Signature::new(&decode(bytes, self.decode)?);
        store.insert(key, &signature);
        Ok(signature)
    }

    /// The key of the signature of the image encoded in `bytes`: SHA-256 of the cache format, the pixel limit,
    /// what the options change in its pixels, and the bytes.
    fn cache_key(&self, bytes: &[u8]) -> CacheKey {
        let hash = ImageHash::new(bytes, self.decode);
        let format =
            Sha256::new().chain_update(CACHE_FORMAT).chain_update(self.decode.max_pixels.to_le_bytes());
        format.chain_update(hash.bytes).chain_update(hash.pixel_changes.key()).finalize().into()
    }
}

impl SignatureStore {
    /// Opens the database in `folder` that stores image signatures (short summaries of how images look, by
    /// which near-duplicates are found), so that a later search need not decode the images again. Creates the
    /// folder and the database if they are missing.
    fn open(folder: &Path) -> Result<Self, TrainError> {
        let database = CacheDatabase::open(folder, FILE_NAME, REDB_CACHE_BYTES)?;
        let stored = database.table(SIGNATURES)?;
        Ok(Self { database, stored, pending: Mutex::default() })
    }

    /// The signature stored under `key`; `None` also for a damaged one.
    fn get(&self, key: &CacheKey) -> Option<Signature> {
        let stored = self.stored.as_ref()?.get(key).ok()??;
        Signature::from_bytes(stored.value())
    }

    /// Queues the signature of an image (by which near-duplicates are found) under its `key`, for later
    /// searches; the queue is written once it has [`WRITE_BATCH`] entries, because every write waits for the
    /// disk.
    fn insert(&self, key: CacheKey, signature: &Signature) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.push((key, signature.clone()));
        let full_batch = (pending.len() >= WRITE_BATCH).then(|| mem::take(&mut *pending));
        drop(pending);
        if let Some(batch) = full_batch {
            self.write_batch(&batch);
        }
    }

    /// Writes a batch of image signatures (by which near-duplicates are found) to the database. A failure is
    /// only a warning, because the next search then only takes longer.
    fn write_batch(&self, batch: &[(CacheKey, Signature)]) {
        let rows = batch.iter().map(|(key, signature)| (key, signature.to_bytes()));
        if let Err(error) = self.database.insert(SIGNATURES, rows) {
            tracing::warn!(
                "the signatures of {} photos (summaries to find near-duplicates) are not saved for the next \
                 search: {}",
                batch.len(),
                error_chain(&error)
            );
        }
    }
}

impl Drop for SignatureStore {
    /// Writes the signatures that are still in the queue.
    fn drop(&mut self) {
        let unwritten = mem::take(self.pending.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !unwritten.is_empty() {
            self.write_batch(&unwritten);
        }
    }
}

#[cfg(test)]
mod tests {
    use headstock_loader::TruncatedFiles;
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

    // effect: data.truncated
    #[test]
    fn the_signature_of_a_truncated_image_is_not_used_where_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let whole = png_image(3);
        // Without the end marker of a JPEG.
        let truncated = &whole[..whole.len() - 2];
        let accept = DecodeOptions { truncated: TruncatedFiles::Accept, ..10_000.into() };
        let signature = SignatureCache::open(folder.path(), accept).signature(truncated).unwrap();
        assert!(signature == Signature::new(&decode(&whole, 10_000).unwrap()));
        assert!(SignatureCache::open(folder.path(), 10_000).signature(truncated).unwrap_err().is_truncated());
        // Complete images share their signatures.
        SignatureCache::open(folder.path(), accept).signature(&whole).unwrap();
        let cache = SignatureCache::open(folder.path(), 10_000);
        assert!(cache.store.as_ref().unwrap().get(&cache.cache_key(&whole)).is_some());
    }

    #[test]
    fn without_a_store_signatures_are_computed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let expected = Signature::new(&decode(&png_image(3), 10_000).unwrap());
        assert_eq!(SignatureCache::open(file.path(), 10_000).signature(&png_image(3)).unwrap(), expected);
    }
}
