use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use headstock_backbone::{DeviceChoice, Pixels, Precision};
use headstock_loader::decode;

use super::*;
use crate::config::Settings;
use crate::fixtures::{Folder, bundled, network, picture, small};

mod keys;
mod unreadable;
mod values;

/// The bundled weights on small photos, for these options. All tests share them: to read them takes longer than what is done
/// with them.
fn stock(options: &Options) -> MutexGuard<'static, Stock> {
    static STOCK: OnceLock<Mutex<Stock>> = OnceLock::new();
    let backbone = options.backbone.clone().unwrap();
    let shared = STOCK.get_or_init(|| {
        let checkpoint = Checkpoint::open_with(&bundled(), &small()).unwrap();
        Mutex::new(Stock { checkpoint, options: backbone.clone() })
    });
    let mut stock = shared.lock().unwrap_or_else(PoisonError::into_inner);
    stock.options = backbone;
    stock
}

const STEM: &str = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n";

/// Photos in a folder, and settings that use the first layers of the network.
struct Project {
    folder: Folder,
    photos: Vec<ImageRef>,
}

impl Project {
    /// Pictures of these numbers; two of one number have the same bytes.
    fn new(pictures: &[u64]) -> Self {
        let folder = Folder::new();
        let file = |(place, &number): (usize, &u64)| folder.picture(&format!("photos/{place}.png"), number);
        let photos = pictures.iter().enumerate().map(file).map(ImageRef::from).collect();
        Self { folder, photos }
    }

    fn settings(&self, set: &[&str]) -> Settings {
        self.folder.settings(STEM, set)
    }

    /// The features of all photos with so many views each.
    fn prepare(&self, set: &[&str], views: View) -> Result<Features, TrainError> {
        let options = self.settings(set).options;
        let views = vec![views; self.photos.len()];
        Features::prepare_on(Some(network()), &stock(&options), &options, &self.photos, &views, &())
    }

    /// How many vectors that computes.
    fn computed(&self, set: &[&str], views: View) -> usize {
        self.prepare(set, views).unwrap().computed()
    }

    fn bytes(&self, photo: usize) -> Vec<u8> {
        self.photos[photo].read().unwrap()
    }
}

/// How small photos are rendered plainly.
fn plain() -> EvalTransform {
    EvalTransform { resize: 36, crop: (32, 32), interpolation: headstock_loader::Resampling::Bilinear }
}

/// What the network gives for these pixels.
fn features_of(pixels: &[u8], layer: Layer) -> Vec<f32> {
    network().features(Pixels::new(pixels, 1, 32, 32).unwrap(), layer).unwrap()
}
