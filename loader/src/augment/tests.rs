use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::Interpolation;
use crate::golden::{self, apart, formula_photo};

const PLAIN: EvalTransform =
    EvalTransform { resize: 28, crop: (26, 24), interpolation: Interpolation::Bilinear };

fn everything() -> Augment {
    Augment {
        random_resized_crop: Some(RandomResizedCrop::default()),
        horizontal_flip: Some(0.5),
        rotation: Some(30.0),
        seed: 0,
    }
}

/// A different key for every number.
fn key(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key
}

fn pair(value: &serde_json::Value) -> [f64; 2] {
    serde_json::from_value(value.clone()).unwrap()
}

fn crop(value: &serde_json::Value) -> Option<Crop> {
    let [top, left, height, width] = serde_json::from_value::<Option<[u32; 4]>>(value.clone()).unwrap()?;
    Some(Crop { top, left, height, width })
}

fn size(case: &serde_json::Value) -> (u32, u32) {
    (case["width"].as_u64().unwrap() as u32, case["height"].as_u64().unwrap() as u32)
}

#[test]
fn a_view_with_given_draws_is_torchvisions() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::photos("transform/results.safetensors"));
    for case in cases["view"].as_array().unwrap() {
        let interpolation = serde_json::from_value(case["filter"].clone()).unwrap();
        let rendering = Rendering {
            plain: EvalTransform { interpolation, ..PLAIN },
            crop: crop(&case["crop"]),
            mirrored: case["mirrored"].as_bool().unwrap(),
            degrees: case["degrees"].as_f64(),
        };
        let (width, height) = size(case);
        let apart =
            apart(&rendering.of(&formula_photo(width, height)), &results[case["result"].as_str().unwrap()]);
        assert!(apart.most <= 1 && apart.equal >= 0.99, "{case}: {apart:?}");
    }
}

#[test]
fn where_no_crop_fits_the_middle_is_taken_as_by_torchvision() {
    for case in golden::json("transform/cases.json")["fallback"].as_array().unwrap() {
        let settings = RandomResizedCrop { scale: pair(&case["scale"]), ratio: pair(&case["ratio"]) };
        let augment = Augment { random_resized_crop: Some(settings), ..Augment::default() };
        assert_eq!(augment.rendering(size(case), &PLAIN, 1, &key(0)).crop, crop(&case["crop"]), "{case}");
    }
}

#[test]
fn crops_are_distributed_as_torchvisions() {
    const DRAWS: u64 = 20_000;
    for case in golden::json("transform/cases.json")["distribution"].as_array().unwrap() {
        let settings = RandomResizedCrop { scale: pair(&case["scale"]), ratio: pair(&case["ratio"]) };
        let augment = Augment { random_resized_crop: Some(settings), ..Augment::default() };
        let (width, height) = size(case);
        let crops: Vec<Crop> = (0..DRAWS)
            .map(|number| augment.rendering((width, height), &PLAIN, 1, &key(number)).crop.unwrap())
            .collect();
        let quantity = |name: &str, of: &dyn Fn(&Crop) -> f64| {
            let mean = crops.iter().map(of).sum::<f64>() / DRAWS as f64;
            let variance = crops.iter().map(|crop| (of(crop) - mean).powi(2)).sum::<f64>() / DRAWS as f64;
            let (their_mean, their_deviation) =
                (case["mean"][name].as_f64().unwrap(), case["deviation"][name].as_f64().unwrap());
            // Five standard errors of the difference of two means.
            let error = 5.0 * their_deviation * (2.0 / DRAWS as f64).sqrt();
            assert!((mean - their_mean).abs() < error, "{name}: mean {mean}, torchvision's {their_mean}");
            assert!(
                (variance.sqrt() / their_deviation - 1.0).abs() < 0.03,
                "{name}: deviation {}, torchvision's {their_deviation}",
                variance.sqrt()
            );
        };
        quantity("share", &|c| f64::from(c.width * c.height) / f64::from(width * height));
        quantity("log_ratio", &|c| (f64::from(c.width) / f64::from(c.height)).ln());
        quantity("height", &|c| f64::from(c.height));
        quantity("width", &|c| f64::from(c.width));
        quantity("top", &|c| f64::from(c.top));
        quantity("left", &|c| f64::from(c.left));
    }
}

#[test]
fn flips_and_angles_are_distributed_as_the_settings_say() {
    const DRAWS: u64 = 20_000;
    let augment = Augment { horizontal_flip: Some(0.3), rotation: Some(20.0), ..Augment::default() };
    let drawn: Vec<Rendering> =
        (0..DRAWS).map(|number| augment.rendering((40, 30), &PLAIN, 2, &key(number))).collect();
    let mirrored = drawn.iter().filter(|drawn| drawn.mirrored).count() as f64 / DRAWS as f64;
    assert!((mirrored - 0.3).abs() < 0.015, "{mirrored}");
    let degrees: Vec<f64> = drawn.iter().map(|drawn| drawn.degrees.unwrap()).collect();
    assert!(degrees.iter().all(|degrees| (-20.0..=20.0).contains(degrees)));
    let mean = degrees.iter().sum::<f64>() / DRAWS as f64;
    let square = degrees.iter().map(|degrees| degrees * degrees).sum::<f64>() / DRAWS as f64;
    assert!(mean.abs() < 0.4 && (square - 400.0 / 3.0).abs() < 4.0, "{mean} {square}");
}

#[test]
fn a_view_depends_on_seed_number_and_photo() {
    let photo = formula_photo(61, 47);
    let view = |seed, number, photo_key| {
        Augment { seed, ..everything() }.view(&photo, &PLAIN, number, &key(photo_key))
    };
    let mut seen = HashSet::new();
    for seed in [0, 1, u64::MAX] {
        for number in [1, 2] {
            for photo_key in [0, 1] {
                let once = view(seed, number, photo_key);
                assert!(once == view(seed, number, photo_key));
                assert!(seen.insert(once.into_raw()), "seed {seed}, view {number}, photo {photo_key}");
            }
        }
    }
}

#[test]
fn a_view_does_not_depend_on_which_were_drawn_before() {
    let photo = formula_photo(61, 47);
    let augment = everything();
    let view = |number| augment.view(&photo, &PLAIN, number, &key(3));
    let forwards: Vec<RgbImage> = (0..4).map(view).collect();
    let backwards: Vec<RgbImage> = (0..4).rev().map(view).collect();
    assert!(forwards.iter().eq(backwards.iter().rev()));
}

#[test]
fn a_fresh_view_is_another_every_epoch_and_none_of_the_numbered() {
    let photo = formula_photo(50, 40);
    let augment = everything();
    let fresh = |epoch| augment.fresh(&photo, &PLAIN, epoch, &key(3));
    let views: Vec<RgbImage> = (0..4).map(|view| augment.view(&photo, &PLAIN, view, &key(3))).collect();
    let epochs: Vec<RgbImage> = (0..4).map(fresh).collect();
    assert!(epochs.iter().enumerate().all(|(i, one)| !views.contains(one) && !epochs[..i].contains(one)));
    assert!(fresh(2) == epochs[2] && augment.fresh(&photo, &PLAIN, 2, &key(4)) != epochs[2]);
}

#[test]
fn nothing_asked_for_is_the_plain_view() {
    let photo = formula_photo(61, 47);
    assert!(Augment::default().is_empty());
    assert!(Augment::default().view(&photo, &PLAIN, 1, &key(0)) == PLAIN.apply(&photo));
}

#[test]
fn values_out_of_range_are_named() {
    let message = |toml: serde_json::Value| {
        serde_json::from_value::<Augment>(toml).unwrap().check().err().map(|error| error.to_string())
    };
    let crop = |crop| message(serde_json::json!({ "random_resized_crop": crop }));
    assert_eq!(
        crop(serde_json::json!({ "scale": [0.0, 1.0] })).unwrap(),
        "`augment.random_resized_crop.scale` is [0.0, 1.0]: must be two shares of the area in order, above 0 and up to 1"
    );
    for scale in [[0.5, 0.4], [0.5, 1.1], [-0.5, 0.5]] {
        assert!(crop(serde_json::json!({ "scale": scale })).is_some(), "{scale:?}");
    }
    assert_eq!(
        crop(serde_json::json!({ "ratio": [2.0, 1.0] })).unwrap(),
        "`augment.random_resized_crop.ratio` is [2.0, 1.0]: must be two ratios in order, above 0"
    );
    assert_eq!(
        message(serde_json::json!({ "horizontal_flip": 1.5 })).unwrap(),
        "`augment.horizontal_flip` is 1.5: must be a probability, from 0 to 1"
    );
    assert_eq!(
        message(serde_json::json!({ "rotation": -1.0 })).unwrap(),
        "`augment.rotation` is -1: must be degrees, from 0 to 180"
    );
    let nan = Augment { rotation: Some(f64::NAN), ..Augment::default() };
    assert_eq!(nan.check().unwrap_err().key, "rotation");
    assert_eq!(message(serde_json::json!({})), None);
    assert_eq!(everything().check(), Ok(()));
}

#[test]
fn an_unknown_key_is_refused() {
    for table in [r#"{"rotate": 30}"#, r#"{"random_resized_crop": {"size": 3}}"#] {
        assert!(serde_json::from_str::<Augment>(table).unwrap_err().to_string().contains("unknown field"));
    }
}

proptest! {
    #[test]
    fn a_crop_lies_within_the_photo(
        width in 1u32..700, height in 1u32..700,
        scale in (0.001f64..1.0, 0.001f64..1.0), ratio in (0.1f64..10.0, 0.1f64..10.0),
        seed: u64,
    ) {
        let ordered = |(a, b): (f64, f64)| [a.min(b), a.max(b)];
        let settings = RandomResizedCrop { scale: ordered(scale), ratio: ordered(ratio) };
        let augment = Augment { random_resized_crop: Some(settings), seed, ..Augment::default() };
        prop_assert_eq!(augment.check(), Ok(()));
        let crop = augment.rendering((width, height), &PLAIN, 1, &key(0)).crop.unwrap();
        prop_assert!(crop.width >= 1 && crop.height >= 1);
        prop_assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
    }

    #[test]
    fn a_view_has_the_size_of_the_plain_one(width in 1u32..80, height in 1u32..80, seed: u64) {
        let view = Augment { seed, ..everything() }.view(&RgbImage::new(width, height), &PLAIN, 1, &key(0));
        prop_assert_eq!(view.dimensions(), (24, 26));
    }

    #[test]
    fn settings_that_were_not_checked_do_not_panic(
        scale: [f64; 2], ratio: [f64; 2], flip: f64, degrees: f64, seed: u64,
    ) {
        let augment = Augment {
            random_resized_crop: Some(RandomResizedCrop { scale, ratio }),
            horizontal_flip: Some(flip),
            rotation: Some(degrees),
            seed,
        };
        let view = augment.view(&formula_photo(9, 7), &PLAIN, 1, &key(0));
        prop_assert_eq!(view.dimensions(), (24, 26));
    }
}
