//! The trained model: the last stages of a backbone and a head.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use headstock_backbone::{
    BackboneError, FeatureLayer, ParameterRole, ParameterSlot, StageActivations, TrainableBackbone,
};
use headstock_heads::{Differentiable, ForwardMode, HeadError, Tensors};

use crate::error::TrainError;

/// Prefix of the head's parameter names; the backbone's have torchvision's names.
const HEAD_PREFIX: &str = "head.";

/// The backbone part of a [`FinetuneModel`]: a [`TrainableBackbone`], or a tiny network in tests.
pub(super) trait FinetuneBackbone {
    /// Makes `stage` and all later stages trainable and freezes the earlier ones: frozen stages still run,
    /// but get no gradients. Gradual unfreezing calls it with ever earlier stages.
    fn set_trainable_from(&mut self, stage: FeatureLayer);
    /// Computes the features `[N, F]` of a batch of activations (the input of the first loaded stage) in
    /// evaluation mode, for validation: BatchNorm uses its running statistics, and nothing is saved.
    fn forward(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError>;
    /// Computes the features `[N, F]` of a batch of activations in training mode, and saves the intermediate
    /// activations that [`backward`](Self::backward) needs.
    fn forward_training(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError>;
    /// Backpropagates `grad_features`, the gradient of the loss w.r.t. the features `[N, F]` of the last
    /// [`forward_training`](Self::forward_training), and adds to the gradients of the trainable parameters.
    fn backward(&mut self, grad_features: &[f32]) -> Result<(), BackboneError>;
    /// Sets the gradients of all parameters to 0, after each optimizer step.
    fn zero_gradients(&mut self);
    /// The trainable parameters with their gradients, for the optimizer step.
    fn parameters_mut(&mut self) -> Vec<ParameterSlot<'_>>;
    /// The values that training can change, flat and by torchvision's names, for checkpoints and the EMA: the
    /// parameters and BatchNorm running statistics of all loaded stages, frozen ones included.
    fn named_values_mut(&mut self) -> Vec<(String, &mut [f32])>;
    /// The values of [`named_values_mut`](Self::named_values_mut) as tensors in the shapes of torchvision's
    /// checkpoints, for the run's model file.
    fn tensors(&self) -> candle_core::Result<Tensors>;
}

impl FinetuneBackbone for TrainableBackbone {
    fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.set_trainable_from(stage);
    }

    fn forward(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        self.forward(input)
    }

    fn forward_training(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        self.forward_training(input)
    }

    fn backward(&mut self, grad_features: &[f32]) -> Result<(), BackboneError> {
        self.backward(grad_features)
    }

    fn zero_gradients(&mut self) {
        self.zero_gradients();
    }

    fn parameters_mut(&mut self) -> Vec<ParameterSlot<'_>> {
        self.parameters_mut().collect()
    }

    fn named_values_mut(&mut self) -> Vec<(String, &mut [f32])> {
        self.state_dict_mut().collect()
    }

    fn tensors(&self) -> candle_core::Result<Tensors> {
        self.tensors()
    }
}

/// A backbone that is trained from a stage on, and the head on its features.
pub(super) struct FinetuneModel<'a> {
    backbone: Box<dyn FinetuneBackbone>,
    head: &'a dyn Differentiable,
    head_parameters: BTreeMap<String, HeadParameter>,
}

/// A parameter of the head, with the gradient that has accumulated since the last optimizer step.
struct HeadParameter {
    shape: Vec<usize>,
    values: Vec<f32>,
    gradient: Vec<f32>,
}

/// Where a parameter belongs; its learning rate depends on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParameterGroup {
    Head,
    Stage(FeatureLayer),
}

/// A parameter and its gradient, for the optimizer.
pub(super) struct OptimizedParameter<'a> {
    pub(super) name: String,
    pub(super) group: ParameterGroup,
    /// Whether weight decay applies.
    pub(super) has_weight_decay: bool,
    pub(super) values: &'a mut [f32],
    pub(super) gradient: &'a mut [f32],
}

/// Computes from logits `[N, C]` the loss, and the gradient of the loss w.r.t. the logits, `[N, C]`.
pub(super) type LossFn<'a> = dyn FnMut(&[f32]) -> (f64, Vec<f32>) + 'a;

impl<'a> FinetuneModel<'a> {
    /// Makes the model that fine-tuning trains, from a backbone and a `head` on its features. The head's
    /// parameters start as `initial_head` (tensors by parameter name); their gradients start at 0.
    ///
    /// # Errors
    /// [`TrainError::Inference`] if a tensor is not `f32`.
    pub(super) fn new(
        backbone: impl FinetuneBackbone + 'static,
        head: &'a dyn Differentiable,
        initial_head: &Tensors,
    ) -> Result<Self, TrainError> {
        let to_parameter = |(name, tensor): (&String, &Tensor)| -> Result<_, HeadError> {
            let values = tensor.flatten_all()?.to_vec1()?;
            let gradient = vec![0.0; values.len()];
            Ok((name.clone(), HeadParameter { shape: tensor.dims().to_vec(), values, gradient }))
        };
        let head_parameters = initial_head.iter().map(to_parameter).collect::<Result<_, _>>()?;
        Ok(Self { backbone: Box::new(backbone), head, head_parameters })
    }

    /// Makes `stage` and all later stages of the backbone trainable, and freezes the earlier ones. The head
    /// is always trainable.
    pub(super) fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.backbone.set_trainable_from(stage);
    }

    /// Runs a training batch forward and backward, adds to the accumulated gradients of all trainable
    /// parameters, and returns the loss. `batch` is the input of the first loaded stage: activations of the
    /// frozen stages before it, or pixels. `loss` computes the loss and its gradient from the logits. `step`
    /// is the number of the step; it seeds the head's dropout.
    ///
    /// # Errors
    /// [`TrainError::Inference`].
    pub(super) fn forward_backward(
        &mut self,
        batch: StageActivations<'_>,
        step: u64,
        loss: &mut LossFn<'_>,
    ) -> Result<f64, TrainError> {
        let features = self.backbone.forward_training(batch)?;
        let (loss, grad_features) = self.head_forward_backward(features, batch.images, step, loss)?;
        self.backbone.backward(&grad_features)?;
        Ok(loss)
    }

    /// Runs the head forward and backward on the features `[N, F]` of `n_images` images, and adds to the
    /// gradients of the head's parameters. Returns the loss, and its gradient w.r.t. the features, `[N, F]`,
    /// from which the backward pass of the backbone goes on. `step` seeds the head's dropout, and `loss`
    /// computes the loss and its gradient from the logits.
    fn head_forward_backward(
        &mut self,
        features: Vec<f32>,
        n_images: usize,
        step: u64,
        loss: &mut LossFn<'_>,
    ) -> Result<(f64, Vec<f32>), HeadError> {
        let n_values = features.len();
        let features = Tensor::from_vec(features, (n_images, n_values / n_images.max(1)), &Device::Cpu)?;
        let features = Var::from_tensor(&features)?;
        // candle records the gradients of variables.
        let vars = self.head_tensors()?.values().map(Var::from_tensor).collect::<Result<Vec<_>, _>>()?;
        let names = self.head_parameters.keys().cloned();
        let parameters = names.zip(vars.iter().map(|var| var.as_tensor().clone())).collect();
        let logits = self.head.forward(&parameters, &features, ForwardMode::Train { step })?;
        let (loss, grad_logits) = loss(&logits.flatten_all()?.to_vec1()?);
        let grad_logits = Tensor::from_vec(grad_logits, logits.dims(), &Device::Cpu)?;
        // The gradient of this sum is the gradient of the loss, because `grad_logits` is constant.
        let gradients = (logits * grad_logits)?.sum_all()?.backward()?;
        for (var, parameter) in vars.iter().zip(self.head_parameters.values_mut()) {
            // A parameter that the logits do not depend on has no gradient.
            let Some(grad_parameter) = gradients.get(var) else { continue };
            let grad_parameter = grad_parameter.flatten_all()?.to_vec1::<f32>()?;
            parameter.gradient.iter_mut().zip(grad_parameter).for_each(|(sum, value)| *sum += value);
        }
        let grad_features = match gradients.get(&features) {
            Some(grad_features) => grad_features.flatten_all()?.to_vec1()?,
            None => vec![0.0; n_values],
        };
        Ok((loss, grad_features))
    }

    /// Computes the logits `[N, C]` of a batch for validation: without gradients, in evaluation mode. `batch`
    /// is the input of the first loaded stage: activations of the frozen stages before it, or pixels.
    ///
    /// # Errors
    /// [`TrainError::Inference`].
    pub(super) fn logits(&mut self, batch: StageActivations<'_>) -> Result<Vec<f32>, TrainError> {
        let n_images = batch.images;
        let features = self.backbone.forward(batch)?;
        let width = features.len() / n_images.max(1);
        let head_logits = || -> Result<Vec<f32>, HeadError> {
            let features = Tensor::from_vec(features, (n_images, width), &Device::Cpu)?;
            let logits = self.head.forward(&self.head_tensors()?, &features, ForwardMode::Evaluate)?;
            Ok(logits.flatten_all()?.to_vec1()?)
        };
        Ok(head_logits()?)
    }

    /// Sets all gradients of the backbone and the head to 0, after each optimizer step.
    pub(super) fn zero_gradients(&mut self) {
        self.backbone.zero_gradients();
        self.head_parameters.values_mut().for_each(|parameter| parameter.gradient.fill(0.0));
    }

    /// The parameters that the optimizer updates now, with their gradients: the head's first, then those of
    /// the backbone's trainable stages.
    pub(super) fn parameters_mut(&mut self) -> Vec<OptimizedParameter<'_>> {
        let head_parameters =
            self.head_parameters.iter_mut().map(|(name, HeadParameter { shape, values, gradient })| {
                OptimizedParameter {
                    name: format!("{HEAD_PREFIX}{name}"),
                    group: ParameterGroup::Head,
                    // Weight decay applies to weights only, not to scalars and biases.
                    has_weight_decay: shape.len() > 1,
                    values,
                    gradient,
                }
            });
        let backbone_parameters = self.backbone.parameters_mut().into_iter().map(|slot| OptimizedParameter {
            name: slot.parameter.name.clone(),
            group: ParameterGroup::Stage(slot.parameter.stage),
            has_weight_decay: slot.parameter.role == ParameterRole::ConvWeight,
            values: slot.values,
            gradient: slot.gradient,
        });
        head_parameters.chain(backbone_parameters).collect()
    }

    /// All values that training can change, by name, for checkpoints and the EMA: the parameters of the head,
    /// and the parameters and BatchNorm running statistics of all stages of the backbone that are loaded for
    /// training.
    pub(super) fn named_values_mut(&mut self) -> Vec<(String, &mut [f32])> {
        let head_parameters = self
            .head_parameters
            .iter_mut()
            .map(|(name, parameter)| (format!("{HEAD_PREFIX}{name}"), parameter.values.as_mut_slice()));
        head_parameters.chain(self.backbone.named_values_mut()).collect()
    }

    /// Copies the head's parameters into tensors by name, the form in which heads take and save them.
    pub(super) fn head_tensors(&self) -> Result<Tensors, HeadError> {
        let tensor = |(name, parameter): (&String, &HeadParameter)| {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)?;
            Ok((name.clone(), tensor))
        };
        self.head_parameters.iter().map(tensor).collect()
    }

    /// The tensors of the backbone's loaded stages, by torchvision's names, for the run's model file.
    pub(super) fn backbone_tensors(&self) -> Result<Tensors, TrainError> {
        Ok(self.backbone.tensors().map_err(HeadError::from)?)
    }
}
