//! Choice of the regularization strength by cross-validation.

use headstock_split::{SplitIndices, stratified_folds};

use crate::data::{FeatureMatrix, TrainingSet};
use crate::error::HeadError;
use crate::head::History;

/// Number of folds.
const N_FOLDS: usize = 5;

/// The chosen value and the loss of each candidate.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// The best candidate; ties go to the first.
    pub(crate) value: f64,
    /// One row per candidate: its value and its mean loss.
    pub(crate) history: History,
}

/// The training and the held-out samples of a fold.
pub(crate) struct FoldData<'a> {
    /// Samples to fit on.
    pub(crate) fit: &'a TrainingSet<'a>,
    /// Samples to evaluate on.
    pub(crate) held_out: &'a TrainingSet<'a>,
}

/// Chooses the value of a hyperparameter for `"auto"`, such as `C`: the one of `candidates` with the lowest
/// loss in stratified cross-validation that keeps groups together. `parameter` is its name in messages and in
/// the history. `path_losses` fits the candidates on a fold, in order (so that each fit may start from the
/// previous one), and returns for each the sum of its losses over the held-out samples.
///
/// If nothing can be held out, as no class has two images of different groups, the middle candidate is taken
/// and a warning is logged.
pub(crate) fn choose_by_cross_validation(
    data: &TrainingSet<'_>,
    parameter: &'static str,
    candidates: &[f64],
    mut path_losses: impl FnMut(FoldData<'_>) -> Result<Vec<f64>, HeadError>,
) -> Result<Choice, HeadError> {
    let mut losses = vec![0.0; candidates.len()];
    let mut n_held_out = 0;
    for SplitIndices { train: fit, test: held_out } in stratified_folds(data.labels(), data.groups(), N_FOLDS)
    {
        if fit.is_empty() || held_out.is_empty() {
            continue;
        }
        n_held_out += held_out.len();
        let (fit, held_out) = (OwnedSet::from_rows(data, &fit), OwnedSet::from_rows(data, &held_out));
        let fold_losses =
            path_losses(FoldData { fit: &fit.training_set(data)?, held_out: &held_out.training_set(data)? })?;
        for (sum, loss) in losses.iter_mut().zip(fold_losses) {
            *sum += loss;
        }
    }
    if n_held_out == 0 {
        let value = candidates[candidates.len() / 2];
        tracing::warn!(
            "`{parameter} = \"auto\"` needs a class with at least two photos to compare values: \
             `{parameter} = {value}` is used; add photos, or set `{parameter}` to a number"
        );
        return Ok(Choice { value, history: History::default() });
    }
    // A loss of NaN must never be the lowest.
    let comparable = |loss: f64| if loss.is_finite() { loss } else { f64::INFINITY };
    let best = (0..losses.len()).min_by(|&a, &b| comparable(losses[a]).total_cmp(&comparable(losses[b])));
    let rows =
        candidates.iter().zip(&losses).map(|(&value, loss)| vec![value, loss / n_held_out as f64]).collect();
    let history = History { columns: vec![parameter, "held_out_loss"], rows };
    Ok(Choice { value: candidates[best.unwrap_or_default()], history })
}

/// A copy of some samples of a training set: the part of a fold that is fitted or held out. A
/// [`TrainingSet`] needs contiguous features, which those samples do not have in the original.
struct OwnedSet {
    /// Features, row by row.
    values: Vec<f32>,
    /// The class of each row.
    labels: Vec<u32>,
    /// The group of each row, if the original has groups.
    groups: Option<Vec<u32>>,
}

impl OwnedSet {
    /// Copies features, labels and groups of the samples with the indices `rows`: one side of a fold.
    fn from_rows(data: &TrainingSet<'_>, rows: &[usize]) -> Self {
        Self {
            values: rows.iter().flat_map(|&row| data.features().row(row)).copied().collect(),
            labels: rows.iter().map(|&row| data.labels()[row]).collect(),
            groups: data.groups().map(|groups| rows.iter().map(|&row| groups[row]).collect()),
        }
    }

    /// Borrows the copied samples as a training set that heads can be fitted on or evaluated with. `data` is
    /// the original, which gives the number of features and of classes.
    fn training_set(&self, data: &TrainingSet<'_>) -> Result<TrainingSet<'_>, HeadError> {
        let features = FeatureMatrix::from_valid_rows(&self.values, data.features().width());
        let set = TrainingSet::new(features, &self.labels, data.classes())?;
        self.groups.as_deref().map_or(Ok(set), |groups| set.with_groups(groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_disjoint_groups, example_groupings};

    fn choice(losses: &[f64]) -> f64 {
        let values = [0.0; 20];
        let labels: Vec<u32> = (0..20).map(|i| i % 2).collect();
        let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &labels, 2).unwrap();
        choose_by_cross_validation(&data, "C", &[0.1, 1.0, 10.0], |_| Ok(losses.to_vec())).unwrap().value
    }

    #[test]
    fn the_lowest_loss_wins_and_ties_go_to_the_first() {
        assert_eq!(choice(&[3.0, 2.0, 4.0]), 1.0);
        assert_eq!(choice(&[2.0, 2.0, 2.0]), 0.1);
        assert_eq!(choice(&[f64::NAN, 2.0, 2.0]), 1.0);
    }

    #[test]
    fn one_image_a_class_leaves_the_middle_candidate() {
        let values = [0.0; 3];
        let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &[0, 1, 2], 3).unwrap();
        let choice =
            choose_by_cross_validation(&data, "C", &[0.1, 1.0, 10.0], |_| panic!("there is nothing to fit"))
                .unwrap();
        assert_eq!((choice.value, choice.history.rows.len()), (1.0, 0));
    }

    /// Records the rows that are fitted on and held out; each row's feature is its index.
    // effect: data.group x head.linear.C, data.group x head.svm.C, features.views x head.linear.C
    // effect: features.views x head.svm.C
    #[test]
    fn each_row_is_held_out_once_from_fits_without_its_group() {
        for (name, labels, groups) in example_groupings() {
            let values: Vec<f32> = (0..labels.len()).map(|row| row as f32).collect();
            let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &labels, 4).unwrap();
            let data = data.with_groups(&groups).unwrap();
            let (mut held_out_rows, mut folds) = (Vec::<usize>::new(), 0);
            let choice = choose_by_cross_validation(&data, "C", &[0.1, 1.0], |FoldData { fit, held_out }| {
                let [fit, held_out] = [fit, held_out].map(|set| -> Vec<usize> {
                    let rows: Vec<usize> =
                        set.features().as_slice().iter().map(|&row| row as usize).collect();
                    assert!(set.labels().iter().copied().eq(rows.iter().map(|&row| labels[row])), "{name}");
                    let set_groups = set.groups().expect("groups go along").iter().copied();
                    assert!(set_groups.eq(rows.iter().map(|&row| groups[row])), "{name}");
                    assert_eq!(set.classes(), 4);
                    rows
                });
                assert_disjoint_groups(&labels, &groups, &fit, &held_out);
                assert_eq!(fit.len() + held_out.len(), labels.len(), "{name}");
                folds += 1;
                held_out_rows.extend(&held_out);
                Ok(vec![3.0 * held_out.len() as f64, 1.0])
            });
            held_out_rows.sort_unstable();
            // The only group of a class is never held out.
            let is_only_group = |row: &usize| {
                let same_class = (0..labels.len()).filter(|&other| labels[other] == labels[*row]);
                same_class.into_iter().all(|other| groups[other] == groups[*row])
            };
            assert!(
                held_out_rows.iter().copied().eq((0..labels.len()).filter(|row| !is_only_group(row))),
                "{name}: {held_out_rows:?}"
            );
            // The mean over all held-out rows: 3 per row, and 1 per fold.
            let Choice { value, history } = choice.unwrap();
            assert_eq!((value, history.columns), (1.0, vec!["C", "held_out_loss"]));
            assert_eq!(
                history.rows,
                [vec![0.1, 3.0], vec![1.0, f64::from(folds) / held_out_rows.len() as f64]]
            );
        }
    }

    #[test]
    fn there_are_five_folds() {
        let values = [0.0; 20];
        let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &[0; 20], 1).unwrap();
        let mut sizes = Vec::new();
        let record = |fold: FoldData<'_>| {
            sizes.push((fold.fit.labels().len(), fold.held_out.labels().len()));
            Ok(vec![0.0])
        };
        choose_by_cross_validation(&data, "C", &[1.0], record).unwrap();
        assert_eq!(sizes, [(16, 4); 5]);
    }

    #[test]
    fn rows_of_one_group_leave_the_middle_candidate() {
        let values = [0.0; 4];
        let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &[0, 1, 0, 1], 2).unwrap();
        let data = data.with_groups(&[3; 4]).unwrap();
        let choice =
            choose_by_cross_validation(&data, "C", &[0.1, 1.0, 10.0], |_| panic!("there is nothing to fit"))
                .unwrap();
        assert_eq!((choice.value, choice.history.rows.len()), (1.0, 0));
    }
}
