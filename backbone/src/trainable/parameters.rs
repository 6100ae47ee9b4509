//! What is trained: values and gradients, on the host.

use crate::layer::FeatureLayer;

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterRole {
    /// A convolution's weights.
    ConvWeight,
    /// A BatchNorm's scale or shift: weight decay would only change the size of what follows.
    BatchNorm,
}

/// A parameter that can be trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainableParameter {
    /// torchvision's name, `layer4.0.conv1.weight` for example.
    pub name: String,
    /// The stage that it belongs to, [`Layer::Stem`] to [`Layer::Layer4`].
    pub stage: FeatureLayer,
    /// What it is.
    pub role: ParameterRole,
    /// Of a BatchNorm `[C]`, of a convolution `[K, K, C, O]`, which is how it is multiplied.
    pub shape: Vec<usize>,
}

/// A parameter that is trained, for whoever moves it.
#[derive(Debug)]
pub struct ParameterSlot<'a> {
    /// Which one.
    pub parameter: &'a TrainableParameter,
    /// Its values, row by row of its shape.
    pub values: &'a mut [f32],
    /// The sum of the derivatives since they were set to zero, of the same shape.
    pub gradient: &'a mut [f32],
}

/// Parameters, their values and gradients, by number.
#[derive(Debug, Default)]
pub(super) struct ParameterStore {
    pub(super) parameters: Vec<TrainableParameter>,
    pub(super) values: Vec<Vec<f32>>,
    gradients: Vec<GradientBuffer>,
}

#[derive(Debug, Default)]
struct GradientBuffer {
    /// Empty until it is needed.
    values: Vec<f32>,
    /// Whether the values count; if not, it is zero.
    is_set: bool,
}

impl ParameterStore {
    pub(super) fn add(&mut self, parameter: TrainableParameter, values: Vec<f32>) -> usize {
        self.parameters.push(parameter);
        self.values.push(values);
        self.gradients.push(GradientBuffer::default());
        self.parameters.len() - 1
    }

    /// The values of a parameter, its gradient, and whether what comes is added to that; if not, it replaces what is there.
    pub(super) fn gradient_mut(&mut self, number: usize) -> (&[f32], &mut [f32], bool) {
        let (values, gradient) = (&self.values[number], &mut self.gradients[number]);
        gradient.values.resize(values.len(), 0.0);
        (values, &mut gradient.values, std::mem::replace(&mut gradient.is_set, true))
    }

    /// Adds to the gradient of a parameter.
    pub(super) fn accumulate_gradient(&mut self, number: usize, derivatives: &[f32]) {
        let (_, gradient, add) = self.gradient_mut(number);
        if add {
            gradient.iter_mut().zip(derivatives).for_each(|(sum, derivative)| *sum += derivative);
        } else {
            gradient.copy_from_slice(derivatives);
        }
    }

    pub(super) fn zero_gradients(&mut self) {
        self.gradients.iter_mut().for_each(|gradient| gradient.is_set = false);
    }

    /// Those of the stages from one on.
    pub(super) fn iter_mut_from(&mut self, from: FeatureLayer) -> impl Iterator<Item = ParameterSlot<'_>> {
        let Self { parameters, values, gradients } = self;
        let entries = parameters.iter().zip(values.iter_mut().zip(gradients.iter_mut()));
        entries.filter(move |(parameter, _)| parameter.stage >= from).map(
            |(parameter, (values, gradient))| {
                if !gradient.is_set {
                    gradient.values.clear();
                    gradient.values.resize(values.len(), 0.0);
                    gradient.is_set = true;
                }
                ParameterSlot { parameter, values, gradient: &mut gradient.values }
            },
        )
    }
}
