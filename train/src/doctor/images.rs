//! A look at every photo.

use headstock_loader::DecodeError;
use headstock_loader::checks::{Inspection, SizeStats, inspect};
use headstock_loader::duplicates::Signature;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::findings::{Finding, FindingItem, FindingKind};
use super::{DatasetView, sample_ref};
use crate::progress::Progress;
use crate::samples::ListedSample;
use crate::signature_cache::SignatureCache;

/// What is known of a photo.
#[derive(Default)]
pub(super) struct ImageInspection {
    /// Of its bytes, where they can be read.
    pub(super) hash: Option<[u8; 32]>,
    pub(super) file_info: Option<Inspection>,
    /// Of its pixels, where it can be decoded.
    pub(super) signature: Option<Signature>,
    pub(super) error: Option<DecodeError>,
}

/// Looks at every photo, on all cores; each core holds one at a time. Those that have a signature already were decoded for it.
pub(super) fn inspect_images(
    samples: &[ListedSample],
    signatures: &SignatureCache,
    progress: &dyn Progress,
) -> Vec<ImageInspection> {
    progress.begin_run("looking at photos", samples.len() as u64, "photos");
    let inspections = samples.par_iter().map(|sample| {
        let inspection = inspect_image(sample, signatures);
        progress.step(1);
        inspection
    });
    let inspections = inspections.collect();
    progress.train_to_end();
    inspections
}

fn inspect_image(sample: &ListedSample, signatures: &SignatureCache) -> ImageInspection {
    let bytes = match sample.image.read() {
        Ok(bytes) => bytes,
        Err(error) => return ImageInspection { error: Some(error), ..ImageInspection::default() },
    };
    let inspection = ImageInspection {
        hash: Some(Sha256::digest(&bytes).into()),
        file_info: inspect(&bytes),
        ..ImageInspection::default()
    };
    match signatures.signature(&bytes) {
        Ok(signature) => ImageInspection { signature: Some(signature), ..inspection },
        Err(error) => ImageInspection { error: Some(error), ..inspection },
    }
}

/// What is wrong or odd with single photos.
pub(super) fn findings(dataset: &DatasetView<'_>, inspections: &[ImageInspection]) -> Vec<Finding> {
    let readable = || inspections.iter().enumerate().filter(|(_, inspection)| inspection.error.is_none());
    let file_infos = || readable().filter_map(|(sample, look)| Some((sample, look.file_info?)));
    let item = |sample: usize, detail: String| FindingItem {
        photos: vec![sample_ref(dataset, sample)],
        detail,
        doubt: None,
    };

    let unreadable_items = |truncated: bool| -> Vec<FindingItem> {
        let errors =
            inspections.iter().enumerate().filter_map(|(sample, look)| Some((sample, look.error.as_ref()?)));
        errors
            .filter(|(_, error)| error.is_truncated() == truncated)
            .map(|(sample, error)| item(sample, error.to_string()))
            .collect()
    };
    let animated = file_infos().filter(|(_, stored)| stored.frames > 1).map(|(sample, stored)| {
        let unit = if stored.format == "TIFF" { "pages" } else { "frames" };
        item(sample, format!("{}, {} {unit}", stored.format, stored.frames))
    });
    let rotated = file_infos().filter(|(_, stored)| stored.orientation != 1);
    let rotated =
        rotated.map(|(sample, stored)| item(sample, format!("EXIF orientation {}", stored.orientation)));

    // What most photos are is not odd, grey x-rays, say.
    let mut modes: Vec<_> = file_infos().map(|(_, stored)| stored.mode).collect();
    modes.sort_unstable();
    let usual = modes.chunk_by(|a, b| a == b).find(|same| 2 * same.len() > modes.len()).map(|same| same[0]);
    let odd = file_infos().filter(|(_, stored)| !stored.mode.is_rgb8() && Some(stored.mode) != usual);
    let odd = odd.map(|(sample, stored)| item(sample, format!("{}, {}", stored.format, stored.mode)));

    let format_size = |(width, height): (u32, u32)| format!("{width} x {height}");
    let sizes = SizeStats::from_sizes(file_infos().map(|(_, stored)| stored.size));
    let extreme = file_infos().filter(|(_, stored)| sizes.is_some_and(|sizes| sizes.is_extreme(stored.size)));
    let extreme = extreme.map(|(sample, stored)| item(sample, format_size(stored.size)));
    let long = file_infos().filter(|(_, stored)| SizeStats::is_elongated(stored.size));
    let long = long.map(|(sample, stored)| item(sample, format_size(stored.size)));

    let items_by_kind = [
        (FindingKind::Unreadable, unreadable_items(false)),
        (FindingKind::Truncated, unreadable_items(true)),
        (FindingKind::Animated, animated.collect()),
        (FindingKind::Rotated, rotated.collect()),
        (FindingKind::OddMode, odd.collect()),
        (FindingKind::ExtremeSize, extreme.collect()),
        (FindingKind::ExtremeAspect, long.collect()),
    ];
    items_by_kind.into_iter().filter_map(|(kind, items)| Finding::from_items(kind, None, items)).collect()
}
