//! What training and comparing begin with: samples, their parts, and their features.

use std::time::Instant;

use headstock_loader::ImageRef;

use crate::config::Settings;
use crate::error::TrainError;
use crate::features::{Stock, View};
use crate::matrix::Matrix;
use crate::progress::Progress;
use crate::run::Run;
use crate::samples::{Part, Samples};

/// The samples of the settings, split, with features of all that can be read.
pub struct Prepared {
    pub(crate) samples: Samples,
    /// Where each sample's photo lies; none where there are only features.
    pub(crate) photos: Option<Vec<ImageRef>>,
    pub(crate) stock: Option<Stock>,
    pub(crate) matrix: Matrix,
    /// Augmented views of each training sample.
    pub(crate) views: View,
    /// The rows that have features.
    pub(crate) kept: Vec<usize>,
    /// Those of the training part.
    pub(crate) train: Vec<usize>,
    /// Those of the test part.
    pub(crate) test: Vec<usize>,
    /// How long all that took.
    pub(crate) seconds: f64,
}

impl Prepared {
    /// Reads and splits the data set that `settings` name, and sees to it that its features are there.
    ///
    /// # Errors
    /// [`TrainError`]; features that were computed until then are found by the next try.
    pub fn new(settings: &Settings, progress: &dyn Progress) -> Result<Self, TrainError> {
        Self::after(None, settings, progress)
    }

    /// As [`new`](Self::new); the classes of a run keep their numbers, and those that it does not know come after them.
    ///
    /// # Errors
    /// As there.
    pub fn after(
        run: Option<&Run>,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let started = Instant::now();
        let (samples, inputs) = Samples::read(settings, progress)?;
        let samples = match run {
            Some(run) => samples.renumbered(&run.model.record.classes),
            None => samples,
        };
        samples.warn_of_divided_groups();
        let options = &settings.options;
        let stock = options.backbone.as_ref().map(|backbone| Stock::open(backbone, progress)).transpose()?;
        let wanted = options.features.views;
        let views: Vec<View> =
            samples.rows.iter().map(|row| if row.part == Part::Train { wanted } else { 0 }).collect();
        let photos = inputs.photos().map(<[ImageRef]>::to_vec);
        let matrix = Matrix::prepare(inputs, stock.as_ref(), options, &views, progress)?;
        let kept = matrix.present((0..samples.rows.len()).collect());
        let of = |part| kept.iter().copied().filter(|&i| samples.rows[i].part == part).collect();
        let (train, test) = (of(Part::Train), of(Part::Test));
        let prepared =
            Self { samples, photos, stock, matrix, views: wanted, kept, train, test, seconds: 0.0 };
        prepared.check()?;
        Ok(Self { seconds: started.elapsed().as_secs_f64(), ..prepared })
    }

    /// Every class must be left with something to learn from, and there must be something to test on.
    fn check(&self) -> Result<(), TrainError> {
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
