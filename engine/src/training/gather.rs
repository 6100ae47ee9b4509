//! What lies under a kernel, copied to where a tile reads it.

use crate::cell::Cell;

/// For each position of a grid the values under taps of a source `[N, H, W, C]`: row `y` of the grid and tap `t` see row
/// `y * stride + first + t`, or zeros where there is none. They are in the order `[tap along H][tap along W][channel]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gather {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) taps: [usize; 2],
    pub(super) stride: usize,
    pub(super) first: [isize; 2],
    /// Height and width of the grid.
    pub(super) grid: [usize; 2],
}

impl Gather {
    /// Values of a row of taps.
    pub(super) fn line(&self) -> usize {
        self.taps[1] * self.channels
    }

    /// Values of all taps.
    pub(super) fn depth(&self) -> usize {
        self.taps[0] * self.line()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.depth() == 0
    }

    /// Where the values under a row of taps start in the photo, if it is inside; the position and the tap are rows.
    #[inline(always)]
    fn row(&self, y: usize, tap: usize) -> Option<usize> {
        let at = (y * self.stride + tap).checked_add_signed(self.first[0])?;
        (at < self.height).then_some(at * self.width * self.channels)
    }

    /// Where the values under a row of taps start, seen from the start of the row.
    #[inline(always)]
    fn column(&self, x: usize) -> isize {
        ((x * self.stride).cast_signed() + self.first[1]) * self.channels.cast_signed()
    }
}

/// The positions of some photos, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) photos: usize,
    pub(super) gather: Gather,
}

impl Grid {
    pub(super) fn positions(&self) -> usize {
        self.photos * self.gather.grid[0] * self.gather.grid[1]
    }

    /// Photo, row and column.
    #[inline(always)]
    pub(super) fn place(&self, position: usize) -> (usize, usize, usize) {
        let [height, width] = self.gather.grid;
        let (row, x) = (position / width, position % width);
        (row / height, row % height, x)
    }
}

/// Bytes of a row of a block of rows: whole cells, and one more, so that rows of a tile fall on sets of their own in a cache.
pub(super) const ROW: usize = (STEPS + 16) * 4;
/// Steps of a sum that are taken at once, at most.
pub(super) const STEPS: usize = 512;

/// Copies the values `steps` of positions from `first` on to `rows` rows at `to`.
///
/// # Safety
/// `from` is the whole source; `to` is valid for writes of `rows` rows of [`ROW`] bytes; positions and steps are inside, and steps no
/// more than [`STEPS`].
#[inline(always)]
pub(super) unsafe fn rows(
    grid: &Grid,
    from: &[f32],
    first: usize,
    rows: usize,
    steps: std::ops::Range<usize>,
    to: *mut Cell,
) {
    let gather = &grid.gather;
    let (line, row_length) = (gather.line(), gather.width * gather.channels);
    let photo_length = gather.height * row_length;
    let (mut photo, mut y, mut x) = grid.place(first);
    for row in 0..rows {
        // SAFETY: the caller has room for the row.
        let mut to: *mut f32 = unsafe { to.cast::<u8>().add(row * ROW).cast() };
        let column = gather.column(x);
        let mut step = steps.start;
        while step < steps.end {
            let (tap, start) = (step / line, step % line);
            let length = (line - start).min(steps.end - step);
            let begin = column + start.cast_signed();
            // SAFETY: what is copied is inside the row of the photo; zeros and values are as many as there are steps.
            unsafe {
                match gather.row(y, tap) {
                    Some(at) => {
                        let before = (-begin).clamp(0, length.cast_signed()) as usize;
                        let end = (row_length.cast_signed() - begin)
                            .clamp(before.cast_signed(), length.cast_signed())
                            as usize;
                        let at = photo * photo_length + at;
                        copy(from, at.wrapping_add_signed(begin), before..end, length, to);
                    }
                    None => to.write_bytes(0, length),
                }
                to = to.add(length);
            }
            step += length;
        }
        x += 1;
        if x == gather.grid[1] {
            (x, y) = (0, y + 1);
            if y == gather.grid[0] {
                (y, photo) = (0, photo + 1);
            }
        }
    }
}

/// `length` values, from `from[at]` on, of which those of a range are there, and the others are zeros.
///
/// # Safety
/// The range of values is inside, and `to` is valid for writes of `length`.
#[inline(always)]
unsafe fn copy(from: &[f32], at: usize, range: std::ops::Range<usize>, length: usize, to: *mut f32) {
    debug_assert!(range.is_empty() || at.wrapping_add(range.end) <= from.len());
    // SAFETY: the caller's promise.
    unsafe {
        if range.start > 0 {
            to.write_bytes(0, range.start);
        }
        if !range.is_empty() {
            to.add(range.start)
                .copy_from_nonoverlapping(from.as_ptr().add(at.wrapping_add(range.start)), range.len());
        }
        if range.end < length {
            to.add(range.end).write_bytes(0, length - range.end);
        }
    }
}

/// Copies 16 values of a row of taps, from `start` on, of some positions, to a cell each. Those past the first `wanted` may be
/// anything.
///
/// # Safety
/// `from` is the whole source; `to` is valid for writes of a cell for each position; positions, the tap and `start..start + wanted` are inside.
#[inline(always)]
pub(super) unsafe fn cells(
    grid: &Grid,
    from: &[f32],
    positions: std::ops::Range<usize>,
    (tap, start, wanted): (usize, usize, usize),
    to: *mut Cell,
) {
    let gather = &grid.gather;
    let row_length = gather.width * gather.channels;
    let photo_length = gather.height * row_length;
    let step = gather.stride * gather.channels;
    let (mut photo, mut y, mut x) = grid.place(positions.start);
    let mut to = to;
    let mut left = positions.len();
    while left > 0 {
        let count = (gather.grid[1] - x).min(left);
        let begin = gather.column(x) + start.cast_signed();
        // SAFETY: a cell for each position; values are read inside the row of the photo, or 16 inside the source.
        unsafe {
            match gather.row(y, tap) {
                None => to.write_bytes(0, count),
                Some(row) => {
                    let row = photo * photo_length + row;
                    for index in 0..count {
                        let begin = begin + (index * step).cast_signed();
                        let end = begin + wanted.cast_signed();
                        let cell: *mut f32 = to.add(index).cast();
                        let at = row.wrapping_add_signed(begin);
                        if begin >= 0 && end <= row_length.cast_signed() && at + 16 <= from.len() {
                            cell.cast::<Cell>().write(from.as_ptr().add(at).cast::<Cell>().read_unaligned());
                        } else {
                            let before = (-begin).clamp(0, wanted.cast_signed()) as usize;
                            let after = (row_length.cast_signed() - begin)
                                .clamp(before.cast_signed(), wanted.cast_signed());
                            copy(from, at, before..after as usize, wanted, cell);
                        }
                    }
                }
            }
            to = to.add(count);
        }
        left -= count;
        x = 0;
        y += 1;
        if y == gather.grid[0] {
            (y, photo) = (0, photo + 1);
        }
    }
}
