//! Inference of frozen convolutional networks on the CPU, and convolution gradients for training.
//!
//! [`NetworkBuilder`] takes layers (convolutions with BatchNorm folded in, max pools) and packs their weights
//! for an instruction set; the resulting [`Network`] can be shared; a [`Session`] runs it on batches of
//! images up to any [`Tap`], with its own threads and memory. [`training`] has convolutions whose weights
//! change, forward and backward.
//!
//! Values are stored in channel blocks (NCHWc): a cache line holds one pixel's 16 `f32` or 32 `bf16`
//! channels. So a 1 x 1 convolution is one GEMM without a copy; a 3 x 3 convolution of stride 1 is 36 smaller
//! GEMMs (Winograd); any other is a GEMM over a padded copy. See `docs/engine.md`.
//!
//! ```
//! use std::sync::Arc;
//!
//! use headstock_engine::{
//!     Convolution, DType, Epilogue, ImageBatch, Isa, NetworkBuilder, OutputLayout, PixelValues, Session,
//! };
//!
//! let normalization = [[0.5; 256]; 3];
//! let mut builder = NetworkBuilder::new(Isa::fastest(DType::F32)?, normalization)?;
//! let first = Convolution {
//!     inputs: 3,
//!     outputs: 8,
//!     kernel: 3,
//!     stride: 2,
//!     padding: 1,
//!     weights: vec![0.1; 8 * 3 * 3 * 3],
//!     bias: vec![0.0; 8],
//! };
//! let epilogue = Epilogue { residual: None, relu: true, precision: DType::F32 };
//! let value = builder.add_convolution("first", builder.input(), first, epilogue)?;
//! builder.add_max_pool("pool", value, 3, 2, 1)?;
//! let tap = builder.add_tap()?;
//! let mut session = Session::new(Arc::new(builder.build()), 2)?;
//!
//! let pixels = vec![128; 2 * 32 * 40 * 3];
//! let images = ImageBatch { values: PixelValues::U8(&pixels), count: 2, height: 32, width: 40 };
//! assert_eq!(session.output_size(tap, 32, 40)?, (8, 10));
//! let mut features = vec![0.0; 2 * 8];
//! session.run(images, tap, OutputLayout::Pooled, &mut features)?;
//! assert!((features[0] - 27.0 * 0.5 * 0.1).abs() < 1e-5);
//! # Ok::<(), headstock_engine::EngineError>(())
//! ```

#![expect(unsafe_code, reason = "kernels work on raw memory; every other crate denies it")]

mod activation_stats;
mod cache_line;
mod calibration;
mod conv_shape;
mod detection;
mod dispatch;
mod error;
mod executor;
mod gemm;
mod gptq;
mod image;
mod isa;
mod kernels;
mod layer;
mod network;
mod pack;
mod pad;
mod peak;
mod plan;
mod pool;
mod session;
mod team;
#[cfg(test)]
mod tests;
pub mod training;
mod winograd;

pub use activation_stats::ActivationStats;
pub use error::EngineError;
pub use executor::OutputLayout;
pub use image::{Normalization, PixelValues};
pub use isa::{DType, ISA_VARIABLE, Isa};
pub use layer::{Convolution, Method};
pub use network::{Epilogue, Network, NetworkBuilder, Tap, ValueId};
pub use peak::peak_gflops;
pub use session::{ImageBatch, LayerTime, Session};
