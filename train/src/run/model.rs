//! `model.safetensors`: the head's tensors, and in the metadata what they are to be used with.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor};
use headstock_backbone::{Layer, Precision, Preprocessing};
use headstock_heads::{
    Calibration, ConformalMethod, ConformalScores, FittedHead, Logits, Registry, SetPredictor, Tensors,
};
use safetensors::SafeTensorError;
use serde::{Deserialize, Serialize};

use super::tensors::{self, Stored};
use crate::config::Settings;
use crate::error::TrainError;
use crate::features::Stock;
use crate::metrics::Predictions;
use crate::progress::Progress;

/// The one entry of the metadata. safetensors keeps its metadata in a hash map, whose order differs from run to run:
/// with a single entry the same model is the same bytes.
const ENTRY: &str = "headstock";

/// The version of the file.
const FORMAT: u32 = 1;

/// What the names of the tensors with conformal scores begin with: no head's do.
const SCORES: &str = "conformal.";

/// What the names of the backbone's tuned tensors begin with, torchvision's name behind it: no head's do.
const TUNED: &str = "backbone.";

const METHODS: [ConformalMethod; 2] = [ConformalMethod::Lac, ConformalMethod::Aps];

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
    pub layer: Layer,
    /// What it computed in.
    pub precision: Precision,
    /// The first stage that was tuned, whose tensors and those after it are in the model; none where all is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Layer>,
}

impl ModelRecord {
    /// Fills in what every model has.
    pub(crate) fn new(
        head: HeadRecord,
        classes: Vec<String>,
        width: usize,
        stock: Option<(Preprocessing, BackboneRecord)>,
        calibration: Calibration,
    ) -> Self {
        let (preprocessing, backbone) = stock.unzip();
        Self { format: FORMAT, head, classes, width, preprocessing, backbone, calibration }
    }
}

/// A fitted head and what it needs.
pub struct Model {
    /// What stands in the metadata.
    pub record: ModelRecord,
    /// The head.
    pub head: FittedHead,
    /// The backbone's tensors that were tuned, by torchvision's names.
    pub tuned: Tensors,
    /// The scores that conformal sets are made of; none where nothing was held out to take them from.
    pub conformal: Option<ConformalScores>,
}

impl Model {
    /// Writes the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let refused = |error: &dyn fmt::Display| {
            TrainError::Data(format!("the head `{}` cannot be saved: {error}", self.record.head.kind))
        };
        let mut tensors = self.head.tensors()?;
        let reserved = |name: &&String| [SCORES, TUNED].iter().any(|prefix| name.starts_with(prefix));
        if let Some(name) = tensors.keys().find(reserved) {
            return Err(refused(&format_args!(
                "its tensor `{name}` has a name that conformal scores or the backbone's tensors have"
            )));
        }
        tensors.extend(self.tuned.iter().map(|(name, tensor)| (format!("{TUNED}{name}"), tensor.clone())));
        if let Some(conformal) = &self.conformal {
            for method in METHODS {
                let scores = conformal.scores(method);
                let scores = Tensor::from_slice(scores, scores.len(), &Device::Cpu);
                tensors.insert(name_of(method), scores.map_err(|error| refused(&error))?);
            }
        }
        let metadata = serde_json::to_string(&self.record).expect("a record is JSON");
        let metadata = HashMap::from([(ENTRY.to_owned(), metadata)]);
        tensors::write(path, &tensors, metadata).map_err(|error| match error {
            SafeTensorError::IoError(error) => TrainError::io("write", path)(error),
            error => refused(&error),
        })
    }

    /// Reads the file.
    pub(super) fn read(path: &Path, heads: &Registry) -> Result<Self, TrainError> {
        let stored = Stored::open(path)?;
        let entry =
            stored.entry(ENTRY).ok_or_else(|| TrainError::format(path)("it was not written by headstock"))?;
        let version: Version = serde_json::from_str(entry).map_err(TrainError::format(path))?;
        if version.format != FORMAT {
            let problem = format!("its format is {}, and this headstock reads {FORMAT}", version.format);
            return Err(TrainError::format(path)(problem));
        }
        let record: ModelRecord = serde_json::from_str(entry).map_err(TrainError::format(path))?;
        record.calibration.check(record.classes.len()).map_err(TrainError::format(path))?;
        let mut tensors = stored.tensors()?;
        let conformal = take_scores(&mut tensors).map_err(TrainError::format(path))?;
        let tuned = take_tuned(&mut tensors);
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
        Ok(Self { record, head, tuned, conformal })
    }

    /// What the model makes of its head's logits.
    ///
    /// # Errors
    /// [`TrainError::Head`] for logits that are not finite.
    pub fn predictions(&self, logits: &Logits) -> Result<Predictions, TrainError> {
        Ok(Predictions::calibrated(logits, &self.record.calibration)?)
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
    pub(crate) fn stock(
        &self,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Option<Stock>, TrainError> {
        if let (Some(record), Some(options)) = (&self.record.backbone, &settings.options.backbone)
            && (options.layer, options.precision) != (record.layer, record.precision)
        {
            return Err(TrainError::Usage(format!(
                "the head was fitted on `{}` in {}: `backbone.layer` and `backbone.precision` cannot be changed afterwards",
                record.layer, record.precision
            )));
        }
        self.weights(settings, progress)
    }

    /// As [`stock`](Self::stock), for any layer and precision.
    pub(crate) fn weights(
        &self,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Option<Stock>, TrainError> {
        let (Some(record), Some(options)) = (&self.record.backbone, &settings.options.backbone) else {
            return Ok(None);
        };
        // What lies beside the weights may be another record, or none: that of the run counts.
        let stock = Stock::open_with(options, self.record.preprocessing.as_ref(), progress)?;
        let found = stock.checkpoint().sha256();
        if found != record.sha256 {
            return Err(TrainError::Usage(format!(
                "{} are not the weights that the head was fitted on: their sha256 is {found}, not {} (those were {}); give the right ones with --set backbone.weights=...",
                options.weights, record.sha256, record.source
            )));
        }
        Ok(Some(stock.with_tensors(&self.tuned)?))
    }
}

/// The part of the metadata that every version has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// The tensor with the scores of a method.
fn name_of(method: ConformalMethod) -> String {
    format!("{SCORES}{}", method.as_str())
}

/// Takes the backbone's tensors out of the others.
fn take_tuned(tensors: &mut Tensors) -> Tensors {
    let of_backbone = tensors.extract_if(.., |name, _| name.starts_with(TUNED));
    of_backbone.map(|(name, tensor)| (name[TUNED.len()..].to_owned(), tensor)).collect()
}

/// Takes the conformal scores out of the tensors, so that the head's are left; runs without any have none.
fn take_scores(tensors: &mut Tensors) -> Result<Option<ConformalScores>, String> {
    let found = METHODS.map(|method| tensors.remove(&name_of(method)));
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [lac, aps] =
        found.map(|tensor| tensor.ok_or("is missing".to_owned())?.to_vec1().map_err(|e| e.to_string()));
    let scores = |values: Result<Vec<f32>, String>, method| {
        values.map_err(|problem| format!("tensor `{}`: {problem}", name_of(method)))
    };
    ConformalScores::from_scores(scores(lac, ConformalMethod::Lac)?, scores(aps, ConformalMethod::Aps)?)
        .map(Some)
        .map_err(|error| error.to_string())
}
