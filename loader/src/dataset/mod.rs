//! Data sets: images and their classes.

mod class_map;
mod error;
mod groups;
mod passed_over;
mod raw;
mod split;
mod unreadable;

use std::collections::BTreeSet;

pub use class_map::{ClassMap, ClassOrder};
pub use error::{DatasetError, LikelySplits};
pub use groups::{join_groups, number_groups};
pub use passed_over::{PassedOver, PassedOverReason};
pub use raw::{RawDataset, RawSample};
pub use split::Split;
pub use unreadable::find_unreadable;

use crate::image_ref::ImageRef;

/// An image and its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Path relative to the data root, with `/` as separator.
    pub id: String,
    /// The image.
    pub image: ImageRef,
    /// Class index into [`Dataset::classes`].
    pub label: u32,
    /// Group index into [`Dataset::group_names`], if the data set has groups.
    pub group: Option<u32>,
    /// The split that the data set assigns, if it has splits.
    pub split: Option<Split>,
}

/// Labeled images, in an order that depends only on the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Class names.
    pub classes: ClassMap,
    /// The samples: sorted by class and path for a folder, otherwise in the order of the source.
    pub samples: Vec<Sample>,
    /// Group names by index, sorted bytewise.
    pub group_names: Vec<String>,
}

impl Dataset {
    /// The training data set of the listed samples `raw`, with the classes numbered in `class_order`.
    ///
    /// # Errors
    /// [`DatasetError`]: the first of `raw.errors`, no samples, or only one class.
    pub fn from_raw(mut raw: RawDataset, class_order: ClassOrder) -> Result<Self, DatasetError> {
        raw.check_no_errors()?;
        if raw.samples.is_empty() {
            let hint = "training needs photos with a class; add photos, or check the path";
            return Err(DatasetError::Empty { path: raw.origin, missing: "photos", hint });
        }
        let classes = ClassMap::new(raw.samples.iter().map(|sample| sample.class.as_str()), class_order);
        if let [class] = classes.names() {
            return Err(DatasetError::SingleClass { path: raw.origin, class: class.clone() });
        }
        Ok(Self::with_classes(raw, classes))
    }

    /// The test data set of the listed samples `raw`, labeled with the indices of the training classes
    /// `classes`, so that a trained model can be tested on them. A class may have no samples.
    ///
    /// # Errors
    /// [`DatasetError`]: the first of `raw.errors` except for empty classes, no samples, or a class that is
    /// not in `classes`.
    pub fn from_raw_with_classes(mut raw: RawDataset, classes: &ClassMap) -> Result<Self, DatasetError> {
        raw.errors.retain(|error| !matches!(error, DatasetError::EmptyClass { .. }));
        raw.check_no_errors()?;
        let unknown = raw.classes_not_in(classes);
        if !unknown.is_empty() {
            return Err(DatasetError::unknown_class(&raw.origin, unknown, classes.names()));
        }
        if raw.samples.is_empty() {
            let hint = "testing needs photos with a class; add photos, or check the path";
            return Err(DatasetError::Empty { path: raw.origin, missing: "photos", hint });
        }
        Ok(Self::with_classes(raw, classes.clone()))
    }

    /// Builds the data set from the listed samples `raw`. Their labels are the numbers of their classes in
    /// `classes`, which must contain every class. Group names become numbers too; the data set has no groups
    /// unless each sample has one.
    fn with_classes(raw: RawDataset, classes: ClassMap) -> Self {
        let sample_groups: Option<Vec<&str>> =
            raw.samples.iter().map(|sample| sample.group.as_deref()).collect();
        let group_indices = sample_groups.as_ref().map(|names| number_groups(names));
        let distinct_groups: BTreeSet<&str> = sample_groups.into_iter().flatten().collect();
        let group_names = distinct_groups.into_iter().map(str::to_owned).collect();
        let samples = (raw.samples.into_iter().enumerate())
            .map(|(i, raw_sample)| Sample {
                label: classes.label(&raw_sample.class).expect("every class is in the map"),
                group: group_indices.as_ref().map(|indices| indices[i]),
                id: raw_sample.id,
                image: raw_sample.image,
                split: raw_sample.split,
            })
            .collect();
        Self { classes, samples, group_names }
    }

    /// The label of each sample, `[N]`.
    #[must_use]
    pub fn labels(&self) -> Vec<u32> {
        self.samples.iter().map(|sample| sample.label).collect()
    }

    /// Number of samples of each class, by label, `[C]` for C classes.
    #[must_use]
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for sample in &self.samples {
            counts[sample.label as usize] += 1;
        }
        counts
    }

    /// Prepends `prefix` and `/` to every id, which makes the ids relative to a folder above the data root.
    /// So ids of data sets in two folders, such as for training and for testing, differ. An empty prefix
    /// changes nothing.
    pub fn prefix_ids(&mut self, prefix: &str) {
        if !prefix.is_empty() {
            for sample in &mut self.samples {
                sample.id = format!("{prefix}/{}", sample.id);
            }
        }
    }
}
