//! Tests of the GPU backend with candle's operations on the CPU.

use candle_core::{DType, Device};

use super::GpuBackend;
use crate::golden_gradients::{
    MODES, assert_gradients_match_pytorch, gradients, normalized_pixels, stem_input,
};
use crate::support::{StateDict, assert_close};
use crate::trainable::{BatchNormMode, TrainableBackbone, TrainingBackend};
use crate::{BackboneError, Checkpoint, DeviceChoice, FeatureLayer, Precision, StageActivations};

/// Loads all stages in double precision, where rounding does not flip ReLUs as it does in the deepest
/// networks.
fn load_whole_f64(checkpoint: &Checkpoint, mode: BatchNormMode) -> TrainableBackbone {
    let gpu = GpuBackend { norm_dtype: DType::F64, ..GpuBackend::new(Device::Cpu, DType::F64) };
    TrainableBackbone::load_with_backend(checkpoint, FeatureLayer::Stem, mode, TrainingBackend::Gpu(gpu))
        .unwrap()
}

fn load(checkpoint: &Checkpoint, first_stage: FeatureLayer, mode: BatchNormMode) -> TrainableBackbone {
    let backend = TrainingBackend::Gpu(GpuBackend::new(Device::Cpu, DType::F32));
    TrainableBackbone::load_with_backend(checkpoint, first_stage, mode, backend).unwrap()
}

fn load_whole(checkpoint: &Checkpoint, mode: BatchNormMode) -> TrainableBackbone {
    load(checkpoint, FeatureLayer::Stem, mode)
}

#[test]
fn gradients_of_resnet18_match_pytorch() {
    assert_gradients_match_pytorch(18, load_whole);
}

#[test]
fn gradients_of_resnet34_match_pytorch() {
    assert_gradients_match_pytorch(34, load_whole);
}

#[test]
fn gradients_of_resnet50_match_pytorch() {
    assert_gradients_match_pytorch(50, load_whole);
}

#[test]
fn gradients_of_resnet101_match_pytorch() {
    assert_gradients_match_pytorch(101, load_whole_f64);
}

#[test]
fn gradients_of_resnet152_match_pytorch() {
    assert_gradients_match_pytorch(152, load_whole_f64);
}

/// Compares features, gradients and running statistics of candle and the engine over several steps. Between
/// the steps the parameters are updated and the first trained stage changes.
#[test]
fn training_steps_match_the_cpu_backend() {
    let checkpoint = StateDict::from_formula("resnet18")
        .without_classifier()
        .with_damped_residuals()
        .to_dir()
        .open()
        .unwrap();
    let pixels = normalized_pixels(2, 70, 64);
    let input = stem_input(&pixels, 2, 70, 64);
    for (mode, name) in MODES {
        let mut networks = [
            load_whole(&checkpoint, mode),
            TrainableBackbone::load(&checkpoint, FeatureLayer::Stem, mode, DeviceChoice::Cpu, Precision::F32)
                .unwrap(),
        ];
        for stage in [FeatureLayer::Layer4, FeatureLayer::Layer3, FeatureLayer::Stem, FeatureLayer::Avgpool] {
            let [ours, theirs] = networks.each_mut().map(|network| {
                network.set_trainable_from(stage);
                network.zero_gradients();
                let features = network.forward_training(input).unwrap();
                let found = gradients(network, features.len());
                for slot in network.parameters_mut() {
                    for (value, gradient) in slot.values.iter_mut().zip(slot.gradient) {
                        *value -= 1e-4 * *gradient;
                    }
                }
                let values: Vec<(String, Vec<f32>)> =
                    network.state_dict_mut().map(|(name, values)| (name, values.to_vec())).collect();
                let after = network.forward(input).unwrap();
                [vec![("features".to_owned(), features), ("after".to_owned(), after)], found, values]
            });
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(ours.len(), theirs.len(), "{name} from {stage}");
                for ((tensor, ours), (_, theirs)) in ours.iter().zip(theirs) {
                    // Different rounding flips a few ReLUs.
                    assert_close(ours, theirs, 1e-2, &format!("{name} from {stage}: {tensor}"));
                }
            }
            let [_, gradients, _] = ours;
            assert_eq!(gradients.is_empty(), stage == FeatureLayer::Avgpool);
        }
    }
}

#[test]
fn backward_needs_a_forward_pass_and_batch_norm_needs_several_values() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let input = StageActivations { values: &[1.0; 256 * 4], images: 1, height: 2, width: 2, channels: 256 };
    let mut network = load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Train);
    let error = network.forward_training(input).unwrap_err();
    assert!(matches!(error, BackboneError::SingleValuePerChannel { .. }), "{error}");
    let mut network = load(&checkpoint, FeatureLayer::Layer4, BatchNormMode::Frozen);
    let error =
        |network: &mut TrainableBackbone, count| network.backward(&vec![1.0; count]).unwrap_err().to_string();
    assert!(error(&mut network, 512).contains("no training forward pass"));
    let features = network.forward_training(input).unwrap();
    assert_eq!(features, network.forward(input).unwrap());
    assert!(
        error(&mut network, 511)
            .contains("511 values, but the last training forward pass computed 512 features")
    );
    network.backward(&[1.0; 512]).unwrap();
    assert!(error(&mut network, 512).contains("no training forward pass"));
}
