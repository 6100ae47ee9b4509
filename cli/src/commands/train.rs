//! `headstock train`

use std::env;
use std::path::{Path, PathBuf};

use headstock_train::run::CalibrationMetrics;
use headstock_train::{Run, RunDir, TrainOutcome, resume, train};
use serde::Serialize;

use super::{CONFIG, Session, find_lr, line_of, line_of_sets, lines_of_unseen, program, quoted};
use crate::args::TrainArgs;
use crate::output::{Output, StdoutError};

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct Figures<'a> {
    run: &'a Path,
    head: &'a str,
    #[serde(flatten)]
    metrics: &'a headstock_train::run::RunMetrics,
}

impl<'a> Figures<'a> {
    pub(super) fn new(outcome: &'a TrainOutcome, kind: &'a str) -> Self {
        Self { run: &outcome.folder, head: kind, metrics: &outcome.metrics }
    }
}

pub(crate) fn run(args: &TrainArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    if let Some(folder) = &args.resume {
        let (settings, outcome) = resume(folder, &session.heads, session.bars)?;
        return Ok(tell(&outcome, settings.head.kind(), session.output)?);
    }
    let head: Vec<String> = args.head.iter().map(|name| format!("head.kind={name}")).collect();
    let settings = session.settings(&head)?;
    if args.find_lr {
        return find_lr::run(&settings, session);
    }
    let place = args.run.clone().map_or(RunDir::Numbered, RunDir::Named);
    let start = args.warm.as_deref().map(|folder| Run::open(folder, &session.heads)).transpose()?;
    let outcome = train(&settings, start.as_ref(), &place, session.bars)?;

    Ok(tell(&outcome, settings.head.kind(), session.output)?)
}

/// Shows what came of it, for people and for programs.
fn tell(outcome: &TrainOutcome, kind: &str, out: &mut Output) -> Result<(), StdoutError> {
    naming(outcome, show(outcome, kind, out).and_then(|()| out.figures(&Figures::new(outcome, kind))))
}

/// Where the run could not be shown, at least where it is: it may have been the work of hours.
pub(super) fn naming(outcome: &TrainOutcome, shown: Result<(), StdoutError>) -> Result<(), StdoutError> {
    if shown.is_err() {
        tracing::info!("the run is {}", outcome.folder.display());
    }
    shown
}

/// What came of it, and what to do next.
pub(super) fn show(outcome: &TrainOutcome, kind: &str, out: &mut Output) -> Result<(), StdoutError> {
    let TrainOutcome { folder, metrics, example } = outcome;
    let (counts, seconds) = (&metrics.counts, &metrics.seconds);
    out.line(format!(
        "{kind}: {} classes, trained on {}, tested on {}",
        counts.classes, counts.train, counts.test
    ))?;
    if !metrics.chosen.is_empty() {
        let chosen: Vec<String> =
            metrics.chosen.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        out.line(format!("chosen: {}", chosen.join(", ")))?;
    }
    out.line(line_of(&metrics.test))?;
    // Why it is not, where it is not, was said before.
    if let Some(calibration) = metrics.calibration.as_ref().filter(|used| used.dropped.is_none()) {
        out.line(line_of_calibration(calibration))?;
    }
    if let Some(conformal) = &metrics.conformal {
        out.line(line_of_sets(conformal))?;
    }
    for line in metrics.trained_on.iter().flat_map(lines_of_unseen) {
        out.line(line)?;
    }
    let tuning = seconds.tune.map_or(String::new(), |seconds| format!(", tuning {seconds:.1} s"));
    out.line(format!(
        "features {:.1} s ({} computed), fit {:.1} s{tuning}, calibration {:.1} s, test {:.1} s",
        seconds.features, counts.computed, seconds.fit, seconds.calibration, seconds.test
    ))?;
    out.line(format!("run: {}", folder.display()))?;
    let program = quoted(program().display());
    let other = if kind == "svm" { "linear" } else { "svm" };
    out.line("\nnext:")?;
    if let Some(example) = example {
        let example = quoted(from_here(example).display());
        out.line(format!("  {program} predict {} {example}", quoted(folder.display())))?;
    }
    // The run's own config has all that this command was told, and its features are kept.
    let config = quoted(folder.join(CONFIG).display());
    let frozen = if seconds.tune.is_some() { " --set tune.from=head" } else { "" };
    out.line(format!(
        "  {program} train --config {config} --head {other}{frozen}   # seconds: the features are kept"
    ))?;
    out.line(format!("  {} holds what went wrong, class by class", folder.join("report.html").display()))
}

/// What calibration did to the figures of the test part.
fn line_of_calibration(calibration: &CalibrationMetrics) -> String {
    let method = match calibration.temperature {
        Some(temperature) => format!("temperature {temperature:.3}"),
        None => calibration.method.as_str().to_owned(),
    };
    let (before, after) = (calibration.test.before, calibration.test.after);
    format!(
        "calibrated: {method}, which brings log loss from {:.3} to {:.3}, calibration error from {:.3} to {:.3}",
        before.log_loss, after.log_loss, before.ece, after.ece
    )
}

/// A path below the current folder without that folder.
fn from_here(path: &Path) -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).to_path_buf()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(kind: &str, metrics: serde_json::Value, example: Option<&str>) -> Vec<String> {
        let metrics = serde_json::from_value(metrics).unwrap();
        let outcome =
            TrainOutcome { folder: "runs/x 1".into(), metrics, example: example.map(PathBuf::from) };
        let text = Output::printed(false, |out| show(&outcome, kind, out).unwrap());
        let program = quoted(program().display());
        text.lines().map(|line| line.replace(&program, "headstock")).collect()
    }

    #[test]
    fn the_run_is_told_with_all_that_was_done_and_with_what_comes_next() {
        let change = |before: f64| {
            json!({
                "before": { "log_loss": before, "ece": before / 2.0 },
                "after": { "log_loss": 0.125, "ece": 0.0625 },
            })
        };
        let of_sets = json!({ "coverage": 0.875, "mean_size": 1.25, "empty": 0.0 });
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
            "conformal": { "coverage": 0.9, "lac": of_sets, "aps": of_sets },
            "seconds": { "features": 1.0, "fit": 2.0, "calibration": 3.0, "tune": 4.0, "test": 5.0 },
        });
        let figures = "top-1 0.750   top-5 1.000   macro F1 0.500   log loss 0.250   calibration error 0.125";
        let report = "  runs/x 1/report.html holds what went wrong, class by class";
        let all = [
            "linear: 3 classes, trained on 30, tested on 10",
            "chosen: C = 0.5, alpha = 3",
            figures,
            "calibrated: temperature 2.000, which brings log loss from 0.500 to 0.125, calibration error from 0.250 to 0.062",
            "sets that are to hold the class 0.9 of the time: lac 0.875 with 1.25 classes, aps 0.875 with 1.25 classes",
            "features 1.0 s (4 computed), fit 2.0 s, tuning 4.0 s, calibration 3.0 s, test 5.0 s",
            "run: runs/x 1",
            "",
            "next:",
            "  headstock predict 'runs/x 1' 'a b.jpg'",
            "  headstock train --config 'runs/x 1/headstock.toml' --head svm --set tune.from=head   # seconds: the features are kept",
            report,
        ];
        assert_eq!(shown("linear", metrics.clone(), Some("a b.jpg")), all);

        // Another method has a name in place of a temperature.
        metrics["calibration"]["method"] = json!("isotonic");
        metrics["calibration"].as_object_mut().unwrap().remove("temperature");
        let isotonic = shown("linear", metrics.clone(), None);
        assert!(
            isotonic[3].starts_with("calibrated: isotonic, which brings log loss from "),
            "{isotonic:#?}"
        );
        // What was dropped, and what was not done, is not told as done.
        metrics["calibration"]["dropped"] = json!("isotonic");
        metrics["seconds"].as_object_mut().unwrap().remove("tune");
        for name in ["chosen", "conformal"] {
            metrics.as_object_mut().unwrap().remove(name);
        }
        let few = [
            "svm: 3 classes, trained on 30, tested on 10",
            figures,
            "features 1.0 s (4 computed), fit 2.0 s, calibration 3.0 s, test 5.0 s",
            "run: runs/x 1",
            "",
            "next:",
            "  headstock train --config 'runs/x 1/headstock.toml' --head linear   # seconds: the features are kept",
            report,
        ];
        assert_eq!(shown("svm", metrics, None), few);
    }

    #[test]
    fn a_path_below_the_current_folder_is_shown_from_there() {
        let here = env::current_dir().unwrap();
        assert_eq!(from_here(&here.join("photos/a.jpg")), Path::new("photos/a.jpg"));
        assert_eq!(from_here(Path::new("/elsewhere/a.jpg")), Path::new("/elsewhere/a.jpg"));
    }
}
