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

/// Is told the number of a photo and the probability of each class, or why it cannot be read.
pub type Told<'a> = dyn FnMut(usize, Result<&[f32], DecodeError>) -> Result<(), TrainError> + 'a;

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

    /// Predicts `photos` in order, a batch at a time.
    ///
    /// # Errors
    /// [`TrainError::Backbone`] and [`TrainError::Head`], and what `each` gives.
    pub fn predict(&self, photos: &[PathBuf], each: &mut Told<'_>) -> Result<(), TrainError> {
        let network = Network { backbone: &self.backbone, layer: self.stock.options().layer };
        for (batch, first) in photos.chunks(BATCH).zip((0..).step_by(BATCH)) {
            let rendered: Vec<_> = batch.par_iter().map(|path| self.renderer.open(path)).collect();
            let mut pixels = Vec::with_capacity(batch.len());
            let failed: Vec<Option<DecodeError>> =
                rendered.into_iter().map(|outcome| outcome.map(|photo| pixels.push(photo)).err()).collect();
            let predictions = if pixels.is_empty() {
                None
            } else {
                let features = network.features(self.renderer.transform(), &pixels)?;
                let features = Features::new(&features, self.stock.width())?;
                Some(Predictions::new(&self.model.head.logits(features)?))
            };
            let mut rows = predictions.iter().flat_map(Predictions::rows);
            for (number, failed) in (first..).zip(failed) {
                let outcome = match failed {
                    Some(error) => Err(error),
                    None => Ok(rows.next().expect("a row for each photo that could be read")),
                };
                each(number, outcome)?;
            }
        }
        Ok(())
    }
}
