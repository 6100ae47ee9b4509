//! How fast photos become features, all the way from their files.

use std::path::Path;
use std::time::{Duration, Instant};

use headstock_backbone::Backbone;
use headstock_loader::ImageRef;

use crate::atomic_write::TEMP_PREFIX;
use crate::config::{Options, Settings};
use crate::error::TrainError;
use crate::features::{BATCH_SIZE, ExtractedFeatures, PretrainedBackbone};
use crate::progress::Progress;
use crate::samples::{SampleInputs, SampleSet};

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Photos whose features were computed.
    pub photos: usize,
    /// How long that took: reading, hashing, decoding, rendering, the network, and storing.
    pub seconds: f64,
}

/// Measures the way from files to stored features on photos of the settings' data, for about `limit` and on a batch for each
/// thread at least. Features go to a cache of their own beside the settings', which is removed afterwards.
///
/// # Errors
/// [`TrainError`]; photos that cannot be read are treated as the settings say.
pub fn measure_throughput(
    settings: &Settings,
    stock: &PretrainedBackbone,
    backbone: &Backbone,
    limit: Duration,
    progress: &dyn Progress,
) -> Result<Throughput, TrainError> {
    let (_, SampleInputs::Images(photos)) = SampleSet::read_unsplit(settings, progress)? else {
        return Err(TrainError::Usage(
            "the way from files is measured on photos, and `data.features` has none".into(),
        ));
    };
    let mut options = settings.options.clone();
    let beside = options.features.cache.parent().unwrap_or(Path::new(".")).to_path_buf();
    let folder = tempfile::Builder::new().prefix(TEMP_PREFIX).tempdir_in(&beside);
    let folder = folder.map_err(TrainError::io("make a folder in", &beside))?;
    options.features.cache = folder.path().to_path_buf();

    let measure = |photos: &[ImageRef]| -> Result<Throughput, TrainError> {
        time_extraction(stock, backbone, &options, photos, progress)
    };
    // The first photos tell how many are enough.
    let (first, rest) = photos.split_at((2 * BATCH_SIZE * rayon::current_num_threads()).min(photos.len()));
    let begun = measure(first)?;
    let enough = begun.photos as f64 * limit.as_secs_f64() / begun.seconds;
    if begun.seconds >= limit.as_secs_f64() || rest.is_empty() {
        return Ok(begun);
    }
    measure(&rest[..rest.len().min(enough as usize)])
}

fn time_extraction(
    stock: &PretrainedBackbone,
    backbone: &Backbone,
    options: &Options,
    photos: &[ImageRef],
    progress: &dyn Progress,
) -> Result<Throughput, TrainError> {
    let started = Instant::now();
    let features = ExtractedFeatures::prepare_with(
        Some(backbone),
        stock,
        options,
        photos,
        &vec![0; photos.len()],
        progress,
    )?;
    let seconds = started.elapsed().as_secs_f64();
    if features.computed() == 0 {
        return Err(TrainError::Data("no photo can be read".into()));
    }
    Ok(Throughput { photos: features.computed(), seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{TestFolder, small_backbone};

    #[test]
    fn a_batch_for_each_thread_at_least_is_measured_and_leaves_nothing_in_the_cache() {
        let folder = TestFolder::new();
        folder.write_backbone("backbone");
        folder.write_two_classes(40);
        let config = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n\
                      [features]\ncache = \"cache\"";
        let settings = folder.settings(config, &[""; 0]);
        let stock = PretrainedBackbone::open(settings.options.backbone.as_ref().unwrap(), &()).unwrap();
        let photos = |threads: usize, limit: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let limit = Duration::from_secs(limit);
            let measured =
                pool.install(|| measure_throughput(&settings, &stock, small_backbone(), limit, &())).unwrap();
            assert!(measured.seconds > 0.0);
            measured.photos
        };
        assert_eq!([photos(1, 0), photos(2, 0), photos(4, 0)], [2 * BATCH_SIZE, 4 * BATCH_SIZE, 40]);
        // As many as the first ones take of an hour: all that are left.
        assert_eq!(photos(1, 3600), 40 - 2 * BATCH_SIZE);
        let left = |name| folder.path(name).read_dir().map_or(0, Iterator::count);
        assert_eq!((left("cache"), left("")), (0, 2));
    }
}
