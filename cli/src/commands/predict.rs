//! `headstock predict`

use std::path::PathBuf;

use headstock_heads::SetPredictor;
use headstock_loader::source::find_image_files;
use headstock_loader::{DecodeError, ImageRef};
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
fn listed(arguments: &[PathBuf]) -> Result<Vec<ImageRef>, TrainError> {
    let mut photos = Vec::new();
    for path in arguments {
        if path.is_dir() {
            let below = find_image_files(path)?;
            if below.is_empty() {
                return Err(TrainError::Data(format!("there are no photos in {}", path.display())));
            }
            photos.extend(below.into_iter().map(ImageRef::from));
        } else {
            photos.push(path.clone().into());
        }
    }
    Ok(photos)
}

struct Printer<'a> {
    format: Format,
    classes: &'a [String],
    sets: Option<SetPredictor>,
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

    fn row(&mut self, photo: &ImageRef, prediction: Prediction<'_>) -> Result<(), StdoutError> {
        let Prediction { probabilities, predicted } = prediction;
        let best = predicted as usize;
        let classes = self.classes;
        let set: Option<Vec<&str>> = self.sets.map(|sets| {
            sets.predict(probabilities).into_iter().map(|class| &*classes[class as usize]).collect()
        });
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
    fn unreadable(&mut self, photo: &ImageRef, error: &DecodeError) -> Result<(), StdoutError> {
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

#[cfg(test)]
mod tests {
    use headstock_heads::{ConformalMethod, ConformalScores};

    use super::*;

    fn printed(format: Format, sets: Option<SetPredictor>, rows: &[(&[f32], u32)]) -> String {
        let classes = ["a", "b\nc", "d", "e"].map(str::to_owned);
        Output::printed(false, |out| {
            let mut printer = Printer { format, classes: &classes, sets, out };
            printer.header().unwrap();
            for &(probabilities, predicted) in rows {
                printer.row(&PathBuf::from("x.jpg").into(), Prediction { probabilities, predicted }).unwrap();
            }
        })
    }

    #[test]
    fn the_table_has_three_classes_and_among_equals_the_predicted_one_first() {
        let rows: [(&[f32], u32); 3] =
            [(&[0.1, 0.2, 0.6, 0.1], 2), (&[0.4, 0.1, 0.4, 0.1], 2), (&[0.4, 0.1, 0.4, 0.1], 0)];
        let expected = "x.jpg  d 0.600  b\\nc 0.200  a 0.100\n\
            x.jpg  d 0.400  a 0.400  b\\nc 0.100\n\
            x.jpg  a 0.400  d 0.400  b\\nc 0.100\n";
        assert_eq!(printed(Format::Table, None, &rows), expected);
    }

    #[test]
    fn a_set_stands_behind_the_path_in_the_table_and_last_in_the_other_formats() {
        // Nine photos whose class had 0.25: a set has the classes that have so much.
        let held_out: &[f32] = &[0.75, 0.25, 0.0, 0.0].repeat(9);
        let sets = ConformalScores::fit(held_out, &[1; 9])
            .unwrap()
            .set_predictor(0.5, ConformalMethod::Lac)
            .unwrap();
        let rows: [(&[f32], u32); 2] = [(&[0.25, 0.5, 0.125, 0.125], 1), (&[0.125, 0.125, 0.25, 0.5], 3)];
        let table =
            "x.jpg  {b\\nc, a}  b\\nc 0.500  a 0.250  d 0.125\nx.jpg  {e, d}  e 0.500  d 0.250  a 0.125\n";
        assert_eq!(printed(Format::Table, Some(sets), &rows), table);
        let csv = "path,predicted,probability,a,\"b\nc\",d,e,set\n\
            x.jpg,\"b\nc\",0.5,0.25,0.5,0.125,0.125,\"b\nc|a\"\nx.jpg,e,0.5,0.125,0.125,0.25,0.5,e|d\n";
        assert_eq!(printed(Format::Csv, Some(sets), &rows), csv);
        let jsonl = printed(Format::Jsonl, Some(sets), &rows[1..]);
        let line: serde_json::Value = serde_json::from_str(&jsonl).unwrap();
        let probabilities = json!({ "a": 0.125, "b\nc": 0.125, "d": 0.25, "e": 0.5 });
        let all = json!({ "path": "x.jpg", "predicted": "e", "probability": 0.5, "probabilities": probabilities, "set": ["e", "d"] });
        assert_eq!(line, all);
    }
}
