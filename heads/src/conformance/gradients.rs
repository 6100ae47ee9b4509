//! The laws of heads that gradients pass through.

use candle_core::{Device, Tensor, Var};

use super::broken;
use super::samples::Samples;
use crate::differentiable::{Differentiable, Mode};
use crate::error::HeadError;
use crate::head::{FitContext, Head, HeadConfig, Tensors};

/// Part by which gradients in `f32` may differ from finite differences.
const TOLERANCE: f64 = 0.05;

pub(super) fn check<C: HeadConfig>(config: &C) {
    let Some(head) = config.differentiable() else { return };
    if let Err(error) = laws(config, head) {
        broken(C::KIND, "a differentiable head works on tensors", error);
    }
}

fn laws<C: HeadConfig>(config: &C, differentiable: &dyn Differentiable) -> Result<(), HeadError> {
    let samples = Samples::overlapping();
    let head = config.fit(&samples.training_set(), &FitContext::quiet())?.head;
    let parameters = head.tensors()?;
    let features = Tensor::from_slice(&samples.values, (samples.labels.len(), samples.width), &Device::Cpu)?;

    let law = "the parameters to start from have the names and shapes of the fitted ones";
    let shapes = |tensors: &Tensors| -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
    };
    let (start, fitted) =
        (shapes(&differentiable.initial(samples.width, samples.classes)?), shapes(&parameters));
    if start != fitted {
        broken(C::KIND, law, format_args!("they are {start:?}, fitted {fitted:?}"));
    }

    let law = "tensors give the logits that the fitted head gives";
    let expected = head.logits(samples.features())?;
    let found =
        differentiable.forward(&parameters, &features, Mode::Evaluate)?.flatten_all()?.to_vec1::<f32>()?;
    let size = expected.as_slice().iter().fold(0f32, |top, value| top.max(value.abs()));
    let error = expected.as_slice().iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if found.len() != expected.as_slice().len() || error > 1e-3 * size {
        broken(C::KIND, law, format_args!("they differ by {error} where the largest is {size}"));
    }

    let law = "a training step gives the same logits whenever it is taken";
    let step = || -> Result<Vec<f32>, HeadError> {
        let logits = differentiable.forward(&parameters, &features, Mode::Train { step: 3 })?;
        Ok(logits.flatten_all()?.to_vec1()?)
    };
    let (first, second) = (step()?, step()?);
    if first.iter().zip(&second).any(|(a, b)| a.to_bits() != b.to_bits()) {
        broken(C::KIND, law, "a second pass differs: key what is random by the seed and the step");
    }
    derivatives::<C>(differentiable, &parameters, &features)
}

/// Compares the gradient by each parameter and by the features with a finite difference along it.
fn derivatives<C: HeadConfig>(
    differentiable: &dyn Differentiable,
    parameters: &Tensors,
    features: &Tensor,
) -> Result<(), HeadError> {
    const FEATURES: &str = "the features";
    let law = "gradients are those of finite differences";
    let mut inputs = parameters.clone();
    inputs.insert(FEATURES.into(), features.clone());
    // A sum of all logits would hide faults that cancel between classes.
    let value = |inputs: &Tensors| -> Result<Tensor, HeadError> {
        let logits = differentiable.forward(inputs, &inputs[FEATURES], Mode::Evaluate)?;
        let coefficients: Vec<f32> = (0..logits.elem_count()).map(|i| (i as f32 * 0.7).sin()).collect();
        Ok((&logits * Tensor::from_vec(coefficients, logits.dims(), &Device::Cpu)?)?.sum_all()?)
    };
    let mut variables = Tensors::new();
    for (name, tensor) in &inputs {
        variables.insert(name.clone(), Var::from_tensor(tensor)?.into_inner());
    }
    let gradients = value(&variables)?.backward()?;
    for (name, variable) in &variables {
        let Some(gradient) = gradients.get(variable) else {
            broken(C::KIND, law, format_args!("no gradient reaches {name}"));
        };
        let length = norm(gradient)?;
        if length == 0.0 {
            continue;
        }
        let step = 1e-3 * norm(variable)?.max(1.0);
        let along = |step: f64| -> Result<f64, HeadError> {
            let mut moved = inputs.clone();
            moved.insert(name.clone(), (&inputs[name] + (gradient * (step / length))?)?);
            Ok(f64::from(value(&moved)?.to_scalar::<f32>()?))
        };
        let slope = (along(step)? - along(-step)?) / (2.0 * step);
        if (slope - length).abs() > TOLERANCE * length {
            broken(
                C::KIND,
                law,
                format_args!("by {name}: {length} along the gradient, {slope} by differences"),
            );
        }
    }
    Ok(())
}

fn norm(tensor: &Tensor) -> Result<f64, HeadError> {
    Ok(f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
}
