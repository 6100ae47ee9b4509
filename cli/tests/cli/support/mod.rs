//! A small data set and the command, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use redb::{ConcurrencyMode, Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use tempfile::TempDir;

pub(crate) const CLASSES: [&str; 3] = ["dress", "hat", "shoes"];

/// Files of a run whose bytes depend on the settings and the data only.
pub(crate) const REPRODUCIBLE_FILES: [&str; 3] = ["model.safetensors", "split.csv", "predictions.csv"];

/// Exit status and output of a command.
pub(crate) struct CommandOutput {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    /// The last line of stdout, which is JSON with `--json`.
    pub(crate) fn json(&self) -> serde_json::Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// Fails unless the exit status is 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless the exit status is `code` and stderr contains all of `parts`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

/// A folder with photos of three classes, the bundled backbone at 64 x 64 pixels, and a config.
pub(crate) struct Project {
    folder: TempDir,
}

impl Project {
    /// A project with this number of photos of each class, `photos/CLASS/N.jpg`.
    pub(crate) fn new(n_images: usize) -> Self {
        let project = Self::empty();
        for class in CLASSES {
            for number in 0..n_images {
                project.add_image(class, number);
            }
        }
        project.add_weights("backbone");
        project.write("headstock.toml", &Self::config("folder = \"photos\""));
        project
    }

    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A project without photos, with the features `reference/NAME.npz` as `x.npz`. Its commands take
    /// milliseconds.
    pub(crate) fn with_features(name: &str) -> Self {
        let project = Self::empty();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../reference/{name}.npz"));
        fs::copy(path, project.path("x.npz")).expect("a copy");
        project.write("headstock.toml", "version = 1\n[data]\nfeatures = \"x.npz\"\n");
        project
    }

    pub(crate) fn config(data: &str) -> String {
        format!(
            "version = 1\n[data]\n{data}\n[split]\ntest_size = 0.25\n[backbone]\nweights = \"backbone\"\n"
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in the project")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Copies image `number` of `class` in the demo to `photos/CLASS/NUMBER.jpg`.
    pub(crate) fn add_image(&self, class: &str, number: usize) {
        self.copy_image(class, number, &format!("photos/{class}/{number:02}.jpg"));
    }

    /// Copies image `number` of each class to `FOLDER/CLASS/new.jpg`.
    pub(crate) fn add_new_images(&self, folder: &str, number: usize) {
        for class in CLASSES {
            self.copy_image(class, number, &format!("{folder}/{class}/new.jpg"));
        }
    }

    fn copy_image(&self, class: &str, number: usize, name: &str) {
        let target = self.path(name);
        fs::create_dir_all(target.parent().expect("it is in a class")).expect("a folder");
        fs::copy(demo_image(class, number), target).expect("a photo");
    }

    /// Links the bundled weights as `name`, with a preprocessing record of 64 x 64 pixels.
    pub(crate) fn add_weights(&self, name: &str) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("a folder");
        let bundled = demo_dir().join("backbone/model.safetensors");
        let here = folder.join("model.safetensors");
        if fs::hard_link(&bundled, &here).is_err() {
            fs::copy(&bundled, &here).expect("the weights");
        }
        let record = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.875,
            "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}"#;
        fs::write(folder.join("config.json"), record).expect("a record");
    }

    /// The command in this folder, without the hub's variables of the environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
        // Without a terminal: the width of help depends on it.
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        for variable in ["HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"] {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> CommandOutput {
        run_command(&mut self.command(arguments))
    }

    /// Number of feature vectors in this cache, which other processes may have open; 0 if it does not exist.
    pub(crate) fn n_cached(&self, cache: &str) -> u64 {
        const FEATURES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("features");
        let path = self.path(cache).join("features.redb");
        if !path.exists() {
            return 0;
        }
        let mut builder = Database::builder();
        let database = builder.set_concurrency_mode(ConcurrencyMode::MultiWriter).create(path);
        let database = database.unwrap_or_else(|error| panic!("{cache}: {error}"));
        let transaction = database.begin_read().expect("the cache can be read");
        match transaction.open_table(FEATURES) {
            Ok(table) => table.len().expect("the table has a length"),
            Err(redb::TableError::TableDoesNotExist(_)) => 0,
            Err(error) => panic!("{cache}: {error}"),
        }
    }
}

/// Sorted paths of all fields of `value`: `counts.train`, `candidates[].head`.
pub(crate) fn field_paths(value: &serde_json::Value) -> Vec<String> {
    fn collect(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(object) => {
                let dot = if path.is_empty() { "" } else { "." };
                object.iter().for_each(|(key, value)| collect(value, &format!("{path}{dot}{key}"), found));
            }
            serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                items.iter().for_each(|item| collect(item, &format!("{path}[]"), found));
            }
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    collect(value, "", &mut found);
    found.into_iter().collect()
}

/// The rows of a CSV, by column name.
pub(crate) fn parse_csv(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(|row| row.unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

pub(crate) fn run_command(command: &mut Command) -> CommandOutput {
    let output = command.output().expect("the command starts");
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

pub(crate) fn demo_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo")
}

pub(crate) fn demo_image(class: &str, number: usize) -> PathBuf {
    let folder = demo_dir().join("photos/train").join(class);
    let mut images: Vec<PathBuf> =
        fs::read_dir(folder).expect("the demo").map(|entry| entry.expect("an entry").path()).collect();
    images.sort();
    images[number].clone()
}
