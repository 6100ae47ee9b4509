//! Resolved settings: checked, with defaults and absolute paths.

use std::path::Path;

use headstock_backbone::FeatureLayer;
use headstock_heads::{CalibrationMethod, ConfiguredHead, HeadError, HeadKind, Registry};
use headstock_hub::{DownloadProgress, HubError};
use headstock_inference::{BackboneOptions, DecodeOptions};
use headstock_loader::{Augment, ClassOrder};
use headstock_split::TestSize;
use headstock_split::hub_names::{HubKind, name_in_other_notation};
use toml::{Table, Value};

use super::data_source::{DataSourceConfig, fetch_hub_dataset};
use super::keys::nearest_key;
use super::options::DEFAULT_FOLDS;
use super::tune::{AugmentMode, TuneOptions};
use super::validator::Validator;
use super::{
    ConfigError, DataOptions, FeatureOptions, OnError, Options, Registries, SplitMethod, SplitOptions,
    VERSION,
};

/// The default of `head.kind`.
pub(super) const DEFAULT_HEAD: &str = "linear";

/// Maximum of `features.views`.
const MAX_VIEWS: u32 = 1000;

/// The problem with a key that has no meaning for precomputed features.
const NEEDS_IMAGES: &str = "needs photos, but `data.features` has only precomputed features: remove this key";

/// Whether `[backbone]` may be missing where photos are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BackboneRequirement {
    Required,
    Optional,
}

/// A resolved config: all values checked, defaults filled in, paths absolute.
pub struct Settings {
    /// How the logits of the head are turned into probabilities.
    pub calibration: CalibrationMethod,
    /// The source of the samples.
    pub source: DataSourceConfig,
    /// How classes are numbered.
    pub class_order: ClassOrder,
    /// What happens if an image, a row or a class cannot be used.
    pub on_error: OnError,
    /// Minimum number of training images of a class.
    pub min_samples: usize,
    /// Whether links in folders of images may lead out of them.
    pub follow_links: bool,
    /// How images are decoded.
    pub decode: DecodeOptions,
    /// How the test set is chosen.
    pub split: SplitOptions,
    /// The pretrained network; `None` for precomputed features, and where only images are read.
    pub backbone: Option<BackboneOptions>,
    /// The feature cache, and the number of augmented views.
    pub features: FeatureOptions,
    /// Augmentations of training images.
    pub augment: Augment,
    /// Fine-tuning of the backbone.
    pub tune: TuneOptions,
    /// The configured head.
    pub head: Box<dyn ConfiguredHead>,
}

impl Settings {
    /// Checks all options, fills in defaults and makes paths relative to `base` absolute. `origin` is the
    /// name of the config file for messages, `registries` are the known heads and data sources; `requirement`
    /// says whether `[backbone]` may be missing.
    pub(super) fn resolve(
        options: Options,
        origin: &str,
        base: &Path,
        registries: &Registries,
        requirement: BackboneRequirement,
    ) -> Result<Self, ConfigError> {
        let Options { calibration, data, mut split, mut backbone, mut features, augment, tune, head, .. } =
            options;
        let validator = Validator { origin };
        if split.method == SplitMethod::Predefined {
            split.column.get_or_insert_with(|| "split".to_owned());
        }
        let source = validator.resolve_source(&data, base, &registries.sources)?;
        let has_images = matches!(source, DataSourceConfig::Images(_));
        match &mut backbone {
            Some(backbone) => {
                let problem = "does nothing with `data.features`: remove one of the two";
                validator.check(has_images, "backbone", problem)?;
                let weights = &backbone.weights;
                if let Some(name) = name_in_other_notation(weights, HubKind::Weights) {
                    let problem = format!("is \"{weights}\": did you mean \"{name}\"?");
                    return Err(validator.key_error("backbone.weights", problem));
                }
                if !weights.starts_with("hf://") {
                    backbone.weights =
                        validator.absolute_path("backbone.weights", Path::new(&backbone.weights), base)?;
                }
            }
            None => {
                let problem = "is missing: give the folder or the .safetensors file of the pretrained model, \
                               or its name on the Hugging Face hub, such as hf://timm/resnet50.a1_in1k";
                let may_be_missing = !has_images || requirement == BackboneRequirement::Optional;
                validator.check(may_be_missing, "backbone.weights", problem)?;
            }
        }
        features.cache = validator.absolute_path("features.cache", &features.cache, base)?.into();
        validator.check_split(&split, &source)?;
        augment.check().map_err(|error| {
            let problem = format!("is {}: {}", error.value, error.expected);
            validator.key_error(&format!("augment.{}", error.key), problem)
        })?;
        let n_views = features.views;
        let problem = format!("is {n_views}: it must be at most {MAX_VIEWS} views of each photo");
        validator.check(n_views <= MAX_VIEWS, "features.views", problem)?;
        validator.check(n_views == 0 || has_images, "features.views", NEEDS_IMAGES)?;
        let problem = "asks for augmented views, but [augment] is empty: all views would be the same; add \
                       augmentations to [augment], or set `features.views = 0`";
        validator.check(n_views == 0 || !augment.is_empty(), "features.views", problem)?;
        let head = validator.resolve_head(head, &registries.heads)?;
        let mut settings = Self {
            calibration,
            source,
            class_order: data.class_order,
            on_error: data.on_error,
            min_samples: data.min_samples,
            follow_links: data.follow_links,
            decode: DecodeOptions {
                max_pixels: data.max_pixels,
                decode: data.decode,
                truncated: data.truncated,
                color: data.color,
                gray16: data.gray16,
            },
            split,
            backbone,
            features,
            augment,
            tune,
            head,
        };
        validator.check_tune(&mut settings, &registries.heads)?;
        Ok(settings)
    }

    /// The options that resolve to these settings, with all defaults and absolute paths, so that a run does
    /// not depend on later defaults.
    #[must_use]
    pub fn to_options(&self) -> Options {
        let (mut kind, mut source, mut features) = (None, Table::new(), None);
        match &self.source {
            DataSourceConfig::Images(images) => {
                source = images.table();
                // Most sources are named by a key of theirs.
                kind = (!source.contains_key(images.kind())).then(|| images.kind().to_owned());
            }
            DataSourceConfig::Features(path) => features = Some(path.clone()),
        }
        let mut head = Table::from_iter([("kind".to_owned(), self.head.kind().into())]);
        head.extend(self.head.table());
        let DecodeOptions { max_pixels, decode, truncated, color, gray16 } = self.decode;
        let (class_order, on_error) = (self.class_order, self.on_error);
        let (min_samples, follow_links) = (self.min_samples, self.follow_links);
        Options {
            version: VERSION,
            calibration: self.calibration,
            data: DataOptions {
                kind,
                source,
                features,
                class_order,
                on_error,
                min_samples,
                follow_links,
                max_pixels,
                decode,
                truncated,
                color,
                gray16,
            },
            split: self.split.clone(),
            backbone: self.backbone.clone(),
            features: self.features.clone(),
            augment: self.augment.clone(),
            tune: self.tune.clone(),
            head,
        }
    }

    /// The settings with a frozen backbone, for commands that do not fine-tune: the config section `[tune]`
    /// is reset to its defaults, with a message if it asked for fine-tuning.
    #[must_use]
    pub fn with_frozen_backbone(mut self) -> Self {
        if !self.tune.is_off() {
            tracing::info!(
                "this command does not fine-tune the backbone: the section [tune] of the config file is not \
                 used"
            );
            self.tune = TuneOptions::default();
        }
        self
    }

    /// Downloads the data sets of the Hugging Face hub that the settings name, and replaces the branch in
    /// their names by its current commit, so that the settings of a run always mean the same images. Other
    /// data stays unchanged.
    ///
    /// # Errors
    /// [`HubError`] if the download fails.
    pub fn pin_dataset_revisions(&mut self, progress: &dyn DownloadProgress) -> Result<(), HubError> {
        let DataSourceConfig::Images(source) = &mut self.source else { return Ok(()) };
        for name in source.hub_datasets() {
            *name = fetch_hub_dataset(name, progress)?.origin;
        }
        Ok(())
    }

    /// The same settings with the head `kind`, configured by `table`: to train the best head of a comparison.
    ///
    /// # Errors
    /// [`HeadError`] if the table is invalid for that head.
    ///
    /// # Panics
    /// If there is no head `kind`.
    pub fn with_head(self, kind: &str, table: &Table, heads: &Registry) -> Result<Self, HeadError> {
        let head = heads.get(kind).expect("a head that was compared is known").configure(table.clone())?;
        Ok(Self { head, ..self })
    }
}

impl Validator<'_> {
    /// Checks the config section `[split]`, which says how the test set is chosen: values in range, keys that
    /// fit the method, and a method that is possible for the `source` of the data.
    fn check_split(&self, split: &SplitOptions, source: &DataSourceConfig) -> Result<(), ConfigError> {
        let SplitOptions { method, test_size, folds, fold, group_duplicates, .. } = *split;
        let test_size_problem = match test_size {
            _ if split.has_no_test_set() => String::new(),
            TestSize::Fraction(fraction) if !(fraction > 0.0 && fraction < 1.0) => {
                format!("is {fraction}: a fraction must be between 0 and 1; or give a whole number of photos")
            }
            TestSize::Count(count) if method == SplitMethod::Hash => {
                format!("is {count}: with `split.method = \"hash\"` it must be a fraction, such as 0.1")
            }
            _ => String::new(),
        };
        self.check(test_size_problem.is_empty(), "split.test_size", test_size_problem)?;
        let uses_folds =
            method == SplitMethod::StratifiedKFold || method == SplitMethod::Group && folds.is_some();
        let problem = "needs `split.method = \"stratified-k-fold\"` or \"group\", or `split.test_size = 0`: set one \
                       of them, or remove `split.folds`";
        let has_folds = uses_folds || split.has_no_test_set();
        self.check(folds.is_none() || has_folds, "split.folds", problem)?;
        let n_folds = folds.unwrap_or(DEFAULT_FOLDS);
        self.check(n_folds >= 2, "split.folds", format!("is {n_folds}: at least 2 folds are needed"))?;
        let problem =
            "needs folds: set `split.method = \"stratified-k-fold\"`, or \"group\" and `split.folds`";
        self.check(fold == 0 || uses_folds, "split.fold", problem)?;
        let problem = format!("is {fold}: the {n_folds} folds are numbered 0 to {}", n_folds - 1);
        self.check(fold < n_folds, "split.fold", problem)?;
        let problem = "needs `split.method = \"predefined\"`: set it, or remove `split.column`";
        let is_predefined = method == SplitMethod::Predefined;
        self.check(split.column.is_none() || is_predefined, "split.column", problem)?;
        match source {
            DataSourceConfig::Images(source) => {
                let problem = "is \"group\", but `data.group` is missing: set it to the column with the \
                               group of each photo";
                self.check(method != SplitMethod::Group || source.has_groups(), "split.method", problem)
            }
            DataSourceConfig::Features(_) => {
                let problem =
                    "is \"predefined\", but `data.features` has no split column: choose a different method";
                self.check(!is_predefined, "split.method", problem)?;
                self.check(!group_duplicates, "split.group_duplicates", NEEDS_IMAGES)
            }
        }
    }

    /// Checks the section `[tune]` on fine-tuning, also against the other settings and the head, which must
    /// be trainable by gradients if the backbone is fine-tuned. Fills in the defaults of `[tune]`. `heads`
    /// are the known heads, for the advice.
    fn check_tune(&self, settings: &mut Settings, heads: &Registry) -> Result<(), ConfigError> {
        let tune = &mut settings.tune;
        tune.resolve().map_err(|(key, problem)| self.key_error(&format!("tune.{key}"), problem))?;
        if tune.is_off() {
            // Unused settings are checked but not written.
            *tune = TuneOptions::default();
            return Ok(());
        }
        let Some(backbone) = &settings.backbone else {
            let problem = "needs photos and a backbone, but `data.features` has neither: remove [tune]";
            return Err(self.key_error("tune.from", problem));
        };
        let problem = "cannot be used with `split.test_size = 0`: the figures of a run without a test set need a \
                       training for each fold; choose a small test set, or remove [tune]";
        self.check(!settings.split.has_no_test_set(), "tune.from", problem)?;
        let problem =
            "needs `backbone.layer = \"avgpool\"`: fine-tuning trains all stages up to the last one";
        self.check(backbone.layer == FeatureLayer::Avgpool, "tune.from", problem)?;
        let problem = "asks for new augmentation in each epoch, but [augment] is empty: all views would be \
                       the same; add augmentations to [augment], or set `tune.augment = \"cached\"`";
        let is_augmented = tune.augment != AugmentMode::PerEpoch || !settings.augment.is_empty();
        self.check(is_augmented, "tune.augment", problem)?;
        let known: Vec<&str> =
            heads.iter().filter(|kind| kind.is_differentiable()).map(HeadKind::name).collect();
        let problem = format!(
            "needs a head that is trained by gradients, which `{}` is not: choose from {}",
            settings.head.kind(),
            known.join(", ")
        );
        self.check(settings.head.differentiable().is_some(), "tune.from", problem)
    }

    /// Configures the head that `table`, the config section `[head]`, names by the key `kind`.
    fn resolve_head(
        &self,
        mut table: Table,
        heads: &Registry,
    ) -> Result<Box<dyn ConfiguredHead>, ConfigError> {
        let kind = match table.remove("kind") {
            None => DEFAULT_HEAD.to_owned(),
            Some(Value::String(kind)) => kind,
            Some(value) => {
                return Err(self
                    .key_error("head.kind", format!("is {value}: it must be the name of a head in quotes")));
            }
        };
        let head = heads
            .get(&kind)
            .map_err(|error| self.key_error("head.kind", format!("is \"{kind}\": {error}")))?;
        let known: Vec<String> = head.hyperparameters().into_iter().map(|key| key.name).collect();
        if let Some(key) = table.keys().find(|key| !known.contains(key)) {
            return Err(ConfigError::UnknownKey {
                origin: self.origin.into(),
                key: format!("head.{key}"),
                nearest: format!("head.{}", nearest_key(key, &known)),
                known,
            });
        }
        head.configure(table).map_err(|error| match error {
            HeadError::Parameter { parameter, value, expected } => {
                self.key_error(&format!("head.{parameter}"), format!("is {value}: {expected}"))
            }
            error => self.value_error(error.to_string()),
        })
    }
}
