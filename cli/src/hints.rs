//! The flag or the key of the config that helps against an error of a library, which knows neither.

use std::error::Error;

use headstock_inference::InferenceError;
use headstock_train::TrainError;

/// The hint for the first error in the chain of causes that has one.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    let by_crate = [train_hint, inference_hint];
    error.chain().find_map(|cause| by_crate.iter().find_map(|hint| hint(cause)))
}

/// The hint for an error of `headstock-train`.
fn train_hint(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref()? {
        // A transparent error: the chain does not contain the one inside.
        TrainError::Inference(error) => inference_hint(error),
        _ => None,
    }
}

/// The hint for an error of `headstock-inference`.
fn inference_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hint = match error.downcast_ref()? {
        InferenceError::NoConformalScores => {
            "`--coverage` needs a run that was trained with `calibration = \"temperature\"` at the top of the \
             config"
        }
        InferenceError::NoBackbone => "`data.folder` in the config names a folder of photos",
        InferenceError::OtherWeights { .. } => "--set backbone.weights=PATH names the weights",
        InferenceError::OtherFeatures { .. } => {
            "leave `backbone.layer` and `backbone.precision` as they are in the run"
        }
        InferenceError::NotARun { .. } => "`headstock train` writes a run",
        _ => return None,
    };
    Some(hint.to_owned())
}
