//! What a run records of how it was trained.

use headstock_inference::{HeadRecord, PretrainedBackbone};

use crate::config::Settings;

/// The kind of head that the settings request and its hyperparameters, as the run's model file stores them.
pub(crate) fn head_record(settings: &Settings) -> HeadRecord {
    HeadRecord { kind: settings.head.kind().into(), parameters: settings.head.table() }
}

/// The text of the run's config file: the settings as TOML. A branch in the `hf://` name of the weights is
/// replaced by the commit that `pretrained` was opened from, so that the next command uses the same weights.
pub(crate) fn resolved_config(settings: &Settings, pretrained: Option<&PretrainedBackbone>) -> String {
    let mut options = settings.to_options();
    if let (Some(backbone), Some(pretrained)) = (&mut options.backbone, pretrained)
        && backbone.weights.starts_with("hf://")
    {
        backbone.weights = pretrained.checkpoint().origin().into();
    }
    options.to_toml()
}
