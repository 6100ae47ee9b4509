//! Which samples are tested on.

use std::collections::BTreeMap;

use headstock_loader::split::{SplitUnit, hash_split};
use headstock_loader::{
    ClassMap, SplitError, SplitIndices, TestSize, group_shuffle_split, stratified_group_k_fold,
    stratified_k_fold, stratified_shuffle_split,
};

use super::Subset;
use crate::config::{DEFAULT_FOLDS, SplitMethod, SplitOptions};
use crate::error::TrainError;

/// What a split is drawn over: a sample a row.
pub(super) struct SampleSplitter<'a> {
    pub(super) classes: &'a ClassMap,
    pub(super) labels: &'a [u32],
    pub(super) ids: Vec<&'a str>,
    /// The group of each sample, where the data has groups or near-duplicates were joined.
    pub(super) groups: Option<Vec<u32>>,
    /// The names of the data's own groups, where it has names for them.
    pub(super) group_names: &'a [String],
    /// Whether the groups are there to keep near-duplicates together, whatever the method.
    pub(super) joins_duplicates: bool,
}

impl SampleSplitter<'_> {
    /// Gives each sample its part, by all methods but the one that reads it from the data.
    ///
    /// # Errors
    /// [`TrainError::Data`] for samples that cannot be split so.
    pub(super) fn assign_subsets(&self, options: &SplitOptions) -> Result<Vec<Subset>, TrainError> {
        let split = self
            .draw_split(options)
            .map_err(|error| TrainError::Data(error.message_with_names(self.classes)))?;
        let mut subsets = vec![Subset::Train; self.labels.len()];
        for &row in &split.test {
            subsets[row] = Subset::Test;
        }
        Ok(subsets)
    }

    fn draw_split(&self, options: &SplitOptions) -> Result<SplitIndices, SplitError> {
        let SplitOptions { method, test_size, seed, folds, fold, .. } = *options;
        // The settings were checked: a method that needs groups has them.
        let groups = self.groups.as_deref().unwrap_or_default();
        let take_fold = |mut splits: Vec<SplitIndices>| splits.swap_remove(fold as usize);
        let n_folds = folds.unwrap_or(DEFAULT_FOLDS) as usize;
        match method {
            SplitMethod::StratifiedShuffle if self.joins_duplicates => {
                let matching_folds = self.n_folds_for_test_size(test_size)?;
                stratified_group_k_fold(self.labels, groups, matching_folds, seed)
                    .map(|mut splits| splits.swap_remove(0))
            }
            SplitMethod::StratifiedShuffle => {
                stratified_shuffle_split(self.labels, 1, test_size, seed).map(take_fold)
            }
            SplitMethod::StratifiedKFold if self.joins_duplicates => {
                stratified_group_k_fold(self.labels, groups, n_folds, seed).map(take_fold)
            }
            SplitMethod::StratifiedKFold => stratified_k_fold(self.labels, n_folds, seed).map(take_fold),
            SplitMethod::Group if folds.is_some() => {
                stratified_group_k_fold(self.labels, groups, n_folds, seed).map(take_fold)
            }
            SplitMethod::Group => group_shuffle_split(groups, 1, test_size, seed).map(take_fold),
            SplitMethod::Hash => hash_split(&self.hash_keys(), test_size, seed),
            SplitMethod::Predefined => unreachable!("these parts are read from the data"),
        }
    }

    /// As many folds as make one about as large as the test part is to be.
    fn n_folds_for_test_size(&self, test_size: TestSize) -> Result<usize, SplitError> {
        let count = self.labels.len();
        let fraction = match test_size {
            TestSize::Fraction(fraction) => fraction,
            TestSize::Count(tested) if tested < count => tested as f64 / count as f64,
            TestSize::Count(_) => {
                return Err(SplitError::TestSize { test_size, unit: SplitUnit::Samples, count });
            }
        };
        Ok(((1.0 / fraction).round() as usize).max(2))
    }

    /// What a sample's place depends on: the name of its group, or the first id of the near-duplicates, or its id.
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
