//! What runs on a GPU, on the CPU: candle's operations are the same.

use candle_core::{DType, Device};

use super::Gpu;
use crate::golden_gradients::{MODES, every_gradient_is_pytorchs, gradients, normalised, stem};
use crate::support::{State, assert_agree};
use crate::trainable::{BatchNormMode, Runner, Trainable};
use crate::{Activations, BackboneError, Checkpoint, Layer};

/// In double precision, in which no rounding turns a ReLU over, as it does in the deepest networks.
fn whole_in_doubles(checkpoint: &Checkpoint, mode: BatchNormMode) -> Trainable {
    let gpu = Gpu { wide: DType::F64, ..Gpu::new(Device::Cpu, DType::F64) };
    Trainable::load_for(checkpoint, Layer::Stem, mode, Runner::Gpu(gpu)).unwrap()
}

fn load(checkpoint: &Checkpoint, from: Layer, mode: BatchNormMode) -> Trainable {
    let runner = Runner::Gpu(Gpu::new(Device::Cpu, DType::F32));
    Trainable::load_for(checkpoint, from, mode, runner).unwrap()
}

fn whole(checkpoint: &Checkpoint, mode: BatchNormMode) -> Trainable {
    load(checkpoint, Layer::Stem, mode)
}

#[test]
fn every_gradient_of_resnet18_is_pytorchs() {
    every_gradient_is_pytorchs(18, whole);
}

#[test]
fn every_gradient_of_resnet34_is_pytorchs() {
    every_gradient_is_pytorchs(34, whole);
}

#[test]
fn every_gradient_of_resnet50_is_pytorchs() {
    every_gradient_is_pytorchs(50, whole);
}

#[test]
fn every_gradient_of_resnet101_is_pytorchs() {
    every_gradient_is_pytorchs(101, whole_in_doubles);
}

#[test]
fn every_gradient_of_resnet152_is_pytorchs() {
    every_gradient_is_pytorchs(152, whole_in_doubles);
}

/// The engine's products beside candle's: features, gradients and running statistics, of what is trained and what is not, over steps
/// between which the parameters move and a stage more is trained.
#[test]
fn steps_go_the_same_way_as_on_the_host() {
    let checkpoint = State::formula("resnet18").trunk().damped().written().open().unwrap();
    let pixels = normalised(2, 70, 64);
    let input = stem(&pixels, 2, 70, 64);
    for (mode, name) in MODES {
        let mut networks =
            [whole(&checkpoint, mode), Trainable::load(&checkpoint, Layer::Stem, mode).unwrap()];
        for from in [Layer::Layer4, Layer::Layer3, Layer::Stem, Layer::Avgpool] {
            let [ours, theirs] = networks.each_mut().map(|network| {
                network.tune_from(from);
                network.zero_gradients();
                let features = network.forward_training(input).unwrap();
                let found = gradients(network, features.len());
                for slot in network.slots() {
                    for (value, derivative) in slot.values.iter_mut().zip(slot.gradient) {
                        *value -= 1e-4 * *derivative;
                    }
                }
                let values: Vec<(String, Vec<f32>)> =
                    network.values().map(|(name, values)| (name, values.to_vec())).collect();
                let after = network.forward(input).unwrap();
                (vec![("features".to_owned(), features), ("after".to_owned(), after)], found, values)
            });
            let pairs = [(&ours.0, &theirs.0), (&ours.1, &theirs.1), (&ours.2, &theirs.2)];
            for (ours, theirs) in pairs {
                assert_eq!(ours.len(), theirs.len(), "{name} from {from}");
                for ((of, ours), (_, theirs)) in ours.iter().zip(theirs) {
                    // Rounded otherwise, a ReLU is turned over here and there.
                    assert_agree(ours, theirs, 1e-2, &format!("{name} from {from}: {of}"));
                }
            }
            assert_eq!(ours.1.is_empty(), from == Layer::Avgpool);
        }
    }
}

#[test]
fn a_way_back_needs_a_step_and_a_batch_a_variance() {
    let checkpoint = State::formula("resnet18").trunk().written().open().unwrap();
    let input = Activations { values: &[1.0; 256 * 4], photos: 1, height: 2, width: 2, channels: 256 };
    let mut network = load(&checkpoint, Layer::Layer4, BatchNormMode::Train);
    let error = network.forward_training(input).unwrap_err();
    assert!(matches!(error, BackboneError::OneValue { .. }), "{error}");
    let mut network = load(&checkpoint, Layer::Layer4, BatchNormMode::Frozen);
    let derivative =
        |network: &mut Trainable, count| network.backward(&vec![1.0; count]).unwrap_err().to_string();
    assert!(derivative(&mut network, 512).contains("not 0"));
    let features = network.forward_training(input).unwrap();
    assert_eq!(features, network.forward(input).unwrap());
    assert!(derivative(&mut network, 511).contains("not 512"));
    network.backward(&[1.0; 512]).unwrap();
    assert!(derivative(&mut network, 512).contains("not 0"));
}
