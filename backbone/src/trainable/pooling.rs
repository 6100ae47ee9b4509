//! The stem's pool and the average at the end, channels last, and their derivatives.

use pulp::Arch;
use rayon::prelude::*;

/// Sizes of `[N, H, W, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NhwcShape {
    pub(super) images: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl NhwcShape {
    /// Values of a row of a photo.
    fn row_len(self) -> usize {
        self.width * self.channels
    }

    /// Positions of all photos.
    pub(super) fn n_positions(self) -> usize {
        self.images * self.height * self.width
    }

    pub(super) fn n_values(self) -> usize {
        self.n_positions() * self.channels
    }

    /// What the stem's pool gives.
    pub(super) fn after_max_pool(self) -> Self {
        Self { height: self.height.div_ceil(2), width: self.width.div_ceil(2), ..self }
    }
}

/// Positions under a window, along one axis, and the number that the first has within it.
fn window_range(at: usize, side: usize) -> (std::ops::Range<usize>, usize) {
    let first = (2 * at).saturating_sub(1);
    (first..(2 * at + 2).min(side), first + 1 - 2 * at)
}

/// The largest of 3 x 3 values, in steps of 2, with a margin of 1, and which of the nine it is: of equals the first, as in
/// PyTorch.
pub(super) fn max_pool(size: NhwcShape, input: &[f32], out: &mut [f32], which: &mut [u8]) {
    let (pooled, channels) = (size.after_max_pool(), size.channels);
    out.par_chunks_exact_mut(pooled.row_len())
        .zip(which.par_chunks_exact_mut(pooled.row_len()))
        .enumerate()
        .for_each(|(row, (out, which))| {
            let (photo, y) = (row / pooled.height, row % pooled.height);
            let (rows, first_row) = window_range(y, size.height);
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let cells = out.chunks_exact_mut(channels).zip(which.chunks_exact_mut(channels));
                    for (x, (out, which)) in cells.enumerate() {
                        let (columns, first_column) = window_range(x, size.width);
                        out.fill(f32::NEG_INFINITY);
                        for (down, from_y) in rows.clone().enumerate() {
                            for (right, from_x) in columns.clone().enumerate() {
                                let number = (3 * (first_row + down) + first_column + right) as u8;
                                let at = (photo * size.height + from_y) * size.row_len() + from_x * channels;
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
pub(super) fn max_pool_backward(size: NhwcShape, gradient: &[f32], which: &[u8], by_input: &mut [f32]) {
    let (pooled, channels) = (size.after_max_pool(), size.channels);
    by_input.par_chunks_exact_mut(size.row_len()).enumerate().for_each(|(row, by_input)| {
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
pub(super) fn global_avg_pool(size: NhwcShape, input: &[f32]) -> Vec<f32> {
    let channels = size.channels;
    let share = 1.0 / (size.height * size.width) as f32;
    let mut out = vec![0.0; size.images * channels];
    out.par_chunks_exact_mut(channels).zip(input.par_chunks_exact(size.height * size.row_len())).for_each(
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
pub(super) fn global_avg_pool_backward(size: NhwcShape, gradient: &[f32], ys: &[f32], by_input: &mut [f32]) {
    let (channels, photo) = (size.channels, size.height * size.row_len());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of a photo's sides, and the pool of each position by hand: PyTorch's `max_pool2d(3, stride=2, padding=1)`.
    const SIDES: [(usize, usize); 6] = [(1, 1), (1, 6), (5, 1), (4, 4), (5, 7), (6, 3)];

    /// Values of few kinds, some negative and many alike.
    fn values(size: NhwcShape) -> Vec<f32> {
        (0..size.n_values()).map(|at| ((at * 7 + at / 5) % 4) as f32 - 2.5).collect()
    }

    /// Of each output the place of the first of the largest values of its window, row by row.
    fn argmax_positions(size: NhwcShape, xs: &[f32]) -> Vec<usize> {
        let mut places = Vec::new();
        let (rows, columns) = (size.height.div_ceil(2), size.width.div_ceil(2));
        for (photo, y, x) in (0..size.images)
            .flat_map(|photo| (0..rows).flat_map(move |y| (0..columns).map(move |x| (photo, y, x))))
        {
            for channel in 0..size.channels {
                let mut best: Option<usize> = None;
                for (down, right) in (0..3).flat_map(|down| (0..3).map(move |right| (down, right))) {
                    let (row, column) = ((2 * y + down).wrapping_sub(1), (2 * x + right).wrapping_sub(1));
                    if row < size.height && column < size.width {
                        let at =
                            ((photo * size.height + row) * size.width + column) * size.channels + channel;
                        best = best.filter(|&best| xs[at] <= xs[best]).or(Some(at));
                    }
                }
                places.push(best.unwrap());
            }
        }
        places
    }

    #[test]
    fn the_pool_takes_the_first_of_the_largest_and_gives_the_derivative_back_to_it() {
        for (height, width) in SIDES {
            for channels in [1, 3, 40] {
                let size = NhwcShape { images: 2, height, width, channels };
                let xs = values(size);
                let expected = argmax_positions(size, &xs);
                let pooled = size.after_max_pool();
                assert_eq!(pooled.n_values(), expected.len());
                let (mut out, mut which) = (vec![f32::NAN; expected.len()], vec![u8::MAX; expected.len()]);
                max_pool(size, &xs, &mut out, &mut which);
                assert_eq!(out, expected.iter().map(|&at| xs[at]).collect::<Vec<_>>(), "{size:?}");
                let gradient: Vec<f32> = (0..out.len()).map(|at| at as f32 + 1.0).collect();
                let mut by_input = vec![f32::NAN; xs.len()];
                max_pool_backward(size, &gradient, &which, &mut by_input);
                let mut expected_by_input = vec![0.0; xs.len()];
                expected.iter().zip(&gradient).for_each(|(&at, g)| expected_by_input[at] += g);
                assert_eq!(by_input, expected_by_input, "{size:?}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_goes_through_the_pool() {
        let size = NhwcShape { images: 1, height: 3, width: 3, channels: 1 };
        for at in 0..9 {
            let mut xs = vec![1.0; 9];
            xs[at] = f32::NAN;
            let (mut out, mut which) = ([0.0; 4], [0; 4]);
            max_pool(size, &xs, &mut out, &mut which);
            // The windows of a position: those whose middle, an even place, is next to it.
            for (window, out) in out.iter().enumerate() {
                let is_under =
                    (at / 3).abs_diff(2 * (window / 2)) < 2 && (at % 3).abs_diff(2 * (window % 2)) < 2;
                assert_eq!(out.is_nan(), is_under, "{at} {window}");
            }
        }
    }

    #[test]
    fn the_average_is_over_positions_and_its_derivative_passes_where_the_relu_gave_more_than_0() {
        let size = NhwcShape { images: 2, height: 2, width: 3, channels: 2 };
        let mut ys: Vec<f32> = (0..24).map(|at| at as f32 + 1.0).collect();
        ys[4] = 0.0;
        ys[7] = -0.0;
        ys[13] = -3.0;
        ys[14] = 1e-40;
        // Photo by photo and channel by channel: sums of every other value.
        let sums = [1.0 + 3.0 + 0.0 + 7.0 + 9.0 + 11.0, 2.0 + 4.0 + 6.0 + 0.0 + 10.0 + 12.0];
        let second = [13.0 + 1e-40 + 17.0 + 19.0 + 21.0 + 23.0, -3.0 + 16.0 + 18.0 + 20.0 + 22.0 + 24.0];
        let average = global_avg_pool(size, &ys);
        for (ours, sum) in average.iter().zip(sums.iter().chain(&second)) {
            assert!((ours - sum / 6.0f32).abs() < 1e-5, "{ours}, not {sum} / 6");
        }
        let mut by_input = [f32::NAN; 24];
        global_avg_pool_backward(size, &[6.0, 12.0, -6.0, 18.0], &ys, &mut by_input);
        let share = 1.0f32 / 6.0;
        for (at, value) in by_input.iter().enumerate() {
            let g = [[6.0, 12.0], [-6.0, 18.0]][at / 12][at % 2];
            let expected = if [4, 7, 13].contains(&at) { 0.0 } else { share * g };
            assert_eq!(*value, expected, "{at}");
        }
    }
}
