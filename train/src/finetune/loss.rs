//! The loss, and its derivative by the logits.

use super::mix::MixedBatch;

/// Cross-entropy as PyTorch's `CrossEntropyLoss(weight, label_smoothing)`, the mean over a batch by the weights of its labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CrossEntropy {
    /// Part of each label that is spread evenly over all classes (Szegedy et al., CVPR 2016), from 0 to below 1.
    pub(super) label_smoothing: f64,
    /// How much each class counts, `[C]`, at least 0; all the same without them.
    pub(super) class_weights: Option<Vec<f64>>,
}

impl CrossEntropy {
    /// The loss of logits `[N, C]`, and its derivative by them, `[N, C]`, times `share` (that of the batch in a step that sums
    /// several gradients). Of a mixed batch the loss is `λ` of that with its labels and `1 - λ` of that with its partners', as in
    /// mixup's own code. A batch of labels that do not count has the loss 0.
    ///
    /// # Panics
    /// For a label that no logit is of, and when there are not as many rows as labels.
    #[must_use]
    pub(super) fn loss_and_gradient(
        &self,
        logits: &[f32],
        labels: &[u32],
        mixed: Option<&MixedBatch>,
        share: f64,
    ) -> (f64, Vec<f32>) {
        let Some(mixed) = mixed else { return self.weighted_loss(logits, &[(1.0, labels)], share) };
        let theirs: Vec<u32> = mixed.partners.iter().map(|&partner| labels[partner]).collect();
        self.weighted_loss(logits, &[(mixed.lambda, labels), (1.0 - mixed.lambda, &theirs)], share)
    }

    /// The sum of the losses with some labels, each with its factor.
    fn weighted_loss(&self, logits: &[f32], parts: &[(f64, &[u32])], share: f64) -> (f64, Vec<f32>) {
        let photos = parts[0].1.len();
        if photos == 0 {
            return (0.0, Vec::new());
        }
        let classes = logits.len() / photos;
        assert_eq!(logits.len(), photos * classes, "each label has a row of logits");
        let even = vec![1.0; if self.class_weights.is_none() { classes } else { 0 }];
        let weights = self.class_weights.as_ref().unwrap_or(&even);
        let over_labels = |labels: &[u32]| labels.iter().map(|&label| weights[label as usize]).sum::<f64>();
        // What the loss of each label is multiplied by, over the class's own weight.
        let factors: Vec<f64> = parts
            .iter()
            .map(|(factor, labels)| (factor, over_labels(labels)))
            .map(|(factor, sum)| if sum > 0.0 { factor / sum } else { 0.0 })
            .collect();
        let spread = factors.iter().sum::<f64>() * self.label_smoothing / classes as f64;
        let (mut loss, mut by_logits) = (0.0, Vec::with_capacity(logits.len()));
        let mut targets = vec![0.0; classes];
        for (photo, row) in logits.chunks_exact(classes).enumerate() {
            for (target, weight) in targets.iter_mut().zip(weights) {
                *target = spread * weight;
            }
            for (factor, (_, labels)) in factors.iter().zip(parts) {
                let label = labels[photo] as usize;
                targets[label] += factor * (1.0 - self.label_smoothing) * weights[label];
            }
            let log_sum = log_sum_exp(row);
            let whole: f64 = targets.iter().sum();
            for (&logit, target) in row.iter().zip(&targets) {
                let log_probability = f64::from(logit) - log_sum;
                // Not `0 · -∞`, where a class that does not count has no chance.
                if *target != 0.0 {
                    loss -= target * log_probability;
                }
                by_logits.push((share * (whole * log_probability.exp() - target)) as f32);
            }
        }
        (loss, by_logits)
    }
}

/// The sum of the log-losses of logits `[N, C]`, and how many labels have the highest logit of their row; of equals the lowest
/// number is it.
///
/// # Panics
/// As [`CrossEntropy::of`].
#[must_use]
pub(super) fn log_loss_and_hits(logits: &[f32], labels: &[u32]) -> (f64, usize) {
    let classes = logits.len() / labels.len().max(1);
    assert_eq!(logits.len(), labels.len() * classes, "each label has a row of logits");
    let rows = (0..labels.len()).map(|photo| &logits[photo * classes..][..classes]).zip(labels);
    rows.fold((0.0, 0), |(loss, right), (row, &label)| {
        let (before, from) = row.split_at(label as usize);
        let wins = before.iter().all(|&other| other < from[0]) && from.iter().all(|&other| other <= from[0]);
        (loss + log_sum_exp(row) - f64::from(from[0]), right + usize::from(wins))
    })
}

/// `log Σ exp x`, without overflow.
fn log_sum_exp(row: &[f32]) -> f64 {
    let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    top + row.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::{Golden, assert_agree};

    #[test]
    fn losses_and_their_derivatives_are_pytorchs() {
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
                    let (found, by_logits) = loss.loss_and_gradient(&logits, &labels, mixed, 1.0);
                    let oracle = golden.doubles(&name)[0];
                    assert!((found - oracle).abs() <= 1e-12 * oracle, "{name}: {found}, expected {oracle}");
                    assert_agree(&by_logits, &golden.floats(&format!("{name}.gradient")), 1e-6, &name);
                }
            }
        }
    }

    #[test]
    fn a_judgement_is_the_plain_loss_of_every_photo_and_the_number_that_are_right() {
        let golden = Golden::load();
        let (logits, labels) = (golden.floats("loss.logits"), golden.numbers("loss.labels"));
        let (sum, right) = log_loss_and_hits(&logits, &labels);
        let oracle = golden.doubles("loss.judged");
        assert!((sum - oracle[0]).abs() <= 1e-12 * oracle[0], "{sum}, expected {}", oracle[0]);
        assert_eq!(right as f64, oracle[1]);
        assert_eq!(log_loss_and_hits(&[1.0, 1.0, 0.0, 1.0, 1.0, 0.0], &[0, 1]).1, 1);
        assert_eq!(log_loss_and_hits(&[], &[]), (0.0, 0));
    }

    #[test]
    fn a_share_scales_the_derivative_alone() {
        let loss = CrossEntropy::default();
        let (whole, by_whole) = loss.loss_and_gradient(&[0.5, 2.0, -1.0, 0.0], &[0, 1], None, 1.0);
        let (part, by_part) = loss.loss_and_gradient(&[0.5, 2.0, -1.0, 0.0], &[0, 1], None, 0.25);
        assert_eq!(whole, part);
        assert!(by_whole.iter().zip(&by_part).all(|(whole, part)| 0.25 * whole == *part && *part != 0.0));
    }

    #[test]
    fn labels_that_do_not_count_have_no_loss() {
        let loss = CrossEntropy { label_smoothing: 0.1, class_weights: Some(vec![0.0, 1.0]) };
        assert_eq!(loss.loss_and_gradient(&[3.0, -1.0], &[0], None, 1.0), (0.0, vec![0.0, 0.0]));
    }
}
