//! The stem's pool and the average at the end, channels last, and their derivatives.

use pulp::Arch;
use rayon::prelude::*;

/// Sizes of `[N, H, W, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) photos: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl Size {
    /// Values of a row of a photo.
    fn row(self) -> usize {
        self.width * self.channels
    }

    /// Positions of all photos.
    pub(super) fn positions(self) -> usize {
        self.photos * self.height * self.width
    }

    pub(super) fn values(self) -> usize {
        self.positions() * self.channels
    }

    /// What the stem's pool gives.
    pub(super) fn pooled(self) -> Self {
        Self { height: self.height.div_ceil(2), width: self.width.div_ceil(2), ..self }
    }
}

/// Positions under a window, along one axis, and the number that the first has within it.
fn under(at: usize, side: usize) -> (std::ops::Range<usize>, usize) {
    let first = (2 * at).saturating_sub(1);
    (first..(2 * at + 2).min(side), first + 1 - 2 * at)
}

/// The largest of 3 x 3 values, in steps of 2, with a margin of 1, and which of the nine it is: of equals the first, as in
/// PyTorch.
pub(super) fn max_pool(size: Size, input: &[f32], out: &mut [f32], which: &mut [u8]) {
    let (pooled, channels) = (size.pooled(), size.channels);
    out.par_chunks_exact_mut(pooled.row())
        .zip(which.par_chunks_exact_mut(pooled.row()))
        .enumerate()
        .for_each(|(row, (out, which))| {
            let (photo, y) = (row / pooled.height, row % pooled.height);
            let (rows, first_row) = under(y, size.height);
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let cells = out.chunks_exact_mut(channels).zip(which.chunks_exact_mut(channels));
                    for (x, (out, which)) in cells.enumerate() {
                        let (columns, first_column) = under(x, size.width);
                        out.fill(f32::NEG_INFINITY);
                        for (down, from_y) in rows.clone().enumerate() {
                            for (right, from_x) in columns.clone().enumerate() {
                                let number = (3 * (first_row + down) + first_column + right) as u8;
                                let at = (photo * size.height + from_y) * size.row() + from_x * channels;
                                let xs = &input[at..at + channels];
                                for ((top, which), &x) in out.iter_mut().zip(which.iter_mut()).zip(xs) {
                                    // What is not a number stays.
                                    let larger = x > *top || x.is_nan();
                                    *which = if larger { number } else { *which };
                                    *top = if larger { x } else { *top };
                                }
                            }
                        }
                    }
                },
            );
        });
}

/// The derivative by the pool's input, of `[N, H, W, C]`.
pub(super) fn max_pool_backward(size: Size, gradient: &[f32], which: &[u8], by_input: &mut [f32]) {
    let (pooled, channels) = (size.pooled(), size.channels);
    by_input.par_chunks_exact_mut(size.row()).enumerate().for_each(|(row, by_input)| {
        let (photo, y) = (row / size.height, row % size.height);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (x, by_input) in by_input.chunks_exact_mut(channels).enumerate() {
                    by_input.fill(0.0);
                    for window_y in y / 2..(y / 2 + 1 + y % 2).min(pooled.height) {
                        for window_x in x / 2..(x / 2 + 1 + x % 2).min(pooled.width) {
                            let number = (3 * (y + 1 - 2 * window_y) + x + 1 - 2 * window_x) as u8;
                            let at =
                                ((photo * pooled.height + window_y) * pooled.width + window_x) * channels;
                            let (gs, which) = (&gradient[at..at + channels], &which[at..at + channels]);
                            for ((sum, g), which) in by_input.iter_mut().zip(gs).zip(which) {
                                *sum += if *which == number { *g } else { 0.0 };
                            }
                        }
                    }
                }
            },
        );
    });
}

/// Means over the positions of each photo, `[N, C]`.
pub(super) fn average(size: Size, input: &[f32]) -> Vec<f32> {
    let channels = size.channels;
    let share = 1.0 / (size.height * size.width) as f32;
    let mut out = vec![0.0; size.photos * channels];
    out.par_chunks_exact_mut(channels).zip(input.par_chunks_exact(size.height * size.row())).for_each(
        |(out, photo)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for xs in photo.chunks_exact(channels) {
                        out.iter_mut().zip(xs).for_each(|(sum, x)| *sum += x);
                    }
                    out.iter_mut().for_each(|sum| *sum *= share);
                },
            );
        },
    );
    out
}

/// The derivative by the average's input `ys` where that is above 0, and 0 elsewhere: it is what a ReLU gave.
pub(super) fn average_backward(size: Size, gradient: &[f32], ys: &[f32], by_input: &mut [f32]) {
    let (channels, photo) = (size.channels, size.height * size.row());
    let share = 1.0 / (size.height * size.width) as f32;
    let parts = gradient.par_chunks_exact(channels).zip(ys.par_chunks_exact(photo));
    by_input.par_chunks_exact_mut(photo).zip(parts).for_each(|(by_input, (gs, ys))| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (out, ys) in by_input.chunks_exact_mut(channels).zip(ys.chunks_exact(channels)) {
                    for ((out, y), g) in out.iter_mut().zip(ys).zip(gs) {
                        *out = if *y > 0.0 { share * g } else { 0.0 };
                    }
                }
            },
        );
    });
}
