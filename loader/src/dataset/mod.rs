//! Data sets: which photos there are, and what class each one shows.

mod class_map;
mod csv;
mod error;
mod folder;
mod groups;
mod same;
mod unreadable;

use std::path::{Path, PathBuf};

pub use class_map::{ClassMap, ClassOrder};
pub use csv::{CsvSource, TableHead, read_csv, read_table_head};
pub use error::{DatasetError, Listed};
pub use folder::{is_photo, photos_below, read_folder, read_folder_with};
pub use groups::{join_groups, number_groups};
pub use unreadable::unreadable;

/// A photo and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The photo's path relative to the data root, with `/` between its parts.
    pub id: String,
    /// Where the photo lies.
    pub path: PathBuf,
    /// The number of its class.
    pub label: u32,
    /// The number of the group that it belongs to, where the data set knows groups.
    pub group: Option<u32>,
}

impl AsRef<Path> for Sample {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// Photos with their classes, in an order that depends on the data alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The classes.
    pub classes: ClassMap,
    /// The samples: a folder's by class and path, a CSV's as they are listed.
    pub samples: Vec<Sample>,
}

impl Dataset {
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

#[cfg(test)]
mod tests;
