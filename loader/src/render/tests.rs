use proptest::prelude::*;
use serde_json::Value;

use super::spec::{center_offset, resized_size};
use super::*;
use crate::decode::decode;
use crate::golden::{self, PixelDifference, decode_files, pixel_difference, synthetic_image};

fn number(case: &Value, key: &str) -> u32 {
    u32::try_from(case[key].as_u64().unwrap()).unwrap()
}

/// Every `every`-th row of `image`: the golden file has only these rows.
fn every_nth_row(image: &RgbImage, every: u32) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height().div_ceil(every), |x, y| *image.get_pixel(x, y * every))
}

#[test]
fn eval_transform_matches_torchvision() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::images("transform/results.safetensors"));
    for case in cases["eval"].as_array().unwrap() {
        let [height, width] = serde_json::from_value::<[u32; 2]>(case["crop"].clone()).unwrap();
        let interpolation = serde_json::from_value(case["filter"].clone()).unwrap();
        let transform =
            EvalTransform { resize: number(case, "resize").into(), crop: (height, width), interpolation };
        let ours = transform.apply(&synthetic_image(number(case, "width"), number(case, "height")));
        assert_eq!(ours.dimensions(), (width, height));
        let ours = every_nth_row(&ours, number(case, "every"));
        let PixelDifference { max, equal_fraction: equal, .. } =
            pixel_difference(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(max <= 1 && equal >= 0.99, "{case}: off by up to {max}, equal values: {equal}");
    }
}

#[test]
fn sizes_of_zero_are_taken_as_one() {
    let transform = EvalTransform { resize: 0.into(), crop: (0, 3), interpolation: Resampling::Bilinear };
    assert_eq!(transform.apply(&synthetic_image(5, 4)).dimensions(), (3, 1));
}

#[test]
fn an_image_without_pixels_becomes_black() {
    for interpolation in Resampling::ALL {
        let transform = EvalTransform { resize: 5.into(), crop: (4, 3), interpolation };
        assert_eq!(transform.apply(&RgbImage::new(0, 0)), RgbImage::new(3, 4));
        assert_eq!(transform.apply(&RgbImage::new(0, 7)), RgbImage::new(3, 4));
    }
}

#[test]
fn the_long_side_is_rounded_down() {
    assert_eq!(resized_size((400, 533), 256), (256, 341));
    assert_eq!(resized_size((533, 400), 256), (341, 256));
    assert_eq!(resized_size((256, 300), 256), (256, 300));
}

#[test]
fn center_offset_rounds_half_to_even() {
    assert_eq!(center_offset(341, 224), (58, 0)); // 58.5
    assert_eq!(center_offset(343, 224), (60, 0)); // 59.5
    assert_eq!(center_offset(3, 8), (0, 2));
}

// effect: data.decode
#[test]
fn views_of_reduced_jpegs_match_pillow() {
    let (cases, results) =
        (golden::json("decode/rendered.json"), golden::images("decode/rendered.safetensors"));
    let (files, max_pixels) = (decode_files("larger"), 1 << 16);
    for case in cases.as_array().unwrap() {
        let bytes = &files[case["photo"].as_str().unwrap()];
        let crop = serde_json::from_value::<Option<[u32; 4]>>(case["crop"].clone()).unwrap();
        let size = serde_json::from_value(case["size"].clone()).unwrap();
        let eval = EvalTransform {
            resize: Resize::ShortSide(case["resize"].as_u64().unwrap_or(1) as u32),
            crop: size,
            interpolation: serde_json::from_value(case["filter"].clone()).unwrap(),
        };
        let crop = crop.map(|[top, left, height, width]| Crop { top, left, height, width });
        let spec = RenderSpec { crop, ..eval.render_spec() };
        let image = LazyImage::open(bytes, max_pixels).unwrap();
        assert_eq!(u64::from(spec.max_reduction(image.size())), case["factor"].as_u64().unwrap(), "{case}");
        let ours = render_views(image, DecodeMode::Scaled, std::slice::from_ref(&spec)).unwrap();
        let difference = pixel_difference(&ours[0], &results[case["result"].as_str().unwrap()]);
        assert!(difference.max <= 1 && difference.equal_fraction >= 0.99, "{case}: {difference:?}");
    }
}

// effect: data.decode
#[test]
fn rendered_regions_match_the_whole_image() {
    let eval = EvalTransform { resize: 40.into(), crop: (32, 30), interpolation: Resampling::Bicubic };
    let crops = [(5, 7, 100, 60), (90, 33, 17, 101), (0, 0, 151, 203)];
    for (name, bytes) in decode_files("larger").into_iter().chain(decode_files("photos")) {
        let whole = decode(&bytes, 1 << 16).unwrap();
        let crops = crops.map(|(top, left, height, width)| {
            let Crop { top, left, height, width } =
                Crop { top, left, height, width }.clipped_to(whole.dimensions());
            (height > 0 && width > 0).then_some(Crop { top, left, height, width })
        });
        let specs = crops.map(|crop| RenderSpec { crop, ..eval.render_spec() });
        let expected: Vec<RgbImage> = specs.iter().map(|spec| spec.render(&whole)).collect();
        let open = || LazyImage::open(&bytes, 1 << 16).unwrap();
        assert!(render_views(open(), DecodeMode::Exact, &specs).unwrap() == expected, "{name}: all at once");
        for (spec, expected) in specs.iter().zip(&expected) {
            let ours = render_views(open(), DecodeMode::Exact, std::slice::from_ref(spec)).unwrap();
            assert!(ours[0] == *expected, "{name}: {spec:?}");
        }
    }
}

proptest! {
    #[test]
    fn the_crop_always_has_its_size(width in 1u32..80, height in 1u32..80, resize in 1u32..60, h in 1u32..70, w in 1u32..70) {
        let transform = EvalTransform { resize: resize.into(), crop: (h, w), interpolation: Resampling::Bicubic };
        prop_assert_eq!(transform.apply(&RgbImage::new(width, height)).dimensions(), (w, h));
    }

    #[test]
    fn an_image_of_one_color_keeps_it(color in any::<[u8; 3]>(), width in 40u32..80, height in 40u32..80) {
        for interpolation in Resampling::ALL {
            let transform = EvalTransform { resize: 33.into(), crop: (32, 31), interpolation };
            let out = transform.apply(&RgbImage::from_pixel(width, height, image::Rgb(color)));
            prop_assert!(out.pixels().all(|pixel| pixel.0 == color));
        }
    }
}
