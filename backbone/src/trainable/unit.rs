//! A convolution and the BatchNorm after it: forward, and back from the derivative of what comes out.
//!
//! By running statistics BatchNorm is a factor and a shift for each channel, and both go into the convolution: nothing but
//! what comes out is kept. The derivative by the factor needs the convolution's sums, `Σ g · Σ w x`, which are those of the weights
//! and their derivatives, `Σ w · Σ g x`. By the batch's own statistics the sums are kept, and what came out is made of them again.

use headstock_engine::training::{ConvOps, ConvShape, ScaledWeights, TrainEpilogue};

use super::buffers::{Buffer, Buffers};
use super::norm::{Affine, Statistics, inverse};
use super::parameters::Store;
use super::pool::Size;
use crate::blueprint::Geometry;
use crate::error::BackboneError;

/// How much of the batch's statistics goes into the running ones at a step, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// A convolution and the BatchNorm after it.
#[derive(Debug)]
pub(super) struct Unit {
    /// The BatchNorm's name.
    pub(super) bn: String,
    pub(super) geometry: Geometry,
    /// `C`, `O` and `K`.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) kernel: usize,
    /// The numbers of its parameters: the convolution's weights, and the BatchNorm's `γ` and `β`.
    pub(super) weight: usize,
    pub(super) gamma: usize,
    pub(super) beta: usize,
    /// The running mean and variance, `[C]`.
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

/// What a unit works with.
pub(super) struct Workplace<'a> {
    pub(super) store: &'a mut Store,
    pub(super) products: &'a mut ConvOps,
    pub(super) buffers: &'a mut Buffers,
}

/// What a unit keeps of the way forward for the way back.
#[derive(Debug)]
pub(super) enum Kept {
    /// With running statistics: nothing but its sizes.
    Frozen(ConvShape),
    /// With the batch's: the convolution's sums, and the statistics.
    Batch(ConvShape, Buffer, Statistics),
}

impl Unit {
    fn shape(&self, size: Size) -> ConvShape {
        let Geometry { stride, padding } = self.geometry;
        ConvShape {
            batch: size.photos,
            height: size.height,
            width: size.width,
            inputs: self.inputs,
            outputs: self.outputs,
            kernel: self.kernel,
            stride,
            padding,
        }
    }

    /// The size of what comes out.
    pub(super) fn size(&self, size: Size) -> Size {
        let [height, width] = self.shape(size).output_size();
        Size { photos: size.photos, height, width, channels: self.outputs }
    }

    fn running(&self, store: &Store) -> Affine {
        let (gamma, beta) = self.factors(store);
        Affine::new(&self.mean, &self.variance, gamma, beta)
    }

    /// `γ` and `β`
    fn factors<'a>(&self, store: &'a Store) -> (&'a [f32], &'a [f32]) {
        (&store.values[self.gamma], &store.values[self.beta])
    }

    /// What comes out; `other` is added before the ReLU. By the batch's own statistics, or the running ones.
    pub(super) fn forward(
        &self,
        at: &mut Workplace<'_>,
        by_batch: bool,
        input: (Size, &[f32]),
        other: Option<&[f32]>,
        relu: bool,
    ) -> Result<(Kept, Buffer), BackboneError> {
        if by_batch {
            self.forward_by_batch(at, input, other, relu)
        } else {
            self.forward_by_running(at, input, other, relu)
        }
    }

    fn forward_by_running(
        &self,
        at: &mut Workplace<'_>,
        (size, input): (Size, &[f32]),
        other: Option<&[f32]>,
        relu: bool,
    ) -> Result<(Kept, Buffer), BackboneError> {
        let shape = self.shape(size);
        let affine = self.running(at.store);
        let mut out = at.buffers.take(self.size(size).values());
        let weights = ScaledWeights { values: &at.store.values[self.weight], scale: Some(&affine.scale) };
        let finish =
            TrainEpilogue { bias: Some(&affine.shift), addend: other, relu, ..TrainEpilogue::default() };
        at.products.forward(&shape, input, weights, finish, &mut out)?;
        Ok((Kept::Frozen(shape), out))
    }

    fn forward_by_batch(
        &self,
        at: &mut Workplace<'_>,
        (size, input): (Size, &[f32]),
        other: Option<&[f32]>,
        relu: bool,
    ) -> Result<(Kept, Buffer), BackboneError> {
        let shape = self.shape(size);
        let size = self.size(size);
        if size.positions() < 2 {
            return Err(BackboneError::OneValue { name: self.bn.clone() });
        }
        let mut sums = at.buffers.take(size.values());
        let weights = ScaledWeights { values: &at.store.values[self.weight], scale: None };
        at.products.forward(&shape, input, weights, TrainEpilogue::default(), &mut sums)?;
        let statistics = Statistics::of(self.outputs, &sums);
        let mut out = at.buffers.take(sums.len());
        statistics.normalise(self.factors(at.store), &sums, other, relu, &mut out);
        Ok((Kept::Batch(shape, sums, statistics), out))
    }

    /// What came out, with its ReLU, made again where it can be.
    pub(super) fn again(&self, at: &mut Workplace<'_>, kept: &Kept) -> Option<Buffer> {
        let Kept::Batch(_, sums, statistics) = kept else { return None };
        let mut out = at.buffers.take(sums.len());
        statistics.normalise(self.factors(at.store), sums, None, true, &mut out);
        Some(out)
    }

    /// Adds the derivatives by its parameters, for the derivative by what comes out (before a ReLU). Gives the derivative by the
    /// convolution's sums, and what these are multiplied by where that is not the same.
    pub(super) fn backward(
        &self,
        at: &mut Workplace<'_>,
        kept: Kept,
        input: &[f32],
        gradient: &[f32],
    ) -> Result<Back, BackboneError> {
        match kept {
            Kept::Frozen(shape) => {
                let affine = self.running(at.store);
                let (values, by_weights, add) = at.store.gradient(self.weight);
                let weights = ScaledWeights { values, scale: Some(&affine.scale) };
                let sums = at.products.backward_weights(&shape, input, gradient, weights, add, by_weights)?;
                let by_gamma: Vec<f32> = (0..self.outputs)
                    .map(|channel| {
                        let off = f64::from(sums.scale[channel])
                            - f64::from(self.mean[channel]) * f64::from(sums.bias[channel]);
                        (off * inverse(self.variance[channel])) as f32
                    })
                    .collect();
                at.store.add_gradient(self.gamma, &by_gamma);
                at.store.add_gradient(self.beta, &sums.bias);
                Ok(Back { shape, scale: Some(affine.scale), by_sums: None })
            }
            Kept::Batch(shape, convolved, statistics) => {
                let mut by_sums = at.buffers.take(convolved.len());
                let gamma = &at.store.values[self.gamma];
                let [by_gamma, by_beta] = statistics.backward(gamma, &convolved, gradient, &mut by_sums);
                at.buffers.give(convolved);
                at.store.add_gradient(self.gamma, &by_gamma);
                at.store.add_gradient(self.beta, &by_beta);
                let (values, by_weights, add) = at.store.gradient(self.weight);
                let weights = ScaledWeights { values, scale: None };
                at.products.backward_weights(&shape, input, &by_sums, weights, add, by_weights)?;
                Ok(Back { shape, scale: None, by_sums: Some(by_sums) })
            }
        }
    }

    /// The derivative by the input, into `out`.
    pub(super) fn by_input(
        &self,
        at: &mut Workplace<'_>,
        back: &Back,
        gradient: &[f32],
        finish: TrainEpilogue<'_>,
        out: &mut [f32],
    ) -> Result<(), BackboneError> {
        let weights = ScaledWeights { values: &at.store.values[self.weight], scale: back.scale.as_deref() };
        let gradient = back.by_sums.as_deref().unwrap_or(gradient);
        Ok(at.products.backward_input(&back.shape, gradient, weights, finish, out)?)
    }

    /// Moves the running statistics towards a batch's, whose variance is taken for that of all there is (with `n - 1`).
    pub(super) fn follow(&mut self, batch: &Statistics) {
        let unbiased = batch.count as f32 / (batch.count - 1) as f32;
        let towards = |running: &mut [f32], batch: &[f32], factor: f32| {
            for (running, value) in running.iter_mut().zip(batch) {
                *running += MOMENTUM * (factor * value - *running);
            }
        };
        towards(&mut self.mean, &batch.mean, 1.0);
        towards(&mut self.variance, &batch.variance, unbiased);
    }
}

/// What the derivative by a unit's input is made of.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) shape: ConvShape,
    /// What each channel's weights are multiplied by.
    scale: Option<Vec<f32>>,
    /// The derivative by the convolution's sums, where it is not that by what comes out.
    pub(super) by_sums: Option<Buffer>,
}

impl Kept {
    pub(super) fn give(self, buffers: &mut Buffers) {
        if let Self::Batch(_, sums, _) = self {
            buffers.give(sums);
        }
    }
}
