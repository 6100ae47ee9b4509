//! `headstock evaluate`

use headstock_train::evaluate;
use headstock_train::metrics::Metrics;
use headstock_train::run::{ConformalMetrics, TrainTestOverlap};
use serde::Serialize;

use super::{Session, counted, line_of, line_of_sets, lines_of_unseen};
use crate::args::EvaluateArgs;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    #[serde(flatten)]
    metrics: &'a Metrics,
    #[serde(skip_serializing_if = "Option::is_none")]
    conformal: Option<&'a ConformalMetrics>,
    samples: usize,
    skipped: usize,
    same_samples: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trained_on: Option<&'a TrainTestOverlap>,
}

pub(crate) fn run(args: &EvaluateArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let (run, settings) = session.run(&args.run)?;
    let evaluation = evaluate(&run, &settings, &session.heads, session.bars)?;
    if !evaluation.same_samples {
        tracing::info!(
            "these are not the samples that the run was tested on: its own figures are for others"
        );
    }
    let out = &mut *session.output;
    out.line(format!("{} on {}", run.model.record.head.kind, counted(evaluation.samples, "sample")))?;
    out.line(line_of(&evaluation.metrics))?;
    if let Some(conformal) = &evaluation.conformal {
        out.line(line_of_sets(conformal))?;
    }
    for line in evaluation.trained_on.iter().flat_map(lines_of_unseen) {
        out.line(line)?;
    }
    out.figures(&Figures {
        metrics: &evaluation.metrics,
        conformal: evaluation.conformal.as_ref(),
        samples: evaluation.samples,
        skipped: evaluation.skipped,
        same_samples: evaluation.same_samples,
        trained_on: evaluation.trained_on.as_ref(),
    })?;
    Ok(())
}
