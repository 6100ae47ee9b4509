//! Inspects single images.

use headstock_inference::Progress;
use headstock_loader::checks::{Inspection, SizeStats, inspect};
use headstock_loader::duplicates::Signature;
use headstock_loader::{ColorProfiles, DecodeError, DecodeOptions, ImageRef, LazyImage};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::findings::{Finding, FindingItem, FindingKind};
use super::sample_ref;
use crate::samples::SampleSet;
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
    /// Whether the file ends too early, and what is there is used.
    pub(super) is_incomplete: bool,
    /// The name of its color profile, if it is another than sRGB.
    pub(super) color_profile: Option<String>,
    /// Why the image cannot be read or decoded.
    pub(super) error: Option<DecodeError>,
}

/// Inspects all images in parallel, with one image per core in memory. `signatures` caches the signatures of
/// images, which are summaries for finding near-duplicates; images with a cached one are not decoded again.
/// `decode` says which images are readable.
pub(super) fn inspect_images(
    images: &[ImageRef],
    signatures: &SignatureCache,
    decode: DecodeOptions,
    progress: &dyn Progress,
) -> Vec<ImageInspection> {
    progress.begin("checking photos", images.len() as u64, "photos");
    let inspections = images.par_iter().map(|image| {
        let inspection = inspect_image(image, signatures, decode);
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
fn inspect_image(image: &ImageRef, signatures: &SignatureCache, decode: DecodeOptions) -> ImageInspection {
    let mut inspection = ImageInspection::default();
    let signature = image.read().map_err(DecodeError::from).and_then(|bytes| {
        inspection.hash = Some(Sha256::digest(&bytes).into());
        inspection.file_info = inspect(&bytes);
        // The profile is known only if it is not ignored.
        if let Ok(image) = LazyImage::open(&bytes, DecodeOptions { color: ColorProfiles::Srgb, ..decode }) {
            inspection.is_incomplete = image.is_truncated();
            inspection.color_profile = image.converted_profile().map(str::to_owned);
        }
        signatures.signature(&bytes)
    });
    match signature {
        Ok(signature) => inspection.signature = Some(signature),
        Err(error) => inspection.error = Some(error),
    }
    inspection
}

/// The findings about single images, such as unreadable, rotated or tiny ones, for the report of `doctor`.
/// `inspections` has the result of inspecting each sample's image file.
pub(super) fn findings(dataset: &SampleSet, inspections: &[ImageInspection]) -> Vec<Finding> {
    // The finding of all samples of which `describe` gives the details.
    let finding = |kind: FindingKind, describe: &dyn Fn(&ImageInspection) -> Option<String>| {
        let item = |(sample, inspection)| {
            Some(FindingItem::new(vec![sample_ref(dataset, sample)], describe(inspection)?))
        };
        Finding::from_items(kind, None, inspections.iter().enumerate().filter_map(item).collect())
    };
    let unreadable = |inspection: &ImageInspection, truncated: bool| {
        let error = inspection.error.as_ref().filter(|error| error.is_truncated() == truncated)?;
        Some(error.to_string())
    };
    let format_size = |info: Inspection| format!("{} x {}", info.size.0, info.size.1);
    // A mode (the kind of pixels, such as gray) of more than half of the images is not odd, as in X-rays.
    let mut modes: Vec<_> = inspections.iter().filter_map(readable_info).map(|info| info.mode).collect();
    modes.sort_unstable();
    let usual_mode =
        modes.chunk_by(|a, b| a == b).find(|equal| 2 * equal.len() > modes.len()).map(|equal| equal[0]);
    let sizes = SizeStats::from_sizes(inspections.iter().filter_map(readable_info).map(|info| info.size));
    let findings = [
        finding(FindingKind::Unreadable, &|inspection| unreadable(inspection, false)),
        finding(FindingKind::Truncated, &|inspection| unreadable(inspection, true)),
        finding(FindingKind::Incomplete, &|inspection| {
            let is_used = inspection.is_incomplete && inspection.error.is_none();
            is_used.then(|| "the end of the file is missing".into())
        }),
        finding(FindingKind::ColorProfile, &|inspection| {
            inspection.color_profile.clone().filter(|_| inspection.error.is_none())
        }),
        finding(FindingKind::Animated, &|inspection| {
            let info = readable_info(inspection).filter(|info| info.frames > 1)?;
            let unit = if info.format == "TIFF" { "pages" } else { "frames" };
            Some(format!("{}, {} {unit}", info.format, info.frames))
        }),
        finding(FindingKind::Rotated, &|inspection| {
            // Orientation 1 is upright.
            let info = readable_info(inspection).filter(|info| info.orientation != 1)?;
            Some(format!("EXIF orientation {}", info.orientation))
        }),
        finding(FindingKind::OddMode, &|inspection| {
            let is_odd = |info: &Inspection| !info.mode.is_rgb8() && Some(info.mode) != usual_mode;
            let info = readable_info(inspection).filter(is_odd)?;
            Some(format!("{}, {}", info.format, info.mode))
        }),
        finding(FindingKind::ExtremeSize, &|inspection| {
            let is_extreme = |info: &Inspection| sizes.is_some_and(|sizes| sizes.is_extreme(info.size));
            readable_info(inspection).filter(is_extreme).map(format_size)
        }),
        finding(FindingKind::ExtremeAspect, &|inspection| {
            readable_info(inspection).filter(|info| SizeStats::is_elongated(info.size)).map(format_size)
        }),
    ];
    findings.into_iter().flatten().collect()
}

/// How the file of a readable image stores it, if its format is known.
fn readable_info(inspection: &ImageInspection) -> Option<Inspection> {
    inspection.file_info.filter(|_| inspection.error.is_none())
}
