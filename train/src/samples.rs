//! Which samples there are, and which of them are tested on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_loader::dataset::number_groups;
use headstock_loader::{
    ClassMap, ClassOrder, Dataset, SplitError, read_csv, read_folder, read_folder_with,
    stratified_shuffle_split,
};
use serde::Serialize;

use crate::config::{Settings, Source};
use crate::error::TrainError;
use crate::feature_file::{FeatureArchive, FeatureTable, read_npz};
use crate::run::SplitRow;

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
    Photos(Vec<PathBuf>),
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

impl Samples {
    /// Reads the data set that `settings` name and splits it; beside the samples, what they consist of, in the same order.
    /// No photo is opened.
    ///
    /// # Errors
    /// [`TrainError::Dataset`], and [`TrainError::Data`] for data that cannot be split or features that cannot be used.
    pub fn read(settings: &Settings) -> Result<(Self, Inputs), TrainError> {
        Self::read_with(settings, &|labels| split(labels, settings))
    }

    fn read_with(settings: &Settings, split: &Splitter<'_>) -> Result<(Self, Inputs), TrainError> {
        let order = settings.options.data.class_order;
        match &settings.source {
            Source::Folder { root, test: None } => Self::of_photos(read_folder(root, order)?, split),
            Source::Folder { root, test: Some(test) } => {
                let mut train = read_folder(root, order)?;
                let mut tested = read_folder_with(test, &train.classes)?;
                let (here, there) = prefixes(root, test)?;
                if here.is_empty() || there.is_empty() {
                    return Err(TrainError::Data(format!(
                        "`data.folder` {} and `data.test_folder` {} lie within each other: photos would be both trained on and tested on",
                        root.display(),
                        test.display()
                    )));
                }
                train.prefix_ids(&here);
                tested.prefix_ids(&there);
                let parts = [vec![Part::Train; train.samples.len()], vec![Part::Test; tested.samples.len()]];
                train.samples.extend(tested.samples);
                Ok(Self::new(train, parts.concat()))
            }
            Source::Csv(csv) => Self::of_photos(read_csv(csv, order)?, split),
            Source::Features(path) => {
                let FeatureArchive { table, labels, groups } = read_npz(path)?;
                let groups = groups.map(|groups| number_groups(&groups));
                let (classes, labels) = number(&labels, order);
                if classes.len() < 2 {
                    return Err(TrainError::Data(format!(
                        "{} has one class only: there is nothing to tell it from",
                        path.display()
                    )));
                }
                let parts = split(&labels).map_err(|error| TrainError::Data(error.named(&classes)))?;
                let row = |(i, (&label, part)): (usize, (&u32, Part))| {
                    let group = groups.as_ref().map(|groups| groups[i]);
                    Row { id: i.to_string(), label, group, part }
                };
                let rows = labels.iter().zip(parts).enumerate().map(row).collect();
                Ok((Self { classes, rows }, Inputs::Features(table)))
            }
        }
    }

    fn of_photos(dataset: Dataset, split: &Splitter<'_>) -> Result<(Self, Inputs), TrainError> {
        let parts =
            split(&dataset.labels()).map_err(|error| TrainError::Data(error.named(&dataset.classes)))?;
        Ok(Self::new(dataset, parts))
    }

    fn new(dataset: Dataset, parts: Vec<Part>) -> (Self, Inputs) {
        let mut rows = Vec::with_capacity(parts.len());
        let mut paths = Vec::with_capacity(parts.len());
        for (sample, part) in dataset.samples.into_iter().zip(parts) {
            rows.push(Row { id: sample.id, label: sample.label, group: sample.group, part });
            paths.push(sample.path);
        }
        (Self { classes: dataset.classes, rows }, Inputs::Photos(paths))
    }

    /// As [`read`](Self::read), but everything is one part: nothing is split, so nothing can be too small to be.
    ///
    /// # Errors
    /// As there.
    pub fn unsplit(settings: &Settings) -> Result<(Self, Inputs), TrainError> {
        Self::read_with(settings, &|labels| Ok(vec![Part::Train; labels.len()]))
    }

    /// The test part of a run, as its `split.csv` lists it; no other photo has to be there.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`TrainError::Data`] for a photo that is gone.
    pub(crate) fn of_run(
        settings: &Settings,
        classes: &[String],
        split: &[SplitRow],
    ) -> Result<(Self, Inputs), TrainError> {
        let classes = ClassMap::new(classes.iter().map(String::as_str), ClassOrder::Appearance);
        let mut rows = Vec::new();
        for row in split.iter().filter(|row| row.split == Part::Test.as_str()) {
            let label = classes.number(&row.label).ok_or_else(|| {
                TrainError::Data(format!(
                    "split.csv names a class `{}` that the model does not know",
                    row.label
                ))
            })?;
            rows.push(Row { id: row.path.clone(), label, group: None, part: Part::Test });
        }
        if let Source::Features(path) = &settings.source {
            let table = read_npz(path)?.table;
            let numbers: Option<Vec<usize>> = rows.iter().map(|row| row.id.parse().ok()).collect();
            let there = table.values.len() / table.width;
            let numbers =
                numbers.filter(|numbers| numbers.iter().all(|&number| number < there)).ok_or_else(|| {
                    TrainError::Data(format!("{} has not the rows that split.csv lists", path.display()))
                })?;
            return Ok((Self { classes, rows }, Inputs::Features(table).only(&numbers)));
        }
        let root = data_root(&settings.source);
        let paths: Vec<PathBuf> = rows.iter().map(|row| root.join(&row.id)).collect();
        let gone = paths.iter().filter(|path| !path.is_file()).count();
        if let Some(path) = paths.iter().find(|path| !path.is_file()) {
            let more = if gone > 1 { format!(" and {} more", gone - 1) } else { String::new() };
            return Err(TrainError::Data(format!(
                "{}{more} of the run's test photos are not there any more: test it on others with --set data.test_folder=...",
                path.display()
            )));
        }
        Ok((Self { classes, rows }, Inputs::Photos(paths)))
    }

    /// The photos of a folder that are only tested on, whatever the rest of the data set is.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn only_tested(test: &Path, classes: &[String]) -> Result<(Self, Inputs), TrainError> {
        let classes = ClassMap::new(classes.iter().map(String::as_str), ClassOrder::Appearance);
        let dataset = read_folder_with(test, &classes)?;
        let parts = vec![Part::Test; dataset.samples.len()];
        Ok(Self::new(dataset, parts))
    }

    /// The same samples, the classes `first` numbered in their order and the others after them.
    pub(crate) fn renumbered(self, first: &[String]) -> Self {
        let new = self.classes.names().iter().filter(|name| !first.contains(name));
        let classes = ClassMap::new(first.iter().chain(new).map(String::as_str), ClassOrder::Appearance);
        let number =
            |label: u32| classes.number(self.classes.name(label)).expect("every class is in the new map");
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

    /// Says so where a group is both trained on and tested on: the test is easier than what comes later.
    pub(crate) fn warn_of_divided_groups(&self) {
        let of = |part| -> BTreeSet<u32> {
            self.rows.iter().filter(|row| row.part == part).filter_map(|row| row.group).collect()
        };
        let (trained, tested) = (of(Part::Train), of(Part::Test));
        let both = trained.intersection(&tested).count();
        if both > 0 {
            tracing::warn!(
                "{both} of {} groups are both trained on and tested on: the test flatters; the folds of `compare` keep \
                 groups together",
                trained.union(&tested).count()
            );
        }
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
    pub fn photos(&self) -> Option<&[PathBuf]> {
        match self {
            Self::Photos(paths) => Some(paths),
            Self::Features(_) => None,
        }
    }

    /// Those of some rows.
    #[must_use]
    pub fn only(self, rows: &[usize]) -> Self {
        match self {
            Self::Photos(paths) => Self::Photos(rows.iter().map(|&row| paths[row].clone()).collect()),
            Self::Features(FeatureTable { values, width }) => {
                let values = rows.iter().flat_map(|&row| &values[row * width..][..width]).copied().collect();
                Self::Features(FeatureTable { values, width })
            }
        }
    }
}

/// The folder that the paths of a run are relative to.
pub(crate) fn data_root(source: &Source) -> PathBuf {
    match source {
        Source::Folder { root, test: None } => root.clone(),
        Source::Folder { root, test: Some(test) } => {
            let there = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            let root = there(root);
            let (below, _) = relative_to_shared(&root, &there(test));
            let up = Path::new(&below).components().count();
            root.ancestors().nth(up).unwrap_or(&root).to_path_buf()
        }
        Source::Csv(csv) => csv.images.clone(),
        Source::Features(_) => PathBuf::new(),
    }
}

/// Gives each label its part.
type Splitter<'a> = dyn Fn(&[u32]) -> Result<Vec<Part>, SplitError> + 'a;

fn split(labels: &[u32], settings: &Settings) -> Result<Vec<Part>, SplitError> {
    let options = &settings.options.split;
    let splits = stratified_shuffle_split(labels, 1, options.test_size, options.seed)?;
    let mut parts = vec![Part::Train; labels.len()];
    for &i in splits.iter().flat_map(|split| &split.test) {
        parts[i] = Part::Test;
    }
    Ok(parts)
}

/// Numbers the classes of features made elsewhere: they are called as their labels, and sorted by value.
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
        .map(|label| classes.number(&label.to_string()).expect("the map is made of these labels"))
        .collect();
    (classes, numbered)
}

/// The paths of both folders relative to the folder that holds both.
fn prefixes(train: &Path, test: &Path) -> Result<(String, String), TrainError> {
    let canonical = |path: &Path| path.canonicalize().map_err(TrainError::io("read", path));
    Ok(relative_to_shared(&canonical(train)?, &canonical(test)?))
}

fn relative_to_shared(train: &Path, test: &Path) -> (String, String) {
    let shared = train.components().zip(test.components()).take_while(|(a, b)| a == b).count();
    let rest = |path: &Path| {
        let parts: Vec<_> =
            path.components().skip(shared).map(|part| part.as_os_str().to_string_lossy()).collect();
        parts.join("/")
    };
    (rest(train), rest(test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_a_run_keep_their_numbers_and_new_ones_follow() {
        let names = |names: &[&str]| ClassMap::new(names.iter().copied(), ClassOrder::Appearance);
        let row = |label: u32| Row { id: label.to_string(), label, part: Part::Train, group: None };
        let samples = Samples { classes: names(&["a", "b", "c", "d"]), rows: (0..4).map(row).collect() };
        let samples = samples.renumbered(&["d", "b"].map(String::from));
        assert_eq!(samples.classes.names(), ["d", "b", "a", "c"]);
        assert_eq!(samples.labels(&[0, 1, 2, 3]), [2, 1, 3, 0]);
    }

    #[test]
    fn labels_of_features_are_numbered_by_value_or_by_appearance() {
        let (classes, labels) = number(&[10, -2, 10, 9], ClassOrder::Sorted);
        assert_eq!(
            (classes.names(), labels),
            (["-2", "9", "10"].map(String::from).as_slice(), vec![2, 0, 2, 1])
        );
        let (classes, labels) = number(&[10, -2, 10, 9], ClassOrder::Appearance);
        assert_eq!(
            (classes.names(), labels),
            (["10", "-2", "9"].map(String::from).as_slice(), vec![0, 1, 0, 2])
        );
    }
}
