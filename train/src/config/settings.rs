//! Resolved settings: checked, with defaults and absolute paths.

use std::path::{Path, PathBuf};

use headstock_backbone::hub::fetch_dataset;
use headstock_backbone::{DownloadProgress, FeatureLayer, HubError};
use headstock_heads::{ConfiguredHead, HeadError, HeadKind, Registry};
use headstock_loader::TestSize;
use toml::Value;

use super::data_source::{DataLocation, DataSourceConfig};
use super::keys::nearest_key;
use super::options::DEFAULT_FOLDS;
use super::tune::{AugmentMode, TuneOptions};
use super::{ConfigError, Options, SplitMethod, SplitOptions};

/// The default of `head.kind`.
pub(super) const DEFAULT_HEAD: &str = "linear";

/// Maximum of `features.views`.
const MAX_VIEWS: u32 = 1000;

/// Whether `[backbone]` may be missing where photos are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BackboneRequirement {
    Required,
    Optional,
}

/// A resolved config: all values checked, defaults filled in, paths absolute.
pub struct Settings {
    /// The options as they are written to a run; resolving them again gives the same settings.
    pub options: Options,
    /// The source of the samples.
    pub source: DataSourceConfig,
    /// The configured head.
    pub head: Box<dyn ConfiguredHead>,
}

impl Settings {
    /// Checks all options, fills in defaults and makes paths relative to `base` absolute.
    pub(super) fn resolve(
        mut options: Options,
        origin: &str,
        base: &Path,
        heads: &Registry,
        requirement: BackboneRequirement,
    ) -> Result<Self, ConfigError> {
        let validator = Validator { origin };
        if options.split.method == SplitMethod::Predefined {
            options.split.column.get_or_insert_with(|| "split".to_owned());
        }
        let source = validator.resolve_source(&mut options.data, &options.split, base)?;
        match (&source, &mut options.backbone) {
            (DataSourceConfig::Features(_), Some(_)) => {
                return Err(validator
                    .key_error("backbone", "does nothing with `data.features`: leave one of them out"));
            }
            (DataSourceConfig::Features(_), None) => {}
            (_, None) if requirement == BackboneRequirement::Required => {
                let problem = "is missing: a folder, a .safetensors file, or hf://timm/resnet50.a1_in1k";
                return Err(validator.key_error("backbone.weights", problem));
            }
            (_, Some(backbone)) if !backbone.weights.starts_with("hf://") => {
                backbone.weights =
                    validator.absolute_path("backbone.weights", Path::new(&backbone.weights), base)?.1;
            }
            _ => {}
        }
        options.features.cache = validator.absolute_path("features.cache", &options.features.cache, base)?.0;
        validator.check_split(&options.split, &source)?;
        options.augment.check().map_err(|error| validator.value_error(error.to_string()))?;
        if options.features.views > MAX_VIEWS {
            let problem =
                format!("is {}: at most {MAX_VIEWS} views of a photo are supported", options.features.views);
            return Err(validator.key_error("features.views", problem));
        }
        if options.features.views > 0 {
            if matches!(source, DataSourceConfig::Features(_)) {
                let problem = "needs photos: `data.features` has none";
                return Err(validator.key_error("features.views", problem));
            }
            if options.augment.is_empty() {
                let problem = "asks for augmented views, but [augment] is empty: all views would be the same";
                return Err(validator.key_error("features.views", problem));
            }
        }
        let head = validator.resolve_head(&mut options, heads)?;
        validator.check_tune(&mut options, head.as_ref(), heads)?;
        Ok(Self { options, source, head })
    }
}

impl Settings {
    /// The settings with a frozen backbone: `[tune]` is reset.
    #[must_use]
    pub fn with_frozen_backbone(mut self) -> Self {
        if !self.options.tune.is_off() {
            tracing::info!("the backbone is frozen for this command: [tune] is not used");
            self.options.tune = TuneOptions::default();
        }
        self
    }

    /// Downloads data sets of the hub and replaces their branch by the commit, so that the settings of a run
    /// always name the same photos.
    ///
    /// # Errors
    /// [`HubError`] if the download fails.
    pub fn pin_dataset_revisions(&mut self, progress: &dyn DownloadProgress) -> Result<(), HubError> {
        let DataSourceConfig::Images { main, test } = &mut self.source else { return Ok(()) };
        let data = &mut self.options.data;
        let sources = [(Some(main), &mut data.parquet), (test.as_mut(), &mut data.test_parquet)];
        for (location, key) in sources {
            let (Some(DataLocation::Parquet { shards, .. }), Some(key)) = (location, key) else { continue };
            if let Some(name) = shards.strip_prefix("hf://") {
                let origin = fetch_dataset(&name.parse()?, progress)?.origin;
                shards.clone_from(&origin);
                *key = origin;
            }
        }
        Ok(())
    }

    /// The settings with the head `kind`, configured by `table`.
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

/// The complete `[head]` table of a configured head, with `kind`.
fn complete_head_table(head: &dyn ConfiguredHead) -> toml::Table {
    let mut table = toml::Table::from_iter([("kind".to_owned(), Value::String(head.kind().to_owned()))]);
    table.extend(head.table());
    table
}

/// Checks options; its errors name the file `origin`.
pub(super) struct Validator<'a> {
    origin: &'a str,
}

impl Validator<'_> {
    pub(super) fn key_error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Key { origin: self.origin.into(), key: key.into(), problem: problem.into() }
    }

    fn value_error(&self, message: String) -> ConfigError {
        ConfigError::Value { origin: self.origin.into(), message }
    }

    /// A path relative to `base` as an absolute path, and as text, because runs write it into their config.
    pub(super) fn absolute_path(
        &self,
        key: &str,
        path: &Path,
        base: &Path,
    ) -> Result<(PathBuf, String), ConfigError> {
        if path.as_os_str().is_empty() {
            return Err(self.key_error(key, "is empty: it must be a path"));
        }
        let absolute = base.join(path);
        match absolute.to_str() {
            Some(text) => Ok((absolute.clone(), text.to_owned())),
            None => Err(self.key_error(
                key,
                format!("leads to {}, a path that is not UTF-8: rename it", absolute.display()),
            )),
        }
    }

    /// Checks `[split]`, also against the source of the data.
    fn check_split(&self, split: &SplitOptions, source: &DataSourceConfig) -> Result<(), ConfigError> {
        let SplitOptions { method, test_size, folds, fold, group_duplicates, .. } = *split;
        match test_size {
            TestSize::Fraction(fraction) if !(fraction > 0.0 && fraction < 1.0) => {
                let problem =
                    format!("is {fraction}: a fraction must be between 0 and 1; a whole number is a count");
                return Err(self.key_error("split.test_size", problem));
            }
            TestSize::Count(0) => {
                return Err(self.key_error("split.test_size", "is 0: the test set would be empty"));
            }
            TestSize::Count(count) if method == SplitMethod::Hash => {
                let problem = format!("is {count}: with `split.method = \"hash\"` it must be a fraction");
                return Err(self.key_error("split.test_size", problem));
            }
            _ => {}
        }
        let uses_folds =
            method == SplitMethod::StratifiedKFold || method == SplitMethod::Group && folds.is_some();
        if folds.is_some() && !uses_folds {
            return Err(
                self.key_error("split.folds", "needs `split.method = \"stratified-k-fold\"` or \"group\"")
            );
        }
        let n_folds = folds.unwrap_or(DEFAULT_FOLDS);
        if n_folds < 2 {
            return Err(self.key_error("split.folds", format!("is {n_folds}: at least 2 folds are needed")));
        }
        if fold > 0 && !uses_folds {
            return Err(self.key_error(
                "split.fold",
                "needs folds: `split.method = \"stratified-k-fold\"`, or \"group\" and `split.folds`",
            ));
        }
        if fold >= n_folds {
            return Err(self.key_error(
                "split.fold",
                format!("is {fold}: with {n_folds} folds they are 0 to {}", n_folds - 1),
            ));
        }
        if split.column.is_some() && method != SplitMethod::Predefined {
            return Err(self.key_error("split.column", "needs `split.method = \"predefined\"`"));
        }
        match (method, source) {
            (SplitMethod::Predefined, DataSourceConfig::Features(_)) => {
                return Err(self.key_error(
                    "split.method",
                    "is \"predefined\", but `data.features` has no split column",
                ));
            }
            (SplitMethod::Group, DataSourceConfig::Images { main, .. })
                if main.fields().is_none_or(|fields| fields.group.is_none()) =>
            {
                let problem = "is \"group\", but `data.group` is missing: it names the column with the group \
                               of a photo";
                return Err(self.key_error("split.method", problem));
            }
            _ => {}
        }
        if group_duplicates && matches!(source, DataSourceConfig::Features(_)) {
            return Err(self.key_error("split.group_duplicates", "needs photos: `data.features` has none"));
        }
        Ok(())
    }

    /// Checks `[tune]` and fills in its defaults.
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
            return Err(
                self.key_error("tune.from", "needs photos and a backbone: `data.features` has neither")
            );
        };
        if backbone.layer != FeatureLayer::Avgpool {
            let problem =
                "needs `backbone.layer = \"avgpool\"`: fine-tuning trains the stages up to the last";
            return Err(self.key_error("tune.from", problem));
        }
        if tune.augment == AugmentMode::PerEpoch && options.augment.is_empty() {
            let problem = "asks for new augmentation in each epoch, but [augment] is empty: all views would \
                           be the same";
            return Err(self.key_error("tune.augment", problem));
        }
        if head.differentiable().is_none() {
            let known: Vec<&str> =
                heads.iter().filter(|kind| kind.is_differentiable()).map(HeadKind::name).collect();
            let (kind, known) = (head.kind(), known.join(", "));
            return Err(self.key_error(
                "tune.from",
                format!("needs a differentiable head, which `{kind}` is not; differentiable heads: {known}"),
            ));
        }
        Ok(())
    }

    /// Configures the head named by `head.kind`, and completes its table with the defaults.
    fn resolve_head(
        &self,
        options: &mut Options,
        heads: &Registry,
    ) -> Result<Box<dyn ConfiguredHead>, ConfigError> {
        let kind = match options.head.remove("kind") {
            None => DEFAULT_HEAD.to_owned(),
            Some(Value::String(kind)) => kind,
            Some(value) => {
                return Err(self.key_error("head.kind", format!("is {value}: it must be a string")));
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
        let configured = head
            .configure(options.head.clone())
            .map_err(|error: HeadError| self.value_error(error.to_string()))?;
        options.head = complete_head_table(configured.as_ref());
        Ok(configured)
    }
}
