//! Features of images: extracted by the frozen backbone once and cached under a hash of everything they
//! depend on.

pub(crate) mod cache;
mod compute;
mod pipeline;

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use headstock_backbone::{Backbone, Checkpoint, FeatureLayer, Interpolation, Preprocessing, WeightsSource};
use headstock_heads::Tensors;
use headstock_loader::{DecodeError, EvalTransform, ImageRef, probe};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::config::{BackboneOptions, DataOptions, OnError, Options};
use crate::error::{TrainError, UnreadableImages};
use crate::progress::Progress;
use cache::{CacheKey, FeatureCache};
pub(crate) use compute::{ExtractJob, Renderer, ViewId};
pub(crate) use pipeline::{BATCH_SIZE, BatchInference, ImageJob, JobResult, run_pipeline};

/// Cache format version; bump when feature values change.
const CACHE_FORMAT: &str = "headstock features 2";

/// Index of a view of an image: 0 is the evaluation view, higher indices are augmented views.
pub type ViewIndex = u32;

/// A pretrained checkpoint and the `[backbone]` options, opened but not loaded onto a device yet.
pub struct PretrainedBackbone {
    checkpoint: Checkpoint,
    options: BackboneOptions,
}

impl PretrainedBackbone {
    /// Finds, downloads and checks the weights.
    ///
    /// # Errors
    /// [`TrainError::Backbone`].
    pub fn open(options: &BackboneOptions, progress: &dyn Progress) -> Result<Self, TrainError> {
        Self::open_with_preprocessing(options, None, progress)
    }

    /// Like [`open`](Self::open), with `preprocessing` in place of the preprocessing config next to the
    /// weights.
    ///
    /// # Errors
    /// [`TrainError::Backbone`].
    pub fn open_with_preprocessing(
        options: &BackboneOptions,
        preprocessing: Option<&Preprocessing>,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let files = WeightsSource::parse(&options.weights, Path::new(""))?.fetch(progress)?;
        let checkpoint = match preprocessing {
            Some(preprocessing) => Checkpoint::open_with(&files, preprocessing)?,
            None => Checkpoint::open(&files)?,
        };
        Ok(Self { checkpoint, options: options.clone() })
    }

    /// The same checkpoint with fine-tuned `tensors` in place of the original ones.
    ///
    /// # Errors
    /// [`TrainError::Backbone`] for tensors that do not belong to this architecture.
    pub(crate) fn with_tensors(self, tensors: &Tensors) -> Result<Self, TrainError> {
        Ok(Self { checkpoint: self.checkpoint.with_tensors(tensors)?, ..self })
    }

    /// The opened checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The `[backbone]` options that the checkpoint was opened with.
    #[must_use]
    pub fn options(&self) -> &BackboneOptions {
        &self.options
    }

    /// Number of features at the configured layer, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.options.layer.channels(self.checkpoint.architecture())
    }

    /// Loads the backbone onto its device.
    ///
    /// # Errors
    /// [`TrainError::Backbone`].
    pub fn load(&self) -> Result<Backbone, TrainError> {
        Ok(Backbone::new(&self.checkpoint, self.options.device, self.options.precision)?)
    }

    /// The evaluation transform of these weights: resize, center crop and interpolation.
    #[must_use]
    pub fn transform(&self) -> EvalTransform {
        let Preprocessing { resize, crop: [height, width], interpolation, .. } =
            *self.checkpoint.preprocessing();
        let interpolation = match interpolation {
            Interpolation::Nearest => headstock_loader::Resampling::Nearest,
            Interpolation::Bilinear => headstock_loader::Resampling::Bilinear,
            Interpolation::Bicubic => headstock_loader::Resampling::Bicubic,
            Interpolation::Lanczos => headstock_loader::Resampling::Lanczos,
        };
        EvalTransform { resize, crop: (height, width), interpolation }
    }
}

/// The cached features of a list of images.
pub struct ExtractedFeatures {
    cache: FeatureCache,
    keys: CacheKeyBuilder,
    /// SHA-256 of each image's bytes; `None` for an image that cannot be read.
    hashes: ImageHashes,
    width: usize,
    /// Number of vectors computed by this call; the others were in the cache.
    computed: usize,
}

impl ExtractedFeatures {
    /// Computes the features that the cache lacks: the evaluation view of every image, and `n_augmented[i]`
    /// augmented views of image `i`. Images that cannot be read stop the work or are skipped, as
    /// `data.on_error` says. Most of them (not an image, truncated, too many pixels) are found before the
    /// network runs; corrupt pixel data is found on decoding. Features computed before an error stay in the
    /// cache.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] with all images that cannot be read; [`TrainError::Backbone`],
    /// [`TrainError::Cache`].
    pub fn prepare(
        pretrained: &PretrainedBackbone,
        options: &Options,
        images: &[ImageRef],
        n_augmented: &[u32],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        Self::prepare_with(None, pretrained, options, images, n_augmented, progress)
    }

    /// Like [`prepare`](Self::prepare), on `backbone` if it is given; otherwise the weights are loaded if
    /// anything is missing.
    pub(crate) fn prepare_with(
        backbone: Option<&Backbone>,
        pretrained: &PretrainedBackbone,
        options: &Options,
        images: &[ImageRef],
        n_augmented: &[u32],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let layer = pretrained.options().layer;
        let keys = CacheKeyBuilder::new(&[CACHE_FORMAT], pretrained, layer, options);
        let DataOptions { max_pixels, on_error, .. } = options.data;
        let width = pretrained.width();
        let cache = FeatureCache::open(&options.features.cache)?;

        let (mut hashes, mut unreadable) =
            hash_and_probe(&cache, &keys, images, width, max_pixels, progress)?;
        let snapshot = cache.snapshot()?;
        let views = n_augmented.iter().map(|n| 0..n.saturating_add(1));
        let missing = find_missing_views(&keys, &hashes, views, |key| snapshot.contains(key, width))?;
        let mut computed = 0;
        if !missing.views.is_empty() {
            // Load before decoding any image, so that a device error is reported at once.
            let loaded = if backbone.is_none() { Some(pretrained.load()?) } else { None };
            let backbone = backbone.or(loaded.as_ref()).expect("the backbone is given or loaded");
            let mut undecoded = missing.images;
            if on_error == OnError::Skip || unreadable.is_empty() {
                let transform = pretrained.transform();
                let inference = BatchInference::for_features(backbone, layer, transform.crop);
                let renderer = Renderer::new(transform, options.augment.clone(), &options.data);
                let (hashes, views) = (&hashes, &missing.views);
                let job = ExtractJob { output_name: "features", images, hashes, views, on_error };
                let store = &mut |vectors: &[(&MissingView, &[f32])]| {
                    cache.store(vectors.iter().map(|(view, values)| (&view.key, *values)))
                };
                let outcome = job.run(&inference, &renderer, store, progress)?;
                computed = outcome.n_views;
                let failed: HashSet<usize> = outcome.unreadable.iter().map(|(image, _)| *image).collect();
                let failed_hashes: HashSet<_> = failed.iter().map(|&image| hashes[image]).collect();
                unreadable.extend(outcome.unreadable);
                // Only one of several images with the same bytes was decoded; if the work stopped early,
                // others were not.
                undecoded.retain(|image| {
                    let skipped = on_error == OnError::Stop && !outcome.images.contains(image);
                    !failed.contains(image) && (failed_hashes.contains(&hashes[*image]) || skipped)
                });
            }
            if !unreadable.is_empty() {
                unreadable.extend(compute::find_undecodable(images, &undecoded, max_pixels, progress));
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

    /// SHA-256 of each image's bytes; `None` for an image that could not be read.
    pub(crate) fn hashes(&self) -> &[Option<[u8; 32]>] {
        &self.hashes
    }

    /// Whether image `image` could be read.
    #[must_use]
    pub fn is_readable(&self, image: usize) -> bool {
        self.hashes[image].is_some()
    }

    /// Appends the features of `images` in one view to `out`: `[images.len(), F]`, row-major.
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
                    "features were removed from the cache while in use: run the command again".into(),
                ));
            }
        }
        Ok(())
    }
}

/// Returns an error that lists all unreadable images, or logs a warning for each, as `on_error` says.
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
        tracing::warn!("skipped: {image}: {error}");
    }
    Ok(())
}

/// Computes cache keys. Everything but the image and the view is hashed once.
pub(crate) struct CacheKeyBuilder {
    common: Sha256,
    augment: String,
}

impl CacheKeyBuilder {
    /// `format_parts` identify what is cached and its format; they must differ between caches.
    pub(crate) fn new(
        format_parts: &[&str],
        pretrained: &PretrainedBackbone,
        layer: FeatureLayer,
        options: &Options,
    ) -> Self {
        let precision = pretrained.options().precision;
        let preprocessing = serde_json::to_string(pretrained.checkpoint().preprocessing())
            .expect("preprocessing serializes to JSON");
        let mut common = Sha256::new();
        let rest =
            [pretrained.checkpoint().fingerprint(), &preprocessing, layer.as_str(), precision.as_str()];
        let scaled = (!options.data.decode.is_exact()).then_some("decode scaled");
        for part in format_parts.iter().copied().chain(rest).chain(scaled) {
            common.update(part);
            common.update([0]);
        }
        let augment = serde_json::to_string(&options.augment).expect("[augment] serializes to JSON");
        Self { common, augment }
    }

    /// Hash of what all keys share: everything but the image, the view and the augmentation.
    pub(crate) fn common_hash(&self) -> CacheKey {
        self.common.clone().finalize().into()
    }

    /// Key of a view of the image with this hash.
    pub(crate) fn key(&self, image: &[u8; 32], view: ViewIndex) -> CacheKey {
        let mut hash = self.common.clone();
        hash.update(image);
        if view > 0 {
            hash.update(view.to_le_bytes());
            hash.update(&self.augment);
        }
        hash.finalize().into()
    }
}

/// SHA-256 of each image's bytes; `None` where it cannot be read.
type ImageHashes = Vec<Option<[u8; 32]>>;

/// Reads and hashes every image on all cores, and probes the header of those without a cached evaluation
/// view. Returns the hashes, and the index and reason of each image that cannot be read.
fn hash_and_probe(
    cache: &FeatureCache,
    keys: &CacheKeyBuilder,
    images: &[ImageRef],
    width: usize,
    max_pixels: u64,
    progress: &dyn Progress,
) -> Result<(ImageHashes, Vec<(usize, DecodeError)>), TrainError> {
    let snapshot = cache.snapshot()?;
    let hash_one = |image: &ImageRef| -> Result<Result<[u8; 32], DecodeError>, TrainError> {
        let bytes = match image.read() {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let hash = Sha256::digest(&bytes).into();
        let is_cached = snapshot.contains(&keys.key(&hash, 0), width)?;
        Ok(if is_cached { Ok(hash) } else { probe(&bytes, max_pixels).map(|()| hash) })
    };
    progress.begin("reading photos", images.len() as u64, "photos");
    let results: Result<Vec<_>, TrainError> =
        images.par_iter().map(|image| hash_one(image).inspect(|_| progress.step(1))).collect();
    progress.end();
    let mut unreadable = Vec::new();
    let hashes = results?
        .into_iter()
        .enumerate()
        .map(|(image, hash)| hash.map_err(|error| unreadable.push((image, error))).ok())
        .collect();
    Ok((hashes, unreadable))
}

/// A view whose features or activations have to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingView {
    pub(crate) image: usize,
    pub(crate) view: ViewIndex,
    pub(crate) key: CacheKey,
}

/// The views that the cache lacks.
pub(crate) struct MissingViews {
    /// Missing views, image by image; each once, even if several images have the same bytes.
    pub(crate) views: Vec<MissingView>,
    /// All images with a missing view; whether they can be decoded is not known yet.
    pub(crate) images: Vec<usize>,
}

/// Finds the `views` of each image (given by its hash) that are not cached.
pub(crate) fn find_missing_views(
    keys: &CacheKeyBuilder,
    hashes: &[Option<[u8; 32]>],
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
