use serde_json::Value;

use super::aug_mix::AugMixDraw;
use super::*;
use crate::augment::tests::oracle::{self, assert_distribution, assert_frequencies};
use crate::augment::tests::test_hash;
use crate::augment::view_rng::step_rng;
use crate::golden::{self, pixel_difference};
use crate::transform::ImageOp;

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// A chain of operations, written as `[[name, magnitude], ...]`.
fn chain(value: &Value) -> Vec<DrawnOp> {
    let drawn: Vec<(PolicyOp, f64)> = read(value);
    drawn.into_iter().map(|(operation, magnitude)| DrawnOp { operation, magnitude }).collect()
}

#[test]
fn scales_match_torchvision() {
    for case in oracle::cases()["scale"].as_array().unwrap() {
        let steps: Vec<f64> = read(&case["steps"]);
        let (operation, size, bins) =
            (read::<PolicyOp>(&case["name"]), read(&case["size"]), steps.len() as u32);
        assert_eq!(operation.is_signed(), case["signed"], "{operation:?}");
        let scale = match case["scale"].as_str().unwrap() {
            "searched" => MagnitudeScale::for_rand_augment(size, bins),
            "wide" => MagnitudeScale::for_trivial_augment(bins),
            _ => MagnitudeScale::for_aug_mix(size, bins),
        };
        for (bin, step) in (0..).zip(steps) {
            let ours = scale.magnitude(operation, bin);
            assert_eq!(ours, step, "{case} {bin}");
        }
    }
}

#[test]
fn policy_operations_match_torchvision() {
    let (cases, results) = (oracle::cases(), golden::images("augment/results.safetensors"));
    for case in cases["policy_op"].as_array().unwrap() {
        let (operation, magnitude) = (read::<PolicyOp>(&case["name"]), read(&case["magnitude"]));
        let image = oracle::image(case);
        let on_tensors = case["on"] == "tensor";
        let ours = if on_tensors {
            tensor::apply(image, operation, magnitude)
        } else {
            match operation.to_image_op(magnitude, read(&case["interpolation"])) {
                Some(op) => op.apply(image),
                None => image,
            }
        };
        let difference = pixel_difference(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(
            difference.max <= u8::from(on_tensors) && difference.equal_fraction >= 0.99,
            "{case}: {difference:?}"
        );
    }
}

#[test]
fn policies_with_given_draws_match_torchvision() {
    let (cases, results) = (oracle::cases(), golden::images("augment/results.safetensors"));
    for case in cases["policy"].as_array().unwrap() {
        let image = oracle::image(case);
        let is_aug_mix = case["policy"] == "aug-mix";
        let ours = if is_aug_mix {
            let chains: Vec<(f32, Value)> = read(&case["chains"]);
            let chains = chains.into_iter().map(|(weight, drawn)| (weight, chain(&drawn))).collect();
            AugMixDraw { original_weight: read(&case["original"]), chains }.apply(image)
        } else {
            let interpolation = read(&case["interpolation"]);
            let ops = chain(&case["chain"])
                .into_iter()
                .filter_map(|drawn| drawn.operation.to_image_op(drawn.magnitude, interpolation));
            ops.fold(image, |image, op| op.apply(image))
        };
        let difference = pixel_difference(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(
            difference.max <= u8::from(is_aug_mix) && difference.equal_fraction >= 0.99,
            "{case}: {difference:?}"
        );
    }
}

const DRAWS: u64 = 20_000;

/// The results of `draw` for [`DRAWS`] images.
fn draw_many<T>(draw: impl Fn(&mut KeyedRng) -> T) -> Vec<T> {
    (0..DRAWS).map(|number| draw(&mut step_rng(0, 1, &test_hash(number), "policy"))).collect()
}

/// The names and magnitudes of a chain, as `reference/augment/make.py` writes them.
fn describe(chain: &[DrawnOp]) -> String {
    let names: Vec<String> =
        chain.iter().map(|drawn| format!("{:?} {:.4}", drawn.operation, drawn.magnitude)).collect();
    names.join(" ")
}

const VIEW: (u32, u32) = (40, 30);

// effect: augment.policy.rand-augment.magnitude, augment.policy.rand-augment.num_magnitude_bins
// effect: augment.policy.trivial-augment-wide.num_magnitude_bins
#[test]
fn operations_magnitudes_and_signs_are_distributed_as_in_torchvision() {
    let one_op = RandAugment { num_ops: 1, ..RandAugment::default() };
    assert_frequencies("rand-augment", draw_many(|random| describe(&one_op.draw(VIEW, random))));
    let five_bins = TrivialAugmentWide { num_magnitude_bins: 5, ..TrivialAugmentWide::default() };
    assert_frequencies("trivial-augment-wide", draw_many(|random| describe(&[five_bins.draw(random)])));
    let weak = RandAugment { num_ops: 1, magnitude: 3, num_magnitude_bins: 11, ..RandAugment::default() };
    assert_frequencies("rand-augment.weak", draw_many(|random| describe(&weak.draw(VIEW, random))));
    let auto_augment = AutoAugment::default();
    assert_frequencies("auto-augment", draw_many(|random| describe(&auto_augment.draw(VIEW, random))));
}

// effect: augment.policy.aug-mix.alpha, augment.policy.aug-mix.severity, augment.policy.aug-mix.chain_depth
// effect: augment.policy.aug-mix.all_ops, augment.policy.aug-mix.mixture_width
#[test]
fn aug_mix_draws_are_distributed_as_in_torchvision() {
    let mix = AugMix { alpha: 0.7, ..AugMix::default() };
    let mixes = draw_many(|random| mix.draw(VIEW, random));
    let spread = |name: &str, weight: &dyn Fn(&AugMixDraw) -> f32| {
        assert_distribution(name, &mixes.iter().map(|mix| weight(mix).into()).collect::<Vec<f64>>());
    };
    spread("aug-mix.photo", &|mix| mix.original_weight);
    spread("aug-mix.first", &|mix| mix.chains[0].0);
    assert_frequencies("aug-mix.depth", mixes.iter().map(|mix| mix.chains[1].1.len().to_string()));
    assert_frequencies("aug-mix", mixes.iter().map(|mix| describe(&mix.chains[2].1[..1])));
    let strong =
        AugMix { severity: 7, mixture_width: 1, chain_depth: 1, all_ops: false, ..AugMix::default() };
    let only_chain = |mix: AugMixDraw| match &mix.chains[..] {
        [(_, chain)] if chain.len() == 1 => describe(chain),
        chains => panic!("{chains:?}"),
    };
    assert_frequencies("aug-mix.strong", draw_many(|random| only_chain(strong.draw(VIEW, random))));
    assert!(mixes.iter().all(|mix| {
        let sum: f32 = mix.original_weight + mix.chains.iter().map(|chain| chain.0).sum::<f32>();
        (sum - 1.0).abs() < 1e-5
    }));
}

// effect: augment.policy.rand-augment.num_ops, augment.policy.aug-mix.severity
// effect: augment.policy.aug-mix.mixture_width
// effect: augment.policy.aug-mix.chain_depth, augment.policy.aug-mix.all_ops
#[test]
fn policies_respect_their_settings() {
    let four = RandAugment { num_ops: 4, magnitude: 3, ..RandAugment::default() };
    assert!(draw_many(|random| four.draw(VIEW, random)).iter().all(|chain| chain.len() == 4));
    let mix = AugMix { severity: 1, mixture_width: 5, chain_depth: 2, all_ops: false, ..AugMix::default() };
    for mix in draw_many(|random| mix.draw(VIEW, random)) {
        assert_eq!(mix.chains.len(), 5);
        for drawn in mix.chains.iter().flat_map(|chain| &chain.1) {
            let color = [PolicyOp::Brightness, PolicyOp::Color, PolicyOp::Contrast, PolicyOp::Sharpness];
            assert!(!color.contains(&drawn.operation));
            assert_eq!(drawn.magnitude, MagnitudeScale::for_aug_mix(VIEW, 10).magnitude(drawn.operation, 0));
        }
        assert!(mix.chains.iter().all(|chain| chain.1.len() == 2));
    }
}
