//! Gradient clipping.

use pulp::Arch;
use rayon::prelude::*;

use super::BLOCK_LEN;

/// Independent partial sums per block: a fixed number, so that every processor gives the same bits.
const LANES: usize = 16;

/// Clips the gradients of all parameters, so that one unusual batch cannot spoil the model: scales them in
/// place so that their total Euclidean norm is at most `max_norm`, and returns the norm before, as PyTorch's
/// `clip_grad_norm_` (Pascanu et al., ICML 2013). Gradients with a non-finite norm stay unchanged, for the
/// caller to report.
pub(super) fn clip_grad_norm(gradients: &mut [&mut [f32]], max_norm: f64) -> f64 {
    let norm = gradients.iter().map(|gradient| sum_of_squares(gradient)).sum::<f64>().sqrt();
    // PyTorch's guard against a norm of 0.
    let factor = max_norm / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        let factor = factor as f32;
        for gradient in gradients {
            gradient
                .par_chunks_mut(BLOCK_LEN)
                .for_each(|block| block.iter_mut().for_each(|value| *value *= factor));
        }
    }
    norm
}

/// Sum of the squares of `values`, for their norm. Blocks run in parallel, but the order of summation depends
/// only on the length, so that every processor gives the same bits.
fn sum_of_squares(values: &[f32]) -> f64 {
    let blocks: Vec<f64> = values.par_chunks(BLOCK_LEN).map(sum_of_squares_in_block).collect();
    blocks.iter().sum()
}

/// Sum of the squares of one block of gradient values, a part of their squared norm. It has [`LANES`] partial
/// sums, so that the compiler can vectorize the loop; pulp's `dispatch` runs it with the vector instructions
/// that the processor has.
fn sum_of_squares_in_block(values: &[f32]) -> f64 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut sums = [0f64; LANES];
            let (chunks, rest) = values.as_chunks::<LANES>();
            for chunk in chunks {
                for (sum, &value) in sums.iter_mut().zip(chunk) {
                    *sum += f64::from(value) * f64::from(value);
                }
            }
            for (sum, &value) in sums.iter_mut().zip(rest) {
                *sum += f64::from(value) * f64::from(value);
            }
            sums.iter().sum()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::{Golden, assert_agree};

    #[test]
    fn norms_and_clipped_gradients_equal_pytorchs() {
        let golden = Golden::load();
        for (name, max_norm) in [("clip.tight", 0.5), ("clip.loose", 1e6)] {
            let original = [0, 1, 2].map(|part| golden.floats(&format!("clip.{part}")));
            let mut clipped = original.clone();
            let norm = clip_grad_norm(&mut clipped.each_mut().map(Vec::as_mut_slice), max_norm);
            let expected = golden.doubles(&format!("{name}.norm"))[0];
            assert!((norm - expected).abs() <= 1e-12 * expected, "{name}: {norm}, expected {expected}");
            if max_norm < expected {
                assert_agree(&clipped.concat(), &golden.floats(name), 1e-6, name);
            } else {
                assert_eq!(clipped, original);
            }
        }
    }

    #[test]
    fn a_non_finite_norm_is_returned_and_changes_nothing() {
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut values = [3.0, wrong];
            assert!(!clip_grad_norm(&mut [&mut values], 1.0).is_finite());
            assert_eq!(values[0], 3.0);
        }
        assert_eq!(clip_grad_norm(&mut [&mut [0.0, 0.0]], 1.0), 0.0);
        assert_eq!(clip_grad_norm(&mut [], 1.0), 0.0);
    }

    #[test]
    fn a_norm_has_the_same_bits_on_one_thread_and_on_three() {
        let values: Vec<f32> = (0..5 * BLOCK_LEN + 3).map(|i| (i as f32).sin()).collect();
        let norm_on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sum_of_squares(&values))
        };
        assert_eq!(norm_on(1).to_bits(), norm_on(3).to_bits());
    }
}
