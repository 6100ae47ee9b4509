//! What is trained: a backbone from a stage on, and the head on it.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use headstock_backbone::{Activations, BackboneError, Layer, Role, Slot as TrunkSlot, Trainable};
use headstock_heads::{Differentiable, ForwardMode, HeadError, Tensors};

use crate::error::TrainError;

/// What the names of the head's parameters begin with, beside torchvision's names of the backbone's.
const HEAD: &str = "head.";

/// What is trained below the head, each method as [`Trainable`] has it: that, or something that is small enough to be written down.
pub(super) trait Trunk {
    fn tune_from(&mut self, stage: Layer);
    fn forward(&mut self, input: Activations<'_>) -> Result<Vec<f32>, BackboneError>;
    fn forward_training(&mut self, input: Activations<'_>) -> Result<Vec<f32>, BackboneError>;
    fn backward(&mut self, by_features: &[f32]) -> Result<(), BackboneError>;
    fn zero_gradients(&mut self);
    fn slots(&mut self) -> Vec<TrunkSlot<'_>>;
    fn values(&mut self) -> Vec<(String, &mut [f32])>;
    fn tensors(&self) -> candle_core::Result<Tensors>;
}

impl Trunk for Trainable {
    fn tune_from(&mut self, stage: Layer) {
        self.tune_from(stage);
    }

    fn forward(&mut self, input: Activations<'_>) -> Result<Vec<f32>, BackboneError> {
        self.forward(input)
    }

    fn forward_training(&mut self, input: Activations<'_>) -> Result<Vec<f32>, BackboneError> {
        self.forward_training(input)
    }

    fn backward(&mut self, by_features: &[f32]) -> Result<(), BackboneError> {
        self.backward(by_features)
    }

    fn zero_gradients(&mut self) {
        self.zero_gradients();
    }

    fn slots(&mut self) -> Vec<TrunkSlot<'_>> {
        self.slots().collect()
    }

    fn values(&mut self) -> Vec<(String, &mut [f32])> {
        self.values().collect()
    }

    fn tensors(&self) -> candle_core::Result<Tensors> {
        self.tensors()
    }
}

/// A backbone that is trained from a stage on, and the head on its features.
pub(super) struct Network<'a> {
    trunk: Box<dyn Trunk>,
    head: &'a dyn Differentiable,
    parameters: BTreeMap<String, Parameter>,
}

/// A parameter of the head.
struct Parameter {
    shape: Vec<usize>,
    values: Vec<f32>,
    gradient: Vec<f32>,
}

/// Where a parameter belongs, which its learning rate depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Head,
    Stage(Layer),
}

/// A parameter, on the way to its next value.
pub(super) struct Slot<'a> {
    pub(super) name: String,
    pub(super) group: Group,
    /// Whether weight decay applies.
    pub(super) decays: bool,
    pub(super) values: &'a mut [f32],
    pub(super) gradient: &'a mut [f32],
}

/// The loss of logits `[N, C]`, and its derivative by them.
pub(super) type Loss<'a> = dyn FnMut(&[f32]) -> (f64, Vec<f32>) + 'a;

impl<'a> Network<'a> {
    /// With a head that begins as `start`.
    ///
    /// # Errors
    /// When a tensor is not `f32`.
    pub(super) fn new(
        trunk: impl Trunk + 'static,
        head: &'a dyn Differentiable,
        start: &Tensors,
    ) -> Result<Self, TrainError> {
        let parameter = |(name, tensor): (&String, &Tensor)| -> Result<_, HeadError> {
            let values = tensor.flatten_all()?.to_vec1()?;
            let gradient = vec![0.0; values.len()];
            Ok((name.clone(), Parameter { shape: tensor.dims().to_vec(), values, gradient }))
        };
        let parameters = start.iter().map(parameter).collect::<Result<_, _>>()?;
        Ok(Self { trunk: Box::new(trunk), head, parameters })
    }

    /// Trains the backbone from `stage` on only.
    pub(super) fn tune_from(&mut self, stage: Layer) {
        self.trunk.tune_from(stage);
    }

    /// Adds the gradient of a batch to those that are there: its loss. What is random in the head is keyed by `step`.
    ///
    /// # Errors
    /// [`TrainError::Backbone`], [`TrainError::Head`].
    pub(super) fn learn(
        &mut self,
        batch: Activations<'_>,
        step: u64,
        loss: &mut Loss<'_>,
    ) -> Result<f64, TrainError> {
        let features = self.trunk.forward_training(batch)?;
        let (loss, by_features) = self.through_head(features, batch.photos, step, loss)?;
        self.trunk.backward(&by_features)?;
        Ok(loss)
    }

    /// The loss of features, and its derivative by them; that by the head's parameters is added to what is there.
    fn through_head(
        &mut self,
        features: Vec<f32>,
        photos: usize,
        step: u64,
        loss: &mut Loss<'_>,
    ) -> Result<(f64, Vec<f32>), HeadError> {
        let size = features.len();
        let features = Tensor::from_vec(features, (photos, size / photos.max(1)), &Device::Cpu)?;
        let features = Var::from_tensor(&features)?;
        let (vars, parameters) = self.vars()?;
        let logits = self.head.forward(&parameters, &features, ForwardMode::Train { step })?;
        let (loss, by_logits) = loss(&logits.flatten_all()?.to_vec1()?);
        let by_logits = Tensor::from_vec(by_logits, logits.dims(), &Device::Cpu)?;
        let gradients = (logits * by_logits)?.sum_all()?.backward()?;
        for (var, parameter) in vars.iter().zip(self.parameters.values_mut()) {
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
    fn vars(&self) -> Result<(Vec<Var>, Tensors), HeadError> {
        let mut vars = Vec::with_capacity(self.parameters.len());
        let mut named = Tensors::new();
        for (name, Parameter { shape, values, .. }) in &self.parameters {
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
    pub(super) fn logits(&mut self, batch: Activations<'_>) -> Result<Vec<f32>, TrainError> {
        let photos = batch.photos;
        let features = self.trunk.forward(batch)?;
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
        self.trunk.zero_gradients();
        self.parameters.values_mut().for_each(|parameter| parameter.gradient.fill(0.0));
    }

    /// All that is trained now.
    pub(super) fn slots(&mut self) -> Vec<Slot<'_>> {
        let of_head = self.parameters.iter_mut().map(|(name, Parameter { shape, values, gradient })| Slot {
            name: format!("{HEAD}{name}"),
            group: Group::Head,
            // A scalar or a bias only shifts.
            decays: shape.len() > 1,
            values,
            gradient,
        });
        let of_trunk = self.trunk.slots().into_iter().map(|slot| Slot {
            name: slot.parameter.name.clone(),
            group: Group::Stage(slot.parameter.stage),
            decays: slot.parameter.role == Role::Weight,
            values: slot.values,
            gradient: slot.gradient,
        });
        of_head.chain(of_trunk).collect()
    }

    /// Everything that changes in training, by name: parameters and running statistics of all stages that are loaded.
    pub(super) fn values(&mut self) -> Vec<(String, &mut [f32])> {
        let of_head = self
            .parameters
            .iter_mut()
            .map(|(name, parameter)| (format!("{HEAD}{name}"), parameter.values.as_mut_slice()));
        of_head.chain(self.trunk.values()).collect()
    }

    /// The head's parameters.
    pub(super) fn head_tensors(&self) -> Result<Tensors, HeadError> {
        let tensor = |(name, parameter): (&String, &Parameter)| {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)?;
            Ok((name.clone(), tensor))
        };
        self.parameters.iter().map(tensor).collect()
    }

    /// The backbone's tensors, by torchvision's names.
    pub(super) fn tuned_tensors(&self) -> Result<Tensors, TrainError> {
        Ok(self.trunk.tensors().map_err(HeadError::from)?)
    }
}
