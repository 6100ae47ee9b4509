//! `model.safetensors`: the head's tensors, and in the metadata what they are to be used with.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::Device;
use headstock_backbone::{Layer, Precision, Preprocessing};
use headstock_heads::{FittedHead, Registry, Tensors};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::error::TrainError;
use crate::features::Stock;
use crate::progress::Progress;

/// The one entry of the metadata. safetensors keeps its metadata in a hash map, whose order differs from run to run:
/// with a single entry the same model is the same bytes.
const ENTRY: &str = "headstock";

/// The version of the file.
const FORMAT: u32 = 1;

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

/// How logits become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Calibration {
    /// Softmax as it is.
    None,
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
}

impl ModelRecord {
    /// Fills in what every model has.
    pub(crate) fn new(
        head: HeadRecord,
        classes: Vec<String>,
        width: usize,
        stock: Option<(Preprocessing, BackboneRecord)>,
    ) -> Self {
        let (preprocessing, backbone) = stock.unzip();
        Self { format: FORMAT, head, classes, width, preprocessing, backbone, calibration: Calibration::None }
    }
}

/// A fitted head and what it needs.
pub struct Model {
    /// What stands in the metadata.
    pub record: ModelRecord,
    /// The head.
    pub head: FittedHead,
}

impl Model {
    /// The bytes of the file.
    pub(crate) fn to_bytes(record: &ModelRecord, tensors: &Tensors) -> Result<Vec<u8>, TrainError> {
        let metadata = serde_json::to_string(record).expect("a record is JSON");
        let metadata = HashMap::from([(ENTRY.to_owned(), metadata)]);
        safetensors::serialize(tensors.iter(), Some(metadata)).map_err(|error| {
            TrainError::Data(format!("the head `{}` cannot be saved: {error}", record.head.kind))
        })
    }

    /// Reads the file.
    pub(super) fn read(path: &Path, heads: &Registry) -> Result<Self, TrainError> {
        let bytes = fs::read(path).map_err(TrainError::io("read", path))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(TrainError::format(path))?;
        let entry = header.metadata().as_ref().and_then(|metadata| metadata.get(ENTRY));
        let entry = entry.ok_or_else(|| TrainError::format(path)("it was not written by headstock"))?;
        let version: Version = serde_json::from_str(entry).map_err(TrainError::format(path))?;
        if version.format != FORMAT {
            let problem = format!("its format is {}, and this headstock reads {FORMAT}", version.format);
            return Err(TrainError::format(path)(problem));
        }
        let record: ModelRecord = serde_json::from_str(entry).map_err(TrainError::format(path))?;
        let tensors: Tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(TrainError::format(path))?
            .into_iter()
            .collect();
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
        Ok(Self { record, head })
    }
}

impl Model {
    /// The weights that the head was fitted on, found where `settings` say; none where either knows only features.
    pub(crate) fn stock(
        &self,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Option<Stock>, TrainError> {
        let (Some(record), Some(options)) = (&self.record.backbone, &settings.options.backbone) else {
            return Ok(None);
        };
        if (options.layer, options.precision) != (record.layer, record.precision) {
            return Err(TrainError::Usage(format!(
                "the head was fitted on `{}` in {}: `backbone.layer` and `backbone.precision` cannot be changed afterwards",
                record.layer, record.precision
            )));
        }
        // What lies beside the weights may be another record, or none: that of the run counts.
        let stock = Stock::open_with(options, self.record.preprocessing.as_ref(), progress)?;
        let found = stock.checkpoint().sha256();
        if found != record.sha256 {
            return Err(TrainError::Usage(format!(
                "{} are not the weights that the head was fitted on: their sha256 is {found}, not {} (those were {}); give the right ones with --set backbone.weights=...",
                options.weights, record.sha256, record.source
            )));
        }
        Ok(Some(stock))
    }
}

/// The part of the metadata that every version has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}
