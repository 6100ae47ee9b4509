//! Features depend only on the image and the weights.

use headstock_backbone::{FeatureLayer, PixelBatch};

use crate::formula;
use crate::support::StateDict;

#[test]
fn features_do_not_depend_on_the_batch() {
    for network in ["resnet18", "resnet50"] {
        let backbone = StateDict::from_formula(network).without_classifier().to_dir().backbone();
        // Includes sizes with one position in the last stage, and sizes where images share a vector register.
        for (images, height, width) in [(5, 224, 224), (11, 64, 64), (11, 33, 32), (11, 32, 32)] {
            let pixels = formula::pixels(images, height, width);
            for layer in [FeatureLayer::Layer2, FeatureLayer::Avgpool] {
                let features = |bytes: &[u8], images| {
                    backbone.features(PixelBatch::new(bytes, images, height, width).unwrap(), layer).unwrap()
                };
                let alone: Vec<f32> =
                    pixels.chunks_exact(height * width * 3).flat_map(|image| features(image, 1)).collect();
                assert_same_bits(&features(&pixels, images), &alone);
            }
        }
    }
}

#[test]
fn features_do_not_depend_on_the_number_of_threads() {
    let directory = StateDict::from_formula("resnet50").without_classifier().to_dir();
    let pixels = formula::pixels(5, 224, 224);
    let pixels = PixelBatch::new(&pixels, 5, 224, 224).unwrap();
    let features_on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| directory.backbone().features(pixels, FeatureLayer::Avgpool)).unwrap()
    };
    let expected = features_on(1);
    assert_same_bits(&features_on(2), &expected);
    assert_same_bits(&features_on(5), &expected);
}

#[test]
fn workers_compute_the_features_of_the_backbone() {
    let directory = StateDict::from_formula("resnet18").without_classifier().to_dir();
    let pixels = formula::pixels(3, 64, 96);
    let pixels = PixelBatch::new(&pixels, 3, 64, 96).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let backbone = pool.install(|| directory.backbone());
    let mut workers = backbone.workers().unwrap();
    assert_eq!(workers.len(), 3);
    let expected = backbone.features(pixels, FeatureLayer::Layer3).unwrap();
    std::thread::scope(|scope| {
        for worker in &mut workers {
            let expected = &expected;
            scope.spawn(move || {
                assert_same_bits(&worker.features(pixels, FeatureLayer::Layer3).unwrap(), expected);
            });
        }
    });
}

#[test]
fn features_are_activations_averaged_over_positions() {
    let backbone = StateDict::from_formula("resnet18").without_classifier().to_dir().backbone();
    let pixels = formula::pixels(2, 64, 96);
    let pixels = PixelBatch::new(&pixels, 2, 64, 96).unwrap();
    for layer in FeatureLayer::ALL {
        let features = backbone.features(pixels, layer).unwrap();
        assert_eq!(features.len(), 2 * backbone.n_features(layer));
        let nchw = backbone.activations_nchw(pixels, layer).unwrap();
        let nchw = nchw.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let positions = nchw.len() / features.len();
        let means = nchw.chunks_exact(positions).map(|values| values.iter().sum::<f32>() / positions as f32);
        crate::support::assert_close(&features, &means.collect::<Vec<_>>(), 1e-6, layer.as_str());
    }
}

fn assert_same_bits(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn pixels_of_wrong_sizes_are_rejected() {
    let bytes = vec![0; 2 * 32 * 40 * 3];
    assert!(PixelBatch::new(&bytes, 2, 32, 40).is_ok() && PixelBatch::new(&bytes, 2, 40, 32).is_ok());
    for (images, height, width, expected) in [
        (1, 32, 40, "7680 bytes are not a batch of RGB pixels of shape [1, 32, 40, 3]"),
        (0, 32, 40, "pixels of shape [0, 32, 40, 3]"),
        (usize::MAX, 32, 40, "pixels of shape ["),
        (
            4,
            16,
            40,
            "photos of 16 x 40 pixels are too small for the backbone: use photos of at least 32 x 32",
        ),
        (
            2,
            80,
            16,
            "photos of 80 x 16 pixels are too small for the backbone: use photos of at least 32 x 32",
        ),
    ] {
        let error = PixelBatch::new(&bytes, images, height, width).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
