//! A run, used on new photos.

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

/// What a model makes of a photo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction<'a> {
    /// The probability of each class, `[C]`.
    pub probabilities: &'a [f32],
    /// The most probable class; among equals as [`Predictions`] has it.
    pub predicted: u32,
}

/// Is told a batch: some photos, and for each what the model makes of it, or why it cannot be read.
pub type OnPredictions<'a, E> =
    dyn FnMut(&[ImageRef], Vec<Result<Prediction<'_>, DecodeError>>) -> Result<(), E> + 'a;

/// A model on its device, ready for photos.
pub struct Predictor<'a> {
    model: &'a Model,
    pretrained: PretrainedBackbone,
    backbone: Backbone,
    renderer: Renderer,
}

impl<'a> Predictor<'a> {
    /// Loads the weights that `settings` name; they must be those that the head was fitted on.
    ///
    /// # Errors
    /// [`TrainError::Usage`] when they are others, or the head was fitted on features made elsewhere;
    /// [`TrainError::Backbone`].
    pub fn new(model: &'a Model, settings: &Settings, progress: &dyn Progress) -> Result<Self, TrainError> {
        let Some(stock) = model.open_backbone(settings, progress)? else {
            return Err(TrainError::Usage(
                "the head was fitted on features made elsewhere: without a backbone it knows no photos"
                    .into(),
            ));
        };
        let backbone = stock.load()?;
        let renderer = Renderer::eval_only(stock.transform(), &settings.options.data);
        Ok(Self { model, pretrained: stock, backbone, renderer })
    }

    /// Predicts `photos` in order, a few at a time; `told` hears of them when they are done.
    ///
    /// # Errors
    /// [`TrainError::Backbone`] and [`TrainError::Head`], and what `told` gives.
    pub fn predict<E: From<TrainError>>(
        &self,
        photos: &[ImageRef],
        progress: &dyn Progress,
        told: &mut OnPredictions<'_, E>,
    ) -> Result<(), E> {
        let (layer, size) = (self.pretrained.options().layer, self.pretrained.transform().crop);
        let network = BatchInference::for_features(&self.backbone, layer, size);
        let jobs: Vec<ImageJob<'_>> = (photos.iter().enumerate())
            .map(|(number, photo)| ImageJob { image: photo, views: number..number + 1 })
            .collect();
        let render = |_, bytes: &[u8]| Ok(vec![self.renderer.eval_view(bytes)?]);
        let (mut ahead, mut next) = (BTreeMap::new(), 0);
        progress.begin_run("predicting", photos.len() as u64, "photos");
        let outcome = run_pipeline::<_, DecodeError, E>(&network, &jobs, &render, &mut |news| {
            for done in news {
                match done {
                    JobResult::Outputs { views: of, values } => {
                        let each =
                            values.chunks_exact(self.pretrained.width()).map(|values| Ok(values.to_vec()));
                        ahead.extend(of.into_iter().zip(each));
                    }
                    JobResult::Failed { job, error } => {
                        ahead.insert(job, Err(error));
                    }
                }
            }
            // Photos come as they are done; they are told in order.
            let in_order: Vec<_> = (next..).map_while(|photo| ahead.remove(&photo)).collect();
            let mut in_order = in_order.into_iter();
            while in_order.len() > 0 {
                let batch: Vec<_> = in_order.by_ref().take(BATCH_SIZE).collect();
                let of = &photos[next..next + batch.len()];
                next += batch.len();
                self.report_batch(of, batch, told)?;
                progress.step(of.len() as u64);
            }
            Ok(ControlFlow::Continue(()))
        });
        progress.train_to_end();
        outcome
    }

    /// Tells what the head makes of the features of some photos.
    fn report_batch<E: From<TrainError>>(
        &self,
        photos: &[ImageRef],
        features: Vec<Result<Vec<f32>, DecodeError>>,
        told: &mut OnPredictions<'_, E>,
    ) -> Result<(), E> {
        let values: Vec<f32> = features.iter().flatten().flatten().copied().collect();
        let predictions = if values.is_empty() { None } else { Some(self.predictions(&values)?) };
        let mut rows = predictions
            .iter()
            .flat_map(|all| all.rows().zip(&all.predicted))
            .map(|(probabilities, &predicted)| Prediction { probabilities, predicted });
        let predicted = features
            .into_iter()
            .map(|outcome| outcome.map(|_| rows.next().expect("a row for each photo that could be read")));
        told(photos, predicted.collect())
    }

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
    fn photos_are_told_in_order_with_what_the_run_says_of_them_and_why_some_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let place =
            |number: usize| folder.path().join(format!("photos/{}/{number:02}.png", ["a", "b"][number % 2]));
        for number in 0..24 {
            fs::create_dir_all(place(number).parent().unwrap()).unwrap();
            fs::write(place(number), solid_color_png(number)).unwrap();
        }
        fs::write(folder.path().join("text.png"), "no photo").unwrap();
        write_backbone(folder.path());
        let text = "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 0.5\n[backbone]\nweights = \"backbone\"\nlayer = \"layer1\"\n[head]\nC = 0.001";
        let heads = Registry::builtin();
        let settings = Config::parse(text, "test", folder.path()).unwrap().resolve(&heads).unwrap();
        let run = folder.path().join("run");
        train(&settings, None, &RunDir::Named(run.clone()), &()).unwrap();

        // Its own predictions of the test photos, by path.
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
        // Backwards, more than a batch, with one twice and two that are no photos between.
        let mut photos: Vec<ImageRef> = rows
            .iter()
            .rev()
            .cycle()
            .take(40)
            .map(|row| folder.path().join("photos").join(&row[0]).into())
            .collect();
        photos.insert(5, folder.path().join("text.png").into());
        photos.insert(20, folder.path().join("nowhere.png").into());
        let predictor = Predictor::new(&run.model, &settings, &()).unwrap();
        let mut told = Vec::new();
        predictor
            .predict::<TrainError>(&photos, &(), &mut |batch, predicted| {
                assert_eq!(batch.len(), predicted.len());
                for (photo, predicted) in batch.iter().zip(predicted) {
                    let said = predicted.map(|said| (said.probabilities.to_vec(), said.predicted));
                    told.push((photo.clone(), said.map_err(|error| error.to_string())));
                }
                Ok(())
            })
            .unwrap();
        assert!(told.iter().map(|(photo, _)| photo).eq(&photos));
        let mut expected = rows.iter().rev().cycle();
        for (number, (photo, said)) in told.iter().enumerate() {
            if number == 5 || number == 20 {
                assert!(said.is_err(), "{photo}");
                continue;
            }
            let row = expected.next().unwrap();
            let (probabilities, predicted) = said.as_ref().unwrap();
            assert_eq!(&run.model.record.classes[*predicted as usize], &row[2], "{photo}");
            for (found, written) in probabilities.iter().zip(row.iter().skip(4)) {
                let written: f32 = written.parse().unwrap();
                assert!((found - written).abs() < 1e-5, "{photo}: {found} {written}");
            }
        }
        assert!(told[5].1.as_ref().unwrap_err().contains("not a photo"), "{:?}", told[5]);
        let different: std::collections::BTreeSet<String> =
            rows.iter().map(|row| row[4].to_owned()).collect();
        assert!(different.len() > 6, "photos are told apart: {different:?}");
    }
}
