//! What the arithmetic of an instruction set could do if nothing else had to be done: the roof over every layer.

use std::time::{Duration, Instant};

use crate::cell::Cell;
use crate::error::EngineError;
use crate::isa::{Isa, Precision};
use crate::kernels::{Job, Kernel};
use crate::machine::Machines;
use crate::tile::{Cells, Finish, Output, Tile};

/// Steps of a round: enough to make its ends count for nothing.
const STEPS: usize = 1 << 14;
/// Sums that are under way at the same time: more than the latency of an instruction times those that start in a cycle.
const SUMS: usize = 12;

/// Multiplications and additions a second of one thread, the fastest of some rounds, in thousands of millions. Operands are in
/// registers, but for AMX, whose tiles come from the L1 cache.
///
/// # Errors
/// [`EngineError::Isa`] when this machine has not `isa`, or it has no kernels for `precision`.
pub fn peak(isa: Isa, precision: Precision) -> Result<f64, EngineError> {
    let machine = Machines::new(isa)?.from(precision, precision);
    let problem = || format!("it has no kernels for {precision}");
    let machine = machine.ok_or_else(|| EngineError::Isa { isa, problem: problem() })?;
    let mut best = 0.0f64;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(200) {
        let mut operations = 0;
        let round = Instant::now();
        machine.run(Round { operations: &mut operations });
        best = best.max(operations as f64 / round.elapsed().as_secs_f64() / 1e9);
    }
    Ok(best)
}

struct Round<'a> {
    operations: &'a mut usize,
}

impl Job for Round<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (lanes, pairs) = (16 * K::VECTORS, K::PARTS);
        if K::IN_TILES {
            *self.operations = tiles(kernel);
            return;
        }
        let cells = Cell::zeros(K::VECTORS + 1);
        // SAFETY: the cells are there.
        unsafe {
            // Zeros that the compiler does not know to be zeros.
            let cells = std::hint::black_box(cells.as_ptr());
            let weights = kernel.weights(cells);
            let mut sums = [kernel.zero(); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = kernel.step(*sum, cells.cast(), weights);
                }
            }
            std::hint::black_box(&sums);
        }
        *self.operations = 2 * STEPS * SUMS * lanes * pairs;
    }
}

/// Whole tiles over cells that stay in the L1 cache.
#[inline(always)]
fn tiles<K: Kernel>(kernel: K) -> usize {
    const SEGMENTS: usize = 4;
    const STEPS_IN_SEGMENT: usize = 16;
    let (activations, weights) =
        (Cell::zeros(K::ROWS), Cell::zeros(SEGMENTS * STEPS_IN_SEGMENT * K::VECTORS));
    let mut sums = Cell::zeros(K::ROWS * K::VECTORS);
    let output = Output { cells: sums.as_mut_ptr(), block: K::ROWS, finish: Finish::Raw };
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
        unsafe { kernel.tile::<Cells>(K::ROWS, &tile) };
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
            assert!(peak(isa, precision).unwrap().is_normal(), "{isa}");
        }
    }
}
