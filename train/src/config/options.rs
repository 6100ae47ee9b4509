//! The keys of `headstock.toml` and their defaults.

use std::path::PathBuf;

use headstock_heads::CalibrationMethod;
use headstock_inference::{BackboneOptions, DecodeOptions};
use headstock_loader::{Augment, ClassOrder, ColorProfiles, DecodeMode, Gray16, TruncatedFiles};
use headstock_split::TestSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Table;

use super::TuneOptions;

/// The version of the config format.
pub const VERSION: u32 = 1;

/// The contents of `headstock.toml`. Paths are relative to the file, or to your home folder if they begin with
/// `~/`.
///
/// An unknown key is an error that names the most similar known key. `--set KEY=VALUE` overrides any key, as
/// in `--set head.C=0.01`. The value is parsed as TOML; if it is not TOML, or the key wants a text, it is a
/// string. `--head svm` is short for `--set head.kind=svm`; a head other than the one in the file drops the
/// other keys of `[head]`.
///
/// The number of threads is not a key but an option of the program, `--threads N`; the default is all cores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Version of the config format: 1.
    pub version: u32,
    /// How the logits of the head are turned into probabilities.
    ///
    /// `train` fits the head again in five folds of the training photos (fewer if a class has fewer photos)
    /// and calibrates on the photos that were held out. The head of the run is fitted on all training photos.
    /// All views of a photo are in the same fold. If calibration does not lower the log-loss of held-out
    /// photos, or raises their calibration error, it is dropped, with a message. If a class has only one
    /// training photo, there is no calibration, with a message.
    ///
    /// The held-out photos also give the scores of conformal sets: `predict --coverage 0.9` prints for each
    /// photo classes that contain the true one with probability 0.9, on average over photos like the training
    /// photos.
    #[serde(default)]
    pub calibration: CalibrationMethod,
    /// Where the photos and labels are, or precomputed features.
    #[serde(default)]
    pub data: DataOptions,
    /// How the test set is drawn from data that does not define one.
    #[serde(default)]
    pub split: SplitOptions,
    /// The pretrained network that computes features from photos. Not allowed with `data.features`.
    #[serde(default)]
    pub backbone: Option<BackboneOptions>,
    /// The feature cache, and how many augmented views of each photo are used.
    #[serde(default)]
    pub features: FeatureOptions,
    /// Augmentations of training photos.
    #[serde(default, skip_serializing_if = "Augment::is_empty")]
    pub augment: Augment,
    /// Fine-tuning of the backbone. Without this section the backbone is frozen.
    #[serde(default, skip_serializing_if = "TuneOptions::is_off")]
    pub tune: TuneOptions,
    /// The classifier on top of the features. `kind` is the name of a head, `"linear"` if it is left out; the
    /// other keys belong to that head. `headstock heads NAME` lists them with their defaults.
    #[serde(default)]
    #[schemars(with = "Map<String, Value>")]
    pub head: Table,
}

impl Options {
    /// The options as a TOML file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("options are tables of TOML values")
    }
}

/// Where the photos and labels come from.
///
/// Exactly one of `folder`, `csv`, `metadata`, `coco`, `parquet`, `webdataset` and `features` must be given.
/// Photos are JPEG, PNG, WebP, GIF (the first frame), BMP, TIFF or PNM, recognized by their content, and HEIC or AVIF if the
/// program is built with the feature `heif`. Their EXIF orientation is applied; gray becomes RGB, transparency
/// is composited over white, CMYK and 16-bit RGB are converted as Pillow does; 16-bit gray needs the key `gray16`.
///
/// Inconsistent data is an error that names the file and the line: an id or a link that leads out of the
/// folder of the photos, a class without photos, a single class, a missing column, a photo that is listed
/// twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataOptions {
    /// The name of the data source. It is needed only for a source that a program adds and that has no key of
    /// its name: `csv = "labels.csv"` means `kind = "csv"`. The other keys belong to the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The keys of the data source with their values, which a config has beside the others.
    #[serde(flatten, skip_deserializing)]
    #[schemars(skip)]
    pub source: Table,
    /// A file of precomputed features `[N, F]` with labels `[N]` in place of photos: `.npz`, `.npy` with a
    /// CSV of the same name beside it, `.safetensors` or `.parquet`. No backbone is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<PathBuf>,
    /// How classes are numbered: `"sorted"`, by name in the order of bytes, or `"appearance"`, by first
    /// appearance in the data.
    pub class_order: ClassOrder,
    /// What happens if a photo, a row or a class of the data cannot be used.
    pub on_error: OnError,
    /// Minimum number of training photos of a class. Classes with fewer are left out, with a message: with 1,
    /// folders without photos; with 2, also classes with one photo, which cannot be both trained on and tested.
    /// The default is 0: no class is left out, and a class without photos is an error.
    #[serde(skip_serializing_if = "is_zero_samples")]
    #[schemars(!skip_serializing_if)]
    pub min_samples: usize,
    /// Whether links in folders of photos may lead to photos elsewhere. If not, such a link is an error.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(!skip_serializing_if)]
    pub follow_links: bool,
    /// Maximum number of pixels of a photo. Larger photos are refused by their header, because a small file
    /// can decode to gigabytes. Photos whose features are cached are not checked again. The default is 200
    /// million.
    pub max_pixels: u64,
    /// Whether JPEGs may be decoded at a reduced size.
    #[serde(skip_serializing_if = "DecodeMode::is_exact")]
    #[schemars(!skip_serializing_if)]
    pub decode: DecodeMode,
    /// What happens to JPEGs and PNGs that end too early. A line of the log counts those that are used.
    #[serde(skip_serializing_if = "TruncatedFiles::is_error")]
    #[schemars(!skip_serializing_if)]
    pub truncated: TruncatedFiles,
    /// What happens to the colors of photos with an embedded color profile.
    #[serde(skip_serializing_if = "ColorProfiles::is_ignore")]
    #[schemars(!skip_serializing_if)]
    pub color: ColorProfiles,
    /// How 16-bit gray photos become 8-bit.
    #[serde(skip_serializing_if = "Gray16::is_error")]
    #[schemars(!skip_serializing_if)]
    pub gray16: Gray16,
}

impl Default for DataOptions {
    /// The values of the keys that `[data]` of the config does not set. The source of the images has no
    /// default.
    fn default() -> Self {
        let decode_options = DecodeOptions::default();
        Self {
            kind: None,
            source: Table::new(),
            features: None,
            class_order: ClassOrder::default(),
            on_error: OnError::default(),
            min_samples: 0,
            follow_links: false,
            max_pixels: decode_options.max_pixels,
            decode: decode_options.decode,
            truncated: decode_options.truncated,
            color: decode_options.color,
            gray16: decode_options.gray16,
        }
    }
}

/// What happens if a photo, a row or a class of the data cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The command stops: for a row without a class or a file, an entry that is listed twice, a class without
    /// photos, a test photo of a class without training photos, and unreadable photos, which are listed. Files that are not photos, too large or truncated
    /// are found before the network runs; a photo that is damaged inside stops the command later, and
    /// features computed until then stay in the cache.
    #[default]
    Stop,
    /// What cannot be used is left out, with a message and its number.
    Skip,
}

/// How the test set is chosen.
///
/// Not used if the data defines its own split: folders or shards called `train` and `test`, or
/// `data.test_folder` and the like. The split is drawn over all listed samples before unreadable ones are
/// skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SplitOptions {
    /// How the samples of the test set are drawn.
    pub method: SplitMethod,
    /// Size of the test set: a fraction between 0 and 1 of the samples, or a whole number of them. With
    /// `method = "group"` it is a fraction or number of groups. The default is 0.1.
    ///
    /// With 0, all photos are trained on, also those of a test set that the data defines. The figures of the run
    /// are then those of a cross-validation on all photos, in `folds` folds: each photo is predicted by a head
    /// that was fitted without its fold. Groups of `data.group` stay together. Not possible with `[tune]`.
    pub test_size: TestSize,
    /// Random seed of the split: scikit-learn's `random_state`.
    pub seed: u32,
    /// Number of folds, at least 2, of `method = "stratified-k-fold"` (default 5) and `"group"`, and of the
    /// cross-validation with `test_size = 0` (default 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    /// With folds: the index of the fold that is the test set, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub fold: u32,
    /// With `method = "predefined"`: the column or field that says `train`, `validation` or `test`. The
    /// default is `"split"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Whether near-duplicate photos are kept together: all in the training set or all in the test set, and
    /// in the same fold of `compare`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub group_duplicates: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero_samples(value: &usize) -> bool {
    *value == 0
}

/// Default of `split.folds`.
pub(crate) const DEFAULT_FOLDS: u32 = 5;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl SplitOptions {
    /// Whether all samples are trained on.
    #[must_use]
    pub fn has_no_test_set(&self) -> bool {
        self.test_size.is_zero()
    }
}

impl Default for SplitOptions {
    /// The values of the keys that `[split]` of the config does not set: a tenth of the samples, drawn at
    /// random in proportion to the classes, are for testing.
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

/// How the samples of the test set are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SplitMethod {
    /// `test_size` of the samples, each class in proportion: scikit-learn's `StratifiedShuffleSplit`.
    StratifiedShuffle,
    /// Fold number `fold` of `folds`: scikit-learn's `StratifiedKFold` with shuffling.
    StratifiedKFold,
    /// `test_size` of the groups in `data.group`: scikit-learn's `GroupShuffleSplit`. With `folds`, fold
    /// number `fold` of its `StratifiedGroupKFold`.
    Group,
    /// As the column or field `column` says.
    Predefined,
    /// Each photo by a hash of `seed` and its id, or of its group's name: adding or removing photos does not
    /// move others.
    Hash,
}

/// The feature cache, and the number of augmented views.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureOptions {
    /// Folder of the cache for features, activations and image signatures. Several programs may share it. The
    /// default is `".headstock"`.
    pub cache: PathBuf,
    /// Number of augmented views of each training photo, in addition to the one without augmentation; at most
    /// 1000. Needs `[augment]`.
    pub views: u32,
}

impl Default for FeatureOptions {
    fn default() -> Self {
        Self { cache: PathBuf::from(".headstock"), views: 0 }
    }
}
