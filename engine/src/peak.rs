//! Peak arithmetic throughput of an instruction set: the roofline of every layer.

use std::time::{Duration, Instant};

use crate::cache_line::CacheLine;
use crate::dispatch::KernelSet;
use crate::error::EngineError;
use crate::isa::{DType, Isa};
use crate::kernels::{Job, Kernel};
use crate::tile::{LinePixels, Tile, TileEpilogue, TileOutput};

/// Steps of a round: enough to make its overhead negligible.
const STEPS: usize = 1 << 14;
/// Independent sums: more than the latency of an instruction times the instructions issued per cycle.
const SUMS: usize = 12;

/// Measures the peak throughput of one thread in GFLOP/s: the fastest of many rounds within 0.2 s. Operands
/// are in registers, except for AMX, which loads tiles from the L1 cache.
///
/// # Errors
/// [`EngineError::UnavailableIsa`] if this CPU does not support `isa`, or it has no kernels for `precision`.
pub fn peak_gflops(isa: Isa, precision: DType) -> Result<f64, EngineError> {
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

/// One round; sets `operations` to the number of floating-point operations.
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
        // SAFETY: the lines hold the weights of a step, and activations.
        unsafe {
            // Hides from the compiler that the values are zeros.
            let lines = std::hint::black_box(lines.as_ptr());
            let weights = kernel.load_weights(lines);
            let mut sums = [kernel.zero_sums(); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = kernel.madd(*sum, lines.cast(), weights);
                }
            }
            std::hint::black_box(&sums);
        }
        *self.operations = 2 * STEPS * SUMS * lanes * pairs;
    }
}

/// Computes whole tiles from lines that stay in the L1 cache; returns the number of operations.
#[inline(always)]
fn run_tiles<K: Kernel>(kernel: K) -> usize {
    const K_BLOCKS: usize = 4;
    const BLOCK_STEPS: usize = 16;
    let activations = CacheLine::zeros(K::ROWS);
    let weights = CacheLine::zeros(K_BLOCKS * BLOCK_STEPS * K::VECTORS);
    let mut sums = CacheLine::zeros(K::ROWS * K::VECTORS);
    let output = TileOutput { lines: sums.as_mut_ptr(), block_stride: K::ROWS, epilogue: TileEpilogue::Raw };
    let (offsets, count) = ([0; K_BLOCKS], STEPS / K_BLOCKS / BLOCK_STEPS);
    for _ in 0..count {
        let tile = Tile {
            activations: activations.as_ptr().cast(),
            offsets: &offsets,
            steps: BLOCK_STEPS,
            weights: weights.as_ptr(),
            output,
            pixel: 0,
            vector: 0,
        };
        // SAFETY: activations, weights and sums have the size of a tile of all rows.
        unsafe { kernel.compute_tile::<LinePixels>(K::ROWS, &tile) };
    }
    2 * count * K_BLOCKS * BLOCK_STEPS * K::ROWS * 16 * K::VECTORS * K::PARTS
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
