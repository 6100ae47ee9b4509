//! What is trained: values and gradients, on the host.

use crate::layer::Layer;

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A convolution's weights.
    Weight,
    /// A BatchNorm's scale or shift: weight decay would only change the size of what follows.
    BatchNorm,
}

/// A parameter that can be trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// torchvision's name, `layer4.0.conv1.weight` for example.
    pub name: String,
    /// The stage that it belongs to, [`Layer::Stem`] to [`Layer::Layer4`].
    pub stage: Layer,
    /// What it is.
    pub role: Role,
    /// Of a BatchNorm `[C]`, of a convolution `[K, K, C, O]`, which is how it is multiplied.
    pub shape: Vec<usize>,
}

/// A parameter that is trained, for whoever moves it.
#[derive(Debug)]
pub struct Slot<'a> {
    /// Which one.
    pub parameter: &'a Parameter,
    /// Its values, row by row of its shape.
    pub values: &'a mut [f32],
    /// The sum of the derivatives since they were set to zero, of the same shape.
    pub gradient: &'a mut [f32],
}

/// Parameters, their values and gradients, by number.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) parameters: Vec<Parameter>,
    pub(super) values: Vec<Vec<f32>>,
    gradients: Vec<Gradient>,
}

#[derive(Debug, Default)]
struct Gradient {
    /// Empty until it is needed.
    values: Vec<f32>,
    /// Whether the values count; if not, it is zero.
    is_set: bool,
}

impl Store {
    pub(super) fn add(&mut self, parameter: Parameter, values: Vec<f32>) -> usize {
        self.parameters.push(parameter);
        self.values.push(values);
        self.gradients.push(Gradient::default());
        self.parameters.len() - 1
    }

    /// The values of a parameter, its gradient, and whether what comes is added to that; if not, it replaces what is there.
    pub(super) fn gradient(&mut self, number: usize) -> (&[f32], &mut [f32], bool) {
        let (values, gradient) = (&self.values[number], &mut self.gradients[number]);
        gradient.values.resize(values.len(), 0.0);
        (values, &mut gradient.values, std::mem::replace(&mut gradient.is_set, true))
    }

    /// Adds to the gradient of a parameter.
    pub(super) fn add_gradient(&mut self, number: usize, derivatives: &[f32]) {
        let (_, gradient, add) = self.gradient(number);
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
    pub(super) fn slots(&mut self, from: Layer) -> impl Iterator<Item = Slot<'_>> {
        let Self { parameters, values, gradients } = self;
        let all = parameters.iter().zip(values.iter_mut().zip(gradients.iter_mut()));
        all.filter(move |(parameter, _)| parameter.stage >= from).map(|(parameter, (values, gradient))| {
            if !gradient.is_set {
                gradient.values.clear();
                gradient.values.resize(values.len(), 0.0);
                gradient.is_set = true;
            }
            Slot { parameter, values, gradient: &mut gradient.values }
        })
    }
}
