//! Trainable parameters, their values and gradients, in CPU memory.

use crate::layer::FeatureLayer;

/// The kind of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterRole {
    /// The weights of a convolution.
    ConvWeight,
    /// The scale or shift of a BatchNorm, which is usually exempt from weight decay.
    BatchNorm,
}

/// The description of a trainable parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainableParameter {
    /// torchvision's name, `layer4.0.conv1.weight` for example.
    pub name: String,
    /// The stage of the parameter, [`FeatureLayer::Stem`] to [`FeatureLayer::Layer4`].
    pub stage: FeatureLayer,
    /// The kind of the parameter.
    pub role: ParameterRole,
    /// `[C]` for BatchNorm; `[K, K, C, O]`, the layout of the GEMM, for convolutions.
    pub shape: Vec<usize>,
}

/// A trainable parameter with its values and its gradient, for an optimizer.
#[derive(Debug)]
pub struct ParameterSlot<'a> {
    /// The description.
    pub parameter: &'a TrainableParameter,
    /// The values, row-major.
    pub values: &'a mut [f32],
    /// The gradient accumulated since it was last set to zero, in the same shape.
    pub gradient: &'a mut [f32],
}

/// All parameters, with values and gradients. The ID of a parameter is its index in each of the vectors.
#[derive(Debug, Default)]
pub(super) struct ParameterStore {
    pub(super) parameters: Vec<TrainableParameter>,
    pub(super) values: Vec<Vec<f32>>,
    gradients: Vec<GradientBuffer>,
}

/// The gradient of a parameter, accumulated over backward passes.
#[derive(Debug, Default)]
struct GradientBuffer {
    /// Empty until first used.
    values: Vec<f32>,
    /// Whether `values` is the gradient; otherwise the gradient is zero and `values` is stale.
    is_set: bool,
}

impl ParameterStore {
    /// Adds a parameter with its initial `values`, and returns its ID, the index for all other methods.
    pub(super) fn add(&mut self, parameter: TrainableParameter, values: Vec<f32>) -> usize {
        self.parameters.push(parameter);
        self.values.push(values);
        self.gradients.push(GradientBuffer::default());
        self.parameters.len() - 1
    }

    /// Returns the values of parameter `id`, its gradient, and whether the caller must add to that gradient
    /// (`true`) or overwrite it (`false`: it counts as zero, but its memory holds old values). Afterwards the
    /// gradient counts as set.
    pub(super) fn gradient_mut(&mut self, id: usize) -> (&[f32], &mut [f32], bool) {
        let (values, gradient) = (&self.values[id], &mut self.gradients[id]);
        gradient.values.resize(values.len(), 0.0);
        (values, &mut gradient.values, std::mem::replace(&mut gradient.is_set, true))
    }

    /// Adds `added`, the result of a backward pass, to the gradient of parameter `id`. If that gradient
    /// counts as zero, its memory holds old values, which `added` replaces.
    pub(super) fn accumulate_gradient(&mut self, id: usize, added: &[f32]) {
        let (_, gradient, accumulate) = self.gradient_mut(id);
        if accumulate {
            gradient.iter_mut().zip(added).for_each(|(sum, value)| *sum += value);
        } else {
            gradient.copy_from_slice(added);
        }
    }

    /// Marks all gradients as zero, without touching their memory.
    pub(super) fn zero_gradients(&mut self) {
        self.gradients.iter_mut().for_each(|gradient| gradient.is_set = false);
    }

    /// The parameters of `first_stage` and all later stages, with values and gradients, for an optimizer.
    pub(super) fn iter_mut_from(
        &mut self,
        first_stage: FeatureLayer,
    ) -> impl Iterator<Item = ParameterSlot<'_>> {
        let Self { parameters, values, gradients } = self;
        let entries = parameters.iter().zip(values.iter_mut().zip(gradients.iter_mut()));
        let trained = entries.filter(move |(parameter, _)| parameter.stage >= first_stage);
        trained.map(|(parameter, (values, gradient))| {
            if !gradient.is_set {
                // The gradient counts as zero, but the optimizer reads its memory.
                gradient.values.clear();
                gradient.values.resize(values.len(), 0.0);
                gradient.is_set = true;
            }
            ParameterSlot { parameter, values, gradient: &mut gradient.values }
        })
    }
}
