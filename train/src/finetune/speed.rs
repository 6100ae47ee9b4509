//! How fast a backbone is tuned: steps on a batch in memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headstock_backbone::{FeatureLayer, StageActivations, TrainableBackbone};
use headstock_heads::linear::LinearConfig;
use headstock_heads::{Differentiable, KeyedRng};

use super::loss::CrossEntropy;
use super::model::FinetuneModel;
use super::optimizer::Optimizer;
use super::trainer::step_parameters;
use crate::config::{TuneFrom, TuneOptions};
use crate::error::TrainError;
use crate::features::PretrainedBackbone;

/// Classes of the head that is tuned with the backbone.
const N_CLASSES: usize = 10;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FinetuneSpeed {
    /// Steps of a batch each.
    pub steps: usize,
    /// How long they took: forward, backward, and the optimiser.
    pub seconds: f64,
}

/// Measures steps that tune `from` and all that follows it, with a linear head and SGD, on a batch of made-up activations at the
/// cut, for `limit` and one step at least.
///
/// # Errors
/// [`TrainError::Backbone`]; [`TrainError::Usage`] where nothing is tuned.
pub fn measure_finetune_speed(
    stock: &PretrainedBackbone,
    from: TuneFrom,
    batch: usize,
    limit: Duration,
) -> Result<FinetuneSpeed, TrainError> {
    let options = TuneOptions { from, ..TuneOptions::default() };
    let stage = options.first_stage().ok_or_else(|| TrainError::Usage("name a stage to tune".into()))?;
    let (height, width) = stock.transform().crop;
    let (height, width) = (height as usize, width as usize);
    let before = FeatureLayer::ALL.into_iter().rev().find(|layer| *layer < stage);
    let (height, width, channels) = match before {
        None => (height, width, 3),
        Some(layer) => {
            let (height, width) = layer.output_size(height, width);
            (height, width, layer.channels(stock.checkpoint().architecture()))
        }
    };
    let mut random = KeyedRng::new(&[0]);
    let values: Vec<f32> = (0..batch * height * width * channels).map(|_| random.uniform() as f32).collect();
    let labels: Vec<u32> = (0..batch).map(|photo| (photo % N_CLASSES) as u32).collect();

    let trunk = TrainableBackbone::load_on_device(
        stock.checkpoint(),
        stage,
        options.batch_norm,
        stock.options().device,
        stock.options().precision,
    )?;
    let head = LinearConfig::default();
    let start = head.initial_parameters(trunk.n_features(), N_CLASSES)?;
    let mut network = FinetuneModel::new(trunk, &head, &start)?;
    let optimiser = Optimizer::Sgd { momentum: options.momentum, nesterov: false };
    let (mut states, loss) = (BTreeMap::new(), CrossEntropy::default());
    let mut step = || -> Result<(), TrainError> {
        let input = StageActivations { values: &values, images: batch, height, width, channels };
        network
            .forward_backward(input, 0, &mut |logits| loss.loss_and_gradient(logits, &labels, None, 1.0))?;
        step_parameters(network.parameters_mut(), optimiser, &mut states, options.weight_decay, |_| 1e-6);
        network.zero_gradients();
        Ok(())
    };
    // The first one allocates.
    step()?;
    let (started, mut steps) = (Instant::now(), 0);
    while steps == 0 || started.elapsed() < limit {
        step()?;
        steps += 1;
    }
    Ok(FinetuneSpeed { steps, seconds: started.elapsed().as_secs_f64() })
}
