//! Peak arithmetic throughput of an instruction set: the roofline of every layer.

use std::time::{Duration, Instant};

use crate::cache_line::CacheLine;
use crate::dispatch::KernelSet;
use crate::error::EngineError;
use crate::isa::{DType, Isa};
use crate::kernels::{Job, Kernel, LinePixels, Tile, TileEpilogue, TileOperands, TileOutput};

/// Steps of a round: enough to make its overhead negligible.
const STEPS: usize = 1 << 14;
/// Independent sums, so that no instruction waits for the result of another: more than the latency of an
/// instruction times the instructions issued per cycle.
const SUMS: usize = 12;

/// Measures the peak throughput of one thread in GFLOP/s, an upper bound for every layer: the fastest of many
/// rounds within 0.2 s. `precision` is that of inputs and weights. Operands are in registers, except for AMX,
/// which loads tiles from the L1 cache.
///
/// # Errors
/// [`EngineError::UnavailableIsa`] if this CPU does not support `isa`, or it has no kernels for `precision`.
pub fn peak_gflops(isa: Isa, precision: DType) -> Result<f64, EngineError> {
    let kernel = KernelSet::new(isa)?.for_precisions(precision, precision);
    let problem = || format!("this instruction set has no code for the precision {precision}");
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

/// One round of arithmetic; sets `operations` to the number of floating-point operations.
struct PeakRound<'a> {
    operations: &'a mut usize,
}

impl Job for PeakRound<'_> {
    /// Does a fixed amount of arithmetic, which [`peak_gflops`] times: repeats one step of a GEMM, activation
    /// times weights added to sums, on independent sums in registers. Kernels that multiply whole tiles (AMX)
    /// do that instead. Sets `operations` to the number of floating-point operations.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        if K::MULTIPLIES_WHOLE_TILES {
            *self.operations = run_tiles(kernel);
            return;
        }
        let lines = CacheLine::zeros(K::VECTORS_PER_PANEL + 1);
        // SAFETY: the lines hold the weights of a step, and activations.
        unsafe {
            // Hides from the compiler that the values are zeros.
            let lines = std::hint::black_box(lines.as_ptr());
            let weights = kernel.load_weights(lines);
            let mut sums = [kernel.zero_sums(); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = kernel.multiply_accumulate(*sum, lines.cast(), weights);
                }
            }
            std::hint::black_box(&sums);
        }
        // In a step each lane multiplies and adds one `f32`, or two `bf16`.
        let products_per_step = 16 * K::VECTORS_PER_PANEL * K::VECTORS_PER_LINE;
        *self.operations = 2 * STEPS * SUMS * products_per_step;
    }
}

/// One timed round of [`peak_gflops`] for kernels that multiply whole tiles (AMX): computes the same tile of
/// a GEMM again and again, from lines that stay in the L1 cache. Returns the number of floating-point
/// operations.
#[inline(always)]
fn run_tiles<K: Kernel>(kernel: K) -> usize {
    // The sums of a tile have 4 parts (k-blocks) of 16 steps, whose weights fit the L1 cache.
    const K_BLOCKS: usize = 4;
    const BLOCK_STEPS: usize = 16;
    let activations = CacheLine::zeros(K::MAX_ROWS);
    let weights = CacheLine::zeros(K_BLOCKS * BLOCK_STEPS * K::VECTORS_PER_PANEL);
    let mut sums = CacheLine::zeros(K::MAX_ROWS * K::VECTORS_PER_PANEL);
    let output =
        TileOutput { lines: sums.as_mut_ptr(), block_stride: K::MAX_ROWS, epilogue: TileEpilogue::Raw };
    // All k-blocks read the same activations.
    let (offsets, count) = ([0; K_BLOCKS], STEPS / K_BLOCKS / BLOCK_STEPS);
    for _ in 0..count {
        let operands = TileOperands {
            activations: activations.as_ptr().cast(),
            offsets: &offsets,
            steps: BLOCK_STEPS,
            weights: weights.as_ptr(),
        };
        let tile = Tile { operands, output, pixel: 0, vector: 0 };
        // SAFETY: activations, weights and sums have the size of a tile of all rows.
        unsafe { kernel.compute_tile::<LinePixels>(K::MAX_ROWS, &tile) };
    }
    // A multiplication and an addition per weight and row; a line of a step has 16 or 32 weights.
    2 * count * K_BLOCKS * BLOCK_STEPS * K::MAX_ROWS * 16 * K::VECTORS_PER_PANEL * K::VECTORS_PER_LINE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "runs for a fixed time")]
    fn peak_of_every_kernel_is_measured() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_present()) {
            let precision = if isa.computes(DType::F32) { DType::F32 } else { DType::Bf16 };
            assert!(peak_gflops(isa, precision).unwrap().is_normal(), "{isa}");
        }
    }
}
