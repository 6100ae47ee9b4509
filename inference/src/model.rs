//! `model.safetensors`: the tensors of the head, with a description of the model in the metadata.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor};
use headstock_backbone::{FeatureLayer, Precision, Preprocessing};
use headstock_heads::{
    Calibration, ConformalMethod, ConformalScores, FittedHead, Logits, Registry, SetPredictor, Tensors,
};
use safetensors::SafeTensorError;
use serde::{Deserialize, Serialize};

use crate::error::{FileError, InferenceError};
use crate::predictions::Predictions;
use crate::pretrained::{BackboneOptions, PretrainedBackbone};
use crate::progress::Progress;
use crate::tensors::{self, StoredTensors};
use crate::weights_search::WeightsSearch;

/// The only key of the metadata. safetensors stores its metadata in a hash map, whose order varies: with a
/// single key equal models are equal bytes.
const METADATA_KEY: &str = "headstock";

/// The version of the file format.
const FORMAT_VERSION: u32 = 1;

/// Name prefix of the tensors of conformal scores. Heads must not use it.
const CONFORMAL_PREFIX: &str = "conformal.";

/// Name prefix of the fine-tuned tensors of the backbone, before torchvision's name. Heads must not use it.
const BACKBONE_PREFIX: &str = "backbone.";

/// The methods of conformal sets, each with its own scores in the file.
const SET_METHODS: [ConformalMethod; 2] = [ConformalMethod::Lac, ConformalMethod::Aps];

/// The description of a model, stored in the metadata of its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The version of the file format.
    pub format: u32,
    /// The kind and the hyperparameters of the head.
    pub head: HeadRecord,
    /// Class names, in the order of the labels.
    pub classes: Vec<String>,
    /// The number of features, `F`.
    pub width: usize,
    /// The preprocessing of images; `None` with precomputed features.
    pub preprocessing: Option<Preprocessing>,
    /// The backbone; `None` with precomputed features.
    pub backbone: Option<BackboneRecord>,
    /// The calibration of the logits.
    pub calibration: Calibration,
}

/// The description of the head of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// The name of the head.
    pub kind: String,
    /// The keys of `[head]` other than `kind`, those with default values too.
    pub parameters: toml::Table,
}

/// The description of the backbone of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackboneRecord {
    /// The architecture, such as `resnet50`.
    pub architecture: String,
    /// The origin of the weights: an `hf://` name with the commit, or the name of the file or folder.
    pub source: String,
    /// The SHA-256 of the file of the weights, in hexadecimal.
    pub sha256: String,
    /// The layer that features are taken from.
    pub layer: FeatureLayer,
    /// The number format of the computation.
    pub precision: Precision,
    /// The first fine-tuned stage; its tensors and those of later stages are in the model. `None` with a
    /// frozen backbone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<FeatureLayer>,
}

impl BackboneRecord {
    /// Describes the backbone `pretrained`, which is frozen; fine-tuning sets `tuned` afterwards.
    #[must_use]
    pub fn new(pretrained: &PretrainedBackbone) -> Self {
        let (checkpoint, options) = (pretrained.checkpoint(), &pretrained.options);
        // Only the name of a local file or folder, so that the same training in a different place writes the
        // same bytes.
        let source = match Path::new(&options.weights).file_name() {
            Some(name) if !options.weights.starts_with("hf://") => name.to_string_lossy(),
            _ => checkpoint.origin().into(),
        };
        Self {
            architecture: checkpoint.architecture().to_string(),
            source: source.into_owned(),
            sha256: checkpoint.sha256().into(),
            layer: options.layer,
            precision: options.precision,
            tuned: None,
        }
    }
}

impl ModelRecord {
    /// Describes a model whose head has these classes, in the order of their labels, and expects `width`
    /// features. `pretrained` is the preprocessing and the backbone that compute the features; `None` with
    /// precomputed features.
    #[must_use]
    pub fn new(
        head: HeadRecord,
        classes: Vec<String>,
        width: usize,
        pretrained: Option<(Preprocessing, BackboneRecord)>,
        calibration: Calibration,
    ) -> Self {
        let (preprocessing, backbone) = pretrained.unzip();
        Self { format: FORMAT_VERSION, head, classes, width, preprocessing, backbone, calibration }
    }
}

/// A fitted head with everything that predictions need, except the frozen weights of the backbone.
pub struct Model {
    /// The description of the model.
    pub record: ModelRecord,
    /// The fitted head.
    pub head: FittedHead,
    /// The fine-tuned tensors of the backbone, by torchvision's names.
    pub tuned_weights: Tensors,
    /// The scores for conformal sets; `None` if no samples were held out for them.
    pub conformal: Option<ConformalScores>,
}

impl Model {
    /// Writes the model to the file `path`: the tensors of the head, the fine-tuned tensors of the backbone
    /// and the conformal scores by prefixed names, and the record as JSON in the metadata.
    ///
    /// # Errors
    /// [`InferenceError::UnsavableHead`], [`InferenceError::File`].
    pub fn write(&self, path: &Path) -> Result<(), InferenceError> {
        let cannot_save = |problem: &dyn fmt::Display| InferenceError::UnsavableHead {
            kind: self.record.head.kind.clone(),
            problem: problem.to_string(),
        };
        let mut tensors = self.head.tensors()?;
        let reserved = [CONFORMAL_PREFIX, BACKBONE_PREFIX];
        if let Some(name) = tensors.keys().find(|name| reserved.iter().any(|prefix| name.starts_with(prefix)))
        {
            return Err(cannot_save(&format_args!(
                "the name of its tensor `{name}` begins with `{CONFORMAL_PREFIX}` or `{BACKBONE_PREFIX}`, \
                 which are reserved: rename the tensor in the head"
            )));
        }
        for (name, tensor) in &self.tuned_weights {
            tensors.insert(format!("{BACKBONE_PREFIX}{name}"), tensor.clone());
        }
        if let Some(conformal) = &self.conformal {
            for method in SET_METHODS {
                let scores = conformal.scores(method);
                let scores = Tensor::from_slice(scores, scores.len(), &Device::Cpu);
                tensors.insert(scores_tensor_name(method), scores.map_err(|error| cannot_save(&error))?);
            }
        }
        let metadata = serde_json::to_string(&self.record).expect("a record is JSON");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
        tensors::write(path, &tensors, metadata).map_err(|error| match error {
            SafeTensorError::IoError(error) => FileError::io("write", path)(error).into(),
            error => cannot_save(&error),
        })
    }

    /// Reads a model from the file `path`, which [`write`](Self::write) has written. `heads` are the kinds of
    /// heads that the program knows.
    ///
    /// # Errors
    /// [`InferenceError::File`] for a file that cannot be read, is damaged or has a different format version;
    /// [`InferenceError::UnknownHead`].
    pub fn read(path: &Path, heads: &Registry) -> Result<Self, InferenceError> {
        let stored = StoredTensors::open(path)?;
        let metadata = stored
            .metadata_entry(METADATA_KEY)
            .ok_or_else(|| FileError::format(path)("the file was not written by headstock"))?;
        let version: FormatVersion = serde_json::from_str(metadata).map_err(FileError::format(path))?;
        if version.format != FORMAT_VERSION {
            let problem = format!(
                "the format of the file is {}, but this headstock reads version {FORMAT_VERSION}: use the \
                 version of headstock that wrote the file",
                version.format
            );
            return Err(FileError::format(path)(problem).into());
        }
        let record: ModelRecord = serde_json::from_str(metadata).map_err(FileError::format(path))?;
        record.calibration.check(record.classes.len()).map_err(FileError::format(path))?;
        let mut tensors = stored.tensors()?;
        let conformal = take_scores(&mut tensors).map_err(FileError::format(path))?;
        let tuned_weights = take_tuned_weights(&mut tensors);
        let kind = heads
            .get(&record.head.kind)
            .map_err(|_| InferenceError::UnknownHead { path: path.into(), kind: record.head.kind.clone() })?;
        let configured = kind.configure(record.head.parameters.clone()).map_err(FileError::format(path))?;
        let head = configured.load(&tensors).map_err(FileError::format(path))?;
        let (found, expected) = ((head.width(), head.classes()), (record.width, record.classes.len()));
        if found != expected {
            let problem = format!(
                "the file is damaged: its head has {} features and {} classes, but its metadata has {} and {}",
                found.0, found.1, expected.0, expected.1
            );
            return Err(FileError::format(path)(problem).into());
        }
        Ok(Self { record, head, tuned_weights, conformal })
    }

    /// The predictions from the logits of the head, with the calibration of this model.
    ///
    /// # Errors
    /// [`InferenceError::Logits`] for logits that are not finite.
    pub fn predictions(&self, logits: &Logits) -> Result<Predictions, InferenceError> {
        Predictions::with_calibration(logits, &self.record.calibration)
            .map_err(|error| InferenceError::Logits(error.to_string()))
    }

    /// A predictor of conformal sets: for the probabilities of an image it gives a set of classes that
    /// contains the true class with probability `coverage`. `method` decides how the sets are chosen.
    ///
    /// # Errors
    /// [`InferenceError::NoConformalScores`], and [`InferenceError::Coverage`] if `coverage` is not between 0
    /// and 1.
    pub fn sets(&self, coverage: f64, method: ConformalMethod) -> Result<SetPredictor, InferenceError> {
        let conformal = self.conformal.as_ref().ok_or(InferenceError::NoConformalScores)?;
        conformal.set_predictor(coverage, method).map_err(|error| InferenceError::Coverage(error.to_string()))
    }

    /// Opens the backbone that the head was fitted on: the fine-tuned tensors of the run, and the other
    /// weights from the file that `options` name, which must be those of the run. If they are not, the weights
    /// are looked for by their hash in the folders that `options` name for it. The layer and the precision
    /// must be those of the run, because the head understands no other features.
    ///
    /// # Errors
    /// [`InferenceError::NoBackbone`] if the head was fitted on precomputed features,
    /// [`InferenceError::OtherFeatures`], [`InferenceError::OtherWeights`], [`InferenceError::Backbone`],
    /// [`InferenceError::WeightsNotFound`] after a search.
    pub fn open_backbone(
        &self,
        options: &BackboneOptions,
        progress: &dyn Progress,
    ) -> Result<PretrainedBackbone, InferenceError> {
        if let Some(BackboneRecord { layer, precision, .. }) = self.record.backbone
            && (options.layer, options.precision) != (layer, precision)
        {
            return Err(InferenceError::OtherFeatures { layer, precision });
        }
        self.open_backbone_any_layer(options, progress)
    }

    /// Opens the backbone as [`open_backbone`](Self::open_backbone) does, but any layer and precision are
    /// allowed: for features that are not for the head.
    ///
    /// # Errors
    /// The other errors of [`open_backbone`](Self::open_backbone).
    pub fn open_backbone_any_layer(
        &self,
        options: &BackboneOptions,
        progress: &dyn Progress,
    ) -> Result<PretrainedBackbone, InferenceError> {
        let record = self.record.backbone.as_ref().ok_or(InferenceError::NoBackbone)?;
        let pretrained = match self.open_weights(record, options, progress) {
            Err(error) if !options.search.is_empty() => {
                let WeightsSearch { found, places } =
                    WeightsSearch::run(&record.sha256, &record.source, &options.search);
                let Some(found) = found else {
                    let (error, sha256) = (Box::new(error), record.sha256.clone());
                    return Err(InferenceError::WeightsNotFound { error, sha256, places });
                };
                tracing::info!(
                    "the weights of the run are not at {}; {} has them, by its sha256",
                    options.weights,
                    found.display()
                );
                let options = BackboneOptions { weights: found.display().to_string(), ..options.clone() };
                self.open_weights(record, &options, progress)?
            }
            opened => opened?,
        };
        pretrained.with_tensors(&self.tuned_weights)
    }

    /// Opens the weights that `options` name, which must be those of `record`.
    fn open_weights(
        &self,
        record: &BackboneRecord,
        options: &BackboneOptions,
        progress: &dyn Progress,
    ) -> Result<PretrainedBackbone, InferenceError> {
        // The preprocessing is that of the run, not that of the config beside the weights.
        let preprocessing = self.record.preprocessing.as_ref();
        let pretrained = PretrainedBackbone::open_with_preprocessing(options, preprocessing, progress)?;
        let sha256 = pretrained.checkpoint().sha256();
        if sha256 != record.sha256 {
            return Err(InferenceError::OtherWeights {
                weights: options.weights.clone(),
                original: record.source.clone(),
                found: sha256.into(),
                expected: record.sha256.clone(),
            });
        }
        Ok(pretrained)
    }
}

/// The part of the metadata that all format versions have in common.
#[derive(Deserialize)]
struct FormatVersion {
    format: u32,
}

/// The name of the tensor with the conformal scores of a method.
fn scores_tensor_name(method: ConformalMethod) -> String {
    format!("{CONFORMAL_PREFIX}{}", method.as_str())
}

/// Removes the fine-tuned tensors of the backbone from `tensors`, all tensors of a model's file, and returns
/// them by their names without the prefix.
fn take_tuned_weights(tensors: &mut Tensors) -> Tensors {
    let backbone_tensors = tensors.extract_if(.., |name, _| name.starts_with(BACKBONE_PREFIX));
    backbone_tensors.map(|(name, tensor)| (name[BACKBONE_PREFIX.len()..].to_owned(), tensor)).collect()
}

/// Removes the conformal scores (of held-out samples, from which conformal sets are computed) from `tensors`,
/// all tensors of a model's file, and returns them; `None` if there are none, as in a run without held-out
/// samples. The error is text that says which tensor is damaged or missing.
fn take_scores(tensors: &mut Tensors) -> Result<Option<ConformalScores>, String> {
    let names = SET_METHODS.map(scores_tensor_name);
    if !names.iter().any(|name| tensors.contains_key(name)) {
        return Ok(None);
    }
    let mut take = |name: &str| {
        let scores = tensors.remove(name).ok_or("is missing".to_owned());
        let values = scores.and_then(|scores| scores.to_vec1().map_err(|error| error.to_string()));
        values.map_err(|problem| format!("tensor `{name}`: {problem}"))
    };
    let [lac, aps] = &names;
    let scores = ConformalScores::from_scores(take(lac)?, take(aps)?);
    scores.map(Some).map_err(|error| error.to_string())
}
