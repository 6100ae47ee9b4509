//! A listing of a data set with all of its errors, for `doctor`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use headstock_inference::Progress;
use headstock_loader::dataset::number_groups;
use headstock_loader::source::{ConfiguredSource, OpenDataSource};
use headstock_loader::{ClassMap, ClassOrder, DatasetError, ImageRef, RawDataset, RawSample};

use super::given_subsets::GivenSubsets;
use super::locations::{id_prefixes, open_source};
use super::{SampleRow, SampleSet, Subset};
use crate::config::{DataSourceConfig, Settings, SplitOptions};
use crate::error::TrainError;

/// The samples and errors of a data set. Unlike reading for training, which stops at the first error, a
/// listing has all errors, and the samples that are not affected.
#[derive(Debug)]
pub(crate) struct DatasetListing {
    /// The samples of the training set, then those of a separate test set; the classes of the training set,
    /// then those that only the test set has.
    pub(crate) samples: SampleSet,
    /// The folder or file of the training set, for messages.
    pub(crate) origin: PathBuf,
    /// The image of each sample, which has not been opened.
    pub(crate) images: Vec<ImageRef>,
    /// The table that lists the samples, if there is one.
    pub(crate) table: Option<PathBuf>,
    /// The names of the groups, in the order of their numbers.
    group_names: Vec<String>,
    /// The number of the group of each sample, `[N]`, if the data has groups; near-duplicates do not change it.
    given_groups: Option<Vec<u32>>,
    /// Whether the data defines the subset of each sample.
    pub(crate) has_given_splits: bool,
    /// Errors of entries that are not among the samples.
    pub(crate) errors: Vec<DatasetError>,
    /// Paths of images without a class.
    pub(crate) unlabeled: Vec<String>,
}

/// The listing of one location, the training set or the test set, with its errors.
struct LocationListing {
    source: OpenDataSource,
    listing: RawDataset,
    /// Paths of images without a class.
    unlabeled: Vec<String>,
}

impl LocationListing {
    /// Lists the samples, errors and unlabeled images of a source. An empty one is not an error here: its
    /// listing has no samples and one error, so that `doctor` can report it with others.
    fn read(
        source: &dyn ConfiguredSource,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let split_column = settings.split.column.as_deref();
        let source = open_source(source, split_column, settings.follow_links, progress)?;
        let listing = match source.source.list() {
            Ok(listing) => listing,
            Err(error @ DatasetError::Empty { .. }) => {
                RawDataset { errors: vec![error], ..RawDataset::new(source.root.clone()) }
            }
            Err(error) => return Err(error.into()),
        };
        let unlabeled = match source.source.unlabeled() {
            Ok(unlabeled) => unlabeled,
            // This error is already in the listing.
            Err(DatasetError::Empty { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { source, listing, unlabeled })
    }

    /// Puts `prefix/` before the ids of all samples, unless `prefix` is empty, so that ids of the training
    /// and the test set differ when both are merged.
    fn prefix_ids(&mut self, prefix: &str) {
        if !prefix.is_empty() {
            let ids = self.listing.samples.iter_mut().map(|entry| &mut entry.id);
            for id in ids.chain(&mut self.unlabeled) {
                *id = format!("{prefix}/{id}");
            }
        }
    }
}

impl DatasetListing {
    /// Lists the samples and errors of the images of `settings`, and of the separate test set if there is
    /// one, without opening images, for `doctor` and to find images by id. All samples are in the training
    /// set until [`draw_split`](Self::draw_split), unless the data itself says which ones are for testing.
    ///
    /// # Errors
    /// [`TrainError::NeedsImages`] for precomputed features, and errors that prevent any listing: a missing
    /// folder, table or column, or a failure of the hub.
    pub(crate) fn read(settings: &Settings, progress: &dyn Progress) -> Result<Self, TrainError> {
        let DataSourceConfig::Images(source) = &settings.source else { return Err(TrainError::NeedsImages) };
        let mut main_listing = LocationListing::read(source.as_ref(), settings, progress)?;
        let test_source = source.test_data();
        let listing = &mut main_listing.listing;
        let given = GivenSubsets::from_listing(listing, test_source.is_some());
        if let Some(given) = &given {
            let known = given.train_classes(listing);
            let unknown = listing.classes_not_in(&known);
            if !unknown.is_empty() {
                let error = DatasetError::unknown_class(&listing.origin, unknown, known.names());
                listing.errors.push(error);
            }
        }
        let given_subsets = given.filter(|_| test_source.is_none()).map(|given| given.subsets(listing));
        let test_listing = match test_source {
            Some(test_source) => {
                let mut test_listing = LocationListing::read(test_source.as_ref(), settings, progress)?;
                // A class without test images is not an error, nor is it one in training.
                test_listing.listing.errors.retain(|error| !matches!(error, DatasetError::EmptyClass { .. }));
                let (main_prefix, test_prefix) =
                    id_prefixes(&main_listing.source, &test_listing.source, test_source.as_ref())?;
                main_listing.prefix_ids(&main_prefix);
                test_listing.prefix_ids(&test_prefix);
                Some(test_listing)
            }
            None => None,
        };
        Ok(Self::merge(settings.class_order, main_listing, given_subsets, test_listing))
    }

    /// Merges the listings of `main` and of the separate test set, and numbers their classes and groups.
    /// `given_subsets` `[N]` are the subsets of the samples of `main_listing`, if it defines them. A class
    /// that only the test set has becomes one of the listed errors.
    fn merge(
        class_order: ClassOrder,
        main_listing: LocationListing,
        given_subsets: Option<Vec<Subset>>,
        test_listing: Option<LocationListing>,
    ) -> Self {
        let class_map = |entries: &[RawSample], order| {
            ClassMap::new(entries.iter().map(|entry| entry.class.as_str()), order)
        };
        let LocationListing { source, mut listing, mut unlabeled } = main_listing;
        let table = source.source.table_path().map(PathBuf::from);
        let train_classes = class_map(&listing.samples, class_order);
        let mut errors = std::mem::take(&mut listing.errors);
        let mut passed_over = std::mem::take(&mut listing.passed_over);
        let mut subsets = given_subsets;
        let (mut classes, mut raw_samples) = (train_classes.clone(), listing.samples);
        if let Some(test_listing) = test_listing {
            let test_classes = class_map(&test_listing.listing.samples, ClassOrder::Sorted);
            let is_unknown = |name: &&String| train_classes.label(name).is_none();
            let unknown: Vec<String> = test_classes.names().iter().filter(is_unknown).cloned().collect();
            let names = train_classes.names().iter().chain(&unknown).map(String::as_str);
            classes = ClassMap::new(names, ClassOrder::Appearance);
            if !unknown.is_empty() {
                let origin = &test_listing.listing.origin;
                errors.push(DatasetError::unknown_class(origin, unknown, train_classes.names()));
            }
            errors.extend(test_listing.listing.errors);
            passed_over.merge(test_listing.listing.passed_over);
            unlabeled.extend(test_listing.unlabeled);
            let mut merged = vec![Subset::Train; raw_samples.len()];
            raw_samples.extend(test_listing.listing.samples);
            merged.resize(raw_samples.len(), Subset::Test);
            subsets = Some(merged);
        }
        let has_given_splits = subsets.is_some();
        let subsets = subsets.unwrap_or_else(|| vec![Subset::Train; raw_samples.len()]);
        let group_labels: Option<Vec<&str>> =
            raw_samples.iter().map(|entry| entry.group.as_deref()).collect();
        let groups = group_labels.as_ref().map(|labels| number_groups(labels));
        let distinct: BTreeSet<&str> = group_labels.into_iter().flatten().collect();
        let group_names = distinct.into_iter().map(str::to_owned).collect();
        let (mut rows, mut images) = (Vec::new(), Vec::new());
        for (index, (sample, subset)) in raw_samples.into_iter().zip(subsets).enumerate() {
            let label = classes.label(&sample.class).expect("the map has all classes");
            let group = groups.as_ref().map(|groups| groups[index]);
            rows.push(SampleRow { id: sample.id, label, group, subset });
            images.push(sample.image);
        }
        let samples = SampleSet { classes, rows, passed_over };
        let (origin, given_groups) = (listing.origin, groups);
        Self {
            samples,
            origin,
            images,
            table,
            group_names,
            given_groups,
            has_given_splits,
            errors,
            unlabeled,
        }
    }

    /// Whether the data has a group for each sample.
    pub(crate) fn has_groups(&self) -> bool {
        self.given_groups.is_some()
    }

    /// The name of the group of the sample `index` in the data; `None` if the data has no groups.
    pub(crate) fn group_name(&self, index: usize) -> Option<&str> {
        let group = self.given_groups.as_ref()?[index];
        Some(&self.group_names[group as usize])
    }

    /// The number of rows and files that are no samples because of an error.
    pub(crate) fn n_error_entries(&self) -> usize {
        let entries = self.errors.iter().filter_map(DatasetError::entries);
        entries.filter(|(reason, _)| reason.is_some()).map(|(_, names)| names.len()).sum()
    }

    /// Assigns each sample to the subset (training or test) that training would assign it to, so that
    /// `doctor` can check the split; does nothing if the data itself defines the subsets. `duplicates` are
    /// near-duplicates as pairs of sample indices, which [`SplitOptions::group_duplicates`] keeps together.
    ///
    /// # Errors
    /// [`TrainError::Data`] if there is no test set; all samples then stay in the training set.
    pub(crate) fn draw_split(
        &mut self,
        options: &SplitOptions,
        duplicates: &[(usize, usize)],
    ) -> Result<(), TrainError> {
        if self.has_given_splits {
            return Ok(());
        }
        if options.group_duplicates {
            self.samples.join_groups(duplicates);
        }
        self.samples.draw_test_set(options, &self.group_names)
    }
}
