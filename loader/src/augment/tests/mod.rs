//! Tests of `[augment]` as a whole; `operations` and `draws` compare it with torchvision.

mod draws;
mod operations;
pub(super) mod oracle;
mod ranges;
mod steps;

use std::any::Any;
use std::collections::HashSet;

use image::{RgbImage, imageops};
use proptest::prelude::*;
use sha2::Digest;

use super::rotation::Rotate;
use super::*;
use crate::geometry::Crop;
use crate::golden::{self, pixel_difference, synthetic_image};
use crate::render::{EvalTransform, RenderSpec, contact_sheet};
use crate::transform::{ImageOp, Resampling, Resize};

const EVAL: EvalTransform =
    EvalTransform { resize: Resize::ShortSide(28), crop: (26, 24), interpolation: Resampling::Bilinear };

/// Width and height of the views of [`EVAL`].
const VIEW_SIZE: (u32, u32) = (24, 26);

/// `op` as an operation of type `T`, if it is one.
fn downcast<T: ImageOp>(op: &dyn ImageOp) -> Option<&T> {
    (op as &dyn Any).downcast_ref()
}

/// The operation of `ops`, which has this one only, of type `T`.
fn only_op<T: ImageOp>(ops: &ImageOps) -> &T {
    match &ops[..] {
        [op] => downcast(&**op).unwrap_or_else(|| panic!("{op:?}")),
        ops => panic!("{ops:?}"),
    }
}

/// The operations as text, with the values of their parameters.
fn texts(ops: &ImageOps) -> Vec<String> {
    ops.iter().map(|op| format!("{op:?}")).collect()
}

fn augmented_view(augment: &Augment, image: &RgbImage, view: u32, hash: &[u8; 32]) -> RgbImage {
    RenderSpec::augmented(augment, &EVAL, image.dimensions(), view, hash).render(image)
}

fn augmented_epoch_view(augment: &Augment, image: &RgbImage, epoch: u64, hash: &[u8; 32]) -> RgbImage {
    RenderSpec::augmented_in_epoch(augment, &EVAL, image.dimensions(), epoch, hash).render(image)
}

/// Settings with the three steps that share one random stream.
fn crop_flip_rotation() -> Augment {
    Augment {
        random_resized_crop: Some(RandomResizedCrop::default()),
        horizontal_flip: Some(0.5),
        rotation: Some(30.0),
        ..Augment::default()
    }
}

/// Settings with all steps.
fn all_steps() -> Augment {
    serde_json::from_value(serde_json::json!({
        "random_resized_crop": {},
        "horizontal_flip": 0.5,
        "rotation": 30,
        "vertical_flip": 0.5,
        "policy": { "kind": "rand-augment" },
        "affine": { "degrees": 10, "translate": [0.1, 0.2], "scale": [0.8, 1.2], "shear": [-5, 5, -3, 3] },
        "perspective": {},
        "color_jitter": { "brightness": 0.4, "contrast": [0.5, 1.5], "saturation": 0.4, "hue": 0.1 },
        "grayscale": 0.2,
        "gaussian_blur": { "kernel_size": [3, 5], "sigma": [0.1, 2] },
        "sharpness": { "factor": 2 },
        "posterize": { "bits": 4 },
        "solarize": { "threshold": 128 },
        "equalize": 0.3,
        "autocontrast": 0.3,
        "invert": 0.3,
        "erasing": { "value": "random" },
        "seed": 0,
    }))
    .unwrap()
}

/// A different image hash for every number.
pub(super) fn test_hash(number: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    hash
}

fn range(value: &serde_json::Value) -> [f64; 2] {
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
fn a_view_with_given_draws_matches_torchvision() {
    let (cases, results) =
        (golden::json("transform/cases.json"), golden::images("transform/results.safetensors"));
    for case in cases["view"].as_array().unwrap() {
        let mut ops = ImageOps::new();
        if case["mirrored"].as_bool().unwrap() {
            ops.push(Box::new(FlipHorizontal));
        }
        if let Some(degrees) = case["degrees"].as_f64() {
            ops.push(Box::new(Rotate { degrees, interpolation: Resampling::Nearest }));
        }
        let eval =
            EvalTransform { interpolation: serde_json::from_value(case["filter"].clone()).unwrap(), ..EVAL };
        let spec = RenderSpec { eval, crop: crop(&case["crop"]), ops };
        let (width, height) = size(case);
        let difference = pixel_difference(
            &spec.render(&synthetic_image(width, height)),
            &results[case["result"].as_str().unwrap()],
        );
        assert!(difference.max <= 1 && difference.equal_fraction >= 0.99, "{case}: {difference:?}");
    }
}

#[test]
fn the_fallback_crop_matches_torchvision() {
    for case in golden::json("transform/cases.json")["fallback"].as_array().unwrap() {
        let settings = RandomResizedCrop { scale: range(&case["scale"]), ratio: range(&case["ratio"]) };
        let augment = Augment { random_resized_crop: Some(settings), ..Augment::default() };
        assert_eq!(augment.draw(size(case), VIEW_SIZE, 1, &test_hash(0)).crop, crop(&case["crop"]), "{case}");
    }
}

// effect: augment.random_resized_crop.scale, augment.random_resized_crop.ratio
#[test]
fn crops_are_distributed_as_in_torchvision() {
    const DRAWS: u64 = 20_000;
    for case in golden::json("transform/cases.json")["distribution"].as_array().unwrap() {
        let settings = RandomResizedCrop { scale: range(&case["scale"]), ratio: range(&case["ratio"]) };
        let augment = Augment { random_resized_crop: Some(settings), ..Augment::default() };
        let (width, height) = size(case);
        let crops: Vec<Crop> = (0..DRAWS)
            .map(|number| augment.draw((width, height), VIEW_SIZE, 1, &test_hash(number)).crop.unwrap())
            .collect();
        let assert_distribution = |name: &str, value: &dyn Fn(&Crop) -> f64| {
            let mean = crops.iter().map(value).sum::<f64>() / DRAWS as f64;
            let variance = crops.iter().map(|crop| (value(crop) - mean).powi(2)).sum::<f64>() / DRAWS as f64;
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
        assert_distribution("share", &|c| f64::from(c.width * c.height) / f64::from(width * height));
        assert_distribution("log_ratio", &|c| (f64::from(c.width) / f64::from(c.height)).ln());
        assert_distribution("height", &|c| f64::from(c.height));
        assert_distribution("width", &|c| f64::from(c.width));
        assert_distribution("top", &|c| f64::from(c.top));
        assert_distribution("left", &|c| f64::from(c.left));
    }
}

// effect: augment.horizontal_flip, augment.rotation
#[test]
fn flips_and_angles_follow_their_settings() {
    const DRAWS: u64 = 20_000;
    let augment = Augment { horizontal_flip: Some(0.3), rotation: Some(20.0), ..Augment::default() };
    let drawn: Vec<ImageOps> =
        (0..DRAWS).map(|number| augment.draw((40, 30), VIEW_SIZE, 2, &test_hash(number)).ops).collect();
    let mirrored = drawn.iter().filter(|ops| downcast::<FlipHorizontal>(&*ops[0]).is_some()).count() as f64
        / DRAWS as f64;
    assert!((mirrored - 0.3).abs() < 0.015, "{mirrored}");
    let degrees: Vec<f64> = drawn
        .iter()
        .filter_map(|ops| downcast::<Rotate>(&**ops.last()?).map(|rotate| rotate.degrees))
        .collect();
    assert!(degrees.len() == drawn.len() && degrees.iter().all(|degrees| (-20.0..=20.0).contains(degrees)));
    let mean = degrees.iter().sum::<f64>() / DRAWS as f64;
    let square = degrees.iter().map(|degrees| degrees * degrees).sum::<f64>() / DRAWS as f64;
    assert!(mean.abs() < 0.4 && (square - 400.0 / 3.0).abs() < 4.0, "{mean} {square}");
}

// effect: augment.seed
#[test]
fn crops_flips_and_rotations_are_unchanged() {
    let mut hash = sha2::Sha256::new();
    for number in 0..20 {
        for view in 1..4 {
            let image = synthetic_image(61, 47);
            hash.update(augmented_view(&crop_flip_rotation(), &image, view, &test_hash(number)).into_raw());
            let rotated = Augment { rotation: Some(12.0), seed: 5, ..Augment::default() };
            hash.update(augmented_view(&rotated, &image, view, &test_hash(number)).into_raw());
            hash.update(augmented_epoch_view(&rotated, &image, view.into(), &test_hash(number)).into_raw());
        }
    }
    // Cached features depend on these views and on this JSON.
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, "cd47fe086b4f3e0be940ec9ad4bcc10b563fbbfe775179dc732e05e2db348ac3");
    assert_eq!(
        serde_json::to_string(&crop_flip_rotation()).unwrap(),
        r#"{"random_resized_crop":{"scale":[0.08,1.0],"ratio":[0.75,1.3333333333333333]},"horizontal_flip":0.5,"rotation":30.0,"seed":0}"#
    );
}

#[test]
fn the_draws_of_a_step_do_not_depend_on_other_steps() {
    let all = serde_json::to_value(all_steps()).unwrap();
    let draw = |augment: &Augment| augment.draw((61, 47), VIEW_SIZE, 1, &test_hash(5));
    let whole = draw(&all_steps());
    for step in all.as_object().unwrap().keys() {
        if ["random_resized_crop", "horizontal_flip", "rotation", "seed"].contains(&step.as_str()) {
            continue;
        }
        let alone: Augment = serde_json::from_value(serde_json::json!({ step: all[step] })).unwrap();
        let alone = draw(&alone);
        assert_eq!(alone.crop, None);
        let whole_ops = texts(&whole.ops);
        assert!(texts(&alone.ops).iter().all(|op| whole_ops.contains(op)), "{step}: {alone:?}, {whole:?}");
        let mut other_steps = all.clone();
        other_steps.as_object_mut().unwrap().remove(step);
        let without_step = draw(&serde_json::from_value(other_steps).unwrap());
        assert_eq!(without_step.crop, whole.crop);
        assert!(texts(&without_step.ops).iter().all(|op| whole_ops.contains(op)), "without {step}");
        assert_eq!(without_step.ops.len() + alone.ops.len(), whole.ops.len(), "{step}");
    }
}

#[test]
fn a_view_depends_on_seed_index_and_image() {
    let image = synthetic_image(61, 47);
    let view = |seed, number, image_key| {
        augmented_view(&Augment { seed, ..all_steps() }, &image, number, &test_hash(image_key))
    };
    let mut seen = HashSet::new();
    for seed in [0, 1, u64::MAX] {
        for number in [1, 2] {
            for image_key in [0, 1] {
                let once = view(seed, number, image_key);
                assert!(once == view(seed, number, image_key));
                assert!(seen.insert(once.into_raw()), "seed {seed}, view {number}, image {image_key}");
            }
        }
    }
}

#[test]
fn a_view_does_not_depend_on_earlier_draws() {
    let image = synthetic_image(61, 47);
    let augment = all_steps();
    let view = |number| augmented_view(&augment, &image, number, &test_hash(3));
    let forwards: Vec<RgbImage> = (0..4).map(view).collect();
    let backwards: Vec<RgbImage> = (0..4).rev().map(view).collect();
    assert!(forwards.iter().eq(backwards.iter().rev()));
}

#[test]
fn epoch_views_differ_from_each_other_and_from_numbered_views() {
    let image = synthetic_image(50, 40);
    let augment = all_steps();
    let epoch_view = |epoch| augmented_epoch_view(&augment, &image, epoch, &test_hash(3));
    let views: Vec<RgbImage> =
        (0..4).map(|view| augmented_view(&augment, &image, view, &test_hash(3))).collect();
    let epochs: Vec<RgbImage> = (0..4).map(epoch_view).collect();
    assert!(
        epochs.iter().enumerate().all(|(i, epoch)| !views.contains(epoch) && !epochs[..i].contains(epoch))
    );
    assert!(
        epoch_view(2) == epochs[2] && augmented_epoch_view(&augment, &image, 2, &test_hash(4)) != epochs[2]
    );
}

#[test]
fn empty_settings_give_the_eval_view() {
    let image = synthetic_image(61, 47);
    assert!(Augment::default().is_empty() && Augment { seed: 7, ..Augment::default() }.is_empty());
    assert!(augmented_view(&Augment::default(), &image, 1, &test_hash(0)) == EVAL.apply(&image));
}

#[test]
fn errors_name_the_key_and_value() {
    let message = |settings: serde_json::Value| {
        serde_json::from_value::<Augment>(settings).unwrap().check().err().map(|error| error.to_string())
    };
    let crop = |crop| message(serde_json::json!({ "random_resized_crop": crop }));
    assert_eq!(
        crop(serde_json::json!({ "scale": [0.0, 1.0] })).unwrap(),
        "`random_resized_crop.scale` is [0.0, 1.0]: must be two fractions of the photo's area, above 0 and at most 1, in ascending order"
    );
    for scale in [[0.5, 0.4], [0.5, 1.1], [-0.5, 0.5]] {
        assert!(crop(serde_json::json!({ "scale": scale })).is_some(), "{scale:?}");
    }
    assert_eq!(
        crop(serde_json::json!({ "ratio": [2.0, 1.0] })).unwrap(),
        "`random_resized_crop.ratio` is [2.0, 1.0]: must be two aspect ratios above 0, in ascending order"
    );
    assert_eq!(
        message(serde_json::json!({ "horizontal_flip": 1.5 })).unwrap(),
        "`horizontal_flip` is 1.5: must be a probability from 0 to 1"
    );
    assert_eq!(
        message(serde_json::json!({ "rotation": -1.0 })).unwrap(),
        "`rotation` is -1: must be an angle in degrees from 0 to 180"
    );
    let nan = Augment { rotation: Some(f64::NAN), ..Augment::default() };
    assert_eq!(nan.check().unwrap_err().key, "rotation");
    assert_eq!(message(serde_json::json!({})), None);
    assert_eq!(all_steps().check(), Ok(()));
}

#[test]
fn every_key_rejects_invalid_values() {
    let invalid_settings = serde_json::json!([
        ["vertical_flip", { "vertical_flip": -0.1 }],
        ["affine.degrees", { "affine": { "degrees": -1 } }],
        ["affine.degrees", { "affine": { "degrees": [1, 2, 3] } }],
        ["affine.translate", { "affine": { "degrees": 0, "translate": [0, 1.5] } }],
        ["affine.scale", { "affine": { "degrees": 0, "scale": [0, 1] } }],
        ["affine.shear", { "affine": { "degrees": 0, "shear": [1, 2, 3] } }],
        ["affine.shear", { "affine": { "degrees": 0, "shear": [2, 1] } }],
        ["affine.interpolation", { "affine": { "degrees": 0, "interpolation": "lanczos" } }],
        ["perspective.distortion_scale", { "perspective": { "distortion_scale": 1.1 } }],
        ["perspective.p", { "perspective": { "p": 2 } }],
        ["color_jitter.brightness", { "color_jitter": { "brightness": -1 } }],
        ["color_jitter.contrast", { "color_jitter": { "contrast": [-0.1, 1] } }],
        ["color_jitter.saturation", { "color_jitter": { "saturation": [1] } }],
        ["color_jitter.hue", { "color_jitter": { "hue": 0.6 } }],
        ["grayscale", { "grayscale": 1.5 }],
        ["gaussian_blur.kernel_size", { "gaussian_blur": { "kernel_size": 4 } }],
        ["gaussian_blur.sigma", { "gaussian_blur": { "kernel_size": 3, "sigma": [0, 1] } }],
        ["gaussian_blur.p", { "gaussian_blur": { "kernel_size": 3, "p": -1 } }],
        ["sharpness.factor", { "sharpness": { "factor": -1 } }],
        ["posterize.bits", { "posterize": { "bits": 0 } }],
        ["solarize.threshold", { "solarize": { "threshold": 256 } }],
        ["equalize", { "equalize": 2 }],
        ["autocontrast", { "autocontrast": 2 }],
        ["invert", { "invert": 2 }],
        ["erasing.p", { "erasing": { "p": 2 } }],
        ["erasing.scale", { "erasing": { "scale": [0.3, 0.2] } }],
        ["erasing.ratio", { "erasing": { "ratio": [0, 1] } }],
        ["erasing.value", { "erasing": { "value": [1, 2] } }],
        ["erasing.value", { "erasing": { "value": 300 } }],
        ["policy.num_ops", { "policy": { "kind": "rand-augment", "num_ops": 101 } }],
        ["policy.magnitude", { "policy": { "kind": "rand-augment", "magnitude": 31 } }],
        ["policy.num_magnitude_bins", { "policy": { "kind": "trivial-augment-wide", "num_magnitude_bins": 1 } }],
        ["policy.interpolation", { "policy": { "kind": "auto-augment", "interpolation": "lanczos" } }],
        ["policy.severity", { "policy": { "kind": "aug-mix", "severity": 11 } }],
        ["policy.mixture_width", { "policy": { "kind": "aug-mix", "mixture_width": 0 } }],
        ["policy.chain_depth", { "policy": { "kind": "aug-mix", "chain_depth": 0 } }],
        ["policy.alpha", { "policy": { "kind": "aug-mix", "alpha": 0 } }],
    ]);
    for case in invalid_settings.as_array().unwrap() {
        let augment: Augment = serde_json::from_value(case[1].clone()).unwrap();
        let error = augment.check().unwrap_err();
        assert_eq!(error.key, case[0], "{case}");
        assert!(!augment.is_empty());
    }
}

#[test]
fn settings_round_trip_through_json() {
    let text = serde_json::to_string(&all_steps()).unwrap();
    assert_eq!(serde_json::from_str::<Augment>(&text).unwrap(), all_steps());
}

#[test]
fn a_contact_sheet_has_a_row_for_each_image() {
    let images = [synthetic_image(61, 47), synthetic_image(40, 50)];
    let sheet = contact_sheet(&all_steps(), &EVAL, &images, &[test_hash(1), test_hash(2)], 2);
    let part = |column, row| imageops::crop_imm(&sheet, column * 28, row * 30, 24, 26).to_image();
    for (row, image) in images.iter().enumerate() {
        assert!(part(0, row as u32) == EVAL.apply(image));
        for view in 1..=2 {
            assert!(
                part(view, row as u32)
                    == augmented_view(&all_steps(), image, view, &test_hash(row as u64 + 1))
            );
        }
    }
    assert_eq!(sheet.get_pixel(25, 3).0, [255; 3]);
    assert_eq!(contact_sheet(&all_steps(), &EVAL, &[], &[], 2).dimensions(), (0, 0));
}

#[test]
fn an_unknown_key_is_refused() {
    for table in [
        r#"{"rotate": 30}"#,
        r#"{"random_resized_crop": {"size": 3}}"#,
        r#"{"policy": {"kind": "aug-mix", "magnitude": 3}}"#,
    ] {
        assert!(serde_json::from_str::<Augment>(table).unwrap_err().to_string().contains("unknown field"));
    }
}

proptest! {
    #[test]
    fn a_crop_lies_within_the_image(
        width in 1u32..700, height in 1u32..700,
        scale in (0.001f64..1.0, 0.001f64..1.0), ratio in (0.1f64..10.0, 0.1f64..10.0),
        seed: u64,
    ) {
        let ordered = |(a, b): (f64, f64)| [a.min(b), a.max(b)];
        let settings = RandomResizedCrop { scale: ordered(scale), ratio: ordered(ratio) };
        let augment = Augment { random_resized_crop: Some(settings), seed, ..Augment::default() };
        prop_assert_eq!(augment.check(), Ok(()));
        let crop = augment.draw((width, height), VIEW_SIZE, 1, &test_hash(0)).crop.unwrap();
        prop_assert!(crop.width >= 1 && crop.height >= 1);
        prop_assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
    }

    #[test]
    fn a_view_has_the_size_of_the_eval_view(width in 1u32..80, height in 1u32..80, seed: u64) {
        let view = augmented_view(&Augment { seed, ..all_steps() }, &RgbImage::new(width, height), 1, &test_hash(0));
        prop_assert_eq!(view.dimensions(), (24, 26));
    }

    #[test]
    fn unchecked_settings_do_not_panic(
        range: [f64; 2], other: [f64; 2], p: f64, number: f64, list: Vec<f64>, count: u32, bits: u8, seed: u64,
    ) {
        let numbers = NumberOrList::List(list);
        let interpolation = Resampling::Lanczos;
        let policies = [
            Policy::RandAugment(RandAugment { num_ops: count % 9, magnitude: count, num_magnitude_bins: count, interpolation }),
            Policy::TrivialAugmentWide(TrivialAugmentWide { num_magnitude_bins: count, interpolation }),
            Policy::AugMix(AugMix {
                severity: count, mixture_width: count % 9, chain_depth: count as i32 % 9, alpha: number, all_ops: false,
            }),
            Policy::AutoAugment(AutoAugment { interpolation }),
        ];
        let augment = Augment {
            random_resized_crop: Some(RandomResizedCrop { scale: range, ratio: other }),
            horizontal_flip: Some(p),
            rotation: Some(number),
            vertical_flip: Some(p),
            policy: Some(policies[count as usize % 4].clone()),
            affine: Some(RandomAffine {
                degrees: numbers.clone(), translate: Some(range), scale: Some(other), shear: Some(numbers.clone()), interpolation,
            }),
            perspective: Some(RandomPerspective { distortion_scale: number, p: 1.0, interpolation }),
            color_jitter: Some(ColorJitter {
                brightness: Some(range.into()), contrast: Some(number.into()), saturation: Some(numbers.clone()), hue: Some(number.into()),
            }),
            grayscale: Some(p),
            gaussian_blur: Some(GaussianBlur { kernel_size: numbers.clone(), sigma: range.into(), p: 1.0 }),
            sharpness: Some(RandomAdjustSharpness { factor: number, p: 1.0 }),
            posterize: Some(RandomPosterize { bits, p: 1.0 }),
            solarize: Some(RandomSolarize { threshold: number, p: 1.0 }),
            equalize: Some(p),
            autocontrast: Some(p),
            invert: Some(p),
            erasing: Some(RandomErasing { p: 1.0, scale: range, ratio: other, value: ErasingValue::Color(number.into()) }),
            seed,
        };
        let view = augmented_view(&augment, &synthetic_image(9, 7), 1, &test_hash(0));
        prop_assert_eq!(view.dimensions(), (24, 26));
    }
}
