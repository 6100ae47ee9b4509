//! Adam with decoupled weight decay.

use pulp::Arch;

/// Decay rate of the moving average of the gradient.
const BETA1: f32 = AdamW::BETAS[0];
/// Decay rate of the moving average of the squared gradient.
const BETA2: f32 = AdamW::BETAS[1];
/// Keeps the denominator away from 0.
const EPSILON: f32 = 1e-8;

/// A step of Adam (Kingma and Ba, ICLR 2015) with decoupled weight decay (Loshchilov and Hutter, ICLR 2019),
/// as PyTorch's `AdamW`.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Factor of the parameters: 1 minus learning rate times weight decay.
    decay: f32,
    /// Learning rate with the bias correction of the first moment.
    step_size: f32,
    /// Bias correction of the root of the second moment.
    second_moment_correction: f32,
    /// `λ` of `½ λ |W|²`, which the gradient does not include yet.
    penalty: f32,
}

impl AdamW {
    /// `β₁` and `β₂`, the decay rates of the first and second moment: the default of the paper and of
    /// PyTorch.
    pub const BETAS: [f32; 2] = [0.9, 0.999];

    /// Computes the factors of one optimizer step, the one after `steps_done` others, with learning rate
    /// `lr`; [`update`](Self::update) then applies the step to parameters. `weight_decay` is decoupled: it
    /// shrinks the parameters directly. `penalty` is the `λ` of a loss term `½ λ |W|²`, whose gradient is
    /// added, as for `weight_decay` of PyTorch's `Adam`.
    pub fn for_step(steps_done: u64, lr: f64, weight_decay: f64, penalty: f64) -> Self {
        // The bias corrections count steps from 1.
        let step = i32::try_from(steps_done).unwrap_or(i32::MAX).saturating_add(1);
        Self {
            decay: (1.0 - lr * weight_decay) as f32,
            step_size: (lr / (1.0 - f64::from(BETA1).powi(step))) as f32,
            second_moment_correction: (1.0 / (1.0 - f64::from(BETA2).powi(step)).sqrt()) as f32,
            penalty: penalty as f32,
        }
    }

    /// Applies this AdamW step to the parameters of `slot`: updates the moving averages of the gradient and
    /// of its square, and from them the values, on the calling thread and in one pass over memory. Products
    /// are not fused with sums (FMA), so that every processor gives the same bits.
    pub fn update(self, slot: AdamWSlot<'_>) {
        let Self { decay, step_size, second_moment_correction, penalty } = self;
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let means = slot.exp_avg.iter_mut().zip(slot.exp_avg_sq);
                for ((value, &g), (exp_avg, exp_avg_sq)) in
                    slot.value.iter_mut().zip(&*slot.gradient).zip(means)
                {
                    let g = g + penalty * *value;
                    *exp_avg = BETA1 * *exp_avg + (1.0 - BETA1) * g;
                    *exp_avg_sq = BETA2 * *exp_avg_sq + (1.0 - BETA2) * g * g;
                    *value = *value * decay
                        - step_size * *exp_avg / (exp_avg_sq.sqrt() * second_moment_correction + EPSILON);
                }
            },
        );
    }
}

/// Parameters and their AdamW state: slices of equal length.
#[derive(Debug)]
pub struct AdamWSlot<'a> {
    /// The parameters, which are updated.
    pub value: &'a mut [f32],
    /// Gradient of the loss.
    pub gradient: &'a mut [f32],
    /// Moving average of the gradient.
    pub exp_avg: &'a mut [f32],
    /// Moving average of the squared gradient.
    pub exp_avg_sq: &'a mut [f32],
}
