//! `headstock predict`

mod submission;

use std::path::{MAIN_SEPARATOR, PathBuf};

use headstock_heads::SetPredictor;
use headstock_inference::{InferenceError, Prediction, Predictor};
use headstock_loader::dataset::PassedOver;
use headstock_loader::source::{FoundImages, find_image_files, is_image_folder};
use headstock_loader::{DatasetError, DecodeError, ImageRef, RawDataset};
use headstock_train::TrainError;
use headstock_train::config::{OnError, Settings};
use headstock_train::features::KnownFeatures;
use serde_json::json;
use submission::SampleSubmission;

use super::{CommandContext, pluralize};
use crate::args::{PredictArgs, PredictionFormat};
use crate::output::{Escaped, Output, StdoutError};

/// Number of classes that the table shows per photo.
const TOP_K: usize = 3;

/// Predicts the classes of the images that the arguments name with a trained run, and prints each batch when
/// it is done, or with `--like` all of them at the end. Unreadable images are reported, and make the command
/// fail in the end.
pub(crate) fn run(args: &PredictArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let (run, settings) = context.open_run(&args.run, args.weights.weights.as_deref(), &[])?;
    let classes = run.model.record.classes.clone();
    let sample =
        args.like.as_ref().map(|file| SampleSubmission::read(file, &classes, args.positive.as_deref()));
    let sample = sample.transpose()?;
    let (mut images, passed_over) = list_images(&args.images, &settings)?;
    if let Some(sample) = &sample {
        images = sample.find_images(images)?;
    }
    let images: Vec<ImageRef> = images.into_iter().map(|listed| listed.image).collect();
    let sets = args.coverage.map(|coverage| run.model.sets(coverage, args.sets.into())).transpose()?;
    let options = settings.backbone.as_ref().ok_or(InferenceError::NoBackbone)?;
    let bars = context.bars;
    let pretrained = run.model.open_backbone(options, bars)?;
    let known = KnownFeatures::open(&pretrained, settings.extract_options());
    let predictor = Predictor::with_backbone(run.model, &pretrained, settings.decode)?;
    drop(pretrained);
    let find_known = |bytes: &[u8]| known.as_ref()?.find(bytes);
    let mut printer = Printer { format: args.format, classes: &classes, sets, out: context.output };
    // The predictions in the order of the images, for a submission.
    let mut predictions = Vec::new();
    let mut unreadable = 0;
    if sample.is_none() {
        printer.print_header()?;
    }
    predictor.predict_images_with::<anyhow::Error>(&images, &find_known, bars, &mut |batch, results| {
        for (image, error) in
            batch.iter().zip(&results).filter_map(|(image, result)| Some((image, result.as_ref().err()?)))
        {
            unreadable += 1;
            tracing::warn!("{image} cannot be read: {error}");
        }
        if sample.is_some() {
            predictions.extend(results.into_iter().map(Result::ok));
            return Ok(());
        }
        bars.suspend(|| {
            for (image, result) in batch.iter().zip(&results) {
                match result {
                    Ok(prediction) => printer.print_row(image, prediction)?,
                    Err(error) => printer.print_unreadable(image, error)?,
                }
            }
            Ok(printer.out.flush()?)
        })
    })?;
    if let Some(sample) = &sample {
        sample.print(&classes, &predictions, context.output)?;
    }
    let predicted = images.len() - unreadable;
    let cached = known.as_ref().map_or(0, KnownFeatures::n_found);
    if cached > 0 {
        tracing::info!(
            "the features of {cached} of {} come from the cache",
            pluralize(images.len(), "photo")
        );
    }
    context.output.print_json(&json!({
        "predicted": predicted,
        "cached": cached,
        "unreadable": unreadable,
        "passed_over": passed_over.counts(),
    }))?;
    let in_table = sample.map_or("", |_| "; in the table, their rows have the values of the sample");
    match unreadable {
        0 => Ok(()),
        _ => Err(TrainError::Data(format!(
            "{unreadable} of {} cannot be read: the warnings give the reasons; replace or remove the files{in_table}",
            pluralize(images.len(), "photo")
        ))
        .into()),
    }
}

/// An image that the arguments name.
struct ListedImage {
    /// The argument, followed by the path in it if it is a folder, with `/` as separator.
    path: String,
    image: ImageRef,
}

/// The images that the arguments name, and the other files in folders; a folder or a zip archive stands for the
/// images in it and its subfolders. Links are followed, and files with an error passed over, as the `settings`
/// of the run say.
fn list_images(
    arguments: &[PathBuf],
    settings: &Settings,
) -> Result<(Vec<ListedImage>, PassedOver), TrainError> {
    let (mut images, mut all_passed_over) = (Vec::new(), PassedOver::default());
    for path in arguments {
        let argument = path.display().to_string().replace(MAIN_SEPARATOR, "/");
        let argument = argument.trim_end_matches('/').to_owned();
        if !is_image_folder(path) {
            images.push(ListedImage { path: argument, image: path.clone().into() });
            continue;
        }
        let FoundImages { images: found, passed_over, errors } =
            find_image_files(path, settings.follow_links)?;
        let mut listing = RawDataset { passed_over, errors, ..RawDataset::new(path.clone()) };
        if settings.on_error == OnError::Skip {
            listing.skip_errors();
        }
        listing.passed_over.log(path);
        if let Some(error) = DatasetError::summarize(listing.errors).into_iter().next() {
            return Err(error.into());
        }
        if found.is_empty() {
            let problem =
                format!("there are no photos in {}: name photos, or a folder that has some", path.display());
            return Err(TrainError::Data(problem));
        }
        let listed = |(id, image)| ListedImage { path: format!("{argument}/{id}"), image };
        images.extend(found.into_iter().map(listed));
        all_passed_over.merge(listing.passed_over);
    }
    Ok((images, all_passed_over))
}

/// Prints the predictions of one image after the other in the format of `--format`.
struct Printer<'a> {
    format: PredictionFormat,
    /// The class names, in the order of the probabilities.
    classes: &'a [String],
    /// Chooses the classes of an image's conformal set, with `--coverage`.
    sets: Option<SetPredictor>,
    out: &'a mut Output,
}

impl Printer<'_> {
    /// Prints the row of column names if the format is CSV; the other formats have none.
    fn print_header(&mut self) -> Result<(), StdoutError> {
        match self.format {
            PredictionFormat::Csv => {
                let fixed = ["path", "predicted", "probability"].map(str::to_owned);
                let set = self.sets.map(|_| "set".to_owned());
                self.out.print_csv(fixed.into_iter().chain(self.classes.iter().cloned()).chain(set))
            }
            PredictionFormat::Table | PredictionFormat::Jsonl => Ok(()),
        }
    }

    /// Prints the prediction of an image in the chosen format: the probabilities of the classes and the
    /// predicted class. With `--coverage P` it includes the conformal set of the image: classes that include
    /// the true one with probability `P`.
    fn print_row(&mut self, image: &ImageRef, prediction: &Prediction) -> Result<(), StdoutError> {
        let Prediction { probabilities, predicted } = prediction;
        let best = *predicted as usize;
        let classes = self.classes;
        let set: Option<Vec<&str>> = self.sets.map(|sets| {
            sets.predict(probabilities).into_iter().map(|class| &*classes[class as usize]).collect()
        });
        match self.format {
            PredictionFormat::Table => {
                // The most probable class first; of equally probable ones, the predicted class.
                let mut order: Vec<usize> = (0..probabilities.len()).collect();
                order.sort_by(|&a, &b| {
                    probabilities[b].total_cmp(&probabilities[a]).then((b == best).cmp(&(a == best)))
                });
                let top = order
                    .iter()
                    .take(TOP_K)
                    .map(|&class| format!("{} {:.3}", Escaped(&classes[class]), probabilities[class]));
                let set = set.map(|set| format!("{{{}}}", Escaped(set.join(", "))));
                let fields: Vec<String> =
                    std::iter::once(Escaped(image).to_string()).chain(set).chain(top).collect();
                self.out.print(fields.join("  "))
            }
            PredictionFormat::Csv => {
                let fixed = [image.to_string(), classes[best].clone(), probabilities[best].to_string()];
                let values = probabilities.iter().map(ToString::to_string);
                self.out.print_csv(fixed.into_iter().chain(values).chain(set.map(|set| set.join("|"))))
            }
            PredictionFormat::Jsonl => {
                let by_class: serde_json::Map<String, serde_json::Value> =
                    classes.iter().cloned().zip(probabilities.iter().map(|&p| json!(p))).collect();
                let mut object = json!({
                    "path": image.to_string(),
                    "predicted": classes[best],
                    "probability": probabilities[best],
                    "probabilities": by_class,
                });
                if let Some(set) = set {
                    object["set"] = json!(set);
                }
                self.out.print(object.to_string())
            }
        }
    }

    /// Prints a row for an image that cannot be read, so that a program that reads the output finds every
    /// image: empty fields in CSV, the error in JSON.
    fn print_unreadable(&mut self, image: &ImageRef, error: &DecodeError) -> Result<(), StdoutError> {
        match self.format {
            // The warning on stderr is enough.
            PredictionFormat::Table => Ok(()),
            PredictionFormat::Csv => {
                // As many as `print_header` has after `path`: predicted, probability, the classes, the set.
                let empty = vec![String::new(); self.classes.len() + 2 + usize::from(self.sets.is_some())];
                self.out.print_csv(std::iter::once(image.to_string()).chain(empty))
            }
            PredictionFormat::Jsonl => {
                self.out.print(json!({ "path": image.to_string(), "error": error.to_string() }).to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use headstock_heads::{ConformalMethod, ConformalScores};

    use super::*;

    fn print_rows(format: PredictionFormat, sets: Option<SetPredictor>, rows: &[(&[f32], u32)]) -> String {
        let classes = ["a", "b\nc", "d", "e"].map(str::to_owned);
        Output::capture(false, |out| {
            let mut printer = Printer { format, classes: &classes, sets, out };
            printer.print_header().unwrap();
            for &(probabilities, predicted) in rows {
                let prediction = Prediction { probabilities: probabilities.to_vec(), predicted };
                printer.print_row(&PathBuf::from("x.jpg").into(), &prediction).unwrap();
            }
        })
    }

    #[test]
    fn the_table_has_three_classes_and_ties_put_the_predicted_one_first() {
        let rows: [(&[f32], u32); 3] =
            [(&[0.1, 0.2, 0.6, 0.1], 2), (&[0.4, 0.1, 0.4, 0.1], 2), (&[0.4, 0.1, 0.4, 0.1], 0)];
        let expected = "x.jpg  d 0.600  b\\nc 0.200  a 0.100\n\
            x.jpg  d 0.400  a 0.400  b\\nc 0.100\n\
            x.jpg  a 0.400  d 0.400  b\\nc 0.100\n";
        assert_eq!(print_rows(PredictionFormat::Table, None, &rows), expected);
    }

    #[test]
    fn a_set_is_second_in_the_table_and_last_in_the_other_formats() {
        // The true class of nine images had probability 0.25: a set has the classes with at least that.
        let held_out: &[f32] = &[0.75, 0.25, 0.0, 0.0].repeat(9);
        let sets = ConformalScores::fit(held_out, &[1; 9])
            .unwrap()
            .set_predictor(0.5, ConformalMethod::Lac)
            .unwrap();
        let rows: [(&[f32], u32); 2] = [(&[0.25, 0.5, 0.125, 0.125], 1), (&[0.125, 0.125, 0.25, 0.5], 3)];
        let table =
            "x.jpg  {b\\nc, a}  b\\nc 0.500  a 0.250  d 0.125\nx.jpg  {e, d}  e 0.500  d 0.250  a 0.125\n";
        assert_eq!(print_rows(PredictionFormat::Table, Some(sets), &rows), table);
        let csv = "path,predicted,probability,a,\"b\nc\",d,e,set\n\
            x.jpg,\"b\nc\",0.5,0.25,0.5,0.125,0.125,\"b\nc|a\"\nx.jpg,e,0.5,0.125,0.125,0.25,0.5,e|d\n";
        assert_eq!(print_rows(PredictionFormat::Csv, Some(sets), &rows), csv);
        let jsonl = print_rows(PredictionFormat::Jsonl, Some(sets), &rows[1..]);
        let line: serde_json::Value = serde_json::from_str(&jsonl).unwrap();
        let probabilities = json!({ "a": 0.125, "b\nc": 0.125, "d": 0.25, "e": 0.5 });
        let expected = json!({ "path": "x.jpg", "predicted": "e", "probability": 0.5, "probabilities": probabilities, "set": ["e", "d"] });
        assert_eq!(line, expected);
    }
}
