//! `headstock evaluate`

use headstock_train::evaluate;

use super::{CommandContext, format_conformal, format_unseen, pluralize};
use crate::args::EvaluateArgs;

/// Tests a trained run again, on the test images of the run's own settings or of `--config`, and prints the
/// metrics.
pub(crate) fn run(args: &EvaluateArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let (run, settings) = context.open_run(&args.run, args.weights.weights.as_deref(), &[])?;
    let evaluation = evaluate(&run, &settings, &context.registries, context.bars)?;
    if !evaluation.same_samples {
        tracing::info!(
            "these are not the photos that the run was first tested on, so the results cannot be compared \
             with the metrics saved in the run"
        );
    }
    let out = &mut *context.output;
    out.print(format!(
        "{}: tested on {}",
        run.model.record.head.kind,
        pluralize(evaluation.samples, "photo")
    ))?;
    out.print(evaluation.metrics.to_string())?;
    if let Some(conformal) = &evaluation.conformal {
        out.print(format_conformal(conformal))?;
    }
    match &evaluation.trained_on {
        Some(overlap) => {
            for line in format_unseen(overlap) {
                out.print(line)?;
            }
        }
        None => out.print("test photos that were in the training data: unknown")?,
    }
    out.print_json(&evaluation)?;
    Ok(())
}
