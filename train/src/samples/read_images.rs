//! Reads the images of a data set for training and testing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use headstock_inference::Progress;
use headstock_loader::dataset::PassedOver;
use headstock_loader::source::ConfiguredSource;
use headstock_loader::{ClassMap, Dataset, RawDataset, Sample};

use super::Subset;
use super::given_subsets::{GivenSubsets, leave_out_unknown_classes, refuse_without_training};
use super::locations::{id_prefixes, open_source};
use crate::config::{OnError, Settings};
use crate::error::TrainError;

/// The images of a data set, as training uses them.
pub(super) struct ReadImages {
    pub(super) dataset: Dataset,
    /// The subset of each sample, `[N]`; `None` if the data does not define it.
    pub(super) given_subsets: Option<Vec<Subset>>,
    /// The files and rows that are not used.
    pub(super) passed_over: PassedOver,
}

/// Reads the images of `source`, and those of its separate test set if there is one, as one data set. The
/// subsets are left out unless `is_split` or there is a separate test set. An image that is in both is an
/// error.
pub(super) fn read_images(
    settings: &Settings,
    source: &dyn ConfiguredSource,
    is_split: bool,
    progress: &dyn Progress,
) -> Result<ReadImages, TrainError> {
    let split_column = settings.split.column.as_deref();
    let test_source = source.test_data();
    let opened = open_source(source, split_column, settings.follow_links, progress)?;
    let mut listing = opened.source.list()?;
    if settings.on_error == OnError::Skip {
        listing.skip_errors();
    }
    let given = if is_split { GivenSubsets::from_listing(&mut listing, test_source.is_some()) } else { None };
    if is_split && given.is_none() && split_column.is_some() {
        refuse_without_training(&listing)?;
    }
    listing.leave_out_small_classes(settings.min_samples);
    if let Some(given) = &given {
        given.check_classes(&mut listing, settings.on_error)?;
    }
    let given_subsets = given.as_ref().filter(|_| test_source.is_none()).map(|given| given.subsets(&listing));
    let mut passed_over = std::mem::take(&mut listing.passed_over);
    passed_over.log(&listing.origin);
    let mut dataset = Dataset::from_raw(listing, settings.class_order)?;
    let Some(test_source) = test_source else {
        return Ok(ReadImages { dataset, given_subsets, passed_over });
    };
    let opened_test = open_source(test_source.as_ref(), split_column, settings.follow_links, progress)?;
    let (main_prefix, test_prefix) = id_prefixes(&opened, &opened_test, test_source.as_ref())?;
    let (mut test_dataset, test_passed_over) =
        read_test_listing(opened_test.source.list()?, &dataset.classes, settings.on_error)?;
    passed_over.merge(test_passed_over);
    dataset.prefix_ids(&main_prefix);
    test_dataset.prefix_ids(&test_prefix);
    // The location that identifies a sample's image: the canonical path of its file or shard, so that an
    // image that is reached by several paths is recognized, and the index of its record in a shard. Each path
    // is resolved once, not once per record.
    let mut canonical_paths: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut location = |sample: &Sample| {
        let (path, number) = sample.image.location();
        let canonicalize = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        (canonical_paths.entry(path.into()).or_insert_with_key(canonicalize).clone(), number)
    };
    let train_locations: HashSet<_> = dataset.samples.iter().map(&mut location).collect();
    let mut test_samples = test_dataset.samples.iter();
    if let Some(shared) = test_samples.find(|sample| train_locations.contains(&location(sample))) {
        return Err(TrainError::Data(format!(
            "{} is in both the training data and the test data: remove it from one of them, or choose \
             different test data",
            shared.image
        )));
    }
    let mut subsets = vec![Subset::Train; dataset.samples.len()];
    subsets.resize(dataset.samples.len() + test_dataset.samples.len(), Subset::Test);
    let dataset = merge_datasets(dataset, test_dataset);
    Ok(ReadImages { dataset, given_subsets: Some(subsets), passed_over })
}

/// The test data set of `listing`, whose classes must be among `classes`, those of the training data, and what
/// is passed over. With [`OnError::Skip`], errors and samples of other classes are passed over, too.
pub(super) fn read_test_listing(
    mut listing: RawDataset,
    classes: &ClassMap,
    on_error: OnError,
) -> Result<(Dataset, PassedOver), TrainError> {
    if on_error == OnError::Skip {
        listing.skip_errors();
        let unknown = listing.classes_not_in(classes);
        leave_out_unknown_classes(&mut listing, &unknown);
    }
    let passed_over = std::mem::take(&mut listing.passed_over);
    passed_over.log(&listing.origin);
    Ok((Dataset::from_raw_with_classes(listing, classes)?, passed_over))
}

/// Appends the samples of `second` (the test set) to those of `first`, which has the same classes. Groups are
/// numbered again: those of the same name become one group.
pub(super) fn merge_datasets(mut first: Dataset, mut second: Dataset) -> Dataset {
    let names: BTreeSet<String> = first.group_names.iter().chain(&second.group_names).cloned().collect();
    let names: Vec<String> = names.into_iter().collect();
    for dataset in [&mut first, &mut second] {
        for sample in &mut dataset.samples {
            let merged_number = |group: u32| names.binary_search(&dataset.group_names[group as usize]).ok();
            sample.group = sample.group.and_then(merged_number).map(|number| number as u32);
        }
    }
    first.samples.append(&mut second.samples);
    Dataset { group_names: names, ..first }
}
