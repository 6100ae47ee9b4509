//! Checks of heads that support gradients.

use candle_core::{Device, Tensor, Var};

use super::fail;
use super::samples::SyntheticData;
use crate::differentiable::{Differentiable, ForwardMode};
use crate::error::HeadError;
use crate::head::{FitContext, Head, HeadConfig};
use crate::tensors::Tensors;

/// Relative difference allowed between `f32` gradients and finite differences.
const TOLERANCE: f64 = 0.05;

/// Checks the candle operations of a head that supports gradients: initial parameters, logits and gradients.
/// Does nothing for other heads; panics if a property does not hold.
pub(super) fn check_differentiable<C: HeadConfig>(config: &C) {
    let Some(differentiable) = config.differentiable() else { return };
    if let Err(error) = check_properties(config, differentiable) {
        fail(C::KIND, "a differentiable head can be evaluated on tensors", error);
    }
}

/// Checks that the candle operations of a differentiable head agree with the head that `config` fits: same
/// parameters, same logits, repeatable training steps, correct gradients. Panics through `fail` if a property
/// does not hold.
///
/// # Errors
/// When the fit or a tensor operation fails.
fn check_properties<C: HeadConfig>(config: &C, differentiable: &dyn Differentiable) -> Result<(), HeadError> {
    let samples = SyntheticData::overlapping();
    let head = config.fit(&samples.training_set(), &FitContext::silent())?.head;
    let parameters = head.tensors()?;
    let features = Tensor::from_slice(&samples.values, (samples.labels.len(), samples.width), &Device::Cpu)?;

    let property = "the initial parameters have the names and shapes of the fitted ones";
    let shapes = |tensors: &Tensors| -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
    };
    let (initial, fitted) =
        (shapes(&differentiable.initial_parameters(samples.width, samples.classes)?), shapes(&parameters));
    if initial != fitted {
        fail(C::KIND, property, format_args!("initial {initial:?}, fitted {fitted:?}"));
    }

    let property = "`forward` gives the logits of the fitted head";
    let expected = head.logits(samples.features())?;
    let found = differentiable
        .forward(&parameters, &features, ForwardMode::Evaluate)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let largest = expected.as_slice().iter().fold(0f32, |top, value| top.max(value.abs()));
    let error = expected.as_slice().iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if found.len() != expected.as_slice().len() || error > 1e-3 * largest {
        fail(C::KIND, property, format_args!("they differ by {error}; the largest logit is {largest}"));
    }

    let property = "a training step always gives the same logits";
    let step = || -> Result<Vec<f32>, HeadError> {
        let logits = differentiable.forward(&parameters, &features, ForwardMode::Train { step: 3 })?;
        Ok(logits.flatten_all()?.to_vec1()?)
    };
    let (first, second) = (step()?, step()?);
    if first.iter().zip(&second).any(|(a, b)| a.to_bits() != b.to_bits()) {
        fail(C::KIND, property, "a second pass differs: derive random numbers from the seed and the step");
    }
    check_gradients::<C>(differentiable, &parameters, &features)
}

/// Compares the gradients that candle's autograd computes with finite differences, for each parameter and for
/// the features. The objective is a weighted sum of the logits; its slope along the gradient, as a finite
/// difference, must equal the norm of the gradient. Panics through `fail` if they differ.
fn check_gradients<C: HeadConfig>(
    differentiable: &dyn Differentiable,
    parameters: &Tensors,
    features: &Tensor,
) -> Result<(), HeadError> {
    const FEATURES: &str = "the features";
    let property = "gradients match finite differences";
    let mut inputs = parameters.clone();
    inputs.insert(FEATURES.into(), features.clone());
    // The weights of the logits are arbitrary but differ: a plain sum would hide errors that cancel between
    // classes.
    let objective = |inputs: &Tensors| -> Result<Tensor, HeadError> {
        let logits = differentiable.forward(inputs, &inputs[FEATURES], ForwardMode::Evaluate)?;
        let coefficients: Vec<f32> = (0..logits.elem_count()).map(|i| (i as f32 * 0.7).sin()).collect();
        Ok((&logits * Tensor::from_vec(coefficients, logits.dims(), &Device::Cpu)?)?.sum_all()?)
    };
    let mut variables = Tensors::new();
    for (name, tensor) in &inputs {
        variables.insert(name.clone(), Var::from_tensor(tensor)?.into_inner());
    }
    let gradients = objective(&variables)?.backward()?;
    for (name, variable) in &variables {
        let Some(gradient) = gradients.get(variable) else {
            fail(C::KIND, property, format_args!("no gradient reaches {name}"));
        };
        let gradient_norm = tensor_norm(gradient)?;
        if gradient_norm == 0.0 {
            continue;
        }
        let step = 1e-3 * tensor_norm(variable)?.max(1.0);
        let objective_at = |distance: f64| -> Result<f64, HeadError> {
            let mut shifted = inputs.clone();
            shifted.insert(name.clone(), (&inputs[name] + (gradient * (distance / gradient_norm))?)?);
            Ok(f64::from(objective(&shifted)?.to_scalar::<f32>()?))
        };
        let finite_difference = (objective_at(step)? - objective_at(-step)?) / (2.0 * step);
        if (finite_difference - gradient_norm).abs() > TOLERANCE * gradient_norm {
            fail(
                C::KIND,
                property,
                format_args!(
                    "{name}: {gradient_norm} along the gradient, {finite_difference} by differences"
                ),
            );
        }
    }
    Ok(())
}

/// The Euclidean norm of all values of a tensor.
fn tensor_norm(tensor: &Tensor) -> Result<f64, HeadError> {
    Ok(f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
}
