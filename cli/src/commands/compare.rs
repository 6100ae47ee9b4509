//! `headstock compare`

use headstock_train::compare::{
    Comparison, ComparisonFile, Criterion, Entry, Figure, Judged, Plan, State, candidates, compare,
};
use headstock_train::config::Settings;
use headstock_train::{Prepared, RunPlace, TrainError};
use serde::Serialize;

use super::{Session, counted, program, quoted, train};
use crate::args::{By, CompareArgs};
use crate::output::{Output, Shown, StdoutError};

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
    let settings = session.settings(&[])?.frozen();
    let candidates = candidates(&settings, &session.heads, args.heads.as_deref())?;
    let file = args.out.as_deref().map(ComparisonFile::new).transpose()?;
    let place = args.run.clone().map_or(RunPlace::Numbered, RunPlace::Named);
    let reserved = if args.take_best { Some(place.reserve(&settings.source)?) } else { None };

    let mut prepared = Prepared::new(&settings, session.bars)?;
    let by = match args.by {
        By::Accuracy => Criterion::Accuracy,
        By::MacroF1 => Criterion::MacroF1,
        By::LogLoss => Criterion::LogLoss,
    };
    let plan = Plan { folds: args.folds as usize, seed: args.seed, by, budget: args.budget };
    let comparison = compare(&prepared, &candidates, &plan, session.bars)?;
    if let Some(file) = &file {
        file.write(&comparison)?;
    }
    let rows = if args.all { comparison.candidates.iter().collect() } else { comparison.best_of_heads() };
    warn(&rows);
    show(&comparison, &rows, session.output)?;

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
fn warn(rows: &[&Entry]) {
    for entry in rows {
        let Some(Judged { warnings, .. }) = entry.judged() else { continue };
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
fn named(entry: &Entry) -> String {
    match entry.described() {
        described if described.is_empty() => entry.head.clone(),
        described => format!("{} ({described})", entry.head),
    }
}

fn show(comparison: &Comparison, rows: &[&Entry], out: &mut Output) -> Result<(), StdoutError> {
    let groups = match comparison.groups {
        Some(groups) => format!(" in {}", counted(groups, "group")),
        None => String::new(),
    };
    let by = match comparison.by {
        Criterion::Accuracy => "accuracy",
        Criterion::MacroF1 => "macro F1",
        Criterion::LogLoss => "log loss",
    };
    out.line(format!(
        "{} folds of {}{groups}, {} classes; {} compared by {by} in {:.1} s\n",
        comparison.folds,
        counted(comparison.samples, "sample"),
        comparison.classes,
        counted(comparison.candidates.iter().filter(|entry| entry.judged().is_some()).count(), "candidate"),
        comparison.seconds
    ))?;
    let judged: Vec<(&Entry, &Judged)> =
        rows.iter().filter_map(|entry| Some((*entry, entry.judged()?))).collect();
    if !judged.is_empty() {
        for line in table(comparison.by, &judged) {
            out.line(line)?;
        }
    }
    for entry in rows {
        if let State::Failed { error } = &entry.state {
            out.line(format!("  {} failed: {}", named(entry), Shown(error)))?;
        }
    }
    if judged.iter().skip(1).any(|(_, judged)| judged.tied) {
        out.line(format!(
            "\n~ may be as good as the best: the {:.0} % interval of the difference holds 0",
            comparison.coverage * 100.0
        ))?;
    }
    let left_out: Vec<String> =
        comparison.candidates.iter().filter(|e| e.state == State::LeftOut).map(named).collect();
    if !left_out.is_empty() {
        out.line(format!("\nleft out, the budget was spent: {}", left_out.join(", ")))?;
    }
    Ok(())
}

/// A line a candidate below a header; the interval stands beside the figure that candidates are ordered by.
fn table(by: Criterion, rows: &[(&Entry, &Judged)]) -> Vec<String> {
    let figures = |of: [String; 4], interval: String| {
        let mut columns = of.to_vec();
        let behind = match by {
            Criterion::Accuracy => 1,
            Criterion::MacroF1 => 2,
            Criterion::LogLoss => 3,
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
        let Figure { to_best, .. } = judged.by(by);
        let interval =
            if best { "best".to_owned() } else { format!("{:+.3} .. {:+.3}", to_best.low, to_best.high) };
        let mark = if judged.tied && !best { "~" } else { " " };
        let values = [judged.accuracy, judged.macro_f1, judged.log_loss, judged.ece];
        let last = [
            format!("{:.2} s", judged.fit_seconds),
            format!("{:.3} s", judged.predict_seconds),
            size(judged.bytes),
            entry.described(),
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
fn training(best: &Entry, settings: &Settings, session: &Session<'_>) -> Result<String, TrainError> {
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
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 82_000, 6 << 20, 5 << 30].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "80.1 KiB", "6.0 MiB", "5.0 GiB"]);
    }
}
