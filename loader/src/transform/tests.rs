use proptest::prelude::*;

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
        let ours = rotate::rotate(&photo, case["degrees"].as_f64().unwrap());
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

proptest! {
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
