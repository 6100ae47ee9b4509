//! What can go wrong before the arithmetic starts.

use thiserror::Error;

use crate::isa::{ISA_VARIABLE, Isa};
use crate::training::ConvShape;

/// A network cannot be built, or not run on this.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The instruction set that the variable names is not to be had.
    #[error("{ISA_VARIABLE}={name} cannot be used: {problem}")]
    ForcedIsa {
        /// Its name.
        name: String,
        /// Why.
        problem: String,
    },
    /// The instruction set that the caller names is not to be had.
    #[error("the instruction set {isa} cannot be used: {problem}")]
    UnavailableIsa {
        /// Which one.
        isa: Isa,
        /// Why.
        problem: String,
    },
    /// The machine has no arithmetic for `bf16`.
    #[error("this CPU has no bf16 arithmetic (AVX512-BF16 or AMX-BF16): use f32")]
    NoBf16,
    /// A layer is not one that the engine has, or does not fit the one before.
    #[error("failed to add {layer}: {problem}")]
    Layer {
        /// Which one.
        layer: String,
        /// Why.
        problem: String,
    },
    /// The photos are not what they are said to be, or too small for the network.
    #[error("failed to run on {images} photos of {height} x {width} pixels: {problem}")]
    Input {
        /// How many.
        images: usize,
        /// Their height in pixels.
        height: usize,
        /// Their width in pixels.
        width: usize,
        /// Why.
        problem: String,
    },
    /// Values of a convolution that is trained are not as many as it has.
    #[error("failed to multiply for {shape:?}: {problem}")]
    Convolution {
        /// Its sizes.
        shape: ConvShape,
        /// What is wrong.
        problem: String,
    },
    /// The threads cannot be started.
    #[error("failed to start {threads} threads")]
    Threads {
        /// How many.
        threads: usize,
        /// What the system says.
        source: rayon::ThreadPoolBuildError,
    },
}
