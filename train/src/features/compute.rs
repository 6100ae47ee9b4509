//! Photos through the network: decoded ahead on all cores, a batch at a time, stored as they come out.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use headstock_backbone::{Backbone, Layer, Pixels};
use headstock_loader::dataset::unreadable;
use headstock_loader::{Augment, DecodeError, EvalTransform, decode, read_photo};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::{View, Wanted};
use crate::error::TrainError;
use crate::progress::Progress;

/// Photos in a batch. Large enough for wide matrix products, small enough that a killed run loses seconds.
pub(crate) const BATCH: usize = 16;

/// Batches that are decoded while the network is busy with another.
const AHEAD: usize = 2;

/// The network and where it is tapped.
pub(crate) struct Network<'a> {
    pub(crate) backbone: &'a Backbone,
    pub(crate) layer: Layer,
}

impl Network<'_> {
    /// Features `[N, F]` of rendered photos, each `[H, W, 3]`.
    pub(crate) fn features(
        &self,
        transform: &EvalTransform,
        photos: &[Vec<u8>],
    ) -> Result<Vec<f32>, TrainError> {
        let (height, width) = (transform.crop.0 as usize, transform.crop.1 as usize);
        let pixels = photos.concat();
        let pixels = Pixels::new(&pixels, photos.len(), height, width)?;
        Ok(self.backbone.features(pixels, self.layer)?)
    }
}

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

    /// How the plain view is made.
    pub(crate) fn transform(&self) -> &EvalTransform {
        &self.transform
    }

    /// Views of a photo, each `[H, W, 3]`; `hash` is that of `bytes`.
    fn render(&self, bytes: &[u8], hash: &[u8; 32], views: &[View]) -> Result<Vec<Vec<u8>>, DecodeError> {
        let photo = decode(bytes, self.max_pixels)?;
        let rendered = views.iter().map(|&view| match view {
            0 => self.transform.apply(&photo).into_raw(),
            view => self.augment.view(&photo, &self.transform, view, hash).into_raw(),
        });
        Ok(rendered.collect())
    }

    /// The plain view of the photo at `path`.
    pub(crate) fn open(&self, path: &Path) -> Result<Vec<u8>, DecodeError> {
        let photo = decode(&read_photo(path)?, self.max_pixels)?;
        Ok(self.transform.apply(&photo).into_raw())
    }
}

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

/// Computes what is wanted and stores it, batch by batch. Photos that have become unreadable since they were checked are
/// passed over and given back.
pub(super) fn run(
    network: &Network<'_>,
    renderer: &Renderer,
    paths: &[PathBuf],
    hashes: &[Option<[u8; 32]>],
    wanted: &[Wanted],
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Vec<(usize, DecodeError)>, TrainError> {
    // A photo is decoded once for all of its views.
    let render = |views: &&[Wanted]| -> Result<Vec<Vec<u8>>, Lost> {
        let photo = views[0].photo;
        let unreadable = |error| Lost::Unreadable(photo, error);
        let bytes = read_photo(&paths[photo]).map_err(unreadable)?;
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        if hashes[photo] != Some(hash) {
            return Err(Lost::Changed(photo));
        }
        let numbers: Vec<View> = views.iter().map(|wanted| wanted.view).collect();
        renderer.render(&bytes, &hash, &numbers).map_err(unreadable)
    };
    let photos: Vec<&[Wanted]> = wanted.chunk_by(|a, b| a.photo == b.photo).collect();
    let in_batch = (BATCH * photos.len()).div_ceil(wanted.len().max(1)).max(1);
    let mut lost = Vec::new();
    progress.begin("computing features", wanted.len() as u64, "photos");
    let outcome = thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        let photos = &photos;
        scope.spawn(move || {
            for batch in photos.chunks(in_batch) {
                let rendered: Vec<Result<Vec<Vec<u8>>, Lost>> = batch.par_iter().map(render).collect();
                // No receiver: the other side has failed and says why.
                if send.send((batch, rendered)).is_err() {
                    return;
                }
            }
        });
        for (batch, rendered) in receive {
            let (mut keys, mut pixels) = (Vec::new(), Vec::new());
            for (views, rendered) in batch.iter().zip(rendered) {
                match rendered {
                    Ok(rendered) => {
                        keys.extend(views.iter().map(|wanted| &wanted.key));
                        pixels.extend(rendered);
                    }
                    Err(Lost::Unreadable(photo, error)) => lost.push((photo, error)),
                    Err(Lost::Changed(photo)) => {
                        let problem = "changed while it was being read: run the command again".into();
                        return Err(TrainError::Format { path: paths[photo].clone(), problem });
                    }
                }
            }
            for (keys, pixels) in keys.chunks(BATCH).zip(pixels.chunks(BATCH)) {
                let features = network.features(&renderer.transform, pixels)?;
                let width = features.len() / keys.len();
                cache.store(keys.iter().copied().zip(features.chunks_exact(width)))?;
                progress.step(keys.len() as u64);
            }
        }
        Ok(())
    });
    progress.end();
    outcome.map(|()| lost)
}

/// Why a photo that was fine when it was checked cannot be used.
enum Lost {
    Unreadable(usize, DecodeError),
    Changed(usize),
}
