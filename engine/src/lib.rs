//! CPU kernels of headstock: a frozen convolutional network, packed once and run fast.
#![expect(unsafe_code, reason = "kernels work on raw memory; every other crate denies it")]

mod bf16;
mod cell;
mod error;
mod gather;
mod image;
mod isa;
mod kernels;
mod layer;
mod machine;
mod network;
mod pack;
mod plan;
mod pool;
pub mod probe;
mod product;
mod session;
mod team;
#[cfg(test)]
mod tests;
mod tile;
mod walk;
mod winograd;

pub use error::EngineError;
pub use image::{Normalisation, Values};
pub use isa::{ISA_VARIABLE, Isa, Precision};
pub use layer::{Convolution, Method};
pub use network::{Builder, Network, Tap, Value};
pub use session::{Form, LayerTime, Photos, Session};
