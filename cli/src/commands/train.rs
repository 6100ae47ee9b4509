//! `headstock train`

use std::env;
use std::path::{Path, PathBuf};

use headstock_train::compare::Interval;
use headstock_train::metrics::METRICS;
use headstock_train::run::{CalibrationEffect, CalibrationMetrics, CrossValidation, StartMetrics};
use headstock_train::{Run, RunDir, TrainOutcome, resume, train};
use serde::Serialize;

use super::{
    CommandContext, DEFAULT_CONFIG, find_lr, format_conformal, format_unseen, pluralize, program_path,
    shell_quote,
};
use crate::args::TrainArgs;
use crate::output::{Escaped, Output, StdoutError};

/// The setting that trains on all photos.
pub(super) const NO_TEST_SET: &str = "split.test_size=0";

/// The output of `train --json`, also the field `trained` of `compare --json`.
#[derive(Serialize)]
pub(super) struct TrainJson<'a> {
    run: &'a Path,
    head: &'a str,
    #[serde(flatten)]
    metrics: &'a headstock_train::run::RunMetrics,
}

impl<'a> TrainJson<'a> {
    /// The JSON of a trained run; `kind` is the name of its head, such as `svm`.
    pub(super) fn new(outcome: &'a TrainOutcome, kind: &'a str) -> Self {
        Self { run: &outcome.folder, head: kind, metrics: &outcome.metrics }
    }
}

/// Trains a new run and prints its metrics, or continues an interrupted run (`--resume`), or only plots the
/// loss at rising learning rates (`--find-lr`).
pub(crate) fn run(args: &TrainArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    if let Some(folder) = &args.resume {
        let (settings, outcome) = resume(folder, &context.registries, context.bars)?;
        return Ok(print_result(&outcome, settings.head.kind(), context.output)?);
    }
    let head: Vec<String> = args.head.iter().map(|name| format!("head.kind={name}")).collect();
    let folds = args.folds.iter().flat_map(|folds| [NO_TEST_SET.to_owned(), format!("split.folds={folds}")]);
    let settings = context.resolve_settings(&head.into_iter().chain(folds).collect::<Vec<_>>())?;
    if args.find_lr {
        return find_lr::run(&settings, context);
    }
    let run_dir = args.run.clone().map_or(RunDir::Numbered, RunDir::Named);
    let warm_start = args.warm.as_deref().map(|folder| Run::open(folder, &context.registries)).transpose()?;
    let outcome = train(&settings, warm_start.as_ref(), &run_dir, context.bars)?;

    Ok(print_result(&outcome, settings.head.kind(), context.output)?)
}

/// Prints the result of training as text and, with `--json`, as JSON. `kind` is the name of the run's head,
/// such as `svm`.
fn print_result(outcome: &TrainOutcome, kind: &str, out: &mut Output) -> Result<(), StdoutError> {
    log_run_on_error(
        outcome,
        print_summary(outcome, kind, out).and_then(|()| out.print_json(&TrainJson::new(outcome, kind))),
    )
}

/// If printing the results failed (`printed` is an error), logs the folder of the run, which may have taken
/// hours. Returns `printed`.
pub(super) fn log_run_on_error(
    outcome: &TrainOutcome,
    printed: Result<(), StdoutError>,
) -> Result<(), StdoutError> {
    if printed.is_err() {
        tracing::info!("the run was written to {}", outcome.folder.display());
    }
    printed
}

/// Prints the metrics of a new run, and commands to continue with. `kind` is the name of its head, such as
/// `svm`.
pub(super) fn print_summary(outcome: &TrainOutcome, kind: &str, out: &mut Output) -> Result<(), StdoutError> {
    let TrainOutcome { folder, metrics, example } = outcome;
    let counts = &metrics.counts;
    let seconds = &metrics.seconds;
    let tested = match &metrics.cross_validation {
        Some(CrossValidation { folds, groups, .. }) => {
            let groups =
                groups.map_or(String::new(), |n_groups| format!(" of {}", pluralize(n_groups, "group")));
            format!("no test set: the figures are those of {folds}-fold cross-validation{groups}")
        }
        None => format!("tested on {}", counts.test),
    };
    let trained = pluralize(counts.train, "photo");
    out.print(format!("{kind}: {} classes, trained on {trained}, {tested}", counts.classes))?;
    if !metrics.chosen.is_empty() {
        let chosen: Vec<String> =
            metrics.chosen.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        out.print(format!("chosen hyperparameters: {}", chosen.join(", ")))?;
    }
    out.print(metrics.test.to_string())?;
    if let Some(cross_validation) = &metrics.cross_validation {
        out.print(format_intervals(cross_validation))?;
    }
    // A dropped calibration was already reported by a note.
    if let Some(calibration) =
        metrics.calibration.as_ref().filter(|calibration| calibration.dropped.is_none())
    {
        out.print(format_calibration(calibration))?;
    }
    if let Some(conformal) = &metrics.conformal {
        out.print(format_conformal(conformal))?;
    }
    for line in metrics.trained_on.iter().flat_map(format_unseen) {
        out.print(line)?;
    }
    for line in metrics.starts.iter().flat_map(format_starts) {
        out.print(line)?;
    }
    let tuning = seconds.tune.map_or(String::new(), |seconds| format!(", fine-tuning {seconds:.1} s"));
    out.print(format!(
        "time: features {:.1} s ({} computed), fit {:.1} s{tuning}, calibration {:.1} s, test {:.1} s",
        seconds.features, counts.computed, seconds.fit, seconds.calibration, seconds.test
    ))?;
    out.print(format!("run: {}", Escaped(folder.display())))?;
    let program = shell_quote(program_path().display());
    // A different head to try next.
    let other_head = if kind == "svm" { "linear" } else { "svm" };
    out.print("\nnext:")?;
    if let Some(example) = example {
        let example = shell_quote(relative_to_cwd(example).display());
        out.print(format!("  {program} predict {} {example}", shell_quote(folder.display())))?;
    }
    // The config saved in the run contains all overrides, so its features are cached. The other head is
    // fitted without fine-tuning.
    let config = shell_quote(folder.join(DEFAULT_CONFIG).display());
    let frozen_flag = if seconds.tune.is_some() { " --set tune.from=head" } else { "" };
    out.print(format!(
        "  {program} train --config {config} --head {other_head}{frozen_flag}   # takes seconds: features are cached"
    ))?;
    out.print(format!("  {} shows the errors of each class", Escaped(folder.join("report.html").display())))
}

/// Formats the metrics of a warm start beside those of a fit from scratch.
fn format_starts(StartMetrics { samples, warm, cold }: &StartMetrics) -> Vec<String> {
    let n_samples = pluralize(*samples, "test photo");
    vec![
        format!("both starts, on the {n_samples} that the earlier run was not trained on:"),
        format!("  from the earlier run: {warm}"),
        format!("  from scratch:         {cold}"),
    ]
}

/// Formats the confidence intervals of a cross-validation as a line.
fn format_intervals(cross_validation: &CrossValidation) -> String {
    let named = METRICS.iter().filter_map(|metric| {
        let Interval { low, high } = cross_validation.intervals.get(metric.run_key())?;
        Some(format!("{} {low:.3} to {high:.3}", metric.name()))
    });
    let coverage = cross_validation.coverage * 100.0;
    format!("{coverage:.0} % confidence intervals: {}", named.collect::<Vec<_>>().join(", "))
}

/// Formats the effect of calibrating the probabilities as a line: the method, and the metrics of the
/// probabilities on the test set before and after.
fn format_calibration(calibration: &CalibrationMetrics) -> String {
    let method = match calibration.temperature {
        Some(temperature) => format!("temperature {temperature:.3}"),
        None => calibration.method.as_str().to_owned(),
    };
    let CalibrationEffect { before, after } = &calibration.test;
    let changes = before.iter().zip(after.iter());
    let changes: Vec<String> = changes
        .map(|((metric, before), (_, after))| format!("{} {before:.3} -> {after:.3}", metric.name()))
        .collect();
    format!("calibration ({method}): {}", changes.join(", "))
}

/// `path` relative to the current folder if it is inside, so that printed commands are short.
fn relative_to_cwd(path: &Path) -> PathBuf {
    let cwd = env::current_dir().unwrap_or_default();
    path.strip_prefix(&cwd).unwrap_or(path).to_path_buf()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary_lines(kind: &str, metrics: serde_json::Value, example: Option<&str>) -> Vec<String> {
        let metrics = serde_json::from_value(metrics).unwrap();
        let outcome =
            TrainOutcome { folder: "runs/x 1".into(), metrics, example: example.map(PathBuf::from) };
        let text = Output::capture(false, |out| print_summary(&outcome, kind, out).unwrap());
        let program = shell_quote(program_path().display());
        text.lines().map(|line| line.replace(&program, "headstock")).collect()
    }

    #[test]
    fn the_summary_lists_what_was_done_and_the_next_commands() {
        let change = |before: f64| {
            json!({
                "before": { "log_loss": before, "ece": before / 2.0 },
                "after": { "log_loss": 0.125, "ece": 0.0625 },
            })
        };
        let set_metrics = json!({ "coverage": 0.875, "mean_size": 1.25, "empty": 0.0 });
        let mut calibration = change(0.5);
        calibration["out_of_fold"] = change(0.25);
        for (name, value) in [("method", json!("temperature")), ("folds", json!(5)), ("samples", json!(30))] {
            calibration[name] = value;
        }
        calibration["temperature"] = json!(2.0);
        let mut metrics = json!({
            "top1": 0.75, "top5": 1.0, "macro_f1": 0.5, "log_loss": 0.25, "ece": 0.125,
            "counts": { "classes": 3, "train": 30, "test": 10, "views": 0, "skipped": 0, "computed": 4 },
            "chosen": { "C": 0.5, "alpha": 3.0 },
            "calibration": calibration,
            "conformal": { "coverage": 0.9, "lac": set_metrics, "aps": set_metrics },
            "seconds": { "features": 1.0, "fit": 2.0, "calibration": 3.0, "tune": 4.0, "test": 5.0 },
        });
        let metrics_line = "accuracy 0.750   top-5 accuracy 1.000   macro F1 0.500   log-loss 0.250   calibration error 0.125";
        let report = "  runs/x 1/report.html shows the errors of each class";
        let expected = [
            "linear: 3 classes, trained on 30 photos, tested on 10",
            "chosen hyperparameters: C = 0.5, alpha = 3",
            metrics_line,
            "calibration (temperature 2.000): log-loss 0.500 -> 0.125, calibration error 0.250 -> 0.062",
            "conformal sets (target coverage 0.90): LAC coverage 0.875, mean size 1.25; APS coverage 0.875, mean size 1.25",
            "time: features 1.0 s (4 computed), fit 2.0 s, fine-tuning 4.0 s, calibration 3.0 s, test 5.0 s",
            "run: runs/x 1",
            "",
            "next:",
            "  headstock predict 'runs/x 1' 'a b.jpg'",
            "  headstock train --config 'runs/x 1/headstock.toml' --head svm --set tune.from=head   # takes seconds: features are cached",
            report,
        ];
        assert_eq!(summary_lines("linear", metrics.clone(), Some("a b.jpg")), expected);

        // Methods without a temperature are shown by name.
        metrics["calibration"]["method"] = json!("isotonic");
        metrics["calibration"].as_object_mut().unwrap().remove("temperature");
        let isotonic = summary_lines("linear", metrics.clone(), None);
        assert!(isotonic[3].starts_with("calibration (isotonic): log-loss "), "{isotonic:#?}");
        // Dropped calibration and steps that did not run are not shown.
        metrics["calibration"]["dropped"] = json!("isotonic");
        metrics["seconds"].as_object_mut().unwrap().remove("tune");
        for name in ["chosen", "conformal"] {
            metrics.as_object_mut().unwrap().remove(name);
        }
        let shorter = [
            "svm: 3 classes, trained on 30 photos, tested on 10",
            metrics_line,
            "time: features 1.0 s (4 computed), fit 2.0 s, calibration 3.0 s, test 5.0 s",
            "run: runs/x 1",
            "",
            "next:",
            "  headstock train --config 'runs/x 1/headstock.toml' --head linear   # takes seconds: features are cached",
            report,
        ];
        assert_eq!(summary_lines("svm", metrics, None), shorter);
    }

    #[test]
    fn paths_in_the_current_folder_are_shown_relative_to_it() {
        let cwd = env::current_dir().unwrap();
        assert_eq!(relative_to_cwd(&cwd.join("photos/a.jpg")), Path::new("photos/a.jpg"));
        assert_eq!(relative_to_cwd(Path::new("/elsewhere/a.jpg")), Path::new("/elsewhere/a.jpg"));
    }
}
