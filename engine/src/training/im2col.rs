//! im2col: copies the inputs under a convolution's kernel to where a tile of the GEMM reads them.

use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::conv_shape::ConvShape;

/// Describes the im2col matrix: for each position of a grid, a row with the values of a source `[N, H, W, C]`
/// under the taps of a kernel, in the order `[tap along H][tap along W][channel]`. At row `y` of the grid,
/// tap `t` reads row `y * stride + first + t` of the source, or zeros outside; the same for columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Im2col {
    /// `H`
    pub(super) height: usize,
    /// `W`
    pub(super) width: usize,
    /// `C`
    pub(super) channels: usize,
    /// Number of taps along both axes.
    pub(super) taps: [usize; 2],
    pub(super) stride: usize,
    /// Row and column of the source under the first tap at the first position; negative in the padding.
    pub(super) first: [isize; 2],
    /// Height and width of the grid.
    pub(super) grid: [usize; 2],
}

impl Im2col {
    /// The im2col matrix of the forward pass of a convolution: the inputs under the kernel at each position of the output.
    pub(super) fn for_forward(shape: &ConvShape) -> Self {
        let first = -shape.padding.cast_signed();
        Self {
            height: shape.height,
            width: shape.width,
            channels: shape.inputs,
            taps: [shape.kernel; 2],
            stride: shape.stride,
            first: [first; 2],
            grid: shape.output_size(),
        }
    }

    /// Number of source values under one row of the kernel's taps (cells): `taps[1] * channels`, adjacent in
    /// a row of the source.
    pub(super) fn tap_row_len(&self) -> usize {
        self.taps[1] * self.channels
    }

    /// Number of values under all taps: columns of the matrix, the length of the GEMM's sums.
    pub(super) fn depth(&self) -> usize {
        self.taps[0] * self.tap_row_len()
    }

    /// Whether there are no taps, so that all sums are 0.
    pub(super) fn is_empty(&self) -> bool {
        self.depth() == 0
    }

    /// Offset in an image of the source row that lies under row `tap_row` of the kernel's taps (cells), with
    /// the kernel at row `y` of the grid; `None` if that is in the padding.
    #[inline(always)]
    fn source_row(&self, y: usize, tap_row: usize) -> Option<usize> {
        let row = (y * self.stride + tap_row).checked_add_signed(self.first[0])?;
        (row < self.height).then_some(row * self.width * self.channels)
    }

    /// Offset in a source row of the values under the kernel's first tap (cell), with the kernel at column
    /// `x` of the grid; negative if that is in the padding.
    #[inline(always)]
    fn source_column(&self, x: usize) -> isize {
        ((x * self.stride).cast_signed() + self.first[1]) * self.channels.cast_signed()
    }
}

/// The positions of the grid in all images of a batch, numbered by image, row and column: the rows of the
/// im2col matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct PositionGrid {
    pub(super) batch: usize,
    pub(super) im2col: Im2col,
}

impl PositionGrid {
    /// Number of positions.
    pub(super) fn positions(&self) -> usize {
        self.batch * self.im2col.grid[0] * self.im2col.grid[1]
    }

    /// Finds position `position`, where positions are counted over all images. Returns the index of its
    /// image, and its row and column in the grid.
    #[inline(always)]
    pub(super) fn locate(&self, position: usize) -> (usize, usize, usize) {
        let [height, width] = self.im2col.grid;
        let (batch_row, x) = (position / width, position % width);
        (batch_row / height, batch_row % height, x)
    }
}

/// Bytes between two rows of [`pack_rows`]: one cache line more than [`MAX_STEPS`] values, so that the rows
/// of a tile map to different cache sets.
pub(super) const ROW_BYTES: usize = (MAX_STEPS + 16) * 4;
/// Maximum number of steps of a sum that are packed at once.
pub(super) const MAX_STEPS: usize = 512;

/// Writes a part of the im2col matrix, which has a row per position of the kernel and a column per input
/// value under the kernel, to `dst`, where the GEMM of a convolution reads it as activations: `rows` rows
/// from position `first` on, of each the columns `steps` (the steps of the GEMM's sums). `input` is the
/// source, `[N, H, W, C]`. Rows are [`ROW_BYTES`] bytes apart in `dst`.
///
/// # Safety
/// `input` must be the whole source, `dst` valid for writes of `rows` rows; positions and steps must be
/// inside the matrix, with at most [`MAX_STEPS`] steps.
#[inline(always)]
pub(super) unsafe fn pack_rows(
    grid: &PositionGrid,
    input: &[f32],
    first: usize,
    rows: usize,
    steps: Range<usize>,
    dst: *mut CacheLine,
) {
    let im2col = &grid.im2col;
    let (tap_row_len, row_len) = (im2col.tap_row_len(), im2col.width * im2col.channels);
    let image_len = im2col.height * row_len;
    let (mut image, mut y, mut x) = grid.locate(first);
    for row in 0..rows {
        // SAFETY: `dst` has space for the row.
        let mut row_dst: *mut f32 = unsafe { dst.cast::<u8>().add(row * ROW_BYTES).cast() };
        let column = im2col.source_column(x);
        let mut step = steps.start;
        while step < steps.end {
            // The steps up to the end of a row of taps are adjacent in the source.
            let (tap_row, start) = (step / tap_row_len, step % tap_row_len);
            let len = (tap_row_len - start).min(steps.end - step);
            // SAFETY: `dst` has space for all steps.
            unsafe {
                match im2col.source_row(y, tap_row) {
                    Some(offset) => {
                        let source = &input[image * image_len + offset..][..row_len];
                        copy_padded(source, column + start.cast_signed(), len, row_dst);
                    }
                    None => row_dst.write_bytes(0, len), // padding
                }
                row_dst = row_dst.add(len);
            }
            step += len;
        }
        x += 1;
        if x == im2col.grid[1] {
            (x, y) = (0, y + 1);
            if y == im2col.grid[0] {
                (y, image) = (0, image + 1);
            }
        }
    }
}

/// Copies to `dst` the `len` values from index `start` on of `row`, a row of an image, with zeros for indices
/// outside the row, where the convolution's kernel is over the padding. `start` is negative if the kernel
/// begins left of the row.
///
/// # Safety
/// `dst` must be valid for writes of `len` values.
#[inline(always)]
unsafe fn copy_padded(row: &[f32], start: isize, len: usize, dst: *mut f32) {
    let valid_start = (-start).clamp(0, len.cast_signed());
    let valid_end = (row.len().cast_signed() - start).clamp(valid_start, len.cast_signed()) as usize;
    let valid_start = valid_start as usize;
    // SAFETY: the range of valid values is inside the row and the destination.
    unsafe {
        if valid_start > 0 {
            dst.write_bytes(0, valid_start);
        }
        if valid_start < valid_end {
            let src = row.as_ptr().add(valid_start.wrapping_add_signed(start));
            dst.add(valid_start).copy_from_nonoverlapping(src, valid_end - valid_start);
        }
        if valid_end < len {
            dst.add(valid_end).write_bytes(0, len - valid_end);
        }
    }
}

/// A range of at most 16 columns of the im2col matrix: the values `start..start + len` under row `tap_row` of
/// the kernel's taps (cells). They are the rows of a tile in the GEMM of the gradient of the weights.
#[derive(Clone, Copy)]
pub(super) struct TapRange {
    pub(super) tap_row: usize,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Writes the columns `range`, at most 16, of the im2col matrix (the input values under the kernel, a row per
/// position) at the positions `positions` to `dst`, a cache line per position. The GEMM of the gradient of
/// the weights, whose sums go over positions, reads them there. The rest of each line has no meaning. `input`
/// is the source, `[N, H, W, C]`.
///
/// # Safety
/// `input` must be the whole source, `dst` valid for writes of a line per position; positions and the range
/// must be inside the im2col matrix.
#[inline(always)]
pub(super) unsafe fn pack_lines(
    grid: &PositionGrid,
    input: &[f32],
    positions: Range<usize>,
    range: TapRange,
    mut dst: *mut CacheLine,
) {
    let im2col = &grid.im2col;
    let row_len = im2col.width * im2col.channels;
    let image_len = im2col.height * row_len;
    let position_stride = im2col.stride * im2col.channels;
    let (mut image, mut y, mut x) = grid.locate(positions.start);
    let mut remaining = positions.len();
    while remaining > 0 {
        // The positions up to the end of a row of the grid read the same row of the source.
        let count = (im2col.grid[1] - x).min(remaining);
        let first = im2col.source_column(x) + range.start.cast_signed();
        // SAFETY: `dst` has a line for each position; 16 values are read inside the source, or those inside
        // the row.
        unsafe {
            match im2col.source_row(y, range.tap_row) {
                None => dst.write_bytes(0, count), // padding
                Some(offset) => {
                    let row_start = image * image_len + offset;
                    for index in 0..count {
                        let start = first + (index * position_stride).cast_signed();
                        let end = start + range.len.cast_signed();
                        let source = row_start.wrapping_add_signed(start);
                        if start >= 0 && end <= row_len.cast_signed() && source + 16 <= input.len() {
                            let line = input.as_ptr().add(source).cast::<CacheLine>().read_unaligned();
                            dst.add(index).write(line);
                        } else {
                            let row = &input[row_start..][..row_len];
                            copy_padded(row, start, range.len, dst.add(index).cast());
                        }
                    }
                }
            }
            dst = dst.add(count);
        }
        remaining -= count;
        x = 0;
        y += 1;
        if y == im2col.grid[0] {
            (y, image) = (0, image + 1);
        }
    }
}
