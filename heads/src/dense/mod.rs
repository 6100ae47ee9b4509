//! Dense linear algebra on `f32` features for the closed-form heads: computed in `f64`, or in `f32` where
//! that is enough for an initial value or a preconditioner.
//!
//! Features are centered and converted to `f64` block by block, never as a whole. Work is split along the
//! result into pieces of fixed size, never along a sum, so the bits do not depend on the number of threads.
//! Each piece is computed by faer on one thread.

use faer::traits::RealField;

pub(crate) mod absent_classes;
pub(crate) mod band_cholesky;
pub(crate) mod band_reduction;
pub(crate) mod factor;
pub(crate) mod gram;
pub(crate) mod means;
pub(crate) mod rows;

/// The floating-point type in which a matrix computation is done: `f32` or `f64`.
pub(crate) trait Real: RealField + Copy + Default + Send + Sync + Into<f64> {
    /// Converts a number to this type: rounded to the nearest `f32`, or unchanged for `f64`.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
}
