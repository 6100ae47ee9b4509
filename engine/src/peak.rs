//! What the arithmetic of an instruction set could do if nothing else had to be done: the roof over every layer.

use std::time::{Duration, Instant};

use crate::cache_line::CacheLine;
use crate::dispatch::KernelSet;
use crate::error::EngineError;
use crate::isa::{Isa, Precision};
use crate::kernels::{Job, Kernel};
use crate::tile::{LinePixels, Tile, TileEpilogue, TileOutput};

/// Steps of a round: enough to make its ends count for nothing.
const STEPS: usize = 1 << 14;
/// Sums that are under way at the same time: more than the latency of an instruction times those that start in a cycle.
const SUMS: usize = 12;

/// Multiplications and additions a second of one thread, the fastest of some rounds, in thousands of millions. Operands are in
/// registers, but for AMX, whose tiles come from the L1 cache.
///
/// # Errors
/// [`EngineError::Isa`] when this machine has not `isa`, or it has no kernels for `precision`.
pub fn peak_gflops(isa: Isa, precision: Precision) -> Result<f64, EngineError> {
    let kernel = KernelSet::new(isa)?.for_precisions(precision, precision);
    let problem = || format!("it has no kernels for {precision}");
    let kernel = kernel.ok_or_else(|| EngineError::UnavailableIsa { isa, problem: problem() })?;
    let mut best = 0.0f64;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(200) {
        let mut operations = 0;
        let round = Instant::now();
        kernel.run(PeakRound { operations: &mut operations });
        best = best.max(operations as f64 / round.elapsed().as_secs_f64() / 1e9);
    }
    Ok(best)
}

struct PeakRound<'a> {
    operations: &'a mut usize,
}

impl Job for PeakRound<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (lanes, pairs) = (16 * K::VECTORS, K::PARTS);
        if K::WHOLE_TILES {
            *self.operations = run_tiles(kernel);
            return;
        }
        let lines = CacheLine::zeros(K::VECTORS + 1);
        // SAFETY: the cells are there.
        unsafe {
            // Zeros that the compiler does not know to be zeros.
            let lines = std::hint::black_box(lines.as_ptr());
            let weights = kernel.load_weights(lines);
            let mut sums = [kernel.zero_sums(); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = kernel.accumulate_step(*sum, lines.cast(), weights);
                }
            }
            std::hint::black_box(&sums);
        }
        *self.operations = 2 * STEPS * SUMS * lanes * pairs;
    }
}

/// Whole tiles over cells that stay in the L1 cache.
#[inline(always)]
fn run_tiles<K: Kernel>(kernel: K) -> usize {
    const SEGMENTS: usize = 4;
    const STEPS_IN_SEGMENT: usize = 16;
    let (activations, weights) =
        (CacheLine::zeros(K::ROWS), CacheLine::zeros(SEGMENTS * STEPS_IN_SEGMENT * K::VECTORS));
    let mut sums = CacheLine::zeros(K::ROWS * K::VECTORS);
    let output = TileOutput { lines: sums.as_mut_ptr(), block_stride: K::ROWS, epilogue: TileEpilogue::Raw };
    let (offsets, count) = ([0; SEGMENTS], STEPS / SEGMENTS / STEPS_IN_SEGMENT);
    for _ in 0..count {
        let tile = Tile {
            activations: activations.as_ptr().cast(),
            offsets: &offsets,
            steps: STEPS_IN_SEGMENT,
            weights: weights.as_ptr(),
            output,
            pixel: 0,
            vector: 0,
        };
        // SAFETY: activations, weights and sums are as many as a tile of all rows has.
        unsafe { kernel.compute_tile::<LinePixels>(K::ROWS, &tile) };
    }
    2 * count * SEGMENTS * STEPS_IN_SEGMENT * K::ROWS * 16 * K::VECTORS * K::PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "runs for as long as a clock says")]
    fn every_kernel_has_one() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_present()) {
            let precision = if isa.computes(Precision::F32) { Precision::F32 } else { Precision::Bf16 };
            assert!(peak_gflops(isa, precision).unwrap().is_normal(), "{isa}");
        }
    }
}
