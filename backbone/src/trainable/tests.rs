//! Tests of the CPU backend, on all instruction sets of this machine.

use std::collections::BTreeSet;

use headstock_engine::{DType, Isa};

use super::cpu::CpuBackend;
use super::{BatchNormMode, ParameterRole, StageActivations, TrainableBackbone, TrainingBackend};
use crate::golden_gradients::{MODES, SIZES, assert_gradients_match_for_sizes, gradients};
use crate::support::StateDict;
use crate::{BackboneError, Checkpoint, FeatureLayer, formula};

/// The available instruction sets for `f32`, starting with the portable one.
fn instruction_sets() -> Vec<Isa> {
    let available: Vec<Isa> =
        Isa::ALL.into_iter().filter(|isa| isa.is_present() && isa.computes(DType::F32)).collect();
    println!("on {available:?}");
    assert_eq!(available[0], Isa::Portable);
    available
}

fn load(
    checkpoint: &Checkpoint,
    first_stage: FeatureLayer,
    mode: BatchNormMode,
    isa: Isa,
) -> TrainableBackbone {
    let backend = TrainingBackend::Cpu(Box::new(CpuBackend::new(isa).unwrap()));
    TrainableBackbone::load_with_backend(checkpoint, first_stage, mode, backend).unwrap()
}

// effect: tune.batch_norm
#[test]
fn gradients_and_running_statistics_match_pytorch_on_every_instruction_set() {
    for isa in instruction_sets() {
        assert_gradients_match_for_sizes(18, &SIZES[..1], |checkpoint, mode| {
            load(checkpoint, FeatureLayer::Stem, mode, isa)
        });
    }
}

/// Sets the scale and shift of one channel of some BatchNorms to 0, which makes the output of that channel
/// exactly 0.
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

/// As in PyTorch, the gradient of a ReLU is 0 where its input is 0, so the parameters of a silent channel
/// have no gradient.
#[test]
fn no_gradient_passes_a_relu_at_exactly_0_on_any_instruction_set() {
    const CHANNEL: usize = 5;
    // After the first convolution of a block; at the end of a block, together with its shortcut; at the end
    // of the network.
    let inner_norms = ["layer4.0.bn1"];
    let end_norms = ["layer4.0.bn2", "layer4.0.downsample.1", "layer4.1.bn2"];
    let [images, height, width, channels] = [2, 4, 5, 256];
    let values: Vec<f32> = formula::uniform("activations")
        .take(images * height * width * channels)
        .map(|x| x.max(0.0))
        .collect();
    let input = StageActivations { values: &values, images, height, width, channels };
    for (norms, silent_layers) in [
        (&inner_norms[..], &["layer4.0.conv1", "layer4.0.bn1"][..]),
        (
            &end_norms[..],
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
                let has_silent_feature = norms.contains(&"layer4.1.bn2");
                assert_eq!(features[CHANNEL] == 0.0, has_silent_feature);
                let found = gradients(&mut network, features.len());
                for (parameter, gradient) in &found {
                    let per_channel = if parameter.contains(".conv") || parameter.contains("downsample.0") {
                        gradient.len() / 512
                    } else {
                        1
                    };
                    let channel_gradient = &gradient[CHANNEL * per_channel..][..per_channel];
                    let n_nonzero = gradient.iter().filter(|g| **g != 0.0).count();
                    let is_silent = silent_layers
                        .iter()
                        .any(|layer| parameter.strip_prefix(layer).is_some_and(|leaf| leaf.starts_with('.')));
                    let what = format!("{parameter}, {name} on {isa}");
                    assert_eq!(channel_gradient.iter().all(|g| *g == 0.0), is_silent, "{what}");
                    assert!(2 * n_nonzero > gradient.len(), "{what}: {n_nonzero} of {}", gradient.len());
                }
            }
        }
    }
}

/// Scaling all convolution weights does not change the features with batch statistics, but does with running
/// statistics.
// effect: tune.batch_norm
#[test]
fn batch_norm_uses_batch_statistics_only_in_training() {
    struct Step {
        features_before: Vec<f32>,
        training_features: Vec<f32>,
        features_after: Vec<f32>,
        running_stats: Vec<Vec<f32>>,
    }
    let checkpoint = StateDict::from_formula("resnet18")
        .without_classifier()
        .with_damped_residuals()
        .to_dir()
        .open()
        .unwrap();
    let [images, height, width, channels] = [3, 3, 2, 256];
    let values: Vec<f32> = formula::uniform("activations")
        .take(images * height * width * channels)
        .map(|x| x.max(0.0))
        .collect();
    let input = StageActivations { values: &values, images, height, width, channels };
    // A training step of a network whose convolution weights are multiplied by `factor`.
    let step = |mode, factor: f32| {
        let mut network = load(&checkpoint, FeatureLayer::Layer4, mode, Isa::Portable);
        for slot in network.parameters_mut().filter(|slot| slot.parameter.role == ParameterRole::ConvWeight) {
            slot.values.iter_mut().for_each(|value| *value *= factor);
        }
        let features_before = network.forward(input).unwrap();
        let training_features = network.forward_training(input).unwrap();
        let features_after = network.forward(input).unwrap();
        let statistics = network.state_dict_mut().filter(|(name, _)| name.contains(".running_"));
        let running_stats = statistics.map(|(_, values)| values.to_vec()).collect();
        Step { features_before, training_features, features_after, running_stats }
    };
    let gap = |a: &[f32], b: &[f32]| {
        let largest = b.iter().fold(0f32, |max, x| max.max(x.abs()));
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
    };
    let (unscaled, scaled) = (step(BatchNormMode::Train, 1.0), step(BatchNormMode::Train, 4.0));
    let batch_stats_gap = gap(&scaled.training_features, &unscaled.training_features);
    let running_stats_gap = gap(&scaled.features_before, &unscaled.features_before);
    assert!(batch_stats_gap < 1e-3 && running_stats_gap > 0.5, "{batch_stats_gap} {running_stats_gap}");
    assert!(unscaled.features_before != unscaled.features_after, "the running statistics were updated");
    let (unscaled, scaled) = (step(BatchNormMode::Frozen, 1.0), step(BatchNormMode::Frozen, 4.0));
    assert!(gap(&scaled.training_features, &unscaled.training_features) > 0.5);
    assert!(unscaled.features_before == unscaled.training_features);
    assert!(unscaled.training_features == unscaled.features_after);
    assert!(unscaled.running_stats == scaled.running_stats);
}

#[test]
fn parameters_are_listed_by_stage_in_forward_order() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let network = load(&checkpoint, FeatureLayer::Stem, BatchNormMode::Frozen, Isa::Portable);
    let stages: Vec<FeatureLayer> = network.parameters().iter().map(|parameter| parameter.stage).collect();
    assert!(stages.is_sorted());
    for (stage, prefixes, count) in [
        (FeatureLayer::Stem, &["conv1.", "bn1."][..], 3),
        (FeatureLayer::Layer1, &["layer1."], 12),
        (FeatureLayer::Layer2, &["layer2."], 15),
        (FeatureLayer::Layer3, &["layer3."], 15),
        (FeatureLayer::Layer4, &["layer4."], 15),
    ] {
        let stage_parameters: Vec<_> =
            network.parameters().iter().filter(|parameter| parameter.stage == stage).collect();
        assert_eq!(stage_parameters.len(), count, "{stage}");
        for parameter in stage_parameters {
            assert!(prefixes.iter().any(|prefix| parameter.name.starts_with(prefix)), "{parameter:?}");
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
fn the_input_has_the_channels_of_the_previous_layer() {
    for (architecture, channels) in
        [("resnet18", [3, 64, 64, 128, 256, 512]), ("resnet50", [3, 64, 256, 512, 1024, 2048])]
    {
        let checkpoint = StateDict::from_formula(architecture).without_classifier().to_dir().open().unwrap();
        for (stage, channels) in
            FeatureLayer::ALL.into_iter().zip(channels).skip(if architecture == "resnet18" { 0 } else { 4 })
        {
            let mut network = load(&checkpoint, stage, BatchNormMode::Frozen, Isa::Portable);
            assert_eq!(network.n_features(), FeatureLayer::Avgpool.channels(checkpoint.architecture()));
            let values = vec![0.5; 2 * 8 * 8 * channels];
            let input = StageActivations { values: &values, images: 2, height: 8, width: 8, channels };
            let features = network.forward(input).unwrap();
            assert_eq!(features.len(), 2 * network.n_features(), "{stage}");
            let wrong = StageActivations { height: 4, channels: 2 * channels, ..input };
            let error = network.forward(wrong).unwrap_err();
            let expected = format!(
                "the stage `{stage}` of the backbone takes a non-empty input of shape [N, H, W, {channels}], \
                 not {} values of shape [2, 4, 8, {}]",
                values.len(),
                2 * channels
            );
            assert_eq!(error.to_string(), expected);
            if stage == FeatureLayer::Avgpool {
                assert!(
                    network.parameters().is_empty() && features.iter().all(|mean| (mean - 0.5).abs() < 1e-6)
                );
            }
        }
    }
}

/// The cache of a training forward pass is dropped when other stages become trainable, and by another forward
/// pass.
#[test]
fn backward_belongs_to_the_last_forward_pass_of_the_trained_stages() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let values = vec![0.5; 2 * 3 * 3 * 128];
    let input = |images: usize| StageActivations {
        values: &values[..images * 9 * 128],
        images,
        height: 3,
        width: 3,
        channels: 128,
    };
    let mut network = load(&checkpoint, FeatureLayer::Layer3, BatchNormMode::Frozen, Isa::Portable);
    network.forward_training(input(2)).unwrap();
    network.set_trainable_from(FeatureLayer::Layer4);
    let error = network.backward(&[1.0; 1024]).unwrap_err();
    assert!(matches!(error, BackboneError::NoForwardPass), "{error}");
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

/// Not even the statistics of the units before the failing one are updated.
#[test]
fn a_failing_step_updates_no_running_statistics() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let mut network = load(&checkpoint, FeatureLayer::Layer3, BatchNormMode::Train, Isa::Portable);
    let before: Vec<Vec<f32>> = network.state_dict_mut().map(|(_, values)| values.to_vec()).collect();
    // The outputs of layer 3 have four positions, those of layer 4 one.
    let values = vec![0.5; 4 * 4 * 128];
    let input = StageActivations { values: &values, images: 1, height: 4, width: 4, channels: 128 };
    let error = network.forward_training(input).unwrap_err();
    let expected = "BatchNorm layer4.0.downsample.1 cannot normalize a batch that has a single value per \
                    channel, because the variance of one value is undefined: use a larger batch, \
                    or frozen statistics";
    assert_eq!(error.to_string(), expected);
    let after: Vec<Vec<f32>> = network.state_dict_mut().map(|(_, values)| values.to_vec()).collect();
    assert_eq!(before, after);
}
