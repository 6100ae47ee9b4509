//! Starting from an earlier run.

use headstock_heads::Tensors;

use crate::config::Settings;
use crate::error::TrainError;
use crate::prepared_data::PreparedData;
use crate::run::{BackboneRecord, Run};

/// The tensors of the run's head, to start a fit of the head of `settings` from; none where that head cannot start from any,
/// which a line says.
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
        return usage(format!("it holds a `{}`, from which no `{kind}` can start", record.head.kind));
    }
    let features = |of: &BackboneRecord| (of.sha256.clone(), of.layer, of.precision, of.tuned);
    if record.backbone.as_ref().map(features) != backbone.map(features)
        || record.width != prepared.features.width()
    {
        return usage(
            "it was fitted on other features: its weights, what of them is tuned, layer or precision are not those of the settings"
                .into(),
        );
    }
    let new = &prepared.samples.classes.names()[record.classes.len()..];
    if !new.is_empty() {
        tracing::info!(
            "new classes, after the {} of {}: {}",
            record.classes.len(),
            run.folder.display(),
            new.join(", ")
        );
    }
    if !settings.head.supports_warm_start() {
        tracing::info!(
            "`{kind}` is fitted from nothing: of {} only the order of the classes is kept",
            run.folder.display()
        );
        return Ok(None);
    }
    Ok(Some(run.model.head.tensors()?))
}
