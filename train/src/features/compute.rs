//! What is lacking of photos: computed side by side, stored as it comes out.

use std::collections::HashSet;
use std::iter;
use std::ops::ControlFlow;

use headstock_loader::dataset::find_unreadable;
use headstock_loader::{Augment, DecodeError, DecodeMode, EvalTransform, ImageRef, LazyImage};
use image::RgbImage;
use sha2::{Digest, Sha256};

use super::pipeline::{self, BatchInference, ImageJob, JobResult};
use super::{MissingView, ViewIndex};
use crate::config::{DataOptions, OnError};
use crate::error::{TrainError, UnreadableImages};
use crate::progress::Progress;

/// What makes pixels of a photo's bytes.
pub(crate) struct Renderer {
    transform: EvalTransform,
    augment: Augment,
    max_pixels: u64,
    decode: DecodeMode,
}

impl Renderer {
    /// Renders the plain view, and others as `augment` says.
    pub(crate) fn new(transform: EvalTransform, augment: Augment, data: &DataOptions) -> Self {
        Self { transform, augment, max_pixels: data.max_pixels, decode: data.decode }
    }

    /// Renders the plain view only.
    pub(crate) fn eval_only(transform: EvalTransform, data: &DataOptions) -> Self {
        Self::new(transform, Augment::default(), data)
    }

    /// The plain view of a photo, `[H, W, 3]`.
    pub(crate) fn eval_view(&self, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let photo = LazyImage::open(bytes, self.max_pixels)?;
        Ok(photo.render(self.decode, &[self.transform.render_spec()])?.swap_remove(0).into_raw())
    }

    /// Renderings of a photo, each `[H, W, 3]`; `hash` is that of `bytes`. Of the photo what they need is decoded.
    fn render_views(
        &self,
        bytes: &[u8],
        hash: &[u8; 32],
        renderings: impl Iterator<Item = ViewId>,
    ) -> Result<Vec<Vec<u8>>, DecodeError> {
        let photo = LazyImage::open(bytes, self.max_pixels)?;
        let (size, plain, augment) = (photo.size(), &self.transform, &self.augment);
        let wanted = renderings.map(|rendering| match rendering {
            ViewId::Numbered(EVAL_VIEW) => plain.render_spec(),
            ViewId::Numbered(view) => augment.render_spec(size, plain, view, hash),
            ViewId::PerEpoch { epoch } => augment.epoch_render_spec(size, plain, epoch, hash),
        });
        let rendered = photo.render(self.decode, &wanted.collect::<Vec<_>>())?;
        Ok(rendered.into_iter().map(RgbImage::into_raw).collect())
    }

    /// One rendering of a photo, `[H, W, 3]`; `hash` is what its bytes had.
    ///
    /// # Errors
    /// [`TrainError::Unreadable`] when it is gone or cannot be decoded, [`TrainError::UnknownFormat`] when it is another by now.
    pub(crate) fn render_view(
        &self,
        photo: &ImageRef,
        hash: &[u8; 32],
        rendering: ViewId,
    ) -> Result<Vec<u8>, TrainError> {
        let lost = |error| TrainError::Unreadable(UnreadableImages(vec![(photo.clone(), error)]));
        let bytes = photo.read().map_err(lost)?;
        if Sha256::digest(&bytes)[..] != hash[..] {
            return Err(file_changed_error(photo));
        }
        self.render_views(&bytes, hash, iter::once(rendering)).map(|rendered| rendered.concat()).map_err(lost)
    }
}

/// How a photo is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewId {
    /// Plainly, or as one of the numbered augmented views.
    Numbered(ViewIndex),
    /// Augmented anew for this epoch.
    PerEpoch { epoch: u64 },
}

/// A photo's bytes are others than those that were looked at.
fn file_changed_error(photo: &ImageRef) -> TrainError {
    let problem = "changed while it was in use: run the command again".into();
    TrainError::Format { path: photo.to_string().into(), problem }
}

/// The view that is not augmented.
const EVAL_VIEW: ViewIndex = 0;

/// Decodes the photos of these numbers, on all cores, and gives those that fail.
pub(super) fn find_undecodable(
    photos: &[ImageRef],
    numbers: &[usize],
    max_pixels: u64,
    progress: &dyn Progress,
) -> Vec<(usize, DecodeError)> {
    if numbers.is_empty() {
        return Vec::new();
    }
    progress.begin_run("checking photos", numbers.len() as u64, "photos");
    let checked: Vec<&ImageRef> = numbers.iter().map(|&number| &photos[number]).collect();
    let failed = find_unreadable(&checked, max_pixels, || progress.step(1));
    progress.train_to_end();
    failed.into_iter().map(|(checked, error)| (numbers[checked], error)).collect()
}

/// What is computed of which photos, and what becomes of those that cannot be read.
pub(crate) struct ExtractJob<'a> {
    /// What is computed, in the plural.
    pub(crate) output_name: &'a str,
    pub(crate) images: &'a [ImageRef],
    /// The hash of each photo's bytes.
    pub(crate) hashes: &'a [Option<[u8; 32]>],
    /// Photo by photo.
    pub(crate) views: &'a [MissingView],
    pub(crate) on_error: OnError,
}

/// Stores what the network gave for some renderings.
pub(crate) type StoreBatch<'a, T> = dyn FnMut(&[(&MissingView, &[T])]) -> Result<(), TrainError> + 'a;

/// What came of it.
#[derive(Default)]
pub(crate) struct ExtractOutcome {
    /// The photos that something is stored of.
    pub(crate) images: HashSet<usize>,
    /// How many renderings something was stored of.
    pub(crate) n_views: usize,
    /// The photos that cannot be read.
    pub(crate) unreadable: Vec<(usize, DecodeError)>,
}

impl ExtractJob<'_> {
    /// Computes what is wanted and has it stored as it comes out. Where unreadable photos stop the work, the first one ends it;
    /// what was computed until then is stored all the same.
    pub(crate) fn run<T: Send>(
        &self,
        network: &BatchInference<'_, T>,
        renderer: &Renderer,
        store: &mut StoreBatch<'_, T>,
        progress: &dyn Progress,
    ) -> Result<ExtractOutcome, TrainError> {
        let mut numbers = 0..0;
        let views: Vec<&[MissingView]> = self.views.chunk_by(|a, b| a.image == b.image).collect();
        let jobs: Vec<ImageJob<'_>> = views
            .iter()
            .map(|views| {
                numbers = numbers.end..numbers.end + views.len();
                ImageJob { image: &self.images[views[0].image], views: numbers.clone() }
            })
            .collect();
        let render = |job: usize, bytes: &[u8]| {
            let hash: [u8; 32] = Sha256::digest(bytes).into();
            if self.hashes[views[job][0].image] != Some(hash) {
                return Err(ReadFailure::Changed);
            }
            let renderings = views[job].iter().map(|wanted| ViewId::Numbered(wanted.view));
            Ok(renderer.render_views(bytes, &hash, renderings)?)
        };
        let mut computed = ExtractOutcome::default();
        progress.begin_run(&format!("computing {}", self.output_name), self.views.len() as u64, "photos");
        let outcome =
            pipeline::run_pipeline::<T, ReadFailure, TrainError>(network, &jobs, &render, &mut |news| {
                let mut outputs = Vec::new();
                for one in &news {
                    if let JobResult::Outputs { views: of, values } = one {
                        let wanted = of.iter().map(|&number| &self.views[number]);
                        outputs.extend(wanted.zip(values.chunks_exact(values.len() / of.len())));
                    }
                }
                store(&outputs)?;
                computed.images.extend(outputs.iter().map(|(wanted, _)| wanted.image));
                computed.n_views += outputs.len();
                progress.step(outputs.len() as u64);
                for one in news {
                    let JobResult::Failed { job, error } = one else { continue };
                    let photo = views[job][0].image;
                    match error {
                        ReadFailure::Unreadable(error) => computed.unreadable.push((photo, error)),
                        ReadFailure::Changed => return Err(file_changed_error(&self.images[photo])),
                    }
                }
                let stops = self.on_error == OnError::Stop && !computed.unreadable.is_empty();
                Ok(if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
        progress.train_to_end();
        outcome.map(|()| computed)
    }
}

/// Why a photo whose bytes could be hashed cannot be used.
enum ReadFailure {
    Unreadable(DecodeError),
    Changed,
}

impl From<DecodeError> for ReadFailure {
    fn from(error: DecodeError) -> Self {
        Self::Unreadable(error)
    }
}
