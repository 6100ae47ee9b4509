//! A run, used on new photos.

use std::path::PathBuf;

use headstock_backbone::Backbone;
use headstock_heads::Features;
use headstock_loader::DecodeError;
use rayon::prelude::*;

use crate::config::Settings;
use crate::error::TrainError;
use crate::features::{BATCH, Network, Renderer, Stock};
use crate::metrics::Predictions;
use crate::progress::Progress;
use crate::run::Model;

/// Is told a batch: some photos, and for each the probability of each class, `[C]`, or why it cannot be read.
pub type Told<'a, E> = dyn FnMut(&[PathBuf], Vec<Result<&[f32], DecodeError>>) -> Result<(), E> + 'a;

/// A model on its device, ready for photos.
pub struct Predictor<'a> {
    model: &'a Model,
    stock: Stock,
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
        let Some(stock) = model.stock(settings, progress)? else {
            return Err(TrainError::Usage(
                "the head was fitted on features made elsewhere: without a backbone it knows no photos"
                    .into(),
            ));
        };
        let backbone = stock.load()?;
        let renderer = Renderer::plain(stock.transform(), settings.options.data.max_pixels);
        Ok(Self { model, stock, backbone, renderer })
    }

    /// Predicts `photos` in order, a batch at a time; `told` hears of each batch when it is done.
    ///
    /// # Errors
    /// [`TrainError::Backbone`] and [`TrainError::Head`], and what `told` gives.
    pub fn predict<E: From<TrainError>>(
        &self,
        photos: &[PathBuf],
        progress: &dyn Progress,
        told: &mut Told<'_, E>,
    ) -> Result<(), E> {
        progress.begin("predicting", photos.len() as u64, "photos");
        let outcome = photos.chunks(BATCH).try_for_each(|batch| {
            self.predict_batch(batch, told)?;
            progress.step(batch.len() as u64);
            Ok(())
        });
        progress.end();
        outcome
    }

    fn predict_batch<E: From<TrainError>>(&self, batch: &[PathBuf], told: &mut Told<'_, E>) -> Result<(), E> {
        let rendered: Vec<_> = batch.par_iter().map(|path| self.renderer.open(path)).collect();
        let mut pixels = Vec::with_capacity(batch.len());
        let failed: Vec<Option<DecodeError>> =
            rendered.into_iter().map(|outcome| outcome.map(|photo| pixels.push(photo)).err()).collect();
        let predictions = if pixels.is_empty() { None } else { Some(self.predictions(&pixels)?) };
        let mut rows = predictions.iter().flat_map(Predictions::rows);
        let predicted = failed.into_iter().map(|failed| match failed {
            Some(error) => Err(error),
            None => Ok(rows.next().expect("a row for each photo that could be read")),
        });
        told(batch, predicted.collect())
    }

    fn predictions(&self, pixels: &[Vec<u8>]) -> Result<Predictions, TrainError> {
        let network = Network { backbone: &self.backbone, layer: self.stock.options().layer };
        let features = network.features(self.renderer.transform(), pixels)?;
        Ok(Predictions::new(&self.model.head.logits(Features::new(&features, self.stock.width())?)?))
    }
}
