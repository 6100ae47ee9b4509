//! What is trained: a backbone from a stage on, and the head on it.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use headstock_backbone::{
    BackboneError, FeatureLayer, ParameterRole, ParameterSlot as TrunkSlot, StageActivations,
    TrainableBackbone,
};
use headstock_heads::{Differentiable, ForwardMode, HeadError, Tensors};

use crate::error::TrainError;

/// What the names of the head's parameters begin with, beside torchvision's names of the backbone's.
const HEAD_PREFIX: &str = "head.";

/// What is trained below the head, each method as [`Trainable`] has it: that, or something that is small enough to be written down.
pub(super) trait FinetuneBackbone {
    fn set_trainable_from(&mut self, stage: FeatureLayer);
    fn forward(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError>;
    fn forward_training(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError>;
    fn backward(&mut self, by_features: &[f32]) -> Result<(), BackboneError>;
    fn zero_gradients(&mut self);
    fn parameters_mut(&mut self) -> Vec<TrunkSlot<'_>>;
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

    fn backward(&mut self, by_features: &[f32]) -> Result<(), BackboneError> {
        self.backward(by_features)
    }

    fn zero_gradients(&mut self) {
        self.zero_gradients();
    }

    fn parameters_mut(&mut self) -> Vec<TrunkSlot<'_>> {
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

/// Where a parameter belongs, which its learning rate depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParameterGroup {
    Head,
    Stage(FeatureLayer),
}

/// A parameter, on the way to its next value.
pub(super) struct OptimizedParameter<'a> {
    pub(super) name: String,
    pub(super) group: ParameterGroup,
    /// Whether weight decay applies.
    pub(super) has_weight_decay: bool,
    pub(super) values: &'a mut [f32],
    pub(super) gradient: &'a mut [f32],
}

/// The loss of logits `[N, C]`, and its derivative by them.
pub(super) type LossFn<'a> = dyn FnMut(&[f32]) -> (f64, Vec<f32>) + 'a;

impl<'a> FinetuneModel<'a> {
    /// With a head that begins as `start`.
    ///
    /// # Errors
    /// When a tensor is not `f32`.
    pub(super) fn new(
        trunk: impl FinetuneBackbone + 'static,
        head: &'a dyn Differentiable,
        start: &Tensors,
    ) -> Result<Self, TrainError> {
        let parameter = |(name, tensor): (&String, &Tensor)| -> Result<_, HeadError> {
            let values = tensor.flatten_all()?.to_vec1()?;
            let gradient = vec![0.0; values.len()];
            Ok((name.clone(), HeadParameter { shape: tensor.dims().to_vec(), values, gradient }))
        };
        let parameters = start.iter().map(parameter).collect::<Result<_, _>>()?;
        Ok(Self { backbone: Box::new(trunk), head, head_parameters: parameters })
    }

    /// Trains the backbone from `stage` on only.
    pub(super) fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.backbone.set_trainable_from(stage);
    }

    /// Adds the gradient of a batch to those that are there: its loss. What is random in the head is keyed by `step`.
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
        let (loss, by_features) = self.head_forward_backward(features, batch.images, step, loss)?;
        self.backbone.backward(&by_features)?;
        Ok(loss)
    }

    /// The loss of features, and its derivative by them; that by the head's parameters is added to what is there.
    fn head_forward_backward(
        &mut self,
        features: Vec<f32>,
        photos: usize,
        step: u64,
        loss: &mut LossFn<'_>,
    ) -> Result<(f64, Vec<f32>), HeadError> {
        let size = features.len();
        let features = Tensor::from_vec(features, (photos, size / photos.max(1)), &Device::Cpu)?;
        let features = Var::from_tensor(&features)?;
        let (vars, parameters) = self.candle_vars()?;
        let logits = self.head.forward(&parameters, &features, ForwardMode::Train { step })?;
        let (loss, by_logits) = loss(&logits.flatten_all()?.to_vec1()?);
        let by_logits = Tensor::from_vec(by_logits, logits.dims(), &Device::Cpu)?;
        let gradients = (logits * by_logits)?.sum_all()?.backward()?;
        for (var, parameter) in vars.iter().zip(self.head_parameters.values_mut()) {
            // One that the logits do not depend on has none.
            let Some(by_parameter) = gradients.get(var) else { continue };
            let by_parameter = by_parameter.flatten_all()?.to_vec1::<f32>()?;
            parameter.gradient.iter_mut().zip(by_parameter).for_each(|(sum, value)| *sum += value);
        }
        let by_features = match gradients.get(&features) {
            Some(by_features) => by_features.flatten_all()?.to_vec1()?,
            None => vec![0.0; size],
        };
        Ok((loss, by_features))
    }

    /// The head's parameters as candle's variables, in their order, and by name.
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

    /// Logits `[N, C]` of a batch.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub(super) fn logits(&mut self, batch: StageActivations<'_>) -> Result<Vec<f32>, TrainError> {
        let photos = batch.images;
        let features = self.backbone.forward(batch)?;
        let width = features.len() / photos.max(1);
        let of = || -> Result<Vec<f32>, HeadError> {
            let features = Tensor::from_vec(features, (photos, width), &Device::Cpu)?;
            let logits = self.head.forward(&self.head_tensors()?, &features, ForwardMode::Evaluate)?;
            Ok(logits.flatten_all()?.to_vec1()?)
        };
        Ok(of()?)
    }

    /// Forgets the gradients.
    pub(super) fn zero_gradients(&mut self) {
        self.backbone.zero_gradients();
        self.head_parameters.values_mut().for_each(|parameter| parameter.gradient.fill(0.0));
    }

    /// All that is trained now.
    pub(super) fn parameters_mut(&mut self) -> Vec<OptimizedParameter<'_>> {
        let of_head =
            self.head_parameters.iter_mut().map(|(name, HeadParameter { shape, values, gradient })| {
                OptimizedParameter {
                    name: format!("{HEAD_PREFIX}{name}"),
                    group: ParameterGroup::Head,
                    // A scalar or a bias only shifts.
                    has_weight_decay: shape.len() > 1,
                    values,
                    gradient,
                }
            });
        let of_trunk = self.backbone.parameters_mut().into_iter().map(|slot| OptimizedParameter {
            name: slot.parameter.name.clone(),
            group: ParameterGroup::Stage(slot.parameter.stage),
            has_weight_decay: slot.parameter.role == ParameterRole::ConvWeight,
            values: slot.values,
            gradient: slot.gradient,
        });
        of_head.chain(of_trunk).collect()
    }

    /// Everything that changes in training, by name: parameters and running statistics of all stages that are loaded.
    pub(super) fn named_values_mut(&mut self) -> Vec<(String, &mut [f32])> {
        let of_head = self
            .head_parameters
            .iter_mut()
            .map(|(name, parameter)| (format!("{HEAD_PREFIX}{name}"), parameter.values.as_mut_slice()));
        of_head.chain(self.backbone.named_values_mut()).collect()
    }

    /// The head's parameters.
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
