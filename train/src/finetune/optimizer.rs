//! Steps against the gradient.

use headstock_heads::{AdamW, AdamWSlot};
use pulp::Arch;
use rayon::prelude::*;
use thiserror::Error;

use super::BLOCK_LEN;

/// How parameters move against their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Optimizer {
    /// Stochastic gradient descent as PyTorch's `SGD`: weight decay is a part of the gradient, and the momentum's mean of
    /// gradients starts as the first of them.
    Sgd {
        /// What is kept of earlier gradients, from 0 to below 1.
        momentum: f64,
        /// Whether the step looks ahead (Nesterov 1983, as Sutskever et al., ICML 2013, have it).
        nesterov: bool,
    },
    /// [`AdamW`], with its own betas.
    AdamW,
}

/// What is known of a step before the gradients are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepParams {
    /// Learning rate of the parameter.
    pub(super) lr: f64,
    /// Weight decay: 0 for a BatchNorm's parameters and for biases.
    pub(super) weight_decay: f64,
}

/// What an optimiser knows of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OptimizerState {
    optimizer: Optimizer,
    n_steps: u64,
    /// As many as the optimiser has names for, each of the parameter's length.
    buffers: Vec<Vec<f32>>,
}

/// A kept state is not that of the parameter.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(super) enum OptimizerStateError {
    /// It is of another optimiser.
    #[error(
        "the optimiser's `{0}` is missing: it was kept by another one; resume with the optimiser that it was"
    )]
    Missing(&'static str),
    /// It is of another parameter.
    #[error(
        "the optimiser's `{name}` has {found} values where the parameter has {expected}: it was kept for another network"
    )]
    Length {
        /// Which part.
        name: &'static str,
        /// Values of the parameter.
        expected: usize,
        /// Values that were kept.
        found: usize,
    },
}

impl Optimizer {
    /// The names of what is kept of a parameter, each of as many values as it has.
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
    /// Of a parameter of so many values that has made no step.
    #[must_use]
    pub(super) fn new(optimiser: Optimizer, length: usize) -> Self {
        let means = optimiser.buffer_names().iter().map(|_| vec![0.0; length]).collect();
        Self { optimizer: optimiser, n_steps: 0, buffers: means }
    }

    /// The state of a parameter of `length` values after `done` steps, of which `kept` has what [`state`](Self::state) had, by
    /// name.
    ///
    /// # Errors
    /// [`StateError`] when something is missing or of another length.
    pub(super) fn restore(
        optimiser: Optimizer,
        length: usize,
        done: u64,
        mut kept: impl FnMut(&'static str) -> Option<Vec<f32>>,
    ) -> Result<Self, OptimizerStateError> {
        let mut part = |&name: &&'static str| {
            let values = kept(name).ok_or(OptimizerStateError::Missing(name))?;
            if values.len() != length {
                return Err(OptimizerStateError::Length { name, expected: length, found: values.len() });
            }
            Ok(values)
        };
        let means = optimiser.buffer_names().iter().map(&mut part).collect::<Result<_, _>>()?;
        Ok(Self { optimizer: optimiser, n_steps: done, buffers: means })
    }

    /// What has to be kept beside [`done`](Self::done), by name.
    pub(super) fn named_buffers(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        self.optimizer.buffer_names().iter().copied().zip(self.buffers.iter().map(Vec::as_slice))
    }

    /// Steps of this parameter so far.
    #[must_use]
    pub(super) fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Moves `values` against their `gradient`. Products are not fused with sums, so that every processor gives the same bits.
    ///
    /// # Panics
    /// For a parameter of another length.
    pub(super) fn step(&mut self, values: &mut [f32], gradient: &mut [f32], step: StepParams) {
        assert!(values.len() == gradient.len() && self.buffers.iter().all(|mean| mean.len() == values.len()));
        let StepParams { lr, weight_decay } = step;
        let blocks = values.par_chunks_mut(BLOCK_LEN).zip(gradient.par_chunks_mut(BLOCK_LEN));
        match (self.optimizer, self.buffers.as_mut_slice()) {
            (Optimizer::AdamW, [first, second]) => {
                let adamw = AdamW::for_step(self.n_steps, lr, weight_decay, 0.0);
                let means = first.par_chunks_mut(BLOCK_LEN).zip(second.par_chunks_mut(BLOCK_LEN));
                blocks.zip(means).for_each(|((value, gradient), (first, second))| {
                    adamw.update(AdamWSlot { value, gradient, exp_avg: first, exp_avg_sq: second });
                });
            }
            (Optimizer::Sgd { momentum, nesterov }, [mean]) => {
                blocks.zip(mean.par_chunks_mut(BLOCK_LEN)).for_each(|((values, gradient), mean)| {
                    sgd_momentum_step(values, gradient, mean, step, (momentum as f32, nesterov));
                });
            }
            _ => blocks.for_each(|(values, gradient)| sgd_step(values, gradient, step)),
        }
        self.n_steps += 1;
    }
}

/// A step of SGD on this thread.
fn sgd_step(values: &mut [f32], gradient: &[f32], step: StepParams) {
    let (lr, decay) = (step.lr as f32, step.weight_decay as f32);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (value, gradient) in values.iter_mut().zip(gradient) {
                *value -= lr * (gradient + decay * *value);
            }
        },
    );
}

fn sgd_momentum_step(
    values: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    step: StepParams,
    (momentum, nesterov): (f32, bool),
) {
    let (lr, decay) = (step.lr as f32, step.weight_decay as f32);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((value, gradient), mean) in values.iter_mut().zip(gradient).zip(mean) {
                let gradient = gradient + decay * *value;
                *mean = *mean * momentum + gradient;
                let towards = if nesterov { gradient + momentum * *mean } else { *mean };
                *value -= lr * towards;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::{Golden, assert_agree};

    /// The cases of `reference/tuning/arithmetic.py`: name, optimiser, weight decay of the weights.
    const CASES: [(&str, Optimizer, f64); 6] = [
        ("sgd", Optimizer::Sgd { momentum: 0.0, nesterov: false }, 0.0),
        ("sgd.decay", Optimizer::Sgd { momentum: 0.0, nesterov: false }, 0.1),
        ("sgd.momentum", Optimizer::Sgd { momentum: 0.9, nesterov: false }, 0.0),
        ("sgd.momentum.decay", Optimizer::Sgd { momentum: 0.9, nesterov: false }, 0.1),
        ("sgd.nesterov.decay", Optimizer::Sgd { momentum: 0.9, nesterov: true }, 0.1),
        ("adamw", Optimizer::AdamW, 0.1),
    ];

    /// Calls `act` after each of PyTorch's steps with ours of two groups, `[weights, shifts]`.
    fn compare_steps(
        golden: &Golden,
        name: &str,
        optimiser: Optimizer,
        weight_decay: f64,
        mut act: impl FnMut(usize, &[f32]),
    ) {
        let mut groups = ["weights", "shifts"].map(|group| golden.floats(&format!("optimiser.{group}")));
        let gradients =
            ["weights", "shifts"].map(|group| golden.floats(&format!("optimiser.{group}.gradients")));
        let rates = golden.doubles("optimiser.rates");
        let mut states = groups.each_ref().map(|group| OptimizerState::new(optimiser, group.len()));
        for (number, &rate) in rates.iter().enumerate() {
            let of_groups = groups.iter_mut().zip(&gradients).zip(&mut states);
            for (((values, gradients), state), (share, weight_decay)) in
                of_groups.zip([(1.0, weight_decay), (0.1, 0.0)])
            {
                let mut gradient = gradients.chunks_exact(values.len()).nth(number).unwrap().to_vec();
                // A state that is kept and restored in between is the same.
                let mut kept: Vec<(&str, Vec<f32>)> =
                    state.named_buffers().map(|(name, values)| (name, values.to_vec())).collect();
                let restored = OptimizerState::restore(optimiser, values.len(), state.n_steps(), |name| {
                    let at = kept.iter().position(|(kept, _)| *kept == name)?;
                    Some(kept.swap_remove(at).1)
                });
                assert_eq!(restored.as_ref(), Ok(&*state), "{name}");
                *state = restored.unwrap();
                state.step(values, &mut gradient, StepParams { lr: share * rate, weight_decay });
            }
            act(number, &groups.concat());
        }
    }

    #[test]
    fn every_step_is_pytorchs() {
        let golden = Golden::load();
        for (name, optimiser, weight_decay) in CASES {
            let oracle = golden.floats(&format!("optimiser.{name}"));
            let mut steps = 0;
            compare_steps(&golden, name, optimiser, weight_decay, |number, ours| {
                let oracle = oracle.chunks_exact(ours.len()).nth(number).unwrap();
                assert_agree(ours, oracle, 2e-6, &format!("{name}, step {number}"));
                steps += 1;
            });
            assert_eq!(steps, 20, "{name}");
        }
    }

    #[test]
    fn a_state_of_something_else_is_refused() {
        let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false };
        let short = OptimizerState::restore(sgd, 3, 1, |_| Some(vec![0.0; 2]));
        assert_eq!(short, Err(OptimizerStateError::Length { name: "momentum", expected: 3, found: 2 }));
        let of_sgd = OptimizerState::restore(Optimizer::AdamW, 3, 1, |name| {
            (name == "momentum").then(|| vec![0.0; 3])
        });
        assert_eq!(of_sgd, Err(OptimizerStateError::Missing("first")));
    }

    #[test]
    fn steps_have_the_same_bits_on_one_thread_and_on_three() {
        let on = |threads: usize, optimiser| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut values: Vec<f32> = (0..3 * BLOCK_LEN + 7).map(|i| (i as f32).sin()).collect();
                let mut state = OptimizerState::new(optimiser, values.len());
                for _ in 0..3 {
                    let mut gradient: Vec<f32> = values.iter().map(|value| value.cos()).collect();
                    state.step(&mut values, &mut gradient, StepParams { lr: 0.1, weight_decay: 0.01 });
                }
                (values, state)
            })
        };
        for (name, optimiser, _) in CASES {
            assert!(on(1, optimiser) == on(3, optimiser), "{name}");
        }
    }
}
