//! The loss and its gradient.

use super::mix::MixedBatch;

/// Cross-entropy as PyTorch's `CrossEntropyLoss(weight, label_smoothing)`, averaged over a batch with class
/// weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CrossEntropy {
    /// Part of each target that is spread evenly over all classes (Szegedy et al., CVPR 2016), from 0 to
    /// below 1.
    pub(super) label_smoothing: f64,
    /// Weight of each class, `[C]`, at least 0; uniform if `None`.
    pub(super) class_weights: Option<Vec<f64>>,
}

impl CrossEntropy {
    /// Returns the cross-entropy of logits `[N, C]` with the labels `[N]`, and its gradient w.r.t. the logits
    /// `[N, C]` times `grad_scale` (the batch's share of an optimizer step that accumulates several batches).
    /// For a batch that mixup or `CutMix` has `mixed`, the loss is `λ` times the loss of its labels plus
    /// `1 - λ` times the loss of its partners' labels, as in the original mixup. If all labels have weight 0,
    /// the loss is 0.
    ///
    /// # Panics
    /// For a label without a logit, or if there are not as many rows as labels.
    #[must_use]
    pub(super) fn loss_and_gradient(
        &self,
        logits: &[f32],
        labels: &[u32],
        mixed: Option<&MixedBatch>,
        grad_scale: f64,
    ) -> (f64, Vec<f32>) {
        let Some(mixed) = mixed else { return self.weighted_loss(logits, &[(1.0, labels)], grad_scale) };
        let partner_labels: Vec<u32> = mixed.partners.iter().map(|&partner| labels[partner]).collect();
        let assignments = [(mixed.lambda, labels), (1.0 - mixed.lambda, partner_labels.as_slice())];
        self.weighted_loss(logits, &assignments, grad_scale)
    }

    /// Returns the cross-entropy of `logits` `[N, C]` for several `assignments` of labels `[N]` to the
    /// images, each with a factor (mixup has two): the sum of their losses times their factors, each loss a
    /// mean with class weights. Also returns the gradient w.r.t. the logits times `grad_scale`, `[N, C]`.
    /// With `p = softmax(logits)` of an image and its target `t` (label smoothing and all weights included),
    /// its loss is `-Σ t log p`, with the gradient `p Σ t - t`.
    fn weighted_loss(
        &self,
        logits: &[f32],
        assignments: &[(f64, &[u32])],
        grad_scale: f64,
    ) -> (f64, Vec<f32>) {
        let n_rows = assignments[0].1.len();
        if n_rows == 0 {
            return (0.0, Vec::new());
        }
        let n_classes = logits.len() / n_rows;
        assert_eq!(logits.len(), n_rows * n_classes, "each label has a row of logits");
        let uniform_weights = vec![1.0; if self.class_weights.is_none() { n_classes } else { 0 }];
        let weights = self.class_weights.as_ref().unwrap_or(&uniform_weights);
        let total_weight = |labels: &[u32]| labels.iter().map(|&label| weights[label as usize]).sum::<f64>();
        // Factor of each assignment, divided by the total class weight of its labels.
        let factors: Vec<f64> = assignments
            .iter()
            .map(|(factor, labels)| (factor, total_weight(labels)))
            .map(|(factor, sum)| if sum > 0.0 { factor / sum } else { 0.0 })
            .collect();
        // The label smoothing: part of the target of every class, before its class weight.
        let spread = factors.iter().sum::<f64>() * self.label_smoothing / n_classes as f64;
        let (mut loss, mut grad_logits) = (0.0, Vec::with_capacity(logits.len()));
        let mut targets = vec![0.0; n_classes];
        for (row_index, row) in logits.chunks_exact(n_classes).enumerate() {
            for (target, weight) in targets.iter_mut().zip(weights) {
                *target = spread * weight;
            }
            for (factor, (_, labels)) in factors.iter().zip(assignments) {
                let label = labels[row_index] as usize;
                targets[label] += factor * (1.0 - self.label_smoothing) * weights[label];
            }
            let log_normalizer = log_sum_exp(row);
            let target_sum: f64 = targets.iter().sum();
            for (&logit, target) in row.iter().zip(&targets) {
                let log_probability = f64::from(logit) - log_normalizer;
                // Avoids `0 · -∞` for a class of weight 0 with probability 0.
                if *target != 0.0 {
                    loss -= target * log_probability;
                }
                grad_logits.push((grad_scale * (target_sum * log_probability.exp() - target)) as f32);
            }
        }
        (loss, grad_logits)
    }
}

/// Returns the sum of the log-losses (`-ln p(label)`) of images with the logits `[N, C]` and the `labels`
/// `[N]`, and the number of correct predictions (hits), for validation. Of equal largest logits, the lowest
/// class number is predicted.
///
/// # Panics
/// For a label without a logit, or if there are not as many rows as labels.
#[must_use]
pub(super) fn log_loss_and_hits(logits: &[f32], labels: &[u32]) -> (f64, usize) {
    let n_classes = logits.len() / labels.len().max(1);
    assert_eq!(logits.len(), labels.len() * n_classes, "each label has a row of logits");
    let rows = (0..labels.len()).map(|row_index| &logits[row_index * n_classes..][..n_classes]).zip(labels);
    rows.fold((0.0, 0), |(loss, n_correct), (row, &label)| {
        // A lower class must have a smaller logit, a higher class may have the same.
        let (before, after) = row.split_at(label as usize);
        let logit = after[0];
        let is_correct =
            before.iter().all(|&other| other < logit) && after.iter().all(|&other| other <= logit);
        (loss + log_sum_exp(row) - f64::from(logit), n_correct + usize::from(is_correct))
    })
}

/// `log Σ exp x` of the logits `x` of a row, without overflow. A logit minus this is the logarithm of its
/// softmax.
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::{Golden, assert_agree};

    #[test]
    fn losses_and_gradients_equal_pytorchs() {
        let golden = Golden::load();
        let (logits, labels) = (golden.floats("loss.logits"), golden.numbers("loss.labels"));
        let weights = golden.doubles("loss.weights");
        let partners = golden.numbers("loss.partners").iter().map(|&partner| partner as usize).collect();
        let mixed = MixedBatch { partners, lambda: 0.7 };
        for (smoothing, smoothed) in [(0.0, "plain"), (0.1, "smooth")] {
            for (class_weights, weighed) in [(None, "even"), (Some(weights.clone()), "weighed")] {
                for (mixed, mixture) in [(None, "one"), (Some(&mixed), "mixed")] {
                    let name = format!("loss.{smoothed}.{weighed}.{mixture}");
                    let loss =
                        CrossEntropy { label_smoothing: smoothing, class_weights: class_weights.clone() };
                    let (found, grad_logits) = loss.loss_and_gradient(&logits, &labels, mixed, 1.0);
                    let expected = golden.doubles(&name)[0];
                    assert!(
                        (found - expected).abs() <= 1e-12 * expected,
                        "{name}: {found}, expected {expected}"
                    );
                    assert_agree(&grad_logits, &golden.floats(&format!("{name}.gradient")), 1e-6, &name);
                }
            }
        }
    }

    #[test]
    fn validation_sums_log_losses_and_counts_correct_predictions() {
        let golden = Golden::load();
        let (logits, labels) = (golden.floats("loss.logits"), golden.numbers("loss.labels"));
        let (sum, n_correct) = log_loss_and_hits(&logits, &labels);
        let expected = golden.doubles("loss.judged");
        assert!((sum - expected[0]).abs() <= 1e-12 * expected[0], "{sum}, expected {}", expected[0]);
        assert_eq!(n_correct as f64, expected[1]);
        assert_eq!(log_loss_and_hits(&[1.0, 1.0, 0.0, 1.0, 1.0, 0.0], &[0, 1]).1, 1);
        assert_eq!(log_loss_and_hits(&[], &[]), (0.0, 0));
    }

    #[test]
    fn the_scale_applies_to_the_gradient_alone() {
        let loss = CrossEntropy::default();
        let (target_sum, by_whole) = loss.loss_and_gradient(&[0.5, 2.0, -1.0, 0.0], &[0, 1], None, 1.0);
        let (part, by_part) = loss.loss_and_gradient(&[0.5, 2.0, -1.0, 0.0], &[0, 1], None, 0.25);
        assert_eq!(target_sum, part);
        assert!(
            by_whole
                .iter()
                .zip(&by_part)
                .all(|(target_sum, part)| 0.25 * target_sum == *part && *part != 0.0)
        );
    }

    #[test]
    fn labels_of_weight_0_have_no_loss() {
        let loss = CrossEntropy { label_smoothing: 0.1, class_weights: Some(vec![0.0, 1.0]) };
        assert_eq!(loss.loss_and_gradient(&[3.0, -1.0], &[0], None, 1.0), (0.0, vec![0.0, 0.0]));
    }
}
