//! Lookup of heads by name.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use schemars::{Schema, SchemaGenerator};
use thiserror::Error;

use crate::cosine::CosineConfig;
use crate::data::TrainingSet;
use crate::differentiable::Differentiable;
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape, Tensors};
use crate::hyperparameter::{Hyperparameter, hyperparameters};
use crate::knn::KnnConfig;
use crate::lda::LdaConfig;
use crate::linear::LinearConfig;
use crate::mlp::MlpConfig;
use crate::nearest_mean::NearestMeanConfig;
use crate::ridge::RidgeConfig;
use crate::svm::SvmConfig;

/// An error from looking up or adding a head.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RegistryError {
    /// A head with this name is already registered.
    #[error("a head named `{0}` is already registered")]
    Duplicate(&'static str),
    /// No head has this name.
    #[error("there is no head `{name}`; known: {}", known.join(", "))]
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
    /// The built-in heads: `cosine`, `knn`, `lda`, `linear`, `mlp`, `nearest-mean`, `ridge` and `svm`.
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

    /// An empty registry.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds a head by its configuration type.
    ///
    /// # Errors
    /// [`RegistryError::Duplicate`] when the name is already registered.
    pub fn add<C: HeadConfig>(&mut self) -> Result<(), RegistryError> {
        if self.kinds.contains_key(C::KIND) {
            return Err(RegistryError::Duplicate(C::KIND));
        }
        self.insert::<C>();
        Ok(())
    }

    fn insert<C: HeadConfig>(&mut self) {
        self.kinds.insert(C::KIND, Box::new(TypedHeadKind::<C>(PhantomData)));
    }

    /// The head named `name`.
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

/// A registered head with its configuration type erased.
pub trait HeadKind: Send + Sync {
    /// The name in `head.kind`.
    fn name(&self) -> &'static str;
    /// One-line description.
    fn about(&self) -> &'static str;
    /// The keys, in the order of the configuration's fields.
    fn hyperparameters(&self) -> Vec<Hyperparameter>;
    /// The JSON schema of the table without `kind`.
    fn json_schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Whether the default configuration is differentiable, see [`HeadConfig::differentiable`].
    fn is_differentiable(&self) -> bool;
    /// Parses and validates the table `[head]` without `kind`.
    ///
    /// # Errors
    /// [`HeadError::Config`] or [`HeadError::Parameter`], which name the key.
    fn configure(&self, table: toml::Table) -> Result<Box<dyn ConfiguredHead>, HeadError>;
}

/// A validated configuration with its type erased.
pub trait ConfiguredHead: Send + Sync {
    /// The name in `head.kind`.
    fn kind(&self) -> &'static str;
    /// The table with all defaults, without `kind`; [`HeadKind::configure`] accepts it.
    fn table(&self) -> toml::Table;
    /// The configuration with hyperparameters that a fit chose ([`Fitted::chosen`]) in place of `"auto"`, so
    /// that a refit on other samples does not choose again.
    ///
    /// # Errors
    /// [`HeadError::Config`] or [`HeadError::Parameter`] for a key or value that the head does not have.
    fn with_chosen(&self, chosen: &[(&'static str, f64)]) -> Result<Box<dyn ConfiguredHead>, HeadError>;
    /// As [`HeadConfig::fit`].
    ///
    /// # Errors
    /// Those of [`HeadConfig::fit`].
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<dyn Head>, HeadError>;
    /// As [`HeadConfig::load`].
    ///
    /// # Errors
    /// Those of [`HeadConfig::load`].
    fn load(&self, tensors: &Tensors) -> Result<FittedHead, HeadError>;
    /// As [`HeadConfig::differentiable`].
    fn differentiable(&self) -> Option<&dyn Differentiable>;
    /// As [`HeadConfig::SUPPORTS_WARM_START`].
    fn supports_warm_start(&self) -> bool;
    /// As [`HeadConfig::grid`].
    fn grid(&self) -> Vec<Box<dyn ConfiguredHead>>;
    /// As [`HeadConfig::memory_bytes`].
    fn memory_bytes(&self, shape: HeadShape) -> u64;
}

/// Implements [`HeadKind`] for a configuration type.
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

/// Implements [`ConfiguredHead`] for a configuration.
struct TypedHead<C>(C);

impl<C: HeadConfig> TypedHead<C> {
    fn from_table(table: toml::Table) -> Result<Self, HeadError> {
        let config: C = table
            .try_into()
            .map_err(|e: toml::de::Error| HeadError::Config { kind: C::KIND, message: e.message().into() })?;
        config.check()?;
        Ok(Self(config))
    }
}

impl<C: HeadConfig> ConfiguredHead for TypedHead<C> {
    fn kind(&self) -> &'static str {
        C::KIND
    }

    fn table(&self) -> toml::Table {
        toml::Table::try_from(&self.0).expect("a head's configuration is a table of TOML values")
    }

    fn with_chosen(&self, chosen: &[(&'static str, f64)]) -> Result<Box<dyn ConfiguredHead>, HeadError> {
        let mut table = self.table();
        table.extend(chosen.iter().map(|&(key, value)| (key.to_owned(), toml::Value::Float(value))));
        Ok(Box::new(Self::from_table(table)?))
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<dyn Head>, HeadError> {
        let Fitted { head, history, chosen } = self.0.fit(data, context)?;
        Ok(Fitted { head, history, chosen })
    }

    fn load(&self, tensors: &Tensors) -> Result<FittedHead, HeadError> {
        Ok(Box::new(self.0.load(tensors)?))
    }

    fn differentiable(&self) -> Option<&dyn Differentiable> {
        self.0.differentiable()
    }

    fn supports_warm_start(&self) -> bool {
        C::SUPPORTS_WARM_START
    }

    fn grid(&self) -> Vec<Box<dyn ConfiguredHead>> {
        self.0
            .grid()
            .into_iter()
            .map(|config| Box::new(TypedHead(config)) as Box<dyn ConfiguredHead>)
            .collect()
    }

    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        self.0.memory_bytes(shape)
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
        assert_eq!(error.to_string(), "a head named `linear` is already registered");
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let registry = Registry::builtin();
        let error = registry.get("liner").err().expect("there is no such head");
        let known = "cosine, knn, lda, linear, mlp, nearest-mean, ridge, svm";
        assert_eq!(error.to_string(), format!("there is no head `liner`; known: {known}"));
    }

    #[test]
    fn a_configured_head_fits_and_loads_as_its_type_does() {
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
