//! What runs on the CPU, on each instruction set that is here.

use std::collections::BTreeSet;

use headstock_engine::{DType, Isa};

use super::cpu::CpuBackend;
use super::{BatchNormMode, ParameterRole, StageActivations, TrainableBackbone, TrainingBackend};
use crate::golden_gradients::{MODES, SIZES, assert_gradients_match_for_sizes, gradients};
use crate::support::StateDict;
use crate::{BackboneError, Checkpoint, FeatureLayer, formula};

/// Of `f32`, and the portable one in any case.
fn instruction_sets() -> Vec<Isa> {
    let here: Vec<Isa> =
        Isa::ALL.into_iter().filter(|isa| isa.is_present() && isa.computes(DType::F32)).collect();
    println!("on {here:?}");
    assert_eq!(here[0], Isa::Portable);
    here
}

fn load(checkpoint: &Checkpoint, from: FeatureLayer, mode: BatchNormMode, isa: Isa) -> TrainableBackbone {
    let runner = TrainingBackend::Cpu(Box::new(CpuBackend::with_isa(isa).unwrap()));
    TrainableBackbone::load_with_backend(checkpoint, from, mode, runner).unwrap()
}

// effect: tune.batch_norm
#[test]
fn gradients_and_running_statistics_are_pytorchs_on_every_instruction_set() {
    for isa in instruction_sets() {
        assert_gradients_match_for_sizes(18, &SIZES[..1], |checkpoint, mode| {
            load(checkpoint, FeatureLayer::Stem, mode, isa)
        });
    }
}

/// Sets the scale and the shift of a channel of some BatchNorms to 0: all that they give there is 0, and so is what a ReLU gives.
fn with_silent_channel(norms: &[&str], channel: usize) -> Checkpoint {
    let mut state = StateDict::from_formula("resnet18").without_classifier();
    for norm in norms {
        for leaf in ["weight", "bias"] {
            let bytes = &mut state.0.get_mut(&format!("{norm}.{leaf}")).unwrap().2;
            bytes[4 * channel..][..4].fill(0);
        }
    }
    state.to_dir().open().unwrap()
}

/// PyTorch's derivative of a ReLU at 0 is 0. A channel that is 0 everywhere has no derivative by what made it.
#[test]
fn nothing_passes_a_relu_that_gave_exactly_0_on_any_instruction_set() {
    const CHANNEL: usize = 5;
    // After a block's first convolution; at a block's end, where nothing but 0 is added; and at the network's.
    let inside = ["layer4.0.bn1"];
    let end = ["layer4.0.bn2", "layer4.0.downsample.1", "layer4.1.bn2"];
    let [photos, height, width, channels] = [2, 4, 5, 256];
    let values: Vec<f32> = formula::uniform("activations")
        .take(photos * height * width * channels)
        .map(|x| x.max(0.0))
        .collect();
    let input = StageActivations { values: &values, images: photos, height, width, channels };
    for (norms, silent) in [
        (&inside[..], &["layer4.0.conv1", "layer4.0.bn1"][..]),
        (
            &end[..],
            &[
                "layer4.0.conv2",
                "layer4.0.bn2",
                "layer4.0.downsample.0",
                "layer4.0.downsample.1",
                "layer4.1.conv2",
                "layer4.1.bn2",
            ],
        ),
    ] {
        let checkpoint = with_silent_channel(norms, CHANNEL);
        for isa in instruction_sets() {
            for (mode, name) in MODES {
                let mut network = load(&checkpoint, FeatureLayer::Layer4, mode, isa);
                let features = network.forward_training(input).unwrap();
                let is_silent = norms.contains(&"layer4.1.bn2");
                assert_eq!(features[CHANNEL] == 0.0, is_silent);
                let found = gradients(&mut network, features.len());
                for (parameter, gradient) in &found {
                    let outputs = if parameter.contains(".conv") || parameter.contains("downsample.0") {
                        gradient.len() / 512
                    } else {
                        1
                    };
                    let of_channel = &gradient[CHANNEL * outputs..][..outputs];
                    let others = gradient.iter().filter(|g| **g != 0.0).count();
                    let made = silent
                        .iter()
                        .any(|unit| parameter.strip_prefix(unit).is_some_and(|leaf| leaf.starts_with('.')));
                    let what = format!("{parameter}, {name} on {isa}");
                    assert_eq!(of_channel.iter().all(|g| *g == 0.0), made, "{what}");
                    assert!(2 * others > gradient.len(), "{what}: {others} of {}", gradient.len());
                }
            }
        }
    }
}

/// Going by the batch's statistics, a channel that a photo's features go by is the same whatever constant its weights are times;
/// going by the checkpoint's, it is not.
// effect: tune.batch_norm
#[test]
fn batch_norm_goes_by_the_batch_in_training_alone_and_by_the_running_statistics_elsewhere() {
    let checkpoint = StateDict::from_formula("resnet18")
        .without_classifier()
        .with_damped_residuals()
        .to_dir()
        .open()
        .unwrap();
    let [photos, height, width, channels] = [3, 3, 2, 256];
    let values: Vec<f32> = formula::uniform("activations")
        .take(photos * height * width * channels)
        .map(|x| x.max(0.0))
        .collect();
    let input = StageActivations { values: &values, images: photos, height, width, channels };
    let step = |mode, factor: f32| {
        let mut network = load(&checkpoint, FeatureLayer::Layer4, mode, Isa::Portable);
        for slot in network.parameters_mut().filter(|slot| slot.parameter.role == ParameterRole::ConvWeight) {
            slot.values.iter_mut().for_each(|value| *value *= factor);
        }
        let before = network.forward(input).unwrap();
        let during = network.forward_training(input).unwrap();
        let after = network.forward(input).unwrap();
        let statistics: Vec<Vec<f32>> = network
            .state_dict_mut()
            .filter(|(name, _)| name.contains(".running_"))
            .map(|(_, values)| values.to_vec())
            .collect();
        (before, during, after, statistics)
    };
    let gap = |a: &[f32], b: &[f32]| {
        let largest = b.iter().fold(0f32, |top, x| top.max(x.abs()));
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
    };
    let (plain, fourfold) = (step(BatchNormMode::Train, 1.0), step(BatchNormMode::Train, 4.0));
    assert!(gap(&fourfold.1, &plain.1) < 1e-3, "{}", gap(&fourfold.1, &plain.1));
    assert!(gap(&fourfold.0, &plain.0) > 0.5, "{}", gap(&fourfold.0, &plain.0));
    assert!(plain.0 != plain.2, "the running statistics have followed");
    let (plain, fourfold) = (step(BatchNormMode::Frozen, 1.0), step(BatchNormMode::Frozen, 4.0));
    assert!(gap(&fourfold.1, &plain.1) > 0.5);
    assert!(plain.0 == plain.1 && plain.1 == plain.2 && plain.3 == fourfold.3);
}

#[test]
fn parameters_are_those_of_each_stage_in_the_order_in_which_they_run() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let network = load(&checkpoint, FeatureLayer::Stem, BatchNormMode::Frozen, Isa::Portable);
    let stages: Vec<FeatureLayer> = network.parameters().iter().map(|parameter| parameter.stage).collect();
    assert!(stages.is_sorted());
    for (stage, prefix, count) in [
        (FeatureLayer::Stem, &["conv1.", "bn1."][..], 3),
        (FeatureLayer::Layer1, &["layer1."], 12),
        (FeatureLayer::Layer2, &["layer2."], 15),
        (FeatureLayer::Layer3, &["layer3."], 15),
        (FeatureLayer::Layer4, &["layer4."], 15),
    ] {
        let of_stage: Vec<_> =
            network.parameters().iter().filter(|parameter| parameter.stage == stage).collect();
        assert_eq!(of_stage.len(), count, "{stage}");
        for parameter in of_stage {
            assert!(prefix.iter().any(|prefix| parameter.name.starts_with(prefix)), "{parameter:?}");
            let is_weight = parameter.name.contains("conv") || parameter.name.contains("downsample.0");
            assert_eq!(
                parameter.role,
                if is_weight { ParameterRole::ConvWeight } else { ParameterRole::BatchNorm },
                "{parameter:?}"
            );
            assert_eq!(parameter.shape.len(), if is_weight { 4 } else { 1 }, "{parameter:?}");
        }
    }
    let first: Vec<&str> =
        network.parameters()[..6].iter().map(|parameter| parameter.name.as_str()).collect();
    let expected = [
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        "layer1.0.conv1.weight",
        "layer1.0.bn1.weight",
        "layer1.0.bn1.bias",
    ];
    assert_eq!(first, expected);
    // `[K, K, C, O]`
    assert_eq!(network.parameters()[0].shape, [7, 7, 3, 64]);
}

#[test]
fn a_network_from_a_layer_on_takes_the_channels_of_the_layer_before() {
    for (architecture, channels) in
        [("resnet18", [3, 64, 64, 128, 256, 512]), ("resnet50", [3, 64, 256, 512, 1024, 2048])]
    {
        let checkpoint = StateDict::from_formula(architecture).without_classifier().to_dir().open().unwrap();
        for (from, channels) in
            FeatureLayer::ALL.into_iter().zip(channels).skip(if architecture == "resnet18" { 0 } else { 4 })
        {
            let mut network = load(&checkpoint, from, BatchNormMode::Frozen, Isa::Portable);
            assert_eq!(network.n_features(), FeatureLayer::Avgpool.channels(checkpoint.architecture()));
            let values = vec![0.5; 2 * 8 * 8 * channels];
            let input = StageActivations { values: &values, images: 2, height: 8, width: 8, channels };
            let features = network.forward(input).unwrap();
            assert_eq!(features.len(), 2 * network.n_features(), "{from}");
            let wrong = StageActivations { height: 4, channels: 2 * channels, ..input };
            let error = network.forward(wrong).unwrap_err();
            let expected = format!(
                "{} values of shape [2, 4, 8, {}] do not go into `{from}`, which takes [N, H, W, {channels}] with a \
                 value at least",
                values.len(),
                2 * channels
            );
            assert_eq!(error.to_string(), expected);
            if from == FeatureLayer::Avgpool {
                assert!(
                    network.parameters().is_empty() && features.iter().all(|mean| (mean - 0.5).abs() < 1e-6)
                );
            }
        }
    }
}

/// What is written down for a way back is dropped when other stages are trained, and by another step forward.
#[test]
fn the_way_back_is_that_of_the_last_step_of_the_stages_that_are_trained() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let values = vec![0.5; 2 * 3 * 3 * 128];
    let input = |photos: usize| StageActivations {
        values: &values[..photos * 9 * 128],
        images: photos,
        height: 3,
        width: 3,
        channels: 128,
    };
    let mut network = load(&checkpoint, FeatureLayer::Layer3, BatchNormMode::Frozen, Isa::Portable);
    network.forward_training(input(2)).unwrap();
    network.set_trainable_from(FeatureLayer::Layer4);
    let error = network.backward(&[1.0; 1024]).unwrap_err();
    assert!(matches!(error, BackboneError::GradientLength { expected: 0, found: 1024 }), "{error}");
    network.forward_training(input(2)).unwrap();
    network.forward_training(input(1)).unwrap();
    let error = network.backward(&[1.0; 1024]).unwrap_err();
    assert!(matches!(error, BackboneError::GradientLength { expected: 512, found: 1024 }), "{error}");
    network.backward(&[1.0; 512]).unwrap();
    let stages: BTreeSet<FeatureLayer> = network.parameters_mut().map(|slot| slot.parameter.stage).collect();
    assert_eq!(stages, BTreeSet::from([FeatureLayer::Layer4]));
    // A stage that is not loaded cannot be trained.
    network.set_trainable_from(FeatureLayer::Stem);
    let stages: BTreeSet<FeatureLayer> = network.parameters_mut().map(|slot| slot.parameter.stage).collect();
    assert_eq!(stages, BTreeSet::from([FeatureLayer::Layer3, FeatureLayer::Layer4]));
    network.set_trainable_from(FeatureLayer::Avgpool);
    assert_eq!(network.parameters_mut().count(), 0);
    assert_eq!(network.forward_training(input(1)).unwrap().len(), 512);
}

/// A step that fails moves nothing: not the statistics of the units before the one that failed.
#[test]
fn a_step_that_fails_leaves_the_running_statistics_as_they_are() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let mut network = load(&checkpoint, FeatureLayer::Layer3, BatchNormMode::Train, Isa::Portable);
    let before: Vec<Vec<f32>> = network.state_dict_mut().map(|(_, values)| values.to_vec()).collect();
    // Layer 3 sees four positions, layer 4 one.
    let values = vec![0.5; 4 * 4 * 128];
    let input = StageActivations { values: &values, images: 1, height: 4, width: 4, channels: 128 };
    let error = network.forward_training(input).unwrap_err();
    let expected = "layer4.0.downsample.1: one value of each channel has no variance; train with more photos at a time, or \
                    with `batch_norm = \"frozen\"`";
    assert_eq!(error.to_string(), expected);
    let after: Vec<Vec<f32>> = network.state_dict_mut().map(|(_, values)| values.to_vec()).collect();
    assert_eq!(before, after);
}
