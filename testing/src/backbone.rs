//! The bundled backbone for small images.

use std::path::Path;
use std::sync::OnceLock;

use headstock_backbone::{
    Backbone, Checkpoint, DeviceChoice, Precision, Preprocessing, Resampling, WeightsSource,
};
use headstock_hub::WeightFiles;

/// The files of the bundled weights.
pub fn bundled_weights() -> WeightFiles {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    WeightsSource::parse("demo/backbone", &project).unwrap().fetch(&()).unwrap()
}

/// Preprocessing to 32 x 32 pixels, the smallest input of the backbone.
pub fn small_preprocessing() -> Preprocessing {
    Preprocessing {
        resize: 36.into(),
        crop: [32, 32],
        interpolation: Resampling::Bilinear,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

/// The bundled backbone, loaded once for all tests.
pub fn small_backbone() -> &'static Backbone {
    static BACKBONE: OnceLock<Backbone> = OnceLock::new();
    BACKBONE.get_or_init(|| {
        let checkpoint = Checkpoint::open_with(&bundled_weights(), Some(&small_preprocessing())).unwrap();
        Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap()
    })
}
