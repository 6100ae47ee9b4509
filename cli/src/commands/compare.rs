//! `headstock compare`

use headstock_train::compare::{
    CandidateResult, CandidateScores, CandidateStatus, CompareOptions, Comparison, ComparisonFile, SharedKey,
    candidates_with_keys, compare,
};
use headstock_train::config::{Config, Settings};
use headstock_train::metrics::{METRICS, Metric};
use headstock_train::{PreparedData, RunDir, TrainError};
use indicatif::HumanBytes;
use serde::Serialize;

use super::{CommandContext, compare_runs, pluralize, program_path, shell_quote, train};
use crate::args::CompareArgs;
use crate::output::{Escaped, align_columns};

/// The output of `compare --json`.
#[derive(Serialize)]
struct CompareJson<'a> {
    #[serde(flatten)]
    comparison: &'a Comparison,
    /// The run of the best candidate, with `--take-best`.
    #[serde(skip_serializing_if = "Option::is_none")]
    trained: Option<train::TrainJson<'a>>,
}

/// Cross-validates the candidates (heads with hyperparameters) on features of the frozen backbone, prints the
/// table, and trains the best one on the whole training set (`--take-best`) or prints the command that does.
/// That the output file and the run can be written is checked before the long work.
pub(crate) fn run(args: &CompareArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    if !args.runs.is_empty() {
        return compare_runs::run(&args.runs, args.seed, context);
    }
    let (head_keys, overrides) =
        Config::separate_head_keys(&context.global.overrides).map_err(TrainError::from)?;
    context.global.overrides = overrides;
    let settings = context.resolve_settings(&[])?.with_frozen_backbone();
    let heads = &context.registries.heads;
    let (to_compare, shared_keys) =
        candidates_with_keys(&settings, heads, args.heads.as_deref(), &head_keys)?;
    log_shared_keys(&shared_keys);
    let file = args.out.as_deref().map(ComparisonFile::new).transpose()?;
    let run_dir = args.run.clone().map_or(RunDir::Numbered, RunDir::Named);
    let reservation = if args.take_best { Some(run_dir.reserve(&settings.source)?) } else { None };

    let mut prepared = PreparedData::prepare(&settings, context.bars)?;
    let options = CompareOptions {
        folds: args.folds as usize,
        seed: args.seed,
        metric: args.metric,
        budget: args.budget,
    };
    let comparison = compare(&prepared, &to_compare, &options, context.bars)?;
    if let Some(file) = &file {
        file.write(&comparison)?;
    }
    let shown = if args.all { comparison.candidates.iter().collect() } else { comparison.best_per_head() };
    log_warnings(&shown);
    for line in report_lines(&comparison, &shown) {
        context.output.print(line)?;
    }

    let Some(best) = comparison.best() else {
        context.output.print_json(&CompareJson { comparison: &comparison, trained: None })?;
        let problem =
            "no head could be fitted in every fold: the report above gives the reason for each head";
        return Err(TrainError::Data(problem.into()).into());
    };
    let Some(reservation) = reservation else {
        let command = train_command(best, &settings, context)?;
        context.output.print(format!("\nnext:\n  {command}"))?;
        if !settings.split.has_no_test_set() {
            context.output.print(format!(
                "  {command} --set {}   # the same on all photos, without a test set",
                train::NO_TEST_SET
            ))?;
        }
        context.output.print_json(&CompareJson { comparison: &comparison, trained: None })?;
        return Ok(());
    };
    // Show the table before the run is trained.
    context.output.flush()?;
    let settings = settings
        .with_head(&best.head, &best.parameters, &context.registries.heads)
        .map_err(TrainError::from)?;
    // `None`: the head is not warm-started from another run.
    let outcome = prepared.train(&settings, None, reservation, context.bars)?;
    let (kind, out) = (settings.head.kind(), &mut *context.output);
    let printed = out.print("").and_then(|()| train::print_summary(&outcome, kind, out)).and_then(|()| {
        let trained = Some(train::TrainJson::new(&outcome, kind));
        out.print_json(&CompareJson { comparison: &comparison, trained })
    });
    Ok(train::log_run_on_error(&outcome, printed)?)
}

/// Logs a line for each key of `--set` that not all of the compared heads have.
fn log_shared_keys(keys: &[SharedKey]) {
    for SharedKey { key, heads, heads_without } in keys.iter().filter(|key| !key.heads_without.is_empty()) {
        tracing::info!(
            "--set head.{key} is set for {}; these heads do not have the key: {}",
            heads.join(", "),
            heads_without.join(", ")
        );
    }
}

/// Logs a line for each shown candidate whose fits gave warnings, such as missing convergence: the first
/// warning, and the number of others.
fn log_warnings(shown: &[&CandidateResult]) {
    for candidate in shown {
        let Some(CandidateScores { warnings, .. }) = candidate.scores() else { continue };
        if let Some(first) = warnings.first() {
            let suffix = match warnings.len() - 1 {
                0 => String::new(),
                n_more => format!(" (and {})", pluralize(n_more, "similar warning")),
            };
            tracing::warn!("{}: {first}{suffix}", candidate_name(candidate));
        }
    }
}

/// The name of a candidate in messages: the head, with the hyperparameters that differ from their defaults,
/// as in `svm (C = 0.1)`.
fn candidate_name(candidate: &CandidateResult) -> String {
    match candidate.describe_changes() {
        described if described.is_empty() => candidate.head.clone(),
        described => format!("{} ({described})", candidate.head),
    }
}

/// The lines of the report that `compare` prints: a title, the table, failures and notes. `shown` are the
/// candidates of the table: the best of each head or, with `--all`, all. The best comes first.
fn report_lines(comparison: &Comparison, shown: &[&CandidateResult]) -> Vec<String> {
    let groups_suffix = match comparison.groups {
        Some(groups) => format!(" in {}", pluralize(groups, "group")),
        None => String::new(),
    };
    let metric = comparison.metric.name();
    let mut lines = vec![format!(
        "{}-fold cross-validation on {}{groups_suffix}, {} classes: {} ranked by {metric} in {:.1} s\n",
        comparison.folds,
        pluralize(comparison.samples, "photo"),
        comparison.classes,
        pluralize(
            comparison.candidates.iter().filter(|candidate| candidate.scores().is_some()).count(),
            "candidate"
        ),
        comparison.seconds
    )];
    let compared: Vec<(&CandidateResult, &CandidateScores)> =
        shown.iter().filter_map(|candidate| Some((*candidate, candidate.scores()?))).collect();
    if !compared.is_empty() {
        lines.extend(table_lines(comparison.metric, &compared));
    }
    for candidate in shown {
        if let CandidateStatus::Failed { error } = &candidate.status {
            lines.push(format!("  {} failed: {}", candidate_name(candidate), Escaped(error)));
        }
    }
    if compared.iter().skip(1).any(|(_, scores)| scores.tied) {
        lines.push(format!(
            "\n~ not significantly worse than the best: the {:.0} % confidence interval of the difference includes 0",
            comparison.coverage * 100.0
        ));
    }
    let not_tried: Vec<String> = comparison
        .candidates
        .iter()
        .filter(|candidate| candidate.status == CandidateStatus::LeftOut)
        .map(candidate_name)
        .collect();
    if !not_tried.is_empty() {
        lines.push(format!(
            "\nnot tried because the time limit (--budget) was reached: {}",
            not_tried.join(", ")
        ));
    }
    lines
}

/// The lines of the table: a header and a line per candidate of `rows`, the best first. The column after that
/// of the ranking metric has the confidence interval of the difference, the candidate minus the best. A `~`
/// marks candidates that may be as good as the best.
fn table_lines(ranking: &dyn Metric, rows: &[(&CandidateResult, &CandidateScores)]) -> Vec<String> {
    let compared = || METRICS.into_iter().filter(|metric| metric.is_compared());
    // Of each metric its field, and after that of the ranking metric a field with the interval.
    let metric_fields = |field: &dyn Fn(&dyn Metric) -> String, interval: String| {
        let fields = compared().flat_map(|metric| {
            [Some(field(metric)), (metric.key() == ranking.key()).then(|| interval.clone())]
        });
        fields.flatten().collect::<Vec<_>>()
    };
    let header = metric_fields(&|metric| metric.name().to_owned(), "vs. best".to_owned());
    let trailing = ["fit", "predict", "size", "hyperparameters"].map(str::to_owned);
    let mut table = vec![[vec!["  head".to_owned()], header, trailing.to_vec()].concat()];
    for (rank, (candidate, scores)) in rows.iter().enumerate() {
        let is_best = rank == 0;
        let to_best = scores.metrics[ranking].to_best;
        let interval =
            if is_best { "best".to_owned() } else { format!("{:+.3} .. {:+.3}", to_best.low, to_best.high) };
        let mark = if scores.tied && !is_best { "~" } else { " " };
        let trailing = [
            format!("{:.2} s", scores.fit_seconds),
            format!("{:.3} s", scores.predict_seconds),
            HumanBytes(scores.bytes).to_string(),
            candidate.describe_changes(),
        ];
        let values = metric_fields(&|metric| format!("{:.3}", scores.metrics[metric].value), interval);
        table.push([vec![format!("{mark} {}", candidate.head)], values, trailing.to_vec()].concat());
    }
    align_columns(table)
}

/// The shell command that trains the best candidate on the same data, printed as the next step: `train` with
/// the user's `--config` and `--set`, and a `--set` for each hyperparameter that would otherwise differ.
fn train_command(
    best: &CandidateResult,
    settings: &Settings,
    context: &CommandContext<'_>,
) -> Result<String, TrainError> {
    let mut words = vec![program_path().display().to_string(), "train".to_owned()];
    if let Some(config) = &context.global.config {
        words.extend(["--config".to_owned(), config.display().to_string()]);
    }
    let is_same_head = best.head == settings.head.kind();
    // The hyperparameters that `train` would use without `--set`. With a `--head` other than the config's, it
    // ignores `[head]` and begins with the defaults.
    let inherited = if is_same_head {
        settings.head.table()
    } else {
        let kind =
            context.registries.heads.get(&best.head).map_err(|error| TrainError::Usage(error.to_string()))?;
        words.extend(["--head".to_owned(), best.head.clone()]);
        kind.configure(toml::Table::new())?.table()
    };
    // Of the keys of `[head]` only the kind is among the overrides; the others are in `best.parameters`.
    for assignment in
        context.global.overrides.iter().filter(|set| is_same_head || !set.trim_start().starts_with("head."))
    {
        words.extend(["--set".to_owned(), assignment.clone()]);
    }
    for (key, value) in best.parameters.iter().filter(|(key, value)| inherited.get(*key) != Some(*value)) {
        words.extend(["--set".to_owned(), format!("head.{key}={value}")]);
    }
    Ok(words.iter().map(shell_quote).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use headstock_train::compare::{Interval, MetricEstimate};
    use headstock_train::metrics::{Accuracy, CalibrationError, LogLoss, MacroF1};

    use super::*;

    fn estimate(value: f64) -> MetricEstimate {
        MetricEstimate { value, to_best: Interval { low: -value, high: value / 2.0 } }
    }

    fn candidate(head: &str, changed: &str, status: CandidateStatus) -> CandidateResult {
        let changed: toml::Table = changed.parse().unwrap();
        CandidateResult { head: head.into(), parameters: changed.clone(), changed, status }
    }

    fn compared(accuracy: f64, tied: bool) -> CandidateStatus {
        let metrics: [(&dyn Metric, MetricEstimate); 4] = [
            (&Accuracy, estimate(accuracy)),
            (&MacroF1, estimate(0.25)),
            (&LogLoss, estimate(0.5)),
            (&CalibrationError, estimate(0.125)),
        ];
        CandidateStatus::Compared(Box::new(CandidateScores {
            metrics: metrics.into_iter().collect(),
            tied,
            temperatures: vec![1.0, 2.0],
            fit_seconds: 1.5,
            predict_seconds: 0.0625,
            bytes: 2048,
            chosen: Vec::new(),
            warnings: Vec::new(),
        }))
    }

    fn comparison(candidates: Vec<CandidateResult>) -> Comparison {
        Comparison {
            comparison: 1,
            metric: &Accuracy,
            folds: 2,
            seed: 0,
            samples: 1,
            groups: None,
            classes: 3,
            features: 4,
            views: 0,
            resamples: 10,
            coverage: 0.95,
            passed_over: std::collections::BTreeMap::new(),
            seconds: 2.25,
            candidates,
        }
    }

    #[test]
    fn the_report_has_compared_failed_and_untried_candidates() {
        let result = comparison(vec![
            candidate("svm", "C = 0.5", compared(0.75, true)),
            candidate("linear", "", compared(0.625, true)),
            candidate("knn", "k = 3", compared(0.5, false)),
            candidate("lda", "", CandidateStatus::Failed { error: "no\tvariance".into() }),
            candidate("mlp", "", CandidateStatus::LeftOut),
            candidate("mlp", "hidden = 8", CandidateStatus::LeftOut),
        ]);
        let rows: Vec<&CandidateResult> = result.candidates.iter().collect();
        let lines = report_lines(&result, &rows);
        let expected = [
            "2-fold cross-validation on 1 photo, 3 classes: 3 candidates ranked by accuracy in 2.2 s\n",
            "  head    accuracy          vs. best  macro F1  log-loss  calibration error     fit  predict      size  hyperparameters",
            "  svm        0.750              best     0.250     0.500              0.125  1.50 s  0.062 s  2.00 KiB  C = 0.5",
            "~ linear     0.625  -0.625 .. +0.312     0.250     0.500              0.125  1.50 s  0.062 s  2.00 KiB",
            "  knn        0.500  -0.500 .. +0.250     0.250     0.500              0.125  1.50 s  0.062 s  2.00 KiB  k = 3",
            r"  lda failed: no\tvariance",
            "\n~ not significantly worse than the best: the 95 % confidence interval of the difference includes 0",
            "\nnot tried because the time limit (--budget) was reached: mlp, mlp (hidden = 8)",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_single_candidate_has_no_ties() {
        let mut result = comparison(vec![candidate("svm", "", compared(0.75, true))]);
        (result.groups, result.metric, result.samples) = (Some(1), &LogLoss, 9);
        let lines = report_lines(&result, &result.candidates.iter().collect::<Vec<_>>());
        let expected = "2-fold cross-validation on 9 photos in 1 group, 3 classes: 1 candidate ranked by log-loss in 2.2 s\n";
        assert_eq!((lines.len(), lines[0].as_str()), (3, expected), "no line about ties: {lines:#?}");
        let failed =
            comparison(vec![candidate("lda", "", CandidateStatus::Failed { error: "singular".into() })]);
        let lines = report_lines(&failed, &failed.candidates.iter().collect::<Vec<_>>());
        assert_eq!(lines[1..], ["  lda failed: singular"], "no empty table");
    }
}
