//! Features depend on the photo and the weights alone.

use headstock_backbone::{FeatureLayer, PixelBatch};

use crate::formula;
use crate::support::StateDict;

#[test]
fn a_photo_alone_has_the_features_that_it_has_in_company() {
    for network in ["resnet18", "resnet50"] {
        let backbone = StateDict::from_formula(network).without_classifier().to_dir().backbone();
        // Down to one position in the last stage, and to sizes where several photos share a vector register.
        for (photos, height, width) in [(5, 224, 224), (11, 64, 64), (11, 33, 32), (11, 32, 32)] {
            let pixels = formula::pixels(photos, height, width);
            for layer in [FeatureLayer::Layer2, FeatureLayer::Avgpool] {
                let features = |bytes: &[u8], photos| {
                    backbone.features(PixelBatch::new(bytes, photos, height, width).unwrap(), layer).unwrap()
                };
                let alone: Vec<f32> =
                    pixels.chunks_exact(height * width * 3).flat_map(|photo| features(photo, 1)).collect();
                assert_same_bits(&features(&pixels, photos), &alone);
            }
        }
    }
}

#[test]
fn features_are_the_same_on_one_thread_and_on_several() {
    let folder = StateDict::from_formula("resnet50").without_classifier().to_dir();
    let pixels = formula::pixels(5, 224, 224);
    let pixels = PixelBatch::new(&pixels, 5, 224, 224).unwrap();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| folder.backbone().features(pixels, FeatureLayer::Avgpool)).unwrap()
    };
    let one = on(1);
    assert_same_bits(&on(2), &one);
    assert_same_bits(&on(5), &one);
}

#[test]
fn workers_give_the_features_that_all_threads_give() {
    let folder = StateDict::from_formula("resnet18").without_classifier().to_dir();
    let pixels = formula::pixels(3, 64, 96);
    let pixels = PixelBatch::new(&pixels, 3, 64, 96).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let backbone = pool.install(|| folder.backbone());
    let mut workers = backbone.workers().unwrap();
    assert_eq!(workers.len(), 3);
    let together = backbone.features(pixels, FeatureLayer::Layer3).unwrap();
    std::thread::scope(|scope| {
        for worker in &mut workers {
            let together = &together;
            scope.spawn(move || {
                assert_same_bits(&worker.features(pixels, FeatureLayer::Layer3).unwrap(), together);
            });
        }
    });
}

#[test]
fn features_of_a_layer_are_the_tap_averaged_over_its_positions() {
    let backbone = StateDict::from_formula("resnet18").without_classifier().to_dir().backbone();
    let pixels = formula::pixels(2, 64, 96);
    let pixels = PixelBatch::new(&pixels, 2, 64, 96).unwrap();
    for layer in FeatureLayer::ALL {
        let features = backbone.features(pixels, layer).unwrap();
        assert_eq!(features.len(), 2 * backbone.n_features(layer));
        let tap = backbone
            .activations_nchw(pixels, layer)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let positions = tap.len() / features.len();
        let means = tap.chunks_exact(positions).map(|values| values.iter().sum::<f32>() / positions as f32);
        crate::support::assert_close(&features, &means.collect::<Vec<_>>(), 1e-6, layer.as_str());
    }
}

fn assert_same_bits(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn pixels_that_do_not_fit_are_refused() {
    let bytes = vec![0; 2 * 32 * 40 * 3];
    assert!(PixelBatch::new(&bytes, 2, 32, 40).is_ok() && PixelBatch::new(&bytes, 2, 40, 32).is_ok());
    for (photos, height, width, part) in [
        (1, 32, 40, "7680 bytes are not [1, 32, 40, 3] pixels"),
        (0, 32, 40, "not [0, 32, 40, 3]"),
        (usize::MAX, 32, 40, "not ["),
        (4, 16, 40, "photos of 16 x 40 pixels are too small: at least 32 x 32"),
        (2, 80, 16, "photos of 80 x 16 pixels are too small: at least 32 x 32"),
    ] {
        let error = PixelBatch::new(&bytes, photos, height, width).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
