//! The samples of a data set, and their split into training and test set.

mod given_subsets;
mod listing;
mod locations;
mod read_images;
mod split_file;
mod splitter;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use headstock_inference::Progress;
use headstock_loader::dataset::{PassedOver, PassedOverReason, join_groups};
use headstock_loader::duplicates::{DEFAULT_SIMILARITY, find_near_duplicates};
use headstock_loader::source::ConfiguredSource;
use headstock_loader::{ClassMap, ClassOrder, Dataset, ImageRef, Split};
use headstock_split::words::NameList;
use rayon::prelude::*;
use serde::Serialize;

use crate::config::{DataSourceConfig, Settings, SplitMethod, SplitOptions};
use crate::error::{Remedy, TrainError};
use crate::feature_file::{FeatureArchive, FeatureTable, read_features};
use crate::signature_cache::SignatureCache;
pub(crate) use listing::DatasetListing;
pub(crate) use locations::image_files_root;
pub use locations::open_source;
use read_images::{ReadImages, read_images, read_test_listing};
pub use split_file::{SplitRow, write_split};
pub(crate) use split_file::{read_split, split_csv};

/// The subset of the split that a sample is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subset {
    /// The training set.
    Train,
    /// The test set.
    Test,
}

impl Subset {
    /// The name of the subset in `split.csv`: `train` or `test`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// A sample without its input, which is at the same index in [`SampleInputs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRow {
    /// The image's path relative to the data root, separated by `/`; for precomputed features, the number of
    /// the row.
    pub id: String,
    /// The number of its class.
    pub label: u32,
    /// The number of its group, if the data has groups.
    pub group: Option<u32>,
    /// The subset that it is in.
    pub subset: Subset,
}

/// What the samples of a [`SampleSet`] consist of, in the order of its rows.
#[derive(Clone, Debug)]
pub enum SampleInputs {
    /// References to the images.
    Images(Vec<ImageRef>),
    /// Precomputed features.
    Features(FeatureTable),
}

/// The samples of a data set with their classes and subsets, without their inputs.
#[derive(Clone, Debug)]
pub struct SampleSet {
    /// The classes.
    pub classes: ClassMap,
    /// The samples, in an order that depends only on the data.
    pub rows: Vec<SampleRow>,
    /// The files and rows of the data that are not among the samples.
    pub passed_over: PassedOver,
}

impl SampleSet {
    /// Reads and splits the data set of `settings`; returns the samples and their inputs in the same order.
    /// Images are only opened to find near-duplicates, with `split.group_duplicates`.
    ///
    /// # Errors
    /// [`TrainError::Dataset`]; [`TrainError::Data`] for data that cannot be split and for invalid features;
    /// [`TrainError::Inference`] for the hub.
    pub fn read(settings: &Settings, progress: &dyn Progress) -> Result<(Self, SampleInputs), TrainError> {
        Self::read_with_split(settings, Some(&settings.split), progress)
    }

    /// Reads the data set of `settings` and puts all samples into the training set; returns the samples and
    /// their inputs in the same order. It is for commands that need no test set, which then accept data that
    /// is too small to be split.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), except for the split.
    pub fn read_unsplit(
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<(Self, SampleInputs), TrainError> {
        Self::read_with_split(settings, None, progress)
    }

    /// Reads the images or precomputed features that `settings` name, and splits them as the data and `split`
    /// say; without `split`, or if it asks for no test set, all are in the training set. Returns the samples and their inputs in the same
    /// order.
    fn read_with_split(
        settings: &Settings,
        split: Option<&SplitOptions>,
        progress: &dyn Progress,
    ) -> Result<(Self, SampleInputs), TrainError> {
        match &settings.source {
            DataSourceConfig::Images(source) => {
                let is_split = split.is_some_and(|options| !options.has_no_test_set());
                let images = read_images(settings, source.as_ref(), is_split, progress)?;
                Self::from_images(settings, images, split, progress)
            }
            DataSourceConfig::Features(path) => Self::from_features(settings.class_order, path, split),
        }
    }

    /// Assigns the samples of `images` to training and test set: by their given subsets if the data itself is
    /// split, otherwise as `split` says. If it says so, near-duplicates are joined to groups first, so that
    /// they are in the same subset. Returns the samples and their images in the same order.
    fn from_images(
        settings: &Settings,
        images: ReadImages,
        split: Option<&SplitOptions>,
        progress: &dyn Progress,
    ) -> Result<(Self, SampleInputs), TrainError> {
        let ReadImages { mut dataset, given_subsets, passed_over } = images;
        let group_names = std::mem::take(&mut dataset.group_names);
        let unsplit = vec![Subset::Train; dataset.samples.len()];
        let is_split = given_subsets.is_some();
        let has_test_set = split.is_some_and(|options| !options.has_no_test_set());
        let subsets = given_subsets.filter(|_| has_test_set).unwrap_or(unsplit);
        let (mut samples, inputs) = Self::from_dataset(dataset, subsets, passed_over);
        let Some(options) = split else { return Ok((samples, inputs)) };
        if options.group_duplicates {
            samples.join_groups(&find_duplicates(settings, inputs.images().unwrap_or_default(), progress));
        }
        if !is_split && has_test_set {
            samples.draw_test_set(options, &group_names)?;
            samples.check_train_classes()?;
        }
        Ok((samples, inputs))
    }

    /// Checks that the drawn split leaves each class a training sample: splits by groups and by hashes need
    /// not.
    fn check_train_classes(&self) -> Result<(), TrainError> {
        let trained: BTreeSet<u32> = self.labels(&self.rows_of(Subset::Train)).into_iter().collect();
        let classes = (0..).zip(self.classes.names());
        let tested_only: Vec<String> =
            classes.filter(|(label, _)| !trained.contains(label)).map(|(_, name)| name.clone()).collect();
        if tested_only.is_empty() {
            return Ok(());
        }
        Err(TrainError::Data(format!(
            "the split puts all photos of these classes into the test set, so they cannot be learned: {}; \
             choose a different seed or method of the split, or add photos of other groups",
            NameList(tested_only)
        ))
        .with_remedy(Remedy::OtherSplit))
    }

    /// Reads the precomputed features in the file `path`, and splits their rows as the file or else `split` says.
    /// The ids of samples are those of [`feature_ids`]. Returns the samples and their features in the same
    /// order.
    fn from_features(
        order: ClassOrder,
        path: &Path,
        split: Option<&SplitOptions>,
    ) -> Result<(Self, SampleInputs), TrainError> {
        let archive = read_features(path)?;
        let ids = feature_ids(&archive);
        let FeatureArchive { table, labels, classes, groups, splits, .. } = archive;
        let given = splits.filter(|_| split.is_some()).and_then(|splits| subsets_of_splits(&splits));
        if groups.is_none() && split.is_some_and(|options| options.method == SplitMethod::Group) {
            return Err(TrainError::Data(format!(
                "the split method is \"group\", but the feature file {} has no groups: add them (an array \
                 `groups`, or in a table a column `group`), or choose a different method",
                path.display()
            ))
            .with_remedy(Remedy::OtherSplit));
        }
        let (classes, labels) = match classes {
            Some(names) => number_class_names(&names, order),
            None => number_labels(&labels, order),
        };
        if classes.len() < 2 {
            return Err(TrainError::Data(format!(
                "{} has only one class: a classifier needs at least two; add rows of a second class",
                path.display()
            )));
        }
        let row = |(row, label): (usize, u32)| SampleRow {
            id: ids[row].clone(),
            label,
            group: groups.as_ref().map(|groups| groups[row]),
            subset: Subset::Train,
        };
        let rows = labels.into_iter().enumerate().map(row).collect();
        let mut samples = Self { classes, rows, passed_over: PassedOver::default() };
        let mut inputs = SampleInputs::Features(table);
        let has_no_test_set = split.is_some_and(SplitOptions::has_no_test_set);
        match (given, split) {
            (_, Some(_)) if has_no_test_set => {}
            (Some(given), _) => inputs = samples.take_given_subsets(given, inputs, path),
            (None, Some(options)) => samples.draw_test_set(options, &[])?,
            (None, None) => {}
        }
        Ok((samples, inputs))
    }

    /// Puts the samples into the subsets `given` `[N]`; those without one are passed over, with a message that
    /// names the file `path`. Returns the inputs of the others.
    fn take_given_subsets(
        &mut self,
        given: Vec<Option<Subset>>,
        inputs: SampleInputs,
        path: &Path,
    ) -> SampleInputs {
        let n_given = given.len();
        let used: Vec<usize> = (0..n_given).filter(|&row| given[row].is_some()).collect();
        let mut rows = Vec::with_capacity(used.len());
        for (row, subset) in std::mem::take(&mut self.rows).into_iter().zip(given) {
            match subset {
                Some(subset) => rows.push(SampleRow { subset, ..row }),
                None => self.passed_over.add(PassedOverReason::UnusedSplit, row.id),
            }
        }
        self.rows = rows;
        if n_given == used.len() {
            return inputs;
        }
        let explanation = ": the validation split is used neither for training nor for testing".to_owned();
        self.passed_over.explain(PassedOverReason::UnusedSplit, explanation);
        self.passed_over.log(path);
        inputs.select(&used)
    }

    /// Separates `dataset` into descriptions of its samples, with the given `subsets` `[N]`, and their
    /// images, in the same order, because a [`SampleSet`] holds no inputs. Returns both.
    fn from_dataset(dataset: Dataset, subsets: Vec<Subset>, passed_over: PassedOver) -> (Self, SampleInputs) {
        let mut rows = Vec::with_capacity(subsets.len());
        let mut images = Vec::with_capacity(subsets.len());
        for (sample, subset) in dataset.samples.into_iter().zip(subsets) {
            rows.push(SampleRow { id: sample.id, label: sample.label, group: sample.group, subset });
            images.push(sample.image);
        }
        (Self { classes: dataset.classes, rows, passed_over }, SampleInputs::Images(images))
    }

    /// Reads the test set of an earlier run, so that the run is tested on the same samples again. `settings`
    /// name the data, `classes` are those of the run's model, and `split` is the contents of its `split.csv`.
    /// Training samples need not exist any more. Returns the samples and their inputs in the same order.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and [`TrainError::Data`] for a missing image.
    pub(crate) fn read_run_test_set(
        settings: &Settings,
        classes: &[String],
        split: &[SplitRow],
        progress: &dyn Progress,
    ) -> Result<(Self, SampleInputs), TrainError> {
        let classes = ClassMap::new(classes.iter().map(String::as_str), ClassOrder::Appearance);
        let mut rows = Vec::new();
        for row in split.iter().filter(|row| row.split == Subset::Test.as_str()) {
            let label = classes.label(&row.label).ok_or_else(|| {
                TrainError::Data(format!(
                    "split.csv of the run names a class `{}` that the model does not know: the run is \
                     damaged; train again",
                    row.label
                ))
            })?;
            rows.push(SampleRow { id: row.path.clone(), label, group: None, subset: Subset::Test });
        }
        if let DataSourceConfig::Features(path) = &settings.source {
            let archive = read_features(path)?;
            let found = find_feature_rows(&archive, rows.iter().map(|row| row.id.as_str()));
            let table = archive.table;
            let row_numbers: Vec<usize> = found.into_iter().collect::<Option<_>>().ok_or_else(|| {
                TrainError::Data(format!(
                    "{} does not have the rows that split.csv of the run lists: put back the file that the \
                     run was trained on, or evaluate a different file",
                    path.display()
                ))
                .with_remedy(Remedy::OtherFeatures)
            })?;
            let samples = Self { classes, rows, passed_over: PassedOver::default() };
            return Ok((samples, SampleInputs::Features(table).select(&row_numbers)));
        }
        let images = find_images(settings, rows.iter().map(|row| row.id.as_str()), progress)?;
        let n_missing = images.iter().filter(|image| image.is_none()).count();
        if let Some(row) = rows.iter().zip(&images).find(|(_, image)| image.is_none()).map(|(row, _)| row) {
            let path = image_files_root(&settings.source).unwrap_or_default().join(&row.id);
            let suffix = if n_missing > 1 { format!(" and {} more", n_missing - 1) } else { String::new() };
            return Err(TrainError::Data(format!(
                "test photos of the run are missing: {}{suffix}; put the photos back, or evaluate \
                 other photos",
                path.display()
            ))
            .with_remedy(Remedy::OtherTestImages));
        }
        let samples = Self { classes, rows, passed_over: PassedOver::default() };
        Ok((samples, SampleInputs::Images(images.into_iter().flatten().collect())))
    }

    /// Reads the images of the source `test` as a test set, to evaluate a run on other images than its own.
    /// Labels are numbered by `classes`, those of the run; other classes are refused, unless the `settings`
    /// skip what cannot be used. The training images are not read.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub(crate) fn read_test_only(
        test: &dyn ConfiguredSource,
        settings: &Settings,
        classes: &[String],
        progress: &dyn Progress,
    ) -> Result<(Self, SampleInputs), TrainError> {
        let classes = ClassMap::new(classes.iter().map(String::as_str), ClassOrder::Appearance);
        let opened = open_source(test, settings.split.column.as_deref(), settings.follow_links, progress)?;
        let (dataset, passed_over) = read_test_listing(opened.source.list()?, &classes, settings.on_error)?;
        let subsets = vec![Subset::Test; dataset.samples.len()];
        Ok(Self::from_dataset(dataset, subsets, passed_over))
    }

    /// Renumbers the labels: the classes `first` come first, in this order, then the other classes of the
    /// samples. A warm start needs this, because the head of the earlier run has the classes `first`.
    pub(crate) fn renumber_classes(self, first: &[String]) -> Self {
        let new_classes = self.classes.names().iter().filter(|name| !first.contains(name));
        let classes =
            ClassMap::new(first.iter().chain(new_classes).map(String::as_str), ClassOrder::Appearance);
        let new_label =
            |label: u32| classes.label(self.classes.name(label)).expect("every class is in the new map");
        let rows =
            self.rows.into_iter().map(|row| SampleRow { label: new_label(row.label), ..row }).collect();
        Self { rows, classes, passed_over: self.passed_over }
    }

    /// The number of files and rows that are not used, by reason; `n_unreadable` samples cannot be read.
    pub(crate) fn passed_over_with(&self, n_unreadable: usize) -> BTreeMap<PassedOverReason, usize> {
        let mut counts = self.passed_over.counts();
        if n_unreadable > 0 {
            *counts.entry(PassedOverReason::Unreadable).or_default() += n_unreadable;
        }
        counts
    }

    /// The indices of the samples in a subset.
    #[must_use]
    pub fn rows_of(&self, subset: Subset) -> Vec<usize> {
        (0..self.rows.len()).filter(|&i| self.rows[i].subset == subset).collect()
    }

    /// The group numbers of the samples with the indices `rows`; `None` if a sample has no group.
    #[must_use]
    pub fn groups(&self, rows: &[usize]) -> Option<Vec<u32>> {
        rows.iter().map(|&i| self.rows[i].group).collect()
    }

    /// The groups of the samples with the indices `rows`, numbered in the order of first appearance. A sample
    /// without a group becomes a group by itself, so that folds by groups are possible with all data.
    pub(crate) fn groups_or_singletons(&self, rows: &[usize]) -> Vec<u32> {
        let groups: Vec<Option<u32>> = rows.iter().map(|&i| self.rows[i].group).collect();
        join_groups(&groups, &[])
    }

    /// Joins the groups of each of `pairs`, the indices of two near-duplicates, so that the split keeps them
    /// together. A sample without a group becomes a group by itself.
    fn join_groups(&mut self, pairs: &[(usize, usize)]) {
        let groups: Vec<Option<u32>> = self.rows.iter().map(|row| row.group).collect();
        for (row, group) in self.rows.iter_mut().zip(join_groups(&groups, pairs)) {
            row.group = Some(group);
        }
    }

    /// Warns if groups have samples in both subsets: test photos are then more like training photos than new
    /// photos will be.
    pub(crate) fn warn_about_split_groups(&self) {
        let (n_split, n_groups) = self.count_split_groups();
        if n_split > 0 {
            tracing::warn!(
                "{n_split} of {n_groups} groups (photos that belong together, such as photos of one dog) \
                 have photos in both the training set and the test set, so the accuracy looks better than on \
                 new photos; keep groups together with the split method \"group\""
            );
        }
    }

    /// The number of groups (samples that belong together) with samples in both training and test set, and
    /// the number of all groups. Test results of such groups are too optimistic.
    fn count_split_groups(&self) -> (usize, usize) {
        let groups_in = |subset| -> BTreeSet<u32> {
            self.rows.iter().filter(|row| row.subset == subset).filter_map(|row| row.group).collect()
        };
        let (train_groups, test_groups) = (groups_in(Subset::Train), groups_in(Subset::Test));
        (train_groups.intersection(&test_groups).count(), train_groups.union(&test_groups).count())
    }

    /// The labels of the samples with the indices `rows`, in that order.
    #[must_use]
    pub fn labels(&self, rows: &[usize]) -> Vec<u32> {
        rows.iter().map(|&i| self.rows[i].label).collect()
    }
}

impl SampleInputs {
    /// The references to the images; `None` for precomputed features.
    #[must_use]
    pub fn images(&self) -> Option<&[ImageRef]> {
        match self {
            Self::Images(images) => Some(images),
            Self::Features(_) => None,
        }
    }

    /// The inputs (images or features) of only the samples with the indices `rows`, in that order, such as
    /// those of the test set.
    #[must_use]
    pub fn select(self, rows: &[usize]) -> Self {
        match self {
            Self::Images(images) => Self::Images(rows.iter().map(|&row| images[row].clone()).collect()),
            Self::Features(FeatureTable { values, width }) => {
                let values = rows.iter().flat_map(|&row| &values[row * width..][..width]).copied().collect();
                Self::Features(FeatureTable { values, width })
            }
        }
    }
}

/// Compares all `images` and returns the pairs of near-duplicates, each as two indices, so that the split can
/// keep them together. Unreadable images are in no pair.
fn find_duplicates(settings: &Settings, images: &[ImageRef], progress: &dyn Progress) -> Vec<(usize, usize)> {
    let cache = SignatureCache::open(&settings.features.cache, settings.decode);
    progress.begin("looking for near-duplicates", images.len() as u64, "photos");
    let image_signature = |image: &ImageRef| {
        let signature = image.read().ok().and_then(|bytes| cache.signature(&bytes).ok());
        progress.step(1);
        signature
    };
    let signatures: Vec<_> = images.par_iter().map(image_signature).collect();
    progress.end();
    let pairs = find_near_duplicates(&signatures, DEFAULT_SIMILARITY);
    tracing::info!(
        "near-duplicate photos: {} pairs; the photos of each pair are kept together in the training set or \
         in the test set",
        pairs.len()
    );
    pairs.into_iter().map(|pair| (pair.a, pair.b)).collect()
}

/// The images of the samples with these `ids`; `None` for one that does not exist. Files are found without
/// listing the data.
pub(crate) fn find_images<'a>(
    settings: &Settings,
    ids: impl Iterator<Item = &'a str>,
    progress: &dyn Progress,
) -> Result<Vec<Option<ImageRef>>, TrainError> {
    if let Some(root) = image_files_root(&settings.source) {
        let find_file = |id| Some(root.join(id)).filter(|path| path.is_file()).map(ImageRef::from);
        return Ok(ids.map(find_file).collect());
    }
    let DatasetListing { samples, images, .. } = DatasetListing::read(settings, progress)?;
    let listed = samples.rows.iter().map(|row| row.id.as_str()).zip(&images);
    let image_by_id: HashMap<&str, &ImageRef> = listed.collect();
    Ok(ids.map(|id| image_by_id.get(id).copied().cloned()).collect())
}

/// The ids of the samples of a file of features, `[N]`: their paths, if the file has them and no two are the
/// same, otherwise the numbers of the rows.
fn feature_ids(archive: &FeatureArchive) -> Vec<String> {
    let is_unique = |paths: &&Vec<String>| paths.iter().collect::<BTreeSet<_>>().len() == paths.len();
    match archive.paths.as_ref().filter(is_unique) {
        Some(paths) => paths.clone(),
        None => (0..archive.labels.len()).map(|row| row.to_string()).collect(),
    }
}

/// The number of the row of each of the samples `ids` in a file of features; `None` for one that it does not
/// have. Runs of earlier versions name the rows by their numbers also if the file has paths.
pub(crate) fn find_feature_rows<'a>(
    archive: &FeatureArchive,
    ids: impl Iterator<Item = &'a str>,
) -> Vec<Option<usize>> {
    let known = feature_ids(archive);
    let row_of_id: HashMap<&str, usize> =
        known.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    let find_row = |id: &str| {
        let number = || id.parse().ok().filter(|&row: &usize| row < known.len());
        row_of_id.get(id).copied().or_else(number)
    };
    ids.map(find_row).collect()
}

/// The subsets of samples with these `splits` `[N]`: the test set is the test split, or the validation split if
/// there is no test split; `None` for a sample of neither. `None` if the file has no such split, or no training
/// samples.
fn subsets_of_splits(splits: &[Split]) -> Option<Vec<Option<Subset>>> {
    let test_split = [Split::Test, Split::Validation].into_iter().find(|split| splits.contains(split))?;
    let subset = |split: &Split| match *split {
        Split::Train => Some(Subset::Train),
        split if split == test_split => Some(Subset::Test),
        _ => None,
    };
    splits.contains(&Split::Train).then(|| splits.iter().map(subset).collect())
}

/// Numbers the classes of samples with the class `names` `[N]`. Returns the class map and the label of each
/// sample, `[N]`.
fn number_class_names(names: &[String], order: ClassOrder) -> (ClassMap, Vec<u32>) {
    let classes = ClassMap::new(names.iter().map(String::as_str), order);
    let label_of = |name: &String| classes.label(name).expect("the map has all names");
    let numbered = names.iter().map(label_of).collect();
    (classes, numbered)
}

/// Numbers the classes of samples with numeric `labels` `[N]` and no class names. The numbers become the
/// class names, sorted by value or in the order of appearance. Returns the class map and the new label of
/// each sample, in `0..C`, `[N]`.
fn number_labels(labels: &[i64], order: ClassOrder) -> (ClassMap, Vec<u32>) {
    // `ClassMap::new` drops repeated names, so that only the order matters here.
    let mut ordered = labels.to_vec();
    if order == ClassOrder::Sorted {
        ordered.sort_unstable();
        ordered.dedup();
    }
    let names: Vec<String> = ordered.iter().map(ToString::to_string).collect();
    let classes = ClassMap::new(names.iter().map(String::as_str), ClassOrder::Appearance);
    let number_of = |label: &i64| classes.label(&label.to_string()).expect("the map has all labels");
    let numbered = labels.iter().map(number_of).collect();
    (classes, numbered)
}

#[cfg(test)]
mod tests;
