//! BatchNorm with the statistics of a batch, forward and backward, in NHWC layout.

use pulp::Arch;
use rayon::prelude::*;

use crate::resnet_spec::{Activation, BATCH_NORM_EPS};

/// Rows per parallel task; a row holds the `C` values of a position. The sums of a channel are computed per
/// task first, so results do not depend on the number of threads.
const ROWS_PER_TASK: usize = 256;
/// Channels that are summed in registers at a time.
const LANES: usize = 32;

/// `1 / sqrt(variance + eps)`, the factor with which BatchNorm normalizes a channel.
pub(super) fn inverse_std(variance: f32) -> f64 {
    1.0 / (f64::from(variance) + BATCH_NORM_EPS).sqrt()
}

/// Mean and variance of each channel of a batch of activations `[..., C]`, with which BatchNorm normalizes
/// this batch in mode `Train`.
#[derive(Clone, Debug)]
pub(super) struct BatchStatistics {
    /// The number of values per channel.
    pub(super) count: usize,
    /// `[C]`
    pub(super) mean: Vec<f32>,
    /// The biased variance (divided by `count`), `[C]`.
    pub(super) variance: Vec<f32>,
}

impl BatchStatistics {
    /// Computes the statistics with which BatchNorm normalizes a batch in training: mean and variance of each
    /// channel over all positions of the activations `xs`, `[..., C]` with `C = channels`.
    pub(super) fn from_activations(channels: usize, xs: &[f32]) -> Self {
        let count = xs.len() / channels;
        // The sums are of `d` and `d²`, where `d` is the difference from the first value of the channel:
        // the variance, `mean(d²) - mean(d)²`, would lose precision with values far from 0.
        let origin = &xs[..channels];
        let [sums, squares] = channel_sums(
            channels,
            [xs],
            #[inline(always)]
            |[x], channel| {
                let offset = f64::from(x) - f64::from(origin[channel]);
                [offset, offset * offset]
            },
        );
        let offsets: Vec<f64> = sums.iter().map(|sum| sum / count as f64).collect();
        let mean = origin.iter().zip(&offsets).map(|(x, offset)| (f64::from(*x) + offset) as f32).collect();
        let variance = squares
            .iter()
            .zip(&offsets)
            .map(|(square, offset)| (square / count as f64 - offset * offset).max(0.0) as f32)
            .collect();
        Self { count, mean, variance }
    }

    /// The forward pass of BatchNorm in training: normalizes the activations `xs`, whose statistics these
    /// are, and writes `activation((x - mean) / sqrt(variance + eps) · γ + β + residual)` to `out`. `gamma`
    /// (`γ`) and `beta` (`β`) are `[C]`, a value per channel; `xs`, `out` and `residual`, the output of the
    /// shortcut of a residual block, are `[..., C]`.
    pub(super) fn normalize(
        &self,
        gamma: &[f32],
        beta: &[f32],
        xs: &[f32],
        residual: Option<&[f32]>,
        activation: Activation,
        out: &mut [f32],
    ) {
        let channels = gamma.len();
        let scale: Vec<f32> = channel_scales(gamma, &self.variance).map(|scale| scale as f32).collect();
        // The lowest value that the activation outputs.
        let floor = if activation == Activation::Relu { 0.0 } else { f32::NEG_INFINITY };
        // Each task computes this many values in parallel with the others.
        let task_len = ROWS_PER_TASK * channels;
        out.par_chunks_mut(task_len).enumerate().for_each(|(task, out)| {
            let range = task * task_len..task * task_len + out.len();
            let (xs, residual) = (&xs[range.clone()], residual.map(|residual| &residual[range]));
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(channels).zip(xs.chunks_exact(channels));
                    for (row, (out, xs)) in rows.enumerate() {
                        let factors = self.mean.iter().zip(&scale).zip(beta);
                        for ((out, x), ((mean, scale), beta)) in out.iter_mut().zip(xs).zip(factors) {
                            *out = (x - mean) * scale + beta;
                        }
                        if let Some(residual) = residual {
                            let residual = &residual[row * channels..][..channels];
                            out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
                        }
                        // Unlike `f32::max`, this propagates NaN.
                        out.iter_mut().for_each(|y| *y = if *y < floor { floor } else { *y });
                    }
                },
            );
        });
    }

    /// The backward pass of BatchNorm in training: from `grad_output` (`g`), the gradient of the loss by the
    /// output before the activation, computes those by the input `xs`, whose statistics these are, and by
    /// `γ` and `β`. Writes the first to `grad_input` and returns the other two, `[C]` each. With
    /// `std = sqrt(variance + eps)`, `x̂ = (x - mean) / std` and means per channel:
    /// `∂x = γ / std · (g - mean(g) - x̂ · mean(g · x̂))`, `∂γ = Σ g · x̂` and `∂β = Σ g`.
    pub(super) fn backward(
        &self,
        gamma: &[f32],
        xs: &[f32],
        grad_output: &[f32],
        grad_input: &mut [f32],
    ) -> [Vec<f32>; 2] {
        let channels = gamma.len();
        let mean = &self.mean[..channels];
        // `Σ g · (x - mean)` and `Σ g` of each channel.
        let [products, sums] = channel_sums(
            channels,
            [xs, grad_output],
            #[inline(always)]
            |[x, g], channel| {
                let (centered, g) = (f64::from(x) - f64::from(mean[channel]), f64::from(g));
                [g * centered, g]
            },
        );
        // grad_input = g_coef · g + x_coef · (x - mean) + constant, with coefficients per channel.
        let (mut g_coef, mut x_coef, mut constant) = (Vec::new(), Vec::new(), Vec::new());
        let mut grad_gamma = Vec::with_capacity(channels);
        for channel in 0..channels {
            let inverse = inverse_std(self.variance[channel]);
            let scale = f64::from(gamma[channel]) * inverse;
            // `mean(g · x̂) / std`
            let slope = inverse * inverse * products[channel] / self.count as f64;
            g_coef.push(scale as f32);
            x_coef.push((-scale * slope) as f32);
            constant.push((-scale * sums[channel] / self.count as f64) as f32);
            grad_gamma.push((inverse * products[channel]) as f32);
        }
        let task_len = ROWS_PER_TASK * channels;
        let tasks = xs.par_chunks(task_len).zip(grad_output.par_chunks(task_len));
        grad_input.par_chunks_mut(task_len).zip(tasks).for_each(|(out, (xs, gs))| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = xs.chunks_exact(channels).zip(gs.chunks_exact(channels));
                    for (out, (xs, gs)) in out.chunks_exact_mut(channels).zip(rows) {
                        let values = out.iter_mut().zip(xs).zip(gs);
                        let factors = g_coef.iter().zip(&x_coef).zip(constant.iter().zip(mean));
                        for (((out, x), g), ((g_coef, x_coef), (constant, mean))) in values.zip(factors) {
                            *out = g_coef * g + (x_coef * (x - mean) + constant);
                        }
                    }
                },
            );
        });
        [grad_gamma, sums.iter().map(|sum| *sum as f32).collect()]
    }
}

/// The factor of each channel in BatchNorm, `γ / sqrt(variance + eps)`; `gamma` (`γ`) and `variance` are
/// `[C]`.
fn channel_scales(gamma: &[f32], variance: &[f32]) -> impl Iterator<Item = f64> {
    gamma.iter().zip(variance).map(|(gamma, variance)| f64::from(*gamma) * inverse_std(*variance))
}

/// BatchNorm with fixed statistics, as `x · scale + shift` per channel, `[C]`, which a convolution can apply
/// to its output.
#[derive(Clone, Debug)]
pub(super) struct ScaleShift {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
}

impl ScaleShift {
    /// Converts a BatchNorm with fixed statistics to a scale and a shift per channel, which a convolution can
    /// apply to its output: `scale = γ / sqrt(variance + eps)` and `shift = β - mean · scale`. `mean` and
    /// `variance` are the statistics, `gamma` (`γ`) and `beta` (`β`) the parameters, all `[C]`.
    pub(super) fn new(mean: &[f32], variance: &[f32], gamma: &[f32], beta: &[f32]) -> Self {
        let shift = beta
            .iter()
            .zip(mean.iter().zip(channel_scales(gamma, variance)))
            .map(|(beta, (mean, scale))| (f64::from(*beta) - f64::from(*mean) * scale) as f32)
            .collect();
        Self { scale: channel_scales(gamma, variance).map(|scale| scale as f32).collect(), shift }
    }
}

/// Returns two sums over all positions for each channel, `[C]` each: those from which BatchNorm's statistics
/// or gradients are computed. The function `summands` gives what a position adds to the two sums of a
/// channel, from the values of the `tensors`, `[..., C]`, there and the index of the channel. Tasks in
/// parallel sum over [`ROWS_PER_TASK`] positions each, then their sums are added in order.
fn channel_sums<const N: usize>(
    channels: usize,
    tensors: [&[f32]; N],
    summands: impl Fn([f32; N], usize) -> [f64; 2] + Sync,
) -> [Vec<f64>; 2] {
    let task_len = ROWS_PER_TASK * channels;
    let task_sums: Vec<[Vec<f64>; 2]> = (0..tensors[0].len().div_ceil(task_len))
        .into_par_iter()
        .map(|task| {
            let range = task * task_len..tensors[0].len().min((task + 1) * task_len);
            let tensors = tensors.map(|values| &values[range.clone()]);
            let mut sums = [vec![0.0; channels], vec![0.0; channels]];
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    // The sums of `LANES` channels from `first` on are in registers.
                    for first in (0..channels).step_by(LANES) {
                        let lanes = LANES.min(channels - first);
                        let mut lane_sums = [[0.0; LANES]; 2];
                        for row_start in (0..tensors[0].len()).step_by(channels) {
                            let values = tensors.map(|values| &values[row_start + first..][..lanes]);
                            for lane in 0..lanes {
                                let added = summands(values.map(|values| values[lane]), first + lane);
                                lane_sums[0][lane] += added[0];
                                lane_sums[1][lane] += added[1];
                            }
                        }
                        for (sums, lane_sums) in sums.iter_mut().zip(lane_sums) {
                            sums[first..first + lanes].copy_from_slice(&lane_sums[..lanes]);
                        }
                    }
                },
            );
            sums
        })
        .collect();
    [0, 1].map(|summand| {
        let total = |channel: usize| task_sums.iter().map(|sums| sums[summand][channel]).sum();
        (0..channels).map(total).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::resnet_spec::ConvGeometry;
    use crate::support::golden_json;
    use crate::trainable::conv_bn::ConvBnUnit;

    /// Named vectors of each case of `reference/backbone/batchnorm.py`.
    type Golden = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

    fn golden(case: &str) -> impl Fn(&str) -> Vec<f32> {
        let vectors = golden_json::<Golden>("batchnorm.json").remove(case).unwrap();
        move |name| vectors[name].iter().map(|value| *value as f32).collect()
    }

    /// Compares with a tolerance relative to each value, also in channels with a small variance.
    fn assert_close_each(ours: &[f32], oracle: &[f32], what: &str) {
        assert_eq!(ours.len(), oracle.len(), "{what}");
        for (index, (ours, oracle)) in ours.iter().zip(oracle).enumerate() {
            assert!(
                (ours - oracle).abs() <= 2e-5 * oracle.abs().max(1e-3),
                "{what} {index}: {ours}, not {oracle}"
            );
        }
    }

    #[test]
    fn normalization_with_running_statistics_matches_pytorch() {
        let golden = golden("running");
        let ScaleShift { scale, shift } =
            ScaleShift::new(&golden("mean"), &golden("variance"), &golden("gamma"), &golden("beta"));
        let ours: Vec<f32> = golden("x")
            .iter()
            .zip(scale.iter().zip(&shift))
            .map(|(x, (scale, shift))| (f64::from(*x) * f64::from(*scale) + f64::from(*shift)) as f32)
            .collect();
        // Cancellation: the operands of the shift are up to 300 times as large as the result.
        for (ours, (oracle, scale)) in ours.iter().zip(golden("y").iter().zip(&scale)) {
            assert!((ours - oracle).abs() <= 1e-6 * scale.abs().max(1.0), "{ours}, not {oracle}");
        }
    }

    /// The channels are constant, spread by 1e-4, by 3e-3 and by 1, and far from 0.
    #[test]
    fn batch_normalization_and_its_gradients_match_pytorch() {
        let golden = golden("batch");
        let (xs, gamma, beta) = (golden("x"), golden("gamma"), golden("beta"));
        let channels = gamma.len();
        let statistics = BatchStatistics::from_activations(channels, &xs);
        assert_eq!(statistics.count, xs.len() / channels);
        let mut out = vec![f32::NAN; xs.len()];
        // `f32` values near 300 have a precision of 3e-5, which is 3e-4 of the spread of that channel.
        let bound = |channel: usize| if channel + 1 == channels { 2e-3 } else { 2e-5 };
        let assert_close = |ours: &[f32], oracle: &[f32], what: &str| {
            assert_eq!(ours.len(), oracle.len(), "{what}");
            for (index, (ours, oracle)) in ours.iter().zip(oracle).enumerate() {
                let gap = (ours - oracle).abs();
                assert!(
                    gap <= bound(index % channels) * oracle.abs().max(1.0),
                    "{what} {index}: {ours}, not {oracle}"
                );
            }
        };
        statistics.normalize(&gamma, &beta, &xs, None, Activation::Identity, &mut out);
        assert_close(&out, &golden("y"), "y");
        statistics.normalize(&gamma, &beta, &xs, Some(&golden("other")), Activation::Relu, &mut out);
        assert_close(&out, &golden("added"), "with a residual and a ReLU");
        assert!(out.iter().filter(|y| **y == 0.0).count() > 10, "the ReLU has an effect");
        let mut grad_x = vec![f32::NAN; xs.len()];
        let [grad_gamma, grad_beta] = statistics.backward(&gamma, &xs, &golden("by_y"), &mut grad_x);
        assert_close(&grad_gamma, &golden("by_gamma"), "gradient of γ");
        assert_close(&grad_beta, &golden("by_beta"), "gradient of β");
        for (index, (ours, oracle)) in grad_x.iter().zip(golden("by_x")).enumerate() {
            // Cancellation errors are scaled by `1 / sqrt(variance + eps)`.
            let scale = gamma[index % channels] * inverse_std(statistics.variance[index % channels]) as f32;
            let gap = (ours - oracle).abs();
            assert!(
                gap <= bound(index % channels) * scale.abs(),
                "gradient of x {index}: {ours}, not {oracle}"
            );
        }
    }

    // effect: tune.batch_norm
    #[test]
    fn updates_of_running_statistics_match_pytorch() {
        let golden = golden("batch");
        let channels = golden("gamma").len();
        let mut unit = ConvBnUnit {
            bn_name: "bn".into(),
            geometry: ConvGeometry { stride: 1, padding: 0 },
            inputs: channels,
            outputs: channels,
            kernel: 1,
            weight_id: 0,
            gamma_id: 1,
            beta_id: 2,
            running_mean: golden("mean_before"),
            running_var: golden("variance_before"),
        };
        unit.update_running_stats(&BatchStatistics::from_activations(channels, &golden("x")));
        assert_close_each(&unit.running_mean, &golden("mean_after"), "mean");
        assert_close_each(&unit.running_var, &golden("variance_after"), "variance");
    }

    #[test]
    fn nan_propagates_through_a_relu() {
        let statistics = BatchStatistics { count: 2, mean: vec![0.0], variance: vec![1.0] };
        let mut out = [0.0; 2];
        statistics.normalize(&[1.0], &[0.0], &[f32::NAN, -1.0], None, Activation::Relu, &mut out);
        assert!(out[0].is_nan() && out[1] == 0.0);
    }
}
