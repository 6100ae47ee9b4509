//! Weights in the order in which tiles read them.

use half::bf16;
use rayon::prelude::*;

use crate::cell::Cell;
use crate::machine::Layout;

/// A weight that the order asks for: output channel, segment of the sum, index within the segment.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) output: usize,
    pub(crate) segment: usize,
    pub(crate) index: usize,
}

/// The sizes of a packed matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub(crate) count: usize,
    pub(crate) segments: usize,
    /// Steps in a segment.
    pub(crate) steps: usize,
}

impl Panels {
    /// Cells in a panel.
    pub(crate) fn cells(self, layout: Layout) -> usize {
        self.segments * self.steps * layout.vectors
    }
}

/// `[panel][segment][step][vector][16 channels]`, with `bf16` two indices of the sum to a step, side by side. Rounded from
/// `f64` once.
pub(crate) fn pack(layout: Layout, panels: Panels, to: &mut [Cell], weight: impl Fn(Position) -> f64 + Sync) {
    let Panels { steps, .. } = panels;
    to.par_chunks_exact_mut(panels.cells(layout)).enumerate().for_each(|(panel, cells)| {
        for (position, cell) in cells.chunks_exact_mut(1).enumerate() {
            let (vector, position) = (position % layout.vectors, position / layout.vectors);
            let (step, segment) = (position % steps, position / steps);
            let output = |lane: usize| (panel * layout.vectors + vector) * 16 + lane;
            if layout.parts == 1 {
                for (lane, value) in bytemuck::cast_slice_mut::<Cell, f32>(cell).iter_mut().enumerate() {
                    *value = weight(Position { output: output(lane), segment, index: step }) as f32;
                }
            } else {
                for (at, value) in bytemuck::cast_slice_mut::<Cell, bf16>(cell).iter_mut().enumerate() {
                    let index = 2 * step + at % 2;
                    *value =
                        bf16::from_f32(weight(Position { output: output(at / 2), segment, index }) as f32);
                }
            }
        }
    });
}
