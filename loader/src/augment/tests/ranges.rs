//! The range and the default of every key.

use serde_json::{Value, json};

use super::oracle;
use crate::augment::{Augment, NumberOrList};

/// `[augment]` with `value` at the path `key` and the required keys of its table.
fn augment_with(key: &str, value: &Value) -> Augment {
    let table = match key.rsplit_once('.') {
        None => json!({ key: value }),
        Some((step, last)) if step.starts_with("policy.") => {
            json!({ "policy": { "kind": step.trim_start_matches("policy."), last: value } })
        }
        Some((step, last)) => {
            let mut table = match step {
                "affine" => json!({ "degrees": 0 }),
                "gaussian_blur" => json!({ "kernel_size": 3 }),
                "sharpness" => json!({ "factor": 1 }),
                "posterize" => json!({ "bits": 1 }),
                "solarize" => json!({ "threshold": 1 }),
                _ => json!({}),
            };
            table[last] = value.clone();
            json!({ step: table })
        }
    };
    serde_json::from_value(table).unwrap()
}

#[test]
fn values_at_range_ends_are_accepted_and_values_beyond_rejected() {
    let probability = json!([[0, 1], [-0.001, 1.001]]);
    let interpolation = json!([["nearest", "bilinear", "bicubic"], ["lanczos"]]);
    let bins = json!([[2, 1000], [0, 1]]);
    let mut keys = vec![
        ("random_resized_crop.scale", json!([[[1e-9, 1], [0.5, 0.5]], [[0, 1], [0.5, 1.001], [0.6, 0.5]]])),
        ("random_resized_crop.ratio", json!([[[1e-9, 1e9], [2, 2]], [[0, 1], [2, 1]]])),
        ("rotation", json!([[0, 180], [-0.001, 180.001]])),
        (
            "affine.degrees",
            json!([[0, 360, [-360, 360], [30, 30]], [-0.001, 361, [-361, 0], [0, 361], [2, 1]]]),
        ),
        ("affine.translate", json!([[[0, 1], [1, 0]], [[-0.001, 0], [1.001, 0], [0, -0.001], [0, 1.001]]])),
        ("affine.scale", json!([[[1e-9, 9], [2, 2]], [[0, 1], [2, 1]]])),
        (
            "affine.shear",
            json!([
                [0, 89, [-89, 89], [3, 3], [-89, 89, -89, 89]],
                [-1, 90, [-90, 0], [0, 90], [0, 0, -90, 0], [0, 0, 0, 90], [0, 0, 2, 1], [1], []]
            ]),
        ),
        ("perspective.distortion_scale", json!([[0, 1], [-0.001, 1.001]])),
        (
            "color_jitter.hue",
            json!([[0, 0.5, [-0.5, 0.5], [0.1, 0.1]], [0.501, [-0.501, 0], [0, 0.501], [0.2, 0.1]]]),
        ),
        (
            "gaussian_blur.kernel_size",
            json!([[1, 255, [1, 255]], [0, 2, 256, 257, [3, 4], [4, 3], [3, 3, 3]]]),
        ),
        ("gaussian_blur.sigma", json!([[1e-9, 9, [2, 2]], [0, [0, 1], [2, 1]]])),
        ("sharpness.factor", json!([[0, 1e9], [-0.001]])),
        ("posterize.bits", json!([[1, 8], [0, 9]])),
        ("solarize.threshold", json!([[0, 255], [-0.001, 255.001]])),
        ("erasing.scale", json!([[[0, 1], [0.2, 0.2]], [[-0.001, 1], [0, 1.001], [0.2, 0.1]]])),
        ("erasing.ratio", json!([[[1e-9, 1e9], [2, 2]], [[0, 1], [2, 1]]])),
        (
            "erasing.value",
            json!([[0, 255, [0, 255, 7], "random"], [-1, 256, [0, 0, 256], [-1, 0, 0], [1, 2]]]),
        ),
        ("policy.rand-augment.num_ops", json!([[0, 100], [101]])),
        ("policy.rand-augment.magnitude", json!([[0, 30], [31]])),
        ("policy.aug-mix.severity", json!([[1, 10], [0, 11]])),
        ("policy.aug-mix.mixture_width", json!([[1, 100], [0, 101]])),
        ("policy.aug-mix.chain_depth", json!([[-1, 1, 100], [-2, 0, 101]])),
        ("policy.aug-mix.alpha", json!([[0.001, 1000], [0.0009, 1000.1]])),
        ("policy.trivial-augment-wide.num_magnitude_bins", bins.clone()),
    ];
    for step in ["brightness", "contrast", "saturation"] {
        let key = ["color_jitter.brightness", "color_jitter.contrast", "color_jitter.saturation"];
        let key = key.into_iter().find(|key| key.ends_with(step)).unwrap();
        keys.push((key, json!([[0, 9, [0, 9], [2, 2]], [-0.001, [-0.001, 1], [2, 1], [1], [1, 2, 3]]])));
    }
    for key in [
        "horizontal_flip",
        "vertical_flip",
        "grayscale",
        "equalize",
        "autocontrast",
        "invert",
        "perspective.p",
        "gaussian_blur.p",
        "sharpness.p",
        "posterize.p",
        "solarize.p",
        "erasing.p",
    ] {
        keys.push((key, probability.clone()));
    }
    for key in [
        "affine.interpolation",
        "perspective.interpolation",
        "policy.rand-augment.interpolation",
        "policy.trivial-augment-wide.interpolation",
        "policy.auto-augment.interpolation",
    ] {
        keys.push((key, interpolation.clone()));
    }
    for (key, values) in keys {
        for value in values[0].as_array().unwrap() {
            assert_eq!(augment_with(key, value).check(), Ok(()), "{key} = {value}");
        }
        for value in values[1].as_array().unwrap() {
            let error = augment_with(key, value).check().unwrap_err();
            // Errors name the keys of a policy without its kind.
            let named = key.replace("rand-augment.", "").replace("trivial-augment-wide.", "");
            let named = named.replace("aug-mix.", "").replace("auto-augment.", "");
            assert_eq!(error.key, named, "{key} = {value}");
        }
    }
    // The magnitude with fewer or more bins than the default.
    let magnitude = |magnitude: u32, bins: u32| {
        let policy = json!({ "kind": "rand-augment", "magnitude": magnitude, "num_magnitude_bins": bins });
        serde_json::from_value::<Augment>(json!({ "policy": policy }))
            .unwrap()
            .check()
            .map_err(|error| error.key)
    };
    assert_eq!(magnitude(0, 2), Ok(()));
    assert_eq!(magnitude(999, 1000), Ok(()));
    assert_eq!(magnitude(2, 2), Err("policy.magnitude"));
    assert_eq!(magnitude(0, 1), Err("policy.num_magnitude_bins"));
}

#[test]
fn nan_and_infinity_are_rejected() {
    let rejected_key = |change: fn(&mut Augment)| {
        let mut augment = super::all_steps();
        change(&mut augment);
        augment.check().unwrap_err().key
    };
    assert_eq!(rejected_key(|a| a.horizontal_flip = Some(f64::NAN)), "horizontal_flip");
    assert_eq!(
        rejected_key(|a| a.random_resized_crop.as_mut().unwrap().ratio[1] = f64::INFINITY),
        "random_resized_crop.ratio"
    );
    assert_eq!(
        rejected_key(|a| a.affine.as_mut().unwrap().scale = Some([1.0, f64::INFINITY])),
        "affine.scale"
    );
    assert_eq!(
        rejected_key(|a| a.affine.as_mut().unwrap().degrees = NumberOrList::Number(f64::NAN)),
        "affine.degrees"
    );
    assert_eq!(
        rejected_key(|a| a.gaussian_blur.as_mut().unwrap().sigma = NumberOrList::Number(f64::INFINITY)),
        "gaussian_blur.sigma"
    );
    assert_eq!(rejected_key(|a| a.sharpness.as_mut().unwrap().factor = f64::INFINITY), "sharpness.factor");
    assert_eq!(rejected_key(|a| a.erasing.as_mut().unwrap().ratio[1] = f64::INFINITY), "erasing.ratio");
    assert_eq!(
        rejected_key(
            |a| a.color_jitter.as_mut().unwrap().brightness = Some(NumberOrList::Number(f64::INFINITY))
        ),
        "color_jitter.brightness"
    );
}

#[test]
fn an_error_shows_the_number_or_the_list() {
    let message = |key: &str, value: Value| augment_with(key, &value).check().unwrap_err().to_string();
    assert_eq!(
        message("affine.degrees", json!(-1)),
        "`affine.degrees` is -1: must be an angle in degrees from 0 to 360, or two angles from -360 to 360 in ascending order"
    );
    assert_eq!(
        message("gaussian_blur.sigma", json!([2, 0.5])),
        "`gaussian_blur.sigma` is [2.0, 0.5]: must be a number above 0, or two such numbers in ascending order"
    );
    assert_eq!(
        message("erasing.value", json!(300)),
        "`erasing.value` is 300: must be one or three values from 0 to 255, or \"random\""
    );
}

#[test]
fn a_wrong_type_names_the_expected_one() {
    let message_of = |table: Value| serde_json::from_value::<Augment>(table).unwrap_err().to_string();
    let message = message_of(json!({ "affine": { "degrees": "ten" } }));
    assert!(message.contains("expected a number or a list of numbers"), "{message}");
    let message = message_of(json!({ "erasing": { "value": "noise" } }));
    assert!(message.contains("expected a number, a list of numbers or \"random\""), "{message}");
    let message = message_of(json!({ "policy": { "kind": "mix-up" } }));
    assert!(message.contains("mix-up") && message.contains("aug-mix"), "{message}");
}

// effect: augment.random_resized_crop.scale, augment.random_resized_crop.ratio, augment.affine.translate
// effect: augment.affine.scale, augment.affine.shear, augment.affine.interpolation
// effect: augment.perspective.distortion_scale
// effect: augment.perspective.p, augment.perspective.interpolation, augment.gaussian_blur.sigma
// effect: augment.sharpness.p
// effect: augment.posterize.p, augment.solarize.p, augment.erasing.p, augment.erasing.scale
// effect: augment.erasing.ratio
// effect: augment.erasing.value, augment.policy.rand-augment.num_ops, augment.policy.rand-augment.magnitude
// effect: augment.policy.rand-augment.num_magnitude_bins, augment.policy.rand-augment.interpolation
// effect: augment.policy.trivial-augment-wide.num_magnitude_bins
// effect: augment.policy.trivial-augment-wide.interpolation
// effect: augment.policy.auto-augment.interpolation, augment.policy.aug-mix.severity
// effect: augment.policy.aug-mix.mixture_width
// effect: augment.policy.aug-mix.chain_depth, augment.policy.aug-mix.alpha, augment.policy.aug-mix.all_ops
#[test]
fn defaults_match_torchvision() {
    let cases = oracle::cases();
    let theirs = cases["defaults"].as_object().unwrap();
    let step = |name: &str| match name {
        "RandomResizedCrop" => ("random_resized_crop", json!({})),
        "RandomAffine" => ("affine", json!({ "degrees": 0 })),
        "RandomPerspective" => ("perspective", json!({})),
        "GaussianBlur" => ("gaussian_blur", json!({ "kernel_size": 3 })),
        "RandomAdjustSharpness" => ("sharpness", json!({ "factor": 2 })),
        "RandomPosterize" => ("posterize", json!({ "bits": 4 })),
        "RandomSolarize" => ("solarize", json!({ "threshold": 128 })),
        "RandomErasing" => ("erasing", json!({})),
        "RandAugment" => ("policy", json!({ "kind": "rand-augment" })),
        "TrivialAugmentWide" => ("policy", json!({ "kind": "trivial-augment-wide" })),
        "AutoAugment" => ("policy", json!({ "kind": "auto-augment" })),
        "AugMix" => ("policy", json!({ "kind": "aug-mix" })),
        name => panic!("{name}"),
    };
    assert_eq!(theirs.len(), 12);
    for (name, theirs) in theirs {
        let (key, table) = step(name);
        let augment: Augment = serde_json::from_value(json!({ key: table })).unwrap();
        let ours = &serde_json::to_value(&augment).unwrap()[key];
        for (key, value) in theirs.as_object().unwrap() {
            let same = match (value.as_f64(), ours[key].as_f64()) {
                (Some(theirs), Some(ours)) => theirs == ours,
                _ => *value == ours[key],
            };
            assert!(same, "{name}: `{key}` is {}, torchvision's {value}", ours[key]);
        }
    }
    // torchvision's blur has no probability: it always happens.
    let blur: Augment = serde_json::from_value(json!({ "gaussian_blur": { "kernel_size": 3 } })).unwrap();
    assert_eq!(blur.gaussian_blur.unwrap().p, 1.0);
}

#[test]
fn numbers_lists_colors_and_noise_round_trip_through_json() {
    for table in [
        json!({ "affine": { "degrees": 10.0, "shear": [1.0, 2.0], "interpolation": "bicubic" }, "seed": 3 }),
        json!({ "erasing": { "p": 0.5, "scale": [0.1, 0.2], "ratio": [0.3, 0.4], "value": 7.0 }, "seed": 0 }),
        json!({ "erasing": { "p": 0.5, "scale": [0.1, 0.2], "ratio": [0.3, 0.4], "value": [1.0, 2.0, 3.0] }, "seed": 0 }),
        json!({ "erasing": { "p": 0.5, "scale": [0.1, 0.2], "ratio": [0.3, 0.4], "value": "random" }, "seed": 0 }),
        json!({ "gaussian_blur": { "kernel_size": [3.0, 5.0], "sigma": 0.7, "p": 1.0 }, "seed": 0 }),
    ] {
        let augment: Augment = serde_json::from_value(table.clone()).unwrap();
        assert_eq!(serde_json::to_value(augment).unwrap(), table);
    }
}
