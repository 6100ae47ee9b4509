//! `headstock predict`

use std::path::PathBuf;

use headstock_heads::Sets;
use headstock_loader::source::photos_below;
use headstock_loader::{DecodeError, Photo};
use headstock_train::{Prediction, Predictor, TrainError};
use serde_json::json;

use super::{Session, counted};
use crate::args::{Format, PredictArgs};
use crate::output::{Output, Shown, StdoutError};

/// Classes that the table shows of each photo.
const SHOWN: usize = 3;

pub(crate) fn run(args: &PredictArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let photos = listed(&args.photos)?;
    let (run, settings) = session.run(&args.run)?;
    let sets = args.coverage.map(|coverage| run.model.sets(coverage, args.sets.into())).transpose()?;
    let predictor = Predictor::new(&run.model, &settings, session.bars)?;
    let classes = &run.model.record.classes;
    let bars = session.bars;
    let mut printer = Printer { format: args.format, classes, sets, out: session.output };
    let mut unreadable = 0;
    printer.header()?;
    predictor.predict::<anyhow::Error>(&photos, bars, &mut |batch, predicted| {
        for (photo, error) in
            batch.iter().zip(&predicted).filter_map(|(photo, p)| Some((photo, p.as_ref().err()?)))
        {
            unreadable += 1;
            tracing::warn!("{photo} cannot be read: {error}");
        }
        bars.aside(|| {
            for (photo, predicted) in batch.iter().zip(&predicted) {
                match predicted {
                    Ok(prediction) => printer.row(photo, *prediction)?,
                    Err(error) => printer.unreadable(photo, error)?,
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
fn listed(arguments: &[PathBuf]) -> Result<Vec<Photo>, TrainError> {
    let mut photos = Vec::new();
    for path in arguments {
        if path.is_dir() {
            let below = photos_below(path)?;
            if below.is_empty() {
                return Err(TrainError::Data(format!("there are no photos in {}", path.display())));
            }
            photos.extend(below.into_iter().map(Photo::from));
        } else {
            photos.push(path.clone().into());
        }
    }
    Ok(photos)
}

struct Printer<'a> {
    format: Format,
    classes: &'a [String],
    sets: Option<Sets>,
    out: &'a mut Output,
}

impl Printer<'_> {
    fn header(&mut self) -> Result<(), StdoutError> {
        match self.format {
            Format::Csv => {
                let fixed = ["path", "predicted", "probability"].map(str::to_owned);
                let set = self.sets.map(|_| "set".to_owned());
                self.out.record(fixed.into_iter().chain(self.classes.iter().cloned()).chain(set))
            }
            Format::Table | Format::Jsonl => Ok(()),
        }
    }

    fn row(&mut self, photo: &Photo, prediction: Prediction<'_>) -> Result<(), StdoutError> {
        let Prediction { probabilities, predicted } = prediction;
        let best = predicted as usize;
        let classes = self.classes;
        let set: Option<Vec<&str>> = self
            .sets
            .map(|sets| sets.of(probabilities).into_iter().map(|class| &*classes[class as usize]).collect());
        match self.format {
            Format::Table => {
                let mut order: Vec<usize> = (0..probabilities.len()).collect();
                order.sort_by(|&a, &b| {
                    probabilities[b].total_cmp(&probabilities[a]).then((b == best).cmp(&(a == best)))
                });
                let shown = order
                    .iter()
                    .take(SHOWN)
                    .map(|&class| format!("{} {:.3}", Shown(&classes[class]), probabilities[class]));
                let set = set.map(|set| format!("{{{}}}", Shown(set.join(", "))));
                let fields: Vec<String> =
                    std::iter::once(Shown(photo).to_string()).chain(set).chain(shown).collect();
                self.out.line(fields.join("  "))
            }
            Format::Csv => {
                let fixed = [photo.to_string(), classes[best].clone(), probabilities[best].to_string()];
                let each = probabilities.iter().map(ToString::to_string);
                self.out.record(fixed.into_iter().chain(each).chain(set.map(|set| set.join("|"))))
            }
            Format::Jsonl => {
                let all: serde_json::Map<String, serde_json::Value> =
                    classes.iter().cloned().zip(probabilities.iter().map(|&p| json!(p))).collect();
                let mut object = json!({
                    "path": photo.to_string(),
                    "predicted": classes[best],
                    "probability": probabilities[best],
                    "probabilities": all,
                });
                if let Some(set) = set {
                    object["set"] = json!(set);
                }
                self.out.line(object.to_string())
            }
        }
    }

    /// A photo that cannot be read keeps its row where programs read the output.
    fn unreadable(&mut self, photo: &Photo, error: &DecodeError) -> Result<(), StdoutError> {
        match self.format {
            // The warning says it.
            Format::Table => Ok(()),
            Format::Csv => {
                let empty = vec![String::new(); self.classes.len() + 2 + usize::from(self.sets.is_some())];
                self.out.record(std::iter::once(photo.to_string()).chain(empty))
            }
            Format::Jsonl => {
                self.out.line(json!({ "path": photo.to_string(), "error": error.to_string() }).to_string())
            }
        }
    }
}
