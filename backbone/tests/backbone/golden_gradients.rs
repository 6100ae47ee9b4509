//! PyTorch's derivatives of features by every parameter, and ours beside them: of what runs on the CPU and of what runs on a GPU.

use headstock_backbone::{Activations, BatchNormMode, Checkpoint, Role, Trainable};
use safetensors::SafeTensors;

use crate::formula;
use crate::support::{State, assert_agree, floats, golden};

const RELATIVE: f32 = 1e-3;
/// Of one parameter in a hundred, at most: on a processor that rounds otherwise, a value within rounding of 0 may pass a ReLU or not,
/// and that is one of few positions in the deepest layers. Where this was written, there is none.
const RELATIVE_WHERE_TURNED: f32 = 2e-2;
pub(crate) const SIZES: [(usize, usize, usize); 3] = [(2, 64, 64), (2, 75, 75), (2, 70, 101)];
pub(crate) const MODES: [(BatchNormMode, &str); 2] =
    [(BatchNormMode::Frozen, "frozen"), (BatchNormMode::Train, "train")];
/// The mean and std of [`crate::support::CONFIG`].
const MEAN: [f32; 3] = [0.5, 0.45, 0.4];
const STD: [f32; 3] = [0.25, 0.2, 0.3];

/// Of a network from the stem on as `load` makes it: every size, both ways of BatchNorm.
pub(crate) fn every_gradient_is_pytorchs(
    depth: usize,
    load: impl Fn(&Checkpoint, BatchNormMode) -> Trainable,
) {
    gradients_are_pytorchs(depth, &SIZES, load);
}

/// Of photos of some of the [`SIZES`].
pub(crate) fn gradients_are_pytorchs(
    depth: usize,
    sizes: &[(usize, usize, usize)],
    load: impl Fn(&Checkpoint, BatchNormMode) -> Trainable,
) {
    let state = State::formula(&format!("resnet{depth}")).trunk();
    let bytes = golden("gradients.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for (mode, name) in MODES {
        let state = if mode == BatchNormMode::Train { state.clone().damped() } else { state.clone() };
        let checkpoint = state.written().open().unwrap();
        for &(photos, height, width) in sizes {
            let key = format!("{depth}.{height}x{width}.{name}");
            let mut network = load(&checkpoint, mode);
            let pixels = normalised(photos, height, width);
            let features = network.forward_training(stem(&pixels, photos, height, width)).unwrap();
            assert_agree(&features, &floats(&golden, &format!("{key}.features")), RELATIVE, &key);
            let found = gradients(&mut network, features.len());
            let rows = floats(&golden, &key);
            assert_eq!(rows.len(), 9 * found.len(), "{key}");
            let mut turned = 0;
            for ((name, ours), oracle) in found.iter().zip(rows.chunks_exact(9)) {
                let our_largest = ours.iter().fold(0f32, |top, x| top.max(x.abs()));
                let ours = [sampled(name, ours, 8), vec![our_largest]].concat();
                let gap = ours.iter().zip(oracle).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp).unwrap();
                let gap = gap / oracle[8];
                assert!(gap <= RELATIVE_WHERE_TURNED, "{key}: {name} is off by {gap:e}");
                turned += usize::from(gap > RELATIVE);
            }
            assert!(100 * turned <= found.len(), "{key}: {turned} of {} parameters are off", found.len());
            if mode == BatchNormMode::Train {
                running_statistics_are_pytorchs(&network, &floats(&golden, &format!("{key}.running")), &key);
            }
        }
    }
}

fn running_statistics_are_pytorchs(network: &Trainable, oracle: &[f32], key: &str) {
    let tensors = network.tensors().unwrap();
    let norms = network.parameters().iter().filter_map(|parameter| parameter.name.strip_suffix(".bias"));
    let ours: Vec<f32> = norms
        .flat_map(|bn| ["running_mean", "running_var"].map(|leaf| format!("{bn}.{leaf}")))
        .flat_map(|name| sampled(&name, &tensors[&name].to_vec1().unwrap(), 4))
        .collect();
    assert_agree(&ours, oracle, 1e-4, key);
}

/// The derivatives of the weighted sum of the features, in torchvision's shapes, and what was there before.
pub(crate) fn gradients(network: &mut Trainable, features: usize) -> Vec<(String, Vec<f32>)> {
    let factors: Vec<f32> = formula::uniform("factors").take(features).collect();
    network.backward(&factors).unwrap();
    let slots = network.slots().map(|slot| {
        assert_eq!(slot.parameter.shape.iter().product::<usize>(), slot.gradient.len());
        assert_eq!(slot.values.len(), slot.gradient.len());
        let gradient = match (slot.parameter.role, slot.parameter.shape.as_slice()) {
            (Role::Weight, &[height, width, inputs, outputs]) => {
                let taps = height * width;
                let at = |o, c, tap| slot.gradient[(tap * inputs + c) * outputs + o];
                (0..outputs)
                    .flat_map(|o| (0..inputs).map(move |c| (o, c)))
                    .flat_map(|(o, c)| (0..taps).map(move |tap| (o, c, tap)))
                    .map(|(o, c, tap)| at(o, c, tap))
                    .collect()
            }
            _ => slot.gradient.to_vec(),
        };
        (slot.parameter.name.clone(), gradient)
    });
    slots.collect()
}

fn sampled(name: &str, values: &[f32], count: usize) -> Vec<f32> {
    let name = format!("positions.{name}");
    let at = formula::draws(&name).map(|draw| (draw % values.len() as u64) as usize);
    at.take(count).map(|index| values[index]).collect()
}

/// Photos `[N, H, W, 3]`.
pub(crate) fn normalised(photos: usize, height: usize, width: usize) -> Vec<f32> {
    let pixels = formula::pixels(photos, height, width);
    let value = |(i, &value): (usize, &u8)| (f32::from(value) / 255.0 - MEAN[i % 3]) / STD[i % 3];
    pixels.iter().enumerate().map(value).collect()
}

pub(crate) fn stem(values: &[f32], photos: usize, height: usize, width: usize) -> Activations<'_> {
    Activations { values, photos, height, width, channels: 3 }
}
