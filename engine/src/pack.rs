//! Packing of weights in the order in which tiles read them.

use half::bf16;
use rayon::prelude::*;

use crate::cache_line::CacheLine;
use crate::dispatch::KernelLayout;

/// Position of a weight in a packed matrix: output channel, k-block (part of the sum), index within the
/// k-block.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) output: usize,
    pub(crate) k_block: usize,
    pub(crate) index: usize,
}

/// Sizes of a packed matrix: panels of output channels, each in k-blocks of steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub(crate) count: usize,
    pub(crate) k_blocks: usize,
    /// Steps in a k-block.
    pub(crate) steps: usize,
}

impl Panels {
    /// Cache lines of a panel.
    pub(crate) fn n_lines(self, layout: KernelLayout) -> usize {
        self.k_blocks * self.steps * layout.vectors
    }
}

/// Packs a matrix as `[panel][k-block][step][vector][16 channels]`; in `bf16` a step has two adjacent indices
/// of the sum, interleaved. Each weight is rounded from `f64` to `f32`, and then to `bf16` if needed.
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
                let values = bytemuck::cast_slice_mut::<CacheLine, bf16>(line);
                for (lane, value) in values.iter_mut().enumerate() {
                    let position = Position { output: output(lane / 2), k_block, index: 2 * step + lane % 2 };
                    *value = bf16::from_f32(weight(position) as f32);
                }
            }
        }
    });
}
