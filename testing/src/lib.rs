//! Support for headstock's tests: the golden files, the bundled backbone for small images, synthetic images,
//! numbers, and captured logs.
//!
//! A helper panics if it fails, as tests do.

#![allow(clippy::unwrap_used, reason = "a helper that fails ends its test")]

#[cfg(feature = "backbone")]
mod backbone;
mod log_capture;

use std::path::{Path, PathBuf};

use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

#[cfg(feature = "backbone")]
pub use backbone::{bundled_weights, small_backbone, small_preprocessing};
pub use log_capture::capture_log;

/// The path of a file in `reference`.
pub fn reference_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference").join(name)
}

/// A synthetic image, different for each `number`, with as many colors and edges as a photo.
pub fn synthetic_image(number: u64, width: u32, height: u32) -> RgbImage {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let coarse = RgbImage::from_fn(6, 6, |_, _| Rgb([byte(), byte(), byte()]));
    resize(&coarse, width, height, FilterType::Triangle)
}

/// A reproducible source of numbers from -0.5 to 0.5.
pub fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}
