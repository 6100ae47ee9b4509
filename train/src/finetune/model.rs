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

/// The backbone below the head, with the methods of [`TrainableBackbone`]: that, or a small
/// one in tests.
pub(super) trait FinetuneBackbone {
    fn set_trainable_from(&mut self, stage: FeatureLayer);
    fn forward(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError>;
    fn forward_training(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError>;
    fn backward(&mut self, grad_features: &[f32]) -> Result<(), BackboneError>;
    fn zero_gradients(&mut self);
    fn parameters_mut(&mut self) -> Vec<ParameterSlot<'_>>;
    fn named_values_mut(&mut self) -> Vec<(String, &mut [f32])>;
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

/// A parameter of the head.
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

/// The loss of logits `[N, C]`, and its gradient w.r.t. them, `[N, C]`.
pub(super) type LossFn<'a> = dyn FnMut(&[f32]) -> (f64, Vec<f32>) + 'a;

impl<'a> FinetuneModel<'a> {
    /// Combines a backbone and a head with the initial parameters `initial_head`.
    ///
    /// # Errors
    /// [`TrainError::Head`] if a tensor is not `f32`.
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

    /// Makes the stages from `stage` on trainable, and freezes the ones before.
    pub(super) fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.backbone.set_trainable_from(stage);
    }

    /// Runs a batch forward and backward, adds to the accumulated gradients, and returns the loss. Randomness
    /// in the head (dropout) is keyed by `step`.
    ///
    /// # Errors
    /// [`TrainError::Backbone`], [`TrainError::Head`].
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

    /// The loss of features `[n, F]`, and its gradient w.r.t. them, `[n, F]`. Gradients of the head's
    /// parameters accumulate.
    fn head_forward_backward(
        &mut self,
        features: Vec<f32>,
        n_images: usize,
        step: u64,
        loss: &mut LossFn<'_>,
    ) -> Result<(f64, Vec<f32>), HeadError> {
        let size = features.len();
        let features = Tensor::from_vec(features, (n_images, size / n_images.max(1)), &Device::Cpu)?;
        let features = Var::from_tensor(&features)?;
        let (vars, parameters) = self.candle_vars()?;
        let logits = self.head.forward(&parameters, &features, ForwardMode::Train { step })?;
        let (loss, grad_logits) = loss(&logits.flatten_all()?.to_vec1()?);
        let grad_logits = Tensor::from_vec(grad_logits, logits.dims(), &Device::Cpu)?;
        let gradients = (logits * grad_logits)?.sum_all()?.backward()?;
        for (var, parameter) in vars.iter().zip(self.head_parameters.values_mut()) {
            // A parameter that the logits do not depend on has no gradient.
            let Some(grad_parameter) = gradients.get(var) else { continue };
            let grad_parameter = grad_parameter.flatten_all()?.to_vec1::<f32>()?;
            parameter.gradient.iter_mut().zip(grad_parameter).for_each(|(sum, value)| *sum += value);
        }
        let grad_features = match gradients.get(&features) {
            Some(grad_features) => grad_features.flatten_all()?.to_vec1()?,
            None => vec![0.0; size],
        };
        Ok((loss, grad_features))
    }

    /// The head's parameters as candle variables, in order and by name.
    fn candle_vars(&self) -> Result<(Vec<Var>, Tensors), HeadError> {
        let mut vars = Vec::with_capacity(self.head_parameters.len());
        let mut named = Tensors::new();
        for (name, HeadParameter { shape, values, .. }) in &self.head_parameters {
            let var = Var::from_slice(values, shape.as_slice(), &Device::Cpu)?;
            named.insert(name.clone(), var.as_tensor().clone());
            vars.push(var);
        }
        Ok((vars, named))
    }

    /// Logits `[n, C]` of a batch, without gradients.
    ///
    /// # Errors
    /// [`TrainError::Backbone`], [`TrainError::Head`].
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

    /// Sets all gradients to 0.
    pub(super) fn zero_gradients(&mut self) {
        self.backbone.zero_gradients();
        self.head_parameters.values_mut().for_each(|parameter| parameter.gradient.fill(0.0));
    }

    /// All parameters that are trained now.
    pub(super) fn parameters_mut(&mut self) -> Vec<OptimizedParameter<'_>> {
        let head_parameters =
            self.head_parameters.iter_mut().map(|(name, HeadParameter { shape, values, gradient })| {
                OptimizedParameter {
                    name: format!("{HEAD_PREFIX}{name}"),
                    group: ParameterGroup::Head,
                    // Scalars and biases do not decay.
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

    /// All values that training changes, by name: parameters and running statistics of all loaded stages.
    pub(super) fn named_values_mut(&mut self) -> Vec<(String, &mut [f32])> {
        let head_parameters = self
            .head_parameters
            .iter_mut()
            .map(|(name, parameter)| (format!("{HEAD_PREFIX}{name}"), parameter.values.as_mut_slice()));
        head_parameters.chain(self.backbone.named_values_mut()).collect()
    }

    /// The head's parameters, by name.
    pub(super) fn head_tensors(&self) -> Result<Tensors, HeadError> {
        let tensor = |(name, parameter): (&String, &HeadParameter)| {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)?;
            Ok((name.clone(), tensor))
        };
        self.head_parameters.iter().map(tensor).collect()
    }

    /// The backbone's tensors, by torchvision's names.
    pub(super) fn backbone_tensors(&self) -> Result<Tensors, TrainError> {
        Ok(self.backbone.tensors().map_err(HeadError::from)?)
    }
}
