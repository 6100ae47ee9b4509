//! The derivative of features by every parameter, against PyTorch's in double precision.

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
fn every_gradient_of_resnet18_is_pytorchs() {
    assert_gradients_match_pytorch(18, load_on_cpu);
}

#[test]
fn every_gradient_of_resnet34_is_pytorchs() {
    assert_gradients_match_pytorch(34, load_on_cpu);
}

#[test]
fn every_gradient_of_resnet50_is_pytorchs() {
    assert_gradients_match_pytorch(50, load_on_cpu);
}

#[test]
fn every_gradient_of_resnet101_is_pytorchs() {
    assert_gradients_match_pytorch(101, load_on_cpu);
}

#[test]
fn every_gradient_of_resnet152_is_pytorchs() {
    assert_gradients_match_pytorch(152, load_on_cpu);
}

/// What is trained from a layer on sees what the engine gives before it, and has the same gradients as in the whole network.
#[test]
fn a_part_has_the_gradients_that_it_has_in_the_whole() {
    let checkpoint = StateDict::from_formula("resnet50").without_classifier().to_dir().open().unwrap();
    let backbone = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
    let mut whole = TrainableBackbone::load(&checkpoint, FeatureLayer::Stem, BatchNormMode::Frozen).unwrap();
    let (photos, height, width) = (2, 75, 90);
    let pixels = normalized_pixels(photos, height, width);
    let features = whole.forward_training(stem_input(&pixels, photos, height, width)).unwrap();
    let expected = gradients(&mut whole, features.len());
    let pixels = formula::pixels(photos, height, width);
    let pixels = PixelBatch::new(&pixels, photos, height, width).unwrap();
    for (before, from) in FeatureLayer::ALL.into_iter().zip(FeatureLayer::ALL.into_iter().skip(1)).take(4) {
        let mut part = TrainableBackbone::load(&checkpoint, from, BatchNormMode::Frozen).unwrap();
        assert!(part.parameters().iter().all(|parameter| parameter.stage >= from));
        let tapped = backbone.activations_nchw(pixels, before).unwrap();
        let (photos, channels, height, width) = tapped.dims4().unwrap();
        let values = tapped.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let features = part
            .forward_training(StageActivations { values: &values, images: photos, height, width, channels })
            .unwrap();
        let found = gradients(&mut part, features.len());
        let first = expected.len() - found.len();
        for ((name, ours), (whole_name, whole)) in found.iter().zip(&expected[first..]) {
            assert_eq!(name, whole_name);
            // The engine rounds otherwise, and turns a ReLU over here and there.
            assert_close(ours, whole, 1e-2, &format!("{name} from {from}"));
        }
    }
}

#[test]
fn gradients_have_the_same_bits_on_one_thread_and_on_three() {
    let checkpoint = StateDict::from_formula("resnet50").without_classifier().to_dir().open().unwrap();
    let pixels = normalized_pixels(3, 75, 64);
    let on = |threads: usize, mode| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut network = TrainableBackbone::load(&checkpoint, FeatureLayer::Stem, mode).unwrap();
            let features = network.forward_training(stem_input(&pixels, 3, 75, 64)).unwrap();
            (gradients(&mut network, features.len()), features)
        })
    };
    for (mode, name) in MODES {
        assert!(on(1, mode) == on(3, mode), "{name}");
    }
}

/// The same step again and again, on memory that the step before left, and with gradients that are there already.
#[test]
fn gradients_add_up_until_they_are_set_to_zero() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let pixels = normalized_pixels(2, 70, 40);
    for (mode, name) in MODES {
        let mut network = TrainableBackbone::load(&checkpoint, FeatureLayer::Stem, mode).unwrap();
        let mut step = || {
            let features = network.forward_training(stem_input(&pixels, 2, 70, 40)).unwrap();
            gradients(&mut network, features.len())
        };
        let (once, twice) = (step(), step());
        for ((name_of, once), (_, twice)) in once.iter().zip(&twice) {
            let doubled: Vec<f32> = once.iter().map(|x| 2.0 * x).collect();
            assert_close(twice, &doubled, 1e-5, &format!("{name}: {name_of}"));
        }
        network.zero_gradients();
        assert!(network.parameters_mut().all(|slot| slot.gradient.iter().all(|x| *x == 0.0)), "{name}");
        let features = network.forward_training(stem_input(&pixels, 2, 70, 40)).unwrap();
        assert!(gradients(&mut network, features.len()) == once, "{name}");
    }
}

/// Stages that are loaded and not trained give the next what a network without them is given, and have no gradients.
#[test]
fn stages_below_the_first_that_is_tuned_are_frozen() {
    let checkpoint = StateDict::from_formula("resnet50")
        .without_classifier()
        .with_damped_residuals()
        .to_dir()
        .open()
        .unwrap();
    let [photos, height, width, channels] = [2, 9, 11, 256];
    let values: Vec<f32> = formula::uniform("activations")
        .take(photos * height * width * channels)
        .map(|x| x.max(0.0))
        .collect();
    let input = StageActivations { values: &values, images: photos, height, width, channels };
    for (mode, name) in MODES {
        let mut whole = TrainableBackbone::load(&checkpoint, FeatureLayer::Layer2, mode).unwrap();
        whole.set_trainable_from(FeatureLayer::Layer4);
        let before: Vec<_> = whole.state_dict_mut().map(|(name, values)| (name, values.to_vec())).collect();
        let features = whole.forward_training(input).unwrap();
        let found = gradients(&mut whole, features.len());
        assert!(found.iter().all(|(name, _)| name.starts_with("layer4.")), "{name}");
        for ((_, after), (value, before)) in whole.state_dict_mut().zip(before) {
            let is_statistic = value.contains(".running_") && value.starts_with("layer4.");
            let moves = mode == BatchNormMode::Train && is_statistic;
            assert_eq!(*after != *before, moves, "{name}: {value}");
        }
        // Where nothing is tuned, all of it goes by the running statistics.
        whole.set_trainable_from(FeatureLayer::Avgpool);
        assert_eq!(whole.forward_training(input).unwrap(), whole.forward(input).unwrap(), "{name}");
        // Tuned from where it is loaded, it has the same features, and in layer4 the same gradients, by running statistics.
        whole.set_trainable_from(FeatureLayer::Stem);
        if mode == BatchNormMode::Frozen {
            whole.zero_gradients();
            assert_eq!(whole.forward_training(input).unwrap(), features);
            let all = gradients(&mut whole, features.len());
            assert_eq!(all.len(), whole.parameters().len());
            assert!(all[all.len() - found.len()..] == found);
        }
    }
}

/// A step that is not taken leaves the checkpoint's own tensors.
#[test]
fn tensors_are_the_checkpoints_names_shapes_and_bits() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let network = TrainableBackbone::load(&checkpoint, FeatureLayer::Layer3, BatchNormMode::Train).unwrap();
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
fn one_value_of_a_channel_has_no_variance() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let input = StageActivations { values: &[1.0; 256 * 4], images: 1, height: 2, width: 2, channels: 256 };
    let mut network =
        TrainableBackbone::load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Train).unwrap();
    let error = network.forward_training(input).unwrap_err().to_string();
    assert!(error.contains("layer4.0.downsample.1") && error.contains("batch_norm"), "{error}");
    let features = network.forward(input).unwrap();
    let mut frozen =
        TrainableBackbone::load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Frozen).unwrap();
    assert_eq!(frozen.forward_training(input).unwrap(), features);
    assert!(
        gradients(&mut frozen, features.len()).iter().any(|(_, values)| values.iter().any(|x| *x != 0.0))
    );
}

#[test]
fn what_does_not_fit_is_an_error() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let mut network =
        TrainableBackbone::load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Frozen).unwrap();
    let values = vec![0.5; 2 * 3 * 3 * 256];
    let fits = StageActivations { values: &values, images: 2, height: 3, width: 3, channels: 256 };
    for wrong in [
        StageActivations { values: &values[1..], ..fits },
        StageActivations { values: &[], images: 0, ..fits },
        StageActivations { images: 4, channels: 128, ..fits },
        StageActivations { images: usize::MAX, height: usize::MAX, ..fits },
    ] {
        let error = network.forward_training(wrong).unwrap_err();
        assert!(matches!(error, BackboneError::Activations { .. }), "{error}");
        assert!(error.to_string().contains("[N, H, W, 256]"), "{error}");
    }
    let derivative =
        |network: &mut TrainableBackbone, count| network.backward(&vec![1.0; count]).unwrap_err().to_string();
    assert!(derivative(&mut network, 2 * 512).contains("not 0"));
    network.forward_training(fits).unwrap();
    assert!(derivative(&mut network, 512).contains("not 1024"));
    network.backward(&vec![1.0; 2 * 512]).unwrap();
    assert!(derivative(&mut network, 2 * 512).contains("not 0"));
}

fn load_on_cpu(checkpoint: &Checkpoint, mode: BatchNormMode) -> TrainableBackbone {
    TrainableBackbone::load(checkpoint, FeatureLayer::Stem, mode).unwrap()
}
