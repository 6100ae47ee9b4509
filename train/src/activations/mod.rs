//! Activations at the split point between the frozen and the fine-tuned stages: the input of fine-tuning.
//!
//! The frozen stages give the same activations for a view of an image in every epoch. They run once per view,
//! and their output is cached in half precision in the folder `activations` of the feature cache, under the
//! hash of everything it depends on; later and concurrent runs find it there. If the disk budget is too
//! small, or a view is drawn per epoch, the frozen stages run for each batch while the previous one is
//! trained on. Those values are rounded in the same way, so results are bit-identical with and without the
//! cache.
//!
//! Memory: [`prepare`](ActivationCache::prepare) holds at most 128 MiB of records waiting for the disk and a
//! batch of activations per thread; [`for_each_batch`](ActivationCache::for_each_batch) holds three batches
//! in `f32`.

mod disk_budget;
mod half_precision;
mod prefetch;
mod record_store;

use std::sync::OnceLock;

use headstock_backbone::{Backbone, FeatureLayer, InferenceWorker, PixelBatch};
use headstock_inference::pipeline::{BATCH_SIZE, BatchInference};
use headstock_inference::{PretrainedBackbone, Progress};
use headstock_loader::ImageRef;

use crate::config::{CacheDtype, OnError};
use crate::error::{TrainError, UnreadableImages};
use crate::features::{
    CacheKeyBuilder, ExtractJob, ExtractOptions, ImageHash, LoadedImages, MissingView, Renderer, ViewId,
    find_missing_views,
};
use disk_budget::DiskBudget;
pub(crate) use prefetch::OnBatch;
use record_store::RecordStore;

/// Cache format version; bump when cached activations change.
const CACHE_FORMAT: &str = "headstock activations 3";

/// Subfolder of the feature cache.
const CACHE_FOLDER: &str = "activations";

/// Bytes of records queued for writing before the workers block; as many again can accumulate during a write.
const QUEUE_BYTES: u64 = 64 << 20;

/// The images whose activations are computed, and the backbone and options to do it with.
#[derive(Clone, Copy)]
pub(crate) struct ActivationSource<'a> {
    pub(crate) pretrained: &'a PretrainedBackbone,
    /// An already loaded backbone; without one the weights are loaded when they are needed.
    pub(crate) backbone: Option<&'a Backbone>,
    pub(crate) options: ExtractOptions<'a>,
    pub(crate) images: &'a [ImageRef],
    /// The hash of each image; `None` for an image that cannot be read, which must not be requested.
    pub(crate) hashes: &'a [Option<ImageHash>],
}

/// Where the frozen stages end, and how their output is cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitPoint {
    /// Last frozen layer.
    pub(crate) layer: FeatureLayer,
    pub(crate) dtype: CacheDtype,
    /// Maximum size in bytes of all cached activations; if it would be exceeded, none are added.
    pub(crate) cache_limit: Option<u64>,
}

/// A view of an image (one rendering of it, with or without augmentation) in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchItem {
    /// Index of the image.
    pub(crate) image: usize,
    pub(crate) view: ViewId,
}

/// The activations of images, read from the cache or computed on request.
pub(crate) struct ActivationCache<'a> {
    source: ActivationSource<'a>,
    renderer: Renderer,
    /// `None` if nothing is frozen: the activations are the normalized pixels.
    frozen: Option<FrozenStages>,
    /// The backbone, if the source gave none and it had to be loaded here.
    loaded_backbone: OnceLock<Backbone>,
    /// The number of views that `prepare` computed.
    computed: usize,
}

/// The frozen stages and their cached activations.
struct FrozenStages {
    /// The last frozen layer, whose output is cached.
    layer: FeatureLayer,
    dtype: CacheDtype,
    /// Makes the cache key of a view of an image.
    keys: CacheKeyBuilder,
    /// The cached activations on disk; a record holds one view.
    store: RecordStore,
}

impl<'a> ActivationCache<'a> {
    /// Prepares fine-tuning: runs the frozen stages of the backbone, which end at `split_point`, and caches
    /// their outputs (activations) that are not cached yet. It does so for the unaugmented view of image `i`
    /// and `n_augmented[i]` augmented ones, or for no view if that is `None`. If the activations do not fit,
    /// nothing is added. Without a split point nothing is frozen and nothing is cached.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] and [`TrainError::Inference`] for an image that cannot be read any more or has
    /// changed; [`TrainError::Usage`] for activations beyond the range of the cache's format;
    /// [`TrainError::Inference`], [`TrainError::Cache`].
    pub(crate) fn prepare(
        source: ActivationSource<'a>,
        split_point: Option<SplitPoint>,
        n_augmented: &[Option<u32>],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let ActivationSource { pretrained, options, .. } = source;
        let renderer = Renderer::new(pretrained.transform(), options.augment.clone(), options.decode);
        let frozen = split_point.map(|split_point| FrozenStages::open(source, split_point)).transpose()?;
        let mut cache = Self { source, renderer, frozen, loaded_backbone: OnceLock::new(), computed: 0 };
        if let (Some(split_point), Some(frozen)) = (split_point, &cache.frozen) {
            let missing = frozen.views_to_compute(source, split_point, n_augmented)?;
            if !missing.is_empty() {
                cache.computed = cache.compute_and_store(frozen, &missing, progress)?;
                if n_augmented.iter().all(Option::is_some) {
                    // All views are cached. The backbone is no longer needed; free its memory for training.
                    cache.loaded_backbone = OnceLock::new();
                }
            }
        }
        Ok(cache)
    }

    /// Height, width and channels of the activations of one view, which is the input of the first trained
    /// stage. If nothing is frozen, these are the normalized pixels, with three channels.
    pub(crate) fn shape(&self) -> [usize; 3] {
        activation_shape(self.source.pretrained, self.frozen.as_ref().map(|frozen| frozen.layer))
    }

    /// Number of views computed by [`prepare`](Self::prepare).
    #[cfg(test)]
    pub(crate) fn computed(&self) -> usize {
        self.computed
    }

    /// Height and width of a rendered view.
    fn image_size(&self) -> (usize, usize) {
        let (height, width) = self.source.pretrained.transform().crop;
        (height as usize, width as usize)
    }

    /// The backbone that runs the frozen stages: the one in `source`, or one that is loaded here on first
    /// use. Loading is delayed because no backbone is needed if all activations are cached.
    fn backbone(&self) -> Result<&Backbone, TrainError> {
        if let Some(backbone) = self.source.backbone.or(self.loaded_backbone.get()) {
            return Ok(backbone);
        }
        let backbone = self.source.pretrained.load()?;
        Ok(self.loaded_backbone.get_or_init(|| backbone))
    }

    /// Computes the activations (outputs of the frozen stages) of the `missing` views, which are not cached
    /// yet, and stores each batch in the cache as soon as it is computed. Returns the number of computed
    /// views. An image that cannot be read is an error.
    fn compute_and_store(
        &self,
        frozen: &FrozenStages,
        missing: &[MissingView],
        progress: &dyn Progress,
    ) -> Result<usize, TrainError> {
        let FrozenStages { layer, dtype, store, .. } = frozen;
        let infer = |worker: &mut InferenceWorker, pixels: PixelBatch<'_>| {
            dtype.to_half(&worker.activations_nhwc(pixels, *layer)?, *layer)
        };
        let inference = BatchInference {
            infer: Box::new(infer),
            image_size: self.source.pretrained.transform().crop,
            queue_capacity: (QUEUE_BYTES / (BATCH_SIZE as u64 * store.record_bytes())).max(1) as usize,
        };
        let ActivationSource { images, hashes, .. } = self.source;
        let job = ExtractJob {
            output_name: "activations",
            images,
            hashes,
            views: missing,
            on_error: OnError::Stop,
            loaded: &LoadedImages::default(),
        };
        let store_batch = &mut |records: &[(&MissingView, &[u16])]| {
            store.insert(records.iter().map(|(view, values)| (&view.key, *values)))
        };
        let outcome =
            job.run(&inference, &mut self.backbone()?.workers()?, &self.renderer, store_batch, progress)?;
        if outcome.unreadable.is_empty() {
            return Ok(outcome.n_views);
        }
        let unreadable = outcome.unreadable.into_iter().map(|(image, error)| (images[image].clone(), error));
        Err(TrainError::Unreadable(UnreadableImages(unreadable.collect())))
    }
}

/// The shape `[height, width, channels]` of the input of the first trained stage, for one image: of the
/// outputs of the last frozen `layer`, or of the pixels if no layer is frozen.
pub(crate) fn activation_shape(pretrained: &PretrainedBackbone, layer: Option<FeatureLayer>) -> [usize; 3] {
    let (height, width) = pretrained.transform().crop;
    let (height, width) = (height as usize, width as usize);
    let Some(layer) = layer else { return [height, width, 3] };
    let (rows, columns) = layer.output_size(height, width);
    [rows, columns, layer.channels(pretrained.checkpoint().architecture())]
}

impl FrozenStages {
    /// Opens or creates the cache of the frozen stages' outputs (activations); the frozen stages end at
    /// `split_point`. The file name contains a hash of everything that all activations depend on (backbone,
    /// layer, options), so that other settings have their own files.
    fn open(source: ActivationSource<'_>, split_point: SplitPoint) -> Result<Self, TrainError> {
        let ActivationSource { pretrained, options, .. } = source;
        let SplitPoint { layer, dtype, .. } = split_point;
        let keys = CacheKeyBuilder::new(&[CACHE_FORMAT, dtype.as_str()], pretrained, layer, options);
        // 16 hexadecimal digits are enough to tell the files apart: each record repeats its complete key.
        let hash_prefix = hex::encode(&keys.shared_hash()[..8]);
        let name = format!("{layer}-{}-{hash_prefix}", dtype.as_str());
        let record_len = activation_shape(pretrained, Some(layer)).iter().product();
        let store = RecordStore::open(&options.cache.join(CACHE_FOLDER), &name, record_len)?;
        Ok(Self { layer, dtype, keys, store })
    }

    /// The views of images whose activations are to be computed and cached now, because training needs them
    /// and they are not cached yet. Training needs the unaugmented view of image `i` and `n_augmented[i]`
    /// augmented ones, or none if that is `None`. Empty if the activations exceed the limit of the cache or
    /// the free disk space: they are then computed for each batch of training.
    fn views_to_compute(
        &self,
        source: ActivationSource<'_>,
        split_point: SplitPoint,
        n_augmented: &[Option<u32>],
    ) -> Result<Vec<MissingView>, TrainError> {
        let SplitPoint { layer, dtype, cache_limit: limit } = split_point;
        // View 0 is the unaugmented one.
        let views = n_augmented.iter().map(|n| 0..n.map_or(0, |n| n.saturating_add(1)));
        // All requested views, cached or not (`false`): the log message needs their number.
        let wanted = find_missing_views(&self.keys, source.hashes, views, |_| Ok(false))?.views;
        if wanted.is_empty() {
            return Ok(wanted);
        }
        let (index, n_views) = (self.store.index()?, wanted.len());
        let mut missing = Vec::new();
        for view in wanted {
            if index.slot(&view.key)?.is_none() {
                missing.push(view);
            }
        }
        let folder = &source.options.cache.join(CACHE_FOLDER);
        let record_bytes = self.store.record_bytes();
        let other_bytes = disk_budget::bytes_of_other_records(&self.store.records_path)?;
        let budget = DiskBudget {
            layer,
            dtype,
            folder,
            n_views,
            n_missing: missing.len(),
            record_bytes,
            used_bytes: other_bytes + index.n_records()? * record_bytes,
            free_bytes: disk_budget::free_space(folder)?,
            limit,
        };
        Ok(if budget.fits() { missing } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests;
