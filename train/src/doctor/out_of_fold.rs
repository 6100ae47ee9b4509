//! Probabilities of each sample by a head that was fitted without it and without its copies.

use headstock_heads::folds::Fold;
use headstock_heads::{
    CalibrationMethod, ConfiguredHead, Features, FitContext, HeadError, Logits, TrainingSet,
};
use headstock_loader::{Split, stratified_group_k_fold};

use crate::compare::folds::by_appearance;
use crate::error::TrainError;
use crate::fit::crossed;
use crate::progress::Progress;

/// Folds, where a class has so many groups.
const FOLDS: usize = 5;

/// Probabilities of samples by heads that were fitted without them.
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfFold {
    /// The numbers of the samples among all, `[N]`: those of classes with two photos or more.
    pub samples: Vec<usize>,
    /// The classes, by their numbers in the data set, `[C]`.
    pub classes: Vec<u32>,
    /// Each sample's label, as its place in `classes`, `[N]`.
    pub labels: Vec<u32>,
    /// `[N, C]`, row-major; calibrated by a temperature that is fitted on the other folds.
    pub probabilities: Vec<f32>,
}

/// The samples that probabilities are wanted of.
pub(super) struct Asked<'a> {
    /// Their numbers among all samples.
    pub(super) samples: &'a [usize],
    /// The features of each, in the same order.
    pub(super) features: Features<'a>,
    /// The label of each.
    pub(super) labels: Vec<u32>,
    /// What belongs together: copies, and groups of the data.
    pub(super) groups: Vec<u32>,
}

impl Asked<'_> {
    /// Folds as scikit-learn's `StratifiedGroupKFold(shuffle=True, random_state=0)`. What cannot be done is told in a sentence.
    pub(super) fn predict(
        &self,
        head: &dyn ConfiguredHead,
        progress: &dyn Progress,
    ) -> Result<OutOfFold, String> {
        let counts = groups_of_classes(&self.labels, &self.groups);
        let classes: Vec<u32> =
            (0..counts.len() as u32).filter(|&class| counts[class as usize] >= 2).collect();
        let place = |label: u32| classes.binary_search(&label).ok();
        let kept: Vec<usize> =
            (0..self.labels.len()).filter(|&row| place(self.labels[row]).is_some()).collect();
        if classes.len() < 2 {
            return Err("fewer than two classes have two different photos".into());
        }
        let labels: Vec<u32> =
            kept.iter().filter_map(|&row| place(self.labels[row])).map(|place| place as u32).collect();
        let groups: Vec<u32> = kept.iter().map(|&row| self.groups[row]).collect();
        let most = classes.iter().map(|&class| counts[class as usize]).max().unwrap_or(0);
        let splits =
            stratified_group_k_fold(&labels, &groups, FOLDS.min(most), 0).map_err(|e| e.to_string())?;
        let folds: Vec<Fold> = splits
            .into_iter()
            .filter(|split| !split.test.is_empty())
            .map(|Split { train, test }| Fold { fit: train, held_out: test })
            .collect();
        if folds.iter().any(|fold| fold.fit.is_empty()) {
            return Err("all photos belong together".into());
        }
        let said =
            |error: &dyn std::fmt::Display| format!("the head `{}` cannot be fitted: {error}", head.kind());
        let logits =
            self.logits(head, &kept, &labels, &folds, classes.len(), progress).map_err(|e| said(&e))?;
        let probabilities = crossed(CalibrationMethod::Temperature, &logits, &labels, &folds)
            .map_err(|error: TrainError| said(&error))?;
        let samples = kept.iter().map(|&row| self.samples[row]).collect();
        Ok(OutOfFold { samples, classes, labels, probabilities })
    }

    /// `[N, C]`
    fn logits(
        &self,
        head: &dyn ConfiguredHead,
        kept: &[usize],
        labels: &[u32],
        folds: &[Fold],
        classes: usize,
        progress: &dyn Progress,
    ) -> Result<Logits, HeadError> {
        let width = self.features.width();
        let rows = |part: &[usize]| -> Vec<f32> {
            let mut values = Vec::with_capacity(part.len() * width);
            part.iter().for_each(|&row| values.extend_from_slice(self.features.row(kept[row])));
            values
        };
        let mut all = vec![0.0; kept.len() * classes];
        for (number, fold) in folds.iter().enumerate() {
            progress.begin(&format!("judging labels, fold {} of {}", number + 1, folds.len()), 0, "steps");
            let context = FitContext { on_step: &|done, total| progress.reach(done, total), start: None };
            let fitted = {
                let values = rows(&fold.fit);
                let labels: Vec<u32> = fold.fit.iter().map(|&row| labels[row]).collect();
                let groups: Vec<u32> = fold.fit.iter().map(|&row| self.groups[kept[row]]).collect();
                let data = TrainingSet::new(Features::new(&values, width)?, &labels, classes)?;
                head.fit(&data.with_groups(&by_appearance(&groups))?, &context)
            };
            progress.end();
            let tested = rows(&fold.held_out);
            let logits = fitted?.head.logits(Features::new(&tested, width)?)?;
            if logits.as_slice().iter().any(|logit| !logit.is_finite()) {
                return Err(HeadError::Diverged("it gives logits that are not finite".into()));
            }
            for (row, &sample) in logits.rows().zip(&fold.held_out) {
                all[sample * classes..][..classes].copy_from_slice(row);
            }
        }
        Logits::new(all, classes)
    }
}

/// How many groups have samples of each class.
fn groups_of_classes(labels: &[u32], groups: &[u32]) -> Vec<usize> {
    let mut pairs: Vec<(u32, u32)> = labels.iter().copied().zip(groups.iter().copied()).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut counts = vec![0; labels.iter().max().map_or(0, |&most| most as usize + 1)];
    pairs.iter().for_each(|(label, _)| counts[*label as usize] += 1);
    counts
}
