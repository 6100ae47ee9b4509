//! Features that a cache has already, for predictions.

use std::sync::atomic::{AtomicUsize, Ordering};

use headstock_inference::{DecodeOptions, PretrainedBackbone};

use super::cache::ReadOnlyCache;
use super::{CACHE_FORMAT, CacheKeyBuilder, EVAL_VIEW, ExtractOptions, ImageHash};
use crate::error::error_chain;

/// Looks up the features of images in a cache by the bytes of their files. It writes nothing.
pub struct KnownFeatures {
    cache: ReadOnlyCache,
    keys: CacheKeyBuilder,
    decode: DecodeOptions,
    width: usize,
    n_found: AtomicUsize,
}

impl KnownFeatures {
    /// Opens the cache that `options` name, for features of the backbone `pretrained`. `None` if there is no cache;
    /// also if it cannot be read, with a message, because all features can be computed instead.
    #[must_use]
    pub fn open(pretrained: &PretrainedBackbone, options: ExtractOptions<'_>) -> Option<Self> {
        let cache = ReadOnlyCache::open(options.cache).unwrap_or_else(|error| {
            tracing::info!("the feature cache is not used: {}", error_chain(&error));
            None
        });
        Some(Self {
            cache: cache?,
            keys: CacheKeyBuilder::new(&[CACHE_FORMAT], pretrained, pretrained.options.layer, options),
            decode: options.decode,
            width: pretrained.width(),
            n_found: AtomicUsize::new(0),
        })
    }

    /// The features `[F]` of the evaluation view of the image in `bytes`, the contents of its file, if the cache has
    /// them.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<Vec<f32>> {
        let hash = ImageHash::new(bytes, self.decode);
        let features = self.cache.get(&self.keys.key(&hash, EVAL_VIEW), self.width);
        self.n_found.fetch_add(usize::from(features.is_some()), Ordering::Relaxed);
        features
    }

    /// How often [`find`](Self::find) has found features.
    #[must_use]
    pub fn n_found(&self) -> usize {
        self.n_found.load(Ordering::Relaxed)
    }
}
