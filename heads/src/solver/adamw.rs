//! Adam with decoupled weight decay.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::error::HeadError;

/// Decay of the mean of the gradient, PyTorch's and the papers' default.
const BETA1: f32 = 0.9;
/// Decay of the mean of the squared gradient.
const BETA2: f32 = 0.999;
/// What keeps the denominator from 0.
const EPSILON: f32 = 1e-8;
/// Values that a thread takes at a time.
const BLOCK: usize = 1 << 14;

/// Adam (Kingma and Ba, ICLR 2015) with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), as
/// PyTorch's `AdamW`.
///
/// It passes over the memory once; candle's own makes a tensor of every intermediate result, which takes
/// longer than the gradient of a perceptron does.
#[derive(Debug)]
pub(crate) struct AdamW {
    lr: f64,
    weight_decay: f64,
    steps: i32,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    var: Var,
    value: Vec<f32>,
    /// Mean of the gradient.
    first: Vec<f32>,
    /// Mean of its square.
    second: Vec<f32>,
}

impl AdamW {
    /// An optimiser of these `f32` variables.
    ///
    /// # Errors
    /// When a variable is not `f32`.
    pub(crate) fn new(vars: Vec<Var>, lr: f64, weight_decay: f64) -> Result<Self, HeadError> {
        let slot = |var: Var| {
            let value: Vec<f32> = var.flatten_all()?.to_vec1()?;
            Ok(Slot { first: vec![0.0; value.len()], second: vec![0.0; value.len()], var, value })
        };
        Ok(Self {
            lr,
            weight_decay,
            steps: 0,
            slots: vars.into_iter().map(slot).collect::<Result<_, HeadError>>()?,
        })
    }

    /// One step along the gradients; a variable without one stays as it is.
    ///
    /// # Errors
    /// When candle cannot set a variable.
    pub(crate) fn step(&mut self, gradients: &GradStore) -> Result<(), HeadError> {
        self.steps += 1;
        let shrink = (1.0 - self.lr * self.weight_decay) as f32;
        let step_size = (self.lr / (1.0 - f64::from(BETA1).powi(self.steps))) as f32;
        let second_scale = (1.0 - f64::from(BETA2).powi(self.steps)).sqrt() as f32;
        for slot in &mut self.slots {
            let Some(gradient) = gradients.get(&slot.var) else { continue };
            let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
            let values = slot.value.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK));
            let means = slot.first.par_chunks_mut(BLOCK).zip(slot.second.par_chunks_mut(BLOCK));
            values.zip(means).for_each(|((values, gradient), (first, second))| {
                let means = first.iter_mut().zip(second);
                for ((value, &g), (first, second)) in values.iter_mut().zip(gradient).zip(means) {
                    *first = BETA1 * *first + (1.0 - BETA1) * g;
                    *second = BETA2 * *second + (1.0 - BETA2) * g * g;
                    *value = *value * shrink - step_size * *first / (second.sqrt() / second_scale + EPSILON);
                }
            });
            slot.var.set(&Tensor::from_slice(&slot.value, slot.var.dims(), slot.var.device())?)?;
        }
        Ok(())
    }
}
