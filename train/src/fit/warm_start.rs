//! Warm start from an earlier run.

use headstock_heads::Tensors;
use headstock_inference::BackboneRecord;

use crate::config::Settings;
use crate::error::{Remedy, TrainError};
use crate::prepared_data::PreparedData;
use crate::run::Run;

/// Checks that the head of `run` fits the data and the `settings`, and returns its tensors, from which the
/// fit of the new head starts. `None`, with a log message, if that kind of head does not support a warm
/// start. `backbone` describes the backbone that computed the features of `prepared`; `None` for precomputed
/// features.
///
/// # Errors
/// [`TrainError::Usage`] if the run's head is of a different kind or was fitted on different features.
pub(super) fn warm_start_tensors(
    run: &Run,
    settings: &Settings,
    backbone: Option<&BackboneRecord>,
    prepared: &PreparedData,
) -> Result<Option<Tensors>, TrainError> {
    let (record, kind) = (&run.model.record, settings.head.kind());
    let usage_error = |problem: &str, remedy: Remedy| {
        let message = format!("the training cannot start from {}: {problem}", run.folder.display());
        Err(TrainError::Usage(message).with_remedy(remedy))
    };
    if record.head.kind != kind {
        let run_kind = &record.head.kind;
        let problem = format!("the run has the head `{run_kind}`, but the head `{kind}` was chosen");
        return usage_error(&problem, Remedy::WarmStartHead(run_kind.clone()));
    }
    let feature_settings = |backbone: &BackboneRecord| {
        (backbone.sha256.clone(), backbone.layer, backbone.precision, backbone.tuned)
    };
    if record.backbone.as_ref().map(feature_settings) != backbone.map(feature_settings)
        || record.width != prepared.features.width()
    {
        return usage_error(
            "the run was trained on different features: the backbone's weights, fine-tuned stages, layer or \
             precision differ from the config; choose a run with the same backbone settings",
            Remedy::NoWarmStart,
        );
    }
    // The classes of the run come first in `prepared`.
    let new_classes = &prepared.samples.classes.names()[record.classes.len()..];
    if !new_classes.is_empty() {
        tracing::info!(
            "new classes, added to the {} classes of {}: {}",
            record.classes.len(),
            run.folder.display(),
            new_classes.join(", ")
        );
    }
    if !settings.head.supports_warm_start() {
        tracing::info!(
            "the head `{kind}` does not support a warm start (going on from an earlier head): the head is \
             fitted from scratch, and the classes keep the order that they have in the run {}",
            run.folder.display()
        );
        return Ok(None);
    }
    Ok(Some(run.model.head.tensors()?))
}
