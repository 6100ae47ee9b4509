//! Compares the distributions of drawn parameters with torchvision's.

use super::oracle::{assert_distribution, assert_frequencies};
use super::{downcast, only_op, test_hash};
use crate::augment::affine::{Affine, AffineMap};
use crate::augment::color_jitter::{Brightness, Contrast, Hue, Saturation};
use crate::augment::erasing::Erase;
use crate::augment::gaussian_blur::Blur;
use crate::augment::perspective::Perspective;
use crate::augment::{Augment, ImageOps};
use crate::transform::ImageOp;

const DRAWS: u64 = 20_000;

/// The operations drawn for a view of 40 x 30 of each of [`DRAWS`] images.
fn draw_ops(settings: serde_json::Value) -> Vec<ImageOps> {
    let augment: Augment = serde_json::from_value(settings).unwrap();
    augment.check().unwrap();
    (0..DRAWS).map(|number| augment.draw((61, 47), (40, 30), 1, &test_hash(number)).ops).collect()
}

/// The maps that an affine step with the settings `table` draws.
fn draw_maps(table: &serde_json::Value) -> Vec<AffineMap> {
    let drawn = draw_ops(serde_json::json!({ "affine": table }));
    drawn.iter().map(|ops| only_op::<Affine>(ops).map).collect()
}

// effect: augment.affine.degrees, augment.affine.translate, augment.affine.scale, augment.affine.shear
#[test]
fn affine_maps_are_distributed_as_in_torchvision() {
    let table = serde_json::json!({
        "degrees": 25, "translate": [0.2, 0.4], "scale": [0.6, 1.5], "shear": [-10, 5, -3, 8]
    });
    let maps = draw_maps(&table);
    let spread = |name: &str, values: Vec<f64>| assert_distribution(&format!("affine.{name}"), &values);
    spread("degrees", maps.iter().map(|map| map.degrees).collect());
    spread("translate_x", maps.iter().map(|map| map.translate[0]).collect());
    spread("translate_y", maps.iter().map(|map| map.translate[1]).collect());
    spread("scale", maps.iter().map(|map| map.scale).collect());
    spread("shear_x", maps.iter().map(|map| map.shear[0]).collect());
    spread("shear_y", maps.iter().map(|map| map.shear[1]).collect());
}

// effect: augment.affine.degrees, augment.affine.shear
#[test]
fn angle_ranges_are_distributed_as_in_torchvision() {
    for (name, table) in [
        ("number", serde_json::json!({ "degrees": 30, "shear": 12 })),
        ("range", serde_json::json!({ "degrees": [10, 40], "shear": [-5, 15] })),
    ] {
        let maps = draw_maps(&table);
        assert!(maps.iter().all(|map| map.shear[1] == 0.0));
        let degrees: Vec<f64> = maps.iter().map(|map| map.degrees).collect();
        assert_distribution(&format!("affine.{name}.degrees"), &degrees);
        let shear: Vec<f64> = maps.iter().map(|map| map.shear[0]).collect();
        assert_distribution(&format!("affine.{name}.shear_x"), &shear);
    }
}

// effect: augment.perspective.distortion_scale
#[test]
fn corners_are_distributed_as_in_torchvision() {
    let settings = serde_json::json!({ "perspective": { "distortion_scale": 0.6, "p": 1 } });
    let drawn = draw_ops(settings);
    for corner in 0..4 {
        for (axis, name) in ["x", "y"].into_iter().enumerate() {
            let coordinate = |ops: &ImageOps| f64::from(only_op::<Perspective>(ops).corners[corner][axis]);
            let coordinates: Vec<f64> = drawn.iter().map(coordinate).collect();
            assert_distribution(&format!("perspective.{corner}.{name}"), &coordinates);
        }
    }
}

// effect: augment.color_jitter.brightness, augment.color_jitter.contrast, augment.color_jitter.saturation
// effect: augment.color_jitter.hue
#[test]
fn color_jitter_is_distributed_as_in_torchvision() {
    let table =
        serde_json::json!({ "brightness": 0.4, "contrast": [0.2, 1.1], "saturation": 1.5, "hue": 0.3 });
    let drawn = draw_ops(serde_json::json!({ "color_jitter": table }));
    let index_and_value = |op: &dyn ImageOp| {
        let values = [
            downcast(op).map(|&Brightness(factor)| factor),
            downcast(op).map(|&Contrast(factor)| factor),
            downcast(op).map(|&Saturation(factor)| factor),
            downcast(op).map(|&Hue(turns)| turns),
        ];
        let index = values.iter().position(Option::is_some).unwrap();
        (index, values[index].unwrap())
    };
    for (number, name) in ["brightness", "contrast", "saturation", "hue"].into_iter().enumerate() {
        let factors: Vec<f64> = drawn
            .iter()
            .flatten()
            .map(|op| index_and_value(&**op))
            .filter(|indexed| indexed.0 == number)
            .map(|indexed| indexed.1)
            .collect();
        assert_eq!(factors.len(), drawn.len());
        assert_distribution(&format!("color_jitter.{name}"), &factors);
    }
    let order = |ops: &ImageOps| ops.iter().map(|op| index_and_value(&**op).0.to_string()).collect();
    assert_frequencies("color_jitter.order", drawn.iter().map(order));
}

#[test]
fn a_factor_that_is_left_out_is_not_drawn() {
    let drawn = draw_ops(serde_json::json!({ "color_jitter": { "hue": 0.1 } }));
    assert!(drawn.iter().all(|ops| only_op::<Hue>(ops).0.abs() <= 0.1));
}

// effect: augment.gaussian_blur.sigma
#[test]
fn blur_is_distributed_as_in_torchvision() {
    let drawn = draw_ops(serde_json::json!({ "gaussian_blur": { "kernel_size": 3 } }));
    let blurs: Vec<&Blur> = drawn.iter().map(only_op).collect();
    assert!(blurs.iter().all(|blur| blur.kernel_size == [3, 3]));
    let sigmas: Vec<f64> = blurs.iter().map(|blur| blur.sigma).collect();
    assert_distribution("gaussian_blur.sigma", &sigmas);
}

// effect: augment.erasing.scale, augment.erasing.ratio
#[test]
fn erased_rectangles_are_distributed_as_in_torchvision() {
    for (name, table) in [
        ("erasing", serde_json::json!({ "p": 1, "scale": [0.3, 1] })),
        ("erasing.wide", serde_json::json!({ "p": 1, "scale": [0.05, 0.2], "ratio": [0.3, 0.5] })),
    ] {
        let drawn = draw_ops(serde_json::json!({ "erasing": table }));
        if name == "erasing" {
            let found = |ops: &ImageOps| if ops.is_empty() { "no" } else { "yes" }.to_owned();
            assert_frequencies("erasing.found", drawn.iter().map(found));
        }
        let areas: Vec<_> = drawn.iter().flatten().map(|op| downcast::<Erase>(&**op).unwrap().area).collect();
        let spread = |side: &str, values: Vec<u32>| {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            assert_distribution(&format!("{name}.{side}"), &values);
        };
        spread("top", areas.iter().map(|area| area.top).collect());
        spread("left", areas.iter().map(|area| area.left).collect());
        spread("height", areas.iter().map(|area| area.height).collect());
        spread("width", areas.iter().map(|area| area.width).collect());
    }
}

// effect: augment.invert, augment.vertical_flip, augment.perspective.p, augment.grayscale
// effect: augment.gaussian_blur.p
// effect: augment.sharpness.p, augment.posterize.p, augment.solarize.p, augment.equalize
// effect: augment.autocontrast
// effect: augment.erasing.p
#[test]
fn a_step_happens_as_often_as_its_probability_says() {
    let inverted = draw_ops(serde_json::json!({ "invert": 0.3 }));
    let occurred = |ops: &ImageOps| if ops.is_empty() { "no" } else { "yes" }.to_owned();
    assert_frequencies("invert", inverted.iter().map(occurred));
    for settings in [
        serde_json::json!({ "vertical_flip": 0.3 }),
        serde_json::json!({ "perspective": { "p": 0.3 } }),
        serde_json::json!({ "grayscale": 0.3 }),
        serde_json::json!({ "gaussian_blur": { "kernel_size": 3, "p": 0.3 } }),
        serde_json::json!({ "sharpness": { "factor": 2, "p": 0.3 } }),
        serde_json::json!({ "posterize": { "bits": 2, "p": 0.3 } }),
        serde_json::json!({ "solarize": { "threshold": 2, "p": 0.3 } }),
        serde_json::json!({ "equalize": 0.3 }),
        serde_json::json!({ "autocontrast": 0.3 }),
        serde_json::json!({ "erasing": { "p": 0.3 } }),
    ] {
        let drawn = draw_ops(settings);
        let share = drawn.iter().filter(|ops| !ops.is_empty()).count() as f64 / DRAWS as f64;
        // Five standard errors.
        assert!((share - 0.3).abs() < 5.0 * (0.3 * 0.7 / DRAWS as f64).sqrt(), "{share}");
    }
}
