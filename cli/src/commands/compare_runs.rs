//! `headstock compare RUN RUN`

use std::path::PathBuf;

use headstock_train::compare::{LeftOutSamples, RunComparison, compare_runs};
use headstock_train::metrics::METRICS;

use super::{CommandContext, pluralize};
use crate::output::{Escaped, align_columns};

/// Compares the runs in `folders` on the photos that none of them was trained on: those of `--config`, or of
/// the config saved in the last run. `seed` determines the bootstrap resamples.
pub(super) fn run(folders: &[PathBuf], seed: u32, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let data_settings = context.global.config.is_some().then(|| context.resolve_settings(&[])).transpose()?;
    // With --config, --set changes that config; otherwise those of the runs.
    let overrides = if data_settings.is_some() { &[][..] } else { &context.global.overrides };
    let mut runs = Vec::new();
    for folder in folders {
        let run = headstock_train::Run::open(folder, &context.registries)?;
        let settings = run.settings(overrides, &context.registries)?;
        runs.push((run, settings));
    }
    let (_, last_settings) = runs.last().expect("at least two runs");
    let data_settings = data_settings.as_ref().unwrap_or(last_settings);
    let comparison = compare_runs(&runs, data_settings, seed, context.bars)?;
    for line in report_lines(&comparison) {
        context.output.print(line)?;
    }
    context.output.print_json(&comparison)?;
    Ok(())
}

/// The lines of the report: how many photos there are, which are left out, and a table with a row per run.
fn report_lines(comparison: &RunComparison) -> Vec<String> {
    let groups_suffix = match comparison.groups {
        Some(groups) => format!(" in {}", pluralize(groups, "group")),
        None => String::new(),
    };
    let n_samples = pluralize(comparison.samples, "photo");
    let mut lines = vec![format!("{n_samples}{groups_suffix} that none of the runs was trained on")];
    lines.extend(format_left_out(comparison.left_out));
    lines.push(String::new());
    let compared = || METRICS.into_iter().filter(|metric| metric.is_compared());
    let header = compared().flat_map(|metric| [metric.name().to_owned(), "vs. first".to_owned()]);
    let fixed = ["run", "head", "trained on"].map(str::to_owned);
    let mut table = vec![fixed.into_iter().chain(header).collect::<Vec<_>>()];
    for (rank, run) in comparison.runs.iter().enumerate() {
        let values = compared().flat_map(|metric| {
            let found = run.metrics[metric];
            let difference = match rank {
                0 => String::new(),
                _ => format!(
                    "{:+.3} ({:+.3} .. {:+.3})",
                    found.difference, found.interval.low, found.interval.high
                ),
            };
            [format!("{:.3}", found.value), difference]
        });
        let fixed = [Escaped(run.run.display()).to_string(), run.head.clone(), run.trained_on.to_string()];
        table.push(fixed.into_iter().chain(values).collect());
    }
    lines.extend(align_columns(table));
    lines.push(format!(
        "\nvs. first: this run minus the first, with the {:.0} % confidence interval",
        comparison.coverage * 100.0
    ));
    lines
}

/// How many photos are left out, by reason; no line if none is.
fn format_left_out(left_out: LeftOutSamples) -> Option<String> {
    let LeftOutSamples { trained_on, group_trained_on, unknown_class, unreadable } = left_out;
    let reasons = [
        (trained_on, "that a run was trained on"),
        (group_trained_on, "of groups that a run was trained on"),
        (unknown_class, "of classes that a run does not have"),
        (unreadable, "that cannot be read"),
    ];
    let parts: Vec<String> = reasons
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{} {reason}", pluralize(*count, "photo")))
        .collect();
    (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
}
