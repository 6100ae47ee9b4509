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

mod ahead;
mod kept;
mod room;
mod store;

use std::sync::OnceLock;

use headstock_backbone::{Backbone, Layer, Pixels, Worker};
use headstock_loader::ImageRef;

use crate::config::{OnError, Options};
use crate::error::{TrainError, Unreadable};
use crate::features::{BATCH, KeyMaker, Network, Renderer, Rendering, Stock, View, Wanted, Work, missing};
use crate::progress::Progress;
pub(crate) use ahead::Act;
pub(crate) use kept::Kept;
use room::Room;
use store::Store;

/// What a change in how activations are computed or kept changes, so that older ones are not taken for them.
const FORMAT: &str = "headstock activations 2";

/// The folder within the cache.
const FOLDER: &str = "activations";

/// Bytes of records that wait to be written before the network does; while some are written, as many again can come.
const WAITING_BYTES: u64 = 64 << 20;

/// The photos that are tuned on, and what renders and runs them.
#[derive(Clone, Copy)]
pub(crate) struct Photos<'a> {
    pub(crate) stock: &'a Stock,
    /// One that is loaded already; without it the weights are loaded when they are needed.
    pub(crate) backbone: Option<&'a Backbone>,
    pub(crate) options: &'a Options,
    pub(crate) photos: &'a [ImageRef],
    /// The hash of each photo's bytes; none for one that cannot be read, which must not be asked for.
    pub(crate) hashes: &'a [Option<[u8; 32]>],
}

/// Where the frozen part ends, and how what it gives is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The last frozen layer.
    pub(crate) layer: Layer,
    pub(crate) kept: Kept,
    /// Bytes that all kept activations may take; where they would take more, none are added.
    pub(crate) limit: Option<u64>,
}

/// A rendering of a photo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Which one.
    pub(crate) photo: usize,
    pub(crate) view: Rendering,
}

/// The activations of photos, read or computed when they are asked for.
pub(crate) struct Activations<'a> {
    photos: Photos<'a>,
    renderer: Renderer,
    /// None where nothing is frozen: pixels are all there is.
    frozen: Option<Frozen>,
    /// The backbone, where one had to be loaded.
    loaded: OnceLock<Backbone>,
    computed: usize,
}

/// The frozen part's.
struct Frozen {
    layer: Layer,
    kept: Kept,
    keys: KeyMaker,
    store: Store,
}

impl<'a> Activations<'a> {
    /// Sees to it that activations at `cut` are kept: of photo `i` the plain view and `views[i]` augmented ones, or none. What
    /// is there already is not computed again. How much room they take is told beforehand; where it is not there, nothing is
    /// kept. Without a cut nothing is frozen, and nothing is kept either.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] and [`TrainError::UnknownFormat`] name a photo that cannot be read any more or is another by now;
    /// [`TrainError::Usage`] for activations beyond the range of what they are kept in; [`TrainError::Backbone`],
    /// [`TrainError::Cache`], [`TrainError::Io`].
    pub(crate) fn prepare(
        photos: Photos<'a>,
        cut: Option<Cut>,
        views: &[Option<View>],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let Photos { stock, options, .. } = photos;
        let renderer = Renderer::new(stock.transform(), options.augment.clone(), &options.data);
        let frozen = cut.map(|cut| Frozen::open(photos, cut)).transpose()?;
        let mut activations = Self { photos, renderer, frozen, loaded: OnceLock::new(), computed: 0 };
        if let (Some(cut), Some(frozen)) = (cut, &activations.frozen) {
            let missing = frozen.missing(photos, cut, views)?;
            if !missing.is_empty() {
                activations.computed = activations.compute(frozen, &missing, progress)?;
                if views.iter().all(Option::is_some) {
                    // Nothing is left to run: its memory is the training's.
                    activations.loaded = OnceLock::new();
                }
            }
        }
        Ok(activations)
    }

    /// Height, width and channels of a rendering's values.
    pub(crate) fn shape(&self) -> [usize; 3] {
        let (height, width) = self.size();
        match &self.frozen {
            None => [height, width, 3],
            Some(Frozen { layer, .. }) => {
                let (rows, columns) = layer.size(height, width);
                [rows, columns, layer.channels(self.photos.stock.checkpoint().architecture())]
            }
        }
    }

    /// How many renderings [`prepare`](Self::prepare) computed; the others were there, or nothing is kept.
    #[cfg(test)]
    pub(crate) fn computed(&self) -> usize {
        self.computed
    }

    /// Height and width of a rendered photo.
    fn size(&self) -> (usize, usize) {
        let (height, width) = self.photos.stock.transform().crop;
        (height as usize, width as usize)
    }

    fn backbone(&self) -> Result<&Backbone, TrainError> {
        if let Some(backbone) = self.photos.backbone.or(self.loaded.get()) {
            return Ok(backbone);
        }
        let backbone = self.photos.stock.load()?;
        Ok(self.loaded.get_or_init(|| backbone))
    }

    /// Computes renderings and keeps them as they come out; how many.
    fn compute(
        &self,
        frozen: &Frozen,
        missing: &[Wanted],
        progress: &dyn Progress,
    ) -> Result<usize, TrainError> {
        let Frozen { layer, kept, store, .. } = frozen;
        let infer = |worker: &mut Worker<'_>, pixels: Pixels<'_>| {
            kept.narrow(&worker.activations(pixels, *layer)?, *layer)
        };
        let network = Network {
            backbone: self.backbone()?,
            infer: Box::new(infer),
            size: self.photos.stock.transform().crop,
            waiting: (WAITING_BYTES / (BATCH as u64 * store.record_bytes())).max(1) as usize,
        };
        let Photos { photos, hashes, .. } = self.photos;
        let work = Work { what: "activations", photos, hashes, wanted: missing, on_error: OnError::Stop };
        let keep = &mut |records: &[(&Wanted, &[u16])]| {
            store.keep(records.iter().map(|(wanted, values)| (&wanted.key, *values)))
        };
        let done = work.run(&network, &self.renderer, keep, progress)?;
        if done.unreadable.is_empty() {
            return Ok(done.renderings);
        }
        let unreadable = done.unreadable.into_iter().map(|(photo, error)| (photos[photo].clone(), error));
        Err(TrainError::Unreadable(Unreadable(unreadable.collect())))
    }
}

impl Frozen {
    fn open(photos: Photos<'_>, cut: Cut) -> Result<Self, TrainError> {
        let Photos { stock, options, .. } = photos;
        let Cut { layer, kept, .. } = cut;
        let keys = KeyMaker::new(&[FORMAT, kept.as_str()], stock, layer, options);
        let (height, width) = stock.transform().crop;
        let (rows, columns) = layer.size(height as usize, width as usize);
        let values = rows * columns * layer.channels(stock.checkpoint().architecture());
        let shared: String = keys.shared()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{layer}-{}-{shared}", kept.as_str());
        let store = Store::open(&options.features.cache.join(FOLDER), &name, values)?;
        Ok(Self { layer, kept, keys, store })
    }

    /// What has to be computed and kept; nothing where there is no room for it.
    fn missing(
        &self,
        photos: Photos<'_>,
        cut: Cut,
        views: &[Option<View>],
    ) -> Result<Vec<Wanted>, TrainError> {
        let Cut { layer, kept, limit } = cut;
        let ranges = views.iter().map(|augmented| 0..augmented.map_or(0, |count| count.saturating_add(1)));
        let all = missing(&self.keys, photos.hashes, ranges, |_| Ok(false))?.wanted;
        if all.is_empty() {
            return Ok(all);
        }
        let (listing, renderings) = (self.store.listing()?, all.len());
        let mut lacking = Vec::new();
        for wanted in all {
            if listing.slot(&wanted.key)?.is_none() {
                lacking.push(wanted);
            }
        }
        let folder = &photos.options.features.cache.join(FOLDER);
        let (missing, each) = (lacking.len(), self.store.record_bytes());
        let taken = room::taken_beside(self.store.path())? + listing.records()? * each;
        let free = room::free(folder)?;
        let room = Room { layer, kept, folder, renderings, missing, each, taken, free, limit };
        Ok(if room.suffices() { lacking } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests;
