//! Compares every operation with torchvision's, with given parameters.

use std::collections::BTreeMap;

use serde_json::Value;

use super::oracle;
use crate::augment::affine::{Affine, AffineMap};
use crate::augment::autocontrast::Autocontrast;
use crate::augment::color_jitter::{Brightness, Contrast, Hue, Saturation};
use crate::augment::equalize::Equalize;
use crate::augment::erasing::{Erase, EraseFill};
use crate::augment::flip::{FlipHorizontal, FlipVertical};
use crate::augment::gaussian_blur::Blur;
use crate::augment::grayscale::Grayscale;
use crate::augment::invert::Invert;
use crate::augment::perspective::Perspective;
use crate::augment::posterize::Posterize;
use crate::augment::rotation::Rotate;
use crate::augment::sharpness::Sharpness;
use crate::augment::solarize::Solarize;
use crate::geometry::Crop;
use crate::golden::{self, pixel_difference};
use crate::transform::ImageOp;

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// The operation of a case of `cases.json`.
fn op(case: &Value) -> Box<dyn ImageOp> {
    let factor = || case["factor"].as_f64().unwrap();
    match case["name"].as_str().unwrap() {
        "flip_horizontal" => Box::new(FlipHorizontal),
        "flip_vertical" => Box::new(FlipVertical),
        "grayscale" => Box::new(Grayscale),
        "equalize" => Box::new(Equalize),
        "autocontrast" => Box::new(Autocontrast),
        "invert" => Box::new(Invert),
        "posterize" => Box::new(Posterize { bits: read(&case["bits"]) }),
        "solarize" => Box::new(Solarize { threshold: read(&case["threshold"]) }),
        "brightness" => Box::new(Brightness(factor())),
        "contrast" => Box::new(Contrast(factor())),
        "saturation" => Box::new(Saturation(factor())),
        "sharpness" => Box::new(Sharpness(factor())),
        "hue" => Box::new(Hue(read(&case["turns"]))),
        "affine" => {
            let map = AffineMap {
                degrees: read(&case["degrees"]),
                translate: read(&case["translate"]),
                scale: read(&case["scale"]),
                shear: read(&case["shear"]),
                center: None,
            };
            Box::new(Affine { map, interpolation: read(&case["interpolation"]) })
        }
        "rotate" => {
            Box::new(Rotate { degrees: read(&case["degrees"]), interpolation: read(&case["interpolation"]) })
        }
        "perspective" => Box::new(Perspective {
            corners: read(&case["corners"]),
            interpolation: read(&case["interpolation"]),
        }),
        "gaussian_blur" => Box::new(Blur { kernel_size: read(&case["kernel"]), sigma: read(&case["sigma"]) }),
        "erase" => {
            let [top, left, height, width] = read(&case["area"]);
            let fill = EraseFill::Color(read(&case["value"]));
            Box::new(Erase { area: Crop { top, left, height, width }, fill })
        }
        name => panic!("{name}"),
    }
}

#[test]
fn operations_match_torchvision() {
    let (cases, results) = (oracle::cases(), golden::images("augment/results.safetensors"));
    let mut seen = BTreeMap::<String, usize>::new();
    for case in cases["op"].as_array().unwrap() {
        let difference = pixel_difference(
            &op(case).apply(oracle::image(case)),
            &results[case["result"].as_str().unwrap()],
        );
        let name = case["name"].as_str().unwrap();
        let exact = !["perspective", "gaussian_blur"].contains(&name);
        assert!(difference.max <= u8::from(!exact), "{case}: {difference:?}");
        // With unmoved corners, the last digits of the coefficients decide which of two integers a truncated
        // value becomes.
        assert!(name == "perspective" || difference.equal_fraction >= 0.99, "{case}: {difference:?}");
        *seen.entry(name.to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), 18, "{seen:?}");
}

#[test]
fn noise_is_normal_and_determined_by_its_seed() {
    let noise = |state| {
        let area = Crop { top: 10, left: 20, height: 180, width: 200 };
        let op = Erase { area, fill: EraseFill::Noise(state) };
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
        let mean_value = values.iter().sum::<f64>() / count;
        let square = values.iter().map(|value| (value - mean_value).powi(2)).sum::<f64>() / count;
        // Some values are clamped to black or white.
        assert!((mean_value - mean).abs() < 0.01, "{mean_value} {mean}");
        assert!((square.sqrt() - deviation).abs() < 0.01, "{} {deviation}", square.sqrt());
    }
}

#[test]
fn an_image_smaller_than_the_kernel_is_blurred_too() {
    let flat = image::RgbImage::from_pixel(2, 1, image::Rgb([200, 90, 17]));
    assert!(Blur { kernel_size: [9, 5], sigma: 2.0 }.apply(flat.clone()) == flat);
}
