//! BatchNorm by the statistics of a batch, channels last, and its derivatives.

use pulp::Arch;
use rayon::prelude::*;

use crate::blueprint::EPSILON;

/// Positions that a thread takes at a time; sums of channels are made of the sums of so many.
const ROWS: usize = 256;
/// Channels whose sums are in registers.
const LANES: usize = 32;

/// `1 / sqrt(variance + ε)`
pub(super) fn inverse(variance: f32) -> f64 {
    1.0 / (f64::from(variance) + EPSILON).sqrt()
}

/// Mean and variance of each channel of `[..., C]`.
#[derive(Clone, Debug)]
pub(super) struct Statistics {
    /// Positions that they are of.
    pub(super) count: usize,
    /// `[C]`
    pub(super) mean: Vec<f32>,
    /// The mean of the squares of what is off the mean, `[C]`.
    pub(super) variance: Vec<f32>,
}

impl Statistics {
    pub(super) fn of(channels: usize, xs: &[f32]) -> Self {
        let count = xs.len() / channels;
        // Off a value of the channel instead of 0: what is far from 0 but near each other keeps its digits.
        let origin = &xs[..channels];
        let [sums, squares] = channel_sums(
            channels,
            [xs],
            #[inline(always)]
            |[x], channel| {
                let off = f64::from(x) - f64::from(origin[channel]);
                [off, off * off]
            },
        );
        let off: Vec<f64> = sums.iter().map(|sum| sum / count as f64).collect();
        let mean = origin.iter().zip(&off).map(|(x, off)| (f64::from(*x) + off) as f32).collect();
        let variance = squares
            .iter()
            .zip(&off)
            .map(|(square, off)| (square / count as f64 - off * off).max(0.0) as f32)
            .collect();
        Self { count, mean, variance }
    }

    /// `(x - mean) / sqrt(variance + ε) · γ + β`, and `other` on top, for `[..., C]`; what is negative becomes 0 with `relu`.
    pub(super) fn normalise(
        &self,
        (gamma, beta): (&[f32], &[f32]),
        xs: &[f32],
        other: Option<&[f32]>,
        relu: bool,
        out: &mut [f32],
    ) {
        let channels = gamma.len();
        let scale: Vec<f32> = scales(gamma, &self.variance).map(|scale| scale as f32).collect();
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        let size = ROWS * channels;
        out.par_chunks_mut(size).enumerate().for_each(|(part, out)| {
            let range = part * size..part * size + out.len();
            let (xs, other) = (&xs[range.clone()], other.map(|other| &other[range]));
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(channels).zip(xs.chunks_exact(channels));
                    for (row, (out, xs)) in rows.enumerate() {
                        let factors = self.mean.iter().zip(&scale).zip(beta);
                        for ((out, x), ((mean, scale), beta)) in out.iter_mut().zip(xs).zip(factors) {
                            *out = (x - mean) * scale + beta;
                        }
                        if let Some(other) = other {
                            let other = &other[row * channels..][..channels];
                            out.iter_mut().zip(other).for_each(|(out, other)| *out += other);
                        }
                        // Not `max`, which would hide what is not a number.
                        out.iter_mut().for_each(|y| *y = if *y < floor { floor } else { *y });
                    }
                },
            );
        });
    }

    /// The derivative by what was normalised, and those by `γ` and `β`.
    pub(super) fn backward(
        &self,
        gamma: &[f32],
        xs: &[f32],
        gradient: &[f32],
        by_input: &mut [f32],
    ) -> [Vec<f32>; 2] {
        let channels = gamma.len();
        let mean = &self.mean[..channels];
        let [products, sums] = channel_sums(
            channels,
            [xs, gradient],
            #[inline(always)]
            |[x, g], channel| {
                let (off, g) = (f64::from(x) - f64::from(mean[channel]), f64::from(g));
                [g * off, g]
            },
        );
        let (mut of_gradient, mut of_x, mut constant) = (Vec::new(), Vec::new(), Vec::new());
        let mut by_gamma = Vec::with_capacity(channels);
        for channel in 0..channels {
            let inverse = inverse(self.variance[channel]);
            let scale = f64::from(gamma[channel]) * inverse;
            let each = inverse * inverse * products[channel] / self.count as f64;
            of_gradient.push(scale as f32);
            of_x.push((-scale * each) as f32);
            constant.push((-scale * sums[channel] / self.count as f64) as f32);
            by_gamma.push((inverse * products[channel]) as f32);
        }
        let size = ROWS * channels;
        let parts = xs.par_chunks(size).zip(gradient.par_chunks(size));
        by_input.par_chunks_mut(size).zip(parts).for_each(|(out, (xs, gs))| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = xs.chunks_exact(channels).zip(gs.chunks_exact(channels));
                    for (out, (xs, gs)) in out.chunks_exact_mut(channels).zip(rows) {
                        let values = out.iter_mut().zip(xs).zip(gs);
                        let factors = of_gradient.iter().zip(&of_x).zip(constant.iter().zip(mean));
                        for (((out, x), g), ((of_gradient, of_x), (constant, mean))) in values.zip(factors) {
                            *out = of_gradient * g + (of_x * (x - mean) + constant);
                        }
                    }
                },
            );
        });
        [by_gamma, sums.iter().map(|sum| *sum as f32).collect()]
    }
}

/// `γ / sqrt(variance + ε)`
fn scales(gamma: &[f32], variance: &[f32]) -> impl Iterator<Item = f64> {
    gamma.iter().zip(variance).map(|(gamma, variance)| f64::from(*gamma) * inverse(*variance))
}

/// BatchNorm by given statistics: a factor and a shift for each channel.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
}

impl Affine {
    pub(super) fn new(mean: &[f32], variance: &[f32], gamma: &[f32], beta: &[f32]) -> Self {
        let shift = beta
            .iter()
            .zip(mean.iter().zip(scales(gamma, variance)))
            .map(|(beta, (mean, scale))| (f64::from(*beta) - f64::from(*mean) * scale) as f32)
            .collect();
        Self { scale: scales(gamma, variance).map(|scale| scale as f32).collect(), shift }
    }
}

/// For each channel the sums of two numbers that are made of the values of some tensors `[..., C]` at each position.
fn channel_sums<const N: usize>(
    channels: usize,
    tensors: [&[f32]; N],
    of: impl Fn([f32; N], usize) -> [f64; 2] + Sync,
) -> [Vec<f64>; 2] {
    let size = ROWS * channels;
    let parts: Vec<[Vec<f64>; 2]> = (0..tensors[0].len().div_ceil(size))
        .into_par_iter()
        .map(|part| {
            let range = part * size..tensors[0].len().min((part + 1) * size);
            let tensors = tensors.map(|values| &values[range.clone()]);
            let mut sums = [vec![0.0; channels], vec![0.0; channels]];
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for first in (0..channels).step_by(LANES) {
                        let lanes = LANES.min(channels - first);
                        let mut of_lanes = [[0.0; LANES]; 2];
                        for row in (0..tensors[0].len()).step_by(channels) {
                            let values = tensors.map(|values| &values[row + first..][..lanes]);
                            for lane in 0..lanes {
                                let added = of(values.map(|values| values[lane]), first + lane);
                                of_lanes[0][lane] += added[0];
                                of_lanes[1][lane] += added[1];
                            }
                        }
                        for (sums, of_lanes) in sums.iter_mut().zip(of_lanes) {
                            sums[first..first + lanes].copy_from_slice(&of_lanes[..lanes]);
                        }
                    }
                },
            );
            sums
        })
        .collect();
    [0, 1].map(|which| {
        let sum = |channel: usize| parts.iter().map(|sums| sums[which][channel]).sum();
        (0..channels).map(sum).collect()
    })
}
