//! Features of photos that the cache lacks: computed side by side, stored as they come out.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;

use headstock_loader::dataset::unreadable;
use headstock_loader::{Augment, DecodeError, EvalTransform, decode};
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::pipeline::{self, Done, Job, Network};
use super::{View, Wanted};
use crate::config::OnError;
use crate::error::TrainError;
use crate::progress::Progress;

/// What makes pixels of a photo's bytes.
pub(crate) struct Renderer {
    transform: EvalTransform,
    augment: Augment,
    max_pixels: u64,
}

impl Renderer {
    /// Renders the plain view, and others as `augment` says.
    pub(super) fn new(transform: EvalTransform, augment: Augment, max_pixels: u64) -> Self {
        Self { transform, augment, max_pixels }
    }

    /// Renders the plain view only.
    pub(crate) fn plain(transform: EvalTransform, max_pixels: u64) -> Self {
        Self::new(transform, Augment::default(), max_pixels)
    }

    /// The plain view of a photo, `[H, W, 3]`.
    pub(crate) fn plain_view(&self, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        Ok(self.transform.apply(&decode(bytes, self.max_pixels)?).into_raw())
    }

    /// Views of a photo, each `[H, W, 3]`; `hash` is that of `bytes`. It is decoded once for all of them.
    fn views(&self, bytes: &[u8], hash: &[u8; 32], views: &[Wanted]) -> Result<Vec<Vec<u8>>, DecodeError> {
        let photo = decode(bytes, self.max_pixels)?;
        let rendered = views.iter().map(|wanted| match wanted.view {
            PLAIN => self.transform.apply(&photo).into_raw(),
            view => self.augment.view(&photo, &self.transform, view, hash).into_raw(),
        });
        Ok(rendered.collect())
    }
}

/// The view that is not augmented.
const PLAIN: View = 0;

/// Decodes the photos of these numbers, on all cores, and gives those that fail.
pub(super) fn check(
    paths: &[PathBuf],
    photos: &[usize],
    max_pixels: u64,
    progress: &dyn Progress,
) -> Vec<(usize, DecodeError)> {
    if photos.is_empty() {
        return Vec::new();
    }
    progress.begin("checking photos", photos.len() as u64, "photos");
    let checked: Vec<&PathBuf> = photos.iter().map(|&photo| &paths[photo]).collect();
    let failed = unreadable(&checked, max_pixels, || progress.step(1));
    progress.end();
    failed.into_iter().map(|(checked, error)| (photos[checked], error)).collect()
}

/// What is computed of which photos, and what becomes of those that cannot be read.
pub(super) struct Work<'a> {
    pub(super) paths: &'a [PathBuf],
    /// The hash of each photo's bytes.
    pub(super) hashes: &'a [Option<[u8; 32]>],
    /// Photo by photo.
    pub(super) wanted: &'a [Wanted],
    pub(super) on_error: OnError,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Computed {
    /// The photos that features are stored of.
    pub(super) photos: HashSet<usize>,
    /// How many vectors were stored.
    pub(super) vectors: usize,
    /// The photos that cannot be read.
    pub(super) unreadable: Vec<(usize, DecodeError)>,
}

impl Work<'_> {
    /// Computes what is wanted and stores it as it comes out. Where unreadable photos stop the work, the first one ends it;
    /// what was computed until then is stored all the same.
    pub(super) fn run(
        &self,
        network: Network<'_>,
        renderer: &Renderer,
        cache: &Cache,
        progress: &dyn Progress,
    ) -> Result<Computed, TrainError> {
        let mut numbers = 0..0;
        let views: Vec<&[Wanted]> = self.wanted.chunk_by(|a, b| a.photo == b.photo).collect();
        let jobs: Vec<Job<'_>> = views
            .iter()
            .map(|views| {
                numbers = numbers.end..numbers.end + views.len();
                Job { path: &self.paths[views[0].photo], renderings: numbers.clone() }
            })
            .collect();
        let render = |job: usize, bytes: &[u8]| {
            let hash: [u8; 32] = Sha256::digest(bytes).into();
            if self.hashes[views[job][0].photo] != Some(hash) {
                return Err(Lost::Changed);
            }
            Ok(renderer.views(bytes, &hash, views[job])?)
        };
        let mut computed = Computed::default();
        progress.begin("computing features", self.wanted.len() as u64, "photos");
        let outcome = pipeline::run::<Lost, TrainError>(network, &jobs, &render, &mut |news| {
            let mut vectors = Vec::new();
            for one in &news {
                if let Done::Features { of, values } = one {
                    let wanted = of.iter().map(|&number| &self.wanted[number]);
                    vectors.extend(wanted.zip(values.chunks_exact(values.len() / of.len())));
                }
            }
            cache.store(vectors.iter().map(|(wanted, values)| (&wanted.key, *values)))?;
            computed.photos.extend(vectors.iter().map(|(wanted, _)| wanted.photo));
            computed.vectors += vectors.len();
            progress.step(vectors.len() as u64);
            for one in news {
                let Done::Failed { job, error } = one else { continue };
                let photo = views[job][0].photo;
                match error {
                    Lost::Unreadable(error) => computed.unreadable.push((photo, error)),
                    Lost::Changed => {
                        let problem = "changed while it was being read: run the command again".into();
                        return Err(TrainError::Format { path: self.paths[photo].clone(), problem });
                    }
                }
            }
            let stops = self.on_error == OnError::Stop && !computed.unreadable.is_empty();
            Ok(if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        progress.end();
        outcome.map(|()| computed)
    }
}

/// Why a photo whose bytes could be hashed cannot be used.
enum Lost {
    Unreadable(DecodeError),
    Changed,
}

impl From<DecodeError> for Lost {
    fn from(error: DecodeError) -> Self {
        Self::Unreadable(error)
    }
}
