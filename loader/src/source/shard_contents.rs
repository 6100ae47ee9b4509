//! Samples in shards, which are read side by side.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{RawDataset, RawSample, common_folder};
use crate::dataset::DatasetError;

/// What a shard holds, or all of them.
#[derive(Default)]
pub(super) struct ShardContents {
    pub(super) samples: Vec<RawSample>,
    /// The ids of photos without a class.
    pub(super) unlabeled: Vec<String>,
    pub(super) errors: Vec<DatasetError>,
    /// Links, and files that are no photos.
    pub(super) n_skipped: usize,
}

impl ShardContents {
    /// Has each shard read under its name, the path below the folder that holds all of them; what they hold, in their order.
    pub(super) fn read_all(
        shards: &[PathBuf],
        read_shard: impl Fn(&Path, &str) -> Result<Self, DatasetError> + Sync,
    ) -> Result<Self, DatasetError> {
        let root = common_folder(shards);
        let read_named = |shard: &PathBuf| {
            let relative = shard.strip_prefix(&root).unwrap_or(shard);
            let parts: Vec<_> =
                relative.components().map(|component| component.as_os_str().to_string_lossy()).collect();
            read_shard(shard, &parts.join("/"))
        };
        let contents: Vec<Result<Self, DatasetError>> = shards.par_iter().map(read_named).collect();
        let mut merged = Self::default();
        // The first error in order, whichever came first.
        for shard in contents {
            let shard = shard?;
            merged.samples.extend(shard.samples);
            merged.unlabeled.extend(shard.unlabeled);
            merged.errors.extend(shard.errors);
            merged.n_skipped += shard.n_skipped;
        }
        Ok(merged)
    }

    /// As a listing; what is left out of it is said, with where a class would have been.
    pub(super) fn into_raw_dataset(self, shards: &[PathBuf], class: &str) -> RawDataset {
        let origin = match shards {
            [shard] => shard.clone(),
            _ => common_folder(shards),
        };
        let Self { samples: entries, unlabeled: unlabelled, errors: faults, n_skipped: passed_over } = self;
        if !unlabelled.is_empty() {
            tracing::warn!(
                "left out in {}: {} photos without a class ({class})",
                origin.display(),
                unlabelled.len()
            );
        }
        if passed_over > 0 {
            tracing::info!(
                "passed over in {}: {passed_over} links and files that are no photos",
                origin.display()
            );
        }
        RawDataset { origin, samples: entries, errors: faults }
    }
}
