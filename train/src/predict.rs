//! A run, used on new photos.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use headstock_backbone::Backbone;
use headstock_heads::Features;
use headstock_loader::{DecodeError, Photo};

use crate::config::Settings;
use crate::error::TrainError;
use crate::features::{BATCH, Done, Job, Network, Renderer, Stock, run};
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
pub type Told<'a, E> = dyn FnMut(&[Photo], Vec<Result<Prediction<'_>, DecodeError>>) -> Result<(), E> + 'a;

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
        let renderer = Renderer::plain(stock.transform(), &settings.options.data);
        Ok(Self { model, stock, backbone, renderer })
    }

    /// Predicts `photos` in order, a few at a time; `told` hears of them when they are done.
    ///
    /// # Errors
    /// [`TrainError::Backbone`] and [`TrainError::Head`], and what `told` gives.
    pub fn predict<E: From<TrainError>>(
        &self,
        photos: &[Photo],
        progress: &dyn Progress,
        told: &mut Told<'_, E>,
    ) -> Result<(), E> {
        let (layer, size) = (self.stock.options().layer, self.stock.transform().crop);
        let network = Network::features(&self.backbone, layer, size);
        let jobs: Vec<Job<'_>> = (photos.iter().enumerate())
            .map(|(number, photo)| Job { photo, renderings: number..number + 1 })
            .collect();
        let render = |_, bytes: &[u8]| Ok(vec![self.renderer.plain_view(bytes)?]);
        let (mut ahead, mut next) = (BTreeMap::new(), 0);
        progress.begin("predicting", photos.len() as u64, "photos");
        let outcome = run::<_, DecodeError, E>(&network, &jobs, &render, &mut |news| {
            for done in news {
                match done {
                    Done::Ran { of, values } => {
                        let each = values.chunks_exact(self.stock.width()).map(|values| Ok(values.to_vec()));
                        ahead.extend(of.into_iter().zip(each));
                    }
                    Done::Failed { job, error } => {
                        ahead.insert(job, Err(error));
                    }
                }
            }
            // Photos come as they are done; they are told in order.
            let in_order: Vec<_> = (next..).map_while(|photo| ahead.remove(&photo)).collect();
            let mut in_order = in_order.into_iter();
            while in_order.len() > 0 {
                let batch: Vec<_> = in_order.by_ref().take(BATCH).collect();
                let of = &photos[next..next + batch.len()];
                next += batch.len();
                self.tell(of, batch, told)?;
                progress.step(of.len() as u64);
            }
            Ok(ControlFlow::Continue(()))
        });
        progress.end();
        outcome
    }

    /// Tells what the head makes of the features of some photos.
    fn tell<E: From<TrainError>>(
        &self,
        photos: &[Photo],
        features: Vec<Result<Vec<f32>, DecodeError>>,
        told: &mut Told<'_, E>,
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
        self.model.predictions(&self.model.head.logits(Features::new(features, self.stock.width())?)?)
    }
}
