//! Features of photos: computed once, kept, read as often as wanted.

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

use crate::config::{BackboneOptions, OnError, Options};
use crate::error::{TrainError, UnreadableImages};
use crate::progress::Progress;
use cache::{CacheKey, FeatureCache};
pub(crate) use compute::{ExtractJob, Renderer, ViewId};
pub(crate) use pipeline::{BATCH_SIZE, BatchInference, ImageJob, JobResult, run_pipeline};

/// What a change in how features are computed changes, so that older ones are not taken for them.
const CACHE_FORMAT: &str = "headstock features 2";

/// One rendering of a photo: 0 is the plain one, others are augmented.
pub type ViewIndex = u32;

/// The weights, opened but not on a device yet.
pub struct PretrainedBackbone {
    checkpoint: Checkpoint,
    options: BackboneOptions,
}

impl PretrainedBackbone {
    /// Finds, fetches and checks the weights.
    ///
    /// # Errors
    /// [`TrainError::Backbone`].
    pub fn open(options: &BackboneOptions, progress: &dyn Progress) -> Result<Self, TrainError> {
        Self::open_with_preprocessing(options, None, progress)
    }

    /// As [`open`](Self::open); a record of `preprocessing` takes the place of that beside the weights.
    ///
    /// # Errors
    /// As there.
    pub fn open_with_preprocessing(
        options: &BackboneOptions,
        preprocessing: Option<&Preprocessing>,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let files = WeightsSource::parse(&options.weights, Path::new(""))?.fetch(progress)?;
        let checkpoint = match preprocessing {
            Some(known) => Checkpoint::open_with(&files, known)?,
            None => Checkpoint::open(&files)?,
        };
        Ok(Self { checkpoint, options: options.clone() })
    }

    /// The same weights, with other values of the stages that were tuned.
    ///
    /// # Errors
    /// [`TrainError::Backbone`] for tensors that are not of this network.
    pub(crate) fn with_tensors(self, tensors: &Tensors) -> Result<Self, TrainError> {
        Ok(Self { checkpoint: self.checkpoint.with_tensors(tensors)?, ..self })
    }

    /// The weights.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> &BackboneOptions {
        &self.options
    }

    /// The number of features at the layer, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.options.layer.channels(self.checkpoint.architecture())
    }

    /// The weights on their device.
    ///
    /// # Errors
    /// [`TrainError::Backbone`].
    pub fn load(&self) -> Result<Backbone, TrainError> {
        Ok(Backbone::new(&self.checkpoint, self.options.device, self.options.precision)?)
    }

    /// How a photo is rendered for these weights.
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

/// The features of photos, in the cache.
pub struct ExtractedFeatures {
    cache: FeatureCache,
    keys: CacheKeyBuilder,
    /// The hash of each photo's bytes; none for one that cannot be read.
    hashes: ImageHashes,
    width: usize,
    /// How many vectors were computed now, rather than found.
    computed: usize,
}

impl ExtractedFeatures {
    /// Sees to it that the features of `photos` are in the cache: the plain view of each, and `views[i]` augmented ones.
    /// Photos that cannot be read stop the work or are skipped, as the settings say. Most of them (no photo, cut short, too
    /// large) are found before the network runs; one that is damaged within, when it is decoded. What was computed until then
    /// is kept.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] with all photos that cannot be read; [`TrainError::Backbone`], [`TrainError::Cache`].
    pub fn prepare(
        stock: &PretrainedBackbone,
        options: &Options,
        photos: &[ImageRef],
        views: &[ViewIndex],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        Self::prepare_with(None, stock, options, photos, views, progress)
    }

    /// As [`prepare`](Self::prepare), on a backbone that is loaded already.
    pub(crate) fn prepare_with(
        backbone: Option<&Backbone>,
        stock: &PretrainedBackbone,
        options: &Options,
        photos: &[ImageRef],
        views: &[ViewIndex],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let layer = stock.options().layer;
        let keys = CacheKeyBuilder::new(&[CACHE_FORMAT], stock, layer, options);
        let (width, max_pixels, on_error) = (stock.width(), options.data.max_pixels, options.data.on_error);
        let cache = FeatureCache::open(&options.features.cache)?;

        let (mut hashes, mut unreadable) =
            hash_and_probe(&cache, &keys, photos, width, max_pixels, progress)?;
        let snapshot = cache.snapshot()?;
        let views = views.iter().map(|&augmented| 0..augmented.saturating_add(1));
        let missing = find_missing_views(&keys, &hashes, views, |key| snapshot.contains(key, width))?;
        let mut computed = 0;
        if !missing.views.is_empty() {
            // Before photos are decoded: what is wrong with the device is told at once.
            let loaded = if backbone.is_none() { Some(stock.load()?) } else { None };
            let backbone = backbone.or(loaded.as_ref()).expect("one of them is there");
            let mut rest = missing.images;
            if on_error == OnError::Skip || unreadable.is_empty() {
                let transform = stock.transform();
                let network = BatchInference::for_features(backbone, layer, transform.crop);
                let renderer = Renderer::new(transform, options.augment.clone(), &options.data);
                let what = "features";
                let work = ExtractJob {
                    output_name: what,
                    images: photos,
                    hashes: &hashes,
                    views: &missing.views,
                    on_error,
                };
                let store = &mut |vectors: &[(&MissingView, &[f32])]| {
                    cache.store(vectors.iter().map(|(wanted, values)| (&wanted.key, *values)))
                };
                let done = work.run(&network, &renderer, store, progress)?;
                computed = done.n_views;
                let failed: HashSet<usize> = done.unreadable.iter().map(|(photo, _)| *photo).collect();
                let same: HashSet<_> = failed.iter().map(|&photo| hashes[photo]).collect();
                unreadable.extend(done.unreadable);
                // Of photos with the same bytes one was decoded; where the work stopped, others were not.
                rest.retain(|photo| {
                    let unseen = on_error == OnError::Stop && !done.images.contains(photo);
                    !failed.contains(photo) && (same.contains(&hashes[*photo]) || unseen)
                });
            }
            if !unreadable.is_empty() {
                unreadable.extend(compute::find_undecodable(photos, &rest, max_pixels, progress));
            }
        }
        unreadable.sort_unstable_by_key(|(photo, _)| *photo);
        for (photo, _) in &unreadable {
            hashes[*photo] = None;
        }
        report_unreadable(on_error, photos, unreadable)?;
        Ok(Self { cache, keys, hashes, width, computed })
    }

    /// The number of features, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many vectors were computed now; the others were there.
    #[must_use]
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// The hash of each photo's bytes; none for one that could not be read.
    pub(crate) fn hashes(&self) -> &[Option<[u8; 32]>] {
        &self.hashes
    }

    /// Whether photo `i` could be read.
    #[must_use]
    pub fn is_readable(&self, photo: usize) -> bool {
        self.hashes[photo].is_some()
    }

    /// Appends the features of some photos in one view to `out`, `[len, F]`, row-major.
    ///
    /// # Errors
    /// [`TrainError::Cache`].
    ///
    /// # Panics
    /// When a photo could not be read.
    pub fn append(&self, photos: &[usize], view: ViewIndex, out: &mut Vec<f32>) -> Result<(), TrainError> {
        let snapshot = self.cache.snapshot()?;
        out.reserve(photos.len() * self.width);
        for &photo in photos {
            let hash = self.hashes[photo].expect("only photos that could be read are asked for");
            if !snapshot.append(&self.keys.key(&hash, view), self.width, out)? {
                return Err(TrainError::Data(
                    "features have left the cache while they were in use: run the command again".into(),
                ));
            }
        }
        Ok(())
    }
}

/// What becomes of photos that cannot be read: an error with all of them, or a line each.
fn report_unreadable(
    on_error: OnError,
    photos: &[ImageRef],
    unreadable: Vec<(usize, DecodeError)>,
) -> Result<(), TrainError> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let unreadable: Vec<_> =
        unreadable.into_iter().map(|(photo, error)| (photos[photo].clone(), error)).collect();
    if on_error == OnError::Stop {
        return Err(TrainError::Unreadable(UnreadableImages(unreadable)));
    }
    match unreadable.len() {
        1 => tracing::warn!("1 photo cannot be read and is left out"),
        several => tracing::warn!("{several} photos cannot be read and are left out"),
    }
    for (photo, error) in &unreadable {
        tracing::warn!("left out: {photo}: {error}");
    }
    Ok(())
}

/// Makes keys: everything but the photo and the view is hashed once.
pub(crate) struct CacheKeyBuilder {
    common: Sha256,
    augment: String,
}

impl CacheKeyBuilder {
    /// `what` is kept, in which format: what it says must be in no other keeper's.
    pub(crate) fn new(
        what: &[&str],
        stock: &PretrainedBackbone,
        layer: FeatureLayer,
        options: &Options,
    ) -> Self {
        let precision = stock.options().precision;
        let preprocessing = serde_json::to_string(stock.checkpoint().preprocessing())
            .expect("a preprocessing record is JSON");
        let mut weights = Sha256::new();
        let rest = [stock.checkpoint().fingerprint(), &preprocessing, layer.as_str(), precision.as_str()];
        let reduced = (!options.data.decode.is_exact()).then_some("decode scaled");
        for part in what.iter().copied().chain(rest).chain(reduced) {
            weights.update(part);
            weights.update([0]);
        }
        let augment = serde_json::to_string(&options.augment).expect("[augment] is JSON");
        Self { common: weights, augment }
    }

    /// The hash of what all keys have in common: all but the photo, the view and the augmentation.
    pub(crate) fn common_hash(&self) -> CacheKey {
        self.common.clone().finalize().into()
    }

    pub(crate) fn key(&self, photo: &[u8; 32], view: ViewIndex) -> CacheKey {
        let mut hash = self.common.clone();
        hash.update(photo);
        if view > 0 {
            hash.update(view.to_le_bytes());
            hash.update(&self.augment);
        }
        hash.finalize().into()
    }
}

/// The hash of each photo's bytes, none where it cannot be read.
type ImageHashes = Vec<Option<[u8; 32]>>;

/// Reads every photo's bytes and hashes them, on all cores. Those of which nothing is kept are looked at as far as that is
/// quick. Photos that cannot be read come back with the reason.
fn hash_and_probe(
    cache: &FeatureCache,
    keys: &CacheKeyBuilder,
    photos: &[ImageRef],
    width: usize,
    max_pixels: u64,
    progress: &dyn Progress,
) -> Result<(ImageHashes, Vec<(usize, DecodeError)>), TrainError> {
    let snapshot = cache.snapshot()?;
    let look = |photo: &ImageRef| -> Result<Result<[u8; 32], DecodeError>, TrainError> {
        let bytes = match photo.read() {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let hash = Sha256::digest(&bytes).into();
        let kept = snapshot.contains(&keys.key(&hash, 0), width)?;
        Ok(if kept { Ok(hash) } else { probe(&bytes, max_pixels).map(|()| hash) })
    };
    progress.begin_run("reading photos", photos.len() as u64, "photos");
    let looked: Result<Vec<_>, TrainError> =
        photos.par_iter().map(|photo| look(photo).inspect(|_| progress.step(1))).collect();
    progress.train_to_end();
    let mut unreadable = Vec::new();
    let hashes = looked?
        .into_iter()
        .enumerate()
        .map(|(photo, hash)| hash.map_err(|error| unreadable.push((photo, error))).ok())
        .collect();
    Ok((hashes, unreadable))
}

/// A rendering that has to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingView {
    pub(crate) image: usize,
    pub(crate) view: ViewIndex,
    pub(crate) key: CacheKey,
}

/// What is lacking.
pub(crate) struct MissingViews {
    /// The renderings, each once even where photos are the same, photo by photo.
    pub(crate) views: Vec<MissingView>,
    /// Every photo that lacks one: whether it can be decoded is not known yet.
    pub(crate) images: Vec<usize>,
}

/// Which of each photo's `views` are not there.
pub(crate) fn find_missing_views(
    keys: &CacheKeyBuilder,
    photos: &[Option<[u8; 32]>],
    views: impl Iterator<Item = Range<ViewIndex>>,
    there: impl Fn(&CacheKey) -> Result<bool, TrainError>,
) -> Result<MissingViews, TrainError> {
    let mut seen = HashSet::new();
    let mut missing = MissingViews { views: Vec::new(), images: Vec::new() };
    for (photo, (hash, views)) in photos.iter().zip(views).enumerate() {
        let Some(hash) = hash else { continue };
        let mut lacks = false;
        for view in views {
            let key = keys.key(hash, view);
            if !there(&key)? {
                lacks = true;
                if seen.insert(key) {
                    missing.views.push(MissingView { image: photo, view, key });
                }
            }
        }
        if lacks {
            missing.images.push(photo);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests;
