//! Comparisons of gradients and running statistics with PyTorch, for both training backends.

use headstock_backbone::{BatchNormMode, Checkpoint, ParameterRole, StageActivations, TrainableBackbone};
use safetensors::SafeTensors;

use crate::formula;
use crate::support::{StateDict, assert_close, f32_tensor, golden_bytes};

const TOLERANCE: f32 = 1e-3;
/// The tolerance for at most 1 % of the parameters: on CPUs with different rounding, a ReLU with an input
/// close to 0 may flip, which matters in the deepest layers with few positions.
const RELU_FLIP_TOLERANCE: f32 = 2e-2;
pub(crate) const SIZES: [(usize, usize, usize); 3] = [(2, 64, 64), (2, 75, 75), (2, 70, 101)];
pub(crate) const MODES: [(BatchNormMode, &str); 2] =
    [(BatchNormMode::Frozen, "frozen"), (BatchNormMode::Train, "train")];
/// The mean and std of [`crate::support::CONFIG`].
const MEAN: [f32; 3] = [0.5, 0.45, 0.4];
const STD: [f32; 3] = [0.25, 0.2, 0.3];

/// Compares a network loaded from the stem on, for all sizes and BatchNorm modes.
pub(crate) fn assert_gradients_match_pytorch(
    depth: usize,
    load: impl Fn(&Checkpoint, BatchNormMode) -> TrainableBackbone,
) {
    assert_gradients_match_for_sizes(depth, &SIZES, load);
}

/// Like [`assert_gradients_match_pytorch`], for some of the [`SIZES`].
pub(crate) fn assert_gradients_match_for_sizes(
    depth: usize,
    sizes: &[(usize, usize, usize)],
    load: impl Fn(&Checkpoint, BatchNormMode) -> TrainableBackbone,
) {
    let state = StateDict::from_formula(&format!("resnet{depth}")).without_classifier();
    let bytes = golden_bytes("gradients.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for (mode, name) in MODES {
        let state =
            if mode == BatchNormMode::Train { state.clone().with_damped_residuals() } else { state.clone() };
        let checkpoint = state.to_dir().open().unwrap();
        for &(images, height, width) in sizes {
            let key = format!("{depth}.{height}x{width}.{name}");
            let mut network = load(&checkpoint, mode);
            let pixels = normalized_pixels(images, height, width);
            let features = network.forward_training(stem_input(&pixels, images, height, width)).unwrap();
            assert_close(&features, &f32_tensor(&golden, &format!("{key}.features")), TOLERANCE, &key);
            let found = gradients(&mut network, features.len());
            // For each parameter eight sampled gradients and the largest magnitude.
            let rows = f32_tensor(&golden, &key);
            assert_eq!(rows.len(), 9 * found.len(), "{key}");
            let mut n_flipped = 0;
            for ((name, ours), oracle) in found.iter().zip(rows.chunks_exact(9)) {
                let our_largest = ours.iter().fold(0f32, |max, x| max.max(x.abs()));
                let ours = [sample(name, ours, 8), vec![our_largest]].concat();
                let gap = ours.iter().zip(oracle).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp).unwrap();
                let gap = gap / oracle[8];
                assert!(gap <= RELU_FLIP_TOLERANCE, "{key}: {name} differs by {gap:e}");
                n_flipped += usize::from(gap > TOLERANCE);
            }
            let n_parameters = found.len();
            assert!(
                100 * n_flipped <= n_parameters,
                "{key}: {n_flipped} of {n_parameters} parameters differ"
            );
            if mode == BatchNormMode::Train {
                assert_running_stats_match(&network, &f32_tensor(&golden, &format!("{key}.running")), &key);
            }
        }
    }
}

fn assert_running_stats_match(network: &TrainableBackbone, oracle: &[f32], key: &str) {
    let tensors = network.tensors().unwrap();
    let norms = network.parameters().iter().filter_map(|parameter| parameter.name.strip_suffix(".bias"));
    let ours: Vec<f32> = norms
        .flat_map(|bn| ["running_mean", "running_var"].map(|leaf| format!("{bn}.{leaf}")))
        .flat_map(|name| sample(&name, &tensors[&name].to_vec1().unwrap(), 4))
        .collect();
    assert_close(&ours, oracle, 1e-4, key);
}

/// Accumulates and returns the gradients of a weighted sum of the features, in torchvision's layout.
pub(crate) fn gradients(network: &mut TrainableBackbone, n_features: usize) -> Vec<(String, Vec<f32>)> {
    let factors: Vec<f32> = formula::uniform("factors").take(n_features).collect();
    network.backward(&factors).unwrap();
    let gradients = network.parameters_mut().map(|slot| {
        assert_eq!(slot.parameter.shape.iter().product::<usize>(), slot.gradient.len());
        assert_eq!(slot.values.len(), slot.gradient.len());
        let gradient = match (slot.parameter.role, slot.parameter.shape.as_slice()) {
            (ParameterRole::ConvWeight, &[height, width, inputs, outputs]) => {
                let n_taps = height * width;
                (0..outputs)
                    .flat_map(|o| (0..inputs).map(move |c| (o, c)))
                    .flat_map(|(o, c)| (0..n_taps).map(move |tap| (o, c, tap)))
                    .map(|(o, c, tap)| slot.gradient[(tap * inputs + c) * outputs + o])
                    .collect()
            }
            _ => slot.gradient.to_vec(),
        };
        (slot.parameter.name.clone(), gradient)
    });
    gradients.collect()
}

/// `count` random values of a tensor, at the same positions as in the golden file.
fn sample(name: &str, values: &[f32], count: usize) -> Vec<f32> {
    let name = format!("positions.{name}");
    let indices = formula::draws(&name).map(|draw| (draw % values.len() as u64) as usize);
    indices.take(count).map(|index| values[index]).collect()
}

/// Normalized pixels `[N, H, W, 3]`.
pub(crate) fn normalized_pixels(images: usize, height: usize, width: usize) -> Vec<f32> {
    let pixels = formula::pixels(images, height, width);
    let value = |(i, &value): (usize, &u8)| (f32::from(value) / 255.0 - MEAN[i % 3]) / STD[i % 3];
    pixels.iter().enumerate().map(value).collect()
}

pub(crate) fn stem_input(values: &[f32], images: usize, height: usize, width: usize) -> StageActivations<'_> {
    StageActivations { values, images, height, width, channels: 3 }
}
