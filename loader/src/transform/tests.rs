use std::ops::RangeInclusive;

use image::RgbImage;
use proptest::prelude::*;

use super::*;
use crate::geometry::Crop;
use crate::golden::{self, PixelDifference, pixel_difference, synthetic_image};

fn number(case: &serde_json::Value, key: &str) -> u32 {
    u32::try_from(case[key].as_u64().unwrap()).unwrap()
}

fn numbers<const N: usize>(case: &serde_json::Value, key: &str) -> [u32; N] {
    serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap().try_into().unwrap()
}

#[test]
fn resized_crop_matches_torchvision() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::images("transform/results.safetensors"));
    for case in cases["crop"].as_array().unwrap() {
        let image = synthetic_image(number(case, "width"), number(case, "height"));
        let [top, left, height, width] = numbers(case, "crop");
        let [out_height, out_width] = numbers(case, "size");
        let part = image::imageops::crop_imm(&image, left, top, width, height).to_image();
        let interpolation = serde_json::from_value(case["filter"].clone()).unwrap();
        let ours = resize(&part, (out_width, out_height), interpolation);
        let PixelDifference { max, equal_fraction: equal, .. } =
            pixel_difference(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(max <= 1 && equal >= 0.99, "{case}: off by up to {max}, equal values: {equal}");
    }
}

#[test]
fn rotation_matches_torchvision_exactly() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::images("transform/results.safetensors"));
    for case in cases["turn"].as_array().unwrap() {
        let image = synthetic_image(number(case, "width"), number(case, "height"));
        let ours = rotate::rotate(&image, case["degrees"].as_f64().unwrap(), Resampling::Nearest);
        assert!(ours == results[case["result"].as_str().unwrap()], "{case}");
    }
}

/// The horizontal pass gives 57.5, the vertical pass 90.5; the expected values are Pillow's.
#[test]
fn each_pass_rounds_half_up() {
    let resized = resize(&synthetic_image(15, 16), (26, 21), Resampling::Bilinear);
    assert_eq!(resized.get_pixel(19, 15).0, [87, 122, 91]);
}

/// The instruction sets to test: from scalar to the best of this processor.
fn instruction_sets() -> Vec<pulp::Arch> {
    let mut sets = vec![pulp::Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    sets.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    sets.push(pulp::Arch::new());
    sets
}

/// The possible values of a channel of a resized image by Pillow's documentation: the weighted mean of the
/// inputs along x, then along y, each rounded to 8 bits. A mean near a half may be rounded up or down.
fn expected_range(
    image: &RgbImage,
    size: (u32, u32),
    (x, y): (u32, u32),
    channel: usize,
) -> RangeInclusive<u8> {
    /// More than the effect of rounding the weights.
    const TOLERANCE: f64 = 1e-3;
    let mean = |input: u32, output: u32, output_index: u32, value: &dyn Fn(u32) -> u8| {
        let scale = f64::from(input) / f64::from(output);
        let (center, support) = ((f64::from(output_index) + 0.5) * scale, scale.max(1.0));
        let weight = |index: u32| (1.0 - ((f64::from(index) + 0.5 - center) / support).abs()).max(0.0);
        let sum: f64 = (0..input).map(weight).sum();
        (0..input).map(|index| weight(index) * f64::from(value(index))).sum::<f64>() / sum
    };
    let [least, greatest] = [-TOLERANCE, TOLERANCE].map(|tolerance| {
        let rounded = |mean: f64| (mean + tolerance).round() as u8;
        let pixel = |column: u32, row: u32| image.get_pixel(column, row).0[channel];
        let row_mean = |row: u32| rounded(mean(image.width(), size.0, x, &|column| pixel(column, row)));
        rounded(mean(image.height(), size.1, y, &row_mean))
    });
    least..=greatest
}

proptest! {
    #[test]
    fn every_instruction_set_gives_the_same_window(
        (width, height) in (1u32..70, 1u32..40),
        size in (1u32..60, 1u32..60),
        corner in (0.0..1.0, 0.0..1.0),
    ) {
        let image = synthetic_image(width, height);
        let part = |size: u32, share: f64| (f64::from(size) * share) as u32;
        let (x, y) = (part(size.0, corner.0), part(size.1, corner.1));
        let window = Crop { top: y, left: x, height: (size.1 - y).div_ceil(2), width: size.0 - x };
        for interpolation in Resampling::ALL {
            let whole = resize(&image, size, interpolation);
            let expected = image::imageops::crop_imm(&whole, x, y, window.width, window.height).to_image();
            for arch in instruction_sets() {
                let axes = (SourceAxis::from_pixels(0, width), SourceAxis::from_pixels(0, height));
                let ours = resize_window(arch, &image, axes, size, window, interpolation);
                prop_assert!(ours == expected, "{interpolation:?} on {arch:?}");
            }
        }
    }

    #[test]
    fn a_resized_image_matches_the_filter_formula(
        (width, height) in (1u32..40, 1u32..20),
        size in (1u32..30, 1u32..30),
    ) {
        // For taller images Pillow may run the vertical pass first.
        prop_assume!(height <= size.1 || width >= size.0 + (height - size.1));
        let image = synthetic_image(width, height);
        let ours = resize(&image, size, Resampling::Bilinear);
        for (x, y, pixel) in ours.enumerate_pixels() {
            for channel in 0..3 {
                let expected = expected_range(&image, size, (x, y), channel);
                prop_assert!(expected.contains(&pixel.0[channel]), "{x}, {y}: {pixel:?}, {expected:?}");
            }
        }
    }
}
