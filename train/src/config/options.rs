//! What may stand in `headstock.toml`, with the defaults.

use std::path::PathBuf;

use headstock_backbone::{DeviceChoice, FeatureLayer, Precision};
use headstock_heads::CalibrationMethod;
use headstock_loader::{Augment, ClassOrder, DecodeMode, TestSize};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::TuneOptions;

/// The version of the config that is read and written.
pub const VERSION: u32 = 1;

/// The whole file. Field order is the order in which it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// [`VERSION`].
    pub version: u32,
    /// How logits become probabilities.
    #[serde(default)]
    pub calibration: CalibrationMethod,
    /// The photos, or features made elsewhere.
    #[serde(default)]
    pub data: DataOptions,
    /// How the test part is taken from the data, where it has none of its own.
    #[serde(default)]
    pub split: SplitOptions,
    /// What turns photos into features; not there when they were made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<BackboneOptions>,
    /// How features are kept.
    #[serde(default)]
    pub features: FeatureOptions,
    /// What may happen to an augmented view.
    #[serde(default, skip_serializing_if = "Augment::is_empty")]
    pub augment: Augment,
    /// What of the backbone is trained with the head, and how.
    #[serde(default, skip_serializing_if = "TuneOptions::is_off")]
    pub tune: TuneOptions,
    /// `kind`, and the rest of the table as that head takes it.
    #[serde(default)]
    pub head: Table,
}

impl Options {
    /// The file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("options are tables of TOML values")
    }
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataOptions {
    /// A folder with a folder per class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// A CSV with a row per photo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csv: Option<PathBuf>,
    /// Parquet shards: a file, a folder, a pattern, or `hf://datasets/owner/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parquet: Option<String>,
    /// Tar archives: a file, a folder or a pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webdataset: Option<String>,
    /// The folder that the CSV's ids are relative to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<PathBuf>,
    /// The column with the file's name; `id` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The column of a Parquet with the photo; `image` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The column with the class; `label` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The column with the group that a photo belongs to, such as a patient: a group is kept on one side of a fold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Appended to the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
    /// Features `[N, F]` with their labels `[N]` in place of photos: `.npz`, `.npy` with a CSV beside it, `.safetensors` or
    /// `.parquet`, as [`read_features`](crate::feature_file::read_features) reads them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<PathBuf>,
    /// A folder of photos that are only tested on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_folder: Option<PathBuf>,
    /// Parquet shards of photos that are only tested on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_parquet: Option<String>,
    /// Tar archives of photos that are only tested on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_webdataset: Option<String>,
    /// How classes are numbered.
    pub class_order: ClassOrder,
    /// What an unreadable photo does.
    pub on_error: OnError,
    /// Photos of more pixels are not decoded.
    pub max_pixels: u64,
    /// Whether JPEGs may be decoded at a fraction of their size.
    #[serde(skip_serializing_if = "DecodeMode::is_exact")]
    pub decode: DecodeMode,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            folder: None,
            csv: None,
            parquet: None,
            webdataset: None,
            image: None,
            images: None,
            id: None,
            label: None,
            group: None,
            extension: None,
            features: None,
            test_folder: None,
            test_parquet: None,
            test_webdataset: None,
            class_order: ClassOrder::default(),
            on_error: OnError::default(),
            // Twice the largest sensor of a phone; decoded it takes 600 MB.
            max_pixels: 200_000_000,
            decode: DecodeMode::default(),
        }
    }
}

/// What an unreadable photo does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The command stops with a list of all of them: before the long work where a look tells, else when one is met.
    #[default]
    Stop,
    /// It is left out, with a line that says so.
    Skip,
}

/// `[split]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitOptions {
    /// How samples are drawn.
    pub method: SplitMethod,
    /// How large the test part is.
    pub test_size: TestSize,
    /// scikit-learn's `random_state`.
    pub seed: u32,
    /// How many folds there are; 5 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    /// The fold that is tested on, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub fold: u32,
    /// The column that says which part a sample is in; `split` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Whether photos that look the same are kept on one side.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub group_duplicates: bool,
}

/// Folds of a method that deals in folds, where the config does not say how many.
pub(crate) const DEFAULT_FOLDS: u32 = 5;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self {
            method: SplitMethod::StratifiedShuffle,
            test_size: TestSize::Fraction(0.1),
            seed: 0,
            folds: None,
            fold: 0,
            column: None,
            group_duplicates: false,
        }
    }
}

/// How samples are drawn for the test part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitMethod {
    /// scikit-learn's `StratifiedShuffleSplit`.
    StratifiedShuffle,
    /// A fold of scikit-learn's `StratifiedKFold`.
    StratifiedKFold,
    /// Groups whole: scikit-learn's `GroupShuffleSplit`, or with `folds` a fold of its `StratifiedGroupKFold`.
    Group,
    /// As a column of the data says.
    Predefined,
    /// By a hash of the id, or of the group's name: photos that are added move no other.
    Hash,
}

/// `[backbone]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneOptions {
    /// A directory, a `.safetensors` file, or `hf://owner/name@revision`.
    pub weights: String,
    /// Where features are taken.
    #[serde(default)]
    pub layer: FeatureLayer,
    /// Where the network runs.
    #[serde(default)]
    pub device: DeviceChoice,
    /// What it computes in.
    #[serde(default)]
    pub precision: Precision,
}

/// `[features]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureOptions {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// Augmented views kept per training photo, beside the plain one.
    pub views: u32,
}

impl Default for FeatureOptions {
    fn default() -> Self {
        Self { cache: PathBuf::from(".headstock"), views: 0 }
    }
}
