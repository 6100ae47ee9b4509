//! Inspects single images.

use headstock_inference::Progress;
use headstock_loader::DecodeError;
use headstock_loader::checks::{Inspection, SizeStats, inspect};
use headstock_loader::duplicates::Signature;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::findings::{Finding, FindingItem, FindingKind};
use super::{DatasetView, sample_ref};
use crate::samples::ListedSample;
use crate::signature_cache::SignatureCache;

/// The result of inspecting an image.
#[derive(Default)]
pub(super) struct ImageInspection {
    /// SHA-256 of the bytes, if they can be read.
    pub(super) hash: Option<[u8; 32]>,
    /// How the file stores the image, if its format is known.
    pub(super) file_info: Option<Inspection>,
    /// A small summary of the pixels, for finding near-duplicates, if they can be decoded.
    pub(super) signature: Option<Signature>,
    /// Why the image cannot be read or decoded.
    pub(super) error: Option<DecodeError>,
}

/// Inspects all images in parallel, with one image per core in memory. `signatures` caches the signatures of
/// images, which are summaries for finding near-duplicates; images with a cached one are not decoded again.
pub(super) fn inspect_images(
    samples: &[ListedSample],
    signatures: &SignatureCache,
    progress: &dyn Progress,
) -> Vec<ImageInspection> {
    progress.begin("checking photos", samples.len() as u64, "photos");
    let inspections = samples.par_iter().map(|sample| {
        let inspection = inspect_image(sample, signatures);
        progress.step(1);
        inspection
    });
    let inspections = inspections.collect();
    progress.end();
    inspections
}

/// Inspects the file of one image for the checks of `doctor`: gets its hash, its file format, and its
/// signature, a summary of the pixels for finding near-duplicates. Decodes the image only if its signature is
/// not cached in `signatures`. An error is part of the result.
fn inspect_image(sample: &ListedSample, signatures: &SignatureCache) -> ImageInspection {
    let bytes = match sample.image.read() {
        Ok(bytes) => bytes,
        Err(error) => return ImageInspection { error: Some(error.into()), ..ImageInspection::default() },
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

/// The findings about single images, such as unreadable, rotated or tiny ones, for the report of `doctor`.
/// `inspections` has the result of inspecting each sample's image file.
pub(super) fn findings(dataset: &DatasetView<'_>, inspections: &[ImageInspection]) -> Vec<Finding> {
    let readable = || inspections.iter().enumerate().filter(|(_, inspection)| inspection.error.is_none());
    let file_infos = || readable().filter_map(|(sample, inspection)| Some((sample, inspection.file_info?)));
    let item = |sample: usize, detail: String| FindingItem {
        images: vec![sample_ref(dataset, sample)],
        detail,
        suggestion: None,
    };

    let unreadable_items = |truncated: bool| -> Vec<FindingItem> {
        let errors = inspections
            .iter()
            .enumerate()
            .filter_map(|(sample, inspection)| Some((sample, inspection.error.as_ref()?)));
        errors
            .filter(|(_, error)| error.is_truncated() == truncated)
            .map(|(sample, error)| item(sample, error.to_string()))
            .collect()
    };
    let animated = file_infos().filter(|(_, info)| info.frames > 1).map(|(sample, info)| {
        let unit = if info.format == "TIFF" { "pages" } else { "frames" };
        item(sample, format!("{}, {} {unit}", info.format, info.frames))
    });
    // Orientation 1 is upright.
    let rotated = file_infos().filter(|(_, info)| info.orientation != 1);
    let rotated =
        rotated.map(|(sample, info)| item(sample, format!("EXIF orientation {}", info.orientation)));

    // A mode (the kind of pixels, such as gray) of more than half of the images is not odd, as in X-rays.
    let mut modes: Vec<_> = file_infos().map(|(_, info)| info.mode).collect();
    modes.sort_unstable();
    let usual_mode =
        modes.chunk_by(|a, b| a == b).find(|equal| 2 * equal.len() > modes.len()).map(|equal| equal[0]);
    let odd = file_infos().filter(|(_, info)| !info.mode.is_rgb8() && Some(info.mode) != usual_mode);
    let odd = odd.map(|(sample, info)| item(sample, format!("{}, {}", info.format, info.mode)));

    let format_size = |(width, height): (u32, u32)| format!("{width} x {height}");
    let sizes = SizeStats::from_sizes(file_infos().map(|(_, info)| info.size));
    let extreme = file_infos().filter(|(_, info)| sizes.is_some_and(|sizes| sizes.is_extreme(info.size)));
    let extreme = extreme.map(|(sample, info)| item(sample, format_size(info.size)));
    let long = file_infos().filter(|(_, info)| SizeStats::is_elongated(info.size));
    let long = long.map(|(sample, info)| item(sample, format_size(info.size)));

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
