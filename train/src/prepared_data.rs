//! What training and comparing begin with: samples, their parts, and their features.

use std::time::Instant;

use headstock_loader::ImageRef;

use crate::config::Settings;
use crate::error::TrainError;
use crate::features::{PretrainedBackbone, ViewIndex};
use crate::progress::Progress;
use crate::run::Run;
use crate::sample_features::SampleFeatures;
use crate::samples::{SampleSet, Subset};

/// The samples of the settings, split, with features of all that can be read.
pub struct PreparedData {
    pub(crate) samples: SampleSet,
    /// Where each sample's photo lies; none where there are only features.
    pub(crate) images: Option<Vec<ImageRef>>,
    pub(crate) pretrained: Option<PretrainedBackbone>,
    pub(crate) features: SampleFeatures,
    /// Augmented views of each training sample.
    pub(crate) n_views: ViewIndex,
    /// The rows that have features.
    pub(crate) readable: Vec<usize>,
    /// Those of the training part.
    pub(crate) train: Vec<usize>,
    /// Those of the test part.
    pub(crate) test: Vec<usize>,
    /// How long all that took.
    pub(crate) seconds: f64,
}

impl PreparedData {
    /// Reads and splits the data set that `settings` name, and sees to it that its features are there.
    ///
    /// # Errors
    /// [`TrainError`]; features that were computed until then are found by the next try.
    pub fn new(settings: &Settings, progress: &dyn Progress) -> Result<Self, TrainError> {
        Self::with_classes_of(None, settings, progress)
    }

    /// As [`new`](Self::new); the classes of a run keep their numbers, and those that it does not know come after them.
    ///
    /// # Errors
    /// As there.
    pub fn with_classes_of(
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
        let options = &settings.options;
        let stock = options
            .backbone
            .as_ref()
            .map(|backbone| PretrainedBackbone::open(backbone, progress))
            .transpose()?;
        let wanted = options.features.views;
        let views: Vec<ViewIndex> =
            samples.rows.iter().map(|row| if row.subset == Subset::Train { wanted } else { 0 }).collect();
        let photos = inputs.images().map(<[ImageRef]>::to_vec);
        let matrix = SampleFeatures::prepare(inputs, stock.as_ref(), options, &views, progress)?;
        let kept = matrix.readable_rows((0..samples.rows.len()).collect());
        let of = |part| kept.iter().copied().filter(|&i| samples.rows[i].subset == part).collect();
        let (train, test) = (of(Subset::Train), of(Subset::Test));
        let prepared = Self {
            samples,
            images: photos,
            pretrained: stock,
            features: matrix,
            n_views: wanted,
            readable: kept,
            train,
            test,
            seconds: 0.0,
        };
        prepared.check_not_empty()?;
        Ok(Self { seconds: started.elapsed().as_secs_f64(), ..prepared })
    }

    /// Every class must be left with something to learn from, and there must be something to test on.
    fn check_not_empty(&self) -> Result<(), TrainError> {
        let mut counts = vec![0; self.samples.classes.len()];
        for label in self.samples.labels(&self.train) {
            counts[label as usize] += 1;
        }
        let lost = counts.iter().zip(self.samples.classes.names()).find(|(count, _)| **count == 0);
        if let Some((_, class)) = lost {
            return Err(TrainError::Data(format!("no training photo of class `{class}` can be read")));
        }
        if self.test.is_empty() {
            return Err(TrainError::Data("no photo of the test part can be read".into()));
        }
        Ok(())
    }
}
