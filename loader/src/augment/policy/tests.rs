use serde_json::Value;

use super::*;
use crate::augment::tests::key;
use crate::augment::tests::oracle::{self, assert_choices, assert_spread};
use crate::golden::{self, apart};

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn chain(value: &Value) -> Vec<Drawn> {
    let drawn: Vec<(Operation, f64)> = read(value);
    drawn.into_iter().map(|(operation, magnitude)| Drawn { operation, magnitude }).collect()
}

#[test]
fn scales_are_torchvisions() {
    for case in oracle::cases()["scale"].as_array().unwrap() {
        let steps: Vec<f64> = read(&case["steps"]);
        let (operation, size, bins) =
            (read::<Operation>(&case["name"]), read(&case["size"]), steps.len() as u32);
        assert_eq!(operation.is_signed(), case["signed"], "{operation:?}");
        let scale = match case["scale"].as_str().unwrap() {
            "searched" => Scale::searched(size, bins),
            "wide" => Scale::wide(bins),
            _ => Scale::mixed(size, bins),
        };
        for (bin, step) in (0..).zip(steps) {
            let ours = scale.magnitude(operation, bin);
            assert_eq!(ours, step, "{case} {bin}");
        }
    }
}

#[test]
fn operations_of_policies_are_torchvisions() {
    let (cases, results) = (oracle::cases(), golden::photos("augment/results.safetensors"));
    for case in cases["policy_op"].as_array().unwrap() {
        let (operation, magnitude) = (read::<Operation>(&case["name"]), read(&case["magnitude"]));
        let photo = oracle::photo(case);
        let on_tensors = case["on"] == "tensor";
        let ours = if on_tensors {
            tensor::apply(photo, operation, magnitude)
        } else {
            match operation.op(magnitude, read(&case["interpolation"])) {
                Some(op) => op.apply(photo),
                None => photo,
            }
        };
        let apart = apart(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(apart.most <= u8::from(on_tensors) && apart.equal >= 0.99, "{case}: {apart:?}");
    }
}

#[test]
fn policies_with_given_draws_are_torchvisions() {
    let (cases, results) = (oracle::cases(), golden::photos("augment/results.safetensors"));
    for case in cases["policy"].as_array().unwrap() {
        let photo = oracle::photo(case);
        let mixes = case["policy"] == "aug-mix";
        let ours = if mixes {
            let chains: Vec<(f32, Value)> = read(&case["chains"]);
            let chains = chains.into_iter().map(|(weight, drawn)| (weight, chain(&drawn))).collect();
            Mix { photo: read(&case["original"]), chains }.apply(&photo)
        } else {
            let interpolation = read(&case["interpolation"]);
            let ops = chain(&case["chain"]).into_iter().filter_map(|drawn| drawn.op(interpolation));
            ops.fold(photo, |photo, op| op.apply(photo))
        };
        let apart = apart(&ours, &results[case["result"].as_str().unwrap()]);
        assert!(apart.most <= u8::from(mixes) && apart.equal >= 0.99, "{case}: {apart:?}");
    }
}

const DRAWS: u64 = 20_000;

/// What `draw` draws for many photos.
fn many<T>(draw: impl Fn(&mut KeyedRandom) -> T) -> Vec<T> {
    (0..DRAWS).map(|number| draw(&mut KeyedRandom::of_step(0, 1, &key(number), "policy"))).collect()
}

fn named(chain: &[Drawn]) -> String {
    let names: Vec<String> =
        chain.iter().map(|drawn| format!("{:?} {:.4}", drawn.operation, drawn.magnitude)).collect();
    names.join(" ")
}

const VIEW: (u32, u32) = (40, 30);

// effect: augment.policy.rand-augment.magnitude, augment.policy.rand-augment.num_magnitude_bins
// effect: augment.policy.trivial-augment-wide.num_magnitude_bins
#[test]
fn operations_strengths_and_signs_are_chosen_as_by_torchvision() {
    let one = RandAugment { num_ops: 1, ..RandAugment::default() };
    assert_choices("rand-augment", many(|random| named(&one.draw(VIEW, random))).into_iter());
    let five = TrivialAugmentWide { num_magnitude_bins: 5, ..TrivialAugmentWide::default() };
    assert_choices("trivial-augment-wide", many(|random| named(&[five.draw(random)])).into_iter());
    let weak = RandAugment { num_ops: 1, magnitude: 3, num_magnitude_bins: 11, ..RandAugment::default() };
    assert_choices("rand-augment.weak", many(|random| named(&weak.draw(VIEW, random))).into_iter());
    let pairs = AutoAugment::default();
    assert_choices("auto-augment", many(|random| named(&pairs.draw(VIEW, random))).into_iter());
}

// effect: augment.policy.aug-mix.alpha, augment.policy.aug-mix.severity, augment.policy.aug-mix.chain_depth
// effect: augment.policy.aug-mix.all_ops, augment.policy.aug-mix.mixture_width
#[test]
fn mixes_are_distributed_as_torchvisions() {
    let mix = AugMix { alpha: 0.7, ..AugMix::default() };
    let mixes = many(|random| mix.draw(VIEW, random));
    let spread = |name: &str, weight: &dyn Fn(&Mix) -> f32| {
        assert_spread(name, &mixes.iter().map(|mix| weight(mix).into()).collect::<Vec<f64>>());
    };
    spread("aug-mix.photo", &|mix| mix.photo);
    spread("aug-mix.first", &|mix| mix.chains[0].0);
    assert_choices("aug-mix.depth", mixes.iter().map(|mix| mix.chains[1].1.len().to_string()));
    assert_choices("aug-mix", mixes.iter().map(|mix| named(&mix.chains[2].1[..1])));
    let strong =
        AugMix { severity: 7, mixture_width: 1, chain_depth: 1, all_ops: false, ..AugMix::default() };
    let only = |mix: Mix| match &mix.chains[..] {
        [(_, chain)] if chain.len() == 1 => named(chain),
        chains => panic!("{chains:?}"),
    };
    assert_choices("aug-mix.strong", many(|random| only(strong.draw(VIEW, random))).into_iter());
    assert!(mixes.iter().all(|mix| {
        let sum: f32 = mix.photo + mix.chains.iter().map(|chain| chain.0).sum::<f32>();
        (sum - 1.0).abs() < 1e-5
    }));
}

// effect: augment.policy.rand-augment.num_ops, augment.policy.aug-mix.severity, augment.policy.aug-mix.mixture_width
// effect: augment.policy.aug-mix.chain_depth, augment.policy.aug-mix.all_ops
#[test]
fn a_policy_keeps_to_its_settings() {
    let four = RandAugment { num_ops: 4, magnitude: 3, ..RandAugment::default() };
    assert!(many(|random| four.draw(VIEW, random)).iter().all(|chain| chain.len() == 4));
    let mix = AugMix { severity: 1, mixture_width: 5, chain_depth: 2, all_ops: false, ..AugMix::default() };
    for mix in many(|random| mix.draw(VIEW, random)) {
        assert_eq!(mix.chains.len(), 5);
        for drawn in mix.chains.iter().flat_map(|chain| &chain.1) {
            let colour = [Operation::Brightness, Operation::Color, Operation::Contrast, Operation::Sharpness];
            assert!(!colour.contains(&drawn.operation));
            assert_eq!(drawn.magnitude, Scale::mixed(VIEW, 10).magnitude(drawn.operation, 0));
        }
        assert!(mix.chains.iter().all(|chain| chain.1.len() == 2));
    }
}
