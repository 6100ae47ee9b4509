//! What each step draws, the order of the steps, and their independence.

use serde_json::{Value, json};

use super::{VIEW_SIZE, all_steps, downcast, only_op, test_hash, texts};
use crate::augment::affine::Affine;
use crate::augment::color_jitter::Brightness;
use crate::augment::erasing::{Erase, EraseFill};
use crate::augment::perspective::Perspective;
use crate::augment::rotation::Rotate;
use crate::augment::{Augment, DrawnParameters, ImageOps};
use crate::render::{EvalTransform, RenderSpec};
use crate::transform::Resampling;

/// Valid settings from JSON.
fn parse(settings: Value) -> Augment {
    let augment: Augment = serde_json::from_value(settings).unwrap();
    augment.check().unwrap();
    augment
}

/// The operations on view 1 of each of `count` images.
fn draw_ops(settings: Value, count: u64) -> Vec<ImageOps> {
    let augment = parse(settings);
    (0..count).map(|number| augment.draw((61, 47), (40, 30), 1, &test_hash(number)).ops).collect()
}

/// All steps with probability `p`, each with an operation that no other step has.
fn all_steps_with(p: f64) -> Value {
    json!({
        "horizontal_flip": p,
        "vertical_flip": p,
        "policy": { "kind": "aug-mix" },
        "rotation": 30,
        "affine": { "degrees": 10 },
        "perspective": { "p": p },
        "color_jitter": { "brightness": 0.4 },
        "grayscale": p,
        "gaussian_blur": { "kernel_size": [3, 5], "p": p },
        "sharpness": { "factor": 2, "p": p },
        "posterize": { "bits": 3, "p": p },
        "solarize": { "threshold": 100, "p": p },
        "equalize": p,
        "autocontrast": p,
        "invert": p,
        "erasing": { "p": p },
    })
}

// effect: augment.horizontal_flip, augment.vertical_flip, augment.policy.kind, augment.rotation
// effect: augment.grayscale
// effect: augment.equalize, augment.autocontrast, augment.invert
// effect: augment.sharpness.factor, augment.posterize.bits, augment.solarize.threshold
// effect: augment.gaussian_blur.kernel_size
#[test]
fn steps_follow_the_documented_order() {
    for ops in draw_ops(all_steps_with(1.0), 50) {
        let expected = [
            "FlipHorizontal",
            "FlipVertical",
            "AugMixDraw",
            "Rotate",
            "Affine",
            "Perspective",
            "Brightness",
            "Grayscale",
            // Width, then height.
            "Blur { kernel_size: [3, 5], ",
            "Sharpness(2.0)",
            "Posterize { bits: 3 }",
            "Solarize { threshold: 100.0 }",
            "Equalize",
            "Autocontrast",
            "Invert",
            // Does nothing if no rectangle fits in ten draws.
            "Erase",
        ];
        let texts = texts(&ops);
        assert!(texts.iter().zip(expected).all(|(text, start)| text.starts_with(start)), "{texts:?}");
        assert!([15, 16].contains(&texts.len()), "{texts:?}");
        assert_eq!(downcast::<Rotate>(&*ops[3]).unwrap().interpolation, Resampling::Nearest);
    }
}

// effect: augment.perspective.p, augment.gaussian_blur.p, augment.sharpness.p, augment.posterize.p
// effect: augment.solarize.p
// effect: augment.erasing.p, augment.horizontal_flip, augment.vertical_flip, augment.grayscale
// effect: augment.equalize
// effect: augment.autocontrast, augment.invert
#[test]
fn steps_of_probability_zero_never_happen() {
    for ops in draw_ops(all_steps_with(0.0), 50) {
        let names = ["AugMixDraw", "Rotate", "Affine", "Brightness"];
        let texts = texts(&ops);
        let is_expected =
            texts.len() == 4 && texts.iter().zip(names).all(|(text, name)| text.starts_with(name));
        assert!(is_expected, "{texts:?}");
    }
}

/// The operations of all steps but the policy.
const STEPS: [&str; 15] = [
    "FlipHorizontal",
    "FlipVertical",
    "Rotate",
    "Affine",
    "Perspective",
    "Brightness",
    "Grayscale",
    "Blur",
    "Sharpness",
    "Posterize",
    "Solarize",
    "Equalize",
    "Autocontrast",
    "Invert",
    "Erase",
];

/// For each step, whether it happens to a view; for a step that always happens, whether its parameter is
/// positive.
fn step_outcomes(augment: &Augment, seed: u64, view_index: u64, image: u64) -> [bool; 15] {
    let augment = Augment { seed, ..augment.clone() };
    let mut outcomes = [false; 15];
    for op in augment.draw((61, 47), (40, 30), view_index, &test_hash(image)).ops {
        let text = format!("{op:?}");
        let Some(step) = STEPS.iter().position(|name| text.starts_with(name)) else { continue };
        outcomes[step] = if let Some(rotate) = downcast::<Rotate>(&*op) {
            rotate.degrees > 0.0
        } else if let Some(affine) = downcast::<Affine>(&*op) {
            affine.map.degrees > 0.0
        } else if let Some(&Brightness(factor)) = downcast(&*op) {
            factor > 1.0
        } else {
            true
        };
    }
    outcomes
}

const TRIES: u64 = 4000;

/// Checks that two events of probability 1/2 happened together in about 1/4 of [`TRIES`] (five standard
/// deviations).
fn assert_independent(both: usize, what: &str) {
    let deviation = (TRIES as f64 * 0.25 * 0.75).sqrt();
    let expected = TRIES as f64 / 4.0;
    assert!((both as f64 - expected).abs() < 5.0 * deviation, "{what}: {both} times, not about {expected}");
}

#[test]
fn steps_are_independent_of_each_other() {
    let augment = parse(all_steps_with(0.5));
    let outcomes: Vec<[bool; 15]> = (0..TRIES).map(|image| step_outcomes(&augment, 0, 1, image)).collect();
    for a in 0..15 {
        for b in 0..a {
            let both = outcomes.iter().filter(|outcome| outcome[a] && outcome[b]).count();
            assert_independent(both, &format!("steps {b} and {a}"));
        }
    }
}

// effect: augment.seed
#[test]
fn steps_are_independent_across_views_seeds_epochs_and_images() {
    let augment = parse(all_steps_with(0.5));
    let first: Vec<[bool; 15]> = (0..TRIES).map(|image| step_outcomes(&augment, 0, 1, image)).collect();
    let epoch = 1 << 32;
    type OutcomesOf<'a> = &'a dyn Fn(u64) -> [bool; 15];
    let others: [(&str, OutcomesOf<'_>); 4] = [
        ("view", &|image| step_outcomes(&augment, 0, 2, image)),
        ("seed", &|image| step_outcomes(&augment, 1, 1, image)),
        ("epoch", &|image| step_outcomes(&augment, 0, epoch + 1, image)),
        ("image", &|image| step_outcomes(&augment, 0, 1, image + TRIES)),
    ];
    for (what, draw_other) in others {
        let other: Vec<[bool; 15]> = (0..TRIES).map(draw_other).collect();
        for step in 0..15 {
            let both = first.iter().zip(&other).filter(|(a, b)| a[step] && b[step]).count();
            assert_independent(both, &format!("step {step} of a different {what}"));
        }
    }
}

#[test]
fn every_byte_of_the_image_hash_counts() {
    let augment = parse(all_steps_with(0.5));
    let draw = |key: &[u8; 32]| texts(&augment.draw((61, 47), (40, 30), 1, key).ops);
    let expected = draw(&[7; 32]);
    for byte in 0..32 {
        let mut image_hash = [7; 32];
        image_hash[byte] ^= 1;
        assert_ne!(draw(&image_hash), expected, "byte {byte}");
    }
}

// effect: augment.seed
#[test]
fn views_and_epoch_views_use_their_arguments() {
    let augment = Augment { seed: 3, ..all_steps() };
    let (size, hash) = ((61, 47), test_hash(9));
    let (width, height) = VIEW_SIZE;
    let eval =
        EvalTransform { resize: 64.into(), crop: (height, width), interpolation: Resampling::Bilinear };
    let draw = |view_index| {
        let DrawnParameters { crop, ops } = augment.draw(size, VIEW_SIZE, view_index, &hash);
        format!("{:?}", RenderSpec { eval, crop, ops })
    };
    let draw_view = |view| format!("{:?}", RenderSpec::augmented(&augment, &eval, size, view, &hash));
    assert_eq!(draw_view(2), draw(2));
    // Epochs are numbered after the largest view index.
    let last = u64::from(u32::MAX);
    assert_eq!(draw_view(u32::MAX), draw(last));
    let epoch_view = RenderSpec::augmented_in_epoch(&augment, &eval, size, 0, &hash);
    assert_eq!(format!("{epoch_view:?}"), draw(last + 1));
}

// effect: augment.affine.degrees, augment.affine.translate, augment.affine.scale, augment.affine.shear
#[test]
fn degenerate_ranges_fix_the_affine_map() {
    let table = json!({
        "degrees": [12, 12], "translate": [0, 0], "scale": [1.5, 1.5], "shear": [3, 3, -4, -4]
    });
    for ops in draw_ops(json!({ "affine": table }), 20) {
        let &Affine { map, interpolation } = only_op(&ops);
        assert_eq!(interpolation, Resampling::Nearest);
        assert_eq!((map.degrees, map.translate, map.scale, map.shear), (12.0, [0.0, 0.0], 1.5, [3.0, -4.0]));
        assert_eq!(map.center, None);
    }
    // One or two numbers shear only horizontally.
    for ops in draw_ops(json!({ "affine": { "degrees": 0, "shear": [5, 5] } }), 20) {
        let map = only_op::<Affine>(&ops).map;
        assert_eq!((map.degrees, map.translate, map.scale, map.shear), (0.0, [0.0, 0.0], 1.0, [5.0, 0.0]));
    }
}

// effect: augment.affine.translate
#[test]
fn translation_is_at_most_its_fraction_of_the_size() {
    let moved = draw_ops(json!({ "affine": { "degrees": 0, "translate": [0.25, 0.1] } }), 2000);
    let max_translation = |axis: usize| {
        let along = moved.iter().map(|ops| only_op::<Affine>(ops).map.translate[axis].abs());
        along.fold(0.0, f64::max)
    };
    // The view is 40 x 30.
    assert_eq!((max_translation(0), max_translation(1)), (10.0, 3.0));
}

// effect: augment.affine.interpolation, augment.perspective.interpolation
// effect: augment.policy.rand-augment.interpolation
// effect: augment.policy.trivial-augment-wide.interpolation, augment.policy.auto-augment.interpolation
#[test]
fn geometric_steps_use_their_interpolation() {
    for interpolation in [Resampling::Nearest, Resampling::Bilinear, Resampling::Bicubic] {
        for settings in [
            json!({ "affine": { "degrees": 9, "interpolation": interpolation } }),
            json!({ "perspective": { "p": 1, "interpolation": interpolation } }),
            json!({ "policy": { "kind": "rand-augment", "interpolation": interpolation } }),
            json!({ "policy": { "kind": "trivial-augment-wide", "interpolation": interpolation } }),
            json!({ "policy": { "kind": "auto-augment", "interpolation": interpolation } }),
        ] {
            let mut moved = 0;
            for op in draw_ops(settings.clone(), 500).into_iter().flatten() {
                let drawn = (downcast::<Affine>(&*op).map(|op| op.interpolation))
                    .or(downcast::<Rotate>(&*op).map(|op| op.interpolation))
                    .or(downcast::<Perspective>(&*op).map(|op| op.interpolation));
                if let Some(drawn) = drawn {
                    assert_eq!(drawn, interpolation, "{settings}");
                    moved += 1;
                }
            }
            assert!(moved >= 50, "{settings}: {moved} moved");
        }
    }
}

// effect: augment.policy.rand-augment.num_ops, augment.policy.rand-augment.magnitude
// effect: augment.policy.rand-augment.num_magnitude_bins
#[test]
fn a_policy_translates_and_rotates_by_its_magnitude() {
    // The last of 5 bins: translation by 150 / 331 of 40 or of 30, truncated; rotation by 30 degrees.
    let table = json!({ "kind": "rand-augment", "num_ops": 1, "magnitude": 4, "num_magnitude_bins": 5 });
    let (mut translated, mut rotated, mut unchanged) = ([0, 0], 0, 0);
    for ops in draw_ops(json!({ "policy": table }), 2000) {
        assert!(ops.len() <= 1, "{ops:?}");
        let Some(op) = ops.first() else {
            unchanged += 1;
            continue;
        };
        if let Some(&Rotate { degrees, .. }) = downcast(&**op) {
            assert_eq!(degrees.abs(), 30.0);
            rotated += 1;
        } else if let Some(&Affine { map, .. }) = downcast(&**op) {
            let translation = map.translate.map(f64::abs);
            translated[0] += usize::from(translation == [18.0, 0.0]);
            translated[1] += usize::from(translation == [0.0, 13.0]);
            assert!([[18.0, 0.0], [0.0, 13.0], [0.0, 0.0]].contains(&translation), "{map:?}");
        }
    }
    // Each of 14 operations is drawn equally often.
    for count in [translated[0], translated[1], rotated, unchanged] {
        assert!((90..200).contains(&count), "{translated:?} {rotated} {unchanged}");
    }
    let three = draw_ops(json!({ "policy": { "kind": "rand-augment", "num_ops": 3 } }), 200);
    assert_eq!(three.iter().map(Vec::len).max(), Some(3));
}

// effect: augment.color_jitter.brightness, augment.color_jitter.contrast, augment.color_jitter.saturation
// effect: augment.color_jitter.hue
#[test]
fn degenerate_ranges_fix_the_color_factors() {
    let table = json!({
        "brightness": [0.5, 0.5], "contrast": [2, 2], "saturation": [0.25, 0.25], "hue": [-0.1, -0.1]
    });
    for ops in draw_ops(json!({ "color_jitter": table }), 20) {
        let mut texts = texts(&ops);
        texts.sort();
        assert_eq!(texts, ["Brightness(0.5)", "Contrast(2.0)", "Hue(-0.1)", "Saturation(0.25)"]);
    }
}

// effect: augment.gaussian_blur.sigma, augment.gaussian_blur.kernel_size
#[test]
fn a_single_number_sets_kernel_size_and_sigma() {
    for ops in draw_ops(json!({ "gaussian_blur": { "kernel_size": 7, "sigma": 0.75 } }), 20) {
        assert_eq!(texts(&ops), ["Blur { kernel_size: [7, 7], sigma: 0.75 }"]);
    }
}

// effect: augment.erasing.value
#[test]
fn erasing_fills_with_the_value_or_noise() {
    let fills = |value: Value| -> Vec<EraseFill> {
        let ops = draw_ops(json!({ "erasing": { "p": 1, "scale": [0.05, 0.1], "value": value } }), 20);
        ops.iter().flatten().map(|op| downcast::<Erase>(&**op).unwrap().fill).collect()
    };
    assert_eq!(fills(json!(17)), vec![EraseFill::Color([17; 3]); 20]);
    assert_eq!(fills(json!([1, 2, 250.9])), vec![EraseFill::Color([1, 2, 250]); 20]);
    let noise: std::collections::HashSet<u64> = fills(json!("random"))
        .into_iter()
        .map(|fill| match fill {
            EraseFill::Noise(state) => state,
            EraseFill::Color(_) => panic!("{fill:?}"),
        })
        .collect();
    assert_eq!(noise.len(), 20);
}

// effect: augment.erasing.ratio, augment.erasing.scale
#[test]
fn erased_rectangles_respect_ratio_and_scale() {
    let settings = json!({ "p": 1, "scale": [0.1, 0.2], "ratio": [0.3, 0.5] });
    let mut found = 0;
    for op in draw_ops(json!({ "erasing": settings }), 500).into_iter().flatten() {
        let area = downcast::<Erase>(&*op).unwrap().area;
        // Sides are rounded to whole pixels.
        let (height, width) = (f64::from(area.height), f64::from(area.width));
        assert!((height + 0.5) / (width - 0.5) >= 0.3 && (height - 0.5) / (width + 0.5) <= 0.5, "{area:?}");
        assert!(
            (height + 0.5) * (width + 0.5) >= 120.0 && (height - 0.5) * (width - 0.5) <= 240.0,
            "{area:?}"
        );
        assert!(area.left + area.width <= 40 && area.top + area.height <= 30);
        found += 1;
    }
    assert!(found > 450, "{found}");
}

/// The text of `drawn.txt`: the draws for views 1 and 2 of an image, one line per step and view.
fn draws_as_text() -> String {
    let all = serde_json::to_value(all_steps()).unwrap();
    let mut text = String::new();
    let mut write_draws = |name: &str, settings: Value| {
        let augment = Augment { seed: 5, ..parse(settings) };
        for view in [1, 2] {
            let drawn = augment.draw((61, 47), (40, 30), view, &test_hash(11));
            let crop = drawn.crop.map_or_else(String::new, |crop| format!("{crop:?} "));
            text += &format!("{name} {view}: {crop}{:.4?}\n", drawn.ops);
        }
    };
    for (step, table) in
        all.as_object().unwrap().iter().filter(|(step, _)| !["policy", "seed"].contains(&step.as_str()))
    {
        let mut table = table.clone();
        if ["perspective", "gaussian_blur", "sharpness", "posterize", "solarize", "erasing"]
            .contains(&step.as_str())
        {
            table["p"] = json!(1);
        }
        write_draws(step, json!({ step: table }));
    }
    for kind in ["rand-augment", "trivial-augment-wide", "auto-augment", "aug-mix"] {
        write_draws(kind, json!({ "policy": { "kind": kind } }));
    }
    text
}

/// Cached features depend on these draws.
#[test]
fn draws_are_unchanged() {
    let expected = include_str!("drawn.txt");
    for (ours, expected_line) in draws_as_text().lines().zip(expected.lines()) {
        assert_eq!(ours, expected_line);
    }
    assert_eq!(draws_as_text(), expected);
}
