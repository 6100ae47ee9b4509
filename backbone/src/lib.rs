//! ResNet backbones: from `u8` pixels `[N, H, W, 3]` to features `[N, F]`.
//!
//! Shapes are of `N` images of `H x W` pixels and `F` features per image. [`WeightsSource`] locates and
//! downloads weights, [`Checkpoint`] reads and validates them without computing anything, [`Backbone`] runs
//! inference with frozen weights up to any [`FeatureLayer`], and [`TrainableBackbone`] trains the stages from
//! a chosen one on.

mod architecture;
mod backbone;
mod calibration_images;
mod candle_resnet;
pub mod checkpoint;
mod compiled;
mod device;
mod error;
mod folded_conv;
mod layer;
pub mod preprocessing;
mod resnet_spec;
mod source;
mod trainable;

pub use architecture::Architecture;
pub use backbone::{Backbone, InferenceWorker, PixelBatch};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use device::{DeviceChoice, DeviceError, Precision};
pub use error::{BackboneError, ErrorKind};
pub use headstock_engine::{EngineError, Isa, LayerTime, Method};
pub use headstock_split::{Resampling, Resize};
pub use layer::FeatureLayer;
pub use preprocessing::Preprocessing;
pub use source::{SourceError, WeightsSource};
pub use trainable::{
    BatchNormMode, ParameterRole, ParameterSlot, StageActivations, TrainableBackbone, TrainableParameter,
};

// Unit tests share fixtures and reference values with the tests of the public API.
#[cfg(test)]
extern crate self as headstock_backbone;
#[cfg(test)]
#[path = "../tests/backbone/formula.rs"]
mod formula;
#[cfg(test)]
#[path = "../tests/backbone/golden_gradients.rs"]
mod golden_gradients;
#[cfg(test)]
#[expect(dead_code, reason = "the tests of the public API use the remaining helpers")]
#[path = "../tests/backbone/support.rs"]
mod support;
