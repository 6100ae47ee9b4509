//! What near-duplicates are found by, kept from one run to the next: a photo is decoded for it once.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, mem};

use headstock_loader::duplicates::Signature;
use headstock_loader::{DecodeError, decode};
use redb::{Database, ReadOnlyTable, TableDefinition};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::features::cache::{self, Key};

/// What a change in how signatures are made changes, so that older ones are not taken for them.
const FORMAT: &str = "headstock signatures 1";
const FILE: &str = "signatures.redb";
const SIGNATURES: TableDefinition<'_, &Key, &[u8]> = TableDefinition::new("signatures");
/// Pages of the store kept in memory.
const CACHE_BYTES: usize = 8 << 20;
/// New signatures that are written at a time; an interruption loses no more of them.
const BATCH: usize = 256;

/// Signatures of photos, those that were made before from a store in the feature cache.
pub(crate) struct Signatures {
    max_pixels: u64,
    /// None where there can be no store: signatures are made all the same.
    store: Option<Store>,
}

struct Store {
    database: Database,
    path: PathBuf,
    known: Option<ReadOnlyTable<&'static Key, &'static [u8]>>,
    fresh: Mutex<Vec<(Key, Signature)>>,
}

impl Signatures {
    /// Those kept in the folder `cache`, of photos of at most `max_pixels`.
    pub(crate) fn open(cache: &Path, max_pixels: u64) -> Self {
        let store = Store::open(cache);
        let told =
            |error: &TrainError| tracing::warn!("near-duplicates are looked for without a cache: {error}");
        Self { max_pixels, store: store.inspect_err(told).ok() }
    }

    /// The signature of the photo that `bytes` are.
    ///
    /// # Errors
    /// [`DecodeError`] for one that cannot be decoded.
    pub(crate) fn of(&self, bytes: &[u8]) -> Result<Signature, DecodeError> {
        let Some(store) = &self.store else { return Ok(Signature::new(&decode(bytes, self.max_pixels)?)) };
        let key = self.key(bytes);
        if let Some(known) = store.known(&key) {
            return Ok(known);
        }
        let signature = Signature::new(&decode(bytes, self.max_pixels)?);
        store.add(key, &signature);
        Ok(signature)
    }

    fn key(&self, bytes: &[u8]) -> Key {
        let format = Sha256::new().chain_update(FORMAT).chain_update(self.max_pixels.to_le_bytes());
        format.chain_update(bytes).finalize().into()
    }
}

impl Store {
    fn open(folder: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(TrainError::io("make", folder))?;
        let path = folder.join(FILE);
        let database = cache::open(&path, CACHE_BYTES)?;
        let known = cache::table(&database, SIGNATURES, &path)?;
        Ok(Self { database, path, known, fresh: Mutex::default() })
    }

    fn known(&self, key: &Key) -> Option<Signature> {
        let stored = self.known.as_ref()?.get(key).ok()??;
        Signature::from_bytes(stored.value())
    }

    /// Keeps a signature with the next batch.
    fn add(&self, key: Key, signature: &Signature) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.push((key, signature.clone()));
        let full = (fresh.len() >= BATCH).then(|| mem::take(&mut *fresh));
        drop(fresh);
        if let Some(batch) = full {
            self.write(&batch);
        }
    }

    /// Writes some. Without them the next run has more to do.
    fn write(&self, batch: &[(Key, Signature)]) {
        let rows = batch.iter().map(|(key, signature)| (key, signature.to_bytes()));
        if let Err(error) = cache::insert(&self.database, SIGNATURES, &self.path, rows) {
            tracing::warn!("signatures of {} photos are not kept: {error}", batch.len());
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let rest = mem::take(self.fresh.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !rest.is_empty() {
            self.write(&rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use headstock_loader::encode::thumbnail;
    use image::{Rgb, RgbImage};

    use super::*;

    fn photo(step: u32) -> Vec<u8> {
        thumbnail(
            &RgbImage::from_fn(40, 30, |x, y| Rgb([(x * step) as u8, (y * 8) as u8, (x * y) as u8])),
            40,
        )
    }

    #[test]
    fn what_is_kept_is_taken_in_place_of_the_photo() {
        let folder = tempfile::tempdir().unwrap();
        let open = |max_pixels| Signatures::open(folder.path(), max_pixels);
        let (one, other) = (photo(3), photo(6));
        let of_other = open(10_000).of(&other).unwrap();
        let signatures = open(10_000);
        assert_eq!(
            signatures.store.as_ref().unwrap().known(&signatures.key(&other)).as_ref(),
            Some(&of_other)
        );
        // Another photo's, so that it can be told from what would be made.
        signatures.store.as_ref().unwrap().add(signatures.key(&one), &of_other);
        drop(signatures);
        assert_eq!(open(10_000).of(&one).unwrap(), of_other);
        assert_ne!(open(20_000).of(&one).unwrap(), of_other);
        assert!(open(100).of(&one).is_err());
    }

    #[test]
    fn without_a_place_for_the_store_signatures_are_made_all_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let expected = Signature::new(&decode(&photo(3), 10_000).unwrap());
        assert_eq!(Signatures::open(file.path(), 10_000).of(&photo(3)).unwrap(), expected);
    }
}
