//! Every operation with given parameters.

use std::collections::BTreeMap;

use serde_json::Value;

use super::oracle;
use crate::augment::ops::{
    Op,
    erase::{Erasure, Fill},
    geometry::AffineMap,
};
use crate::decode::Crop;
use crate::golden::{self, apart};

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn op(case: &Value) -> Op {
    let factor = || case["factor"].as_f64().unwrap();
    match case["name"].as_str().unwrap() {
        "flip_horizontal" => Op::FlipHorizontal,
        "flip_vertical" => Op::FlipVertical,
        "grayscale" => Op::Grayscale,
        "equalize" => Op::Equalize,
        "autocontrast" => Op::Autocontrast,
        "invert" => Op::Invert,
        "posterize" => Op::Posterize { bits: read(&case["bits"]) },
        "solarize" => Op::Solarize { threshold: read(&case["threshold"]) },
        "brightness" => Op::Brightness(factor()),
        "contrast" => Op::Contrast(factor()),
        "saturation" => Op::Saturation(factor()),
        "sharpness" => Op::Sharpness(factor()),
        "hue" => Op::Hue(read(&case["turns"])),
        "affine" => {
            let map = AffineMap {
                degrees: read(&case["degrees"]),
                translate: read(&case["translate"]),
                scale: read(&case["scale"]),
                shear: read(&case["shear"]),
                centre: None,
            };
            Op::Affine { map, interpolation: read(&case["interpolation"]) }
        }
        "rotate" => {
            Op::Rotate { degrees: read(&case["degrees"]), interpolation: read(&case["interpolation"]) }
        }
        "perspective" => {
            Op::Perspective { corners: read(&case["corners"]), interpolation: read(&case["interpolation"]) }
        }
        "gaussian_blur" => Op::GaussianBlur { kernel: read(&case["kernel"]), sigma: read(&case["sigma"]) },
        "erase" => {
            let [top, left, height, width] = read(&case["area"]);
            let fill = Fill::Colour(read(&case["value"]));
            Op::Erase(Erasure { area: Crop { top, left, height, width }, fill })
        }
        name => panic!("{name}"),
    }
}

#[test]
fn operations_with_given_parameters_are_torchvisions() {
    let (cases, results) = (oracle::cases(), golden::photos("augment/results.safetensors"));
    let mut seen = BTreeMap::<String, usize>::new();
    for case in cases["op"].as_array().unwrap() {
        let apart = apart(&op(case).apply(oracle::photo(case)), &results[case["result"].as_str().unwrap()]);
        let name = case["name"].as_str().unwrap();
        let exact = !["perspective", "gaussian_blur"].contains(&name);
        assert!(apart.most <= u8::from(!exact), "{case}: {apart:?}");
        // Where corners stay, values between pixels are whole but for the last digits of the coefficients, and are cut.
        assert!(name == "perspective" || apart.equal >= 0.99, "{case}: {apart:?}");
        *seen.entry(name.to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), 18, "{seen:?}");
}

#[test]
fn noise_is_normal_and_belongs_to_its_stream() {
    let noise = |state| {
        let area = Crop { top: 10, left: 20, height: 180, width: 200 };
        let op = Op::Erase(Erasure { area, fill: Fill::Noise(state) });
        op.apply(image::RgbImage::new(300, 200))
    };
    let erased = noise(3);
    assert!(erased == noise(3) && erased != noise(4));
    assert!(
        erased
            .enumerate_pixels()
            .all(|(x, y, pixel)| { (20..220).contains(&x) && (10..190).contains(&y) || pixel.0 == [0; 3] })
    );
    let part = image::imageops::crop_imm(&erased, 20, 10, 200, 180).to_image();
    for (channel, (mean, deviation)) in
        [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate()
    {
        let values: Vec<f64> = part.pixels().map(|pixel| f64::from(pixel.0[channel]) / 255.0).collect();
        let count = values.len() as f64;
        let ours = values.iter().sum::<f64>() / count;
        let square = values.iter().map(|value| (value - ours).powi(2)).sum::<f64>() / count;
        // Some are cut off at black and white.
        assert!((ours - mean).abs() < 0.01, "{ours} {mean}");
        assert!((square.sqrt() - deviation).abs() < 0.01, "{} {deviation}", square.sqrt());
    }
}

#[test]
fn a_photo_smaller_than_the_kernel_is_blurred_too() {
    let flat = image::RgbImage::from_pixel(2, 1, image::Rgb([200, 90, 17]));
    assert!(Op::GaussianBlur { kernel: [9, 5], sigma: 2.0 }.apply(flat.clone()) == flat);
}
