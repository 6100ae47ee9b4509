//! A residual block: forward, and back from the derivative of what comes out.

use headstock_engine::training::TrainEpilogue;

use super::buffer_pool::{Buffer, BufferPool};
use super::conv_bn::{ConvBnUnit, SavedForBackward, TrainContext};
use super::pooling::NhwcShape;
use crate::error::BackboneError;
use crate::layer::FeatureLayer;

/// Units one after the other, and a shortcut around them.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    pub(super) stage: FeatureLayer,
    pub(super) units: Vec<ConvBnUnit>,
    pub(super) shortcut: Option<ConvBnUnit>,
}

/// What a block keeps of the way forward for the way back.
#[derive(Debug)]
pub(super) struct BlockCache {
    /// Of each unit, with what comes out of it.
    units: Vec<(SavedForBackward, Option<Buffer>)>,
    shortcut: Option<SavedForBackward>,
    /// Of what comes out of the block.
    pub(super) output_shape: NhwcShape,
}

impl BlockCache {
    /// What is kept of each unit, in the order of [`Block::units_mut`].
    pub(super) fn saved(&self) -> impl Iterator<Item = &SavedForBackward> {
        self.units.iter().map(|(kept, _)| kept).chain(&self.shortcut)
    }

    /// What comes out of the block.
    pub(super) fn output(&self) -> &[f32] {
        self.units.last().and_then(|(_, out)| out.as_deref()).unwrap_or_default()
    }

    /// Gives back everything but what comes out.
    pub(super) fn into_output(self, buffers: &mut BufferPool) -> Option<Buffer> {
        let mut output = None;
        for (kept, out) in self.units {
            if let Some(previous) = std::mem::replace(&mut output, out) {
                buffers.release(previous);
            }
            kept.release(buffers);
        }
        if let Some(kept) = self.shortcut {
            kept.release(buffers);
        }
        output
    }
}

impl ResidualBlock {
    /// Its units, in the order of their parameters.
    pub(super) fn units(&self) -> impl Iterator<Item = &ConvBnUnit> {
        self.units.iter().chain(&self.shortcut)
    }

    /// As [`units`](Self::units).
    pub(super) fn units_mut(&mut self) -> impl Iterator<Item = &mut ConvBnUnit> {
        self.units.iter_mut().chain(&mut self.shortcut)
    }

    /// By the batch's own statistics, or the running ones.
    pub(super) fn forward(
        &self,
        ctx: &mut TrainContext<'_>,
        use_batch_stats: bool,
        (size, input): (NhwcShape, &[f32]),
    ) -> Result<BlockCache, BackboneError> {
        let around =
            self.shortcut.as_ref().map(|unit| unit.forward(ctx, use_batch_stats, (size, input), None, false));
        let (shortcut, around) = around.transpose()?.unzip();
        let mut units: Vec<(SavedForBackward, Option<Buffer>)> = Vec::new();
        let mut current = size;
        for (index, unit) in self.units.iter().enumerate() {
            let other = (index + 1 == self.units.len()).then(|| around.as_deref().unwrap_or(input));
            let from = units.last().and_then(|(_, out)| out.as_deref()).unwrap_or(input);
            let (kept, out) = unit.forward(ctx, use_batch_stats, (current, from), other, true)?;
            current = unit.output_shape(current);
            if let Some((SavedForBackward::BatchStats(..), before)) = units.last_mut() {
                before.take().into_iter().for_each(|before| ctx.buffers.release(before));
            }
            units.push((kept, Some(out)));
        }
        around.into_iter().for_each(|around| ctx.buffers.release(around));
        Ok(BlockCache { units, shortcut, output_shape: current })
    }

    /// Adds the derivatives by its parameters, for the derivative by what comes out, which is 0 where that is. Gives the derivative by
    /// the input where it is wanted: the input is what a ReLU gave, and its derivative is by what went into that.
    pub(super) fn backward(
        &self,
        ctx: &mut TrainContext<'_>,
        cache: BlockCache,
        input: &[f32],
        gradient: Buffer,
        needs_input_grad: bool,
    ) -> Result<Option<Buffer>, BackboneError> {
        let mut saved_units: Vec<(SavedForBackward, Option<Buffer>)> = cache.units;
        let mut current: Option<Buffer> = None;
        while let Some((saved, out)) = saved_units.pop() {
            out.into_iter().for_each(|out| ctx.buffers.release(out));
            let (index, unit) = (saved_units.len(), &self.units[saved_units.len()]);
            let recomputed = match saved_units.last() {
                Some((before, None)) => self.units[index - 1].recompute_output(ctx, before),
                _ => None,
            };
            let xs = match saved_units.last() {
                Some((_, Some(out))) => out,
                _ => recomputed.as_deref().unwrap_or(input),
            };
            let grad_output = current.as_deref().unwrap_or(&gradient);
            let back = unit.backward(ctx, saved, xs, grad_output)?;
            let mut next = None;
            if index > 0 || needs_input_grad {
                let by_input = next.insert(ctx.buffers.acquire(xs.len()));
                let other = (index == 0 && self.shortcut.is_none()).then_some(&*gradient);
                let finish = TrainEpilogue { addend: other, mask: Some(xs), ..TrainEpilogue::default() };
                unit.backward_input(ctx, &back, grad_output, finish, by_input)?;
            }
            for buffer in [back.grad_conv_output, recomputed, current].into_iter().flatten() {
                ctx.buffers.release(buffer);
            }
            current = next;
        }
        if let (Some(unit), Some(kept)) = (&self.shortcut, cache.shortcut) {
            let back = unit.backward(ctx, kept, input, &gradient)?;
            if let Some(by_input) = &mut current {
                let finish =
                    TrainEpilogue { accumulate: true, mask: Some(input), ..TrainEpilogue::default() };
                unit.backward_input(ctx, &back, &gradient, finish, by_input)?;
            }
            back.grad_conv_output.into_iter().for_each(|buffer| ctx.buffers.release(buffer));
        }
        ctx.buffers.release(gradient);
        Ok(current)
    }
}
