//! Dense linear algebra in `f64` on features that are kept in `f32`, for the heads in closed form.
//!
//! Features become `f64` a block at a time, never as a whole. Work is split along the result, in pieces whose size does not
//! depend on the threads, and never along a sum: so the bits do not depend on the threads either. faer computes the pieces,
//! each on one thread.

pub(crate) mod factor;
pub(crate) mod gram;
pub(crate) mod means;
pub(crate) mod planes;
pub(crate) mod rows;
