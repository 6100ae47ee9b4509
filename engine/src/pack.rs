//! Packing of weights in the order in which tiles read them.

use half::bf16;
use rayon::prelude::*;

use crate::cache_line::CacheLine;
use crate::dispatch::KernelLayout;

/// Which weight of a matrix is meant: its output channel, and its place in the sum.
#[derive(Clone, Copy)]
pub(crate) struct WeightPosition {
    /// Output channel, which may be padding.
    pub(crate) output: usize,
    /// Index of the k-block, a part of the sum.
    pub(crate) k_block: usize,
    /// Index of the product within the k-block.
    pub(crate) offset: usize,
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
    /// Number of cache lines of the packed weights of a panel, the output channels that a tile computes.
    pub(crate) fn lines_per_panel(self, layout: KernelLayout) -> usize {
        self.k_blocks * self.steps * layout.vectors_per_panel
    }
}

/// Packs the weights of a frozen layer: writes them to `dst` in the order in which the tiles of its GEMM read
/// them, `[panel][k-block][step][vector][16 output channels]`. A panel is the channels of a tile; k-blocks
/// and steps are parts of the sums. A step has one weight per channel in `f32`, two adjacent ones in `bf16`.
/// `weight` returns the weight at a position, 0 for padding; it is rounded to `f32`, and then to `bf16` if
/// the kernels read that.
pub(crate) fn pack_panels(
    layout: KernelLayout,
    panels: Panels,
    dst: &mut [CacheLine],
    weight: impl Fn(WeightPosition) -> f64 + Sync,
) {
    let Panels { steps, .. } = panels;
    dst.par_chunks_exact_mut(panels.lines_per_panel(layout)).enumerate().for_each(|(panel, lines)| {
        for (line_index, line) in lines.chunks_exact_mut(1).enumerate() {
            let vector = line_index % layout.vectors_per_panel;
            let panel_step = line_index / layout.vectors_per_panel;
            let (step, k_block) = (panel_step % steps, panel_step / steps);
            let channel = |lane: usize| (panel * layout.vectors_per_panel + vector) * 16 + lane;
            // A line has 16 output channels: a weight of each in `f32`, or a pair of weights in `bf16`.
            if layout.vectors_per_line == 1 {
                for (lane, value) in bytemuck::cast_slice_mut::<CacheLine, f32>(line).iter_mut().enumerate() {
                    *value = weight(WeightPosition { output: channel(lane), k_block, offset: step }) as f32;
                }
            } else {
                let values = bytemuck::cast_slice_mut::<CacheLine, bf16>(line);
                for (index, value) in values.iter_mut().enumerate() {
                    let (output, offset) = (channel(index / 2), 2 * step + index % 2);
                    *value = bf16::from_f32(weight(WeightPosition { output, k_block, offset }) as f32);
                }
            }
        }
    });
}
