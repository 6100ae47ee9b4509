//! What tuning begins with: the activations at the cut between the frozen part of a backbone and the tuned one.
//!
//! The frozen part gives the same for a rendering of a photo in every epoch. It is run once for each, and what it gives is kept
//! in half precision, in the folder `activations` of the feature cache, under the hash of all that it depends on: a record is
//! found by the next run, and by other runs beside it. Where there is no room, or a rendering is new in each epoch, the frozen
//! part is run for a batch while the one before is trained on. Its values are rounded in the same way, and are the same to the
//! bit: a result does not depend on room.
//!
//! Memory: [`prepare`](Activations::prepare) has at most 128 MiB of records on their way to the disk, and a batch of
//! activations for each thread; [`batches`](Activations::batches) has three batches in `f32`. Nothing of a data set is held.

mod disk_budget;
mod half_precision;
mod prefetch;
mod record_store;

use std::sync::OnceLock;

use headstock_backbone::{Backbone, FeatureLayer, InferenceWorker, PixelBatch};
use headstock_loader::ImageRef;

use crate::config::{OnError, Options};
use crate::error::{TrainError, UnreadableImages};
use crate::features::{
    BATCH_SIZE, BatchInference, CacheKeyBuilder, ExtractJob, MissingView, PretrainedBackbone, Renderer,
    ViewId, ViewIndex, find_missing_views,
};
use crate::progress::Progress;
use disk_budget::DiskBudget;
pub(crate) use half_precision::HalfPrecision;
pub(crate) use prefetch::OnBatch;
use record_store::RecordStore;

/// What a change in how activations are computed or kept changes, so that older ones are not taken for them.
const CACHE_FORMAT: &str = "headstock activations 2";

/// The folder within the cache.
const CACHE_FOLDER: &str = "activations";

/// Bytes of records that wait to be written before the network does; while some are written, as many again can come.
const QUEUE_BYTES: u64 = 64 << 20;

/// The photos that are tuned on, and what renders and runs them.
#[derive(Clone, Copy)]
pub(crate) struct ActivationSource<'a> {
    pub(crate) pretrained: &'a PretrainedBackbone,
    /// One that is loaded already; without it the weights are loaded when they are needed.
    pub(crate) backbone: Option<&'a Backbone>,
    pub(crate) options: &'a Options,
    pub(crate) images: &'a [ImageRef],
    /// The hash of each photo's bytes; none for one that cannot be read, which must not be asked for.
    pub(crate) hashes: &'a [Option<[u8; 32]>],
}

/// Where the frozen part ends, and how what it gives is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitPoint {
    /// The last frozen layer.
    pub(crate) layer: FeatureLayer,
    pub(crate) dtype: HalfPrecision,
    /// Bytes that all kept activations may take; where they would take more, none are added.
    pub(crate) cache_limit: Option<u64>,
}

/// A rendering of a photo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchItem {
    /// Which one.
    pub(crate) image: usize,
    pub(crate) view: ViewId,
}

/// The activations of photos, read or computed when they are asked for.
pub(crate) struct ActivationCache<'a> {
    source: ActivationSource<'a>,
    renderer: Renderer,
    /// None where nothing is frozen: pixels are all there is.
    frozen: Option<FrozenStages>,
    /// The backbone, where one had to be loaded.
    loaded_backbone: OnceLock<Backbone>,
    computed: usize,
}

/// The frozen part's.
struct FrozenStages {
    layer: FeatureLayer,
    dtype: HalfPrecision,
    keys: CacheKeyBuilder,
    store: RecordStore,
}

impl<'a> ActivationCache<'a> {
    /// Sees to it that activations at `cut` are kept: of photo `i` the plain view and `views[i]` augmented ones, or none. What
    /// is there already is not computed again. How much room they take is told beforehand; where it is not there, nothing is
    /// kept. Without a cut nothing is frozen, and nothing is kept either.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] and [`TrainError::UnknownFormat`] name a photo that cannot be read any more or is another by now;
    /// [`TrainError::Usage`] for activations beyond the range of what they are kept in; [`TrainError::Backbone`],
    /// [`TrainError::Cache`], [`TrainError::Io`].
    pub(crate) fn prepare(
        photos: ActivationSource<'a>,
        cut: Option<SplitPoint>,
        views: &[Option<ViewIndex>],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let ActivationSource { pretrained: stock, options, .. } = photos;
        let renderer = Renderer::new(stock.transform(), options.augment.clone(), &options.data);
        let frozen = cut.map(|cut| FrozenStages::open(photos, cut)).transpose()?;
        let mut activations =
            Self { source: photos, renderer, frozen, loaded_backbone: OnceLock::new(), computed: 0 };
        if let (Some(cut), Some(frozen)) = (cut, &activations.frozen) {
            let missing = frozen.views_to_compute(photos, cut, views)?;
            if !missing.is_empty() {
                activations.computed = activations.compute_and_store(frozen, &missing, progress)?;
                if views.iter().all(Option::is_some) {
                    // Nothing is left to run: its memory is the training's.
                    activations.loaded_backbone = OnceLock::new();
                }
            }
        }
        Ok(activations)
    }

    /// Height, width and channels of a rendering's values.
    pub(crate) fn shape(&self) -> [usize; 3] {
        let (height, width) = self.image_size();
        match &self.frozen {
            None => [height, width, 3],
            Some(FrozenStages { layer, .. }) => {
                let (rows, columns) = layer.output_size(height, width);
                [rows, columns, layer.channels(self.source.pretrained.checkpoint().architecture())]
            }
        }
    }

    /// How many renderings [`prepare`](Self::prepare) computed; the others were there, or nothing is kept.
    #[cfg(test)]
    pub(crate) fn computed(&self) -> usize {
        self.computed
    }

    /// Height and width of a rendered photo.
    fn image_size(&self) -> (usize, usize) {
        let (height, width) = self.source.pretrained.transform().crop;
        (height as usize, width as usize)
    }

    fn backbone(&self) -> Result<&Backbone, TrainError> {
        if let Some(backbone) = self.source.backbone.or(self.loaded_backbone.get()) {
            return Ok(backbone);
        }
        let backbone = self.source.pretrained.load()?;
        Ok(self.loaded_backbone.get_or_init(|| backbone))
    }

    /// Computes renderings and keeps them as they come out; how many.
    fn compute_and_store(
        &self,
        frozen: &FrozenStages,
        missing: &[MissingView],
        progress: &dyn Progress,
    ) -> Result<usize, TrainError> {
        let FrozenStages { layer, dtype: kept, store, .. } = frozen;
        let infer = |worker: &mut InferenceWorker<'_>, pixels: PixelBatch<'_>| {
            kept.to_half(&worker.activations_nhwc(pixels, *layer)?, *layer)
        };
        let network = BatchInference {
            backbone: self.backbone()?,
            infer: Box::new(infer),
            image_size: self.source.pretrained.transform().crop,
            queue_capacity: (QUEUE_BYTES / (BATCH_SIZE as u64 * store.record_bytes())).max(1) as usize,
        };
        let ActivationSource { images: photos, hashes, .. } = self.source;
        let work = ExtractJob {
            output_name: "activations",
            images: photos,
            hashes,
            views: missing,
            on_error: OnError::Stop,
        };
        let keep = &mut |records: &[(&MissingView, &[u16])]| {
            store.insert(records.iter().map(|(wanted, values)| (&wanted.key, *values)))
        };
        let done = work.run(&network, &self.renderer, keep, progress)?;
        if done.unreadable.is_empty() {
            return Ok(done.n_views);
        }
        let unreadable = done.unreadable.into_iter().map(|(photo, error)| (photos[photo].clone(), error));
        Err(TrainError::Unreadable(UnreadableImages(unreadable.collect())))
    }
}

impl FrozenStages {
    fn open(photos: ActivationSource<'_>, cut: SplitPoint) -> Result<Self, TrainError> {
        let ActivationSource { pretrained: stock, options, .. } = photos;
        let SplitPoint { layer, dtype: kept, .. } = cut;
        let keys = CacheKeyBuilder::new(&[CACHE_FORMAT, kept.as_str()], stock, layer, options);
        let (height, width) = stock.transform().crop;
        let (rows, columns) = layer.output_size(height as usize, width as usize);
        let values = rows * columns * layer.channels(stock.checkpoint().architecture());
        let shared: String = keys.common_hash()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{layer}-{}-{shared}", kept.as_str());
        let store = RecordStore::open(&options.features.cache.join(CACHE_FOLDER), &name, values)?;
        Ok(Self { layer, dtype: kept, keys, store })
    }

    /// What has to be computed and kept; nothing where there is no room for it.
    fn views_to_compute(
        &self,
        photos: ActivationSource<'_>,
        cut: SplitPoint,
        views: &[Option<ViewIndex>],
    ) -> Result<Vec<MissingView>, TrainError> {
        let SplitPoint { layer, dtype: kept, cache_limit: limit } = cut;
        let ranges = views.iter().map(|augmented| 0..augmented.map_or(0, |count| count.saturating_add(1)));
        let all = find_missing_views(&self.keys, photos.hashes, ranges, |_| Ok(false))?.views;
        if all.is_empty() {
            return Ok(all);
        }
        let (listing, renderings) = (self.store.index()?, all.len());
        let mut lacking = Vec::new();
        for wanted in all {
            if listing.slot(&wanted.key)?.is_none() {
                lacking.push(wanted);
            }
        }
        let folder = &photos.options.features.cache.join(CACHE_FOLDER);
        let (missing, each) = (lacking.len(), self.store.record_bytes());
        let taken =
            disk_budget::bytes_of_other_records(self.store.records_path())? + listing.n_records()? * each;
        let free = disk_budget::free_space(folder)?;
        let room = DiskBudget {
            layer,
            dtype: kept,
            folder,
            n_views: renderings,
            n_missing: missing,
            record_bytes: each,
            used_bytes: taken,
            free_bytes: free,
            limit,
        };
        Ok(if room.fits() { lacking } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests;
