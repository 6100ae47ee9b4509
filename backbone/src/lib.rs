//! Frozen ResNet backbones: from `u8` pixels `[N, H, W, 3]` to features `[N, F]`.
//!
//! [`Source`] says where the weights are and fetches them, [`Checkpoint`] reads and checks them without computing
//! anything, [`Backbone`] runs them and taps any [`Layer`].

mod architecture;
mod backbone;
pub mod checkpoint;
mod convolution;
mod device;
mod error;
pub mod hub;
mod kernels;
mod layer;
pub mod preprocessing;
mod resnet;
mod source;

pub use architecture::Architecture;
pub use backbone::{Backbone, Pixels, Worker};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use device::{DeviceChoice, DeviceError, Precision};
pub use error::{BackboneError, ErrorKind};
pub use hub::{HubError, HubSettings, HubSource};
pub use layer::Layer;
pub use preprocessing::{Interpolation, Preprocessing};
pub use source::{DownloadProgress, Source, SourceError, WeightFiles};
