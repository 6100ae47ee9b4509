//! What lies under a kernel, copied to where a tile reads it.

use crate::cache_line::CacheLine;

/// For each position of a grid the values under taps of a source `[N, H, W, C]`: row `y` of the grid and tap `t` see row
/// `y * stride + first + t`, or zeros where there is none. They are in the order `[tap along H][tap along W][channel]`.
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

    pub(super) fn is_empty(&self) -> bool {
        self.depth() == 0
    }

    /// Where the values under a row of taps start in the photo, if it is inside; the position and the tap are rows.
    #[inline(always)]
    fn source_row(&self, y: usize, tap: usize) -> Option<usize> {
        let row = (y * self.stride + tap).checked_add_signed(self.first[0])?;
        (row < self.height).then_some(row * self.width * self.channels)
    }

    /// Where the values under a row of taps start, seen from the start of the row.
    #[inline(always)]
    fn source_column(&self, x: usize) -> isize {
        ((x * self.stride).cast_signed() + self.first[1]) * self.channels.cast_signed()
    }
}

/// The positions of some photos, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct PositionGrid {
    pub(super) batch: usize,
    pub(super) im2col: Im2col,
}

impl PositionGrid {
    pub(super) fn positions(&self) -> usize {
        self.batch * self.im2col.grid[0] * self.im2col.grid[1]
    }

    /// Photo, row and column.
    #[inline(always)]
    pub(super) fn locate(&self, position: usize) -> (usize, usize, usize) {
        let [height, width] = self.im2col.grid;
        let (row, x) = (position / width, position % width);
        (row / height, row % height, x)
    }
}

/// Bytes of a row of a block of rows: whole cells, and one more, so that rows of a tile fall on sets of their own in a cache.
pub(super) const ROW_BYTES: usize = (MAX_STEPS + 16) * 4;
/// Steps of a sum that are taken at once, at most.
pub(super) const MAX_STEPS: usize = 512;

/// Copies the values `steps` of positions from `first` on to `rows` rows at `to`.
///
/// # Safety
/// `from` is the whole source; `to` is valid for writes of `rows` rows of [`ROW`] bytes; positions and steps are inside, and steps no
/// more than [`STEPS`].
#[inline(always)]
pub(super) unsafe fn pack_rows(
    grid: &PositionGrid,
    input: &[f32],
    first: usize,
    rows: usize,
    steps: std::ops::Range<usize>,
    dst: *mut CacheLine,
) {
    let im2col = &grid.im2col;
    let (tap_row_len, row_len) = (im2col.tap_row_len(), im2col.width * im2col.channels);
    let image_len = im2col.height * row_len;
    let (mut image, mut y, mut x) = grid.locate(first);
    for row in 0..rows {
        // SAFETY: the caller has room for the row.
        let mut row_dst: *mut f32 = unsafe { dst.cast::<u8>().add(row * ROW_BYTES).cast() };
        let column = im2col.source_column(x);
        let mut step = steps.start;
        while step < steps.end {
            let (tap, start) = (step / tap_row_len, step % tap_row_len);
            let len = (tap_row_len - start).min(steps.end - step);
            let column_start = column + start.cast_signed();
            // SAFETY: what is copied is inside the row of the photo; zeros and values are as many as there are steps.
            unsafe {
                match im2col.source_row(y, tap) {
                    Some(row_start) => {
                        let valid_start = (-column_start).clamp(0, len.cast_signed()) as usize;
                        let valid_end = (row_len.cast_signed() - column_start)
                            .clamp(valid_start.cast_signed(), len.cast_signed())
                            as usize;
                        let start_index = image * image_len + row_start;
                        copy_padded(
                            input,
                            start_index.wrapping_add_signed(column_start),
                            valid_start..valid_end,
                            len,
                            row_dst,
                        );
                    }
                    None => row_dst.write_bytes(0, len),
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

/// `length` values, from `from[at]` on, of which those of a range are there, and the others are zeros.
///
/// # Safety
/// The range of values is inside, and `to` is valid for writes of `length`.
#[inline(always)]
unsafe fn copy_padded(input: &[f32], start: usize, range: std::ops::Range<usize>, len: usize, dst: *mut f32) {
    debug_assert!(range.is_empty() || start.wrapping_add(range.end) <= input.len());
    // SAFETY: the caller's promise.
    unsafe {
        if range.start > 0 {
            dst.write_bytes(0, range.start);
        }
        if !range.is_empty() {
            dst.add(range.start)
                .copy_from_nonoverlapping(input.as_ptr().add(start.wrapping_add(range.start)), range.len());
        }
        if range.end < len {
            dst.add(range.end).write_bytes(0, len - range.end);
        }
    }
}

/// Copies 16 values of a row of taps, from `start` on, of some positions, to a cell each. Those past the first `wanted` may be
/// anything.
///
/// # Safety
/// `from` is the whole source; `to` is valid for writes of a cell for each position; positions, the tap and `start..start + wanted` are inside.
#[inline(always)]
pub(super) unsafe fn pack_lines(
    grid: &PositionGrid,
    input: &[f32],
    positions: std::ops::Range<usize>,
    (tap, start, count): (usize, usize, usize),
    dst: *mut CacheLine,
) {
    let im2col = &grid.im2col;
    let row_len = im2col.width * im2col.channels;
    let image_len = im2col.height * row_len;
    let step = im2col.stride * im2col.channels;
    let (mut image, mut y, mut x) = grid.locate(positions.start);
    let mut dst = dst;
    let mut remaining = positions.len();
    while remaining > 0 {
        let run = (im2col.grid[1] - x).min(remaining);
        let column_start = im2col.source_column(x) + start.cast_signed();
        // SAFETY: a cell for each position; values are read inside the row of the photo, or 16 inside the source.
        unsafe {
            match im2col.source_row(y, tap) {
                None => dst.write_bytes(0, run),
                Some(row) => {
                    let row_start = image * image_len + row;
                    for index in 0..run {
                        let lane_start = column_start + (index * step).cast_signed();
                        let lane_end = lane_start + count.cast_signed();
                        let line: *mut f32 = dst.add(index).cast();
                        let start_index = row_start.wrapping_add_signed(lane_start);
                        if lane_start >= 0
                            && lane_end <= row_len.cast_signed()
                            && start_index + 16 <= input.len()
                        {
                            line.cast::<CacheLine>()
                                .write(input.as_ptr().add(start_index).cast::<CacheLine>().read_unaligned());
                        } else {
                            let valid_start = (-lane_start).clamp(0, count.cast_signed()) as usize;
                            let valid_end = (row_len.cast_signed() - lane_start)
                                .clamp(valid_start.cast_signed(), count.cast_signed());
                            copy_padded(input, start_index, valid_start..valid_end as usize, count, line);
                        }
                    }
                }
            }
            dst = dst.add(run);
        }
        remaining -= run;
        x = 0;
        y += 1;
        if y == im2col.grid[0] {
            (y, image) = (0, image + 1);
        }
    }
}
