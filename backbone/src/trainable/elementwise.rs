//! What joins the branches of a block, and the stem's pool: on the CPU, channels last, and their derivatives.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{values, with_values};

/// Values that a thread takes at a time.
const VALUES: usize = 1 << 16;

/// `max(a + b, 0)`; the derivative at 0 is 0, as PyTorch's.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddRelu;

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add-relu"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (values(a, a_layout)?, values(b, b_layout)?);
        if a.len() != b.len() {
            candle_core::bail!("{:?} and {:?} are not of one size", a_layout.shape(), b_layout.shape());
        }
        let mut out = vec![0.0; a.len()];
        let parts = a.par_chunks(VALUES).zip(b.par_chunks(VALUES));
        out.par_chunks_mut(VALUES).zip(parts).for_each(|(out, (a, b))| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                let sum = a + b;
                *out = if sum < 0.0 { 0.0 } else { sum };
            }
        });
        Ok((CpuStorage::F32(out), a_layout.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let passed = with_values([out, gradient], |[ys, gs]| {
            let mut passed = vec![0.0; ys.len()];
            let parts = ys.par_chunks(VALUES).zip(gs.par_chunks(VALUES));
            passed.par_chunks_mut(VALUES).zip(parts).for_each(|(out, (ys, gs))| {
                for ((out, y), g) in out.iter_mut().zip(ys).zip(gs) {
                    *out = if *y > 0.0 { *g } else { 0.0 };
                }
            });
            Tensor::from_vec(passed, out.shape(), out.device())
        })?;
        Ok((a.track_op().then(|| passed.clone()), b.track_op().then_some(passed)))
    }
}

/// The largest of 3 x 3 values, in steps of 2, with a margin of 1: `[N, H, W, C]` to `[N, H', W', C]`, sides halved and rounded
/// up. Of equals the first one has the derivative, as in PyTorch.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxPool;

impl MaxPool {
    /// Calls `act` with each position that comes out and the positions under it, in order.
    fn windows([height, width]: [usize; 2], mut act: impl FnMut(usize, &[usize])) {
        let around = |at: usize, side: usize| (2 * at).saturating_sub(1)..(2 * at + 2).min(side);
        let mut under = Vec::with_capacity(9);
        for y in 0..height.div_ceil(2) {
            for x in 0..width.div_ceil(2) {
                under.clear();
                for from_y in around(y, height) {
                    under.extend(around(x, width).map(|from_x| from_y * width + from_x));
                }
                act(y * width.div_ceil(2) + x, &under);
            }
        }
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (photos, height, width, channels) = layout.shape().dims4()?;
        let out_size = [height.div_ceil(2), width.div_ceil(2)];
        let mut out = vec![f32::NEG_INFINITY; photos * out_size[0] * out_size[1] * channels];
        let photos_in = values(input, layout)?.par_chunks_exact(height * width * channels);
        out.par_chunks_exact_mut(out_size[0] * out_size[1] * channels).zip(photos_in).for_each(
            |(out, xs)| {
                Self::windows([height, width], |to, under| {
                    let out = &mut out[to * channels..][..channels];
                    for &from in under {
                        for (top, &x) in out.iter_mut().zip(&xs[from * channels..]) {
                            // What is not a number stays.
                            if x > *top || x.is_nan() {
                                *top = x;
                            }
                        }
                    }
                });
            },
        );
        Ok((CpuStorage::F32(out), (photos, out_size[0], out_size[1], channels).into()))
    }

    fn bwd(&self, input: &Tensor, out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, channels) = input.dims4()?;
        with_values([input, out, gradient], |[xs, ys, gs]| {
            let mut by_input = vec![0.0; xs.len()];
            let (size, out_size) =
                (height * width * channels, height.div_ceil(2) * width.div_ceil(2) * channels);
            let parts = xs
                .par_chunks_exact(size)
                .zip(ys.par_chunks_exact(out_size).zip(gs.par_chunks_exact(out_size)));
            by_input.par_chunks_exact_mut(size).zip(parts).for_each(|(by_input, (xs, (ys, gs)))| {
                Self::windows([height, width], |at, under| {
                    for channel in 0..channels {
                        let at = at * channels + channel;
                        let first = under.iter().find(|&&from| xs[from * channels + channel] == ys[at]);
                        if let Some(from) = first {
                            by_input[from * channels + channel] += gs[at];
                        }
                    }
                });
            });
            Tensor::from_vec(by_input, input.shape(), input.device()).map(Some)
        })
    }
}
