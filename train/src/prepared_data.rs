//! The input of training and comparing: samples, their train/test split, and their features.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use headstock_inference::{PretrainedBackbone, Progress};
use headstock_loader::ImageRef;
use headstock_loader::dataset::PassedOverReason;

use crate::config::Settings;
use crate::error::TrainError;
use crate::run::Run;
use crate::sample_features::SampleFeatures;
use crate::samples::{SampleRow, SampleSet, Subset};

/// The split samples of a data set, with the features of all that can be read.
pub struct PreparedData {
    pub(crate) samples: SampleSet,
    /// The image of each sample; `None` for precomputed features.
    pub(crate) images: Option<Vec<ImageRef>>,
    /// The backbone that computed the features; `None` for precomputed features.
    pub(crate) pretrained: Option<PretrainedBackbone>,
    pub(crate) features: SampleFeatures,
    /// Number of augmented views of each training sample.
    pub(crate) n_augmented: u32,
    /// Indices of the samples that have features; the others are unreadable images.
    pub(crate) readable: Vec<usize>,
    /// Indices of the readable training samples.
    pub(crate) train: Vec<usize>,
    /// Indices of the readable test samples.
    pub(crate) test: Vec<usize>,
    /// Duration of the preparation in seconds.
    pub(crate) seconds: f64,
}

impl PreparedData {
    /// The number of files and rows that are not used, by reason.
    #[must_use]
    pub fn passed_over(&self) -> BTreeMap<PassedOverReason, usize> {
        self.samples.passed_over_with(self.samples.rows.len() - self.readable.len())
    }

    /// Reads and splits the data set of `settings`, and computes the features that are not in the cache.
    ///
    /// # Errors
    /// [`TrainError`]; features computed before the error stay in the cache.
    pub fn prepare(settings: &Settings, progress: &dyn Progress) -> Result<Self, TrainError> {
        Self::prepare_with_classes_of(None, settings, progress)
    }

    /// Reads and splits the data set of `settings`, and computes the features that are not in the cache, for
    /// a warm start from `run`. The classes of the run keep their label numbers, and new classes get the
    /// numbers after them, so that the run's head fits. With `None` the classes are numbered as the settings
    /// say.
    ///
    /// # Errors
    /// [`TrainError`]; features computed before the error stay in the cache.
    pub fn prepare_with_classes_of(
        run: Option<&Run>,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let started = Instant::now();
        let (samples, inputs) = SampleSet::read(settings, progress)?;
        let samples = match run {
            Some(run) => samples.renumber_classes(&run.model.record.classes),
            None => samples,
        };
        samples.warn_about_split_groups();
        let open = |backbone| PretrainedBackbone::open(backbone, progress);
        let pretrained = settings.backbone.as_ref().map(open).transpose()?;
        let n_augmented = settings.features.views;
        let n_augmented_of = |row: &SampleRow| if row.subset == Subset::Train { n_augmented } else { 0 };
        let n_augmented_per_sample: Vec<u32> = samples.rows.iter().map(n_augmented_of).collect();
        let images = inputs.images().map(<[ImageRef]>::to_vec);
        let (backbone, options) = (pretrained.as_ref(), settings.extract_options());
        let features = SampleFeatures::prepare(inputs, backbone, options, &n_augmented_per_sample, progress)?;
        let readable = features.readable_rows((0..samples.rows.len()).collect());
        let rows_of =
            |subset| readable.iter().copied().filter(|&i| samples.rows[i].subset == subset).collect();
        let (train, test) = (rows_of(Subset::Train), rows_of(Subset::Test));
        // The duration is known once the checks have passed.
        let seconds = 0.0;
        let prepared =
            Self { samples, images, pretrained, features, n_augmented, readable, train, test, seconds };
        prepared.check_not_empty(settings.split.has_no_test_set())?;
        Ok(Self { seconds: started.elapsed().as_secs_f64(), ..prepared })
    }

    /// Refuses data that cannot be trained on or tested on: every class must have a readable training sample,
    /// and the test set a readable sample, unless there is to be none (`has_no_test_set`).
    fn check_not_empty(&self, has_no_test_set: bool) -> Result<(), TrainError> {
        let labels: BTreeSet<u32> = self.samples.labels(&self.train).into_iter().collect();
        let mut classes = (0..).zip(self.samples.classes.names());
        if let Some((_, class)) = classes.find(|(label, _)| !labels.contains(label)) {
            return Err(TrainError::Data(format!(
                "no training photo of class `{class}` can be read, so the class cannot be learned: repair or \
                 replace the photos of this class that the warnings name, or remove the class"
            )));
        }
        if self.test.is_empty() && !has_no_test_set {
            return Err(TrainError::Data(
                "no test photo can be read, so the accuracy cannot be measured: repair or replace the photos \
                 that the warnings name, or choose different test photos"
                    .into(),
            ));
        }
        Ok(())
    }
}
