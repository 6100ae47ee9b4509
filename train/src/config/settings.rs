//! Resolved settings: checked, with defaults and absolute paths.

use std::path::Path;

use headstock_backbone::FeatureLayer;
use headstock_heads::{ConfiguredHead, HeadError, HeadKind, Registry};
use headstock_hub::{DownloadProgress, HubError};
use headstock_split::TestSize;
use toml::Value;

use super::data_source::{DataSourceConfig, fetch_hub_dataset};
use super::keys::nearest_key;
use super::options::DEFAULT_FOLDS;
use super::tune::{AugmentMode, TuneOptions};
use super::validator::Validator;
use super::{ConfigError, Options, Registries, SplitMethod, SplitOptions};

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
    /// The options with defaults and absolute paths, as they are written to the folder of a run; resolving
    /// them again gives the same settings.
    pub options: Options,
    /// The source of the samples.
    pub source: DataSourceConfig,
    /// The configured head.
    pub head: Box<dyn ConfiguredHead>,
}

impl Settings {
    /// Checks all options, fills in defaults and makes paths relative to `base` absolute. `origin` is the
    /// name of the config file for messages, `registries` are the known heads and data sources; `requirement`
    /// says whether `[backbone]` may be missing.
    pub(super) fn resolve(
        mut options: Options,
        origin: &str,
        base: &Path,
        registries: &Registries,
        requirement: BackboneRequirement,
    ) -> Result<Self, ConfigError> {
        let validator = Validator::new(origin);
        if options.split.method == SplitMethod::Predefined {
            options.split.column.get_or_insert_with(|| "split".to_owned());
        }
        let Registries { heads, sources } = registries;
        let source = validator.resolve_source(&mut options.data, &options.split, base, sources)?;
        match (&source, &mut options.backbone) {
            (DataSourceConfig::Features(_), Some(_)) => {
                return Err(validator
                    .key_error("backbone", "does nothing with `data.features`: remove one of the two"));
            }
            (DataSourceConfig::Features(_), None) => {}
            (_, None) if requirement == BackboneRequirement::Required => {
                let problem = "is missing: give the folder or the .safetensors file of the pretrained model, \
                               or its name on the Hugging Face hub, such as hf://timm/resnet50.a1_in1k";
                return Err(validator.key_error("backbone.weights", problem));
            }
            (_, Some(backbone)) if !backbone.weights.starts_with("hf://") => {
                backbone.weights =
                    validator.absolute_path("backbone.weights", Path::new(&backbone.weights), base)?;
            }
            _ => {}
        }
        options.features.cache =
            validator.absolute_path("features.cache", &options.features.cache, base)?.into();
        validator.check_split(&options.split, &source)?;
        options.augment.check().map_err(|error| {
            let problem = format!("is {}: {}", error.value, error.expected);
            validator.key_error(&format!("augment.{}", error.key), problem)
        })?;
        if options.features.views > MAX_VIEWS {
            let problem =
                format!("is {}: it must be at most {MAX_VIEWS} views of each photo", options.features.views);
            return Err(validator.key_error("features.views", problem));
        }
        if options.features.views > 0 {
            if matches!(source, DataSourceConfig::Features(_)) {
                return Err(validator.key_error("features.views", NEEDS_IMAGES));
            }
            if options.augment.is_empty() {
                let problem = "asks for augmented views, but [augment] is empty: all views would be the \
                               same; add augmentations to [augment], or set `features.views = 0`";
                return Err(validator.key_error("features.views", problem));
            }
        }
        let head = validator.resolve_head(&mut options, heads)?;
        validator.check_tune(&mut options, head.as_ref(), heads)?;
        Ok(Self { options, source, head })
    }
}

impl Settings {
    /// The settings with a frozen backbone, for commands that do not fine-tune: the config section `[tune]`
    /// is reset to its defaults, with a message if it asked for fine-tuning.
    #[must_use]
    pub fn with_frozen_backbone(mut self) -> Self {
        if !self.options.tune.is_off() {
            tracing::info!(
                "this command does not fine-tune the backbone: the section [tune] of the config file is not \
                 used"
            );
            self.options.tune = TuneOptions::default();
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
        let DataSourceConfig::Images { main, .. } = &mut self.source else { return Ok(()) };
        let mut names = main.source.hub_datasets();
        if names.is_empty() {
            return Ok(());
        }
        for name in &mut names {
            **name = fetch_hub_dataset(name, progress)?.origin;
        }
        self.options.data.source = main.source.table();
        self.source = main.clone().with_test_data();
        Ok(())
    }

    /// The same settings with the head `kind`, configured by `table`: to train the best head of a comparison.
    ///
    /// # Errors
    /// [`HeadError`] if the table is invalid for that head.
    ///
    /// # Panics
    /// If there is no head `kind`.
    pub fn with_head(&self, kind: &str, table: &toml::Table, heads: &Registry) -> Result<Self, HeadError> {
        let head = heads.get(kind).expect("a head that was compared is known").configure(table.clone())?;
        let mut options = self.options.clone();
        options.head = complete_head_table(head.as_ref());
        Ok(Self { options, source: self.source.clone(), head })
    }
}

/// The complete `[head]` table of a configured head: `kind` and all hyperparameters, including the defaults.
/// The config of a run contains it, so that the run does not depend on later defaults.
fn complete_head_table(head: &dyn ConfiguredHead) -> toml::Table {
    let mut table = toml::Table::from_iter([("kind".to_owned(), Value::String(head.kind().to_owned()))]);
    table.extend(head.table());
    table
}

impl Validator<'_> {
    /// Checks the config section `[split]`, which says how the test set is chosen: values in range, keys that
    /// fit the method, and a method that is possible for the `source` of the data.
    fn check_split(&self, split: &SplitOptions, source: &DataSourceConfig) -> Result<(), ConfigError> {
        let SplitOptions { method, test_size, folds, fold, group_duplicates, .. } = *split;
        match test_size {
            TestSize::Fraction(fraction) if !(fraction > 0.0 && fraction < 1.0) => {
                let problem = format!(
                    "is {fraction}: a fraction must be between 0 and 1; or give a whole number of photos"
                );
                return Err(self.key_error("split.test_size", problem));
            }
            TestSize::Count(0) => {
                return Err(
                    self.key_error("split.test_size", "is 0: the test set would be empty; make it larger")
                );
            }
            TestSize::Count(count) if method == SplitMethod::Hash => {
                let problem =
                    format!("is {count}: with `split.method = \"hash\"` it must be a fraction, such as 0.1");
                return Err(self.key_error("split.test_size", problem));
            }
            _ => {}
        }
        let uses_folds =
            method == SplitMethod::StratifiedKFold || method == SplitMethod::Group && folds.is_some();
        if folds.is_some() && !uses_folds {
            return Err(self.key_error(
                "split.folds",
                "needs `split.method = \"stratified-k-fold\"` or \"group\": set it, or remove `split.folds`",
            ));
        }
        let n_folds = folds.unwrap_or(DEFAULT_FOLDS);
        if n_folds < 2 {
            return Err(self.key_error("split.folds", format!("is {n_folds}: at least 2 folds are needed")));
        }
        if fold > 0 && !uses_folds {
            return Err(self.key_error(
                "split.fold",
                "needs folds: set `split.method = \"stratified-k-fold\"`, or \"group\" and `split.folds`",
            ));
        }
        if fold >= n_folds {
            return Err(self.key_error(
                "split.fold",
                format!("is {fold}: the {n_folds} folds are numbered 0 to {}", n_folds - 1),
            ));
        }
        if split.column.is_some() && method != SplitMethod::Predefined {
            let problem = "needs `split.method = \"predefined\"`: set it, or remove `split.column`";
            return Err(self.key_error("split.column", problem));
        }
        match (method, source) {
            (SplitMethod::Predefined, DataSourceConfig::Features(_)) => {
                return Err(self.key_error(
                    "split.method",
                    "is \"predefined\", but `data.features` has no split column: choose a different method",
                ));
            }
            (SplitMethod::Group, DataSourceConfig::Images { main, .. }) if !main.source.has_groups() => {
                let problem = "is \"group\", but `data.group` is missing: set it to the column with the \
                               group of each photo";
                return Err(self.key_error("split.method", problem));
            }
            _ => {}
        }
        if group_duplicates && matches!(source, DataSourceConfig::Features(_)) {
            return Err(self.key_error("split.group_duplicates", NEEDS_IMAGES));
        }
        Ok(())
    }

    /// Checks the section `[tune]` on fine-tuning, also against the other options and the `head`, which must
    /// be trainable by gradients if the backbone is fine-tuned. Fills in the defaults of `[tune]`. `heads`
    /// are the known heads, for the advice.
    fn check_tune(
        &self,
        options: &mut Options,
        head: &dyn ConfiguredHead,
        heads: &Registry,
    ) -> Result<(), ConfigError> {
        let tune = &mut options.tune;
        tune.resolve().map_err(|(key, problem)| self.key_error(&format!("tune.{key}"), problem))?;
        if tune.is_off() {
            // Unused settings are checked but not written.
            *tune = TuneOptions::default();
            return Ok(());
        }
        let Some(backbone) = &options.backbone else {
            let problem = "needs photos and a backbone, but `data.features` has neither: remove [tune]";
            return Err(self.key_error("tune.from", problem));
        };
        if backbone.layer != FeatureLayer::Avgpool {
            let problem =
                "needs `backbone.layer = \"avgpool\"`: fine-tuning trains all stages up to the last one";
            return Err(self.key_error("tune.from", problem));
        }
        if tune.augment == AugmentMode::PerEpoch && options.augment.is_empty() {
            let problem = "asks for new augmentation in each epoch, but [augment] is empty: all views would \
                           be the same; add augmentations to [augment], or set `tune.augment = \"cached\"`";
            return Err(self.key_error("tune.augment", problem));
        }
        if head.differentiable().is_none() {
            let known: Vec<&str> =
                heads.iter().filter(|kind| kind.is_differentiable()).map(HeadKind::name).collect();
            let (kind, known) = (head.kind(), known.join(", "));
            return Err(self.key_error(
                "tune.from",
                format!(
                    "needs a head that is trained by gradients, which `{kind}` is not: choose from {known}"
                ),
            ));
        }
        Ok(())
    }

    /// Configures the head named by `head.kind`, and completes `[head]` of `options` with the head's
    /// defaults.
    fn resolve_head(
        &self,
        options: &mut Options,
        heads: &Registry,
    ) -> Result<Box<dyn ConfiguredHead>, ConfigError> {
        let kind = match options.head.remove("kind") {
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
        if let Some(key) = options.head.keys().find(|key| !known.contains(key)) {
            return Err(ConfigError::UnknownKey {
                origin: self.origin.into(),
                key: format!("head.{key}"),
                nearest: format!("head.{}", nearest_key(key, &known)),
                known,
            });
        }
        let configured = head.configure(options.head.clone()).map_err(|error| match error {
            HeadError::Parameter { parameter, value, expected } => {
                self.key_error(&format!("head.{parameter}"), format!("is {value}: {expected}"))
            }
            error => self.value_error(error.to_string()),
        })?;
        options.head = complete_head_table(configured.as_ref());
        Ok(configured)
    }
}
