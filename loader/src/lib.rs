//! From files to pixels: data sets, splits, decoding, transforms, augmentation.
//!
//! Everything ends in `u8` RGB pixels `[H, W, 3]`; normalising them is the backbone's work. No tensor is known here.

pub mod augment;
pub mod dataset;
pub mod decode;
#[cfg(test)]
mod golden;
mod random;
pub mod split;
pub mod transform;

pub use augment::{Augment, AugmentError, RandomResizedCrop};
pub use dataset::{
    ClassMap, ClassOrder, CsvSource, Dataset, DatasetError, Sample, read_csv, read_folder, read_folder_with,
};
pub use decode::{DecodeError, decode, read_photo};
pub use split::{Split, SplitError, TestSize, stratified_shuffle_split};
pub use transform::{EvalTransform, Interpolation};
