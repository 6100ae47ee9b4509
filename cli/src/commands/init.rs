//! `headstock init`: a commented config for what is there.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use headstock_loader::source::{
    TableHead, find_image_files, is_image_file, read_parquet_columns, read_table_head,
};
use headstock_loader::{
    ClassOrder, CsvSource, Dataset, FieldNames, Split, TestSize, find_shards, stratified_shuffle_split,
};
use headstock_train::TrainError;
use headstock_train::config::DataLocation;
use serde::Serialize;

use super::{Session, counted, quoted};
use crate::args::InitArgs;

/// What columns with the file's name, and with the class, are usually called.
const ID_COLUMNS: [&str; 9] =
    ["id", "image", "image_id", "filename", "file_name", "file", "path", "photo", "name"];
const LABEL_COLUMNS: [&str; 8] = ["label", "class", "breed", "species", "category", "target", "variety", "y"];

/// Where photos usually lie beside their table, and where those to test on lie beside those to train on.
const IMAGE_FOLDERS: [&str; 6] = ["train", "images", "photos", "img", "data", "."];
const TRAIN_FOLDER: &str = "train";
const TEST_FOLDERS: [&str; 4] = ["test", "val", "valid", "validation"];

const EXTENSIONS: [&str; 7] = ["", "jpg", "jpeg", "png", "JPG", "webp", "tif"];

/// What the column with the photo is usually called in a Parquet.
const IMAGE_COLUMNS: [&str; 6] = ["image", "img", "picture", "photo", "pixel_values", "bytes"];
const SHARDS: [(&[&str], ShardKind); 2] =
    [(&["parquet"], ShardKind::Parquet), (&["tar", "tar.gz", "tgz"], ShardKind::Tar)];

#[derive(Clone, Copy)]
enum ShardKind {
    Parquet,
    Tar,
}

/// What was found.
struct Found {
    place: DataLocation,
    test: Option<DataLocation>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    config: &'a Path,
    classes: usize,
    train: usize,
    test: usize,
}

pub(crate) fn run(args: &InitArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    session.note_unused_overrides("init");
    let config = session.config_path();
    let base = std::path::absolute(&config).map_err(|error| failed("find", &config, error))?;
    let base = base.parent().unwrap_or(Path::new("/")).to_path_buf();
    let found = find(args)?;
    let opened = found.place.open(session.bars)?;
    let dataset = Dataset::read(opened.source.as_ref(), ClassOrder::Sorted).map_err(TrainError::from)?;
    let tested = match &found.test {
        Some(test) => {
            let test = test.open(session.bars)?;
            Some(
                Dataset::read_with_classes(test.source.as_ref(), &dataset.classes)
                    .map_err(TrainError::from)?,
            )
        }
        None => None,
    };
    let given = given_parts(&dataset);
    let part = match (&tested, given) {
        (None, None) => TestPart::of(&dataset),
        _ => TestPart::USUAL,
    };
    write(&config, &text(&found, &part, &base))?;

    let (classes, photos) = (dataset.classes.len(), dataset.samples.len());
    let (train, test) = match (&tested, given) {
        (Some(tested), _) => (photos, tested.samples.len()),
        (None, Some(parts)) => parts,
        (None, None) => (photos - part.photos, part.photos),
    };
    let out = &mut *session.output;
    out.line(format!(
        "{}: {classes} classes, {} to train on, {test} to test on",
        config.display(),
        counted(train, "photo")
    ))?;
    let option = match &session.global.config {
        Some(config) => format!(" --config {}", quoted(config.display())),
        None => String::new(),
    };
    out.line(format!("\nnext:\n  headstock train{option}"))?;
    out.figures(&Figures { config: &config, classes, train, test })?;
    Ok(())
}

/// How many samples are trained on and tested on, where the data says it.
fn given_parts(dataset: &Dataset) -> Option<(usize, usize)> {
    let count = |part| dataset.samples.iter().filter(|sample| sample.split == Some(part)).count();
    let (train, validation, test) = (count(Split::Train), count(Split::Validation), count(Split::Test));
    let tested = if test > 0 { test } else { validation };
    (train > 0 && tested > 0).then_some((train, tested))
}

/// The `test_size` of the config.
struct TestPart {
    size: TestSize,
    /// How many photos that is.
    photos: usize,
    about: &'static str,
}

impl TestPart {
    const USUAL: Self =
        Self { size: TestSize::Fraction(0.1), photos: 0, about: "a share, or a whole number of photos" };

    /// A tenth, or as much as it takes for a photo of every class.
    fn of(dataset: &Dataset) -> Self {
        let sizes = [
            (Self::USUAL.size, Self::USUAL.about),
            (TestSize::Fraction(0.25), "a tenth would be fewer photos than classes"),
            (TestSize::Count(dataset.classes.len()), "photos; a quarter of all would be fewer than classes"),
        ];
        let labels = dataset.labels();
        let mut refused = None;
        for (size, about) in sizes {
            match stratified_shuffle_split(&labels, 1, size, 0) {
                Ok(split) => return Self { size, photos: split[0].test.len(), about },
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if let Some(error) = refused {
            tracing::warn!("it cannot be trained on yet: {}", error.message_with_names(&dataset.classes));
        }
        Self::USUAL
    }
}

fn find(args: &InitArgs) -> Result<Found, TrainError> {
    let path = &args.path;
    let alone = |place| Found { place, test: None };
    let no_table = |is: &str| {
        if args.images.is_some() || args.id.is_some() {
            let path = path.display();
            return Err(TrainError::Usage(format!("--images and --id belong to a CSV, and {path} is {is}")));
        }
        Ok(())
    };
    if let Some(name) = path.to_str().filter(|path| path.starts_with("hf://")) {
        no_table("a data set on the hub")?;
        return Ok(alone(parquet(name.to_owned(), args, None)));
    }
    if let Some((kind, shards)) = shards_of(path) {
        no_table("made of shards")?;
        return match kind {
            ShardKind::Parquet => {
                let columns = read_parquet_columns(&shards[0])?;
                Ok(alone(parquet(path.display().to_string(), args, Some(&columns))))
            }
            ShardKind::Tar => Ok(alone(DataLocation::WebDataset {
                shards: path.display().to_string(),
                fields: fields(args.label.clone().unwrap_or_else(|| "label".into())),
            })),
        };
    }
    if path.is_file() {
        return table(args).map(|csv| alone(DataLocation::Csv(csv)));
    }
    if !path.is_dir() {
        return Err(TrainError::Usage(format!(
            "there is no folder, no table and no shard {}",
            path.display()
        )));
    }
    no_table("a folder")?;
    if args.label.is_some() {
        return Err(TrainError::Usage(format!(
            "--label belongs to a table, and {} is a folder",
            path.display()
        )));
    }
    let train = path.join(TRAIN_FOLDER);
    let labels = path.join("labels.csv");
    if labels.is_file() && has_photos(&train) {
        return Err(TrainError::Usage(format!(
            "{} has a labels.csv beside its photos: try `headstock init {}`",
            path.display(),
            quoted(labels.display())
        )));
    }
    let known = class_folders(&train);
    if known.is_empty() && !is_split(path) {
        // A class may be called `train`.
        return Ok(alone(DataLocation::Folder(path.clone())));
    }
    for other in class_folders(path).into_iter().filter(|name| !names_a_part(name)) {
        tracing::info!("passed over {}: {} is trained on", path.join(other).display(), train.display());
    }
    let mut test: Option<PathBuf> = None;
    for folder in TEST_FOLDERS.map(|name| path.join(name)).into_iter().filter(|folder| folder.is_dir()) {
        let shown = folder.display();
        let classes = class_folders(&folder);
        if let Some(test) = &test {
            tracing::info!("passed over {shown}: {} is tested on", test.display());
        } else if classes.is_empty() {
            tracing::info!("passed over {shown}: there is no folder per class in it");
        } else if classes.iter().all(|class| !known.contains(class)) {
            tracing::info!("passed over {shown}: none of its folders is a class of {}", train.display());
        } else {
            test = Some(folder);
        }
    }
    Ok(Found { place: DataLocation::Folder(train), test: test.map(DataLocation::Folder) })
}

/// The shards that a file is, or that a folder without photos holds.
fn shards_of(path: &Path) -> Option<(ShardKind, Vec<PathBuf>)> {
    let is_shard = |endings: &[&str]| {
        let name = path.to_string_lossy().to_ascii_lowercase();
        endings.iter().any(|ending| name.ends_with(&format!(".{ending}")))
    };
    SHARDS.iter().find_map(|&(endings, kind)| {
        if path.is_dir() {
            let shards = find_shards(path, endings).ok()?;
            find_image_files(path).is_ok_and(|photos| photos.is_empty()).then_some((kind, shards))
        } else {
            is_shard(endings).then(|| find_shards(path, endings).ok()).flatten().map(|shards| (kind, shards))
        }
    })
}

/// Parquet shards, their columns guessed where they are known.
fn parquet(shards: String, args: &InitArgs, columns: Option<&(Vec<String>, Vec<String>)>) -> DataLocation {
    let usual = |known: &[String], usual: &[&str]| {
        usual.iter().find_map(|usual| known.iter().find(|known| known.eq_ignore_ascii_case(usual)).cloned())
    };
    let (images, others) = columns.map_or((&[][..], &[][..]), |(images, others)| (images, others));
    let image = usual(images, &IMAGE_COLUMNS).or_else(|| images.first().cloned());
    let label = args.label.clone().or_else(|| usual(others, &LABEL_COLUMNS));
    DataLocation::Parquet {
        shards,
        image: image.unwrap_or_else(|| "image".into()),
        fields: fields(label.unwrap_or_else(|| "label".into())),
    }
}

fn fields(label: String) -> FieldNames {
    FieldNames { label, group: None, split: None }
}

/// Whether there are folders of photos to train and to test on in `root`, and no other.
fn is_split(root: &Path) -> bool {
    root.join(TRAIN_FOLDER).is_dir() && class_folders(root).iter().all(names_a_part)
}

fn names_a_part(name: &OsString) -> bool {
    name == TRAIN_FOLDER || TEST_FOLDERS.iter().any(|test| name == test)
}

/// The names of the folders in `root` that have photos below them, sorted.
fn class_folders(root: &Path) -> Vec<OsString> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let hidden = |name: &OsString| name.as_encoded_bytes().starts_with(b".");
    let folders = entries.flatten().filter(|entry| entry.path().is_dir() && !hidden(&entry.file_name()));
    // What cannot be walked is told when the data set is read.
    let full =
        folders.filter(|folder| !find_image_files(&folder.path()).is_ok_and(|photos| photos.is_empty()));
    let mut names: Vec<OsString> = full.map(|folder| folder.file_name()).collect();
    names.sort_unstable();
    names
}

fn has_photos(folder: &Path) -> bool {
    fs::read_dir(folder)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_image_file(&entry.path()))))
}

/// A table: its columns, the folder of its photos, and what is appended to the ids.
fn table(args: &InitArgs) -> Result<CsvSource, TrainError> {
    let csv = args.path.clone();
    let bad = |problem: String| TrainError::Usage(format!("{}: {problem}", csv.display()));
    let TableHead { columns, first_row: first } = read_table_head(&csv)?;
    let column = |given: &Option<String>, usual: &[&str], option: &str, what: &str| match given {
        Some(name) => columns.iter().position(|column| column == name).ok_or_else(|| {
            bad(format!("there is no column `{name}` ({option}); its columns: {}", columns.join(", ")))
        }),
        None => usual
            .iter()
            .find_map(|usual| columns.iter().position(|column| column.eq_ignore_ascii_case(usual)))
            .ok_or_else(|| {
                bad(format!("which column is {what}? Say {option} with one of: {}", columns.join(", ")))
            }),
    };
    let id = column(&args.id, &ID_COLUMNS, "--id", "the file's name")?;
    let label = column(&args.label, &LABEL_COLUMNS, "--label", "the class")?;
    let first = &first[id];
    let (id, label) = (columns[id].clone(), columns[label].clone());
    let beside = csv.parent().unwrap_or(Path::new(""));
    let folders = match &args.images {
        Some(folder) => vec![folder.clone()],
        None => IMAGE_FOLDERS.iter().map(|name| beside.join(name)).collect(),
    };
    for images in &folders {
        for extension in EXTENSIONS {
            let name = if extension.is_empty() { first.clone() } else { format!("{first}.{extension}") };
            if images.join(name).is_file() {
                let (images, extension) = (images.clone(), extension.to_owned());
                return Ok(CsvSource { csv, images, id, extension, fields: fields(label) });
            }
        }
    }
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(bad(format!(
        "the photo of its first row, `{first}`, is not in {}: say where the photos are with --images",
        folders.join(", ")
    )))
}

/// A new file: what is there is never replaced.
fn write(config: &Path, text: &str) -> Result<(), TrainError> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(config).map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            let name = config.display();
            return TrainError::Usage(format!(
                "{name} is there already: remove it, or write another with --config"
            ));
        }
        failed("write", config, error)
    })?;
    file.write_all(text.as_bytes()).map_err(|error| failed("write", config, error))
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Io { action, path: path.into(), source }
}

/// The config.
fn text(found: &Found, part: &TestPart, base: &Path) -> String {
    let named_path = |path: &Path| toml::Value::String(relative(path, base)).to_string();
    let named = |name: &str| toml::Value::String(name.to_owned()).to_string();
    let shards = |shards: &str| {
        let local = !shards.starts_with("hf://");
        if local { named_path(Path::new(shards)) } else { named(shards) }
    };
    let data = match &found.place {
        DataLocation::Folder(root) => {
            let test = match &found.test {
                Some(DataLocation::Folder(test)) => {
                    format!("test_folder = {}   # only looked at to measure", named_path(test))
                }
                _ => "# test_folder = \"test\"            # without it [split] takes the test part from the data".into(),
            };
            format!("folder = {}   # a folder per class\n{test}", named_path(root))
        }
        DataLocation::Csv(source) => format!(
            "csv = {}\nimages = {}   # the folder that the ids are relative to\nid = {}   # the column with the file's name\nlabel = {}   # the column with the class\nextension = {}   # appended to the id",
            named_path(&source.csv),
            named_path(&source.images),
            named(&source.id),
            named(&source.fields.label),
            named(&source.extension)
        ),
        DataLocation::Parquet { shards: of, image, fields } => format!(
            "parquet = {}   # a file, a folder, a pattern, or hf://datasets/owner/name\nimage = {}   # the column with the photo\nlabel = {}   # the column with the class",
            shards(of),
            named(image),
            named(&fields.label)
        ),
        DataLocation::WebDataset { shards: of, fields } => format!(
            "webdataset = {}   # a file, a folder or a pattern\nlabel = {}   # the field with the class, where it stands in json members",
            shards(of),
            named(&fields.label)
        ),
    };
    let split = format!("test_size = {:<22}# {}", part.size.to_string(), part.about);
    format!("{HEADER}\n[data]\n{data}\n{OF_DATA}{split}\n{REST}")
}

/// `path` as the config would name it.
fn relative(path: &Path, base: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let inside = absolute.strip_prefix(base).unwrap_or(&absolute);
    let text = inside.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
    if text.is_empty() { ".".into() } else { text }
}

const HEADER: &str = "\
# What headstock trains on, and how. Paths are relative to this file.
version = 1
";

const OF_DATA: &str = r#"# class_order = "sorted"          # numbers of the classes: by name, or "appearance"
# on_error = "stop"               # an unreadable photo: list them all and stop, or "skip"
# max_pixels = 200000000          # larger photos are refused
# decode = "exact"                # large JPEGs at a fraction of their size: "scaled"

# How the test part is drawn: as scikit-learn's StratifiedShuffleSplit with random_state = seed.
[split]
"#;

const REST: &str = r#"seed = 0

[backbone]
weights = "hf://timm/resnet50.a1_in1k"   # or a directory, or a .safetensors file; @REVISION pins it
layer = "avgpool"                 # or stem, layer1 .. layer4
device = "auto"                   # or "cpu", "cuda", "cuda:1"
precision = "f32"                 # or "bf16"

[features]
cache = ".headstock"              # features are computed once and kept here
views = 0                         # augmented views kept of each training photo, beside the plain one

# What may happen to an augmented view.
# [augment]
# random_resized_crop = { scale = [0.08, 1.0], ratio = [0.75, 1.3333] }
# horizontal_flip = 0.5
# rotation = 30

# Tune the last stages of the backbone with the head: docs/tuning.md says when.
# [tune]
# from = "layer4"                   # or earlier; "stem" is everything
# epochs = 6

# The head: `headstock heads` lists them, `headstock heads linear` shows the keys of one.
[head]
kind = "linear"
"#;
