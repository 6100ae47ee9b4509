//! `headstock train`

use std::env;
use std::path::{Path, PathBuf};

use headstock_train::run::CalibrationMetrics;
use headstock_train::{Outcome, Run, RunPlace, resume, train};
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
    pub(super) fn new(outcome: &'a Outcome, kind: &'a str) -> Self {
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
    let place = args.run.clone().map_or(RunPlace::Numbered, RunPlace::Named);
    let start = args.warm.as_deref().map(|folder| Run::open(folder, &session.heads)).transpose()?;
    let outcome = train(&settings, start.as_ref(), &place, session.bars)?;

    Ok(tell(&outcome, settings.head.kind(), session.output)?)
}

/// Shows what came of it, for people and for programs.
fn tell(outcome: &Outcome, kind: &str, out: &mut Output) -> Result<(), StdoutError> {
    naming(outcome, show(outcome, kind, out).and_then(|()| out.figures(&Figures::new(outcome, kind))))
}

/// Where the run could not be shown, at least where it is: it may have been the work of hours.
pub(super) fn naming(outcome: &Outcome, shown: Result<(), StdoutError>) -> Result<(), StdoutError> {
    if shown.is_err() {
        tracing::info!("the run is {}", outcome.folder.display());
    }
    shown
}

/// What came of it, and what to do next.
pub(super) fn show(outcome: &Outcome, kind: &str, out: &mut Output) -> Result<(), StdoutError> {
    let Outcome { folder, metrics, example } = outcome;
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
