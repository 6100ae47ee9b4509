//! Class probabilities of images by a trained model.

use std::path::Path;

use headstock_heads::{FeatureMatrix, Registry};
use headstock_loader::{DecodeError, DecodeOptions, ImageRef};
use image::RgbImage;

use crate::error::InferenceError;
use crate::extractor::{FeatureExtractor, FindFeatures};
use crate::model::Model;
use crate::predictions::Predictions;
use crate::pretrained::{BackboneOptions, PretrainedBackbone};
use crate::progress::Progress;
use crate::stored_run::StoredRun;

/// The model's prediction for an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The probability of each class, `[C]`.
    pub probabilities: Vec<f32>,
    /// The number of the most probable class; ties are broken as in [`Predictions`].
    pub predicted: u32,
}

/// Receives a batch of images and, for each, its prediction or the reason why it cannot be read.
pub type OnPredictions<'a, E> =
    dyn FnMut(&[ImageRef], Vec<Result<Prediction, DecodeError>>) -> Result<(), E> + 'a;

/// A trained model with its backbone on its device, ready to classify images.
///
/// Threads may share it; see [`FeatureExtractor`].
pub struct Predictor {
    model: Model,
    extractor: FeatureExtractor,
}

impl Predictor {
    /// Opens the run in the folder `run`, whose head must be one of `heads`, and loads its backbone from the
    /// weights that the run names, including fine-tuned weights. [`StoredRun`] takes other places and
    /// devices.
    ///
    /// # Errors
    /// The errors of [`StoredRun::open`] and [`Predictor::new`].
    pub fn open(run: &Path, heads: &Registry) -> Result<Self, InferenceError> {
        let StoredRun { model, backbone, decode } = StoredRun::open(run, heads)?;
        Self::new(model, backbone.as_ref().ok_or(InferenceError::NoBackbone)?, decode, &())
    }

    /// Loads the backbone of `model` from the weights that `options` name, which must be those that the head
    /// was fitted on.
    ///
    /// # Errors
    /// The errors of [`Model::open_backbone`].
    pub fn new(
        model: Model,
        options: &BackboneOptions,
        decode: DecodeOptions,
        progress: &dyn Progress,
    ) -> Result<Self, InferenceError> {
        let pretrained = model.open_backbone(options, progress)?;
        Self::with_backbone(model, &pretrained, decode)
    }

    /// Loads `pretrained`, the backbone that [`Model::open_backbone`] has opened for `model`.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`].
    pub fn with_backbone(
        model: Model,
        pretrained: &PretrainedBackbone,
        decode: DecodeOptions,
    ) -> Result<Self, InferenceError> {
        let extractor = FeatureExtractor::new(pretrained, decode)?;
        Ok(Self { model, extractor })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The names of the classes, in the order of the probabilities.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.model.record.classes
    }

    /// Classifies the image in the file `path`.
    ///
    /// # Errors
    /// [`InferenceError::Image`] if the file cannot be read or decoded, [`InferenceError::Backbone`],
    /// [`InferenceError::Head`], [`InferenceError::Logits`].
    pub fn predict_file(&self, path: &Path) -> Result<Prediction, InferenceError> {
        self.classify(&self.extractor.features_of_file(path)?)
    }

    /// Classifies an image file in memory.
    ///
    /// # Errors
    /// The errors of [`predict_file`](Self::predict_file).
    pub fn predict_bytes(&self, bytes: &[u8]) -> Result<Prediction, InferenceError> {
        self.classify(&self.extractor.features_of_bytes(bytes)?)
    }

    /// Classifies a decoded, upright image.
    ///
    /// # Errors
    /// The errors of [`predict_file`](Self::predict_file), but [`InferenceError::Image`].
    pub fn predict_pixels(&self, image: &RgbImage) -> Result<Prediction, InferenceError> {
        self.classify(&self.extractor.features_of_pixels(image)?)
    }

    /// The prediction from the `features` `[F]` of an image.
    fn classify(&self, features: &[f32]) -> Result<Prediction, InferenceError> {
        let Predictions { probabilities, predicted, .. } = self.predictions(features)?;
        Ok(Prediction { probabilities, predicted: predicted[0] })
    }

    /// Classifies `images` on all cores, and calls `on_predictions` with one batch of them after another
    /// while the others are still computed. The batches are in the order of `images`; an unreadable image is
    /// in them with its error.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`], [`InferenceError::Head`], [`InferenceError::Logits`], and the error of
    /// `on_predictions`.
    pub fn predict_images<E: From<InferenceError>>(
        &self,
        images: &[ImageRef],
        progress: &dyn Progress,
        on_predictions: &mut OnPredictions<'_, E>,
    ) -> Result<(), E> {
        self.predict_images_with(images, &|_| None, progress, on_predictions)
    }

    /// As [`predict_images`](Self::predict_images), but features that `find_known` gives are not computed.
    ///
    /// # Errors
    /// The errors of [`predict_images`](Self::predict_images), and [`InferenceError::Head`] for known features of
    /// another length.
    pub fn predict_images_with<E: From<InferenceError>>(
        &self,
        images: &[ImageRef],
        find_known: &FindFeatures<'_>,
        progress: &dyn Progress,
        on_predictions: &mut OnPredictions<'_, E>,
    ) -> Result<(), E> {
        self.extractor.run_on_images::<E>(
            "predicting",
            images,
            find_known,
            progress,
            &mut |batch, features| {
                let values: Vec<f32> = features.iter().flatten().flatten().copied().collect();
                let predictions = if values.is_empty() { None } else { Some(self.predictions(&values)?) };
                // The predictions of the readable images, in order.
                let mut rows = predictions
                    .iter()
                    .flat_map(|predictions| predictions.rows().zip(&predictions.predicted))
                    .map(|(row, &predicted)| Prediction { probabilities: row.to_vec(), predicted });
                let results = features
                    .into_iter()
                    .map(|outcome| outcome.map(|_| rows.next().expect("a row for each readable image")));
                on_predictions(batch, results.collect())
            },
        )
    }

    /// The model's calibrated predictions for the `features` `[N, F]` of `N` images.
    fn predictions(&self, features: &[f32]) -> Result<Predictions, InferenceError> {
        let features = FeatureMatrix::new(features, self.extractor.width())?;
        self.model.predictions(&self.model.head.logits(features)?)
    }
}
