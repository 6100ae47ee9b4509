//! Photos through the network: decoded ahead on all cores, a batch at a time, stored as they come out.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use headstock_backbone::{Backbone, Layer, Pixels};
use headstock_loader::dataset::unreadable;
use headstock_loader::{Augment, DecodeError, EvalTransform, decode, read_photo};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::Wanted;
use super::cache::Cache;
use crate::error::{TrainError, Unreadable};
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

    /// A view of a photo, `[H, W, 3]`; `hash` is that of `bytes`.
    fn render(&self, bytes: &[u8], hash: &[u8; 32], view: u32) -> Result<Vec<u8>, DecodeError> {
        let photo = decode(bytes, self.max_pixels)?;
        let view = match view {
            0 => self.transform.apply(&photo),
            view => self.augment.view(&photo, &self.transform, view, hash),
        };
        Ok(view.into_raw())
    }

    /// The plain view of the photo at `path`.
    pub(crate) fn open(&self, path: &Path) -> Result<Vec<u8>, DecodeError> {
        self.render(&read_photo(path)?, &[0; 32], 0)
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

/// Computes what is wanted and stores it, batch by batch.
pub(super) fn run(
    network: &Network<'_>,
    renderer: &Renderer,
    paths: &[PathBuf],
    hashes: &[Option<[u8; 32]>],
    wanted: &[Wanted],
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<(), TrainError> {
    let render = |wanted: &Wanted| -> Result<Vec<u8>, TrainError> {
        let path = &paths[wanted.photo];
        let unreadable = |error| TrainError::Unreadable(Unreadable(vec![(path.clone(), error)]));
        let bytes = read_photo(path).map_err(unreadable)?;
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        if hashes[wanted.photo] != Some(hash) {
            let problem = "changed while it was being read: run the command again".into();
            return Err(TrainError::Format { path: path.clone(), problem });
        }
        let unreadable = |error| TrainError::Unreadable(Unreadable(vec![(path.clone(), error)]));
        renderer.render(&bytes, &hash, wanted.view).map_err(unreadable)
    };
    progress.begin("computing features", wanted.len() as u64, "photos");
    let outcome = thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        scope.spawn(move || {
            for batch in wanted.chunks(BATCH) {
                let rendered: Result<Vec<Vec<u8>>, TrainError> = batch.par_iter().map(render).collect();
                let failed = rendered.is_err();
                // No receiver: the other side has failed and says why.
                if send.send((batch, rendered)).is_err() || failed {
                    return;
                }
            }
        });
        for (batch, rendered) in receive {
            let features = network.features(&renderer.transform, &rendered?)?;
            let width = features.len() / batch.len();
            cache.store(batch.iter().map(|wanted| &wanted.key).zip(features.chunks_exact(width)))?;
            progress.step(batch.len() as u64);
        }
        Ok(())
    });
    progress.end();
    outcome
}
