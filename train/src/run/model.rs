//! `model.safetensors`: the head's tensors, and in the metadata what they are to be used with.

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

use super::tensors::{self, StoredTensors};
use crate::config::Settings;
use crate::error::TrainError;
use crate::features::PretrainedBackbone;
use crate::metrics::Predictions;
use crate::progress::Progress;

/// The one entry of the metadata. safetensors keeps its metadata in a hash map, whose order differs from run to run:
/// with a single entry the same model is the same bytes.
const METADATA_KEY: &str = "headstock";

/// The version of the file.
const FORMAT_VERSION: u32 = 1;

/// What the names of the tensors with conformal scores begin with: no head's do.
const CONFORMAL_PREFIX: &str = "conformal.";

/// What the names of the backbone's tuned tensors begin with, torchvision's name behind it: no head's do.
const BACKBONE_PREFIX: &str = "backbone.";

const SET_METHODS: [ConformalMethod; 2] = [ConformalMethod::Lac, ConformalMethod::Aps];

/// What stands in the metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The version of the file.
    pub format: u32,
    /// The head.
    pub head: HeadRecord,
    /// Class names by number.
    pub classes: Vec<String>,
    /// The number of features that the head takes.
    pub width: usize,
    /// How photos are prepared; none where features were made elsewhere.
    pub preprocessing: Option<Preprocessing>,
    /// What makes the features; none where they were made elsewhere.
    pub backbone: Option<BackboneRecord>,
    /// How logits become probabilities.
    pub calibration: Calibration,
}

/// The head of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// Its name.
    pub kind: String,
    /// Its whole table.
    pub parameters: toml::Table,
}

/// The backbone of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackboneRecord {
    /// Which ResNet.
    pub architecture: String,
    /// Where its weights came from.
    pub source: String,
    /// The SHA-256 of the weights' file, in hexadecimal.
    pub sha256: String,
    /// Where features are taken.
    pub layer: FeatureLayer,
    /// What it computed in.
    pub precision: Precision,
    /// The first stage that was tuned, whose tensors and those after it are in the model; none where all is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<FeatureLayer>,
}

impl ModelRecord {
    /// Fills in what every model has.
    pub(crate) fn new(
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

/// A fitted head and what it needs.
pub struct Model {
    /// What stands in the metadata.
    pub record: ModelRecord,
    /// The head.
    pub head: FittedHead,
    /// The backbone's tensors that were tuned, by torchvision's names.
    pub tuned_weights: Tensors,
    /// The scores that conformal sets are made of; none where nothing was held out to take them from.
    pub conformal: Option<ConformalScores>,
}

impl Model {
    /// Writes the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let cannot_save = |error: &dyn fmt::Display| {
            TrainError::Data(format!("the head `{}` cannot be saved: {error}", self.record.head.kind))
        };
        let mut tensors = self.head.tensors()?;
        let is_reserved = |name: &&String| {
            [CONFORMAL_PREFIX, BACKBONE_PREFIX].iter().any(|prefix| name.starts_with(prefix))
        };
        if let Some(name) = tensors.keys().find(is_reserved) {
            return Err(cannot_save(&format_args!(
                "its tensor `{name}` has a name that conformal scores or the backbone's tensors have"
            )));
        }
        tensors.extend(
            self.tuned_weights
                .iter()
                .map(|(name, tensor)| (format!("{BACKBONE_PREFIX}{name}"), tensor.clone())),
        );
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
            SafeTensorError::IoError(error) => TrainError::io("write", path)(error),
            error => cannot_save(&error),
        })
    }

    /// Reads the file.
    pub(super) fn read(path: &Path, heads: &Registry) -> Result<Self, TrainError> {
        let stored = StoredTensors::open(path)?;
        let metadata = stored
            .metadata_entry(METADATA_KEY)
            .ok_or_else(|| TrainError::format(path)("it was not written by headstock"))?;
        let version: FormatVersion = serde_json::from_str(metadata).map_err(TrainError::format(path))?;
        if version.format != FORMAT_VERSION {
            let problem =
                format!("its format is {}, and this headstock reads {FORMAT_VERSION}", version.format);
            return Err(TrainError::format(path)(problem));
        }
        let record: ModelRecord = serde_json::from_str(metadata).map_err(TrainError::format(path))?;
        record.calibration.check(record.classes.len()).map_err(TrainError::format(path))?;
        let mut tensors = stored.tensors()?;
        let conformal = take_scores(&mut tensors).map_err(TrainError::format(path))?;
        let tuned_weights = take_tuned_weights(&mut tensors);
        let kind = heads.get(&record.head.kind).map_err(|error| {
            TrainError::Usage(format!(
                "{} holds a head that this program does not know: {error}",
                path.display()
            ))
        })?;
        let configured = kind.configure(record.head.parameters.clone()).map_err(TrainError::format(path))?;
        let head = configured.load(&tensors).map_err(TrainError::format(path))?;
        if head.classes() != record.classes.len() || head.width() != record.width {
            let problem = format!(
                "its head takes {} features to {} classes, but it names {} and {}",
                head.width(),
                head.classes(),
                record.width,
                record.classes.len()
            );
            return Err(TrainError::format(path)(problem));
        }
        Ok(Self { record, head, tuned_weights, conformal })
    }

    /// What the model makes of its head's logits.
    ///
    /// # Errors
    /// [`TrainError::Head`] for logits that are not finite.
    pub fn predictions(&self, logits: &Logits) -> Result<Predictions, TrainError> {
        Ok(Predictions::with_calibration(logits, &self.record.calibration)?)
    }

    /// Conformal sets that hold the true class with a frequency of `coverage`.
    ///
    /// # Errors
    /// [`TrainError::Usage`] where the model has no scores to make them of, and for a coverage that does not lie between
    /// 0 and 1.
    pub fn sets(&self, coverage: f64, method: ConformalMethod) -> Result<SetPredictor, TrainError> {
        let conformal = self.conformal.as_ref().ok_or_else(|| {
            TrainError::Usage(
                "the run has no scores to make sets of: it was trained with `calibration = \"none\"`, from a class with one \
                 photo, or by an earlier headstock; train it anew with `calibration = \"temperature\"`"
                    .into(),
            )
        })?;
        conformal.set_predictor(coverage, method).map_err(|error| TrainError::Usage(error.to_string()))
    }

    /// The weights that the head was fitted on, found where `settings` say; none where either knows only features.
    pub(crate) fn open_backbone(
        &self,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Option<PretrainedBackbone>, TrainError> {
        if let (Some(record), Some(options)) = (&self.record.backbone, &settings.options.backbone)
            && (options.layer, options.precision) != (record.layer, record.precision)
        {
            return Err(TrainError::Usage(format!(
                "the head was fitted on `{}` in {}: `backbone.layer` and `backbone.precision` cannot be changed afterwards",
                record.layer, record.precision
            )));
        }
        self.open_backbone_any_layer(settings, progress)
    }

    /// As [`stock`](Self::stock), for any layer and precision.
    pub(crate) fn open_backbone_any_layer(
        &self,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Option<PretrainedBackbone>, TrainError> {
        let (Some(record), Some(options)) = (&self.record.backbone, &settings.options.backbone) else {
            return Ok(None);
        };
        // What lies beside the weights may be another record, or none: that of the run counts.
        let pretrained = PretrainedBackbone::open_with_preprocessing(
            options,
            self.record.preprocessing.as_ref(),
            progress,
        )?;
        let sha256 = pretrained.checkpoint().sha256();
        if sha256 != record.sha256 {
            return Err(TrainError::Usage(format!(
                "{} are not the weights that the head was fitted on: their sha256 is {sha256}, not {} (those were {}); give the right ones with --set backbone.weights=...",
                options.weights, record.sha256, record.source
            )));
        }
        Ok(Some(pretrained.with_tensors(&self.tuned_weights)?))
    }
}

/// The part of the metadata that every version has.
#[derive(Deserialize)]
struct FormatVersion {
    format: u32,
}

/// The tensor with the scores of a method.
fn scores_tensor_name(method: ConformalMethod) -> String {
    format!("{CONFORMAL_PREFIX}{}", method.as_str())
}

/// Takes the backbone's tensors out of the others.
fn take_tuned_weights(tensors: &mut Tensors) -> Tensors {
    let backbone_tensors = tensors.extract_if(.., |name, _| name.starts_with(BACKBONE_PREFIX));
    backbone_tensors.map(|(name, tensor)| (name[BACKBONE_PREFIX.len()..].to_owned(), tensor)).collect()
}

/// Takes the conformal scores out of the tensors, so that the head's are left; runs without any have none.
fn take_scores(tensors: &mut Tensors) -> Result<Option<ConformalScores>, String> {
    let scores_by_method = SET_METHODS.map(|method| tensors.remove(&scores_tensor_name(method)));
    if scores_by_method.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [lac, aps] = scores_by_method
        .map(|tensor| tensor.ok_or("is missing".to_owned())?.to_vec1().map_err(|e| e.to_string()));
    let name_error = |values: Result<Vec<f32>, String>, method| {
        values.map_err(|problem| format!("tensor `{}`: {problem}", scores_tensor_name(method)))
    };
    ConformalScores::from_scores(
        name_error(lac, ConformalMethod::Lac)?,
        name_error(aps, ConformalMethod::Aps)?,
    )
    .map(Some)
    .map_err(|error| error.to_string())
}
