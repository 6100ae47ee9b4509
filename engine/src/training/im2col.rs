//! im2col: the inputs under a kernel, copied to where a tile reads them.

use std::ops::Range;

use crate::cache_line::CacheLine;

/// For each position of a grid, the values of a source `[N, H, W, C]` under the taps of a kernel, in the
/// order `[tap along H][tap along W][channel]`: at row `y` of the grid, tap `t` reads row `y * stride + first
/// + t`, or zeros outside the source. Columns alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Im2col {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) taps: [usize; 2],
    pub(super) stride: usize,
    pub(super) first: [isize; 2],
    /// Height and width of the grid.
    pub(super) grid: [usize; 2],
}

impl Im2col {
    /// Values of a row of taps.
    pub(super) fn tap_row_len(&self) -> usize {
        self.taps[1] * self.channels
    }

    /// Values of all taps.
    pub(super) fn depth(&self) -> usize {
        self.taps[0] * self.tap_row_len()
    }

    /// Whether there are no taps.
    pub(super) fn is_empty(&self) -> bool {
        self.depth() == 0
    }

    /// Offset in the image of the source row under row `tap` of the taps, at row `y` of the grid; `None`
    /// outside.
    #[inline(always)]
    fn source_row(&self, y: usize, tap: usize) -> Option<usize> {
        let row = (y * self.stride + tap).checked_add_signed(self.first[0])?;
        (row < self.height).then_some(row * self.width * self.channels)
    }

    /// Offset in the source row of the first tap, at column `x` of the grid; negative in the padding.
    #[inline(always)]
    fn source_column(&self, x: usize) -> isize {
        ((x * self.stride).cast_signed() + self.first[1]) * self.channels.cast_signed()
    }
}

/// The positions of the grid in all images of a batch, numbered by image, row and column.
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

    /// Image, row and column of a position.
    #[inline(always)]
    pub(super) fn locate(&self, position: usize) -> (usize, usize, usize) {
        let [height, width] = self.im2col.grid;
        let (row, x) = (position / width, position % width);
        (row / height, row % height, x)
    }
}

/// Bytes between two rows of [`pack_rows`]: one cache line more than [`MAX_STEPS`] values, so that the rows
/// of a tile map to different cache sets.
pub(super) const ROW_BYTES: usize = (MAX_STEPS + 16) * 4;
/// Maximum number of steps of a sum that are packed at once.
pub(super) const MAX_STEPS: usize = 512;

/// Copies the values `steps` of `rows` positions, from position `first` on, to rows of [`ROW_BYTES`] bytes at
/// `dst`.
///
/// # Safety
/// `input` must be the whole source, `dst` valid for writes of `rows` rows; positions and steps must be
/// inside, with at most [`MAX_STEPS`] steps.
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
        let mut dst: *mut f32 = unsafe { dst.cast::<u8>().add(row * ROW_BYTES).cast() };
        let column = im2col.source_column(x);
        let mut step = steps.start;
        while step < steps.end {
            let (tap, start) = (step / tap_row_len, step % tap_row_len);
            let len = (tap_row_len - start).min(steps.end - step);
            // SAFETY: `dst` has space for all steps.
            unsafe {
                match im2col.source_row(y, tap) {
                    Some(offset) => {
                        let source = &input[image * image_len + offset..][..row_len];
                        copy_padded(source, column + start.cast_signed(), len, dst);
                    }
                    None => dst.write_bytes(0, len),
                }
                dst = dst.add(len);
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

/// Copies `len` values of `row` from `start` on, with zeros for indices outside the row.
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

/// Values `start..start + len` of row `tap` of the taps; at most 16.
#[derive(Clone, Copy)]
pub(super) struct TapRange {
    pub(super) tap: usize,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Copies the values of a [`TapRange`] at some positions to a cache line each. The rest of each line is
/// undefined.
///
/// # Safety
/// `input` must be the whole source, `dst` valid for writes of a line per position; positions and the range
/// must be inside.
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
    let step = im2col.stride * im2col.channels;
    let (mut image, mut y, mut x) = grid.locate(positions.start);
    let mut remaining = positions.len();
    while remaining > 0 {
        let count = (im2col.grid[1] - x).min(remaining);
        let first = im2col.source_column(x) + range.start.cast_signed();
        // SAFETY: `dst` has a line for each position; 16 values are read inside the source, or those inside
        // the row.
        unsafe {
            match im2col.source_row(y, range.tap) {
                None => dst.write_bytes(0, count),
                Some(offset) => {
                    let row = image * image_len + offset;
                    for index in 0..count {
                        let start = first + (index * step).cast_signed();
                        let end = start + range.len.cast_signed();
                        let source = row.wrapping_add_signed(start);
                        if start >= 0 && end <= row_len.cast_signed() && source + 16 <= input.len() {
                            let line = input.as_ptr().add(source).cast::<CacheLine>().read_unaligned();
                            dst.add(index).write(line);
                        } else {
                            copy_padded(&input[row..][..row_len], start, range.len, dst.add(index).cast());
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
