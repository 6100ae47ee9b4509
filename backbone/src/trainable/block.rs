//! Forward and backward of a residual block.

use headstock_engine::training::TrainEpilogue;

use super::BatchNormMode;
use super::buffer_pool::{Buffer, BufferPool};
use super::conv_bn::{ConvBnUnit, SavedForBackward, TrainContext};
use super::pooling::{NhwcShape, NhwcView};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::Activation;

/// A residual block: convolutions with BatchNorm (units) in sequence, and a shortcut around them.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    /// The stage of the network to which the block belongs.
    pub(super) stage: FeatureLayer,
    /// The units in sequence, without the shortcut.
    pub(super) units: Vec<ConvBnUnit>,
    /// The projection of the shortcut; `None` for an identity shortcut.
    pub(super) shortcut: Option<ConvBnUnit>,
}

/// What the backward pass of a block needs from its forward pass.
#[derive(Debug)]
pub(super) struct BlockCache {
    /// For each unit what it saved, and its output; `None` if the backward pass can recompute the output.
    units: Vec<(SavedForBackward, Option<Buffer>)>,
    /// What the projection of the shortcut saved.
    shortcut: Option<SavedForBackward>,
    pub(super) output_shape: NhwcShape,
}

impl BlockCache {
    /// What all units saved, in the order of [`ResidualBlock::units_mut`].
    pub(super) fn saved(&self) -> impl Iterator<Item = &SavedForBackward> {
        self.units.iter().map(|(saved, _)| saved).chain(&self.shortcut)
    }

    /// The output of the block.
    pub(super) fn output(&self) -> &[f32] {
        self.units.last().and_then(|(_, out)| out.as_deref()).unwrap_or_default()
    }

    /// Returns the output of the block, and releases all other buffers to the pool; for blocks without a
    /// backward pass. It is `Some` after every forward pass, which keeps the output of the last unit.
    pub(super) fn into_output(self, buffers: &mut BufferPool) -> Option<Buffer> {
        let mut output = None;
        for (saved, out) in self.units {
            buffers.release(std::mem::replace(&mut output, out));
            saved.release(buffers);
        }
        if let Some(saved) = self.shortcut {
            saved.release(buffers);
        }
        output
    }
}

impl ResidualBlock {
    /// The units, in the order of their parameters.
    pub(super) fn units(&self) -> impl Iterator<Item = &ConvBnUnit> {
        self.units.iter().chain(&self.shortcut)
    }

    /// The units, mutable, in the order of their parameters.
    pub(super) fn units_mut(&mut self) -> impl Iterator<Item = &mut ConvBnUnit> {
        self.units.iter_mut().chain(&mut self.shortcut)
    }

    /// Runs the block on `input`, `[N, H, W, C]`: its units (convolution, BatchNorm and ReLU) in sequence,
    /// with the output of the shortcut added before the last ReLU. `mode` selects BatchNorm's statistics.
    /// Returns the output ([`BlockCache::output`]) and what [`backward`](Self::backward) needs.
    pub(super) fn forward(
        &self,
        ctx: &mut TrainContext<'_>,
        mode: BatchNormMode,
        input: NhwcView<'_>,
    ) -> Result<BlockCache, BackboneError> {
        let projected =
            self.shortcut.as_ref().map(|unit| unit.forward(ctx, mode, input, None, Activation::Identity));
        let (shortcut, shortcut_output) = projected.transpose()?.unzip();
        let mut units: Vec<(SavedForBackward, Option<Buffer>)> = Vec::new();
        let mut shape = input.shape;
        for (index, unit) in self.units.iter().enumerate() {
            let is_last = index + 1 == self.units.len();
            let residual = is_last.then(|| shortcut_output.as_deref().unwrap_or(input.values));
            let values = units.last().and_then(|(_, out)| out.as_deref()).unwrap_or(input.values);
            let (saved, out) =
                unit.forward(ctx, mode, NhwcView { shape, values }, residual, Activation::Relu)?;
            shape = unit.output_shape(shape);
            // With batch statistics the backward pass recomputes the output of the previous unit, so its
            // buffer is released.
            if let Some((SavedForBackward { batch: Some(_), .. }, previous_output)) = units.last_mut() {
                ctx.buffers.release(previous_output.take());
            }
            units.push((saved, Some(out)));
        }
        ctx.buffers.release(shortcut_output);
        Ok(BlockCache { units, shortcut, output_shape: shape })
    }

    /// The backward pass: adds the gradients of the parameters to those in `ctx.store`, given `grad_output`,
    /// the gradient of the output before its ReLU, and `input` and `cache` of the forward pass. If
    /// `needs_input_grad`, it returns the gradient of the input before the ReLU that computed this input: the
    /// `grad_output` of the previous block. Releases all buffers of `cache`.
    pub(super) fn backward(
        &self,
        ctx: &mut TrainContext<'_>,
        cache: BlockCache,
        input: &[f32],
        grad_output: Buffer,
        needs_input_grad: bool,
    ) -> Result<Option<Buffer>, BackboneError> {
        let mut saved_units: Vec<(SavedForBackward, Option<Buffer>)> = cache.units;
        // The gradient of the output of the current unit; `None` for the last unit, whose gradient is
        // `grad_output`. After the loop it is the gradient of the input of the block, if needed.
        let mut current: Option<Buffer> = None;
        while let Some((saved, out)) = saved_units.pop() {
            ctx.buffers.release(out);
            let index = saved_units.len();
            let unit = &self.units[index];
            // The input of a unit is the output of the previous one, saved or recomputed; the input of the
            // first one is that of the block.
            let recomputed = match saved_units.last() {
                Some((previous, None)) => self.units[index - 1].recompute_output(ctx, previous),
                _ => None,
            };
            let unit_input = match saved_units.last() {
                Some((_, Some(out))) => out,
                _ => recomputed.as_deref().unwrap_or(input),
            };
            let grad_unit_output = current.as_deref().unwrap_or(&grad_output);
            let grad_context = unit.backward(ctx, saved, unit_input, grad_unit_output)?;
            let mut next = None;
            if index > 0 || needs_input_grad {
                let grad_input = next.insert(ctx.buffers.acquire(unit_input.len()));
                // An identity shortcut adds the gradient of the output to that of the input.
                let identity_grad = (index == 0 && self.shortcut.is_none()).then_some(&*grad_output);
                // The mask is the backward pass of the ReLU of the previous layer.
                let epilogue = TrainEpilogue {
                    addend: identity_grad,
                    mask: Some(unit_input),
                    ..TrainEpilogue::default()
                };
                unit.backward_input(ctx, &grad_context, grad_unit_output, epilogue, grad_input)?;
            }
            let released = [grad_context.grad_conv_output, recomputed, current];
            ctx.buffers.release(released.into_iter().flatten());
            current = next;
        }
        if let (Some(unit), Some(saved)) = (&self.shortcut, cache.shortcut) {
            let grad_context = unit.backward(ctx, saved, input, &grad_output)?;
            if let Some(grad_input) = &mut current {
                // Adds the gradient through the shortcut to the one through the units.
                let epilogue =
                    TrainEpilogue { accumulate: true, mask: Some(input), ..TrainEpilogue::default() };
                unit.backward_input(ctx, &grad_context, &grad_output, epilogue, grad_input)?;
            }
            ctx.buffers.release(grad_context.grad_conv_output);
        }
        ctx.buffers.release([grad_output]);
        Ok(current)
    }
}
