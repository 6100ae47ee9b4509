//! `headstock init`: writes a config file, with comments that explain the settings, for a data set.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use headstock_loader::source::{
    ConfiguredSource, CsvConfig, FolderConfig, ParquetConfig, TableHead, WebDatasetConfig, find_image_files,
    is_image_file, read_parquet_columns, read_table_head,
};
use headstock_loader::{ClassOrder, Dataset, Split, find_shards};
use headstock_split::{TestSize, stratified_shuffle_split};
use headstock_train::TrainError;
use headstock_train::samples::open_source;
use serde_json::json;

use super::{CommandContext, pluralize, shell_quote};
use crate::args::InitArgs;

/// Usual names of the columns with the file name and with the class, the most usual name first.
const ID_COLUMNS: [&str; 9] =
    ["id", "image", "image_id", "filename", "file_name", "file", "path", "photo", "name"];
const LABEL_COLUMNS: [&str; 8] = ["label", "class", "breed", "species", "category", "target", "variety", "y"];

/// Usual folders of images next to their table.
const IMAGE_FOLDERS: [&str; 6] = ["train", "images", "photos", "img", "data", "."];
/// Name of the folder of training images, if test images are in a folder beside it.
const TRAIN_FOLDER: &str = "train";
/// Usual names of that folder of test images, the most usual one first.
const TEST_FOLDERS: [&str; 4] = ["test", "val", "valid", "validation"];

/// Extensions that are appended to the file name in a table until a file has that name.
const EXTENSIONS: [&str; 7] = ["", "jpg", "jpeg", "png", "JPG", "webp", "tif"];

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

/// Finds out how the data at `args.path` is stored, lists its images and classes, writes a config file for
/// it, and prints the numbers of training and test images. No image is opened.
pub(crate) fn run(args: &InitArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    context.note_unused_overrides("init");
    let config = context.config_path();
    let absolute = std::path::absolute(&config).map_err(TrainError::io("find", &config))?;
    let config_folder = absolute.parent().unwrap_or(Path::new("/"));
    let source = detect(args)?;
    let opened = open_source(source.as_ref(), None, context.bars)?;
    let dataset = opened
        .source
        .list()
        .and_then(|raw| Dataset::from_raw(raw, ClassOrder::Sorted))
        .map_err(TrainError::from)?;
    let test_dataset = match source.test_data() {
        Some(source) => {
            let listed = open_source(source.as_ref(), None, context.bars)?.source.list();
            Some(
                listed
                    .and_then(|raw| Dataset::from_raw_with_classes(raw, &dataset.classes))
                    .map_err(TrainError::from)?,
            )
        }
        None => None,
    };
    let given_counts = count_given_splits(&dataset);
    // The test size only matters if neither test data nor a given split defines the test set.
    let test_size = match (&test_dataset, given_counts) {
        (None, None) => TestSizeChoice::for_dataset(&dataset),
        _ => TestSizeChoice::DEFAULT,
    };
    write_new_config(&config, &render_config(source.as_ref(), &test_size, config_folder))?;

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
    out.print(format!("\nnext:\n  headstock train{config_flag}"))?;
    out.print_json(&json!({ "config": config, "classes": classes, "train": train, "test": test }))?;
    Ok(())
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

/// Finds out what kind of data `args.path` is: an `hf://` data set, shards, a table, or a folder with a
/// folder per class, perhaps inside `train/` with test images beside it. Reads no images, and logs which
/// folders are ignored.
fn detect(args: &InitArgs) -> Result<Box<dyn ConfiguredSource>, TrainError> {
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
        return Ok(Box::new(parquet_config(name.to_owned(), args, None)));
    }
    if let Some((kind, shards)) = detect_shards(path) {
        refuse_table_options("a set of Parquet files or tar archives")?;
        return match kind {
            ShardKind::Parquet => {
                let columns = read_parquet_columns(&shards[0])?;
                Ok(Box::new(parquet_config(path.display().to_string(), args, Some(&columns))))
            }
            ShardKind::Tar => Ok(Box::new(WebDatasetConfig {
                webdataset: path.display().to_string(),
                label: args.label.clone().unwrap_or_else(|| "label".into()),
                group: None,
                test_webdataset: None,
            })),
        };
    }
    if path.is_file() {
        return Ok(Box::new(detect_csv(args)?));
    }
    if !path.is_dir() {
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
    let train = path.join(TRAIN_FOLDER);
    let labels = path.join("labels.csv");
    if labels.is_file() && has_images(&train) {
        return Err(TrainError::Usage(format!(
            "{} has no folder per class, but it has the table labels.csv: take the classes from this table \
             with `headstock init {}`",
            path.display(),
            shell_quote(labels.display())
        )));
    }
    let train_classes = class_folders(&train);
    if train_classes.is_empty() && !has_only_split_folders(path) {
        // `train` may be the name of a class.
        return Ok(Box::new(FolderConfig { folder: path.clone(), test_folder: None }));
    }
    for name in class_folders(path).into_iter().filter(|name| !is_split_name(name)) {
        tracing::info!(
            "ignored the folder {}: the photos for training are taken from {}",
            path.join(name).display(),
            train.display()
        );
    }
    let mut test: Option<PathBuf> = None;
    for folder in TEST_FOLDERS.map(|name| path.join(name)).into_iter().filter(|folder| folder.is_dir()) {
        let shown_path = folder.display();
        let classes = class_folders(&folder);
        if let Some(test) = &test {
            tracing::info!(
                "ignored the folder {shown_path}: the photos for testing are taken from {}",
                test.display()
            );
        } else if classes.is_empty() {
            tracing::info!(
                "ignored the folder {shown_path}: to test with its photos, put them into one folder per \
                 class, as for training"
            );
        } else if classes.iter().all(|class| !train_classes.contains(class)) {
            tracing::info!(
                "ignored the folder {shown_path}: none of its folders has the name of a class in {}; to test \
                 with its photos, give its folders the names of the classes",
                train.display()
            );
        } else {
            test = Some(folder);
        }
    }
    Ok(Box::new(FolderConfig { folder: train, test_folder: test }))
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
            find_image_files(path).is_ok_and(|images| images.is_empty()).then_some((kind, shards))
        } else {
            is_shard(endings).then(|| find_shards(path, endings).ok()).flatten().map(|shards| (kind, shards))
        }
    })
}

/// The keys of Parquet shards, with a guess which columns hold the image and the class; `--label` names
/// the latter. `columns` are the names of (columns that can hold images, all others); it is `None` for a data
/// set on the hub, whose columns are assumed to be `image` and `label`.
fn parquet_config(
    shards: String,
    args: &InitArgs,
    columns: Option<&(Vec<String>, Vec<String>)>,
) -> ParquetConfig {
    let find_column = |names: &[String], usual_names: &[&str]| {
        usual_names
            .iter()
            .find_map(|name| names.iter().find(|column| column.eq_ignore_ascii_case(name)).cloned())
    };
    let (images, other_columns) = columns.map_or((&[][..], &[][..]), |(images, others)| (images, others));
    let image = find_column(images, &IMAGE_COLUMNS).or_else(|| images.first().cloned());
    let label = args.label.clone().or_else(|| find_column(other_columns, &LABEL_COLUMNS));
    ParquetConfig {
        parquet: shards,
        image: image.unwrap_or_else(|| "image".into()),
        label: label.unwrap_or_else(|| "label".into()),
        // The user may add it to the config.
        group: None,
        test_parquet: None,
    }
}

/// Whether `root` has a folder `train`, and all its image folders are for training or testing. Then `train`
/// is not the name of a class.
fn has_only_split_folders(root: &Path) -> bool {
    root.join(TRAIN_FOLDER).is_dir() && class_folders(root).iter().all(is_split_name)
}

/// Whether a folder is for training or testing by its name.
fn is_split_name(name: &OsString) -> bool {
    name == TRAIN_FOLDER || TEST_FOLDERS.iter().any(|test| name == test)
}

/// Sorted names of the folders in `root` that contain images: the classes, if there is a folder per class.
fn class_folders(root: &Path) -> Vec<OsString> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let is_hidden = |name: &OsString| name.as_encoded_bytes().starts_with(b".");
    let folders = entries.flatten().filter(|entry| entry.path().is_dir() && !is_hidden(&entry.file_name()));
    // Folders that cannot be listed are reported when the data set is read.
    let non_empty =
        folders.filter(|folder| !find_image_files(&folder.path()).is_ok_and(|images| images.is_empty()));
    let mut names: Vec<OsString> = non_empty.map(|folder| folder.file_name()).collect();
    names.sort_unstable();
    names
}

/// Whether an image file is in `folder` itself, not in a subfolder.
fn has_images(folder: &Path) -> bool {
    fs::read_dir(folder)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_image_file(&entry.path()))))
}

/// Finds out how to read the table `args.path` (CSV or TSV): the columns with the file names and the classes,
/// the folder of the images, and the extension to append to the file names. Folder and extension are the
/// first of the usual ones with which the image of the first row exists.
fn detect_csv(args: &InitArgs) -> Result<CsvConfig, TrainError> {
    let csv = args.path.clone();
    let usage_error = |problem: String| TrainError::Usage(format!("{}: {problem}", csv.display()));
    let TableHead { columns, first_row } = read_table_head(&csv)?;
    // The index of the column that the user named with `flag`, or else of the first usual name.
    let find_column =
        |requested: &Option<String>, usual_names: &[&str], flag: &str, meaning: &str| match requested {
            Some(name) => columns.iter().position(|column| column == name).ok_or_else(|| {
                usage_error(format!(
                    "the table has no column `{name}` (named by {flag}): choose one of the columns {}",
                    columns.join(", ")
                ))
            }),
            None => usual_names
                .iter()
                .find_map(|name| columns.iter().position(|column| column.eq_ignore_ascii_case(name)))
                .ok_or_else(|| {
                    usage_error(format!(
                        "it is not clear which column holds {meaning}: name the column with {flag}; the \
                         columns are {}",
                        columns.join(", ")
                    ))
                }),
        };
    let id = find_column(&args.id, &ID_COLUMNS, "--id", "the file names of the photos")?;
    let label = find_column(&args.label, &LABEL_COLUMNS, "--label", "the classes")?;
    let first_id = &first_row[id];
    let (id, label) = (columns[id].clone(), columns[label].clone());
    let parent = csv.parent().unwrap_or(Path::new(""));
    let folders = match &args.images {
        Some(folder) => vec![folder.clone()],
        None => IMAGE_FOLDERS.iter().map(|name| parent.join(name)).collect(),
    };
    for images in &folders {
        for extension in EXTENSIONS {
            let name =
                if extension.is_empty() { first_id.clone() } else { format!("{first_id}.{extension}") };
            if images.join(name).is_file() {
                let (images, extension) = (Some(images.clone()), extension.to_owned());
                return Ok(CsvConfig { csv, images, id, label, group: None, extension });
            }
        }
    }
    let searched: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(usage_error(format!(
        "the photo of the first row, `{first_id}`, was not found in the folders {}: name the folder of the \
         photos with --images",
        searched.join(", ")
    )))
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

/// The text of the config file for the data of `source`: the keys that differ between data sets, and constant
/// sections with comments that explain the settings. Paths in it are relative to `base`, the folder of the
/// config file.
fn render_config(source: &dyn ConfiguredSource, test_size: &TestSizeChoice, base: &Path) -> String {
    let table = source.table();
    let mut data: Vec<String> =
        table.iter().map(|(key, value)| render_key(source.kind(), key, value, base)).collect();
    if source.kind() == "folder" && !table.contains_key("test_folder") {
        data.push("# test_folder = \"test\"            # without it, [split] draws the test set".into());
    }
    let split = format!("test_size = {:<22}# {}", test_size.size.to_string(), test_size.comment);
    // The data last: a path may contain the text of the other one.
    include_str!("init_template.toml").replace("{test_size}", &split).replace("{data}", &data.join("\n"))
}

/// The line of a key of a data source with its meaning as a comment.
fn render_key(kind: &str, key: &str, value: &toml::Value, base: &Path) -> String {
    let is_path = [kind, "images", "test_folder"].contains(&key);
    let value = match value.as_str().filter(|path| is_path && !path.starts_with("hf://")) {
        Some(path) => &toml::Value::String(relative_path(Path::new(path), base)),
        None => value,
    };
    let comment = match (kind, key) {
        (_, "csv") => return format!("{key} = {value}"),
        (_, "folder") => "a folder per class",
        (_, "test_folder") => "only used for testing",
        (_, "images") => "the folder that the file names are relative to",
        (_, "id") => "column with the file name",
        (_, "extension") => "appended to each file name",
        (_, "parquet") => "a file, a folder, a pattern, or hf://datasets/owner/name",
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
