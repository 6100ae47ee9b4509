//! A frozen convolutional network on the CPU: packed once for the instruction set at hand, then run fast.
//!
//! [`Builder`] takes layers (convolutions with BatchNorm folded in, maximum pools) and packs their weights; [`Network`] is
//! what all share; [`Session`] runs it on a batch of photos, on threads and in memory of its own, as far as any [`Tap`].
//! [`training`] has the products of convolutions whose weights change.
//!
//! Values lie in blocks of channels, a cache line a pixel: 16 `f32` or 32 `bf16`. So a 1 x 1 convolution is a matrix product
//! as it stands; a 3 x 3 one of stride 1 is 36 smaller ones by Winograd's transforms; any other is one over a copy with a
//! margin. `docs/engine.md` says more.
//!
//! ```
//! use std::sync::Arc;
//!
//! use headstock_engine::{
//!     Builder, Convolution, Epilogue, Form, Isa, Photos, Precision, Session, Values,
//! };
//!
//! let normalisation = [[0.5; 256]; 3];
//! let mut builder = Builder::new(Isa::fastest(Precision::F32)?, normalisation)?;
//! let first = Convolution {
//!     inputs: 3,
//!     outputs: 8,
//!     kernel: 3,
//!     stride: 2,
//!     padding: 1,
//!     weights: vec![0.1; 8 * 3 * 3 * 3],
//!     bias: vec![0.0; 8],
//! };
//! let epilogue = Epilogue { residual: None, relu: true, precision: Precision::F32 };
//! let value = builder.convolution("first", builder.image(), first, epilogue)?;
//! builder.max_pool("pool", value, 3, 2, 1)?;
//! let tap = builder.tap()?;
//! let mut session = Session::new(Arc::new(builder.build()), 2)?;
//!
//! let pixels = vec![128; 2 * 32 * 40 * 3];
//! let photos = Photos { values: Values::U8(&pixels), count: 2, height: 32, width: 40 };
//! assert_eq!(session.size(tap, 32, 40)?, (8, 10));
//! let mut features = vec![0.0; 2 * 8];
//! session.run(photos, tap, Form::Pooled, &mut features)?;
//! assert!((features[0] - 27.0 * 0.5 * 0.1).abs() < 1e-5);
//! # Ok::<(), headstock_engine::EngineError>(())
//! ```

#![expect(unsafe_code, reason = "kernels work on raw memory; every other crate denies it")]

mod cache_line;
mod calibration;
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
mod tile;
pub mod training;
mod winograd;

pub use calibration::{ActivationStats, synthetic_calibration_images};
pub use error::EngineError;
pub use image::{Normalization, PixelValues};
pub use isa::{ISA_VARIABLE, Isa, Precision};
pub use layer::{Convolution, Method};
pub use network::{Epilogue, Network, NetworkBuilder, Tap, ValueId};
pub use peak::peak_gflops;
pub use session::{ImageBatch, LayerTime, OutputLayout, Session};
