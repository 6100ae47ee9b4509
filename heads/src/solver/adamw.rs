//! Adam with decoupled weight decay.

use pulp::Arch;

const BETA1: f32 = AdamW::BETAS[0];
const BETA2: f32 = AdamW::BETAS[1];
/// What keeps the denominator from 0.
const EPSILON: f32 = 1e-8;

/// A step of Adam (Kingma and Ba, ICLR 2015) with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), as
/// PyTorch's `AdamW`.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Part of a value that decay leaves.
    keep: f32,
    /// Learning rate, corrected for the mean's start from 0.
    size: f32,
    /// What corrects the root of the squares' mean for its start from 0.
    root: f32,
    /// `λ` of `½ λ |W|²`, which the gradient does not hold yet.
    penalty: f32,
}

impl AdamW {
    /// `β₁` and `β₂`, the decay of the mean of the gradient and of the mean of its square: the papers' and PyTorch's default.
    pub const BETAS: [f32; 2] = [0.9, 0.999];

    /// The step after `done` others. `weight_decay` is the decoupled one, `penalty` the `λ` of a term `½ λ |W|²` of the
    /// loss, as Adam's own `weight_decay` in PyTorch.
    pub fn after(done: u64, lr: f64, weight_decay: f64, penalty: f64) -> Self {
        let step = i32::try_from(done).unwrap_or(i32::MAX).saturating_add(1);
        Self {
            keep: (1.0 - lr * weight_decay) as f32,
            size: (lr / (1.0 - f64::from(BETA1).powi(step))) as f32,
            root: (1.0 / (1.0 - f64::from(BETA2).powi(step)).sqrt()) as f32,
            penalty: penalty as f32,
        }
    }

    /// Moves `slot` on this thread, in one pass over its memory. Products are not fused with sums, so that every
    /// processor gives the same bits.
    pub fn apply(self, slot: Slot<'_>) {
        let Self { keep, size, root, penalty } = self;
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let means = slot.first.iter_mut().zip(slot.second);
                for ((value, &g), (first, second)) in slot.value.iter_mut().zip(&*slot.gradient).zip(means) {
                    let g = g + penalty * *value;
                    *first = BETA1 * *first + (1.0 - BETA1) * g;
                    *second = BETA2 * *second + (1.0 - BETA2) * g * g;
                    *value = *value * keep - size * *first / (second.sqrt() * root + EPSILON);
                }
            },
        );
    }
}

/// Parameters, and what [`AdamW`] knows of each: slices of one length.
#[derive(Debug)]
pub struct Slot<'a> {
    /// What moves.
    pub value: &'a mut [f32],
    /// The derivative of the loss by it.
    pub gradient: &'a mut [f32],
    /// Mean of the gradient.
    pub first: &'a mut [f32],
    /// Mean of its square.
    pub second: &'a mut [f32],
}
