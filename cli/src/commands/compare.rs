//! `headstock compare`

use headstock_train::compare::{
    CandidateResult, CandidateScores, CandidateStatus, CompareOptions, Comparison, ComparisonFile,
    MetricEstimate, RankingMetric, candidates, compare,
};
use headstock_train::config::Settings;
use headstock_train::{PreparedData, RunDir, TrainError};
use serde::Serialize;

use super::{Session, counted, program, quoted, train};
use crate::args::{By, CompareArgs};
use crate::output::Shown;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    #[serde(flatten)]
    comparison: &'a Comparison,
    /// The run of the best, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    trained: Option<train::Figures<'a>>,
}

pub(crate) fn run(args: &CompareArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let settings = session.settings(&[])?.with_frozen_backbone();
    let candidates = candidates(&settings, &session.heads, args.heads.as_deref())?;
    let file = args.out.as_deref().map(ComparisonFile::new).transpose()?;
    let place = args.run.clone().map_or(RunDir::Numbered, RunDir::Named);
    let reserved = if args.take_best { Some(place.reserve(&settings.source)?) } else { None };

    let mut prepared = PreparedData::new(&settings, session.bars)?;
    let by = match args.by {
        By::Accuracy => RankingMetric::Accuracy,
        By::MacroF1 => RankingMetric::MacroF1,
        By::LogLoss => RankingMetric::LogLoss,
    };
    let plan =
        CompareOptions { folds: args.folds as usize, seed: args.seed, metric: by, budget: args.budget };
    let comparison = compare(&prepared, &candidates, &plan, session.bars)?;
    if let Some(file) = &file {
        file.write(&comparison)?;
    }
    let rows = if args.all { comparison.candidates.iter().collect() } else { comparison.best_per_head() };
    warn(&rows);
    for line in lines_of(&comparison, &rows) {
        session.output.line(line)?;
    }

    let Some(best) = comparison.best() else {
        session.output.figures(&Figures { comparison: &comparison, trained: None })?;
        return Err(TrainError::Data("no head could be fitted in every fold".into()).into());
    };
    let Some(reserved) = reserved else {
        let command = training(best, &settings, session)?;
        session.output.line(format!("\nnext:\n  {command}"))?;
        session.output.figures(&Figures { comparison: &comparison, trained: None })?;
        return Ok(());
    };
    // Whoever waits for the run can read the table meanwhile.
    session.output.flush()?;
    let settings =
        settings.with_head(&best.head, &best.parameters, &session.heads).map_err(TrainError::from)?;
    let outcome = prepared.train(&settings, None, reserved, session.bars)?;
    let (kind, out) = (settings.head.kind(), &mut *session.output);
    let shown = out.line("").and_then(|()| train::show(&outcome, kind, out)).and_then(|()| {
        let trained = Some(train::Figures::new(&outcome, kind));
        out.figures(&Figures { comparison: &comparison, trained })
    });
    Ok(train::naming(&outcome, shown)?)
}

/// What the fits of the candidates that are shown have to say, a line each.
fn warn(rows: &[&CandidateResult]) {
    for entry in rows {
        let Some(CandidateScores { warnings, .. }) = entry.scores() else { continue };
        if let Some(first) = warnings.first() {
            let more = match warnings.len() - 1 {
                0 => String::new(),
                more => format!(" (and {} like it)", counted(more, "warning")),
            };
            tracing::warn!("{}: {first}{more}", named(entry));
        }
    }
}

/// The head, and what it changes of its defaults.
fn named(entry: &CandidateResult) -> String {
    match entry.describe_changes() {
        described if described.is_empty() => entry.head.clone(),
        described => format!("{} ({described})", entry.head),
    }
}

/// The table and what is told around it, a line each.
fn lines_of(comparison: &Comparison, rows: &[&CandidateResult]) -> Vec<String> {
    let groups = match comparison.groups {
        Some(groups) => format!(" in {}", counted(groups, "group")),
        None => String::new(),
    };
    let by = match comparison.by {
        RankingMetric::Accuracy => "accuracy",
        RankingMetric::MacroF1 => "macro F1",
        RankingMetric::LogLoss => "log loss",
    };
    let mut lines = vec![format!(
        "{} folds of {}{groups}, {} classes; {} compared by {by} in {:.1} s\n",
        comparison.folds,
        counted(comparison.samples, "sample"),
        comparison.classes,
        counted(comparison.candidates.iter().filter(|entry| entry.scores().is_some()).count(), "candidate"),
        comparison.seconds
    )];
    let judged: Vec<(&CandidateResult, &CandidateScores)> =
        rows.iter().filter_map(|entry| Some((*entry, entry.scores()?))).collect();
    if !judged.is_empty() {
        lines.extend(table(comparison.by, &judged));
    }
    for entry in rows {
        if let CandidateStatus::Failed { error } = &entry.status {
            lines.push(format!("  {} failed: {}", named(entry), Shown(error)));
        }
    }
    if judged.iter().skip(1).any(|(_, judged)| judged.tied) {
        lines.push(format!(
            "\n~ may be as good as the best: the {:.0} % interval of the difference holds 0",
            comparison.coverage * 100.0
        ));
    }
    let left_out: Vec<String> =
        comparison.candidates.iter().filter(|e| e.status == CandidateStatus::LeftOut).map(named).collect();
    if !left_out.is_empty() {
        lines.push(format!("\nleft out, the budget was spent: {}", left_out.join(", ")));
    }
    lines
}

/// A line a candidate below a header; the interval stands beside the figure that candidates are ordered by.
fn table(by: RankingMetric, rows: &[(&CandidateResult, &CandidateScores)]) -> Vec<String> {
    let figures = |of: [String; 4], interval: String| {
        let mut columns = of.to_vec();
        let behind = match by {
            RankingMetric::Accuracy => 1,
            RankingMetric::MacroF1 => 2,
            RankingMetric::LogLoss => 3,
        };
        columns.insert(behind, interval);
        columns
    };
    let header = figures(
        ["accuracy", "macro F1", "log loss", "cal. error"].map(str::to_owned),
        "to the best".to_owned(),
    );
    let last = ["fit", "predict", "size", "parameters"].map(str::to_owned);
    let mut lines = vec![[vec!["  head".to_owned()], header, last.to_vec()].concat()];
    for (place, (entry, judged)) in rows.iter().enumerate() {
        let best = place == 0;
        let MetricEstimate { to_best, .. } = judged.metric(by);
        let interval =
            if best { "best".to_owned() } else { format!("{:+.3} .. {:+.3}", to_best.low, to_best.high) };
        let mark = if judged.tied && !best { "~" } else { " " };
        let values = [judged.accuracy, judged.macro_f1, judged.log_loss, judged.ece];
        let last = [
            format!("{:.2} s", judged.fit_seconds),
            format!("{:.3} s", judged.predict_seconds),
            size(judged.bytes),
            entry.describe_changes(),
        ];
        let figures = figures(values.map(|figure| format!("{:.3}", figure.value)), interval);
        lines.push([vec![format!("{mark} {}", entry.head)], figures, last.to_vec()].concat());
    }
    aligned(&lines)
}

/// Columns as wide as their widest field; the first and the last begin on the left, the others end on the right.
fn aligned(lines: &[Vec<String>]) -> Vec<String> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |fields: &Vec<String>| {
        let padded = fields.iter().zip(&widths).enumerate().map(|(column, (field, &width))| {
            if column == 0 || column + 1 == columns {
                format!("{field:<width$}")
            } else {
                format!("{field:>width$}")
            }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect()
}

/// `812 B`, `80.1 KiB`, `6.0 MiB`
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut shown = format!("{bytes} B");
    for unit in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        shown = format!("{size:.1} {unit}");
    }
    shown
}

/// The command that trains a candidate on the same data.
fn training(
    best: &CandidateResult,
    settings: &Settings,
    session: &Session<'_>,
) -> Result<String, TrainError> {
    let mut words = vec![program().display().to_string(), "train".to_owned()];
    if let Some(config) = &session.global.config {
        words.extend(["--config".to_owned(), config.display().to_string()]);
    }
    let same = best.head == settings.head.kind();
    // Another head drops the keys of the config's: what it is told then starts from its defaults.
    let base = if same {
        settings.head.table()
    } else {
        let kind = session.heads.get(&best.head).map_err(|error| TrainError::Usage(error.to_string()))?;
        words.extend(["--head".to_owned(), best.head.clone()]);
        kind.configure(toml::Table::new())?.table()
    };
    for text in session.global.overrides.iter().filter(|text| same || !text.trim_start().starts_with("head."))
    {
        words.extend(["--set".to_owned(), text.clone()]);
    }
    for (key, value) in best.parameters.iter().filter(|(key, value)| base.get(*key) != Some(*value)) {
        words.extend(["--set".to_owned(), format!("head.{key}={value}")]);
    }
    Ok(words.iter().map(quoted).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use headstock_train::compare::Interval;

    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 82_000, 6 << 20, 5 << 30].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "80.1 KiB", "6.0 MiB", "5.0 GiB"]);
    }

    fn figure(value: f64) -> MetricEstimate {
        MetricEstimate { value, to_best: Interval { low: -value, high: value / 2.0 } }
    }

    fn entry(head: &str, changed: &str, state: CandidateStatus) -> CandidateResult {
        let changed: toml::Table = changed.parse().unwrap();
        CandidateResult { head: head.into(), parameters: changed.clone(), changed, status: state }
    }

    fn judged(accuracy: f64, tied: bool) -> CandidateStatus {
        CandidateStatus::Compared(Box::new(CandidateScores {
            accuracy: figure(accuracy),
            macro_f1: figure(0.25),
            log_loss: figure(0.5),
            ece: figure(0.125),
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
            by: RankingMetric::Accuracy,
            folds: 2,
            seed: 0,
            samples: 1,
            groups: None,
            classes: 3,
            features: 4,
            views: 0,
            resamples: 10,
            coverage: 0.95,
            seconds: 2.25,
            candidates,
        }
    }

    #[test]
    fn the_table_shows_what_was_compared_what_failed_and_what_the_budget_left_out() {
        let all = comparison(vec![
            entry("svm", "C = 0.5", judged(0.75, true)),
            entry("linear", "", judged(0.625, true)),
            entry("knn", "k = 3", judged(0.5, false)),
            entry("lda", "", CandidateStatus::Failed { error: "no\tvariance".into() }),
            entry("mlp", "", CandidateStatus::LeftOut),
            entry("mlp", "hidden = 8", CandidateStatus::LeftOut),
        ]);
        let rows: Vec<&CandidateResult> = all.candidates.iter().collect();
        let lines = lines_of(&all, &rows);
        let expected = [
            "2 folds of 1 sample, 3 classes; 3 candidates compared by accuracy in 2.2 s\n",
            "  head    accuracy       to the best  macro F1  log loss  cal. error     fit  predict     size  parameters",
            "  svm        0.750              best     0.250     0.500       0.125  1.50 s  0.062 s  2.0 KiB  C = 0.5",
            "~ linear     0.625  -0.625 .. +0.312     0.250     0.500       0.125  1.50 s  0.062 s  2.0 KiB",
            "  knn        0.500  -0.500 .. +0.250     0.250     0.500       0.125  1.50 s  0.062 s  2.0 KiB  k = 3",
            r"  lda failed: no\tvariance",
            "\n~ may be as good as the best: the 95 % interval of the difference holds 0",
            "\nleft out, the budget was spent: mlp, mlp (hidden = 8)",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_best_alone_is_as_good_as_no_other() {
        let mut one = comparison(vec![entry("svm", "", judged(0.75, true))]);
        (one.groups, one.by, one.samples) = (Some(1), RankingMetric::LogLoss, 9);
        let lines = lines_of(&one, &one.candidates.iter().collect::<Vec<_>>());
        let expected =
            "2 folds of 9 samples in 1 group, 3 classes; 1 candidate compared by log loss in 2.2 s\n";
        assert_eq!((lines.len(), lines[0].as_str()), (3, expected), "no line about ties: {lines:#?}");
        let failed = comparison(vec![entry("lda", "", CandidateStatus::Failed { error: "singular".into() })]);
        let lines = lines_of(&failed, &failed.candidates.iter().collect::<Vec<_>>());
        assert_eq!(lines[1..], ["  lda failed: singular"], "no empty table");
    }
}
