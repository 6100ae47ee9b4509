//! What each step draws, in which order steps come, and that none of them depends on another.

use serde_json::{Value, json};

use super::{PLAIN, everything, key};
use crate::augment::ops::{
    Op,
    erase::{Erasure, Fill},
};
use crate::augment::{Augment, EvalTransform, Interpolation};
use crate::golden::formula_photo;

/// Of a view of 40 x 30.
const WIDE: EvalTransform = EvalTransform { crop: (30, 40), ..PLAIN };

fn read(settings: Value) -> Augment {
    let augment: Augment = serde_json::from_value(settings).unwrap();
    augment.check().unwrap();
    augment
}

/// What is done to view 1 of each of `count` photos.
fn ops(settings: Value, count: u64) -> Vec<Vec<Op>> {
    let augment = read(settings);
    (0..count).map(|number| augment.draw((61, 47), &WIDE, 1, &key(number)).ops).collect()
}

/// All steps with their probabilities, each with one operation that no other step has.
fn all_with(p: f64) -> Value {
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
// effect: augment.sharpness.factor, augment.posterize.bits, augment.solarize.threshold, augment.gaussian_blur.kernel_size
#[test]
fn steps_come_in_the_order_of_the_page_each_as_its_key_says() {
    for ops in ops(all_with(1.0), 50) {
        let [
            Op::FlipHorizontal,
            Op::FlipVertical,
            Op::Mix(_),
            Op::Rotate { interpolation: Interpolation::Nearest, .. },
            Op::Affine { .. },
            Op::Perspective { .. },
            Op::Brightness(_),
            Op::Grayscale,
            // Across, then down.
            Op::GaussianBlur { kernel: [3, 5], .. },
            Op::Sharpness(2.0),
            Op::Posterize { bits: 3 },
            Op::Solarize { threshold: 100.0 },
            Op::Equalize,
            Op::Autocontrast,
            Op::Invert,
            // No rectangle that fits was found in ten draws.
            ref rest @ ..,
        ] = ops[..]
        else {
            panic!("{ops:?}");
        };
        assert!(matches!(rest, [Op::Erase(_)] | []), "{rest:?}");
    }
}

// effect: augment.perspective.p, augment.gaussian_blur.p, augment.sharpness.p, augment.posterize.p, augment.solarize.p
// effect: augment.erasing.p, augment.horizontal_flip, augment.vertical_flip, augment.grayscale, augment.equalize
// effect: augment.autocontrast, augment.invert
#[test]
fn what_has_no_chance_never_happens() {
    for ops in ops(all_with(0.0), 50) {
        let [Op::Mix(_), Op::Rotate { .. }, Op::Affine { .. }, Op::Brightness(_)] = ops[..] else {
            panic!("{ops:?}");
        };
    }
}

/// Which of the steps happen to a view; of those that always do, whether they go one way or the other.
fn sides(augment: &Augment, seed: u64, rendering: u64, photo: u64) -> [bool; 15] {
    let augment = Augment { seed, ..augment.clone() };
    let mut sides = [false; 15];
    for op in augment.draw((61, 47), &WIDE, rendering, &key(photo)).ops {
        let (step, side) = match op {
            Op::FlipHorizontal => (0, true),
            Op::FlipVertical => (1, true),
            Op::Rotate { degrees, .. } => (2, degrees > 0.0),
            Op::Affine { map, .. } => (3, map.degrees > 0.0),
            Op::Perspective { .. } => (4, true),
            Op::Brightness(factor) => (5, factor > 1.0),
            Op::Grayscale => (6, true),
            Op::GaussianBlur { .. } => (7, true),
            Op::Sharpness(_) => (8, true),
            Op::Posterize { .. } => (9, true),
            Op::Solarize { .. } => (10, true),
            Op::Equalize => (11, true),
            Op::Autocontrast => (12, true),
            Op::Invert => (13, true),
            Op::Erase(_) => (14, true),
            _ => continue,
        };
        sides[step] = side;
    }
    sides
}

const PAIRS: u64 = 4000;

/// How often both of two things that have a chance of a half each may happen in [`PAIRS`] tries: five deviations.
fn assert_independent(both: usize, what: &str) {
    let deviation = (PAIRS as f64 * 0.25 * 0.75).sqrt();
    let expected = PAIRS as f64 / 4.0;
    assert!((both as f64 - expected).abs() < 5.0 * deviation, "{what}: {both} times, not about {expected}");
}

#[test]
fn no_step_happens_more_often_with_another() {
    let augment = read(all_with(0.5));
    let all: Vec<[bool; 15]> = (0..PAIRS).map(|photo| sides(&augment, 0, 1, photo)).collect();
    for a in 0..15 {
        for b in 0..a {
            let both = all.iter().filter(|sides| sides[a] && sides[b]).count();
            assert_independent(both, &format!("steps {b} and {a}"));
        }
    }
}

// effect: augment.seed
#[test]
fn a_step_of_one_view_seed_epoch_or_photo_tells_nothing_of_the_same_step_of_the_next() {
    let augment = read(all_with(0.5));
    let first: Vec<[bool; 15]> = (0..PAIRS).map(|photo| sides(&augment, 0, 1, photo)).collect();
    let epoch = super::super::FIRST_EPOCH;
    type Sides<'a> = &'a dyn Fn(u64) -> [bool; 15];
    let others: [(&str, Sides<'_>); 4] = [
        ("view", &|photo| sides(&augment, 0, 2, photo)),
        ("seed", &|photo| sides(&augment, 1, 1, photo)),
        ("epoch", &|photo| sides(&augment, 0, epoch + 1, photo)),
        ("photo", &|photo| sides(&augment, 0, 1, photo + PAIRS)),
    ];
    for (what, other) in others {
        let other: Vec<[bool; 15]> = (0..PAIRS).map(other).collect();
        for step in 0..15 {
            let both = first.iter().zip(&other).filter(|(a, b)| a[step] && b[step]).count();
            assert_independent(both, &format!("step {step} of another {what}"));
        }
    }
}

#[test]
fn every_byte_of_a_photos_key_counts() {
    let augment = read(all_with(0.5));
    let draw = |key: &[u8; 32]| augment.draw((61, 47), &WIDE, 1, key);
    let plain = draw(&[7; 32]);
    for byte in 0..32 {
        let mut key = [7; 32];
        key[byte] ^= 1;
        assert_ne!(draw(&key), plain, "byte {byte}");
    }
}

// effect: augment.seed
#[test]
fn a_view_and_a_fresh_one_are_drawn_from_what_was_given() {
    let augment = Augment { seed: 3, ..everything() };
    let photo = formula_photo(61, 47);
    let drawn = augment.draw((61, 47), &PLAIN, 2, &key(9));
    assert!(augment.view(&photo, &PLAIN, 2, &key(9)) == drawn.of(&photo));
    assert_eq!(augment.rendering((61, 47), &PLAIN, 2, &key(9)), drawn);
    // Epochs are numbered behind the last view that can be.
    let last = u64::from(u32::MAX);
    assert_eq!(
        augment.rendering((61, 47), &PLAIN, u32::MAX, &key(9)),
        augment.draw((61, 47), &PLAIN, last, &key(9))
    );
    let drawn = augment.draw((61, 47), &PLAIN, last + 1, &key(9));
    assert_eq!(augment.fresh_rendering((61, 47), &PLAIN, 0, &key(9)), drawn);
    assert!(augment.fresh(&photo, &PLAIN, 0, &key(9)) == drawn.of(&photo));
}

// effect: augment.affine.degrees, augment.affine.translate, augment.affine.scale, augment.affine.shear
#[test]
fn a_range_of_one_number_leaves_an_affine_map_no_choice() {
    let table = json!({
        "degrees": [12, 12], "translate": [0, 0], "scale": [1.5, 1.5], "shear": [3, 3, -4, -4]
    });
    for ops in ops(json!({ "affine": table }), 20) {
        let [Op::Affine { map, interpolation: Interpolation::Nearest }] = ops[..] else { panic!("{ops:?}") };
        assert_eq!((map.degrees, map.translate, map.scale, map.shear), (12.0, [0.0, 0.0], 1.5, [3.0, -4.0]));
        assert_eq!(map.centre, None);
    }
    // Of two numbers or one, all of it across.
    for ops in ops(json!({ "affine": { "degrees": 0, "shear": [5, 5] } }), 20) {
        let [Op::Affine { map, .. }] = ops[..] else { panic!("{ops:?}") };
        assert_eq!((map.degrees, map.translate, map.scale, map.shear), (0.0, [0.0, 0.0], 1.0, [5.0, 0.0]));
    }
}

// effect: augment.affine.translate
#[test]
fn a_move_is_at_most_its_share_of_width_and_height() {
    let moved = ops(json!({ "affine": { "degrees": 0, "translate": [0.25, 0.1] } }), 2000);
    let most = |axis: usize| {
        let along = moved.iter().map(|ops| match ops[..] {
            [Op::Affine { map, .. }] => map.translate[axis].abs(),
            _ => panic!("{ops:?}"),
        });
        along.fold(0.0, f64::max)
    };
    // Of 40 across and 30 down.
    assert_eq!((most(0), most(1)), (10.0, 3.0));
}

// effect: augment.affine.interpolation, augment.perspective.interpolation, augment.policy.rand-augment.interpolation
// effect: augment.policy.trivial-augment-wide.interpolation, augment.policy.auto-augment.interpolation
#[test]
fn what_moves_pixels_takes_its_interpolation() {
    for interpolation in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
        for settings in [
            json!({ "affine": { "degrees": 9, "interpolation": interpolation } }),
            json!({ "perspective": { "p": 1, "interpolation": interpolation } }),
            json!({ "policy": { "kind": "rand-augment", "interpolation": interpolation } }),
            json!({ "policy": { "kind": "trivial-augment-wide", "interpolation": interpolation } }),
            json!({ "policy": { "kind": "auto-augment", "interpolation": interpolation } }),
        ] {
            let mut moved = 0;
            for op in ops(settings.clone(), 500).into_iter().flatten() {
                match op {
                    Op::Affine { interpolation: taken, .. }
                    | Op::Rotate { interpolation: taken, .. }
                    | Op::Perspective { interpolation: taken, .. } => {
                        assert_eq!(taken, interpolation, "{settings}");
                        moved += 1;
                    }
                    _ => {}
                }
            }
            assert!(moved >= 50, "{settings}: {moved} moved");
        }
    }
}

// effect: augment.policy.rand-augment.num_ops, augment.policy.rand-augment.magnitude
// effect: augment.policy.rand-augment.num_magnitude_bins
#[test]
fn a_policy_moves_and_turns_a_view_by_its_step_of_the_scale() {
    // The last of 5 steps: 150 of 331 of 40 across and of 30 down, cut; 30 degrees.
    let table = json!({ "kind": "rand-augment", "num_ops": 1, "magnitude": 4, "num_magnitude_bins": 5 });
    let (mut moved, mut turned, mut none) = ([0, 0], 0, 0);
    for ops in ops(json!({ "policy": table }), 2000) {
        match ops[..] {
            [Op::Affine { map, .. }] if map.translate[0] != 0.0 => {
                assert_eq!((map.translate[0].abs(), map.translate[1]), (18.0, 0.0));
                moved[0] += 1;
            }
            [Op::Affine { map, .. }] if map.translate[1] != 0.0 => {
                assert_eq!((map.translate[0], map.translate[1].abs()), (0.0, 13.0));
                moved[1] += 1;
            }
            [Op::Rotate { degrees, .. }] => {
                assert_eq!(degrees.abs(), 30.0);
                turned += 1;
            }
            [] => none += 1,
            ref ops => assert_eq!(ops.len(), 1),
        }
    }
    // One of 14 each.
    for count in [moved[0], moved[1], turned, none] {
        assert!((90..200).contains(&count), "{moved:?} {turned} {none}");
    }
    let three = ops(json!({ "policy": { "kind": "rand-augment", "num_ops": 3 } }), 200);
    assert_eq!(three.iter().map(Vec::len).max(), Some(3));
}

// effect: augment.color_jitter.brightness, augment.color_jitter.contrast, augment.color_jitter.saturation
// effect: augment.color_jitter.hue
#[test]
fn a_range_of_one_number_leaves_colours_no_choice() {
    let table = json!({
        "brightness": [0.5, 0.5], "contrast": [2, 2], "saturation": [0.25, 0.25], "hue": [-0.1, -0.1]
    });
    for ops in ops(json!({ "color_jitter": table }), 20) {
        let wanted = [Op::Brightness(0.5), Op::Contrast(2.0), Op::Saturation(0.25), Op::Hue(-0.1)];
        assert!(ops.len() == 4 && wanted.iter().all(|op| ops.contains(op)), "{ops:?}");
    }
}

// effect: augment.gaussian_blur.sigma, augment.gaussian_blur.kernel_size
#[test]
fn one_number_is_the_kernel_both_ways_and_the_deviation_of_all() {
    for ops in ops(json!({ "gaussian_blur": { "kernel_size": 7, "sigma": 0.75 } }), 20) {
        assert_eq!(ops, [Op::GaussianBlur { kernel: [7, 7], sigma: 0.75 }]);
    }
}

// effect: augment.erasing.value
#[test]
fn what_is_erased_has_the_colour_of_the_value_or_noise_of_its_own() {
    let fills = |value: Value| -> Vec<Fill> {
        let ops = ops(json!({ "erasing": { "p": 1, "scale": [0.05, 0.1], "value": value } }), 20);
        let fills = ops.into_iter().flatten().map(|op| match op {
            Op::Erase(Erasure { fill, .. }) => fill,
            _ => panic!("{op:?}"),
        });
        fills.collect()
    };
    assert_eq!(fills(json!(17)), vec![Fill::Colour([17; 3]); 20]);
    assert_eq!(fills(json!([1, 2, 250.9])), vec![Fill::Colour([1, 2, 250]); 20]);
    let noise: std::collections::HashSet<u64> = fills(json!("random"))
        .into_iter()
        .map(|fill| match fill {
            Fill::Noise(state) => state,
            Fill::Colour(_) => panic!("{fill:?}"),
        })
        .collect();
    assert_eq!(noise.len(), 20);
}

// effect: augment.erasing.ratio, augment.erasing.scale
#[test]
fn an_erased_rectangle_is_as_high_over_wide_and_as_large_as_asked_for() {
    let wide = json!({ "p": 1, "scale": [0.1, 0.2], "ratio": [0.3, 0.5] });
    let mut found = 0;
    for op in ops(json!({ "erasing": wide }), 500).into_iter().flatten() {
        let Op::Erase(Erasure { area, .. }) = op else { panic!("{op:?}") };
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

/// The text in `drawn.txt`: what views 1 and 2 of a photo are made by, a line for each step.
fn drawn() -> String {
    let all = serde_json::to_value(everything()).unwrap();
    let mut text = String::new();
    let mut write = |name: &str, settings: Value| {
        let augment = Augment { seed: 5, ..read(settings) };
        for view in [1, 2] {
            let drawn = augment.draw((61, 47), &WIDE, view, &key(11));
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
        write(step, json!({ step: table }));
    }
    for kind in ["rand-augment", "trivial-augment-wide", "auto-augment", "aug-mix"] {
        write(kind, json!({ "policy": { "kind": kind } }));
    }
    text
}

/// Features in caches belong to these views.
#[test]
fn draws_stay_what_they_were() {
    let kept = include_str!("drawn.txt");
    for (ours, kept) in drawn().lines().zip(kept.lines()) {
        assert_eq!(ours, kept);
    }
    assert_eq!(drawn(), kept);
}
