//! Which samples there are, and which of them are tested on.

mod collected;
mod parts;
mod places;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use headstock_loader::dataset::join_groups;
use headstock_loader::duplicates::{DEFAULT_SIMILARITY, find_near_duplicates};
use headstock_loader::source::RawDataset;
use headstock_loader::{ClassMap, ClassOrder, Dataset, ImageRef, Sample, Split as GivenPart};
use rayon::prelude::*;
use serde::Serialize;

use crate::config::{Place, Settings, Source, SplitMethod};
use crate::error::TrainError;
use crate::feature_file::{FeatureArchive, FeatureTable, read_features};
use crate::progress::Progress;
use crate::run::SplitRow;
use crate::signatures::Signatures;
pub(crate) use collected::{Collected, CollectedSample};
use parts::Drawn;
pub use places::Opened;
use places::prefixes;
pub(crate) use places::root_of_files;

/// What a sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Fitted on.
    Train,
    /// Only tested on.
    Test,
}

impl Part {
    /// `train` or `test`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// A sample without its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The photo's path relative to the data root, with `/` between its parts; for features, the number of the row.
    pub id: String,
    /// The number of its class.
    pub label: u32,
    /// The number of the group that it belongs to, where the data names groups.
    pub group: Option<u32>,
    /// What it is for.
    pub part: Part,
}

/// What the samples consist of, each in the order of the rows.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// Where the photos lie.
    Photos(Vec<ImageRef>),
    /// Features made elsewhere.
    Features(FeatureTable),
}

/// The samples of the settings, split.
#[derive(Clone, Debug)]
pub struct Samples {
    /// The classes.
    pub classes: ClassMap,
    /// The samples in an order that depends on the data alone.
    pub rows: Vec<Row>,
}

/// Whether samples are divided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Splits {
    AsSet,
    No,
}

impl Samples {
    /// Reads the data set that `settings` name and splits it; beside the samples, what they consist of, in the same order.
    /// No photo is opened, but where near-duplicates are to be found.
    ///
    /// # Errors
    /// [`TrainError::Dataset`], [`TrainError::Data`] for data that cannot be split or features that cannot be used, and
    /// [`TrainError::Backbone`] for the hub.
    pub fn read(settings: &Settings, progress: &dyn Progress) -> Result<(Self, Inputs), TrainError> {
        Self::read_with(settings, Splits::AsSet, progress)
    }

    /// As [`read`](Self::read), but everything is one part: nothing is split, so nothing can be too small to be.
    ///
    /// # Errors
    /// As there.
    pub fn unsplit(settings: &Settings, progress: &dyn Progress) -> Result<(Self, Inputs), TrainError> {
        Self::read_with(settings, Splits::No, progress)
    }

    fn read_with(
        settings: &Settings,
        splits: Splits,
        progress: &dyn Progress,
    ) -> Result<(Self, Inputs), TrainError> {
        match &settings.source {
            Source::Photos { main, test } => {
                let (dataset, given) = read_photos(settings, main, test.as_ref(), splits, progress)?;
                Self::of_photos(settings, dataset, given, splits, progress)
            }
            Source::Features(path) => Self::of_features(settings, path, splits),
        }
    }

    fn of_photos(
        settings: &Settings,
        mut dataset: Dataset,
        given: Option<Vec<Part>>,
        splits: Splits,
        progress: &dyn Progress,
    ) -> Result<(Self, Inputs), TrainError> {
        let options = &settings.options.split;
        let joined = splits == Splits::AsSet && options.group_duplicates;
        if joined {
            let groups: Vec<Option<u32>> = dataset.samples.iter().map(|sample| sample.group).collect();
            let links = duplicates(settings, &dataset, progress);
            for (sample, group) in dataset.samples.iter_mut().zip(join_groups(&groups, &links)) {
                sample.group = Some(group);
            }
        }
        let parts = match (given, splits) {
            (_, Splits::No) => vec![Part::Train; dataset.samples.len()],
            (Some(parts), Splits::AsSet) => parts,
            (None, Splits::AsSet) if options.method == SplitMethod::Predefined => {
                return Err(TrainError::Data(
                    "`split.method` is \"predefined\", but the data says of no sample that it is to be tested on".into(),
                ));
            }
            (None, Splits::AsSet) => {
                let drawn = Drawn {
                    classes: &dataset.classes,
                    labels: &dataset.labels(),
                    ids: dataset.samples.iter().map(|sample| sample.id.as_str()).collect(),
                    groups: dataset.samples.iter().map(|sample| sample.group).collect(),
                    names: &dataset.group_names,
                    joined,
                };
                drawn.parts(options)?
            }
        };
        Ok(Self::new(dataset, parts))
    }

    fn of_features(settings: &Settings, path: &Path, splits: Splits) -> Result<(Self, Inputs), TrainError> {
        let FeatureArchive { table, labels, classes, groups } = read_features(path)?;
        if groups.is_none() && settings.options.split.method == SplitMethod::Group && splits == Splits::AsSet
        {
            return Err(TrainError::Data(format!(
                "`split.method` is \"group\", but {} names no groups",
                path.display()
            )));
        }
        let order = settings.options.data.class_order;
        let (classes, labels) = match classes {
            Some(names) => number_names(&names, order),
            None => number(&labels, order),
        };
        if classes.len() < 2 {
            return Err(TrainError::Data(format!(
                "{} has one class only: there is nothing to tell it from",
                path.display()
            )));
        }
        let ids: Vec<String> = (0..labels.len()).map(|row| row.to_string()).collect();
        let parts = match splits {
            Splits::No => vec![Part::Train; labels.len()],
            Splits::AsSet => Drawn {
                classes: &classes,
                labels: &labels,
                ids: ids.iter().map(String::as_str).collect(),
                groups: groups.clone(),
                names: &[],
                joined: false,
            }
            .parts(&settings.options.split)?,
        };
        let rows = (ids.into_iter().zip(labels).zip(parts).enumerate())
            .map(|(i, ((id, label), part))| Row {
                id,
                label,
                group: groups.as_ref().map(|groups| groups[i]),
                part,
            })
            .collect();
        Ok((Self { classes, rows }, Inputs::Features(table)))
    }

    fn new(dataset: Dataset, parts: Vec<Part>) -> (Self, Inputs) {
        let mut rows = Vec::with_capacity(parts.len());
        let mut photos = Vec::with_capacity(parts.len());
        for (sample, part) in dataset.samples.into_iter().zip(parts) {
            rows.push(Row { id: sample.id, label: sample.label, group: sample.group, part });
            photos.push(sample.image);
        }
        (Self { classes: dataset.classes, rows }, Inputs::Photos(photos))
    }

    /// The test part of a run, as its `split.csv` lists it; no other photo has to be there.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`TrainError::Data`] for a photo that is gone.
    pub(crate) fn of_run(
        settings: &Settings,
        classes: &[String],
        split: &[SplitRow],
        progress: &dyn Progress,
    ) -> Result<(Self, Inputs), TrainError> {
        let classes = ClassMap::new(classes.iter().map(String::as_str), ClassOrder::Appearance);
        let mut rows = Vec::new();
        for row in split.iter().filter(|row| row.split == Part::Test.as_str()) {
            let label = classes.label(&row.label).ok_or_else(|| {
                TrainError::Data(format!(
                    "split.csv names a class `{}` that the model does not know",
                    row.label
                ))
            })?;
            rows.push(Row { id: row.path.clone(), label, group: None, part: Part::Test });
        }
        let (main, test) = match &settings.source {
            Source::Photos { main, test } => (main, test),
            Source::Features(path) => {
                let table = read_features(path)?.table;
                let numbers: Option<Vec<usize>> = rows.iter().map(|row| row.id.parse().ok()).collect();
                let there = table.values.len() / table.width;
                let numbers = numbers
                    .filter(|numbers| numbers.iter().all(|&number| number < there))
                    .ok_or_else(|| {
                        TrainError::Data(format!("{} has not the rows that split.csv lists", path.display()))
                    })?;
                return Ok((Self { classes, rows }, Inputs::Features(table).only(&numbers)));
            }
        };
        let photos = match root_of_files(&settings.source) {
            Some(root) => {
                let file =
                    |row: &Row| Some(root.join(&row.id)).filter(|path| path.is_file()).map(ImageRef::from);
                rows.iter().map(file).collect::<Vec<_>>()
            }
            None => {
                let listed = Collected::read(settings, main, test.as_ref(), progress)?.samples;
                let listed: HashMap<&str, &ImageRef> =
                    listed.iter().map(|sample| (sample.id.as_str(), &sample.photo)).collect();
                rows.iter().map(|row| listed.get(row.id.as_str()).map(|&photo| photo.clone())).collect()
            }
        };
        let gone = photos.iter().filter(|photo| photo.is_none()).count();
        if let Some(row) = rows.iter().zip(&photos).find(|(_, photo)| photo.is_none()).map(|(row, _)| row) {
            let path = root_of_files(&settings.source).unwrap_or_default().join(&row.id);
            let more = if gone > 1 { format!(" and {} more", gone - 1) } else { String::new() };
            return Err(TrainError::Data(format!(
                "{}{more} of the run's test photos are not there any more: test it on others with --set data.test_folder=...",
                path.display()
            )));
        }
        Ok((Self { classes, rows }, Inputs::Photos(photos.into_iter().flatten().collect())))
    }

    /// The photos of a place that are only tested on, whatever the rest of the data set is.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn only_tested(
        test: &Place,
        classes: &[String],
        progress: &dyn Progress,
    ) -> Result<(Self, Inputs), TrainError> {
        let classes = ClassMap::new(classes.iter().map(String::as_str), ClassOrder::Appearance);
        let dataset = Dataset::read_with_classes(test.open(progress)?.source.as_ref(), &classes)?;
        let parts = vec![Part::Test; dataset.samples.len()];
        Ok(Self::new(dataset, parts))
    }

    /// The same samples, the classes `first` numbered in their order and the others after them.
    pub(crate) fn renumbered(self, first: &[String]) -> Self {
        let new = self.classes.names().iter().filter(|name| !first.contains(name));
        let classes = ClassMap::new(first.iter().chain(new).map(String::as_str), ClassOrder::Appearance);
        let number =
            |label: u32| classes.label(self.classes.name(label)).expect("every class is in the new map");
        let rows = self.rows.into_iter().map(|row| Row { label: number(row.label), ..row }).collect();
        Self { rows, classes }
    }

    /// The numbers of the rows of a part.
    #[must_use]
    pub fn of(&self, part: Part) -> Vec<usize> {
        (0..self.rows.len()).filter(|&i| self.rows[i].part == part).collect()
    }

    /// The groups of some rows, where the data names groups.
    #[must_use]
    pub fn groups(&self, rows: &[usize]) -> Option<Vec<u32>> {
        rows.iter().map(|&i| self.rows[i].group).collect()
    }

    /// The number of what each of some rows belongs to, in the order of first appearance: rows of one group have one, and a row
    /// without a group has its own.
    pub(crate) fn tied(&self, rows: &[usize]) -> Vec<u32> {
        let groups: Vec<Option<u32>> = rows.iter().map(|&i| self.rows[i].group).collect();
        join_groups(&groups, &[])
    }

    /// Says so where a group is both trained on and tested on: the test is easier than what comes later.
    pub(crate) fn warn_of_divided_groups(&self) {
        let (both, all) = self.divided_groups();
        if both > 0 {
            tracing::warn!(
                "{both} of {all} groups are both trained on and tested on: the test flatters; the folds of `compare` keep \
                 groups together"
            );
        }
    }

    /// How many groups are both trained on and tested on, and how many there are.
    fn divided_groups(&self) -> (usize, usize) {
        let of = |part| -> BTreeSet<u32> {
            self.rows.iter().filter(|row| row.part == part).filter_map(|row| row.group).collect()
        };
        let (trained, tested) = (of(Part::Train), of(Part::Test));
        (trained.intersection(&tested).count(), trained.union(&tested).count())
    }

    /// The labels of some rows.
    #[must_use]
    pub fn labels(&self, rows: &[usize]) -> Vec<u32> {
        rows.iter().map(|&i| self.rows[i].label).collect()
    }
}

impl Inputs {
    /// Where the photos lie; none for features.
    #[must_use]
    pub fn photos(&self) -> Option<&[ImageRef]> {
        match self {
            Self::Photos(photos) => Some(photos),
            Self::Features(_) => None,
        }
    }

    /// Those of some rows.
    #[must_use]
    pub fn only(self, rows: &[usize]) -> Self {
        match self {
            Self::Photos(photos) => Self::Photos(rows.iter().map(|&row| photos[row].clone()).collect()),
            Self::Features(FeatureTable { values, width }) => {
                let values = rows.iter().flat_map(|&row| &values[row * width..][..width]).copied().collect();
                Self::Features(FeatureTable { values, width })
            }
        }
    }
}

/// What `main` and `test` list, as one data set, and the part of each sample where the data says it.
fn read_photos(
    settings: &Settings,
    main: &Place,
    test: Option<&Place>,
    splits: Splits,
    progress: &dyn Progress,
) -> Result<(Dataset, Option<Vec<Part>>), TrainError> {
    let order = settings.options.data.class_order;
    let opened = main.open(progress)?;
    let mut listing = opened.source.list()?;
    let given = if splits == Splits::No { None } else { given_parts(&mut listing, test.is_some()) };
    let mut dataset = Dataset::from_raw(listing, order)?;
    let Some(test) = test else { return Ok((dataset, given)) };
    let place = test;
    let test = place.open(progress)?;
    let (here, there) = prefixes(&opened, &test, place)?;
    let mut tested = Dataset::read_with_classes(test.source.as_ref(), &dataset.classes)?;
    dataset.prefix_ids(&here);
    tested.prefix_ids(&there);
    let mut real = RealPlaces::default();
    let trained: HashSet<_> = dataset.samples.iter().map(|sample| real.of(&sample.image)).collect();
    if let Some(both) = tested.samples.iter().find(|sample| trained.contains(&real.of(&sample.image))) {
        return Err(TrainError::Data(format!("{} would be both trained on and tested on", both.image)));
    }
    let mut parts = vec![Part::Train; dataset.samples.len()];
    parts.resize(dataset.samples.len() + tested.samples.len(), Part::Test);
    Ok((together(dataset, tested), Some(parts)))
}

/// The samples of two places; groups of one name are one group, wherever they are.
fn together(mut first: Dataset, mut second: Dataset) -> Dataset {
    let names: BTreeSet<String> = first.group_names.iter().chain(&second.group_names).cloned().collect();
    let names: Vec<String> = names.into_iter().collect();
    for dataset in [&mut first, &mut second] {
        for sample in &mut dataset.samples {
            let name = |group: u32| names.binary_search(&dataset.group_names[group as usize]).ok();
            sample.group = sample.group.and_then(name).map(|number| number as u32);
        }
    }
    first.samples.append(&mut second.samples);
    Dataset { group_names: names, ..first }
}

/// Where photos lie once links are followed.
#[derive(Default)]
struct RealPlaces(HashMap<PathBuf, PathBuf>);

impl RealPlaces {
    fn of(&mut self, photo: &ImageRef) -> (PathBuf, Option<usize>) {
        let (path, number) = photo.location();
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        // A shard is met once for each of its records.
        let known = self.0.entry(path.to_path_buf()).or_insert_with_key(|path| real(path));
        (known.clone(), number)
    }
}

/// Pairs of samples whose photos look the same. Photos that cannot be read look like no other.
fn duplicates(settings: &Settings, dataset: &Dataset, progress: &dyn Progress) -> Vec<(usize, usize)> {
    let signatures = Signatures::open(&settings.options.features.cache, settings.options.data.max_pixels);
    progress.begin("looking for near-duplicates", dataset.samples.len() as u64, "photos");
    let of = |sample: &Sample| {
        let signature = sample.image.read().and_then(|bytes| signatures.of(&bytes));
        progress.step(1);
        signature.ok()
    };
    let found: Vec<_> = dataset.samples.par_iter().map(of).collect();
    progress.end();
    let pairs = find_near_duplicates(&found, DEFAULT_SIMILARITY);
    tracing::info!("{} pairs of photos look the same: they stay on one side", pairs.len());
    pairs.into_iter().map(|pair| (pair.a, pair.b)).collect()
}

/// The part of each entry, where the data says it; entries of a part that is neither trained nor tested on leave the listing,
/// with a line. What is to be tested on are the entries of the test part, or where there is none those of the validation part;
/// none of them where others are.
fn given_parts(listing: &mut RawDataset, tests_others: bool) -> Option<Vec<Part>> {
    let has = |part| listing.samples.iter().any(|entry| entry.split == Some(part));
    let tested = [GivenPart::Test, GivenPart::Validation].into_iter().find(|&part| has(part));
    let trains = listing.samples.iter().any(|entry| matches!(entry.split, None | Some(GivenPart::Train)));
    let tested = tested.filter(|_| trains)?;
    let part_of = |given| match given {
        None | Some(GivenPart::Train) => Some(Part::Train),
        Some(part) if part == tested && !tests_others => Some(Part::Test),
        Some(_) => None,
    };
    let left_out = listing.samples.iter().filter(|entry| part_of(entry.split).is_none());
    let names: BTreeSet<&str> = left_out.clone().filter_map(|entry| Some(entry.split?.as_str())).collect();
    if !names.is_empty() {
        tracing::info!(
            "left out in {}: {} photos of the {} part: others are tested on",
            listing.origin.display(),
            left_out.count(),
            names.into_iter().collect::<Vec<_>>().join(" and the ")
        );
    }
    listing.samples.retain(|entry| part_of(entry.split).is_some());
    let parts = listing.samples.iter().filter_map(|entry| part_of(entry.split)).collect();
    (!tests_others).then_some(parts)
}

/// Numbers the classes of features made elsewhere by the names that they have there, one a sample.
fn number_names(names: &[String], order: ClassOrder) -> (ClassMap, Vec<u32>) {
    let classes = ClassMap::new(names.iter().map(String::as_str), order);
    let number = |name: &String| classes.label(name).expect("the map is made of these names");
    let numbered = names.iter().map(number).collect();
    (classes, numbered)
}

/// As [`number_names`], where they have none: they are called as their labels, and sorted by value.
fn number(labels: &[i64], order: ClassOrder) -> (ClassMap, Vec<u32>) {
    let mut distinct = labels.to_vec();
    if order == ClassOrder::Sorted {
        distinct.sort_unstable();
        distinct.dedup();
    }
    let names: Vec<String> = distinct.iter().map(ToString::to_string).collect();
    let classes = ClassMap::new(names.iter().map(String::as_str), ClassOrder::Appearance);
    let numbered = labels
        .iter()
        .map(|label| classes.label(&label.to_string()).expect("the map is made of these labels"))
        .collect();
    (classes, numbered)
}

#[cfg(test)]
mod tests;
