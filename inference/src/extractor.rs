//! Features of images by a pretrained backbone.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use headstock_backbone::{Backbone, BackboneError, FeatureLayer, InferenceWorker, PixelBatch};
use headstock_loader::{DecodeError, DecodeOptions, EvalTransform, ImageRef, ReadError};
use image::RgbImage;

use crate::error::InferenceError;
use crate::pipeline::{BATCH_SIZE, BatchInference, JobResult, run_pipeline};
use crate::pretrained::PretrainedBackbone;
use crate::progress::Progress;

/// Receives a batch of images and, for each, its features `[F]` or the reason why it cannot be read.
pub type OnFeatures<'a, E> = dyn FnMut(&[ImageRef], Vec<Result<Vec<f32>, DecodeError>>) -> Result<(), E> + 'a;

/// Looks up the features `[F]` of an image by the bytes of its file, so that they need not be computed; `None` if
/// they are not known.
pub type FindFeatures<'a> = dyn Fn(&[u8]) -> Option<Vec<f32>> + Sync + 'a;

/// Why the pipeline need not or cannot compute the features of an image.
enum NotComputed {
    Known(Vec<f32>),
    Unreadable(DecodeError),
}

impl From<DecodeError> for NotComputed {
    fn from(error: DecodeError) -> Self {
        Self::Unreadable(error)
    }
}

/// Computes features of images: a backbone on its device, with the transform that belongs to its weights.
///
/// Threads may share it. Its workers keep their buffers between calls. The features of an image are the same
/// bits whether it is given alone, in a list, as a file or in memory.
///
/// ```
/// use std::path::Path;
/// use headstock_inference::{BackboneOptions, DecodeOptions, FeatureExtractor, PretrainedBackbone};
///
/// let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
/// let options = BackboneOptions::new(demo.join("backbone").display().to_string());
/// let pretrained = PretrainedBackbone::open(&options, &())?;
/// let extractor = FeatureExtractor::new(&pretrained, DecodeOptions::default())?;
///
/// let photo = std::fs::read_dir(demo.join("photos/test/dress"))?.next().unwrap()?.path();
/// let features = extractor.features_of_bytes(&std::fs::read(&photo)?)?;
/// assert_eq!(features.len(), 2048);
/// assert_eq!(features, extractor.features_of_file(&photo)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FeatureExtractor {
    backbone: Backbone,
    layer: FeatureLayer,
    transform: EvalTransform,
    decode: DecodeOptions,
    /// Held by the call that runs one image on all threads.
    all_threads: Mutex<()>,
    /// Workers that no call uses.
    idle_workers: Mutex<Vec<InferenceWorker>>,
}

impl FeatureExtractor {
    /// Loads the backbone onto its device.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`].
    pub fn new(pretrained: &PretrainedBackbone, decode: DecodeOptions) -> Result<Self, InferenceError> {
        Ok(Self {
            backbone: pretrained.load()?,
            layer: pretrained.options.layer,
            transform: pretrained.transform(),
            decode,
            all_threads: Mutex::new(()),
            idle_workers: Mutex::new(Vec::new()),
        })
    }

    /// The number of features of an image, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.backbone.n_features(self.layer)
    }

    /// The features `[F]` of the image in the file `path`.
    ///
    /// # Errors
    /// [`InferenceError::Image`] if the file cannot be read or decoded, [`InferenceError::Backbone`].
    pub fn features_of_file(&self, path: &Path) -> Result<Vec<f32>, InferenceError> {
        self.features_of_bytes(&fs::read(path).map_err(|error| DecodeError::from(ReadError::from(error)))?)
    }

    /// The features `[F]` of an image file in memory.
    ///
    /// # Errors
    /// [`InferenceError::Image`] if the image cannot be decoded, [`InferenceError::Backbone`].
    pub fn features_of_bytes(&self, bytes: &[u8]) -> Result<Vec<f32>, InferenceError> {
        Ok(self.run(&self.transform.render_file(bytes, self.decode)?)?)
    }

    /// The features `[F]` of a decoded, upright image.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`].
    pub fn features_of_pixels(&self, image: &RgbImage) -> Result<Vec<f32>, InferenceError> {
        Ok(self.run(&self.transform.apply(image))?)
    }

    /// Runs the network on one rendered view: on all threads, or, if another call does so, on this thread.
    fn run(&self, view: &RgbImage) -> Result<Vec<f32>, BackboneError> {
        let pixels = PixelBatch::new(view.as_raw(), 1, view.height() as usize, view.width() as usize)?;
        let all_threads = self.all_threads.try_lock();
        if !matches!(all_threads, Err(TryLockError::WouldBlock)) {
            return self.backbone.features(pixels, self.layer);
        }
        let mut workers = self.take_workers(1)?;
        let features = workers[0].features(pixels, self.layer);
        self.give_back(workers);
        features
    }

    /// Computes the features of `images` on all cores, and calls `on_features` with one batch of them after
    /// another while the others are still computed. The batches are in the order of `images`; an unreadable
    /// image is in them with its error.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`], and the error of `on_features`.
    pub fn features_of_images<E: From<InferenceError>>(
        &self,
        images: &[ImageRef],
        progress: &dyn Progress,
        on_features: &mut OnFeatures<'_, E>,
    ) -> Result<(), E> {
        self.run_on_images("computing features", images, &|_| None, progress, on_features)
    }

    /// As [`features_of_images`](Self::features_of_images), but features that `find_known` gives are not computed;
    /// `phase` is the name of the work for the progress.
    pub(crate) fn run_on_images<E: From<InferenceError>>(
        &self,
        phase: &str,
        images: &[ImageRef],
        find_known: &FindFeatures<'_>,
        progress: &dyn Progress,
        on_features: &mut OnFeatures<'_, E>,
    ) -> Result<(), E> {
        let inference = BatchInference::<_, InferenceError>::for_features(self.layer, self.transform.crop);
        // One view per image: the index of a view, and of a job, is that of its image.
        let jobs: Vec<Range<usize>> = (0..images.len()).map(|index| index..index + 1).collect();
        let read = |job: usize| images[job].read();
        let render = |_, bytes: &[u8]| match find_known(bytes) {
            Some(features) => Err(NotComputed::Known(features)),
            None => Ok(vec![self.transform.render_file(bytes, self.decode)?.into_raw()]),
        };
        // Features or errors of images that are not reported yet, by index, and the index to report next.
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        let mut workers = self.take_workers(self.backbone.n_workers()).map_err(InferenceError::from)?;
        progress.begin(phase, images.len() as u64, "photos");
        let on_results = &mut |results: Vec<JobResult<f32, NotComputed>>| {
            for result in results {
                match result {
                    JobResult::Outputs { views, values } => {
                        let features = values.chunks_exact(self.width()).map(|row| Ok(row.to_vec()));
                        waiting.extend(views.into_iter().zip(features));
                    }
                    JobResult::Failed { job, error: NotComputed::Known(features) } => {
                        waiting.insert(job, Ok(features));
                    }
                    JobResult::Failed { job, error: NotComputed::Unreadable(error) } => {
                        waiting.insert(job, Err(error));
                    }
                }
            }
            // Results come in order of completion and are reported in order of the input.
            let in_order: Vec<_> = (next..).map_while(|image| waiting.remove(&image)).collect();
            let mut in_order = in_order.into_iter();
            while in_order.len() > 0 {
                let batch: Vec<_> = in_order.by_ref().take(BATCH_SIZE).collect();
                let batch_images = &images[next..next + batch.len()];
                next += batch.len();
                on_features(batch_images, batch)?;
                progress.step(batch_images.len() as u64);
            }
            Ok(ControlFlow::Continue(()))
        };
        let outcome =
            run_pipeline::<_, _, NotComputed, E>(&inference, &mut workers, &jobs, &read, &render, on_results);
        progress.end();
        self.give_back(workers);
        outcome
    }

    /// Takes `count` workers: those that are idle, and new ones if there are fewer.
    fn take_workers(&self, count: usize) -> Result<Vec<InferenceWorker>, BackboneError> {
        let mut idle = self.lock_idle_workers();
        let first = idle.len().saturating_sub(count);
        let mut workers = idle.split_off(first);
        drop(idle);
        while workers.len() < count {
            workers.push(self.backbone.worker()?);
        }
        Ok(workers)
    }

    /// Keeps workers for the next call, as many as can run at once.
    fn give_back(&self, workers: Vec<InferenceWorker>) {
        let mut idle = self.lock_idle_workers();
        idle.extend(workers);
        idle.truncate(self.backbone.n_workers());
    }

    /// The list of idle workers. A panic of another thread leaves it whole.
    fn lock_idle_workers(&self) -> MutexGuard<'_, Vec<InferenceWorker>> {
        self.idle_workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
