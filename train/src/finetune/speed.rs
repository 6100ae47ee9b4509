//! Speed of fine-tuning: optimizer steps on a batch in memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headstock_backbone::{StageActivations, TrainableBackbone};
use headstock_heads::Differentiable;
use headstock_heads::linear::LinearConfig;
use headstock_inference::{BackboneOptions, PretrainedBackbone};
use headstock_split::KeyedRng;

use super::last_frozen_layer;
use super::loss::CrossEntropy;
use super::model::FinetuneModel;
use super::optimizer::Optimizer;
use super::trainer::step_parameters;
use crate::activations::activation_shape;
use crate::config::{TuneFrom, TuneOptions};
use crate::error::TrainError;

/// Number of classes of the head that is trained.
const N_CLASSES: usize = 10;
/// Learning rate of the measured steps, so low that the random labels hardly change the weights.
const LR: f64 = 1e-6;

/// A speed measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FinetuneSpeed {
    /// Number of steps, of one batch each.
    pub steps: usize,
    /// Seconds for forward, backward and optimizer.
    pub seconds: f64,
}

/// Measures the speed of fine-tuning: counts the optimizer steps in the time `limit`, at least one. Each step
/// trains the stages from `from` on with a linear head and SGD. All steps use the same batch of `batch_size`
/// random activations in memory, so that reading and decoding images is not measured.
///
/// # Errors
/// [`TrainError::Inference`]; [`TrainError::Usage`] if `from` is the head.
pub fn measure_finetune_speed(
    pretrained: &PretrainedBackbone,
    from: TuneFrom,
    batch_size: usize,
    limit: Duration,
) -> Result<FinetuneSpeed, TrainError> {
    let options = TuneOptions { from, ..TuneOptions::default() };
    let stage = options.first_stage().ok_or_else(|| {
        TrainError::Usage("`head` is no stage of the backbone: choose a stage, such as layer4".into())
    })?;
    let [height, width, channels] = activation_shape(pretrained, last_frozen_layer(stage));
    let mut random = KeyedRng::new(&[0]);
    let values: Vec<f32> =
        (0..batch_size * height * width * channels).map(|_| random.uniform() as f32).collect();
    let labels: Vec<u32> = (0..batch_size).map(|i| (i % N_CLASSES) as u32).collect();

    let BackboneOptions { device, precision, .. } = pretrained.options;
    let backbone =
        TrainableBackbone::load(pretrained.checkpoint(), stage, options.batch_norm, device, precision)?;
    let head = LinearConfig::default();
    let initial_head = head.initial_parameters(backbone.n_features(), N_CLASSES)?;
    let mut model = FinetuneModel::new(backbone, &head, &initial_head)?;
    let optimizer = Optimizer::Sgd { momentum: options.momentum, nesterov: false };
    let (mut optimizer_states, loss) = (BTreeMap::new(), CrossEntropy::default());
    let mut step = || -> Result<(), TrainError> {
        let input = StageActivations { values: &values, images: batch_size, height, width, channels };
        // Step 0 each time, without mixup (`None`), and with unscaled gradients (1.0).
        model.forward_backward(input, 0, &mut |logits| loss.loss_and_gradient(logits, &labels, None, 1.0))?;
        let parameters = model.parameters_mut();
        step_parameters(parameters, optimizer, &mut optimizer_states, options.weight_decay, |_| LR);
        model.zero_gradients();
        Ok(())
    };
    // Warm-up: the first step allocates.
    step()?;
    let (started, mut steps) = (Instant::now(), 0);
    while steps == 0 || started.elapsed() < limit {
        step()?;
        steps += 1;
    }
    Ok(FinetuneSpeed { steps, seconds: started.elapsed().as_secs_f64() })
}
