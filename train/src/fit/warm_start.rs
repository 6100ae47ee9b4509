//! Warm start from an earlier run.

use headstock_heads::Tensors;

use crate::config::Settings;
use crate::error::TrainError;
use crate::prepared_data::PreparedData;
use crate::run::{BackboneRecord, Run};

/// The tensors of the run's head, to start the fit of the head of `settings`; `None`, with a log message, if
/// that head does not support a warm start.
pub(super) fn warm_start_tensors(
    run: &Run,
    settings: &Settings,
    backbone: Option<&BackboneRecord>,
    prepared: &PreparedData,
) -> Result<Option<Tensors>, TrainError> {
    let (record, kind) = (&run.model.record, settings.head.kind());
    let usage =
        |problem: String| Err(TrainError::Usage(format!("--warm {}: {problem}", run.folder.display())));
    if record.head.kind != kind {
        return usage(format!(
            "it has a `{}` head, from which a `{kind}` head cannot start",
            record.head.kind
        ));
    }
    let features = |backbone: &BackboneRecord| {
        (backbone.sha256.clone(), backbone.layer, backbone.precision, backbone.tuned)
    };
    if record.backbone.as_ref().map(features) != backbone.map(features)
        || record.width != prepared.features.width()
    {
        return usage(
            "it was fitted on other features: the backbone's weights, fine-tuned stages, layer or precision differ from the \
             settings"
                .into(),
        );
    }
    let new_classes = &prepared.samples.classes.names()[record.classes.len()..];
    if !new_classes.is_empty() {
        tracing::info!(
            "new classes, after the {} of {}: {}",
            record.classes.len(),
            run.folder.display(),
            new_classes.join(", ")
        );
    }
    if !settings.head.supports_warm_start() {
        tracing::info!(
            "`{kind}` does not support a warm start: only the class order of {} is used",
            run.folder.display()
        );
        return Ok(None);
    }
    Ok(Some(run.model.head.tensors()?))
}
