//! Batches of activations, read or computed while the one before is in use.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;

use headstock_backbone::PixelBatch;
use rayon::prelude::*;

use super::{ActivationCache, BatchItem, FrozenStages};
use crate::error::TrainError;
use crate::features::ViewId;
use crate::features::cache::CacheKey;

/// Batches that lie ready; one more is in the making.
const BATCHES_AHEAD: usize = 1;

/// Is handed a batch: its number and its values, `[n, H, W, C]`. To break off ends the reading.
pub(crate) type OnBatch<'a> = dyn FnMut(usize, &[f32]) -> Result<ControlFlow<()>, TrainError> + 'a;

impl ActivationCache<'_> {
    /// Hands each batch to `act`, in order. The next ones are read or computed on another thread meanwhile. What a rendering's
    /// values are does not depend on its batch.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and what `act` gives; either ends the work.
    pub(crate) fn for_each_batch(
        &self,
        batches: &[Vec<BatchItem>],
        act: &mut OnBatch<'_>,
    ) -> Result<(), TrainError> {
        thread::scope(|scope| {
            let (fill, filled) = sync_channel(BATCHES_AHEAD);
            let (give_back, spare) = channel();
            scope.spawn(move || {
                for batch in batches {
                    let mut values = spare.try_recv().unwrap_or_default();
                    let read = self.fill_batch(batch, &mut values).map(|()| values);
                    let failed = read.is_err();
                    // No receiver: the work is over.
                    if fill.send(read).is_err() || failed {
                        return;
                    }
                }
            });
            consume_in_order(filled, &give_back, act)
        })
    }

    /// Makes `values` those of a batch.
    fn fill_batch(&self, batch: &[BatchItem], values: &mut Vec<f32>) -> Result<(), TrainError> {
        let each = self.shape().iter().product();
        values.resize(batch.len() * each, 0.0);
        let mut places: Vec<(&BatchItem, &mut [f32])> =
            batch.iter().zip(values.chunks_exact_mut(each)).collect();
        if let Some(frozen) = &self.frozen {
            places = self.read_cached(frozen, places)?;
        }
        self.compute_batch(&mut places)
    }

    /// Reads what is kept; gives what is not.
    fn read_cached<'v>(
        &self,
        frozen: &FrozenStages,
        places: Vec<(&'v BatchItem, &'v mut [f32])>,
    ) -> Result<Vec<(&'v BatchItem, &'v mut [f32])>, TrainError> {
        let (listing, mut reader) = (frozen.store.index()?, frozen.store.reader()?);
        let (mut bits, mut rest) = (Vec::new(), Vec::new());
        for (item, values) in places {
            let key = self.cache_key(frozen, item);
            let slot = key.map(|key| listing.slot(&key)).transpose()?.flatten();
            match (key, slot) {
                (Some(key), Some(slot)) => {
                    bits.resize(values.len(), 0);
                    reader.read(slot, &key, &mut bits)?;
                    frozen.dtype.to_f32(&mut bits, values);
                }
                _ => rest.push((item, values)),
            }
        }
        Ok(rest)
    }

    /// What a rendering is kept under, if it is one of those that can be.
    fn cache_key(&self, frozen: &FrozenStages, item: &BatchItem) -> Option<CacheKey> {
        match item.view {
            ViewId::Numbered(view) => Some(frozen.keys.key(self.image_hash(item), view)),
            ViewId::PerEpoch { .. } => None,
        }
    }

    fn image_hash(&self, item: &BatchItem) -> &[u8; 32] {
        self.source.hashes[item.image].as_ref().expect("only photos that could be read are asked for")
    }

    /// Renders photos on all cores and runs the frozen part on them, rounded as if they had been kept.
    fn compute_batch(&self, places: &mut [(&BatchItem, &mut [f32])]) -> Result<(), TrainError> {
        if places.is_empty() {
            return Ok(());
        }
        let render = |(item, _): &(&BatchItem, &mut [f32])| {
            self.renderer.render_view(&self.source.images[item.image], self.image_hash(item), item.view)
        };
        let rendered: Vec<Result<Vec<u8>, TrainError>> = places.par_iter().map(render).collect();
        // The first error in order, whichever came first.
        let data = rendered.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        let (height, width) = self.image_size();
        let pixels = PixelBatch::new(&data, places.len(), height, width)?;
        let count = places.len();
        let values = places.iter_mut().map(|(_, values)| values);
        match &self.frozen {
            None => {
                let normalised = pixels.normalized(self.source.pretrained.checkpoint().preprocessing());
                let each = normalised.len() / count;
                for (values, given) in values.zip(normalised.chunks_exact(each)) {
                    values.copy_from_slice(given);
                }
            }
            Some(FrozenStages { layer, dtype: kept, .. }) => {
                let given = self.backbone()?.activations_nhwc(pixels, *layer)?;
                let mut bits = kept.to_half(&given, *layer)?;
                let each = bits.len() / count;
                for (values, bits) in values.zip(bits.chunks_exact_mut(each)) {
                    kept.to_f32(bits, values);
                }
            }
        }
        Ok(())
    }
}

/// Hands out what is filled, and gives its memory back to be filled again.
fn consume_in_order(
    filled: Receiver<Result<Vec<f32>, TrainError>>,
    give_back: &Sender<Vec<f32>>,
    act: &mut OnBatch<'_>,
) -> Result<(), TrainError> {
    for (number, values) in filled.into_iter().enumerate() {
        let values = values?;
        if act(number, &values)?.is_break() {
            break;
        }
        // No receiver: all has been filled.
        give_back.send(values).ok();
    }
    Ok(())
}
