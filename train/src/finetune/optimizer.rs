//! The optimizers of fine-tuning: SGD and AdamW.

use headstock_heads::{AdamW, AdamWSlot};
use pulp::Arch;
use rayon::prelude::*;

use super::BLOCK_LEN;

/// An optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Optimizer {
    /// Stochastic gradient descent as PyTorch's `SGD`: weight decay is added to the gradient, and the
    /// momentum buffer starts as the first gradient.
    Sgd {
        /// Momentum, from 0 to below 1.
        momentum: f64,
        /// Nesterov momentum (Nesterov 1983, in the form of Sutskever et al., ICML 2013).
        nesterov: bool,
    },
    /// [`AdamW`] with default betas.
    AdamW,
}

/// Learning rate and weight decay of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepParams {
    /// Learning rate of the parameter.
    pub(super) lr: f64,
    /// Weight decay: 0 for BatchNorm parameters and biases.
    pub(super) weight_decay: f64,
}

/// Optimizer state of one parameter: its step count and moment buffers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OptimizerState {
    optimizer: Optimizer,
    pub(super) n_steps: u64,
    /// One buffer per name of the optimizer's [`buffer_names`](Optimizer::buffer_names), each of the
    /// parameter's length.
    buffers: Vec<Vec<f32>>,
}

impl Optimizer {
    /// Names of the buffers that the optimizer keeps for each parameter, under which checkpoints save them:
    /// the momentum of SGD, or the first and second moments of AdamW. Each buffer has as many values as the
    /// parameter.
    #[must_use]
    pub(super) fn buffer_names(self) -> &'static [&'static str] {
        match self {
            Self::Sgd { momentum: 0.0, .. } => &[],
            Self::Sgd { .. } => &["momentum"],
            Self::AdamW => &["first", "second"],
        }
    }
}

impl OptimizerState {
    /// The optimizer state of a parameter with `length` values before its first step: all buffers are 0.
    #[must_use]
    pub(super) fn new(optimizer: Optimizer, length: usize) -> Self {
        let buffers = optimizer.buffer_names().iter().map(|_| vec![0.0; length]).collect();
        Self { optimizer, n_steps: 0, buffers }
    }

    /// Rebuilds the optimizer state of a parameter from a checkpoint, so that a resumed training continues
    /// with the same bits. `n_steps` is the number of optimizer steps that the parameter had taken, and
    /// `load` returns the saved values of a buffer (such as the momentum), as many as the parameter has, by
    /// its name.
    ///
    /// # Errors
    /// The errors of `load`.
    pub(super) fn restore<E>(
        optimizer: Optimizer,
        n_steps: u64,
        load: impl FnMut(&'static str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let buffers = optimizer.buffer_names().iter().copied().map(load).collect::<Result<_, E>>()?;
        Ok(Self { optimizer, n_steps, buffers })
    }

    /// The buffers to save along with `n_steps`, by name.
    pub(super) fn named_buffers(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        self.optimizer.buffer_names().iter().copied().zip(self.buffers.iter().map(Vec::as_slice))
    }

    /// Makes one optimizer step of one parameter: updates its `values` and the buffers by `gradient`, the
    /// gradient of the loss w.r.t. these values. The gradient is only read; it is `&mut` only because
    /// [`AdamWSlot`] asks for it. Blocks of values run in parallel. Multiplications and additions are not
    /// fused, so that every processor gives the same bits.
    ///
    /// # Panics
    /// If `values`, `gradient` and the buffers differ in length.
    pub(super) fn step(&mut self, values: &mut [f32], gradient: &mut [f32], params: StepParams) {
        assert!(
            values.len() == gradient.len() && self.buffers.iter().all(|buffer| buffer.len() == values.len())
        );
        let StepParams { lr, weight_decay } = params;
        let blocks = values.par_chunks_mut(BLOCK_LEN).zip(gradient.par_chunks_mut(BLOCK_LEN));
        match (self.optimizer, self.buffers.as_mut_slice()) {
            (Optimizer::AdamW, [exp_avg, exp_avg_sq]) => {
                // 0.0: no L2 penalty in the gradient, as the weight decay is decoupled.
                let adamw = AdamW::for_step(self.n_steps, lr, weight_decay, 0.0);
                let buffers = exp_avg.par_chunks_mut(BLOCK_LEN).zip(exp_avg_sq.par_chunks_mut(BLOCK_LEN));
                blocks.zip(buffers).for_each(|((value, gradient), (exp_avg, exp_avg_sq))| {
                    adamw.update(AdamWSlot { value, gradient, exp_avg, exp_avg_sq });
                });
            }
            (Optimizer::Sgd { momentum, nesterov }, [buffer]) => {
                blocks.zip(buffer.par_chunks_mut(BLOCK_LEN)).for_each(|((values, gradient), buffer)| {
                    sgd_momentum_step(values, gradient, buffer, params, momentum as f32, nesterov);
                });
            }
            // SGD without momentum has no buffer.
            _ => blocks.for_each(|(values, gradient)| sgd_step(values, gradient, params)),
        }
        self.n_steps += 1;
    }
}

/// Makes a step of SGD without momentum on one block of a parameter's `values`, given the `gradient` of the
/// loss w.r.t. them: `value -= lr * (gradient + weight_decay * value)`. pulp's `dispatch` runs the loop with
/// the vector instructions that the processor has.
fn sgd_step(values: &mut [f32], gradient: &[f32], params: StepParams) {
    let (lr, weight_decay) = (params.lr as f32, params.weight_decay as f32);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (value, gradient) in values.iter_mut().zip(gradient) {
                *value -= lr * (gradient + weight_decay * *value);
            }
        },
    );
}

/// Makes a step of SGD with momentum on one block of a parameter's values; `buffer` holds the block's running
/// sum of gradients, which decays by `momentum` per step. With `g = gradient + weight_decay * value`:
/// `buffer = momentum * buffer + g`, then `value -= lr * buffer`, or with Nesterov momentum
/// `value -= lr * (g + momentum * buffer)`. pulp's `dispatch` runs the loop with the vector instructions that
/// the processor has.
fn sgd_momentum_step(
    values: &mut [f32],
    gradient: &[f32],
    buffer: &mut [f32],
    params: StepParams,
    momentum: f32,
    nesterov: bool,
) {
    let (lr, weight_decay) = (params.lr as f32, params.weight_decay as f32);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((value, gradient), buffer) in values.iter_mut().zip(gradient).zip(buffer) {
                let gradient = gradient + weight_decay * *value;
                *buffer = *buffer * momentum + gradient;
                let direction = if nesterov { gradient + momentum * *buffer } else { *buffer };
                *value -= lr * direction;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::{Golden, assert_agree};

    /// The cases of `reference/tuning/arithmetic.py`: name, optimizer, weight decay of the weights.
    const CASES: [(&str, Optimizer, f64); 6] = [
        ("sgd", Optimizer::Sgd { momentum: 0.0, nesterov: false }, 0.0),
        ("sgd.decay", Optimizer::Sgd { momentum: 0.0, nesterov: false }, 0.1),
        ("sgd.momentum", Optimizer::Sgd { momentum: 0.9, nesterov: false }, 0.0),
        ("sgd.momentum.decay", Optimizer::Sgd { momentum: 0.9, nesterov: false }, 0.1),
        ("sgd.nesterov.decay", Optimizer::Sgd { momentum: 0.9, nesterov: true }, 0.1),
        ("adamw", Optimizer::AdamW, 0.1),
    ];

    /// Calls `check` after each of PyTorch's steps with our values of two groups, `[weights, shifts]`.
    fn compare_steps(
        golden: &Golden,
        name: &str,
        optimizer: Optimizer,
        weight_decay: f64,
        mut check: impl FnMut(usize, &[f32]),
    ) {
        let mut groups = ["weights", "shifts"].map(|group| golden.floats(&format!("optimiser.{group}")));
        let gradients =
            ["weights", "shifts"].map(|group| golden.floats(&format!("optimiser.{group}.gradients")));
        let rates = golden.doubles("optimiser.rates");
        let mut states = groups.each_ref().map(|group| OptimizerState::new(optimizer, group.len()));
        for (number, &rate) in rates.iter().enumerate() {
            let of_groups = groups.iter_mut().zip(&gradients).zip(&mut states);
            for (((values, gradients), state), (lr_scale, weight_decay)) in
                of_groups.zip([(1.0, weight_decay), (0.1, 0.0)])
            {
                let mut gradient = gradients.chunks_exact(values.len()).nth(number).unwrap().to_vec();
                // Saving and restoring the state changes nothing.
                let mut load: Vec<(&str, Vec<f32>)> =
                    state.named_buffers().map(|(name, values)| (name, values.to_vec())).collect();
                let restored = OptimizerState::restore(optimizer, state.n_steps, |name| {
                    let index = load.iter().position(|(load, _)| *load == name).ok_or(name)?;
                    Ok::<_, &str>(load.swap_remove(index).1)
                });
                assert_eq!(restored.as_ref(), Ok(&*state), "{name}");
                *state = restored.unwrap();
                state.step(values, &mut gradient, StepParams { lr: lr_scale * rate, weight_decay });
            }
            check(number, &groups.concat());
        }
    }

    #[test]
    fn steps_equal_pytorchs() {
        let golden = Golden::load();
        for (name, optimizer, weight_decay) in CASES {
            let expected = golden.floats(&format!("optimiser.{name}"));
            let mut steps = 0;
            compare_steps(&golden, name, optimizer, weight_decay, |number, ours| {
                let expected = expected.chunks_exact(ours.len()).nth(number).unwrap();
                assert_agree(ours, expected, 2e-6, &format!("{name}, step {number}"));
                steps += 1;
            });
            assert_eq!(steps, 20, "{name}");
        }
    }

    #[test]
    fn steps_have_the_same_bits_on_one_thread_and_on_three() {
        let run_on = |threads: usize, optimizer| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut values: Vec<f32> = (0..3 * BLOCK_LEN + 7).map(|i| (i as f32).sin()).collect();
                let mut state = OptimizerState::new(optimizer, values.len());
                for _ in 0..3 {
                    let mut gradient: Vec<f32> = values.iter().map(|value| value.cos()).collect();
                    state.step(&mut values, &mut gradient, StepParams { lr: 0.1, weight_decay: 0.01 });
                }
                (values, state)
            })
        };
        for (name, optimizer, _) in CASES {
            assert!(run_on(1, optimizer) == run_on(3, optimizer), "{name}");
        }
    }
}
