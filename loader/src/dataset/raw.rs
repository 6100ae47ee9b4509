//! Samples as a source lists them, before classes are numbered.

use std::collections::HashMap;
use std::path::PathBuf;

use headstock_split::words::{NameList, counted};

use super::{ClassMap, ClassOrder, DatasetError, PassedOver, PassedOverReason, Split};
use crate::image_ref::ImageRef;

/// The samples of a source before classes are numbered.
#[derive(Debug)]
pub struct RawDataset {
    /// The folder or file that was read, for messages.
    pub origin: PathBuf,
    /// The samples: sorted by class and path for a folder, otherwise in the order of the source.
    pub samples: Vec<RawSample>,
    /// Errors of single samples, which are left out. Training data must have no errors.
    pub errors: Vec<DatasetError>,
    /// The files and rows that are neither samples nor errors.
    pub passed_over: PassedOver,
}

impl RawDataset {
    /// A listing of `origin` without any entry yet.
    #[must_use]
    pub fn new(origin: PathBuf) -> Self {
        Self { origin, samples: Vec::new(), errors: Vec::new(), passed_over: PassedOver::default() }
    }

    /// Passes over the entries that have an error, and logs the errors, so that the others can be used. Errors
    /// that are not about single entries stay.
    pub fn skip_errors(&mut self) {
        let errors = DatasetError::summarize(std::mem::take(&mut self.errors));
        for error in errors {
            let Some((reason, names)) = error.entries() else {
                self.errors.push(error);
                continue;
            };
            match reason {
                Some(reason) => {
                    tracing::warn!("skipped {}: {error}", counted(names.len(), "entry", "entries"));
                    self.passed_over.add_logged(reason, names.len());
                }
                None => tracing::warn!("skipped {}: {error}", counted(names.len(), "class", "classes")),
            }
        }
    }

    /// Leaves out the classes with fewer than `min_samples` photos for training, with a message; with 1 or more
    /// also folders of classes without photos, which are errors otherwise.
    pub fn leave_out_small_classes(&mut self, min_samples: usize) {
        if min_samples == 0 {
            return;
        }
        self.errors.retain(|error| {
            let is_empty_class = matches!(error, DatasetError::EmptyClass { .. });
            if is_empty_class {
                tracing::warn!("left out: {error}");
            }
            !is_empty_class
        });
        let mut sizes: HashMap<&str, usize> = HashMap::new();
        for sample in &self.samples {
            let is_train = matches!(sample.split, None | Some(Split::Train));
            *sizes.entry(&sample.class).or_default() += usize::from(is_train);
        }
        let mut small: Vec<String> =
            sizes.iter().filter(|(_, size)| **size < min_samples).map(|(&name, _)| name.to_owned()).collect();
        if small.is_empty() {
            return;
        }
        small.sort_unstable();
        tracing::warn!(
            "left out {} of {} with fewer than {min_samples} training photos: {}",
            counted(small.len(), "class", "classes"),
            self.origin.display(),
            NameList(small.clone())
        );
        self.leave_out_classes(&small, PassedOverReason::SmallClass);
    }

    /// The classes of samples that are not in `classes`, sorted by name.
    #[must_use]
    pub fn classes_not_in(&self, classes: &ClassMap) -> Vec<String> {
        let names = self.samples.iter().map(|sample| sample.class.as_str());
        let found = ClassMap::new(names, ClassOrder::Sorted);
        found.names().iter().filter(|name| classes.label(name).is_none()).cloned().collect()
    }

    /// Leaves out the samples of `classes`, which are passed over with this `reason`.
    pub fn leave_out_classes(&mut self, classes: &[String], reason: PassedOverReason) {
        let passed_over = &mut self.passed_over;
        self.samples.retain(|sample| {
            let stays = !classes.contains(&sample.class);
            if !stays {
                passed_over.add(reason, sample.id.clone());
            }
            stays
        });
    }

    /// The first of the errors, if there are any. Errors of several rows with the same cause are one error.
    pub(super) fn check_no_errors(&mut self) -> Result<(), DatasetError> {
        DatasetError::summarize(std::mem::take(&mut self.errors)).into_iter().next().map_or(Ok(()), Err)
    }
}

/// A sample with its class, group and split by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// Path relative to the data root, with `/` as separator.
    pub id: String,
    /// The image.
    pub image: ImageRef,
    /// Class name.
    pub class: String,
    /// Group name, if the source has groups.
    pub group: Option<String>,
    /// The split that the source assigns, if it has splits.
    pub split: Option<Split>,
}
