//! Weights in the order in which tiles read them.

use half::bf16;
use rayon::prelude::*;

use crate::cache_line::CacheLine;
use crate::dispatch::KernelLayout;

/// A weight that the order asks for: output channel, segment of the sum, index within the segment.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) output: usize,
    pub(crate) k_block: usize,
    pub(crate) index: usize,
}

/// The sizes of a packed matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub(crate) count: usize,
    pub(crate) k_blocks: usize,
    /// Steps in a segment.
    pub(crate) steps: usize,
}

impl Panels {
    /// Cells in a panel.
    pub(crate) fn n_lines(self, layout: KernelLayout) -> usize {
        self.k_blocks * self.steps * layout.vectors
    }
}

/// `[panel][segment][step][vector][16 channels]`, with `bf16` two indices of the sum to a step, side by side. Rounded from
/// `f64` once.
pub(crate) fn pack(
    layout: KernelLayout,
    panels: Panels,
    dst: &mut [CacheLine],
    weight: impl Fn(Position) -> f64 + Sync,
) {
    let Panels { steps, .. } = panels;
    dst.par_chunks_exact_mut(panels.n_lines(layout)).enumerate().for_each(|(panel, lines)| {
        for (position, line) in lines.chunks_exact_mut(1).enumerate() {
            let (vector, position) = (position % layout.vectors, position / layout.vectors);
            let (step, k_block) = (position % steps, position / steps);
            let output = |lane: usize| (panel * layout.vectors + vector) * 16 + lane;
            if layout.parts == 1 {
                for (lane, value) in bytemuck::cast_slice_mut::<CacheLine, f32>(line).iter_mut().enumerate() {
                    *value = weight(Position { output: output(lane), k_block, index: step }) as f32;
                }
            } else {
                for (lane, value) in bytemuck::cast_slice_mut::<CacheLine, bf16>(line).iter_mut().enumerate()
                {
                    let index = 2 * step + lane % 2;
                    *value =
                        bf16::from_f32(weight(Position { output: output(lane / 2), k_block, index }) as f32);
                }
            }
        }
    });
}
