//! Data sets: which photos there are, and what class each one shows.

mod class_map;
mod error;
mod groups;
mod unreadable;

use std::collections::BTreeSet;

pub use class_map::{ClassMap, ClassOrder};
pub(crate) use error::did_you_mean;
pub use error::{DatasetError, NameList};
pub use groups::{join_groups, number_groups};
pub use unreadable::find_unreadable;

use crate::image_ref::ImageRef;
use crate::source::{DataSource, RawDataset, Split};

/// A photo and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The photo's path relative to the data root, with `/` between its parts.
    pub id: String,
    /// Where the photo lies.
    pub image: ImageRef,
    /// The number of its class.
    pub label: u32,
    /// The number of the group that it belongs to, where the data set knows groups.
    pub group: Option<u32>,
    /// The part that the data set puts it in, where it has parts.
    pub split: Option<Split>,
}

/// Photos with their classes, in an order that depends on the data alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The classes.
    pub classes: ClassMap,
    /// The samples: a folder's by class and path, others as they are listed.
    pub samples: Vec<Sample>,
    /// The names of the groups, by number, sorted bytewise.
    pub group_names: Vec<String>,
}

impl Dataset {
    /// Reads what `source` lists and numbers the classes.
    ///
    /// # Errors
    /// [`DatasetError`] of the source, and as [`Dataset::of`].
    pub fn read(source: &dyn DataSource, class_order: ClassOrder) -> Result<Self, DatasetError> {
        Self::from_raw(source.list()?, class_order)
    }

    /// Numbers the classes of what was listed.
    ///
    /// # Errors
    /// [`DatasetError`]: the first fault of the entries, no sample, one class only.
    pub fn from_raw(mut raw: RawDataset, class_order: ClassOrder) -> Result<Self, DatasetError> {
        if !raw.errors.is_empty() {
            return Err(raw.errors.swap_remove(0));
        }
        if raw.samples.is_empty() {
            let hint = "there is nothing to learn from";
            return Err(DatasetError::Empty { path: raw.origin, missing: "photos", hint });
        }
        let classes = ClassMap::new(raw.samples.iter().map(|sample| sample.class.as_str()), class_order);
        if let [class] = classes.names() {
            return Err(DatasetError::OneClass { path: raw.origin, class: class.clone() });
        }
        Ok(Self::with_classes(raw, classes))
    }

    /// Reads what `source` lists, the classes numbered as in `classes`: samples that are only tested on. A class may have none
    /// here.
    ///
    /// # Errors
    /// [`DatasetError`] of the source, the first fault of its entries but for empty classes, and for no sample or a class that is
    /// not among `classes`.
    pub fn read_with_classes(source: &dyn DataSource, classes: &ClassMap) -> Result<Self, DatasetError> {
        let mut raw = source.list()?;
        raw.errors.retain(|error| !matches!(error, DatasetError::EmptyClass { .. }));
        if !raw.errors.is_empty() {
            return Err(raw.errors.swap_remove(0));
        }
        let found = ClassMap::new(raw.samples.iter().map(|sample| sample.class.as_str()), ClassOrder::Sorted);
        let unknown: Vec<String> =
            found.names().iter().filter(|name| classes.label(name).is_none()).cloned().collect();
        if !unknown.is_empty() {
            let (root, known) = (raw.origin, NameList(classes.names().to_vec()));
            return Err(DatasetError::UnknownClass { root, classes: NameList(unknown), known });
        }
        if raw.samples.is_empty() {
            let hint = "there is nothing to test on";
            return Err(DatasetError::Empty { path: raw.origin, missing: "photos", hint });
        }
        Ok(Self::with_classes(raw, classes.clone()))
    }

    /// Of entries whose classes are all known.
    fn with_classes(raw: RawDataset, classes: ClassMap) -> Self {
        let names: Option<Vec<&str>> = raw.samples.iter().map(|sample| sample.group.as_deref()).collect();
        let groups = names.as_ref().map(|names| number_groups(names));
        let distinct: BTreeSet<&str> = names.into_iter().flatten().collect();
        let distinct: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
        let samples = (raw.samples.into_iter().enumerate())
            .map(|(i, raw_sample)| Sample {
                label: classes.label(&raw_sample.class).expect("the map has the class of every entry"),
                group: groups.as_ref().map(|groups| groups[i]),
                id: raw_sample.id,
                image: raw_sample.image,
                split: raw_sample.split,
            })
            .collect();
        Self { classes, samples, group_names: distinct }
    }

    /// The label of each sample, `[N]`.
    #[must_use]
    pub fn labels(&self) -> Vec<u32> {
        self.samples.iter().map(|sample| sample.label).collect()
    }

    /// The number of samples of each class, `[C]`.
    #[must_use]
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for sample in &self.samples {
            counts[sample.label as usize] += 1;
        }
        counts
    }

    /// Puts `prefix` and a `/` before every id: the samples then belong to a data root further up.
    pub fn prefix_ids(&mut self, prefix: &str) {
        if !prefix.is_empty() {
            for sample in &mut self.samples {
                sample.id = format!("{prefix}/{}", sample.id);
            }
        }
    }
}
