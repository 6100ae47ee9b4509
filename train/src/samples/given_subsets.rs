//! The splits that a data set defines itself, as training and test set.

use std::collections::BTreeSet;

use headstock_loader::dataset::PassedOverReason;
use headstock_loader::{ClassMap, ClassOrder, DatasetError, RawDataset, RawSample, Split};
use headstock_split::words::NameList;

use super::Subset;
use crate::config::OnError;
use crate::error::{Remedy, TrainError};

/// The splits that the data itself defines (train, validation, test), as subsets. The test set is the test
/// split, or the validation split if there is no test split. With a separate test set, neither of them is
/// used.
pub(super) struct GivenSubsets {
    test_split: Split,
    has_test_set: bool,
}

impl GivenSubsets {
    /// The splits of `listing`; `None` if the data defines no splits. `has_test_set` says whether there is a
    /// separate test set. Samples of unused splits are passed over.
    pub(super) fn from_listing(listing: &mut RawDataset, has_test_set: bool) -> Option<Self> {
        let has_split = |split| listing.samples.iter().any(|entry| entry.split == Some(split));
        let test_split = [Split::Test, Split::Validation].into_iter().find(|&split| has_split(split));
        let has_training =
            listing.samples.iter().any(|entry| matches!(entry.split, None | Some(Split::Train)));
        let given = Self { test_split: test_split.filter(|_| has_training)?, has_test_set };
        let mut unused = BTreeSet::new();
        let passed_over = &mut listing.passed_over;
        listing.samples.retain(|entry| {
            let is_used = given.subset_of(entry.split).is_some();
            if !is_used {
                unused.extend(entry.split.map(Split::as_str));
                passed_over.add(PassedOverReason::UnusedSplit, entry.id.clone());
            }
            is_used
        });
        if !unused.is_empty() {
            let names = unused.into_iter().collect::<Vec<_>>().join(" and the ");
            let explanation = format!(": the {names} split is used neither for training nor for testing");
            listing.passed_over.explain(PassedOverReason::UnusedSplit, explanation);
        }
        Some(given)
    }

    fn subset_of(&self, split: Option<Split>) -> Option<Subset> {
        match split {
            None | Some(Split::Train) => Some(Subset::Train),
            Some(split) if split == self.test_split && !self.has_test_set => Some(Subset::Test),
            Some(_) => None,
        }
    }

    /// The subset of each sample of `listing`, `[N]`.
    pub(super) fn subsets(&self, listing: &RawDataset) -> Vec<Subset> {
        listing.samples.iter().filter_map(|entry| self.subset_of(entry.split)).collect()
    }

    /// The classes of the samples for training.
    pub(super) fn train_classes(&self, listing: &RawDataset) -> ClassMap {
        let is_train = |entry: &&RawSample| self.subset_of(entry.split) == Some(Subset::Train);
        let names = listing.samples.iter().filter(is_train).map(|entry| entry.class.as_str());
        ClassMap::new(names, ClassOrder::Sorted)
    }

    /// Checks that each class of `listing` has a training sample. With [`OnError::Skip`] the samples of other
    /// classes are passed over.
    pub(super) fn check_classes(
        &self,
        listing: &mut RawDataset,
        on_error: OnError,
    ) -> Result<(), TrainError> {
        let known = self.train_classes(listing);
        let unknown = listing.classes_not_in(&known);
        if unknown.is_empty() {
            return Ok(());
        }
        if on_error == OnError::Stop {
            return Err(DatasetError::unknown_class(&listing.origin, unknown, known.names()).into());
        }
        leave_out_unknown_classes(listing, &unknown);
        Ok(())
    }
}

/// Leaves out the test samples of the classes `unknown`, which have no training samples, with a message.
pub(super) fn leave_out_unknown_classes(listing: &mut RawDataset, unknown: &[String]) {
    listing.leave_out_classes(unknown, PassedOverReason::UnknownClass);
    let names = NameList(unknown.to_vec());
    let explanation = format!(" of classes that have no training photos: {names}");
    listing.passed_over.explain(PassedOverReason::UnknownClass, explanation);
}

/// Refuses data whose column or field of the split marks no sample for training.
pub(super) fn refuse_without_training(listing: &RawDataset) -> Result<(), TrainError> {
    let is_held_out = |sample: &RawSample| !matches!(sample.split, None | Some(Split::Train));
    if listing.samples.is_empty() || !listing.samples.iter().all(is_held_out) {
        return Ok(());
    }
    Err(TrainError::Data(format!(
        "{} marks all photos for testing or validation and none for training: mark the training photos as \
         `train` in the column of the split, or choose a different method",
        listing.origin.display()
    ))
    .with_remedy(Remedy::OtherSplit))
}
