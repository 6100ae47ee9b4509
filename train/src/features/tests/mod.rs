use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use headstock_backbone::{Checkpoint, DeviceChoice, PixelBatch, Precision};
use headstock_loader::{EvalTransform, decode};
use headstock_testing::{bundled_weights, small_backbone, small_preprocessing, synthetic_image};

use super::*;
use crate::config::Settings;
use crate::tests::fixtures::TestFolder;

mod keys;
mod reads;
mod unreadable;
mod values;

/// The bundled weights on small images, with these options. All tests share them, because reading them takes
/// longer than the tests.
fn pretrained(options: &Settings) -> MutexGuard<'static, PretrainedBackbone> {
    static PRETRAINED: OnceLock<Mutex<PretrainedBackbone>> = OnceLock::new();
    let backbone = options.backbone.clone().unwrap();
    let shared = PRETRAINED.get_or_init(|| {
        let checkpoint = Checkpoint::open_with(&bundled_weights(), Some(&small_preprocessing())).unwrap();
        Mutex::new(PretrainedBackbone::from_checkpoint(checkpoint, backbone.clone()))
    });
    let mut pretrained = shared.lock().unwrap_or_else(PoisonError::into_inner);
    pretrained.options = backbone;
    pretrained
}

const STEM: &str = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n";

/// Images in a folder, and settings that use the stem of the network.
struct Project {
    folder: TestFolder,
    images: Vec<ImageRef>,
}

impl Project {
    /// Pictures with these numbers; equal numbers give equal bytes.
    fn new(pictures: &[u64]) -> Self {
        let folder = TestFolder::new();
        let file = |(position, &number): (usize, &u64)| {
            folder.write_image(&format!("photos/{position}.png"), number)
        };
        let images = pictures.iter().enumerate().map(file).map(ImageRef::from).collect();
        Self { folder, images }
    }

    fn settings(&self, set: &[&str]) -> Settings {
        self.folder.settings(STEM, set)
    }

    /// The features of all images, with `n_augmented` augmented views each.
    fn prepare(&self, set: &[&str], n_augmented: u32) -> Result<ExtractedFeatures, TrainError> {
        let options = self.settings(set);
        let n_augmented = vec![n_augmented; self.images.len()];
        ExtractedFeatures::prepare_with(
            Some(small_backbone()),
            &pretrained(&options),
            options.extract_options(),
            &self.images,
            &n_augmented,
            &(),
        )
    }

    /// Number of vectors that [`prepare`](Self::prepare) computes.
    fn computed(&self, set: &[&str], n_augmented: u32) -> usize {
        self.prepare(set, n_augmented).unwrap().computed()
    }

    fn bytes(&self, image: usize) -> Vec<u8> {
        self.images[image].read().unwrap()
    }
}

/// The evaluation transform of the small images.
fn eval_transform() -> EvalTransform {
    EvalTransform { resize: 36.into(), crop: (32, 32), interpolation: headstock_loader::Resampling::Bilinear }
}

/// The features of these pixels.
fn expected_features(pixels: &[u8], layer: FeatureLayer) -> Vec<f32> {
    small_backbone().features(PixelBatch::new(pixels, 1, 32, 32).unwrap(), layer).unwrap()
}
