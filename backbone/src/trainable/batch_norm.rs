//! BatchNorm by the statistics of a batch, channels last, and its derivatives.

use pulp::Arch;
use rayon::prelude::*;

use crate::resnet_spec::BATCH_NORM_EPS;

/// Positions that a thread takes at a time; sums of channels are made of the sums of so many.
const ROWS_PER_TASK: usize = 256;
/// Channels whose sums are in registers.
const LANES: usize = 32;

/// `1 / sqrt(variance + ε)`
pub(super) fn inverse_std(variance: f32) -> f64 {
    1.0 / (f64::from(variance) + BATCH_NORM_EPS).sqrt()
}

/// Mean and variance of each channel of `[..., C]`.
#[derive(Clone, Debug)]
pub(super) struct BatchStatistics {
    /// Positions that they are of.
    pub(super) count: usize,
    /// `[C]`
    pub(super) mean: Vec<f32>,
    /// The mean of the squares of what is off the mean, `[C]`.
    pub(super) variance: Vec<f32>,
}

impl BatchStatistics {
    pub(super) fn from_activations(channels: usize, xs: &[f32]) -> Self {
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
    pub(super) fn normalize(
        &self,
        (gamma, beta): (&[f32], &[f32]),
        xs: &[f32],
        other: Option<&[f32]>,
        relu: bool,
        out: &mut [f32],
    ) {
        let channels = gamma.len();
        let scale: Vec<f32> = channel_scales(gamma, &self.variance).map(|scale| scale as f32).collect();
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        let size = ROWS_PER_TASK * channels;
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
        grad_input: &mut [f32],
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
        let mut grad_gamma = Vec::with_capacity(channels);
        for channel in 0..channels {
            let inverse = inverse_std(self.variance[channel]);
            let scale = f64::from(gamma[channel]) * inverse;
            let each = inverse * inverse * products[channel] / self.count as f64;
            of_gradient.push(scale as f32);
            of_x.push((-scale * each) as f32);
            constant.push((-scale * sums[channel] / self.count as f64) as f32);
            grad_gamma.push((inverse * products[channel]) as f32);
        }
        let size = ROWS_PER_TASK * channels;
        let parts = xs.par_chunks(size).zip(gradient.par_chunks(size));
        grad_input.par_chunks_mut(size).zip(parts).for_each(|(out, (xs, gs))| {
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
        [grad_gamma, sums.iter().map(|sum| *sum as f32).collect()]
    }
}

/// `γ / sqrt(variance + ε)`
fn channel_scales(gamma: &[f32], variance: &[f32]) -> impl Iterator<Item = f64> {
    gamma.iter().zip(variance).map(|(gamma, variance)| f64::from(*gamma) * inverse_std(*variance))
}

/// BatchNorm by given statistics: a factor and a shift for each channel.
#[derive(Clone, Debug)]
pub(super) struct ScaleShift {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
}

impl ScaleShift {
    pub(super) fn new(mean: &[f32], variance: &[f32], gamma: &[f32], beta: &[f32]) -> Self {
        let shift = beta
            .iter()
            .zip(mean.iter().zip(channel_scales(gamma, variance)))
            .map(|(beta, (mean, scale))| (f64::from(*beta) - f64::from(*mean) * scale) as f32)
            .collect();
        Self { scale: channel_scales(gamma, variance).map(|scale| scale as f32).collect(), shift }
    }
}

/// For each channel the sums of two numbers that are made of the values of some tensors `[..., C]` at each position.
fn channel_sums<const N: usize>(
    channels: usize,
    tensors: [&[f32]; N],
    summands: impl Fn([f32; N], usize) -> [f64; 2] + Sync,
) -> [Vec<f64>; 2] {
    let size = ROWS_PER_TASK * channels;
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
                        let mut lane_sums = [[0.0; LANES]; 2];
                        for row in (0..tensors[0].len()).step_by(channels) {
                            let values = tensors.map(|values| &values[row + first..][..lanes]);
                            for lane in 0..lanes {
                                let added = summands(values.map(|values| values[lane]), first + lane);
                                lane_sums[0][lane] += added[0];
                                lane_sums[1][lane] += added[1];
                            }
                        }
                        for (sums, of_lanes) in sums.iter_mut().zip(lane_sums) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::resnet_spec::ConvGeometry;
    use crate::support::golden_json;
    use crate::trainable::conv_bn::ConvBnUnit;

    /// What `reference/backbone/batchnorm.py` says.
    type Golden = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

    fn golden(part: &str) -> impl Fn(&str) -> Vec<f32> {
        let values = golden_json::<Golden>("batchnorm.json").remove(part).unwrap();
        move |name| values[name].iter().map(|value| *value as f32).collect()
    }

    /// Each to a share of its own size: channels whose variance is small are not hidden by others.
    fn assert_each(ours: &[f32], oracle: &[f32], what: &str) {
        assert_eq!(ours.len(), oracle.len(), "{what}");
        for (index, (ours, oracle)) in ours.iter().zip(oracle).enumerate() {
            assert!(
                (ours - oracle).abs() <= 2e-5 * oracle.abs().max(1e-3),
                "{what} {index}: {ours}, not {oracle}"
            );
        }
    }

    #[test]
    fn running_statistics_of_any_size_normalise_as_in_pytorch() {
        let of = golden("running");
        let affine = ScaleShift::new(&of("mean"), &of("variance"), &of("gamma"), &of("beta"));
        let ours: Vec<f32> = of("x")
            .iter()
            .zip(affine.scale.iter().zip(&affine.shift))
            .map(|(x, (scale, shift))| (f64::from(*x) * f64::from(*scale) + f64::from(*shift)) as f32)
            .collect();
        // The shift is a difference of numbers up to 300 times as large as what is left.
        for (ours, (oracle, scale)) in ours.iter().zip(of("y").iter().zip(&affine.scale)) {
            assert!((ours - oracle).abs() <= 1e-6 * scale.abs().max(1.0), "{ours}, not {oracle}");
        }
    }

    /// Channels that are all alike, spread by 1e-4, by 3e-3 and by 1, and far from 0.
    #[test]
    fn a_batch_is_normalised_and_its_derivatives_are_as_in_pytorch() {
        let of = golden("batch");
        let (xs, gamma, beta) = (of("x"), of("gamma"), of("beta"));
        let channels = gamma.len();
        let statistics = BatchStatistics::from_activations(channels, &xs);
        assert_eq!(statistics.count, xs.len() / channels);
        let mut out = vec![f32::NAN; xs.len()];
        // `f32` holds a value near 300 to 3e-5, which is 3e-4 of that channel's spread.
        let bound = |channel: usize| if channel + 1 == channels { 2e-3 } else { 2e-5 };
        let near = |ours: &[f32], oracle: &[f32], what: &str| {
            assert_eq!(ours.len(), oracle.len(), "{what}");
            for (index, (ours, oracle)) in ours.iter().zip(oracle).enumerate() {
                let gap = (ours - oracle).abs();
                assert!(
                    gap <= bound(index % channels) * oracle.abs().max(1.0),
                    "{what} {index}: {ours}, not {oracle}"
                );
            }
        };
        statistics.normalize((&gamma, &beta), &xs, None, false, &mut out);
        near(&out, &of("y"), "y");
        statistics.normalize((&gamma, &beta), &xs, Some(&of("other")), true, &mut out);
        near(&out, &of("added"), "with a value added and a ReLU");
        assert!(out.iter().filter(|y| **y == 0.0).count() > 10, "the ReLU is seen");
        let mut by_x = vec![f32::NAN; xs.len()];
        let [by_gamma, by_beta] = statistics.backward(&gamma, &xs, &of("by_y"), &mut by_x);
        near(&by_gamma, &of("by_gamma"), "by γ");
        near(&by_beta, &of("by_beta"), "by β");
        for (index, (ours, oracle)) in by_x.iter().zip(of("by_x")).enumerate() {
            // Sums that cancel are times `1 / sqrt(variance + ε)`.
            let scale = gamma[index % channels] * inverse_std(statistics.variance[index % channels]) as f32;
            let gap = (ours - oracle).abs();
            assert!(gap <= bound(index % channels) * scale.abs(), "by x {index}: {ours}, not {oracle}");
        }
    }

    /// A tenth of the way to the batch's, whose variance is taken with `n - 1`.
    // effect: tune.batch_norm
    #[test]
    fn running_statistics_follow_a_batch_as_in_pytorch() {
        let of = golden("batch");
        let channels = of("gamma").len();
        let mut unit = ConvBnUnit {
            bn_name: "bn".into(),
            geometry: ConvGeometry { stride: 1, padding: 0 },
            inputs: channels,
            outputs: channels,
            kernel: 1,
            weight_id: 0,
            gamma_id: 1,
            beta_id: 2,
            running_mean: of("mean_before"),
            running_var: of("variance_before"),
        };
        unit.update_running_stats(&BatchStatistics::from_activations(channels, &of("x")));
        assert_each(&unit.running_mean, &of("mean_after"), "mean");
        assert_each(&unit.running_var, &of("variance_after"), "variance");
    }

    #[test]
    fn what_is_not_a_number_stays_so_through_a_relu() {
        let statistics = BatchStatistics { count: 2, mean: vec![0.0], variance: vec![1.0] };
        let mut out = [0.0; 2];
        statistics.normalize((&[1.0], &[0.0]), &[f32::NAN, -1.0], None, true, &mut out);
        assert!(out[0].is_nan() && out[1] == 0.0);
    }
}
