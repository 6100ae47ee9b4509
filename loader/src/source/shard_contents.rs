//! Lists the samples of shards in parallel.

use std::path::{Path, PathBuf};

use headstock_split::words::counted;
use rayon::prelude::*;

use super::paths::{common_folder, slash_path};
use crate::dataset::{DatasetError, RawDataset, RawSample};

/// The samples of one shard, or of all shards.
#[derive(Default)]
pub(super) struct ShardContents {
    pub(super) samples: Vec<RawSample>,
    /// Ids of images without a class.
    pub(super) unlabeled: Vec<String>,
    pub(super) errors: Vec<DatasetError>,
    /// Number of links and of files that are not images.
    pub(super) n_skipped: usize,
}

impl ShardContents {
    /// Reads all shards in parallel and merges their samples in the order of `shards`. `read_shard` reads one
    /// shard; it takes the shard's path and its name, the path relative to the common folder of the shards.
    pub(super) fn read_all(
        shards: &[PathBuf],
        read_shard: impl Fn(&Path, &str) -> Result<Self, DatasetError> + Sync,
    ) -> Result<Self, DatasetError> {
        let root = common_folder(shards);
        let read_named = |shard: &PathBuf| {
            let relative = shard.strip_prefix(&root).unwrap_or(shard);
            read_shard(shard, &slash_path(relative))
        };
        let contents: Vec<Result<Self, DatasetError>> = shards.par_iter().map(read_named).collect();
        let mut merged = Self::default();
        // Returns the error of the first shard, whichever thread failed first.
        for shard in contents {
            let shard = shard?;
            merged.samples.extend(shard.samples);
            merged.unlabeled.extend(shard.unlabeled);
            merged.errors.extend(shard.errors);
            merged.n_skipped += shard.n_skipped;
        }
        Ok(merged)
    }

    /// Converts to a [`RawDataset`] and logs how many images have no class and how many files were skipped.
    /// `class_origin` says where classes are read from, for the log, such as "the column `label`".
    pub(super) fn into_raw_dataset(self, shards: &[PathBuf], class_origin: &str) -> RawDataset {
        let origin = match shards {
            [shard] => shard.clone(),
            _ => common_folder(shards),
        };
        let Self { samples, unlabeled, errors, n_skipped } = self;
        if !unlabeled.is_empty() {
            let n_unlabeled = counted(unlabeled.len(), "photo", "photos");
            tracing::warn!(
                "skipped {n_unlabeled} in {}: no class is given in {class_origin}; add the class to use such \
                 a photo",
                origin.display()
            );
        }
        if n_skipped > 0 {
            let files = counted(n_skipped, "file", "files");
            tracing::info!("skipped {files} in {}: links, or files that are not photos", origin.display());
        }
        RawDataset { origin, samples, errors }
    }
}
