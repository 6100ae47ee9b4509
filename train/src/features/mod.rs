//! Features of images: extracted by the frozen backbone once and cached under a hash of everything they
//! depend on.

pub(crate) mod cache;
mod compute;
mod known;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use headstock_backbone::{Backbone, FeatureLayer};
use headstock_inference::pipeline::BatchInference;
use headstock_inference::{DecodeOptions, PretrainedBackbone, Progress};
use headstock_loader::{Augment, DecodeError, ImageRef, LazyImage, PixelChanges, probe};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::config::{OnError, Settings};
use crate::error::{TrainError, UnreadableImages};
use cache::{CacheKey, FeatureCache};
pub(crate) use compute::{ExtractJob, LoadedImages, Renderer, ViewId};
pub use known::KnownFeatures;

/// Cache format version; bump when feature values change.
const CACHE_FORMAT: &str = "headstock features 3";

/// Bytes of images that stay in memory between hashing and decoding.
const READ_BUDGET: u64 = 256 << 20;

/// Index of a view of an image: 0 is the evaluation view, higher indices are augmented views.
pub type ViewIndex = u32;

/// The evaluation view, which is not augmented.
const EVAL_VIEW: ViewIndex = 0;

/// What the features of images depend on besides the backbone, and where they are cached.
#[derive(Clone, Copy)]
pub struct ExtractOptions<'a> {
    /// How images are decoded.
    pub decode: DecodeOptions,
    /// What happens if an image cannot be read.
    pub on_error: OnError,
    /// The augmentation of views other than the evaluation view.
    pub augment: &'a Augment,
    /// Folder of the cache.
    pub cache: &'a Path,
    /// Images that are read to hash them stay in memory until they are decoded, up to so many bytes in all.
    /// Those beyond it are read, and hashed, a second time.
    pub read_budget: u64,
}

impl Settings {
    /// The options for extracting features.
    #[must_use]
    pub fn extract_options(&self) -> ExtractOptions<'_> {
        ExtractOptions {
            decode: self.decode,
            on_error: self.on_error,
            augment: &self.augment,
            cache: &self.features.cache,
            read_budget: READ_BUDGET,
        }
    }
}

/// The cached features of a list of images.
pub struct ExtractedFeatures {
    cache: FeatureCache,
    keys: CacheKeyBuilder,
    /// The hash of each image; `None` for an image that cannot be read.
    pub(crate) hashes: ImageHashes,
    width: usize,
    /// Number of vectors computed by this call; the others were in the cache.
    computed: usize,
}

impl ExtractedFeatures {
    /// Makes sure that the cache has the features of the evaluation view of every image and of
    /// `n_augmented[i]` augmented views of image `i`, computes those that it lacks, and returns access to
    /// them. Images that cannot be read stop the work or are skipped, as [`ExtractOptions::on_error`] says.
    /// Most of them (not an image, truncated, too many pixels) are found before the network runs; corrupt
    /// pixel data is found on decoding. Features computed before an error stay in the cache.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] with all images that cannot be read; [`TrainError::Inference`],
    /// [`TrainError::Cache`].
    pub fn prepare(
        pretrained: &PretrainedBackbone,
        options: ExtractOptions<'_>,
        images: &[ImageRef],
        n_augmented: &[u32],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        Self::prepare_with(None, pretrained, options, images, n_augmented, progress)
    }

    /// Makes sure that the cache has the features of all images, computes those that it lacks, and returns
    /// access to them; [`prepare`](Self::prepare) describes the views and the errors. The backbone that
    /// computes them is `backbone`, if it is already loaded; otherwise the weights of `pretrained` are
    /// loaded, but only if any features are missing.
    pub(crate) fn prepare_with(
        backbone: Option<&Backbone>,
        pretrained: &PretrainedBackbone,
        options: ExtractOptions<'_>,
        images: &[ImageRef],
        n_augmented: &[u32],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let layer = pretrained.options.layer;
        let keys = CacheKeyBuilder::new(&[CACHE_FORMAT], pretrained, layer, options);
        let ExtractOptions { decode, on_error, augment, cache, .. } = options;
        let width = pretrained.width();
        let cache = FeatureCache::open(cache)?;

        // `unreadable` holds the index of each image that cannot be read, with the reason.
        let HashedImages { mut hashes, mut unreadable, loaded: loaded_images } =
            hash_and_probe(&cache, &keys, images, width, options, progress)?;
        let snapshot = cache.snapshot()?;
        // View 0 is the evaluation view.
        let views = n_augmented.iter().map(|n| 0..n.saturating_add(1));
        let missing = find_missing_views(&keys, &hashes, views, |key| snapshot.contains(key, width))?;
        let mut computed = 0;
        if !missing.views.is_empty() {
            // Load before decoding any image, so that a device error is reported at once.
            let loaded = if backbone.is_none() { Some(pretrained.load()?) } else { None };
            let backbone = backbone.or(loaded.as_ref()).expect("the backbone is given or loaded");
            // The images that may be undecodable and have not been tried.
            let mut undecoded = missing.images;
            if on_error == OnError::Skip || unreadable.is_empty() {
                let transform = pretrained.transform();
                let inference = BatchInference::for_features(layer, transform.crop);
                let renderer = Renderer::new(transform, augment.clone(), decode);
                let (hashes, views) = (&hashes, &missing.views);
                let loaded = &loaded_images;
                let job = ExtractJob { output_name: "features", images, hashes, views, on_error, loaded };
                let store = &mut |vectors: &[(&MissingView, &[f32])]| {
                    cache.store(vectors.iter().map(|(view, values)| (&view.key, *values)))
                };
                let outcome = job.run(&inference, &mut backbone.workers()?, &renderer, store, progress)?;
                computed = outcome.n_views;
                let failed: HashSet<usize> = outcome.unreadable.iter().map(|(image, _)| *image).collect();
                let failed_hashes: HashSet<_> = failed.iter().map(|&image| hashes[image]).collect();
                unreadable.extend(outcome.unreadable);
                // Images that may be unreadable, too: copies of one that is, because only one of several
                // images with the same bytes was decoded; and the images that were left when the work
                // stopped.
                undecoded.retain(|image| {
                    let was_left = on_error == OnError::Stop && !outcome.images.contains(image);
                    !failed.contains(image) && (failed_hashes.contains(&hashes[*image]) || was_left)
                });
            }
            if !unreadable.is_empty() {
                unreadable.extend(compute::find_undecodable(images, &undecoded, decode, progress));
            }
        }
        unreadable.sort_unstable_by_key(|(image, _)| *image);
        for (image, _) in &unreadable {
            hashes[*image] = None;
        }
        report_unreadable(on_error, images, unreadable)?;
        Ok(Self { cache, keys, hashes, width, computed })
    }

    /// Number of features, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of vectors computed by this call; the others were in the cache.
    #[must_use]
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Whether image `image` could be read.
    #[must_use]
    pub fn is_readable(&self, image: usize) -> bool {
        self.hashes[image].is_some()
    }

    /// Appends the cached features of the `images`, given by index, in one view to `out`:
    /// `[images.len(), F]`, row-major, as heads take them.
    ///
    /// # Errors
    /// [`TrainError::Cache`]; [`TrainError::Data`] if the vectors have been removed from the cache meanwhile.
    ///
    /// # Panics
    /// If an image could not be read.
    pub fn append(&self, images: &[usize], view: ViewIndex, out: &mut Vec<f32>) -> Result<(), TrainError> {
        let snapshot = self.cache.snapshot()?;
        out.reserve(images.len() * self.width);
        for &image in images {
            let hash = self.hashes[image].expect("the image is readable");
            if !snapshot.append(&self.keys.key(&hash, view), self.width, out)? {
                return Err(TrainError::Data(
                    "features were removed from the cache while the command was running: run the command again".into(),
                ));
            }
        }
        Ok(())
    }

    /// The cached features of the `images`, given by index: of all of them in the evaluation view, then in
    /// each of `n_augmented` augmented views: `[views * images.len(), F]`, row-major.
    ///
    /// # Errors
    /// Those of [`append`](Self::append).
    pub(crate) fn read_views(&self, images: &[usize], n_augmented: u32) -> Result<Vec<f32>, TrainError> {
        let mut values = Vec::with_capacity(images.len() * (n_augmented as usize + 1) * self.width);
        for view in 0..=n_augmented {
            self.append(images, view, &mut values)?;
        }
        Ok(values)
    }
}

/// Reports the `unreadable` images, given by index and reason, as `on_error` says: returns an error that
/// lists all of them, or logs a warning for each.
fn report_unreadable(
    on_error: OnError,
    images: &[ImageRef],
    unreadable: Vec<(usize, DecodeError)>,
) -> Result<(), TrainError> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let unreadable: Vec<_> =
        unreadable.into_iter().map(|(image, error)| (images[image].clone(), error)).collect();
    if on_error == OnError::Stop {
        return Err(TrainError::Unreadable(UnreadableImages(unreadable)));
    }
    match unreadable.len() {
        1 => tracing::warn!("1 photo cannot be read and is skipped"),
        n => tracing::warn!("{n} photos cannot be read and are skipped"),
    }
    for (image, error) in &unreadable {
        tracing::warn!("skipped the photo {image}: {error}");
    }
    Ok(())
}

/// Logs how many images end too early and are used all the same.
fn report_truncated(hashes: &[Option<ImageHash>]) {
    let is_truncated = |hash: &&ImageHash| hash.pixel_changes.truncated;
    match hashes.iter().flatten().filter(is_truncated).count() {
        0 => {}
        1 => tracing::info!("1 photo ends too early: what is there of it is used"),
        n => tracing::info!("{n} photos end too early: what is there of them is used"),
    }
}

/// Computes the keys of cached features and activations. A key is the SHA-256 of everything that the values
/// depend on, so that values computed with other settings, weights or image bytes are never used.
pub(crate) struct CacheKeyBuilder {
    /// Has hashed what all keys share: everything but the image, the view and the augmentation.
    shared_hasher: Sha256,
    /// `[augment]` as JSON, which is part of the keys of augmented views.
    augment_json: String,
}

impl CacheKeyBuilder {
    /// Makes the builder of the keys under which one cache stores features or activations: hashes once what
    /// all keys share, each part followed by a zero byte. These are the `format_parts` (what is cached and in
    /// which format; they must differ between caches), the fingerprint of the weights, the preprocessing,
    /// `layer`, the precision, and the decode mode unless it is exact.
    pub(crate) fn new(
        format_parts: &[&str],
        pretrained: &PretrainedBackbone,
        layer: FeatureLayer,
        options: ExtractOptions<'_>,
    ) -> Self {
        let precision = pretrained.options.precision;
        let preprocessing_json = serde_json::to_string(pretrained.checkpoint().preprocessing())
            .expect("preprocessing serializes to JSON");
        let weights_fingerprint = pretrained.checkpoint().fingerprint();
        let backbone_parts = [weights_fingerprint, &preprocessing_json, layer.as_str(), precision.as_str()];
        let decode_part = (!options.decode.decode.is_exact()).then_some("decode scaled");
        let mut shared_hasher = Sha256::new();
        for part in format_parts.iter().copied().chain(backbone_parts).chain(decode_part) {
            shared_hasher.update(part);
            shared_hasher.update([0]);
        }
        let augment_json = serde_json::to_string(options.augment).expect("[augment] serializes to JSON");
        Self { shared_hasher, augment_json }
    }

    /// Hash of what all keys share, which names a file of the activation cache.
    pub(crate) fn shared_hash(&self) -> CacheKey {
        self.shared_hasher.clone().finalize().into()
    }

    /// The key under which a view's features or activations are cached, for the image with the hash
    /// `image_hash`. The augmentation is part of the key of augmented views only (`view` above 0), so
    /// that the evaluation view (0) stays cached when `[augment]` changes.
    pub(crate) fn key(&self, image_hash: &ImageHash, view: ViewIndex) -> CacheKey {
        let mut hasher = self.shared_hasher.clone();
        hasher.update(image_hash.bytes);
        hasher.update(image_hash.pixel_changes.key());
        if view > 0 {
            hasher.update(view.to_le_bytes());
            hasher.update(&self.augment_json);
        }
        hasher.finalize().into()
    }
}

/// Identifies the pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImageHash {
    /// SHA-256 of the bytes of its file.
    pub(crate) bytes: [u8; 32],
    /// What the options change in its pixels.
    pub(crate) pixel_changes: PixelChanges,
}

impl ImageHash {
    /// The hash of the image encoded in `bytes`, when it is decoded with these options.
    pub(crate) fn new(bytes: &[u8], options: DecodeOptions) -> Self {
        let pixel_changes = if options.may_change_pixels() {
            LazyImage::open(bytes, options).map(|image| image.pixel_changes()).unwrap_or_default()
        } else {
            PixelChanges::default()
        };
        Self { bytes: Sha256::digest(bytes).into(), pixel_changes }
    }
}

/// The hash of each image; `None` where it cannot be read.
type ImageHashes = Vec<Option<ImageHash>>;

/// What reading all images once has found.
struct HashedImages {
    hashes: ImageHashes,
    /// The index and the reason of each image that cannot be read.
    unreadable: Vec<(usize, DecodeError)>,
    /// The bytes of images to decode, as many as fit the budget.
    loaded: LoadedImages,
}

/// Reads and hashes every image on all cores, and probes the header of those whose evaluation view is not in
/// the cache (as `width` features), so that most unreadable images are found before the network runs. The
/// bytes of the latter stay in memory as long as they fit the budget.
fn hash_and_probe(
    cache: &FeatureCache,
    keys: &CacheKeyBuilder,
    images: &[ImageRef],
    width: usize,
    options: ExtractOptions<'_>,
    progress: &dyn Progress,
) -> Result<HashedImages, TrainError> {
    let snapshot = cache.snapshot()?;
    let n_loaded_bytes = AtomicU64::new(0);
    let fits = |bytes: &[u8]| {
        let size = bytes.len() as u64;
        let fits = n_loaded_bytes.fetch_add(size, Ordering::Relaxed) + size <= options.read_budget;
        if !fits {
            n_loaded_bytes.fetch_sub(size, Ordering::Relaxed);
        }
        fits
    };
    // The outer error is a failure of the cache; the inner one says why the image cannot be read.
    type Hashed = (ImageHash, Option<Vec<u8>>);
    let hash_one = |image: &ImageRef| -> Result<Result<Hashed, DecodeError>, TrainError> {
        let bytes = match image.read() {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error.into())),
        };
        let hash = ImageHash::new(&bytes, options.decode);
        // View 0 is the evaluation view.
        if snapshot.contains(&keys.key(&hash, 0), width)? {
            return Ok(Ok((hash, None)));
        }
        Ok(probe(&bytes, options.decode).map(|()| (hash, fits(&bytes).then_some(bytes))))
    };
    progress.begin("reading photos", images.len() as u64, "photos");
    let results: Result<Vec<_>, TrainError> =
        images.par_iter().map(|image| hash_one(image).inspect(|_| progress.step(1))).collect();
    progress.end();
    let (mut unreadable, mut loaded) = (Vec::new(), HashMap::new());
    let mut hashes = Vec::with_capacity(images.len());
    for (image, result) in results?.into_iter().enumerate() {
        hashes.push(match result {
            Ok((hash, bytes)) => {
                loaded.extend(bytes.map(|bytes| (image, bytes)));
                Some(hash)
            }
            Err(error) => {
                unreadable.push((image, error));
                None
            }
        });
    }
    report_truncated(&hashes);
    Ok(HashedImages { hashes, unreadable, loaded: LoadedImages::new(loaded) })
}

/// A view whose features or activations have to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingView {
    /// Index of the image.
    pub(crate) image: usize,
    pub(crate) view: ViewIndex,
    /// The key under which the result is cached.
    pub(crate) key: CacheKey,
}

/// The views that the cache lacks.
pub(crate) struct MissingViews {
    /// Missing views, image by image; each once, even if several images have the same bytes.
    pub(crate) views: Vec<MissingView>,
    /// All images with a missing view; whether they can be decoded is not known yet.
    pub(crate) images: Vec<usize>,
}

/// Finds the views that have to be computed: those of `views` (the range of wanted view indices of each
/// image) whose key is not cached, as `is_cached` tells. `hashes` are those of the images;
/// images without a hash are unreadable and skipped. Of images with the same bytes only the first gets its
/// views computed. Also returns all images that lack a view.
pub(crate) fn find_missing_views(
    keys: &CacheKeyBuilder,
    hashes: &[Option<ImageHash>],
    views: impl Iterator<Item = Range<ViewIndex>>,
    is_cached: impl Fn(&CacheKey) -> Result<bool, TrainError>,
) -> Result<MissingViews, TrainError> {
    let mut seen = HashSet::new();
    let mut missing = MissingViews { views: Vec::new(), images: Vec::new() };
    for (image, (hash, views)) in hashes.iter().zip(views).enumerate() {
        let Some(hash) = hash else { continue };
        let mut lacks_view = false;
        for view in views {
            let key = keys.key(hash, view);
            if !is_cached(&key)? {
                lacks_view = true;
                if seen.insert(key) {
                    missing.views.push(MissingView { image, view, key });
                }
            }
        }
        if lacks_view {
            missing.images.push(image);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests;
