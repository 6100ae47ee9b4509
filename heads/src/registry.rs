//! Lookup of heads by name.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use schemars::{Schema, SchemaGenerator};
use thiserror::Error;

use crate::cosine::CosineConfig;
use crate::data::TrainingSet;
use crate::differentiable::Differentiable;
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape};
use crate::hyperparameter::{Hyperparameter, hyperparameters};
use crate::knn::KnnConfig;
use crate::lda::LdaConfig;
use crate::linear::LinearConfig;
use crate::mlp::MlpConfig;
use crate::nearest_mean::NearestMeanConfig;
use crate::ridge::RidgeConfig;
use crate::svm::SvmConfig;
use crate::tensors::Tensors;

/// An error from looking up or adding a head.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RegistryError {
    /// A head with this name is already registered.
    #[error(
        "the program already has a head named `{0}`: give the new head a different name (its constant `KIND`)"
    )]
    Duplicate(&'static str),
    /// No head has this name.
    #[error("there is no head `{name}`: choose one of {}", known.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// All known names, sorted.
        known: Vec<&'static str>,
    },
}

/// A fitted head of any kind.
pub type FittedHead = Box<dyn Head>;

/// The known heads by name.
#[derive(Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Box<dyn HeadKind>>,
}

impl Registry {
    /// A registry of the heads of this crate: `cosine`, `knn`, `lda`, `linear`, `mlp`, `nearest-mean`,
    /// `ridge` and `svm`.
    #[must_use]
    pub fn builtin() -> Self {
        let mut registry = Self::empty();
        registry.insert::<CosineConfig>();
        registry.insert::<KnnConfig>();
        registry.insert::<LdaConfig>();
        registry.insert::<LinearConfig>();
        registry.insert::<MlpConfig>();
        registry.insert::<NearestMeanConfig>();
        registry.insert::<RidgeConfig>();
        registry.insert::<SvmConfig>();
        registry
    }

    /// A registry without heads, to which [`add`](Self::add) adds some.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Registers a head that is not built in, under the name `C::KIND`, so that a config can name it in
    /// `head.kind`. `C` is the head's configuration type.
    ///
    /// # Errors
    /// [`RegistryError::Duplicate`] when a head with this name is already registered.
    pub fn add<C: HeadConfig>(&mut self) -> Result<(), RegistryError> {
        if self.kinds.contains_key(C::KIND) {
            return Err(RegistryError::Duplicate(C::KIND));
        }
        self.insert::<C>();
        Ok(())
    }

    /// Registers the head with the configuration type `C`; a head with the same name is replaced.
    fn insert<C: HeadConfig>(&mut self) {
        self.kinds.insert(C::KIND, Box::new(TypedHeadKind::<C>(PhantomData)));
    }

    /// Looks up the head that is registered as `name`, the value of `head.kind` in a config.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], which lists the known names.
    pub fn get(&self, name: &str) -> Result<&dyn HeadKind, RegistryError> {
        self.kinds.get(name).map(AsRef::as_ref).ok_or_else(|| RegistryError::Unknown {
            name: name.into(),
            known: self.kinds.keys().copied().collect(),
        })
    }

    /// All heads, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn HeadKind> {
        self.kinds.values().map(AsRef::as_ref)
    }
}

/// A registered head with its configuration type erased, so that the program can list heads and configure one
/// by the name in `head.kind`.
pub trait HeadKind: Send + Sync {
    /// The name of the head, such as `svm`: the value of `head.kind` in a config.
    fn name(&self) -> &'static str;
    /// A description of the head in one line, which `headstock heads` prints.
    fn about(&self) -> &'static str;
    /// The names and descriptions of the keys of `[head]` that the head has, in the order of the
    /// configuration's fields, for `headstock heads NAME` and to find misspelled keys.
    fn hyperparameters(&self) -> Vec<Hyperparameter>;
    /// The JSON schema of the table `[head]` without the key `kind`, a part of the schema of a config file;
    /// `generator` collects the definitions that the parts share.
    fn json_schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Whether a backbone can be fine-tuned with this head in its default configuration, see
    /// [`HeadConfig::differentiable`].
    fn is_differentiable(&self) -> bool;
    /// Parses and validates the table `[head]` without the key `kind`. Returns a configuration that can fit
    /// heads; keys that `table` lacks have their default values.
    ///
    /// # Errors
    /// [`HeadError::Config`] or [`HeadError::Parameter`], which name the key.
    fn configure(&self, table: toml::Table) -> Result<Box<dyn ConfiguredHead>, HeadError>;
}

/// A validated configuration with its type erased, so that the program can fit and load any head. Its methods
/// are those of [`HeadConfig`].
pub trait ConfiguredHead: Send + Sync {
    /// The name of the head, such as `svm`: the value of `head.kind` in a config.
    fn kind(&self) -> &'static str;
    /// The configuration as a table `[head]` without the key `kind`: all keys of the head, those with default
    /// values too. It is saved with a run, and [`HeadKind::configure`] restores the configuration from it.
    fn table(&self) -> toml::Table;
    /// This configuration with the hyperparameters that a fit chose (names and values from
    /// [`Fitted::chosen`]) in place of `"auto"`, so that a refit on other samples does not choose again.
    ///
    /// # Errors
    /// [`HeadError::Config`] or [`HeadError::Parameter`] for a key or value that the head does not have.
    fn with_chosen(&self, chosen: &[(&'static str, f64)]) -> Result<Box<dyn ConfiguredHead>, HeadError>;
    /// Fits a head on the features and labels of `data`. The result depends on the configuration, the data
    /// and the warm start of `context` only.
    ///
    /// # Errors
    /// When the data is invalid or the solver diverges.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<dyn Head>, HeadError>;
    /// Restores a fitted head from the tensors that [`Head::tensors`] returned, which the program saves.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for a tensor that is missing or misshapen.
    fn load(&self, tensors: &Tensors) -> Result<FittedHead, HeadError>;
    /// The head as a differentiable function for fine-tuning a backbone; `None` if it is not differentiable.
    fn differentiable(&self) -> Option<&dyn Differentiable>;
    /// Whether a fit can start from an earlier head ([`FitContext::warm_start`]).
    fn supports_warm_start(&self) -> bool;
    /// The configurations that the command `compare` fits to find the best: this one with a few values of its
    /// most important keys.
    fn candidate_configs(&self) -> Vec<Box<dyn ConfiguredHead>>;
    /// Estimated memory of a fit on data of this shape in bytes, besides the features; 0 if it is negligible.
    /// The program tells the user before a large fit starts, and `compare` runs fewer large fits at a time.
    fn memory_bytes(&self, shape: HeadShape) -> u64;
}

/// The registered head with the configuration type `C`, of which it holds no value: implements [`HeadKind`].
struct TypedHeadKind<C>(PhantomData<C>);

impl<C: HeadConfig> HeadKind for TypedHeadKind<C> {
    fn name(&self) -> &'static str {
        C::KIND
    }

    fn about(&self) -> &'static str {
        C::ABOUT
    }

    fn hyperparameters(&self) -> Vec<Hyperparameter> {
        hyperparameters::<C>()
    }

    fn json_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        C::json_schema(generator)
    }

    fn is_differentiable(&self) -> bool {
        C::default().differentiable().is_some()
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn ConfiguredHead>, HeadError> {
        Ok(Box::new(TypedHead::<C>::from_table(table)?))
    }
}

/// A configuration of the type `C`, behind the trait [`ConfiguredHead`], which hides the type.
struct TypedHead<C> {
    config: C,
}

impl<C: HeadConfig> TypedHead<C> {
    /// Makes a configuration of the type `C` from the table `[head]` of a config file, without the key
    /// `kind`, and checks its values. Keys that `table` lacks have their default values.
    fn from_table(table: toml::Table) -> Result<Self, HeadError> {
        let config: C = table
            .try_into()
            .map_err(|e: toml::de::Error| HeadError::Config { kind: C::KIND, message: e.message().into() })?;
        config.check()?;
        Ok(Self { config })
    }
}

impl<C: HeadConfig> ConfiguredHead for TypedHead<C> {
    fn kind(&self) -> &'static str {
        C::KIND
    }

    /// The configuration as a table `[head]` with all keys of the head, to save it with a run.
    fn table(&self) -> toml::Table {
        toml::Table::try_from(&self.config).expect("a head's configuration is a table of TOML values")
    }

    /// This configuration with the hyperparameters that a fit chose (names and values) in place of `"auto"`,
    /// so that a refit does not choose again.
    fn with_chosen(&self, chosen: &[(&'static str, f64)]) -> Result<Box<dyn ConfiguredHead>, HeadError> {
        // Replaces `"auto"` by the chosen numbers.
        let mut table = self.table();
        table.extend(chosen.iter().map(|&(key, value)| (key.to_owned(), toml::Value::Float(value))));
        Ok(Box::new(Self::from_table(table)?))
    }

    /// Fits a head of the type `C::Head`, and hides this type, as callers handle heads of any kind.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<dyn Head>, HeadError> {
        let Fitted { head, history, chosen } = self.config.fit(data, context)?;
        Ok(Fitted { head, history, chosen })
    }

    /// Restores a head of the type `C::Head` from its saved tensors, and hides this type.
    fn load(&self, tensors: &Tensors) -> Result<FittedHead, HeadError> {
        Ok(Box::new(self.config.load(tensors)?))
    }

    fn differentiable(&self) -> Option<&dyn Differentiable> {
        self.config.differentiable()
    }

    fn supports_warm_start(&self) -> bool {
        C::SUPPORTS_WARM_START
    }

    /// The configurations that the command `compare` fits to find the best, as [`HeadConfig`] lists them,
    /// with their type hidden.
    fn candidate_configs(&self) -> Vec<Box<dyn ConfiguredHead>> {
        self.config
            .candidate_configs()
            .into_iter()
            .map(|config| Box::new(TypedHead { config }) as Box<dyn ConfiguredHead>)
            .collect()
    }

    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        self.config.memory_bytes(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_heads_are_listed_by_name_with_their_differentiability() {
        let registry = Registry::builtin();
        let heads: Vec<_> = registry.iter().map(|kind| (kind.name(), kind.is_differentiable())).collect();
        let expected = [
            ("cosine", true),
            ("knn", false),
            ("lda", false),
            ("linear", true),
            ("mlp", true),
            ("nearest-mean", false),
            ("ridge", false),
            ("svm", false),
        ];
        assert_eq!(heads, expected);
    }

    #[test]
    fn a_name_given_twice_is_an_error() {
        let error = Registry::builtin().add::<LinearConfig>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the program already has a head named `linear`: give the new head a different name (its constant \
             `KIND`)"
        );
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let registry = Registry::builtin();
        let error = registry.get("liner").err().expect("there is no such head");
        let known = "cosine, knn, lda, linear, mlp, nearest-mean, ridge, svm";
        assert_eq!(error.to_string(), format!("there is no head `liner`: choose one of {known}"));
    }

    #[test]
    fn a_configured_head_fits_and_loads_like_its_configuration_type() {
        let values = [0.0, 1.0, 5.0, 6.0];
        let data =
            TrainingSet::new(crate::FeatureMatrix::new(&values, 1).unwrap(), &[0, 0, 1, 1], 2).unwrap();
        let registry = Registry::builtin();
        let head = registry.get("svm").unwrap().configure(toml::Table::new()).unwrap();
        let fitted = head.fit(&data, &FitContext::silent()).unwrap().head;
        let direct = SvmConfig::default().fit(&data, &FitContext::silent()).unwrap().head;
        let loaded = head.load(&fitted.tensors().unwrap()).unwrap();
        let logits =
            [direct.logits(data.features()), fitted.logits(data.features()), loaded.logits(data.features())];
        let [direct, fitted, loaded] = logits.map(Result::unwrap);
        assert_eq!(fitted, direct);
        assert_eq!(loaded, direct);
        assert!(head.differentiable().is_none());
    }
    #[test]
    fn chosen_parameters_replace_auto_in_the_configuration() {
        let registry = Registry::builtin();
        let head = registry.get("svm").unwrap().configure("tol = 0.5".parse().unwrap()).unwrap();
        let table = head.with_chosen(&[("C", 0.25)]).unwrap().table();
        assert_eq!((table["C"].as_float(), table["tol"].as_float()), (Some(0.25), Some(0.5)));
        assert_eq!(head.with_chosen(&[]).unwrap().table(), head.table());
        assert!(head.with_chosen(&[("C", -1.0)]).is_err() && head.with_chosen(&[("alpha", 1.0)]).is_err());
    }
}
