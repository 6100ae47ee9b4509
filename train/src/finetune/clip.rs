//! Clipping of gradients.

use pulp::Arch;
use rayon::prelude::*;

use super::BLOCK_LEN;

/// Sums that a block runs over side by side: their number is fixed, so that every processor gives the same bits.
const LANES: usize = 16;

/// Scales gradients down to a common norm of at most `most`, as PyTorch's `clip_grad_norm_` (Pascanu et al., ICML 2013): the norm of
/// all of them before. Where that is not finite they stay as they are.
pub(super) fn clip_grad_norm(gradients: &mut [&mut [f32]], most: f64) -> f64 {
    let norm = gradients.iter().map(|gradient| sum_of_squares(gradient)).sum::<f64>().sqrt();
    // PyTorch's guard against a norm of 0.
    let factor = most / (norm + 1e-6);
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

/// The sum of squares; its order depends on the length alone.
fn sum_of_squares(values: &[f32]) -> f64 {
    let blocks: Vec<f64> = values.par_chunks(BLOCK_LEN).map(sum_of_squares_in_block).collect();
    blocks.iter().sum()
}

fn sum_of_squares_in_block(values: &[f32]) -> f64 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut sums = [0f64; LANES];
            let (runs, rest) = values.as_chunks::<LANES>();
            for run in runs {
                for (sum, &value) in sums.iter_mut().zip(run) {
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
    fn norms_and_what_is_left_are_pytorchs() {
        let golden = Golden::load();
        for (name, most) in [("clip.tight", 0.5), ("clip.loose", 1e6)] {
            let before = [0, 1, 2].map(|part| golden.floats(&format!("clip.{part}")));
            let mut parts = before.clone();
            let norm = clip_grad_norm(&mut parts.each_mut().map(Vec::as_mut_slice), most);
            let oracle = golden.doubles(&format!("{name}.norm"))[0];
            assert!((norm - oracle).abs() <= 1e-12 * oracle, "{name}: {norm}, expected {oracle}");
            if most < oracle {
                assert_agree(&parts.concat(), &golden.floats(name), 1e-6, name);
            } else {
                assert_eq!(parts, before);
            }
        }
    }

    #[test]
    fn a_norm_that_is_no_number_is_told_and_changes_nothing() {
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
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sum_of_squares(&values))
        };
        assert_eq!(on(1).to_bits(), on(3).to_bits());
    }
}
