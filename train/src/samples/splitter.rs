//! Draws the test set.

use std::collections::BTreeMap;

use headstock_split::{
    SplitError, SplitIndices, SplitUnit, TestSize, group_shuffle_split, hash_split, stratified_group_k_fold,
    stratified_k_fold, stratified_shuffle_split,
};

use super::{SampleSet, Subset};
use crate::config::{DEFAULT_FOLDS, SplitMethod, SplitOptions};
use crate::error::{Remedy, TrainError};

impl SampleSet {
    /// Draws the test set as `options` say. All samples must be in the training set. `group_names` are the
    /// names of the groups of the data, if they have names.
    ///
    /// # Errors
    /// [`TrainError::Data`] and [`TrainError::Split`] for samples that cannot be split in this way; all samples
    /// then stay in the training set.
    pub(super) fn draw_test_set(
        &mut self,
        options: &SplitOptions,
        group_names: &[String],
    ) -> Result<(), TrainError> {
        if options.method == SplitMethod::Predefined {
            let problem = "the split method is \"predefined\", but the data does not mark any photo for \
                           testing: mark some photos as `test` in the column of the split, or choose a \
                           different method";
            return Err(TrainError::Data(problem.into()).with_remedy(Remedy::OtherSplit));
        }
        let splitter = SampleSplitter {
            labels: self.rows.iter().map(|row| row.label).collect(),
            ids: self.rows.iter().map(|row| row.id.as_str()).collect(),
            groups: self.rows.iter().map(|row| row.group).collect(),
            group_names,
            joins_duplicates: options.group_duplicates,
        };
        let split = splitter
            .draw_split(options)
            .map_err(|error| error.with_names(|label| self.classes.name(label).to_owned()))?;
        for row in split.test {
            self.rows[row].subset = Subset::Test;
        }
        Ok(())
    }
}

/// The samples that training and test set are drawn from.
struct SampleSplitter<'a> {
    labels: Vec<u32>,
    ids: Vec<&'a str>,
    /// The group of each sample, if the data has groups or near-duplicates were joined to groups.
    groups: Option<Vec<u32>>,
    /// The names of the groups of the data, if they have names.
    group_names: &'a [String],
    /// Whether the groups join near-duplicates, which all methods keep together.
    joins_duplicates: bool,
}

impl SampleSplitter<'_> {
    /// Draws the indices of the training and test set by `options.method`; with near-duplicates, by the
    /// variant of the method that keeps groups together.
    fn draw_split(&self, options: &SplitOptions) -> Result<SplitIndices, SplitError> {
        let SplitOptions { method, test_size, seed, folds, fold, .. } = *options;
        // The settings have been checked: a method that needs groups has them.
        let groups = self.groups.as_deref().unwrap_or_default();
        // Methods without folds draw one split; `fold` is then 0.
        let take_fold = |mut splits: Vec<SplitIndices>| splits.swap_remove(fold as usize);
        let take_group_fold =
            |n_folds| stratified_group_k_fold(&self.labels, groups, n_folds, seed).map(take_fold);
        let n_folds = folds.unwrap_or(DEFAULT_FOLDS) as usize;
        match method {
            SplitMethod::StratifiedShuffle if self.joins_duplicates => {
                take_group_fold(self.n_folds_for_test_size(test_size)?)
            }
            SplitMethod::StratifiedShuffle => {
                stratified_shuffle_split(&self.labels, 1, test_size, seed).map(take_fold)
            }
            SplitMethod::StratifiedKFold if self.joins_duplicates => take_group_fold(n_folds),
            SplitMethod::StratifiedKFold => stratified_k_fold(&self.labels, n_folds, seed).map(take_fold),
            SplitMethod::Group if folds.is_some() => take_group_fold(n_folds),
            SplitMethod::Group => group_shuffle_split(groups, 1, test_size, seed).map(take_fold),
            SplitMethod::Hash => hash_split(&self.hash_keys(), test_size, seed),
            SplitMethod::Predefined => unreachable!("predefined splits are read from the data"),
        }
    }

    /// The number of folds for which one fold is about as large as the test set: with near-duplicates, the
    /// test set is the first of these folds, because a stratified shuffle does not know groups.
    fn n_folds_for_test_size(&self, test_size: TestSize) -> Result<usize, SplitError> {
        let count = self.labels.len();
        let fraction = match test_size {
            TestSize::Fraction(fraction) => fraction,
            TestSize::Count(n_test) if n_test < count => n_test as f64 / count as f64,
            TestSize::Count(_) => {
                return Err(SplitError::TestSize { test_size, unit: SplitUnit::Samples, count });
            }
        };
        Ok(((1.0 / fraction).round() as usize).max(2))
    }

    /// The text of each sample, `[N]`, whose hash decides the sample's subset: the name of its group, or the
    /// smallest id among its near-duplicates, or its id. Samples with the same text are in the same subset.
    fn hash_keys(&self) -> Vec<&str> {
        let Some(groups) = &self.groups else { return self.ids.clone() };
        if !self.joins_duplicates && !self.group_names.is_empty() {
            return groups.iter().map(|&group| self.group_names[group as usize].as_str()).collect();
        }
        let mut first_id = BTreeMap::new();
        for (&group, &id) in groups.iter().zip(&self.ids) {
            first_id.entry(group).and_modify(|first: &mut &str| *first = id.min(first)).or_insert(id);
        }
        groups.iter().map(|group| first_id[group]).collect()
    }
}
