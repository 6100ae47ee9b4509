//! Errors of the engine; all are found before any computation starts.

use thiserror::Error;

use crate::conv_shape::ConvShape;
use crate::isa::{ISA_VARIABLE, Isa};

/// A network cannot be built or run, or a training convolution got invalid arguments.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The instruction set that the environment variable [`ISA_VARIABLE`] names is unknown, is not available
    /// on this CPU or has no kernels for the precision.
    #[error(
        "the environment variable {ISA_VARIABLE}={name} cannot be used: {problem}; unset the variable to use \
         the fastest instruction set"
    )]
    ForcedIsa {
        /// Value of the variable.
        name: String,
        /// Why it cannot be used.
        problem: String,
    },
    /// The requested instruction set is not available on this CPU, or has no kernels for the precision.
    #[error(
        "the instruction set {isa} cannot be used: {problem}; choose one that this CPU has, such as portable"
    )]
    UnavailableIsa {
        /// The requested instruction set.
        isa: Isa,
        /// Why it cannot be used.
        problem: String,
    },
    /// The CPU has no `bf16` instructions.
    #[error("this CPU has no bf16 arithmetic (AVX512-BF16 or AMX-BF16): use the precision f32")]
    NoBf16,
    /// A layer is not supported by the engine, or does not fit its input.
    #[error("failed to add {layer} to the network: {problem}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// What is wrong.
        problem: String,
    },
    /// A batch or output has the wrong number of values, or images are too small for the network.
    #[error(
        "failed to run the network on photos of {height} x {width} pixels (batch size {images}): {problem}"
    )]
    Input {
        /// Number of images.
        images: usize,
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// What is wrong.
        problem: String,
    },
    /// A slice passed to a training convolution does not have the length that the shape implies.
    #[error("invalid arguments for the convolution {shape:?}: {problem}")]
    Convolution {
        /// Shape of the convolution.
        shape: ConvShape,
        /// What is wrong.
        problem: String,
    },
    /// The thread pool cannot be started.
    #[error("failed to start {threads} threads for the network: use fewer threads")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// Error of the thread pool.
        source: rayon::ThreadPoolBuildError,
    },
}
