//! `headstock init`: a commented config for what is there.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use headstock_loader::dataset::is_photo;
use headstock_loader::{ClassOrder, CsvSource, Dataset, read_csv, read_folder, read_folder_with};
use headstock_train::TrainError;

use super::{Session, counted};
use crate::args::InitArgs;

/// What columns with the file's name, and with the class, are usually called.
const ID_COLUMNS: [&str; 9] =
    ["id", "image", "image_id", "filename", "file_name", "file", "path", "photo", "name"];
const LABEL_COLUMNS: [&str; 8] = ["label", "class", "breed", "species", "category", "target", "variety", "y"];

/// Where photos usually lie beside their table, and where those to test on lie beside those to train on.
const IMAGE_FOLDERS: [&str; 6] = ["train", "images", "photos", "img", "data", "."];
const TEST_FOLDERS: [&str; 4] = ["test", "val", "valid", "validation"];

const EXTENSIONS: [&str; 7] = ["", "jpg", "jpeg", "png", "JPG", "webp", "tif"];

/// What was found.
enum Found {
    Folder { root: PathBuf, test: Option<PathBuf> },
    Csv(CsvSource),
}

pub(crate) fn run(args: &InitArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let config = session.config_path();
    let base = std::path::absolute(&config).map_err(|error| failed("find", &config, error))?;
    let base = base.parent().unwrap_or(Path::new("/")).to_path_buf();
    let found = find(args)?;
    let (dataset, tested) = match &found {
        Found::Folder { root, test } => {
            let dataset = read_folder(root, ClassOrder::Sorted).map_err(TrainError::from)?;
            let tested = test.as_ref().map(|test| read_folder_with(test, &dataset.classes)).transpose();
            (dataset, tested.map_err(TrainError::from)?)
        }
        Found::Csv(source) => (read_csv(source, ClassOrder::Sorted).map_err(TrainError::from)?, None),
    };
    write(&config, &text(&found, &base))?;
    let out = &mut *session.output;
    out.line(format!("{}: {}", config.display(), summary(&dataset, tested.as_ref())))?;
    let option = if session.global.config.is_some() {
        format!(" --config {}", config.display())
    } else {
        String::new()
    };
    out.line(format!("\nnext:\n  headstock train{option}"))?;
    out.flush()?;
    Ok(())
}

fn summary(dataset: &Dataset, tested: Option<&Dataset>) -> String {
    let classes = dataset.classes.len();
    let photos = counted(dataset.samples.len(), "photo");
    match tested {
        Some(tested) => {
            format!("{classes} classes, {photos} to train on, {} to test on", tested.samples.len())
        }
        None => format!("{classes} classes, {photos}, a tenth of them to test on"),
    }
}

fn find(args: &InitArgs) -> Result<Found, TrainError> {
    let path = &args.path;
    if path.is_file() {
        return table(args).map(Found::Csv);
    }
    if !path.is_dir() {
        return Err(TrainError::Usage(format!("there is no folder and no CSV {}", path.display())));
    }
    if args.images.is_some() || args.id.is_some() || args.label.is_some() {
        return Err(TrainError::Usage(format!(
            "--images, --id and --label belong to a CSV, and {} is a folder",
            path.display()
        )));
    }
    let inside = path.join("train");
    if !inside.is_dir() {
        return Ok(Found::Folder { root: path.clone(), test: None });
    }
    let labels = path.join("labels.csv");
    if labels.is_file() && has_photos(&inside) {
        return Err(TrainError::Usage(format!(
            "{} has a labels.csv beside its photos: try `headstock init {}`",
            path.display(),
            labels.display()
        )));
    }
    let test = TEST_FOLDERS.iter().map(|name| path.join(name)).find(|folder| folder.is_dir());
    Ok(Found::Folder { root: inside, test })
}

fn has_photos(folder: &Path) -> bool {
    fs::read_dir(folder)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_photo(&entry.path()))))
}

/// A table: its columns, the folder of its photos, and what is appended to the ids.
fn table(args: &InitArgs) -> Result<CsvSource, TrainError> {
    let csv = args.path.clone();
    let bad = |problem: String| TrainError::Usage(format!("{}: {problem}", csv.display()));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(&csv)
        .map_err(|error| TrainError::Usage(error.to_string()))?;
    let header = reader.headers().map_err(|error| bad(error.to_string()))?.clone();
    let columns: Vec<&str> = header.iter().map(|column| column.trim_start_matches('\u{feff}')).collect();
    let column = |given: &Option<String>, usual: &[&str], option: &str, what: &str| match given {
        Some(name) => Ok(name.clone()),
        None => usual
            .iter()
            .find_map(|usual| columns.iter().find(|column| column.eq_ignore_ascii_case(usual)))
            .map(|&column| column.to_owned())
            .ok_or_else(|| {
                bad(format!("which column is {what}? Say {option} with one of: {}", columns.join(", ")))
            }),
    };
    let id = column(&args.id, &ID_COLUMNS, "--id", "the file's name")?;
    let label = column(&args.label, &LABEL_COLUMNS, "--label", "the class")?;
    let at = columns
        .iter()
        .position(|column| **column == id)
        .ok_or_else(|| bad(format!("there is no column `{id}`; its columns: {}", columns.join(", "))))?;
    let first = match reader.records().next() {
        Some(record) => record.map_err(|error| bad(error.to_string()))?,
        None => return Err(bad("it has no rows".into())),
    };
    let first = first.get(at).unwrap_or_default();
    let beside = csv.parent().unwrap_or(Path::new(""));
    let folders = match &args.images {
        Some(folder) => vec![folder.clone()],
        None => IMAGE_FOLDERS.iter().map(|name| beside.join(name)).collect(),
    };
    for images in &folders {
        for extension in EXTENSIONS {
            let name = if extension.is_empty() { first.to_owned() } else { format!("{first}.{extension}") };
            if images.join(name).is_file() {
                let (images, extension) = (images.clone(), extension.to_owned());
                return Ok(CsvSource { csv, images, id, label, extension });
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
fn text(found: &Found, base: &Path) -> String {
    let quoted = |path: &Path| toml::Value::String(relative(path, base)).to_string();
    let named = |name: &str| toml::Value::String(name.to_owned()).to_string();
    let data = match found {
        Found::Folder { root, test } => {
            let test = match test {
                Some(test) => format!("test_folder = {}   # only looked at to measure", quoted(test)),
                None => "# test_folder = \"test\"            # without it [split] takes the test part from the data".into(),
            };
            format!("folder = {}   # a folder per class\n{test}", quoted(root))
        }
        Found::Csv(source) => format!(
            "csv = {}\nimages = {}   # the folder that the ids are relative to\nid = {}   # the column with the file's name\nlabel = {}   # the column with the class\nextension = {}   # appended to the id",
            quoted(&source.csv),
            quoted(&source.images),
            named(&source.id),
            named(&source.label),
            named(&source.extension)
        ),
    };
    format!("{HEADER}\n[data]\n{data}\n{REST}")
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

const REST: &str = r#"# class_order = "sorted"          # numbers of the classes: by name, or "appearance"
# on_error = "stop"               # an unreadable photo: list them all and stop, or "skip"
# max_pixels = 200000000          # larger photos are refused

# How the test part is drawn: as scikit-learn's StratifiedShuffleSplit with random_state = seed.
[split]
test_size = 0.1                   # a share, or a whole number of photos
seed = 0

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

# The head: `headstock heads` lists them, `headstock heads linear` shows the keys of one.
[head]
kind = "linear"
"#;
