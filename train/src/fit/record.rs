//! What a run says of how it was made.

use std::path::Path;

use headstock_backbone::Preprocessing;

use crate::config::{Options, Settings};
use crate::features::PretrainedBackbone;
use crate::run::{BackboneRecord, HeadRecord};

/// The head as it was asked for.
pub(crate) fn head_record(settings: &Settings) -> HeadRecord {
    HeadRecord { kind: settings.head.kind().into(), parameters: settings.head.table() }
}

/// How photos are prepared, and what makes their features.
pub(crate) fn backbone_record(stock: &PretrainedBackbone) -> (Preprocessing, BackboneRecord) {
    let checkpoint = stock.checkpoint();
    let backbone = BackboneRecord {
        architecture: checkpoint.architecture().to_string(),
        source: weights_source(stock),
        sha256: checkpoint.sha256().into(),
        layer: stock.options().layer,
        precision: stock.options().precision,
        tuned: None,
    };
    (checkpoint.preprocessing().clone(), backbone)
}

/// Where the weights came from, without the folders above a local file: the same run elsewhere has the same bytes.
fn weights_source(stock: &PretrainedBackbone) -> String {
    let weights = &stock.options().weights;
    if weights.starts_with("hf://") {
        return stock.checkpoint().origin().into();
    }
    Path::new(weights).file_name().map_or_else(|| weights.clone(), |name| name.to_string_lossy().into_owned())
}

/// The settings, with the commit that a branch of the hub stood at: the same weights the next time.
pub(crate) fn resolved_config(settings: &Settings, stock: Option<&PretrainedBackbone>) -> String {
    let mut options: Options = settings.options.clone();
    if let (Some(backbone), Some(stock)) = (&mut options.backbone, stock)
        && backbone.weights.starts_with("hf://")
    {
        backbone.weights = stock.checkpoint().origin().into();
    }
    options.to_toml()
}
