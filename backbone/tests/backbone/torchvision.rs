//! Comparison of all architectures and layers with torchvision, on every instruction set of this machine.

use headstock_backbone::{Backbone, FeatureLayer, Isa, PixelBatch, Precision};
use safetensors::SafeTensors;

use crate::formula;
use crate::support::{StateDict, assert_close, assert_close_abs, f32_tensor, golden_bytes};

const TOLERANCE: f32 = 1e-4;
/// The number of images, their height and width. In the second case C = H = W in the first stage, for which
/// candle's convolution had a bug.
const SIZES: [(usize, usize, usize); 4] = [(1, 224, 224), (1, 256, 256), (2, 160, 160), SMALLEST];
const SMALLEST: (usize, usize, usize) = (1, 193, 129);

// effect: backbone.layer
#[test]
fn layers_of_resnet18_match_torchvision() {
    assert_all_layers_match("resnet18");
}

#[test]
fn layers_of_resnet34_match_torchvision() {
    assert_all_layers_match("resnet34");
}

// effect: backbone.layer
#[test]
fn layers_of_resnet50_match_torchvision() {
    assert_all_layers_match("resnet50");
}

#[test]
fn layers_of_resnet101_match_torchvision() {
    assert_all_layers_match("resnet101");
}

#[test]
fn layers_of_resnet152_match_torchvision() {
    assert_all_layers_match("resnet152");
}

#[expect(clippy::print_stdout, reason = "which instruction sets were compared depends on the machine")]
fn assert_all_layers_match(network: &str) {
    let checkpoint = StateDict::from_formula(network).without_classifier().to_dir().open().unwrap();
    let load = |isa| Backbone::on_cpu(&checkpoint, isa, Precision::F32).unwrap();
    let is_available = |isa: &Isa| isa.is_present() && isa.computes(Precision::F32.into());
    let mut tested = Vec::new();
    for backbone in Isa::ALL.into_iter().filter(is_available).map(load) {
        assert_eq!(backbone.architecture().as_str(), network);
        assert_layers_match(&backbone);
        tested.push(backbone.isa());
    }
    println!("{network} on {tested:?}");
    assert_eq!(tested[0], "portable");
}

fn assert_layers_match(backbone: &Backbone) {
    let (network, isa) = (backbone.architecture().as_str(), backbone.isa());
    let bytes = golden_bytes("taps.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for size @ (images, height, width) in SIZES {
        let pixels = formula::pixels(images, height, width);
        let pixels = PixelBatch::new(&pixels, images, height, width).unwrap();
        // The portable instruction set is ten times slower: it compares all layers only at the smallest size.
        let all_layers = isa != "portable" || size == SMALLEST;
        for layer in
            FeatureLayer::ALL.into_iter().filter(|layer| all_layers || *layer == FeatureLayer::Avgpool)
        {
            let key = format!("{network}/{images}x{height}x{width}/{layer}");
            let what = format!("{key} on {isa}");
            let nchw = backbone.activations_nchw(pixels, layer).unwrap();
            assert_eq!(nchw.dims(), u64_tensor(&golden, &format!("{key}/shape")), "{key}");
            assert_eq!(nchw.dims()[1], backbone.n_features(layer), "{key}");

            let ours = nchw.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let oracle = f32_tensor(&golden, &format!("{key}/values"));
            if layer == FeatureLayer::Avgpool {
                assert_close(&ours, &oracle, TOLERANCE, &what);
            }
            let &[largest, mean] = f64_tensor(&golden, &format!("{key}/largest_and_mean")).as_slice() else {
                panic!("{key} must have two values")
            };
            let bound = TOLERANCE * largest as f32;
            if layer != FeatureLayer::Avgpool {
                let indices = formula::draws(&key).map(|draw| (draw % ours.len() as u64) as usize);
                let sample: Vec<f32> = indices.take(oracle.len()).map(|index| ours[index]).collect();
                assert_close_abs(&sample, &oracle, bound, &what);
            }
            // These two depend on all values, not only on the sampled ones.
            let our_largest = ours.iter().fold(0f32, |max, x| max.max(x.abs()));
            let our_mean = ours.iter().map(|x| f64::from(*x)).sum::<f64>() / ours.len() as f64;
            assert_close_abs(&[our_largest, our_mean as f32], &[largest as f32, mean as f32], bound, &what);
        }
    }
}

fn f64_tensor(golden: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let data = golden.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data();
    data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

fn u64_tensor(golden: &SafeTensors<'_>, name: &str) -> Vec<usize> {
    let data = golden.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data();
    data.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes) as usize).collect()
}
