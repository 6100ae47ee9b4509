//! `headstock predict`

use std::path::{Path, PathBuf};

use headstock_loader::DecodeError;
use headstock_loader::dataset::photos_below;
use headstock_train::{Predictor, TrainError};
use serde_json::json;

use super::{Session, counted};
use crate::args::{Format, PredictArgs};
use crate::output::{Output, Shown, StdoutError};

/// Classes that the table shows of each photo.
const SHOWN: usize = 3;

pub(crate) fn run(args: &PredictArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let photos = listed(&args.photos)?;
    let (run, settings) = session.run(&args.run)?;
    let predictor = Predictor::new(&run.model, &settings, session.bars)?;
    let classes = &run.model.record.classes;
    let bars = session.bars;
    let mut printer = Printer { format: args.format, classes, out: session.output };
    let mut unreadable = 0;
    printer.header()?;
    predictor.predict::<anyhow::Error>(&photos, bars, &mut |batch, predicted| {
        for (path, error) in
            batch.iter().zip(&predicted).filter_map(|(path, p)| Some((path, p.as_ref().err()?)))
        {
            unreadable += 1;
            tracing::warn!("{} cannot be read: {error}", path.display());
        }
        bars.aside(|| {
            for (path, predicted) in batch.iter().zip(&predicted) {
                match predicted {
                    Ok(probabilities) => printer.row(path, probabilities)?,
                    Err(error) => printer.unreadable(path, error)?,
                }
            }
            Ok(printer.out.flush()?)
        })
    })?;
    let predicted = photos.len() - unreadable;
    session.output.figures(&json!({ "predicted": predicted, "unreadable": unreadable }))?;
    match unreadable {
        0 => Ok(()),
        _ => Err(TrainError::Data(format!(
            "{} of {} cannot be read",
            unreadable,
            counted(photos.len(), "photo")
        ))
        .into()),
    }
}

/// The photos that the arguments name: a folder stands for the photos below it.
fn listed(arguments: &[PathBuf]) -> Result<Vec<PathBuf>, TrainError> {
    let mut photos = Vec::new();
    for path in arguments {
        if path.is_dir() {
            let below = photos_below(path)?;
            if below.is_empty() {
                return Err(TrainError::Data(format!("there are no photos in {}", path.display())));
            }
            photos.extend(below);
        } else {
            photos.push(path.clone());
        }
    }
    Ok(photos)
}

struct Printer<'a> {
    format: Format,
    classes: &'a [String],
    out: &'a mut Output,
}

impl Printer<'_> {
    fn header(&mut self) -> Result<(), StdoutError> {
        match self.format {
            Format::Csv => {
                let fixed = ["path", "predicted", "probability"].map(str::to_owned);
                self.out.record(fixed.into_iter().chain(self.classes.iter().cloned()))
            }
            Format::Table | Format::Jsonl => Ok(()),
        }
    }

    fn row(&mut self, path: &Path, probabilities: &[f32]) -> Result<(), StdoutError> {
        match self.format {
            Format::Table => {
                let mut order: Vec<usize> = (0..probabilities.len()).collect();
                order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
                let shown: Vec<String> = order
                    .iter()
                    .take(SHOWN)
                    .map(|&class| format!("{} {:.3}", Shown(&self.classes[class]), probabilities[class]))
                    .collect();
                self.out.line(format!("{}  {}", Shown(path.display()), shown.join("  ")))
            }
            Format::Csv => {
                let best = most_probable(probabilities);
                let fixed =
                    [path.display().to_string(), self.classes[best].clone(), probabilities[best].to_string()];
                self.out.record(fixed.into_iter().chain(probabilities.iter().map(ToString::to_string)))
            }
            Format::Jsonl => {
                let best = most_probable(probabilities);
                let all: serde_json::Map<String, serde_json::Value> =
                    self.classes.iter().cloned().zip(probabilities.iter().map(|&p| json!(p))).collect();
                self.out.line(
                    json!({
                        "path": path.display().to_string(),
                        "predicted": self.classes[best],
                        "probability": probabilities[best],
                        "probabilities": all,
                    })
                    .to_string(),
                )
            }
        }
    }

    /// A photo that cannot be read keeps its row where programs read the output.
    fn unreadable(&mut self, path: &Path, error: &DecodeError) -> Result<(), StdoutError> {
        match self.format {
            // The warning says it.
            Format::Table => Ok(()),
            Format::Csv => {
                let empty = vec![String::new(); self.classes.len() + 2];
                self.out.record(std::iter::once(path.display().to_string()).chain(empty))
            }
            Format::Jsonl => self
                .out
                .line(json!({ "path": path.display().to_string(), "error": error.to_string() }).to_string()),
        }
    }
}

/// The class of the highest probability; the lowest number wins a tie.
fn most_probable(probabilities: &[f32]) -> usize {
    let classes = 0..probabilities.len();
    classes.rev().max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap_or_default()
}
