//! Throughput of feature extraction, from image files to stored features.

use std::path::Path;
use std::time::{Duration, Instant};

use headstock_backbone::Backbone;
use headstock_inference::pipeline::BATCH_SIZE;
use headstock_inference::{PretrainedBackbone, Progress};
use headstock_loader::ImageRef;

use crate::config::Settings;
use crate::error::{Remedy, TrainError};
use crate::features::{ExtractOptions, ExtractedFeatures};
use crate::samples::{SampleInputs, SampleSet};
use crate::temp_folder::TempFolder;

/// A throughput measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Number of images whose features were computed.
    pub n_images: usize,
    /// Seconds for reading, hashing, decoding, rendering, the network, and storing.
    pub seconds: f64,
}

/// Measures how fast the features of the data set's images are extracted, for the command `bench`. It takes
/// about the time `limit`, on at least two batches per thread; `backbone` is the loaded model of
/// `pretrained`. Features go to a temporary cache next to the configured one, so that none is found there.
///
/// # Errors
/// [`TrainError`]; images that cannot be read are handled as [`Settings::on_error`] says.
pub fn measure_throughput(
    settings: &Settings,
    pretrained: &PretrainedBackbone,
    backbone: &Backbone,
    limit: Duration,
    progress: &dyn Progress,
) -> Result<Throughput, TrainError> {
    let (_, SampleInputs::Images(images)) = SampleSet::read_unsplit(settings, progress)? else {
        return Err(TrainError::NeedsImages);
    };
    let options = settings.extract_options();
    let parent = options.cache.parent().unwrap_or(Path::new("."));
    let folder = TempFolder::create_in(parent).map_err(TrainError::io("create a folder in", parent))?;
    let options = ExtractOptions { cache: folder.path(), ..options };

    // The cache is empty: cached features would not be computed and counted.
    let measure = |images: &[ImageRef]| -> Result<Throughput, TrainError> {
        let started = Instant::now();
        let n_augmented = vec![0; images.len()];
        let features = ExtractedFeatures::prepare_with(
            Some(backbone),
            pretrained,
            options,
            images,
            &n_augmented,
            progress,
        )?;
        let seconds = started.elapsed().as_secs_f64();
        if features.computed() == 0 {
            let problem = "no photo of the data set can be read";
            return Err(TrainError::Data(problem.into()).with_remedy(Remedy::ExamineImages));
        }
        Ok(Throughput { n_images: features.computed(), seconds })
    };
    // The speed on the first images determines how many more are measured; without more, it is the result.
    let (first_images, rest) =
        images.split_at((2 * BATCH_SIZE * rayon::current_num_threads()).min(images.len()));
    let first = measure(first_images)?;
    let n_wanted = first.n_images as f64 * limit.as_secs_f64() / first.seconds;
    if first.seconds >= limit.as_secs_f64() || rest.is_empty() {
        return Ok(first);
    }
    measure(&rest[..rest.len().min(n_wanted as usize)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use headstock_testing::small_backbone;

    use crate::tests::fixtures::TestFolder;

    #[test]
    fn at_least_two_batches_per_thread_are_measured_and_the_cache_stays_empty() {
        let folder = TestFolder::new();
        folder.write_backbone("backbone");
        folder.write_two_classes(40);
        let config = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n\
                      [features]\ncache = \"cache\"";
        let settings = folder.settings(config, &[""; 0]);
        let pretrained = PretrainedBackbone::open(settings.backbone.as_ref().unwrap(), &()).unwrap();
        let n_measured = |threads: usize, limit: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let limit = Duration::from_secs(limit);
            let throughput = pool
                .install(|| measure_throughput(&settings, &pretrained, small_backbone(), limit, &()))
                .unwrap();
            assert!(throughput.seconds > 0.0);
            throughput.n_images
        };
        assert_eq!(
            [n_measured(1, 0), n_measured(2, 0), n_measured(4, 0)],
            [2 * BATCH_SIZE, 4 * BATCH_SIZE, 40]
        );
        // An hour is enough for all images after the first batches.
        assert_eq!(n_measured(1, 3600), 40 - 2 * BATCH_SIZE);
        let n_files = |name| folder.path(name).read_dir().map_or(0, Iterator::count);
        assert_eq!((n_files("cache"), n_files("")), (0, 2));
    }
}
