//! A look at every photo.

use headstock_loader::DecodeError;
use headstock_loader::checks::{Inspection, SizeStats, inspect};
use headstock_loader::duplicates::Signature;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::findings::{Finding, Item, Kind};
use super::{Subject, concerned};
use crate::progress::Progress;
use crate::samples::CollectedSample;
use crate::signatures::Signatures;

/// What is known of a photo.
#[derive(Default)]
pub(super) struct Look {
    /// Of its bytes, where they can be read.
    pub(super) hash: Option<[u8; 32]>,
    pub(super) stored: Option<Inspection>,
    /// Of its pixels, where it can be decoded.
    pub(super) signature: Option<Signature>,
    pub(super) fault: Option<DecodeError>,
}

/// Looks at every photo, on all cores; each core holds one at a time. Those that have a signature already were decoded for it.
pub(super) fn look(
    samples: &[CollectedSample],
    signatures: &Signatures,
    progress: &dyn Progress,
) -> Vec<Look> {
    progress.begin("looking at photos", samples.len() as u64, "photos");
    let looked = samples.par_iter().map(|sample| {
        let look = look_at(sample, signatures);
        progress.step(1);
        look
    });
    let looked = looked.collect();
    progress.end();
    looked
}

fn look_at(sample: &CollectedSample, signatures: &Signatures) -> Look {
    let bytes = match sample.photo.read() {
        Ok(bytes) => bytes,
        Err(error) => return Look { fault: Some(error), ..Look::default() },
    };
    let look = Look { hash: Some(Sha256::digest(&bytes).into()), stored: inspect(&bytes), ..Look::default() };
    match signatures.of(&bytes) {
        Ok(signature) => Look { signature: Some(signature), ..look },
        Err(error) => Look { fault: Some(error), ..look },
    }
}

/// What is wrong or odd with single photos.
pub(super) fn findings(subject: &Subject<'_>, looks: &[Look]) -> Vec<Finding> {
    let readable = || looks.iter().enumerate().filter(|(_, look)| look.fault.is_none());
    let stored = || readable().filter_map(|(sample, look)| Some((sample, look.stored?)));
    let item = |sample: usize, detail: String| Item {
        photos: vec![concerned(subject, sample)],
        detail,
        doubt: None,
    };

    let faults = |cut: bool| -> Vec<Item> {
        let faults =
            looks.iter().enumerate().filter_map(|(sample, look)| Some((sample, look.fault.as_ref()?)));
        faults
            .filter(|(_, error)| error.is_truncated() == cut)
            .map(|(sample, error)| item(sample, error.to_string()))
            .collect()
    };
    let animated = stored().filter(|(_, stored)| stored.frames > 1).map(|(sample, stored)| {
        let what = if stored.format == "TIFF" { "pages" } else { "frames" };
        item(sample, format!("{}, {} {what}", stored.format, stored.frames))
    });
    let rotated = stored().filter(|(_, stored)| stored.orientation != 1);
    let rotated =
        rotated.map(|(sample, stored)| item(sample, format!("EXIF orientation {}", stored.orientation)));

    // What most photos are is not odd, grey x-rays, say.
    let mut modes: Vec<_> = stored().map(|(_, stored)| stored.mode).collect();
    modes.sort_unstable();
    let usual = modes.chunk_by(|a, b| a == b).find(|same| 2 * same.len() > modes.len()).map(|same| same[0]);
    let odd = stored().filter(|(_, stored)| !stored.mode.is_rgb8() && Some(stored.mode) != usual);
    let odd = odd.map(|(sample, stored)| item(sample, format!("{}, {}", stored.format, stored.mode)));

    let shown = |(width, height): (u32, u32)| format!("{width} x {height}");
    let sizes = SizeStats::from_sizes(stored().map(|(_, stored)| stored.size));
    let extreme = stored().filter(|(_, stored)| sizes.is_some_and(|sizes| sizes.is_extreme(stored.size)));
    let extreme = extreme.map(|(sample, stored)| item(sample, shown(stored.size)));
    let long = stored().filter(|(_, stored)| SizeStats::is_elongated(stored.size));
    let long = long.map(|(sample, stored)| item(sample, shown(stored.size)));

    let all = [
        (Kind::Unreadable, faults(false)),
        (Kind::Truncated, faults(true)),
        (Kind::Animated, animated.collect()),
        (Kind::Rotated, rotated.collect()),
        (Kind::OddMode, odd.collect()),
        (Kind::ExtremeSize, extreme.collect()),
        (Kind::ExtremeAspect, long.collect()),
    ];
    all.into_iter().filter_map(|(kind, items)| Finding::of(kind, None, items)).collect()
}
