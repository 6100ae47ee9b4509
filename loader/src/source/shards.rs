//! Samples in shards, which are read side by side.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Entry, Listing, shared_folder};
use crate::dataset::DatasetError;

/// What a shard holds, or all of them.
#[derive(Default)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    /// The ids of photos without a class.
    pub(super) unlabelled: Vec<String>,
    pub(super) faults: Vec<DatasetError>,
    /// Links, and files that are no photos.
    pub(super) passed_over: usize,
}

impl Found {
    /// Has each shard read under its name, the path below the folder that holds all of them; what they hold, in their order.
    pub(super) fn read(
        shards: &[PathBuf],
        read: impl Fn(&Path, &str) -> Result<Self, DatasetError> + Sync,
    ) -> Result<Self, DatasetError> {
        let shared = shared_folder(shards);
        let named = |shard: &PathBuf| {
            let below = shard.strip_prefix(&shared).unwrap_or(shard);
            let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            read(shard, &parts.join("/"))
        };
        let found: Vec<Result<Self, DatasetError>> = shards.par_iter().map(named).collect();
        let mut all = Self::default();
        // The first error in order, whichever came first.
        for shard in found {
            let shard = shard?;
            all.entries.extend(shard.entries);
            all.unlabelled.extend(shard.unlabelled);
            all.faults.extend(shard.faults);
            all.passed_over += shard.passed_over;
        }
        Ok(all)
    }

    /// As a listing; what is left out of it is said, with where a class would have been.
    pub(super) fn listing(self, shards: &[PathBuf], class: &str) -> Listing {
        let origin = match shards {
            [shard] => shard.clone(),
            _ => shared_folder(shards),
        };
        let Self { entries, unlabelled, faults, passed_over } = self;
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
        Listing { origin, entries, faults }
    }
}
