//! Extends the weights of the classes that have samples to a head for all classes.

use crate::affine::{ABSENT_CLASS_LOGIT, Affine};
use crate::error::HeadError;

/// Makes an affine head for all `classes` classes from the weights `[K, F]` and biases `[K]` of the `K`
/// classes in `present` (ascending) that have samples. Closed-form heads need it, because they are solved for
/// the classes with samples only.
///
/// A class without samples gets the mean weights and bias plus [`ABSENT_CLASS_LOGIT`]: it never has the
/// highest logit, and a softmax gives it probability 0.
///
/// # Errors
/// [`HeadError::Diverged`] when a value overflows `f32`.
pub(crate) fn expand_to_all_classes(
    present: &[usize],
    weight: &[f64],
    bias: &[f64],
    classes: usize,
) -> Result<Affine, HeadError> {
    let n_present = present.len();
    let width = weight.len() / n_present;
    // The mean over the present classes of a column of `[K, columns]` values.
    let mean = |values: &[f64], column: usize| {
        values.iter().skip(column).step_by(values.len() / n_present).sum::<f64>() / n_present as f64
    };
    let mean_weight: Vec<f64> = if n_present < classes {
        (0..width).map(|column| mean(weight, column)).collect()
    } else {
        Vec::new()
    };
    let (mut all_weights, mut all_biases) =
        (Vec::with_capacity(classes * width), Vec::with_capacity(classes));
    for class in 0..classes {
        if let Ok(k) = present.binary_search(&class) {
            all_weights.extend_from_slice(&weight[k * width..(k + 1) * width]);
            all_biases.push(bias[k]);
        } else {
            all_weights.extend_from_slice(&mean_weight);
            all_biases.push(mean(bias, 0) + ABSENT_CLASS_LOGIT);
        }
    }
    Affine::from_f64(&all_weights, &all_biases, width).map_err(|_| {
        HeadError::Diverged("the fitted weights are too large for 32-bit numbers: scale the features".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::FeatureMatrix;
    use crate::head::Head;

    #[test]
    fn a_class_without_samples_never_wins() {
        let head = expand_to_all_classes(&[0, 2], &[3.0, -1.0, 2.0, 5.0], &[1.0, -7.0], 3).unwrap();
        let queries = [1e6, 0.0, -1e6, 0.0, 0.0, 1e6, 0.0, -1e6, -1e6, -1e6];
        let logits = head.logits(FeatureMatrix::new(&queries, 2).unwrap()).unwrap();
        for row in logits.rows() {
            assert!(row[1] <= row[0].max(row[2]) - 9e3, "{row:?}");
        }
        assert_eq!(logits.argmax(), [0, 2, 2, 0, 0]);
    }
}
