//! Prediction on new photos with a trained run.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use headstock_backbone::Backbone;
use headstock_heads::FeatureMatrix;
use headstock_loader::{DecodeError, ImageRef};

use crate::config::Settings;
use crate::error::TrainError;
use crate::features::{
    BATCH_SIZE, BatchInference, ImageJob, JobResult, PretrainedBackbone, Renderer, run_pipeline,
};
use crate::metrics::Predictions;
use crate::progress::Progress;
use crate::run::Model;

/// The model's prediction for an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction<'a> {
    /// The probability of each class, `[C]`.
    pub probabilities: &'a [f32],
    /// The number of the most probable class; ties are broken as in [`Predictions`].
    pub predicted: u32,
}

/// Receives a batch of images and, for each, its prediction or the reason why it cannot be read.
pub type OnPredictions<'a, E> =
    dyn FnMut(&[ImageRef], Vec<Result<Prediction<'_>, DecodeError>>) -> Result<(), E> + 'a;

/// A model with its backbone loaded on its device, ready to classify images.
pub struct Predictor<'a> {
    model: &'a Model,
    pretrained: PretrainedBackbone,
    backbone: Backbone,
    renderer: Renderer,
}

impl<'a> Predictor<'a> {
    /// Makes a predictor of `model`: loads the backbone from the weights that `settings` name, which must be
    /// those that the head was fitted on.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if they are other weights, or if the head was fitted on precomputed features;
    /// [`TrainError::Backbone`].
    pub fn new(model: &'a Model, settings: &Settings, progress: &dyn Progress) -> Result<Self, TrainError> {
        let Some(pretrained) = model.open_backbone(settings, progress)? else {
            return Err(TrainError::Usage(
                "the run was trained on precomputed features, so it cannot classify photos: train a new run \
                 on photos (`data.folder`)"
                    .into(),
            ));
        };
        let backbone = pretrained.load()?;
        let renderer = Renderer::eval_only(pretrained.transform(), &settings.options.data);
        Ok(Self { model, pretrained, backbone, renderer })
    }

    /// Classifies `images`, and calls `on_predictions` with one batch of them after another while the others
    /// are still computed. The batches are in the order of `images`; an unreadable image is in them with its
    /// error.
    ///
    /// # Errors
    /// [`TrainError::Backbone`], [`TrainError::Head`], and the error of `on_predictions`.
    pub fn predict<E: From<TrainError>>(
        &self,
        images: &[ImageRef],
        progress: &dyn Progress,
        on_predictions: &mut OnPredictions<'_, E>,
    ) -> Result<(), E> {
        let (layer, size) = (self.pretrained.options().layer, self.pretrained.transform().crop);
        let inference = BatchInference::for_features(&self.backbone, layer, size);
        // One view per image: the index of a view, and of a job, is that of its image.
        let jobs: Vec<ImageJob<'_>> = (images.iter().enumerate())
            .map(|(index, image)| ImageJob { image, views: index..index + 1 })
            .collect();
        let render = |_, bytes: &[u8]| Ok(vec![self.renderer.eval_view(bytes)?]);
        // Features or errors of images that are not reported yet, by index, and the index to report next.
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        progress.begin("predicting", images.len() as u64, "photos");
        let outcome = run_pipeline::<_, DecodeError, E>(&inference, &jobs, &render, &mut |results| {
            for result in results {
                match result {
                    JobResult::Outputs { views, values } => {
                        let features =
                            values.chunks_exact(self.pretrained.width()).map(|row| Ok(row.to_vec()));
                        waiting.extend(views.into_iter().zip(features));
                    }
                    JobResult::Failed { job, error } => {
                        waiting.insert(job, Err(error));
                    }
                }
            }
            // Results come in order of completion and are reported in order of the input.
            let in_order: Vec<_> = (next..).map_while(|image| waiting.remove(&image)).collect();
            let mut in_order = in_order.into_iter();
            while in_order.len() > 0 {
                let batch: Vec<_> = in_order.by_ref().take(BATCH_SIZE).collect();
                let batch_images = &images[next..next + batch.len()];
                next += batch.len();
                self.report_batch(batch_images, batch, on_predictions)?;
                progress.step(batch_images.len() as u64);
            }
            Ok(ControlFlow::Continue(()))
        });
        progress.end();
        outcome
    }

    /// Calls `on_predictions` once with a batch of `images`. `features` has for each image its features
    /// `[F]`, which are classified here, or the error of reading it, which is passed on.
    fn report_batch<E: From<TrainError>>(
        &self,
        images: &[ImageRef],
        features: Vec<Result<Vec<f32>, DecodeError>>,
        on_predictions: &mut OnPredictions<'_, E>,
    ) -> Result<(), E> {
        let values: Vec<f32> = features.iter().flatten().flatten().copied().collect();
        let predictions = if values.is_empty() { None } else { Some(self.predictions(&values)?) };
        // The predictions of the readable images, in order.
        let mut rows = predictions
            .iter()
            .flat_map(|predictions| predictions.rows().zip(&predictions.predicted))
            .map(|(probabilities, &predicted)| Prediction { probabilities, predicted });
        let results = features
            .into_iter()
            .map(|outcome| outcome.map(|_| rows.next().expect("a row for each readable image")));
        on_predictions(images, results.collect())
    }

    /// The model's calibrated predictions for the `features` `[n, F]` of `n` images.
    fn predictions(&self, features: &[f32]) -> Result<Predictions, TrainError> {
        self.model
            .predictions(&self.model.head.logits(FeatureMatrix::new(features, self.pretrained.width())?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use headstock_heads::Registry;

    use super::*;
    use crate::config::Config;
    use crate::recording_head::{solid_color_png, write_backbone};
    use crate::run::Run;
    use crate::{RunDir, train};

    // effect: predict PHOTO, predict RUN
    #[test]
    fn predictions_and_read_errors_are_reported_in_the_order_of_the_images() {
        let folder = tempfile::tempdir().unwrap();
        let path_of =
            |number: usize| folder.path().join(format!("photos/{}/{number:02}.png", ["a", "b"][number % 2]));
        for number in 0..24 {
            fs::create_dir_all(path_of(number).parent().unwrap()).unwrap();
            fs::write(path_of(number), solid_color_png(number)).unwrap();
        }
        fs::write(folder.path().join("text.png"), "no photo").unwrap();
        write_backbone(folder.path());
        let config = "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = \
                      0.5\n[backbone]\nweights = \"backbone\"\nlayer = \"layer1\"\n[head]\nC = 0.001";
        let heads = Registry::builtin();
        let settings = Config::parse(config, "test", folder.path()).unwrap().resolve(&heads).unwrap();
        let run = folder.path().join("run");
        train(&settings, None, &RunDir::Named(run.clone()), &()).unwrap();

        // The run's own predictions for the test photos, by path.
        let table = fs::read(run.join("predictions.csv")).unwrap();
        let rows: Vec<csv::StringRecord> =
            csv::Reader::from_reader(table.as_slice()).records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 12);
        let run = Run::open(&run, &heads).unwrap();
        let record = run.model.record.backbone.as_ref().unwrap();
        assert_eq!((record.architecture.as_str(), record.source.as_str()), ("resnet50", "backbone"));
        assert_eq!((record.layer.as_str(), record.precision.as_str(), record.tuned), ("layer1", "f32", None));
        let preprocessing = run.model.record.preprocessing.as_ref().unwrap();
        assert_eq!((preprocessing.crop, run.model.record.width), ([32, 32], 256));
        // In reverse, more than a batch, with repetitions and two files that are not photos.
        let mut images: Vec<ImageRef> = rows
            .iter()
            .rev()
            .cycle()
            .take(40)
            .map(|row| folder.path().join("photos").join(&row[0]).into())
            .collect();
        images.insert(5, folder.path().join("text.png").into());
        images.insert(20, folder.path().join("nowhere.png").into());
        let predictor = Predictor::new(&run.model, &settings, &()).unwrap();
        let mut reported = Vec::new();
        predictor
            .predict::<TrainError>(&images, &(), &mut |batch, predicted| {
                assert_eq!(batch.len(), predicted.len());
                for (image, predicted) in batch.iter().zip(predicted) {
                    let prediction =
                        predicted.map(|prediction| (prediction.probabilities.to_vec(), prediction.predicted));
                    reported.push((image.clone(), prediction.map_err(|error| error.to_string())));
                }
                Ok(())
            })
            .unwrap();
        assert!(reported.iter().map(|(image, _)| image).eq(&images));
        let mut expected = rows.iter().rev().cycle();
        for (number, (image, prediction)) in reported.iter().enumerate() {
            if number == 5 || number == 20 {
                assert!(prediction.is_err(), "{image}");
                continue;
            }
            let row = expected.next().unwrap();
            let (probabilities, predicted) = prediction.as_ref().unwrap();
            assert_eq!(&run.model.record.classes[*predicted as usize], &row[2], "{image}");
            for (found, written) in probabilities.iter().zip(row.iter().skip(4)) {
                let written: f32 = written.parse().unwrap();
                assert!((found - written).abs() < 1e-5, "{image}: {found} {written}");
            }
        }
        assert!(reported[5].1.as_ref().unwrap_err().contains("not a photo"), "{:?}", reported[5]);
        let distinct: std::collections::BTreeSet<String> = rows.iter().map(|row| row[4].to_owned()).collect();
        assert!(distinct.len() > 6, "photos have different probabilities: {distinct:?}");
    }
}
