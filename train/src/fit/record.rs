//! What a run records of how it was trained.

use std::path::Path;

use headstock_backbone::Preprocessing;

use crate::config::{Options, Settings};
use crate::features::PretrainedBackbone;
use crate::run::{BackboneRecord, HeadRecord};

/// The kind of head that the settings request and its hyperparameters, as the run's model file stores them.
pub(crate) fn head_record(settings: &Settings) -> HeadRecord {
    HeadRecord { kind: settings.head.kind().into(), parameters: settings.head.table() }
}

/// The preprocessing of images and the description of the backbone `pretrained`, as the run's model file
/// stores them. The backbone is frozen; fine-tuning sets `tuned` afterwards.
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

/// The origin of the weights, as the run's model file stores it: the `hf://` name with the commit, or only
/// the name of a local file or folder, so that the same training in a different place writes the same bytes.
fn weights_source(pretrained: &PretrainedBackbone) -> String {
    let weights = &pretrained.options().weights;
    if weights.starts_with("hf://") {
        return pretrained.checkpoint().origin().into();
    }
    Path::new(weights).file_name().map_or_else(|| weights.clone(), |name| name.to_string_lossy().into_owned())
}

/// The text of the run's config file: the settings as TOML. A branch in the `hf://` name of the weights is
/// replaced by the commit that `pretrained` was opened from, so that the next command uses the same weights.
pub(crate) fn resolved_config(settings: &Settings, pretrained: Option<&PretrainedBackbone>) -> String {
    let mut options: Options = settings.options.clone();
    if let (Some(backbone), Some(pretrained)) = (&mut options.backbone, pretrained)
        && backbone.weights.starts_with("hf://")
    {
        backbone.weights = pretrained.checkpoint().origin().into();
    }
    options.to_toml()
}
