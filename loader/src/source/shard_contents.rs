//! Finds shards by the value of their key, and lists their samples in parallel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_split::hub_names::{HubKind, name_in_other_notation};
use headstock_split::words::NameList;
use rayon::prelude::*;

use super::config::{SourceConfigError, absolute_path};
use super::paths::{common_folder, slash_path};
use crate::dataset::{DatasetError, PassedOver, PassedOverReason, RawDataset, RawSample, Split};

/// Prefix of the names of data sets on the Hugging Face hub.
const HUB_DATASETS: &str = "hf://datasets/";

/// Prefix of all names on the Hugging Face hub.
pub(super) const HUB: &str = "hf://";

/// Makes `shards`, the value of `key` within `[data]`, absolute if it is a path or pattern relative to `base`.
/// A name on the Hugging Face hub is an error, except for a data set if `allows_hub` is set.
pub(super) fn resolve_shards(
    key: &str,
    shards: &mut String,
    base: &Path,
    allows_hub: bool,
) -> Result<(), SourceConfigError> {
    if allows_hub && shards.starts_with(HUB_DATASETS) {
        return Ok(());
    }
    if let Some(name) = name_in_other_notation(shards, HubKind::Dataset).filter(|_| allows_hub) {
        return Err(SourceConfigError::key(key, format!("is \"{shards}\": did you mean \"{name}\"?")));
    }
    if shards.starts_with(HUB) {
        let problem = format!(
            "is {shards}: only Parquet data sets of the Hugging Face hub are supported; write \
             `parquet = \"{HUB_DATASETS}owner/name\"`"
        );
        return Err(SourceConfigError::key(key, problem));
    }
    *shards =
        absolute_path(Path::new(shards), base).map_err(|problem| SourceConfigError::key(key, problem))?;
    Ok(())
}

/// Refuses the `shards` of the folder `path` if they are several data sets in folders beside each other, the
/// configurations of a data set on the hub: two or more folders have files for training.
pub(super) fn refuse_several_configurations(path: &Path, shards: &[PathBuf]) -> Result<(), DatasetError> {
    if !path.is_dir() {
        return Ok(());
    }
    let mut with_training = BTreeSet::new();
    for shard in shards {
        let relative = shard.strip_prefix(path).unwrap_or(shard);
        let mut names = relative.components().map(|name| name.as_os_str().to_string_lossy());
        let (Some(folder), Some(_)) = (names.next(), names.next()) else { continue };
        let inside = relative.strip_prefix(folder.as_ref()).unwrap_or(relative);
        let is_split_folder = Split::from_shard_path(&folder).is_some();
        if !is_split_folder && Split::from_shard_path(&inside.to_string_lossy()) == Some(Split::Train) {
            with_training.insert(folder.into_owned());
        }
    }
    if with_training.len() < 2 {
        return Ok(());
    }
    let names = NameList(with_training.into_iter().collect());
    Err(DatasetError::invalid(
        path,
        format!(
            "the folder has several data sets, each with files for training: {names}; give the path of one of them"
        ),
    ))
}

/// The samples of one shard, or of all shards.
#[derive(Default)]
pub(super) struct ShardContents {
    pub(super) samples: Vec<RawSample>,
    /// Ids of images without a class.
    pub(super) unlabeled: Vec<String>,
    pub(super) errors: Vec<DatasetError>,
    /// The other files and rows, without the unlabeled images.
    pub(super) passed_over: PassedOver,
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
            merged.passed_over.merge(shard.passed_over);
        }
        Ok(merged)
    }

    /// Refuses `shards` in which no photo has a class, if the photos are in two or more folders: then the folders
    /// are probably the classes.
    pub(super) fn refuse_class_folders(&self, shards: &[PathBuf]) -> Result<(), DatasetError> {
        if !self.samples.is_empty() || !self.errors.is_empty() {
            return Ok(());
        }
        let root = common_folder(shards);
        let folder_of = |id: &String| Some(slash_path(Path::new(id).parent()?));
        let mut folders: BTreeSet<String> = self.unlabeled.iter().filter_map(folder_of).collect();
        folders.retain(|folder| !shards.contains(&root.join(folder)));
        if folders.len() < 2 {
            return Ok(());
        }
        let names = folders.iter().map(|folder| folder.rsplit('/').next().unwrap_or_default().to_owned());
        let problem = format!(
            "no photo has a label, but the photos are in folders ({}), which are probably their classes: unpack the \
             archive, and use the unpacked folder",
            NameList(names.collect())
        );
        Err(DatasetError::invalid(&common_origin(shards), problem))
    }

    /// Converts to a [`RawDataset`]. `class_origin` says where classes are read from, for the account, such as
    /// "the column `label`".
    pub(super) fn into_raw_dataset(self, shards: &[PathBuf], class_origin: &str) -> RawDataset {
        let origin = common_origin(shards);
        let Self { samples, unlabeled, errors, mut passed_over } = self;
        unlabeled.into_iter().for_each(|id| passed_over.add(PassedOverReason::Unlabeled, id));
        let explanation = format!(": no class is given in {class_origin}; add the class to use such a photo");
        passed_over.explain(PassedOverReason::Unlabeled, explanation);
        RawDataset { origin, samples, errors, passed_over }
    }
}

/// The only one of `shards`, or the folder of all.
fn common_origin(shards: &[PathBuf]) -> PathBuf {
    match shards {
        [shard] => shard.clone(),
        _ => common_folder(shards),
    }
}
