//! `headstock init`: writes a config file, with comments that explain the settings, for a data set.

mod annotations;
mod folder;
mod table;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use headstock_loader::dataset::PassedOverReason;
use headstock_loader::source::{
    ConfiguredSource, ParquetColumns, ParquetConfig, WebDatasetConfig, find_image_files, is_image_folder,
    read_parquet_columns,
};
use headstock_loader::{ClassOrder, Dataset, DatasetError, RawDataset, Split, find_shards};
use headstock_split::words::NameList;
use headstock_split::{TestSize, stratified_shuffle_split};
use headstock_train::TrainError;
use headstock_train::samples::open_source;
use serde_json::json;

use self::annotations::detect_annotations;
use self::folder::detect_folder;
use self::table::{detect_table, find_listed_split};
use super::{CommandContext, pluralize, shell_quote};
use crate::args::InitArgs;

/// Usual names of the column with the image in a Parquet file.
const IMAGE_COLUMNS: [&str; 6] = ["image", "img", "picture", "photo", "pixel_values", "bytes"];
/// Extensions of the files that hold many photos each.
const SHARD_EXTENSIONS: [(&[&str], ShardKind); 2] =
    [(&["parquet"], ShardKind::Parquet), (&["tar", "tar.gz", "tgz"], ShardKind::Tar)];

/// The kinds of files that hold many photos each.
#[derive(Clone, Copy)]
enum ShardKind {
    Parquet,
    Tar,
}

/// Data with what was found out about it.
struct DetectedData {
    source: Box<dyn ConfiguredSource>,
    /// The column of the table that says which photos are for training and which for testing.
    split_column: Option<String>,
    /// The column of the table that says which photos belong together.
    group_column: Option<String>,
}

impl DetectedData {
    /// Data without columns for the split and the group.
    fn new(source: impl ConfiguredSource + 'static) -> Self {
        Self { source: Box::new(source), split_column: None, group_column: None }
    }
}

/// Finds out how the data at `args.path` is stored, lists its images and classes, writes a config file for
/// it, and prints the numbers of training and test images and what cannot be used. No image is opened.
pub(crate) fn run(args: &InitArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    context.note_unused_overrides("init");
    let config = context.config_path();
    let absolute = std::path::absolute(&config).map_err(TrainError::io("find", &config))?;
    let config_folder = absolute.parent().unwrap_or(Path::new("/"));
    let detected = detect(args)?;
    let mut listed = ListedData::read(&detected, context)?;
    let dataset = listed.train_dataset()?;
    let test_dataset = listed.test_dataset(&dataset)?;
    let given_counts = count_given_splits(&dataset);
    // The test size only matters if neither test data nor a given split defines the test set.
    let test_size = match (&test_dataset, given_counts) {
        (None, None) => TestSizeChoice::for_dataset(&dataset),
        _ => TestSizeChoice::DEFAULT,
    };
    write_new_config(&config, &render_config(&detected, &listed, &test_size, config_folder))?;

    let (classes, n_images) = (dataset.classes.len(), dataset.samples.len());
    let (train, test) = match (&test_dataset, given_counts) {
        (Some(test_dataset), _) => (n_images, test_dataset.samples.len()),
        (None, Some(counts)) => counts,
        (None, None) => (n_images - test_size.n_test, test_size.n_test),
    };
    let out = &mut *context.output;
    out.print(format!(
        "{}: {classes} classes, {} for training, {test} for testing",
        config.display(),
        pluralize(train, "photo")
    ))?;
    let config_flag = match &context.global.config {
        Some(config) => format!(" --config {}", shell_quote(config.display())),
        None => String::new(),
    };
    out.print("\nnext:")?;
    if listed.n_unusable > 0 {
        out.print(format!(
            "  headstock doctor{config_flag}   # lists what cannot be used ({}); on_error = \"skip\" leaves it out",
            listed.n_unusable
        ))?;
    }
    let run_flag = run_flag(detected.source.as_ref(), config_folder);
    out.print(format!("  headstock train{config_flag}{run_flag}"))?;
    out.print_json(&json!({
        "config": config,
        "classes": classes,
        "train": train,
        "test": test,
        "unusable": listed.n_unusable,
    }))?;
    Ok(())
}

/// The argument of `train` for a run outside of the data, if the config is in the folder of the data: the
/// photos of a run would be taken for those of a class.
fn run_flag(source: &dyn ConfiguredSource, config_folder: &Path) -> String {
    let data = source.listed_folder().and_then(|folder| folder.canonicalize().ok());
    let (Some(data), Ok(config_folder)) = (data, config_folder.canonicalize()) else { return String::new() };
    if !config_folder.starts_with(&data) {
        return String::new();
    }
    let name = data.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy());
    let run = data.with_file_name(format!("{name}-run"));
    format!(" --run {}", shell_quote(run.display()))
}

/// The listing of the data without what cannot be used.
struct ListedData {
    train: RawDataset,
    /// The separate test set, if there is one.
    test: Option<RawDataset>,
    /// The smallest `min_samples` with which the data can be used, and the classes that it leaves out.
    min_samples: Option<(usize, Vec<String>)>,
    /// Whether links lead out of the folder of the photos.
    follow_links: bool,
    /// Number of rows and files that cannot be used.
    n_unusable: usize,
}

impl ListedData {
    /// Lists the `detected` data, and logs what is not used. Links to photos elsewhere are followed, and the
    /// config says so.
    fn read(detected: &DetectedData, context: &CommandContext<'_>) -> Result<Self, TrainError> {
        let split_column = detected.split_column.as_deref();
        let list_all = |follow_links: bool| -> Result<(RawDataset, Option<RawDataset>), TrainError> {
            let list = |source: &dyn ConfiguredSource| -> Result<RawDataset, TrainError> {
                Ok(open_source(source, split_column, follow_links, context.bars)?.source.list()?)
            };
            let test_source = detected.source.test_data();
            let test = test_source.map(|source| list(source.as_ref())).transpose()?;
            Ok((list(detected.source.as_ref())?, test))
        };
        let n_outside = |(train, test): &(RawDataset, Option<RawDataset>)| {
            let errors = std::iter::once(train).chain(test).flat_map(|listing| &listing.errors);
            errors.filter(|error| matches!(error, DatasetError::LeavesRoot { .. })).count()
        };
        let mut listings = list_all(false)?;
        let n_links = n_outside(&listings);
        let mut follow_links = false;
        if n_links > 0 {
            let followed = list_all(true)?;
            follow_links = n_outside(&followed) < n_links;
            if follow_links {
                tracing::info!(
                    "the data has links to photos elsewhere: `follow_links = true` in the config follows them"
                );
                listings = followed;
            }
        }
        let (mut train, mut test) = listings;
        let mut empty = Vec::new();
        let mut n_unusable = 0;
        for listing in std::iter::once(&mut train).chain(&mut test) {
            for error in &listing.errors {
                match error {
                    DatasetError::EmptyClass { classes, .. } => empty.extend(classes.0.clone()),
                    error => n_unusable += error.entries().map_or(0, |(_, names)| names.len()),
                }
            }
            listing.skip_errors();
            listing.passed_over.log(&listing.origin);
        }
        let min_samples = smallest_min_samples(&mut train, empty);
        Ok(Self { train, test, min_samples, follow_links, n_unusable })
    }

    fn train_dataset(&mut self) -> Result<Dataset, TrainError> {
        let listing = std::mem::replace(&mut self.train, RawDataset::new(PathBuf::new()));
        Ok(Dataset::from_raw(listing, ClassOrder::Sorted)?)
    }

    /// The separate test set, without photos of classes that `train` does not have.
    fn test_dataset(&mut self, train: &Dataset) -> Result<Option<Dataset>, TrainError> {
        let mut listing = self.test.take();
        if let Some(listing) = &mut listing {
            let unknown = listing.classes_not_in(&train.classes);
            if !unknown.is_empty() {
                let n_before = listing.samples.len();
                listing.leave_out_classes(&unknown, PassedOverReason::UnknownClass);
                self.n_unusable += n_before - listing.samples.len();
                tracing::warn!(
                    "{}",
                    DatasetError::unknown_class(&listing.origin, unknown, train.classes.names())
                );
            }
        }
        let dataset = listing.map(|listing| Dataset::from_raw_with_classes(listing, &train.classes));
        Ok(dataset.transpose()?)
    }
}

/// The smallest `min_samples` with which a test set can be drawn from `listing`, and the classes that it leaves
/// out; `empty` are the classes without images. `None` if no class has to be left out, or too few would stay.
fn smallest_min_samples(listing: &mut RawDataset, mut empty: Vec<String>) -> Option<(usize, Vec<String>)> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for sample in &listing.samples {
        *sizes.entry(&sample.class).or_default() += 1;
    }
    let is_split = listing.samples.iter().any(|sample| sample.split.is_some());
    let single: Vec<String> =
        sizes.iter().filter(|(_, size)| **size == 1).map(|(&class, _)| class.to_owned()).collect();
    let n_larger = sizes.len() - single.len();
    if !is_split && !single.is_empty() && n_larger >= 2 {
        listing.leave_out_small_classes(2);
        empty.extend(single);
        return Some((2, empty));
    }
    (!empty.is_empty()).then_some((1, empty))
}

/// If the data itself says which samples are for training and which for testing: the pair of their numbers,
/// (training, test). Else `None`. Without test samples, the validation samples are the test set.
fn count_given_splits(dataset: &Dataset) -> Option<(usize, usize)> {
    let count = |split| dataset.samples.iter().filter(|sample| sample.split == Some(split)).count();
    let (train, validation, test) = (count(Split::Train), count(Split::Validation), count(Split::Test));
    let n_test = if test > 0 { test } else { validation };
    (train > 0 && n_test > 0).then_some((train, n_test))
}

/// The key `test_size` of the config, the part of the data that is drawn as test set, and the comment after
/// it.
struct TestSizeChoice {
    size: TestSize,
    /// Number of test photos with this size; 0 where `[split]` is not used.
    n_test: usize,
    comment: &'static str,
}

impl TestSizeChoice {
    /// A tenth of the data.
    const DEFAULT: Self =
        Self { size: TestSize::Fraction(0.1), n_test: 0, comment: "fraction, or number of photos" };

    /// The first of these sizes with which the test set can have an image of each class: a tenth, a quarter,
    /// as many images as classes. If none can, logs why and returns the default.
    fn for_dataset(dataset: &Dataset) -> Self {
        let choices = [
            (Self::DEFAULT.size, Self::DEFAULT.comment),
            (TestSize::Fraction(0.25), "a tenth would be fewer photos than classes"),
            (
                TestSize::Count(dataset.classes.len()),
                "number of photos; a quarter would be fewer than classes",
            ),
        ];
        let labels = dataset.labels();
        let mut first_error = None;
        for (size, comment) in choices {
            // The split of `train`: one, with seed 0, only made to find out whether this size is possible.
            match stratified_shuffle_split(&labels, 1, size, 0) {
                Ok(split) => return Self { size, n_test: split[0].test.len(), comment },
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if let Some(error) = first_error {
            tracing::warn!(
                "this data set cannot be trained on yet: {}",
                error.with_names(|label| dataset.classes.name(label).to_owned())
            );
        }
        Self::DEFAULT
    }
}

/// Finds out what kind of data `args.path` is: an `hf://` data set, shards, a table, a zip archive, or a
/// folder. Reads no images, and logs which folders are ignored.
fn detect(args: &InitArgs) -> Result<DetectedData, TrainError> {
    let path = &args.path;
    let refuse_table_options = |description: &str| {
        if args.images.is_some() || args.id.is_some() {
            let path = path.display();
            return Err(TrainError::Usage(format!(
                "--images and --id are only for a table (CSV or TSV), but {path} is {description}: leave out \
                 these arguments"
            )));
        }
        Ok(())
    };
    if let Some(name) = path.to_str().filter(|path| path.starts_with("hf://")) {
        refuse_table_options("a data set on the Hugging Face hub")?;
        return Ok(DetectedData::new(parquet_config(name.to_owned(), args, None)));
    }
    if let Some(detected) = detect_annotations(path, args)? {
        return Ok(detected);
    }
    if let Some((kind, shards)) = detect_shards(path) {
        refuse_table_options("a set of Parquet files or tar archives")?;
        return match kind {
            ShardKind::Parquet => {
                let columns = read_parquet_columns(&shards[0])?;
                let config = parquet_config(path.display().to_string(), args, Some(&columns));
                let split_column = find_listed_split(&config, &columns.others);
                let group_column = table::find_group_column(&columns.others, &[&config.label]);
                Ok(DetectedData { source: Box::new(config), split_column, group_column })
            }
            ShardKind::Tar => Ok(DetectedData::new(WebDatasetConfig {
                webdataset: path.display().to_string(),
                image: None,
                label: args.label.clone().unwrap_or_else(|| "label".into()),
                group: None,
                test_webdataset: None,
            })),
        };
    }
    if !is_image_folder(path) {
        if path.is_file() {
            return detect_table(path, args);
        }
        return Err(TrainError::Usage(format!(
            "there is no file or folder {}: check the path (`headstock init --help` lists what init accepts)",
            path.display()
        )));
    }
    refuse_table_options("a folder")?;
    if args.label.is_some() {
        return Err(TrainError::Usage(format!(
            "--label names a column of a table, but {} is a folder: leave out --label",
            path.display()
        )));
    }
    detect_folder(path, args)
}

/// The shards (files that hold many images each) of `path` with their kind: the file itself, or those of a
/// folder. `None` if `path` is a different file, or a folder without shards or with image files too.
fn detect_shards(path: &Path) -> Option<(ShardKind, Vec<PathBuf>)> {
    let is_shard = |endings: &[&str]| {
        let name = path.to_string_lossy().to_ascii_lowercase();
        endings.iter().any(|ending| name.ends_with(&format!(".{ending}")))
    };
    SHARD_EXTENSIONS.iter().find_map(|&(endings, kind)| {
        if path.is_dir() {
            let shards = find_shards(path, endings).ok()?;
            let found = find_image_files(path, true);
            found.is_ok_and(|found| found.images.is_empty()).then_some((kind, shards))
        } else {
            is_shard(endings).then(|| find_shards(path, endings).ok()).flatten().map(|shards| (kind, shards))
        }
    })
}

/// The keys of Parquet shards, with a guess which columns hold the image and the class; `--label` names
/// the latter. `columns` is `None` for a data set on the hub, whose columns are assumed to be `image` and
/// `label`.
fn parquet_config(shards: String, args: &InitArgs, columns: Option<&ParquetColumns>) -> ParquetConfig {
    let find_column = |names: &[String], usual_names: &[&str]| {
        usual_names
            .iter()
            .find_map(|name| names.iter().find(|column| column.eq_ignore_ascii_case(name)).cloned())
    };
    let ParquetColumns { images, class_labels, others } = columns.cloned().unwrap_or_default();
    let image = find_column(&images, &IMAGE_COLUMNS)
        .or_else(|| images.first().cloned())
        .or_else(|| find_column(&others, &IMAGE_COLUMNS));
    let only_class_label = || class_labels.first().filter(|_| class_labels.len() == 1).cloned();
    let label = args.label.clone().or_else(only_class_label);
    let label = label.or_else(|| find_column(&others, &table::LABEL_COLUMNS));
    ParquetConfig {
        parquet: shards,
        image: image.unwrap_or_else(|| "image".into()),
        label: label.unwrap_or_else(|| "label".into()),
        // The user may add it to the config.
        group: None,
        test_parquet: None,
    }
}

/// Writes the config to a new file; never overwrites one, which may be the user's work.
fn write_new_config(config: &Path, text: &str) -> Result<(), TrainError> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(config).map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            let name = config.display();
            return TrainError::Usage(format!(
                "{name} already exists: remove it, or choose a different file name with --config"
            ));
        }
        TrainError::io("write", config)(error)
    })?;
    file.write_all(text.as_bytes()).map_err(TrainError::io("write", config))
}

/// The text of the config file for the `detected` data: the keys that differ between data sets, and constant
/// sections with comments that explain the settings. Paths in it are relative to `base`, the folder of the
/// config file.
fn render_config(
    detected: &DetectedData,
    listed: &ListedData,
    test_size: &TestSizeChoice,
    base: &Path,
) -> String {
    let source = detected.source.as_ref();
    let table = source.table();
    let mut data: Vec<String> =
        table.iter().map(|(key, value)| render_key(source.kind(), key, value, base)).collect();
    if source.kind() == "folder" && !table.contains_key("test_folder") {
        data.push("# test_folder = \"test\"            # without it, [split] draws the test set".into());
    }
    if let Some(column) = &detected.group_column {
        let value = toml::Value::from(column.as_str());
        data.push(format!(
            "# group = {value}   # column with what belongs together; keep it together with method = \"group\" in [split]"
        ));
    }
    if listed.follow_links {
        data.push("follow_links = true               # links lead to photos outside the folder".into());
    }
    if let Some((min_samples, classes)) = &listed.min_samples {
        let classes = NameList(classes.clone()).to_string();
        data.push(format!(
            "min_samples = {min_samples:<20}# leaves out the classes with fewer photos: {}",
            classes.escape_debug()
        ));
    }
    let split = match &detected.split_column {
        Some(column) => format!("method = \"predefined\"\ncolumn = {}", toml::Value::from(column.as_str())),
        None => format!(
            "test_size = {:<22}# {}\n\
             # method = \"hash\"                 # by the name of each photo: photos that come later do not move \
             others; needs a fraction",
            test_size.size.to_string(),
            test_size.comment
        ),
    };
    // The data last: a path may contain the text of the other one.
    include_str!("template.toml").replace("{split}", &split).replace("{data}", &data.join("\n"))
}

/// The line of a key of a data source with its meaning as a comment.
fn render_key(kind: &str, key: &str, value: &toml::Value, base: &Path) -> String {
    let is_path = [kind, "images", "test_folder", "test_coco"].contains(&key);
    let value = match value.as_str().filter(|path| is_path && !path.starts_with("hf://")) {
        Some(path) => &toml::Value::String(relative_path(Path::new(path), base)),
        None => value,
    };
    let comment = match (kind, key) {
        (_, "csv") => return format!("{key} = {value}"),
        (_, "coco") => "images, annotations and categories in COCO's format",
        (_, "test_coco") => "only used for testing",
        (_, "metadata") => "the folder of metadata.csv, .jsonl or .parquet",
        ("coco", "label") => "field of the categories with the name of the class",
        (_, "folder") => "a folder per class",
        (_, "test_folder") => "only used for testing",
        (_, "label_pattern") => "the class in the name of each file",
        (_, "images") => "the folder that the file names are relative to",
        (_, "id") => "column with the file name",
        (_, "extension") => "appended to each file name",
        (_, "parquet") => "a file, a folder, a pattern, or hf://datasets/owner/name",
        ("webdataset", "image") => "what follows the first dot in the names of the photos",
        (_, "image") => "column with the photo",
        ("webdataset", "label") => "field with the class in .json members",
        (_, "label") => "column with the class",
        _ => "a file, a folder or a pattern",
    };
    format!("{key} = {value}   # {comment}")
}

/// `path` for a config file in the folder `base`: relative to `base` if it is inside, so that both can be
/// moved together, else absolute. The separator is `/` on every system.
fn relative_path(path: &Path, base: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let inside = absolute.strip_prefix(base).unwrap_or(&absolute);
    let text = inside.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
    if text.is_empty() { ".".into() } else { text }
}
