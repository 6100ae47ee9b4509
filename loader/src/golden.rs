//! Golden files and formulas shared with the scripts in `reference/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use image::{Rgb, RgbImage};
use safetensors::SafeTensors;

/// The file or folder `name` in `reference/`.
pub(crate) fn reference_path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../reference")).join(name)
}

/// The images `[H, W, 3]` of a `.safetensors` file in `reference/`, by tensor name.
pub(crate) fn images(name: &str) -> BTreeMap<String, RgbImage> {
    let bytes = fs::read(reference_path(name)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let to_image = |tensor: safetensors::tensor::TensorView<'_>| {
        let &[height, width, 3] = tensor.shape() else { panic!("{:?}", tensor.shape()) };
        RgbImage::from_raw(width as u32, height as u32, tensor.data().to_vec()).unwrap()
    };
    tensors.iter().map(|(name, tensor)| (name.to_owned(), to_image(tensor))).collect()
}

/// The test cases of a `.json` file in `reference/`.
pub(crate) fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(reference_path(name)).unwrap()).unwrap()
}

/// `photo(width, height)` of `reference/transform/make.py`: waves, edges and noise.
pub(crate) fn synthetic_image(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (u64::from(x), u64::from(y));
        Rgb([0, 1, 2].map(|c| {
            let wave = (x * (3 + c) + y * (5 - c)) % 256;
            let edge = if (x / 5 + y / 3 + c).is_multiple_of(2) { 255 } else { 0 };
            let noise = ((x * 73_856_093) ^ (y * 19_349_663) ^ (c * 83_492_791)) % 256;
            ((2 * wave + edge + noise) / 4) as u8
        }))
    })
}

/// Absolute differences between the channel values of two images, and the fraction of equal values.
#[derive(Debug)]
pub(crate) struct PixelDifference {
    pub(crate) max: u8,
    pub(crate) mean: f64,
    pub(crate) equal_fraction: f64,
}

/// Compares two images of the same size, value by value.
pub(crate) fn pixel_difference(ours: &RgbImage, theirs: &RgbImage) -> PixelDifference {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let differences: Vec<u8> = ours.iter().zip(theirs.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
    let per_value = |sum: f64| sum / differences.len() as f64;
    PixelDifference {
        max: differences.iter().copied().max().unwrap_or(0),
        mean: per_value(differences.iter().map(|&d| f64::from(d)).sum()),
        equal_fraction: per_value(differences.iter().filter(|&&d| d == 0).count() as f64),
    }
}

/// The files of a folder of `reference/decode`, by name.
pub(crate) fn decode_files(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(reference_path("decode").join(folder)).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}
