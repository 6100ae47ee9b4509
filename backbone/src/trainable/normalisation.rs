//! BatchNorm on the CPU, channels last, and its derivatives.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{values, with_values};

/// Rows that a thread takes at a time; sums of channels are made of the sums of so many.
const ROWS: usize = 256;

/// For each channel the sums of two numbers that are made of the values of some tensors `[..., C]` at each position.
fn channel_sums<const N: usize>(
    channels: usize,
    tensors: [&[f32]; N],
    of: impl Fn([f32; N], usize) -> [f32; 2] + Sync,
) -> [Vec<f32>; 2] {
    let size = ROWS * channels;
    let parts: Vec<[Vec<f64>; 2]> = (0..tensors[0].len().div_ceil(size))
        .into_par_iter()
        .map(|part| {
            let mut sums = [vec![0.0f64; channels], vec![0.0f64; channels]];
            let range = part * size..tensors[0].len().min((part + 1) * size);
            let tensors = tensors.map(|values| &values[range.clone()]);
            for row in (0..range.len()).step_by(channels) {
                for channel in 0..channels {
                    let [first, second] = of(tensors.map(|values| values[row + channel]), channel);
                    sums[0][channel] += f64::from(first);
                    sums[1][channel] += f64::from(second);
                }
            }
            sums
        })
        .collect();
    [0, 1].map(|which| {
        (0..channels)
            .map(|channel| parts.iter().map(|sums| sums[which][channel]).sum::<f64>() as f32)
            .collect()
    })
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
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        with_values([tensor], |[xs]| {
            let channels = tensor.dim(candle_core::D::Minus1)?;
            let count = xs.len() / channels;
            let over = |sums: Vec<f32>| -> Vec<f32> { sums.iter().map(|sum| sum / count as f32).collect() };
            let [sums, _] = channel_sums(channels, [xs], |[x], _| [x, 0.0]);
            let mean = over(sums);
            let [squares, _] = channel_sums(channels, [xs], |[x], channel| {
                let off = x - mean[channel];
                [off * off, 0.0]
            });
            Ok(Self { count, mean, variance: over(squares) })
        })
    }
}

/// BatchNorm, `(x - mean) / sqrt(variance + ε) · γ + β`, for `x` `[..., C]` and `γ`, `β` `[C]`; what is negative becomes 0 with
/// `relu`.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    /// `[C]`
    pub(super) mean: Vec<f32>,
    /// `1 / sqrt(variance + ε)`, `[C]`.
    pub(super) inverse: Vec<f32>,
    /// How many positions of `x` mean and variance are of; none where they are given, and do not change with `x`.
    pub(super) count: Option<usize>,
    pub(super) relu: bool,
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (xs, gamma, beta) =
            (values(input, layout)?, values(gamma, gamma_layout)?, values(beta, beta_layout)?);
        let channels = gamma.len();
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let mut out = vec![0.0; xs.len()];
        let size = ROWS * channels;
        out.par_chunks_mut(size).zip(xs.par_chunks(size)).for_each(|(out, xs)| {
            for (out, xs) in out.chunks_exact_mut(channels).zip(xs.chunks_exact(channels)) {
                for channel in 0..channels {
                    let normal = (xs[channel] - self.mean[channel]) * self.inverse[channel];
                    let y = normal * gamma[channel] + beta[channel];
                    // Not `max`, which would hide what is not a number.
                    out[channel] = if y < floor { floor } else { y };
                }
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        with_values([input, gamma, out, gradient], |[xs, gammas, ys, gs]| {
            let channels = gammas.len();
            let passed = |y: f32, g: f32| if self.relu && y <= 0.0 { 0.0 } else { g };
            let normal = |x: f32, channel: usize| (x - self.mean[channel]) * self.inverse[channel];
            let [by_gamma, by_beta] = channel_sums(channels, [xs, ys, gs], |[x, y, g], channel| {
                let g = passed(y, g);
                [g * normal(x, channel), g]
            });
            let by_input = input.track_op().then(|| {
                let mut by_input = vec![0.0; xs.len()];
                let size = ROWS * channels;
                by_input
                    .par_chunks_mut(size)
                    .zip(gs.par_chunks(size).zip(ys.par_chunks(size).zip(xs.par_chunks(size))))
                    .for_each(|(out, (gs, (ys, xs)))| {
                        let share = self.count.map_or(0.0, |count| 1.0 / count as f32);
                        for row in (0..out.len()).step_by(channels) {
                            for channel in 0..channels {
                                let at = row + channel;
                                let shared = by_beta[channel] + normal(xs[at], channel) * by_gamma[channel];
                                let own = passed(ys[at], gs[at]) - share * shared;
                                out[at] = gammas[channel] * self.inverse[channel] * own;
                            }
                        }
                    });
                Tensor::from_vec(by_input, input.shape(), input.device())
            });
            let make = |like: &Tensor, values: Vec<f32>| {
                like.track_op().then(|| Tensor::from_vec(values, like.shape(), like.device())).transpose()
            };
            let by_input = by_input.transpose()?;
            Ok((by_input, make(gamma, by_gamma)?, make(beta, by_beta)?))
        })
    }
}
