//! A small data set and the command, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use redb::{ConcurrencyMode, Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use tempfile::TempDir;

pub(crate) const CLASSES: [&str; 3] = ["dress", "hat", "shoes"];

/// The files of a run that are the same bytes whenever the settings are.
pub(crate) const SAME_BYTES: [&str; 3] = ["model.safetensors", "split.csv", "predictions.csv"];

/// What a command left behind.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The last line of stdout, as `--json` has it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// Fails unless the command ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless the command ended with `code` and a message that holds all of `parts`.
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
    /// With so many photos of each class, `photos/CLASS/N.jpg`.
    pub(crate) fn new(photos: usize) -> Self {
        let project = Self::empty();
        for class in CLASSES {
            for number in 0..photos {
                project.add(class, number);
            }
        }
        project.weights("backbone");
        project.write("headstock.toml", &Self::config("folder = \"photos\""));
        project
    }

    /// With nothing in it.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// Without photos: features made elsewhere, those of `reference/NAME.npz`, as `x.npz`. Its commands take milliseconds.
    pub(crate) fn given(name: &str) -> Self {
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
        fs::create_dir_all(path.parent().expect("it lies in the project")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Photo `number` of `class` in the demo, as `photos/CLASS/NUMBER.jpg`.
    pub(crate) fn add(&self, class: &str, number: usize) {
        self.copy(class, number, &format!("photos/{class}/{number:02}.jpg"));
    }

    /// Photo `number` of each class, as `FOLDER/CLASS/new.jpg`: new to a project of fewer photos.
    pub(crate) fn add_later(&self, folder: &str, number: usize) {
        for class in CLASSES {
            self.copy(class, number, &format!("{folder}/{class}/new.jpg"));
        }
    }

    fn copy(&self, class: &str, number: usize, name: &str) {
        let target = self.path(name);
        fs::create_dir_all(target.parent().expect("it lies in a class")).expect("a folder");
        fs::copy(demo_photo(class, number), target).expect("a photo");
    }

    /// The bundled weights under `name`, with a record of small photos.
    pub(crate) fn weights(&self, name: &str) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("a folder");
        let bundled = demo().join("backbone/model.safetensors");
        let here = folder.join("model.safetensors");
        if fs::hard_link(&bundled, &here).is_err() {
            fs::copy(&bundled, &here).expect("the weights");
        }
        let record = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.875,
            "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}"#;
        fs::write(folder.join("config.json"), record).expect("a record");
    }

    /// The command, in this folder, without the machine's variables of the hub.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
        // No terminal anywhere: its width would show in help.
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        for variable in ["HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"] {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        done(&mut self.command(arguments))
    }

    /// How many feature vectors are in the store of this cache, whoever else has it open; none before there is one.
    pub(crate) fn stored(&self, cache: &str) -> u64 {
        const FEATURES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("features");
        let path = self.path(cache).join("features.redb");
        if !path.exists() {
            return 0;
        }
        let mut builder = Database::builder();
        let database = builder.set_concurrency_mode(ConcurrencyMode::MultiWriter).create(path);
        let database = database.unwrap_or_else(|error| panic!("{cache}: {error}"));
        let transaction = database.begin_read().expect("a store can be read");
        match transaction.open_table(FEATURES) {
            Ok(table) => table.len().expect("a number of vectors"),
            Err(redb::TableError::TableDoesNotExist(_)) => 0,
            Err(error) => panic!("{cache}: {error}"),
        }
    }
}

/// Every field of `value` by its path, sorted: `counts.train`, `candidates[].head`.
pub(crate) fn fields(value: &serde_json::Value) -> Vec<String> {
    fn walk(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(object) => {
                let dot = if path.is_empty() { "" } else { "." };
                object.iter().for_each(|(key, value)| walk(value, &format!("{path}{dot}{key}"), found));
            }
            serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                items.iter().for_each(|item| walk(item, &format!("{path}[]"), found));
            }
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found.into_iter().collect()
}

/// The rows of a table below its header, by the header's names.
pub(crate) fn table(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(|row| row.unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

pub(crate) fn done(command: &mut Command) -> Done {
    let output = command.output().expect("the command starts");
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

pub(crate) fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo")
}

pub(crate) fn demo_photo(class: &str, number: usize) -> PathBuf {
    let folder = demo().join("photos/train").join(class);
    let mut photos: Vec<PathBuf> =
        fs::read_dir(folder).expect("the demo").map(|entry| entry.expect("an entry").path()).collect();
    photos.sort();
    photos[number].clone()
}
