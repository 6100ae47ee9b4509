//! Test fixtures: small data sets.

use std::fs;
use std::path::PathBuf;

use headstock_heads::Registry;
use headstock_loader::encode::png;
use headstock_testing::{bundled_weights, reference_path, synthetic_image};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

use crate::config::{Config, ConfigError, Settings};
use crate::samples::{SampleInputs, SampleSet, Subset};

/// The temporary folder of a test.
pub(crate) struct TestFolder(TempDir);

impl TestFolder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, creating its folder; returns its path.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes synthetic image `number`, 48 x 40, as PNG.
    pub(crate) fn write_image(&self, name: &str, number: u64) -> PathBuf {
        self.write(name, png(&synthetic_image(number, 48, 40)))
    }

    /// Writes `count` images into `photos`, alternately of the classes `cat` and `dog`.
    pub(crate) fn write_two_classes(&self, count: u64) {
        for number in 0..count {
            self.write_image(
                &format!("photos/{}/{number:02}.png", ["cat", "dog"][number as usize % 2]),
                number,
            );
        }
    }

    /// Writes an image of one gray value, which rotating, cropping and resizing do not change.
    pub(crate) fn write_gray(&self, name: &str, gray: u8) -> PathBuf {
        self.write(name, png(&RgbImage::from_pixel(40, 40, Rgb([gray; 3]))))
    }

    /// Writes `x.npy` with these feature rows, and `x.csv` with the label and the group of each.
    pub(crate) fn write_features(&self, rows: &[Vec<f32>], labels: &[u32], groups: Option<&[u32]>) {
        let shape = format!("({}, {})", rows.len(), rows[0].len());
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut array = b"\x93NUMPY\x01\x00".to_vec();
        array.extend((header.len() as u16).to_le_bytes());
        array.extend(header.as_bytes());
        array.extend(rows.iter().flatten().flat_map(|value| value.to_le_bytes()));
        self.write("x.npy", array);
        let mut table = if groups.is_some() { "label,group\n" } else { "label\n" }.to_owned();
        for (row, label) in labels.iter().enumerate() {
            let group = groups.map_or(String::new(), |groups| format!(",{:04}", groups[row]));
            table += &format!("{label}{group}\n");
        }
        self.write("x.csv", table);
    }

    /// Copies a file of `reference`.
    pub(crate) fn copy_reference(&self, from: &str, to: &str) {
        self.write(to, fs::read(reference_path(from)).unwrap());
    }

    /// Writes the bundled weights to the folder `name`, with a config for small images.
    pub(crate) fn write_backbone(&self, name: &str) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        let (from, to) = (bundled_weights().weights, folder.join("model.safetensors"));
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).unwrap();
        }
        let record = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 32, 32],
            "crop_pct": 0.875, "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}"#;
        fs::write(folder.join("config.json"), record).unwrap();
    }

    /// Resolves a config without `version`, with overrides and the built-in heads.
    pub(crate) fn resolve(
        &self,
        config: &str,
        overrides: &[impl AsRef<str>],
    ) -> Result<Settings, ConfigError> {
        self.resolve_with(config, overrides, Registry::builtin())
    }

    /// Resolves a config without `version`, with overrides and these heads.
    pub(crate) fn resolve_with(
        &self,
        config: &str,
        overrides: &[impl AsRef<str>],
        heads: Registry,
    ) -> Result<Settings, ConfigError> {
        let mut config = Config::parse(&format!("version = 1\n{config}"), "a test", self.0.path())?;
        config.set(overrides)?;
        config.resolve(&heads.into())
    }

    /// The settings of a config with overrides.
    #[track_caller]
    pub(crate) fn settings(&self, config: &str, overrides: &[impl AsRef<str>]) -> Settings {
        self.resolve(config, overrides).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The samples of these settings.
    #[track_caller]
    pub(crate) fn samples(&self, config: &str, overrides: &[impl AsRef<str>]) -> (SampleSet, SampleInputs) {
        SampleSet::read(&self.settings(config, overrides), &()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The message with which these samples are refused.
    #[track_caller]
    pub(crate) fn read_error(&self, config: &str, overrides: &[impl AsRef<str>]) -> String {
        match SampleSet::read(&self.settings(config, overrides), &()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("the samples are not refused"),
        }
    }
}

impl SampleSet {
    /// The ids of a subset, in order.
    pub(crate) fn ids(&self, subset: Subset) -> Vec<&str> {
        self.rows_of(subset).into_iter().map(|row| self.rows[row].id.as_str()).collect()
    }

    /// The class name of each sample.
    pub(crate) fn class_names(&self) -> Vec<&str> {
        self.rows.iter().map(|row| self.classes.name(row.label)).collect()
    }
}
