//! `headstock predict`

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use headstock_loader::{DecodeError, dataset::is_photo};
use headstock_train::{Predictor, TrainError};
use serde_json::json;

use super::{Session, counted};
use crate::args::{Format, PredictArgs};
use crate::output::Output;

/// Classes that the table shows of each photo.
const SHOWN: usize = 3;

pub(crate) fn run(args: &PredictArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let photos = listed(&args.photos)?;
    let (run, settings) = session.run(&args.run)?;
    let predictor = Predictor::new(&run.model, &settings, session.bars)?;
    let classes = &run.model.record.classes;
    let mut printer = Printer { format: args.format, classes, out: session.output };
    let mut unreadable = 0;
    printer.header().map_err(stdout)?;
    predictor.predict(&photos, &mut |number, outcome| {
        let path = &photos[number];
        match outcome {
            Ok(probabilities) => printer.row(path, probabilities).map_err(stdout),
            Err(error) => {
                unreadable += 1;
                tracing::warn!("{} cannot be read: {error}", path.display());
                printer.unreadable(path, &error).map_err(stdout)
            }
        }
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

/// The photos that the arguments name: a folder stands for the photos in it, sorted.
fn listed(arguments: &[PathBuf]) -> Result<Vec<PathBuf>, TrainError> {
    let mut photos = Vec::new();
    for path in arguments {
        if path.is_dir() {
            let before = photos.len();
            enter(path, &mut photos)
                .map_err(|error| TrainError::Data(format!("{}: {error}", path.display())))?;
            if photos.len() == before {
                return Err(TrainError::Data(format!("there are no photos in {}", path.display())));
            }
        } else {
            photos.push(path.clone());
        }
    }
    Ok(photos)
}

fn enter(folder: &Path, photos: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort_unstable();
    for path in paths {
        // A linked folder may lead back here.
        if path.is_dir() && !path.is_symlink() {
            enter(&path, photos)?;
        } else if is_photo(&path) {
            photos.push(path);
        }
    }
    Ok(())
}

fn stdout(source: std::io::Error) -> TrainError {
    TrainError::Io { action: "write to", path: "stdout".into(), source }
}

struct Printer<'a> {
    format: Format,
    classes: &'a [String],
    out: &'a mut Output,
}

impl Printer<'_> {
    fn header(&mut self) -> std::io::Result<()> {
        match self.format {
            Format::Csv => {
                let fixed = ["path", "predicted", "probability"].map(str::to_owned);
                self.record(fixed.into_iter().chain(self.classes.iter().cloned()))
            }
            Format::Table | Format::Jsonl => Ok(()),
        }
    }

    fn row(&mut self, path: &Path, probabilities: &[f32]) -> std::io::Result<()> {
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let best = order[0];
        match self.format {
            Format::Table => {
                let shown: Vec<String> = order
                    .iter()
                    .take(SHOWN)
                    .map(|&class| format!("{} {:.3}", self.classes[class], probabilities[class]))
                    .collect();
                self.out.line(format!("{}  {}", path.display(), shown.join("  ")))
            }
            Format::Csv => {
                let fixed =
                    [path.display().to_string(), self.classes[best].clone(), probabilities[best].to_string()];
                self.record(fixed.into_iter().chain(probabilities.iter().map(ToString::to_string)))
            }
            Format::Jsonl => {
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
    fn unreadable(&mut self, path: &Path, error: &DecodeError) -> std::io::Result<()> {
        match self.format {
            // The warning says it.
            Format::Table => Ok(()),
            Format::Csv => {
                let empty = vec![String::new(); self.classes.len() + 2];
                self.record(std::iter::once(path.display().to_string()).chain(empty))
            }
            Format::Jsonl => self
                .out
                .line(json!({ "path": path.display().to_string(), "error": error.to_string() }).to_string()),
        }
    }

    fn record(&mut self, fields: impl Iterator<Item = String>) -> std::io::Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(fields)?;
        let line = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
        self.out.write_all(&line)
    }
}
