//! Renders missing views, runs the network on them, and stores the results as they complete.

use std::collections::{HashMap, HashSet};
use std::iter;
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

use headstock_backbone::InferenceWorker;
use headstock_inference::pipeline::{BatchInference, JobResult, run_pipeline};
use headstock_inference::{DecodeOptions, FileError, Progress};
use headstock_loader::dataset::find_unreadable;
use headstock_loader::{Augment, DecodeError, EvalTransform, ImageRef, LazyImage, RenderSpec, render_views};
use image::RgbImage;
use sha2::{Digest, Sha256};

use super::{EVAL_VIEW, ImageHash, MissingView, ViewIndex};
use crate::config::OnError;
use crate::error::{TrainError, UnreadableImages};

/// Decodes and renders views of an image from its bytes.
pub(crate) struct Renderer {
    transform: EvalTransform,
    augment: Augment,
    decode: DecodeOptions,
}

impl Renderer {
    /// A renderer of the evaluation view (by `transform`) and of augmented views (as `augment` says).
    pub(crate) fn new(transform: EvalTransform, augment: Augment, decode: DecodeOptions) -> Self {
        Self { transform, augment, decode }
    }

    /// Renders `views` of the image encoded in `bytes`, for the network: the evaluation view (resized and
    /// cropped) or augmented views. Decodes only the region that they need. Returns the pixels of each view,
    /// `[H, W, 3]`. `hash` is the SHA-256 of `bytes`; it seeds the random draws of augmented views.
    fn render_views(
        &self,
        bytes: &[u8],
        hash: &[u8; 32],
        views: impl Iterator<Item = ViewId>,
    ) -> Result<Vec<Vec<u8>>, DecodeError> {
        let image = LazyImage::open(bytes, self.decode)?;
        let (size, eval, augment) = (image.size(), &self.transform, &self.augment);
        let specs = views.map(|view| match view {
            ViewId::Numbered(EVAL_VIEW) => eval.render_spec(),
            ViewId::Numbered(index) => RenderSpec::augmented(augment, eval, size, index, hash),
            ViewId::PerEpoch { epoch } => RenderSpec::augmented_in_epoch(augment, eval, size, epoch, hash),
        });
        let rendered = render_views(image, self.decode.decode, &specs.collect::<Vec<_>>())?;
        Ok(rendered.into_iter().map(RgbImage::into_raw).collect())
    }

    /// Reads an image and renders one view of it, `[H, W, 3]`. `hash` is the SHA-256 that its bytes had when
    /// the data set was read, to notice a file that has changed since.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] if the file is gone or cannot be decoded, [`TrainError::Inference`] if its
    /// bytes have changed.
    pub(crate) fn render_view(
        &self,
        image: &ImageRef,
        hash: &[u8; 32],
        view: ViewId,
    ) -> Result<Vec<u8>, TrainError> {
        let unreadable_error = |error| TrainError::Unreadable(UnreadableImages(vec![(image.clone(), error)]));
        let bytes = image.read().map_err(|error| unreadable_error(error.into()))?;
        if Sha256::digest(&bytes)[..] != hash[..] {
            return Err(file_changed_error(image));
        }
        let rendered = self.render_views(&bytes, hash, iter::once(view)).map_err(unreadable_error)?;
        Ok(rendered.concat())
    }
}

/// Identifies a view of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewId {
    /// The evaluation view (0) or a numbered augmented view.
    Numbered(ViewIndex),
    /// An augmented view drawn for this epoch.
    PerEpoch { epoch: u64 },
}

/// The error for an image whose bytes have changed since it was hashed.
fn file_changed_error(image: &ImageRef) -> TrainError {
    let problem = "the file changed while in use: run the command again".into();
    FileError::Format { path: image.to_string().into(), problem }.into()
}

/// Decodes the images at `indices` of `images` on all cores, only to see whether they can be decoded. Returns
/// the index into `images` and the reason of each that cannot, so that an error lists all of them and not
/// only the first.
pub(super) fn find_undecodable(
    images: &[ImageRef],
    indices: &[usize],
    decode: DecodeOptions,
    progress: &dyn Progress,
) -> Vec<(usize, DecodeError)> {
    if indices.is_empty() {
        return Vec::new();
    }
    progress.begin("checking photos", indices.len() as u64, "photos");
    let checked: Vec<&ImageRef> = indices.iter().map(|&index| &images[index]).collect();
    let failed = find_unreadable(&checked, decode, || progress.step(1));
    progress.end();
    failed.into_iter().map(|(position, error)| (indices[position], error)).collect()
}

/// The views to compute, and what happens to images that cannot be read.
pub(crate) struct ExtractJob<'a> {
    /// What is computed, for the progress bar: a noun in the plural.
    pub(crate) output_name: &'a str,
    pub(crate) images: &'a [ImageRef],
    /// The hash that each image had when the data set was read; `None` for an unreadable image.
    pub(crate) hashes: &'a [Option<ImageHash>],
    /// The views to compute, image by image.
    pub(crate) views: &'a [MissingView],
    pub(crate) on_error: OnError,
    /// The bytes of images that are in memory; the other images are read.
    pub(crate) loaded: &'a LoadedImages,
}

/// The bytes of images that were read to hash them, so that they need not be read again: as many as fit the
/// budget.
#[derive(Default)]
pub(crate) struct LoadedImages {
    /// The images that were in memory when the work began, by index.
    images: HashSet<usize>,
    bytes: Mutex<HashMap<usize, Vec<u8>>>,
}

impl LoadedImages {
    /// The images with these bytes, by index.
    pub(super) fn new(bytes: HashMap<usize, Vec<u8>>) -> Self {
        let images = bytes.keys().copied().collect();
        Self { images, bytes: Mutex::new(bytes) }
    }

    /// Takes the bytes of an image from the memory; `None` if they are not there.
    fn take(&self, image: usize) -> Option<Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).remove(&image)
    }
}

/// Stores the network's outputs for some views: each view with its values.
pub(crate) type StoreBatch<'a, T> = dyn FnMut(&[(&MissingView, &[T])]) -> Result<(), TrainError> + 'a;

/// What [`ExtractJob::run`] has computed.
#[derive(Default)]
pub(crate) struct ExtractOutcome {
    /// The images with a stored view.
    pub(crate) images: HashSet<usize>,
    /// Number of stored views.
    pub(crate) n_views: usize,
    /// The images that cannot be read, with the reason.
    pub(crate) unreadable: Vec<(usize, DecodeError)>,
}

impl ExtractJob<'_> {
    /// Computes the views that a cache lacks: renders them with `renderer`, runs the network on them by
    /// `inference` and `workers`, and calls `store` with the outputs as they complete. Unreadable images are
    /// part of the outcome; with [`OnError::Stop`] the first one ends the work, and outputs computed until
    /// then are still stored.
    ///
    /// # Errors
    /// [`TrainError::Inference`], and the errors of `store`.
    pub(crate) fn run<T: Send>(
        &self,
        inference: &BatchInference<'_, T, TrainError>,
        workers: &mut [InferenceWorker],
        renderer: &Renderer,
        store: &mut StoreBatch<'_, T>,
        progress: &dyn Progress,
    ) -> Result<ExtractOutcome, TrainError> {
        // One job per image.
        let views_of_jobs: Vec<&[MissingView]> = self.views.chunk_by(|a, b| a.image == b.image).collect();
        let image_of = |job: usize| views_of_jobs[job][0].image;
        let mut end = 0;
        let jobs: Vec<Range<usize>> = views_of_jobs
            .iter()
            .map(|views| {
                end += views.len();
                end - views.len()..end
            })
            .collect();
        let read = |job: usize| match self.loaded.take(image_of(job)) {
            Some(bytes) => Ok(bytes),
            None => self.images[image_of(job)].read(),
        };
        let render = |job: usize, bytes: &[u8]| {
            let image = image_of(job);
            let hash = self.hashes[image].ok_or(ReadFailure::Changed)?.bytes;
            // Bytes that were read again may differ from those that were hashed.
            if !self.loaded.images.contains(&image) && Sha256::digest(bytes)[..] != hash[..] {
                return Err(ReadFailure::Changed);
            }
            let views = views_of_jobs[job].iter().map(|missing| ViewId::Numbered(missing.view));
            Ok(renderer.render_views(bytes, &hash, views)?)
        };
        let mut outcome = ExtractOutcome::default();
        progress.begin(&format!("computing {}", self.output_name), self.views.len() as u64, "photos");
        let result = run_pipeline::<T, _, ReadFailure, TrainError>(
            inference,
            workers,
            &jobs,
            &read,
            &render,
            &mut |results| {
                let mut outputs = Vec::new();
                for result in &results {
                    if let JobResult::Outputs { views, values } = result {
                        let missing = views.iter().map(|&index| &self.views[index]);
                        outputs.extend(missing.zip(values.chunks_exact(values.len() / views.len())));
                    }
                }
                store(&outputs)?;
                outcome.images.extend(outputs.iter().map(|(view, _)| view.image));
                outcome.n_views += outputs.len();
                progress.step(outputs.len() as u64);
                for result in results {
                    let JobResult::Failed { job, error } = result else { continue };
                    let image = views_of_jobs[job][0].image;
                    match error {
                        ReadFailure::Unreadable(error) => outcome.unreadable.push((image, error)),
                        ReadFailure::Changed => return Err(file_changed_error(&self.images[image])),
                    }
                }
                let should_stop = self.on_error == OnError::Stop && !outcome.unreadable.is_empty();
                Ok(if should_stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            },
        );
        progress.end();
        result.map(|()| outcome)
    }
}

/// Why an image that could be hashed cannot be used.
enum ReadFailure {
    Unreadable(DecodeError),
    /// The bytes of its file are no longer the ones that were hashed.
    Changed,
}

impl From<DecodeError> for ReadFailure {
    fn from(error: DecodeError) -> Self {
        Self::Unreadable(error)
    }
}
