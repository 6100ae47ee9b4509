//! Forward and backward of a residual block.

use headstock_engine::training::TrainEpilogue;

use super::BatchNormMode;
use super::buffer_pool::{Buffer, BufferPool};
use super::conv_bn::{ConvBnUnit, SavedForBackward, TrainContext};
use super::pooling::{NhwcShape, NhwcView};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::Activation;

/// Convolutions in sequence, and a shortcut around them.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    pub(super) stage: FeatureLayer,
    pub(super) units: Vec<ConvBnUnit>,
    pub(super) shortcut: Option<ConvBnUnit>,
}

/// What the backward pass of a block needs from its forward pass.
#[derive(Debug)]
pub(super) struct BlockCache {
    /// For each unit its output, unless it can be recomputed.
    units: Vec<(SavedForBackward, Option<Buffer>)>,
    shortcut: Option<SavedForBackward>,
    pub(super) output_shape: NhwcShape,
}

impl BlockCache {
    /// The caches of all units, in the order of [`ResidualBlock::units_mut`].
    pub(super) fn saved(&self) -> impl Iterator<Item = &SavedForBackward> {
        self.units.iter().map(|(saved, _)| saved).chain(&self.shortcut)
    }

    /// The output of the block.
    pub(super) fn output(&self) -> &[f32] {
        self.units.last().and_then(|(_, out)| out.as_deref()).unwrap_or_default()
    }

    /// Releases all buffers except the output.
    pub(super) fn into_output(self, buffers: &mut BufferPool) -> Option<Buffer> {
        let mut output = None;
        for (saved, out) in self.units {
            buffers.release_all(std::mem::replace(&mut output, out));
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

    /// Like [`units`](Self::units).
    pub(super) fn units_mut(&mut self) -> impl Iterator<Item = &mut ConvBnUnit> {
        self.units.iter_mut().chain(&mut self.shortcut)
    }

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
            if let Some((SavedForBackward::BatchStats(..), previous_output)) = units.last_mut() {
                ctx.buffers.release_all(previous_output.take());
            }
            units.push((saved, Some(out)));
        }
        ctx.buffers.release_all(shortcut_output);
        Ok(BlockCache { units, shortcut, output_shape: shape })
    }

    /// Accumulates the gradients of the parameters, given the gradient of the output before its ReLU. Returns
    /// the gradient of the input before the ReLU of the previous layer, if `needs_input_grad`.
    pub(super) fn backward(
        &self,
        ctx: &mut TrainContext<'_>,
        cache: BlockCache,
        input: &[f32],
        grad_output: Buffer,
        needs_input_grad: bool,
    ) -> Result<Option<Buffer>, BackboneError> {
        let mut saved_units: Vec<(SavedForBackward, Option<Buffer>)> = cache.units;
        // The gradient of the output of the current unit; for the last unit it is `grad_output`.
        let mut current: Option<Buffer> = None;
        while let Some((saved, out)) = saved_units.pop() {
            ctx.buffers.release_all(out);
            let index = saved_units.len();
            let unit = &self.units[index];
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
                let identity_grad = (index == 0 && self.shortcut.is_none()).then_some(&*grad_output);
                let epilogue = TrainEpilogue {
                    addend: identity_grad,
                    mask: Some(unit_input),
                    ..TrainEpilogue::default()
                };
                unit.backward_input(ctx, &grad_context, grad_unit_output, epilogue, grad_input)?;
            }
            let released = [grad_context.grad_conv_output, recomputed, current];
            ctx.buffers.release_all(released.into_iter().flatten());
            current = next;
        }
        if let (Some(unit), Some(saved)) = (&self.shortcut, cache.shortcut) {
            let grad_context = unit.backward(ctx, saved, input, &grad_output)?;
            if let Some(grad_input) = &mut current {
                let epilogue =
                    TrainEpilogue { accumulate: true, mask: Some(input), ..TrainEpilogue::default() };
                unit.backward_input(ctx, &grad_context, &grad_output, epilogue, grad_input)?;
            }
            ctx.buffers.release_all(grad_context.grad_conv_output);
        }
        ctx.buffers.release(grad_output);
        Ok(current)
    }
}
