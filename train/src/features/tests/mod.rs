use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use headstock_backbone::{DeviceChoice, PixelBatch, Precision};
use headstock_loader::decode;

use super::*;
use crate::config::Settings;
use crate::fixtures::{TestFolder, bundled_weights, small_backbone, small_preprocessing, synthetic_image};

mod keys;
mod unreadable;
mod values;

/// The bundled weights on small photos, for these options. All tests share them: to read them takes longer than what is done
/// with them.
fn pretrained(options: &Options) -> MutexGuard<'static, PretrainedBackbone> {
    static STOCK: OnceLock<Mutex<PretrainedBackbone>> = OnceLock::new();
    let backbone = options.backbone.clone().unwrap();
    let shared = STOCK.get_or_init(|| {
        let checkpoint = Checkpoint::open_with(&bundled_weights(), &small_preprocessing()).unwrap();
        Mutex::new(PretrainedBackbone { checkpoint, options: backbone.clone() })
    });
    let mut stock = shared.lock().unwrap_or_else(PoisonError::into_inner);
    stock.options = backbone;
    stock
}

const STEM: &str = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n";

/// Photos in a folder, and settings that use the first layers of the network.
struct Project {
    folder: TestFolder,
    images: Vec<ImageRef>,
}

impl Project {
    /// Pictures of these numbers; two of one number have the same bytes.
    fn new(pictures: &[u64]) -> Self {
        let folder = TestFolder::new();
        let file =
            |(place, &number): (usize, &u64)| folder.write_image(&format!("photos/{place}.png"), number);
        let photos = pictures.iter().enumerate().map(file).map(ImageRef::from).collect();
        Self { folder, images: photos }
    }

    fn settings(&self, set: &[&str]) -> Settings {
        self.folder.settings(STEM, set)
    }

    /// The features of all photos with so many views each.
    fn prepare(&self, set: &[&str], views: ViewIndex) -> Result<ExtractedFeatures, TrainError> {
        let options = self.settings(set).options;
        let views = vec![views; self.images.len()];
        ExtractedFeatures::prepare_with(
            Some(small_backbone()),
            &pretrained(&options),
            &options,
            &self.images,
            &views,
            &(),
        )
    }

    /// How many vectors that computes.
    fn computed(&self, set: &[&str], views: ViewIndex) -> usize {
        self.prepare(set, views).unwrap().computed()
    }

    fn bytes(&self, photo: usize) -> Vec<u8> {
        self.images[photo].read().unwrap()
    }
}

/// How small photos are rendered plainly.
fn eval_transform() -> EvalTransform {
    EvalTransform { resize: 36, crop: (32, 32), interpolation: headstock_loader::Resampling::Bilinear }
}

/// What the network gives for these pixels.
fn expected_features(pixels: &[u8], layer: FeatureLayer) -> Vec<f32> {
    small_backbone().features(PixelBatch::new(pixels, 1, 32, 32).unwrap(), layer).unwrap()
}
