use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::rendering::{offset, short_side_to};
use super::resample::{Axis, Window, resize};
use super::*;
use crate::golden::{self, Apart, apart, formula_photo};

fn number(case: &serde_json::Value, key: &str) -> u32 {
    u32::try_from(case[key].as_u64().unwrap()).unwrap()
}

fn numbers<const N: usize>(case: &serde_json::Value, key: &str) -> [u32; N] {
    serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap().try_into().unwrap()
}

/// The rows of `photo` that the golden file keeps.
fn kept_rows(photo: &RgbImage, every: u32) -> RgbImage {
    RgbImage::from_fn(photo.width(), photo.height().div_ceil(every), |x, y| *photo.get_pixel(x, y * every))
}

#[test]
fn the_evaluation_transform_is_torchvisions() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::photos("transform/results.safetensors"));
    for case in cases["eval"].as_array().unwrap() {
        let [height, width] = numbers(case, "crop");
        let interpolation = serde_json::from_value(case["filter"].clone()).unwrap();
        let transform =
            EvalTransform { resize: number(case, "resize"), crop: (height, width), interpolation };
        let ours = transform.apply(&formula_photo(number(case, "width"), number(case, "height")));
        assert_eq!(ours.dimensions(), (width, height));
        let ours = kept_rows(&ours, number(case, "every"));
        let Apart { most, equal, .. } = apart(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(most <= 1 && equal >= 0.99, "{case}: off by {most}, {equal} equal");
    }
}

#[test]
fn a_resized_crop_is_torchvisions() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::photos("transform/results.safetensors"));
    for case in cases["crop"].as_array().unwrap() {
        let photo = formula_photo(number(case, "width"), number(case, "height"));
        let [top, left, height, width] = numbers(case, "crop");
        let [out_height, out_width] = numbers(case, "size");
        let part = image::imageops::crop_imm(&photo, left, top, width, height).to_image();
        let interpolation = serde_json::from_value(case["filter"].clone()).unwrap();
        let ours = resize(&part, (out_width, out_height), interpolation);
        let Apart { most, equal, .. } = apart(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(most <= 1 && equal >= 0.99, "{case}: off by {most}, {equal} equal");
    }
}

#[test]
fn a_rotation_is_torchvisions_to_the_bit() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::photos("transform/results.safetensors"));
    for case in cases["turn"].as_array().unwrap() {
        let photo = formula_photo(number(case, "width"), number(case, "height"));
        let ours = rotate::rotate(&photo, case["degrees"].as_f64().unwrap(), Interpolation::Nearest);
        assert!(ours == results[case["result"].as_str().unwrap()], "{case}");
    }
}

#[test]
fn sizes_of_zero_are_taken_as_one() {
    let transform = EvalTransform { resize: 0, crop: (0, 3), interpolation: Interpolation::Bilinear };
    assert_eq!(transform.apply(&formula_photo(5, 4)).dimensions(), (3, 1));
}

#[test]
fn a_photo_without_pixels_becomes_black() {
    for interpolation in Interpolation::ALL {
        let transform = EvalTransform { resize: 5, crop: (4, 3), interpolation };
        assert_eq!(transform.apply(&RgbImage::new(0, 0)), RgbImage::new(3, 4));
        assert_eq!(transform.apply(&RgbImage::new(0, 7)), RgbImage::new(3, 4));
    }
}

#[test]
fn the_long_side_is_cut_to_whole_pixels() {
    assert_eq!(short_side_to((400, 533), 256), (256, 341));
    assert_eq!(short_side_to((533, 400), 256), (341, 256));
    assert_eq!(short_side_to((256, 300), 256), (256, 300));
}

#[test]
fn half_a_pixel_goes_to_the_even_side() {
    assert_eq!(offset(341, 224), (58, 0)); // 58.5
    assert_eq!(offset(343, 224), (60, 0)); // 59.5
    assert_eq!(offset(3, 8), (0, 2));
}

/// 57.5 across, then 90.5 down: Pillow's values.
#[test]
fn a_half_goes_up_both_times() {
    let resized = resize(&formula_photo(15, 16), (26, 21), Interpolation::Bilinear);
    assert_eq!(resized.get_pixel(19, 15).0, [87, 122, 91]);
}

/// What processors can do, from nothing up to the one at hand.
fn processors() -> Vec<pulp::Arch> {
    let mut all = vec![pulp::Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    all.push(pulp::Arch::new());
    all
}

/// One value of a resized photo as Pillow's documentation has it: the mean of the inputs under the filter, across and
/// down, each rounded to 8 bits. The least and the greatest that it can be: where a mean is a half, it falls either way.
fn by_the_book(photo: &RgbImage, size: (u32, u32), (x, y): (u32, u32), channel: usize) -> RangeInclusive<u8> {
    /// More than the filter's weights are rounded by.
    const HALF: f64 = 1e-3;
    let mean = |input: u32, output: u32, at: u32, value: &dyn Fn(u32) -> u8| {
        let scale = f64::from(input) / f64::from(output);
        let (centre, reach) = ((f64::from(at) + 0.5) * scale, scale.max(1.0));
        let weight = |from: u32| (1.0 - ((f64::from(from) + 0.5 - centre) / reach).abs()).max(0.0);
        let sum: f64 = (0..input).map(weight).sum();
        (0..input).map(|from| weight(from) * f64::from(value(from))).sum::<f64>() / sum
    };
    let [least, greatest] = [-HALF, HALF].map(|off| {
        let rounded = |mean: f64| (mean + off).round() as u8;
        let pixel = |from: u32, row: u32| photo.get_pixel(from, row).0[channel];
        let across = |row: u32| rounded(mean(photo.width(), size.0, x, &|from| pixel(from, row)));
        rounded(mean(photo.height(), size.1, y, &across))
    });
    least..=greatest
}

proptest! {
    #[test]
    fn every_processor_gives_the_same_part_of_a_resized_photo(
        (width, height) in (1u32..70, 1u32..40),
        size in (1u32..60, 1u32..60),
        corner in (0.0..1.0, 0.0..1.0),
    ) {
        let photo = formula_photo(width, height);
        let part = |size: u32, share: f64| (f64::from(size) * share) as u32;
        let (x, y) = (part(size.0, corner.0), part(size.1, corner.1));
        let window = Window { x, y, width: size.0 - x, height: (size.1 - y).div_ceil(2) };
        for interpolation in Interpolation::ALL {
            let whole = resize(&photo, size, interpolation);
            let expected = image::imageops::crop_imm(&whole, x, y, window.width, window.height).to_image();
            for arch in processors() {
                let axes = (Axis::whole(0, width), Axis::whole(0, height));
                let ours = resample::resize_window_on(arch, &photo, axes, size, window, interpolation);
                prop_assert!(ours == expected, "{interpolation:?} on {arch:?}");
            }
        }
    }

    #[test]
    fn a_resized_photo_is_the_mean_under_the_filter(
        (width, height) in (1u32..40, 1u32..20),
        size in (1u32..30, 1u32..30),
    ) {
        // Of taller photos Pillow may reduce the height first.
        prop_assume!(height <= size.1 || width >= size.0 + (height - size.1));
        let photo = formula_photo(width, height);
        let ours = resize(&photo, size, Interpolation::Bilinear);
        for (x, y, pixel) in ours.enumerate_pixels() {
            for channel in 0..3 {
                let expected = by_the_book(&photo, size, (x, y), channel);
                prop_assert!(expected.contains(&pixel.0[channel]), "{x}, {y}: {pixel:?}, {expected:?}");
            }
        }
    }

    #[test]
    fn the_crop_always_has_its_size(width in 1u32..80, height in 1u32..80, resize in 1u32..60, h in 1u32..70, w in 1u32..70) {
        let transform = EvalTransform { resize, crop: (h, w), interpolation: Interpolation::Bicubic };
        prop_assert_eq!(transform.apply(&RgbImage::new(width, height)).dimensions(), (w, h));
    }

    #[test]
    fn a_photo_of_one_colour_stays_so(colour in any::<[u8; 3]>(), width in 40u32..80, height in 40u32..80) {
        for interpolation in Interpolation::ALL {
            let transform = EvalTransform { resize: 33, crop: (32, 31), interpolation };
            let out = transform.apply(&RgbImage::from_pixel(width, height, image::Rgb(colour)));
            prop_assert!(out.pixels().all(|pixel| pixel.0 == colour));
        }
    }
}
