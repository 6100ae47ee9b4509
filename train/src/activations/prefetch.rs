//! Batches of activations, read or computed while the previous batch is in use.

use std::ops::ControlFlow;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use headstock_backbone::PixelBatch;
use rayon::prelude::*;

use super::{ActivationCache, BatchItem, FrozenStages};
use crate::error::TrainError;
use crate::features::{ImageHash, ViewId};

/// Finished batches waiting for the consumer; one more is in progress.
const BATCHES_AHEAD: usize = 1;

/// Called with the index of a batch and its activations, `[batch size, height, width, channels]`. `Break`
/// ends the reading.
pub(crate) type OnBatch<'a> = dyn FnMut(usize, &[f32]) -> Result<ControlFlow<()>, TrainError> + 'a;

impl ActivationCache<'_> {
    /// Calls `on_batch` with the activations of each batch in order, while another thread reads or computes
    /// those of the next ones, so that training does not wait for them. The values of a view (a rendering of
    /// an image) do not depend on the batch that it is in.
    ///
    /// # Errors
    /// The errors of [`prepare`](Self::prepare), or the error of `on_batch`; either ends the work.
    pub(crate) fn for_each_batch(
        &self,
        batches: &[Vec<BatchItem>],
        on_batch: &mut OnBatch<'_>,
    ) -> Result<(), TrainError> {
        thread::scope(|scope| {
            // Filled batches go to the consumer, and their buffers come back as spare ones.
            let (filled_sender, filled) = sync_channel(BATCHES_AHEAD);
            let (spare_sender, spare) = channel();
            scope.spawn(move || {
                for batch in batches {
                    let mut values = spare.try_recv().unwrap_or_default();
                    let result = self.fill_batch(batch, &mut values).map(|()| values);
                    let failed = result.is_err();
                    // The receiver is gone: the work is over.
                    if filled_sender.send(result).is_err() || failed {
                        return;
                    }
                }
            });
            for (index, values) in filled.into_iter().enumerate() {
                let values = values?;
                if on_batch(index, &values)?.is_break() {
                    break;
                }
                // An error means that the receiver is gone, because all batches have been filled.
                spare_sender.send(values).ok();
            }
            Ok(())
        })
    }

    /// Fills `values` with the activations of a batch, the input of the trained stages: cached ones are read,
    /// the others are computed. They have the shape `[batch size, height, width, channels]`; `values` is
    /// resized to it.
    fn fill_batch(&self, batch: &[BatchItem], values: &mut Vec<f32>) -> Result<(), TrainError> {
        let item_len = self.shape().iter().product();
        values.resize(batch.len() * item_len, 0.0);
        let mut missing: Vec<(&BatchItem, &mut [f32])> =
            batch.iter().zip(values.chunks_exact_mut(item_len)).collect();
        if let Some(frozen) = &self.frozen {
            missing = self.read_cached(frozen, missing)?;
        }
        self.compute_batch(&mut missing)
    }

    /// Reads the activations of a batch that are in the cache. `items` are the views (renderings of images)
    /// of the batch, each with the slice that gets its activations. Returns the items that are not cached;
    /// their slices are not filled, and the caller has to compute their activations.
    fn read_cached<'v>(
        &self,
        frozen: &FrozenStages,
        items: Vec<(&'v BatchItem, &'v mut [f32])>,
    ) -> Result<Vec<(&'v BatchItem, &'v mut [f32])>, TrainError> {
        let (index, mut reader) = (frozen.store.index()?, frozen.store.reader()?);
        let (mut bits, mut missing) = (Vec::new(), Vec::new());
        for (item, values) in items {
            // The view of a single epoch is never cached, because it is used only once.
            if let ViewId::Numbered(view) = item.view
                && let key = frozen.keys.key(self.image_hash(item), view)
                && let Some(slot) = index.slot(&key)?
            {
                bits.resize(values.len(), 0);
                reader.read(slot, &key, &mut bits)?;
                frozen.dtype.to_f32(&mut bits, values);
            } else {
                missing.push((item, values));
            }
        }
        Ok(missing)
    }

    fn image_hash(&self, item: &BatchItem) -> &ImageHash {
        self.source.hashes[item.image].as_ref().expect("only readable images are requested")
    }

    /// Computes the activations of `items`, each a view (a rendering of an image) with the slice that gets
    /// its activations `[height, width, channels]`: renders the images on all cores and runs the frozen
    /// stages on them. Values are rounded to the half precision of the cache, so that training gives the same
    /// result as with cached ones. If nothing is frozen, the activations are the normalized pixels.
    fn compute_batch(&self, items: &mut [(&BatchItem, &mut [f32])]) -> Result<(), TrainError> {
        if items.is_empty() {
            return Ok(());
        }
        let render = |(item, _): &(&BatchItem, &mut [f32])| {
            let hash = &self.image_hash(item).bytes;
            self.renderer.render_view(&self.source.images[item.image], hash, item.view)
        };
        let rendered: Vec<Result<Vec<u8>, TrainError>> = items.par_iter().map(render).collect();
        // The first error in the order of the batch, so that the result does not depend on timing.
        let data = rendered.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        let (height, width) = self.image_size();
        let pixels = PixelBatch::new(&data, items.len(), height, width)?;
        let n_items = items.len();
        let buffers = items.iter_mut().map(|(_, buffer)| buffer);
        match &self.frozen {
            None => {
                let normalized = pixels.normalized(self.source.pretrained.checkpoint().preprocessing());
                for (buffer, values) in buffers.zip(normalized.chunks_exact(normalized.len() / n_items)) {
                    buffer.copy_from_slice(values);
                }
            }
            Some(FrozenStages { layer, dtype, .. }) => {
                let values = self.backbone()?.activations_nhwc(pixels, *layer)?;
                let mut bits = dtype.to_half(&values, *layer)?;
                let item_len = bits.len() / n_items;
                for (buffer, item_bits) in buffers.zip(bits.chunks_exact_mut(item_len)) {
                    dtype.to_f32(item_bits, buffer);
                }
            }
        }
        Ok(())
    }
}
