//! `headstock train`

use std::env;
use std::path::{Path, PathBuf};

use headstock_train::{Outcome, RunPlace, train};
use serde::Serialize;

use super::{CONFIG, Session, counted, line_of};
use crate::args::TrainArgs;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    run: &'a Path,
    head: &'a str,
    #[serde(flatten)]
    metrics: &'a headstock_train::run::RunMetrics,
}

pub(crate) fn run(args: &TrainArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let head: Vec<String> = args.head.iter().map(|name| format!("head.kind={name}")).collect();
    let settings = session.settings(&head)?;
    let place = args.run.clone().map_or(RunPlace::Numbered, RunPlace::Named);
    let outcome = train(&settings, &place, session.bars)?;

    let Outcome { folder, metrics, example } = &outcome;
    let (counts, seconds) = (&metrics.counts, &metrics.seconds);
    let kind = settings.head.kind();
    let out = &mut *session.output;
    out.line(format!(
        "{kind}: {}, trained on {}, tested on {}",
        counted(counts.classes, "class").replace("classs", "classes"),
        counts.train,
        counts.test
    ))?;
    out.line(line_of(&metrics.test))?;
    out.line(format!(
        "features {:.1} s ({} computed), fit {:.1} s, test {:.1} s",
        seconds.features, counts.computed, seconds.fit, seconds.test
    ))?;
    out.line(format!("run: {}", folder.display()))?;
    let program = program();
    let config = session.global.config.as_deref().unwrap_or(Path::new(CONFIG)).display();
    let other = if kind == "svm" { "linear" } else { "svm" };
    out.line("\nnext:")?;
    if let Some(example) = example {
        out.line(format!("  {program} predict {} {}", folder.display(), quoted(&from_here(example))))?;
    }
    out.line(format!(
        "  {program} train --config {config} --head {other}   # seconds: the features are kept"
    ))?;
    out.line(format!("  {} holds what went wrong, class by class", folder.join("report.html").display()))?;
    out.figures(&Figures { run: folder, head: kind, metrics })?;
    Ok(())
}

/// How this program was called.
fn program() -> String {
    env::args().next().unwrap_or_else(|| "headstock".into())
}

/// A path below the current folder without that folder.
fn from_here(path: &Path) -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).to_path_buf()
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:\\".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
