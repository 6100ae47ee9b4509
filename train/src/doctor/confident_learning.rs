//! Confident learning: finds probably wrong labels from out-of-fold probabilities.

/// The result of confident learning.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelIssues {
    /// The threshold of each class: the mean probability of the class among the samples with its
    /// label. It is 2 for a class without samples, so that no probability reaches it.
    pub thresholds: Vec<f64>,
    /// The confident joint: `joint[i][j]` is the number of samples with label `i` that are confidently class
    /// `j`. It is at least 1 on the diagonal.
    pub joint: Vec<Vec<usize>>,
    /// The indices of the samples with probably wrong labels, the most suspicious first.
    pub ranked: Vec<usize>,
}

/// Tolerance of comparisons of probabilities, that of cleanlab.
const TOLERANCE: f64 = 1e-6;

/// Finds which labels are probably wrong, by confident learning. `labels` has the label of each sample,
/// `probabilities` `[samples, classes]`, row-major, the class probabilities by a head that was not fitted on
/// the sample (out-of-fold).
///
/// The threshold of a class is its mean probability among the samples with its label. A sample is confidently
/// a class if its probability reaches the threshold; of several such classes the most probable one counts.
/// The samples that are confidently a class other than their label, and whose label is not their most
/// probable class, are counted (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty
/// in Dataset Labels"). Returned are that many samples with the lowest [`self_confidence`]: they contain more
/// of randomly flipped labels than the counted samples do. This is cleanlab 2.9's
/// `find_label_issues(filter_by="low_self_confidence", return_indices_ranked_by="self_confidence")`.
///
/// ```
/// use headstock_train::doctor::label_issues;
///
/// let probabilities = [0.9, 0.1, 0.8, 0.2, 0.1, 0.9, 0.2, 0.8, 0.1, 0.9];
/// assert_eq!(label_issues(&[0, 0, 1, 1, 0], &probabilities, 2).ranked, [4]);
/// ```
///
/// # Panics
/// If there are not `classes` probabilities for each label, or a label is not below `classes`.
#[must_use]
pub fn label_issues(labels: &[u32], probabilities: &[f32], classes: usize) -> LabelIssues {
    assert_eq!(labels.len() * classes, probabilities.len(), "each sample needs a probability of each class");
    // The label of each sample, and the row of its probabilities `[classes]`.
    let rows = || labels.iter().map(|&label| label as usize).zip(probabilities.chunks_exact(classes));
    let (mut sums, mut counts) = (vec![0.0; classes], vec![0; classes]);
    for (label, row) in rows() {
        sums[label] += f64::from(row[label]);
        counts[label] += 1;
    }
    // 2 for a class without samples: no probability reaches it. The lower limit is that of cleanlab.
    let thresholds: Vec<f64> = (sums.iter().zip(&counts))
        .map(|(sum, &count)| if count == 0 { 2.0 } else { (sum / f64::from(count)).max(2.0 * TOLERANCE) })
        .collect();

    // The confident joint: the number of samples by label and confident class.
    let mut joint = vec![vec![0; classes]; classes];
    let mut n_wrong = 0;
    for (label, row) in rows() {
        let reached = |class: &usize| f64::from(row[*class]) >= thresholds[*class] - TOLERANCE;
        let mut confident = (0..classes).filter(reached);
        let confident_class = match (confident.next(), confident.next()) {
            (None, _) => continue,
            (Some(class), None) => class,
            (Some(_), Some(_)) => most_probable(row, |_| 0.0),
        };
        joint[label][confident_class] += 1;
        // The label counts as the most probable class if it is within the tolerance of it.
        let own_margin = |class| if class == label { TOLERANCE } else { 0.0 };
        if confident_class != label && most_probable(row, own_margin) != label {
            n_wrong += 1;
        }
    }
    // At least 1 on the diagonal, as in cleanlab.
    for (label, sample_counts) in joint.iter_mut().enumerate() {
        sample_counts[label] = sample_counts[label].max(1);
    }
    let scores: Vec<f64> = rows().map(|(label, row)| f64::from(row[label])).collect();
    let mut ranked: Vec<usize> = (0..labels.len()).collect();
    ranked.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    ranked.truncate(n_wrong);
    LabelIssues { thresholds, joint, ranked }
}

/// The probability of a sample's label, out of the `probabilities` of all classes. Labels with the lowest
/// value are the most suspicious.
#[must_use]
pub fn self_confidence(label: u32, probabilities: &[f32]) -> f64 {
    f64::from(probabilities[label as usize])
}

/// The class with the highest probability plus `margin(class)`; the first of equals.
pub(super) fn most_probable(row: &[f32], margin: impl Fn(usize) -> f64) -> usize {
    let value = |class: usize| f64::from(row[class]) + margin(class);
    (1..row.len()).fold(0, |best, class| if value(class) > value(best) { class } else { best })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::SafeTensors;
    use serde_json::Value;

    use super::*;

    fn reference_file(name: &str) -> Vec<u8> {
        fs::read(format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/doctor/{}"), name)).unwrap()
    }

    /// Both thresholds are 0.8; with 0.8, sample 4 just reaches the one of class 0.
    #[test]
    fn a_probability_on_the_threshold_is_confident_and_one_below_it_is_not() {
        let issues = |probability: f32| {
            let probabilities = [0.8, 0.2, 0.8, 0.2, 0.2, 0.8, 0.2, 0.8, probability, 1.0 - probability];
            let found = label_issues(&[0, 0, 1, 1, 1], &probabilities, 2);
            (found.joint.concat(), found.ranked)
        };
        assert_eq!(issues(0.8), (vec![2, 0, 1, 2], vec![4]));
        assert_eq!(issues(0.79), (vec![2, 0, 0, 2], vec![]));
        assert!((self_confidence(1, &[0.25, 0.75]) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn label_issues_are_cleanlabs() {
        let bytes = reference_file("probabilities.safetensors");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let expected: Value = serde_json::from_slice(&reference_file("issues.json")).unwrap();
        let expected = expected.as_object().unwrap();
        assert!(expected.len() >= 6);
        for (name, cleanlab) in expected {
            let probabilities = tensors.tensor(name).unwrap();
            let classes = probabilities.shape()[1];
            let probabilities: Vec<f32> = bytemuck::pod_collect_to_vec(probabilities.data());
            let numbers = |key: &str| -> Vec<usize> {
                cleanlab[key]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|number| number.as_u64().unwrap() as usize)
                    .collect()
            };
            let labels: Vec<u32> = numbers("labels").into_iter().map(|label| label as u32).collect();
            let found = label_issues(&labels, &probabilities, classes);
            for (ours, theirs) in found.thresholds.iter().zip(cleanlab["thresholds"].as_array().unwrap()) {
                assert!((ours - theirs.as_f64().unwrap()).abs() < 1e-12, "{name}: {ours} {theirs}");
            }
            assert_eq!(found.joint.concat(), numbers("joint"), "{name}");
            assert_eq!(found.ranked, numbers("issues"), "{name}");
        }
    }
}
