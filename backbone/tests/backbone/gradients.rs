//! Gradients of all parameters, compared with PyTorch in double precision.

use headstock_backbone::{
    Backbone, BackboneError, BatchNormMode, Checkpoint, DeviceChoice, FeatureLayer, PixelBatch, Precision,
    StageActivations, TrainableBackbone,
};

use crate::formula;
use crate::golden_gradients::{
    MODES, assert_gradients_match_pytorch, gradients, normalized_pixels, stem_input,
};
use crate::support::{StateDict, assert_close, tensor_shapes};

// effect: tune.batch_norm
#[test]
fn gradients_of_resnet18_match_pytorch() {
    assert_gradients_match_pytorch(18, load_on_cpu);
}

#[test]
fn gradients_of_resnet34_match_pytorch() {
    assert_gradients_match_pytorch(34, load_on_cpu);
}

#[test]
fn gradients_of_resnet50_match_pytorch() {
    assert_gradients_match_pytorch(50, load_on_cpu);
}

#[test]
fn gradients_of_resnet101_match_pytorch() {
    assert_gradients_match_pytorch(101, load_on_cpu);
}

#[test]
fn gradients_of_resnet152_match_pytorch() {
    assert_gradients_match_pytorch(152, load_on_cpu);
}

/// The later stages, with activations of the engine as input, have the same gradients as in the whole
/// network.
#[test]
fn later_stages_alone_have_the_gradients_of_the_whole_network() {
    let checkpoint = StateDict::from_formula("resnet50").without_classifier().to_dir().open().unwrap();
    let backbone = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
    let mut whole = load(&checkpoint, FeatureLayer::Stem, BatchNormMode::Frozen);
    let (images, height, width) = (2, 75, 90);
    let pixels = normalized_pixels(images, height, width);
    let features = whole.forward_training(stem_input(&pixels, images, height, width)).unwrap();
    let expected = gradients(&mut whole, features.len());
    let pixels = formula::pixels(images, height, width);
    let pixels = PixelBatch::new(&pixels, images, height, width).unwrap();
    let stages = FeatureLayer::ALL.into_iter().skip(1);
    for (previous, first_stage) in FeatureLayer::ALL.into_iter().zip(stages).take(4) {
        let mut later_stages = load(&checkpoint, first_stage, BatchNormMode::Frozen);
        assert!(later_stages.parameters().iter().all(|parameter| parameter.stage >= first_stage));
        let nchw = backbone.activations_nchw(pixels, previous).unwrap();
        let (images, channels, height, width) = nchw.dims4().unwrap();
        let values = nchw.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let input = StageActivations { values: &values, images, height, width, channels };
        let features = later_stages.forward_training(input).unwrap();
        let found = gradients(&mut later_stages, features.len());
        let first = expected.len() - found.len();
        for ((name, ours), (whole_name, whole)) in found.iter().zip(&expected[first..]) {
            assert_eq!(name, whole_name);
            // Different rounding of the engine flips a few ReLUs.
            assert_close(ours, whole, 1e-2, &format!("{name} from {first_stage}"));
        }
    }
}

#[test]
fn gradients_do_not_depend_on_the_number_of_threads() {
    let checkpoint = StateDict::from_formula("resnet50").without_classifier().to_dir().open().unwrap();
    let pixels = normalized_pixels(3, 75, 64);
    let gradients_on = |threads: usize, mode| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut network = load(&checkpoint, FeatureLayer::Stem, mode);
            let features = network.forward_training(stem_input(&pixels, 3, 75, 64)).unwrap();
            (gradients(&mut network, features.len()), features)
        })
    };
    for (mode, name) in MODES {
        assert!(gradients_on(1, mode) == gradients_on(3, mode), "{name}");
    }
}

/// Repeats a step with reused buffers and existing gradients.
#[test]
fn gradients_accumulate_until_they_are_set_to_zero() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let pixels = normalized_pixels(2, 70, 40);
    for (mode, name) in MODES {
        let mut network = load(&checkpoint, FeatureLayer::Stem, mode);
        let mut step = || {
            let features = network.forward_training(stem_input(&pixels, 2, 70, 40)).unwrap();
            gradients(&mut network, features.len())
        };
        let (once, twice) = (step(), step());
        for ((parameter, once), (_, twice)) in once.iter().zip(&twice) {
            let doubled: Vec<f32> = once.iter().map(|x| 2.0 * x).collect();
            assert_close(twice, &doubled, 1e-5, &format!("{name}: {parameter}"));
        }
        network.zero_gradients();
        assert!(network.parameters_mut().all(|slot| slot.gradient.iter().all(|x| *x == 0.0)), "{name}");
        let features = network.forward_training(stem_input(&pixels, 2, 70, 40)).unwrap();
        assert!(gradients(&mut network, features.len()) == once, "{name}");
    }
}

/// Loaded stages that are not trained have no gradients, and do not affect those of the trained stages.
#[test]
fn stages_before_the_first_trained_one_are_frozen() {
    let checkpoint = StateDict::from_formula("resnet50")
        .without_classifier()
        .with_damped_residuals()
        .to_dir()
        .open()
        .unwrap();
    let [images, height, width, channels] = [2, 9, 11, 256];
    let values: Vec<f32> = formula::uniform("activations")
        .take(images * height * width * channels)
        .map(|x| x.max(0.0))
        .collect();
    let input = StageActivations { values: &values, images, height, width, channels };
    for (mode, name) in MODES {
        let mut network = load(&checkpoint, FeatureLayer::Layer2, mode);
        network.set_trainable_from(FeatureLayer::Layer4);
        let before: Vec<_> = network.state_dict_mut().map(|(name, values)| (name, values.to_vec())).collect();
        let features = network.forward_training(input).unwrap();
        let found = gradients(&mut network, features.len());
        assert!(found.iter().all(|(name, _)| name.starts_with("layer4.")), "{name}");
        for ((_, after), (tensor, before)) in network.state_dict_mut().zip(before) {
            let is_trained_statistic = tensor.contains(".running_") && tensor.starts_with("layer4.");
            let changes = mode == BatchNormMode::Train && is_trained_statistic;
            assert_eq!(*after != *before, changes, "{name}: {tensor}");
        }
        // Without trained stages, all stages use running statistics.
        network.set_trainable_from(FeatureLayer::Avgpool);
        assert_eq!(network.forward_training(input).unwrap(), network.forward(input).unwrap(), "{name}");
        // With all stages trained and running statistics, features and gradients of layer4 are the same.
        network.set_trainable_from(FeatureLayer::Stem);
        if mode == BatchNormMode::Frozen {
            network.zero_gradients();
            assert_eq!(network.forward_training(input).unwrap(), features);
            let all = gradients(&mut network, features.len());
            assert_eq!(all.len(), network.parameters().len());
            assert!(all[all.len() - found.len()..] == found);
        }
    }
}

#[test]
fn without_training_the_tensors_are_those_of_the_checkpoint() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let network = load(&checkpoint, FeatureLayer::Layer3, BatchNormMode::Train);
    let (tensors, shapes) = (network.tensors().unwrap(), tensor_shapes("resnet18"));
    assert_eq!(tensors.len(), 2 * 5 * 5);
    for (name, ours) in tensors {
        assert!(name.starts_with("layer3.") || name.starts_with("layer4."), "{name}");
        assert_eq!(ours.dims(), shapes[&name], "{name}");
        let theirs = formula::tensor(&name, ours.dims(), name.contains(".bn2."));
        assert_eq!(ours.flatten_all().unwrap().to_vec1::<f32>().unwrap(), theirs, "{name}");
    }
}

#[test]
fn batch_statistics_need_more_than_one_value_per_channel() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let input = StageActivations { values: &[1.0; 256 * 4], images: 1, height: 2, width: 2, channels: 256 };
    let mut network = load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Train);
    let error = network.forward_training(input).unwrap_err().to_string();
    assert!(error.contains("layer4.0.downsample.1") && error.contains("frozen statistics"), "{error}");
    let features = network.forward(input).unwrap();
    let mut frozen = load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Frozen);
    assert_eq!(frozen.forward_training(input).unwrap(), features);
    assert!(
        gradients(&mut frozen, features.len()).iter().any(|(_, values)| values.iter().any(|x| *x != 0.0))
    );
}

#[test]
fn inputs_and_gradients_of_wrong_sizes_are_rejected() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let mut network = load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Frozen);
    let values = vec![0.5; 2 * 3 * 3 * 256];
    let valid = StageActivations { values: &values, images: 2, height: 3, width: 3, channels: 256 };
    for invalid in [
        StageActivations { values: &values[1..], ..valid },
        StageActivations { values: &[], images: 0, ..valid },
        StageActivations { images: 4, channels: 128, ..valid },
        StageActivations { images: usize::MAX, height: usize::MAX, ..valid },
    ] {
        let error = network.forward_training(invalid).unwrap_err();
        assert!(matches!(error, BackboneError::Activations { .. }), "{error}");
        assert!(error.to_string().contains("[N, H, W, 256]"), "{error}");
    }
    let error =
        |network: &mut TrainableBackbone, count| network.backward(&vec![1.0; count]).unwrap_err().to_string();
    assert!(error(&mut network, 2 * 512).contains("no training forward pass"));
    network.forward_training(valid).unwrap();
    assert!(
        error(&mut network, 512)
            .contains("512 values, but the last training forward pass computed 1024 features")
    );
    network.backward(&vec![1.0; 2 * 512]).unwrap();
    assert!(error(&mut network, 2 * 512).contains("no training forward pass"));
}

fn load_on_cpu(checkpoint: &Checkpoint, mode: BatchNormMode) -> TrainableBackbone {
    load(checkpoint, FeatureLayer::Stem, mode)
}

fn load(checkpoint: &Checkpoint, first_stage: FeatureLayer, mode: BatchNormMode) -> TrainableBackbone {
    TrainableBackbone::load(checkpoint, first_stage, mode, DeviceChoice::Cpu, Precision::F32).unwrap()
}
