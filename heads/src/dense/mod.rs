//! Dense linear algebra on features that are kept in `f32`, for the heads in closed form: in `f64`, and in `f32` where that
//! is a start or a preconditioner.
//!
//! Features are centred, and become `f64`, a block at a time, never as a whole. Work is split along the result, in pieces whose size does not
//! depend on the threads, and never along a sum: so the bits do not depend on the threads either. faer computes the pieces,
//! each on one thread.

use faer::traits::RealField;

pub(crate) mod absent_classes;
pub(crate) mod band_cholesky;
pub(crate) mod band_reduction;
pub(crate) mod factor;
pub(crate) mod gram;
pub(crate) mod means;
pub(crate) mod rows;

/// What a matrix is computed in.
pub(crate) trait Real: RealField + Copy + Default + Send + Sync + Into<f64> {
    /// The nearest value.
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
