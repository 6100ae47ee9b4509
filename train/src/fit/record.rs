//! What a run records of how it was trained.

use std::path::Path;

use headstock_backbone::Preprocessing;

use crate::config::{Options, Settings};
use crate::features::PretrainedBackbone;
use crate::run::{BackboneRecord, HeadRecord};

/// The requested head and its parameters.
pub(crate) fn head_record(settings: &Settings) -> HeadRecord {
    HeadRecord { kind: settings.head.kind().into(), parameters: settings.head.table() }
}

/// The preprocessing and the backbone.
pub(crate) fn backbone_record(pretrained: &PretrainedBackbone) -> (Preprocessing, BackboneRecord) {
    let checkpoint = pretrained.checkpoint();
    let backbone = BackboneRecord {
        architecture: checkpoint.architecture().to_string(),
        source: weights_source(pretrained),
        sha256: checkpoint.sha256().into(),
        layer: pretrained.options().layer,
        precision: pretrained.options().precision,
        tuned: None,
    };
    (checkpoint.preprocessing().clone(), backbone)
}

/// Origin of the weights. For a local file only its name, so that the same training elsewhere writes the same
/// bytes.
fn weights_source(pretrained: &PretrainedBackbone) -> String {
    let weights = &pretrained.options().weights;
    if weights.starts_with("hf://") {
        return pretrained.checkpoint().origin().into();
    }
    Path::new(weights).file_name().map_or_else(|| weights.clone(), |name| name.to_string_lossy().into_owned())
}

/// The config as TOML, with a hub branch replaced by its commit, so that the same weights are used next time.
pub(crate) fn resolved_config(settings: &Settings, pretrained: Option<&PretrainedBackbone>) -> String {
    let mut options: Options = settings.options.clone();
    if let (Some(backbone), Some(pretrained)) = (&mut options.backbone, pretrained)
        && backbone.weights.starts_with("hf://")
    {
        backbone.weights = pretrained.checkpoint().origin().into();
    }
    options.to_toml()
}
