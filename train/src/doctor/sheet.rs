//! What augmentation makes of a few photos.

use std::path::Path;

use headstock_loader::augment::contact_sheet;
use headstock_loader::encode::png;
use headstock_loader::{EvalTransform, Resampling, decode};
use sha2::{Digest, Sha256};

use crate::config::{Settings, Source};
use crate::error::TrainError;
use crate::features::Stock;
use crate::files::write_whole;
use crate::progress::Progress;
use crate::samples::{Collected, Part};

/// Photos on a sheet, each of another class as long as there are classes, and augmented views of each.
const PHOTOS: usize = 6;
const VIEWS: u32 = 7;

/// How photos are rendered where no weights say it.
const PLAIN: EvalTransform =
    EvalTransform { resize: 256, crop: (224, 224), interpolation: Resampling::Bilinear };

/// A sheet that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentSheet {
    /// Rows.
    pub photos: usize,
    /// Augmented views in a row, beside the plain one.
    pub views: u32,
}

/// Writes a PNG: a row for each of a few training photos, its plain view first, then the first augmented ones as training has
/// them.
///
/// # Errors
/// [`TrainError::Usage`] where `[augment]` is empty or the ending is another, [`TrainError::Data`] where no photo can be read,
/// and those of listing and of the weights.
pub fn show_augment(
    settings: &Settings,
    path: &Path,
    progress: &dyn Progress,
) -> Result<AugmentSheet, TrainError> {
    let usage = |problem: &str| Err(TrainError::Usage(problem.into()));
    let Source::Photos { main, test } = &settings.source else {
        return usage("augmented views are made of photos: `data.features` has none");
    };
    if settings.options.augment.is_empty() {
        return usage("[augment] is empty: every view would be the plain one");
    }
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png")) {
        return usage("--show-augment writes a PNG: name a file that ends in .png");
    }
    let plain = match &settings.options.backbone {
        Some(backbone) => Stock::open(backbone, progress)?.transform(),
        None => PLAIN,
    };
    let collected = Collected::read(settings, main, test.as_ref(), progress)?;
    let (mut photos, mut keys) = (Vec::new(), Vec::new());
    for sample in chosen(&collected) {
        let Ok(bytes) = collected.samples[sample].photo.read() else { continue };
        let Ok(photo) = decode(&bytes, settings.options.data.max_pixels) else { continue };
        photos.push(photo);
        keys.push(Sha256::digest(&bytes).into());
        if photos.len() == PHOTOS {
            break;
        }
    }
    if photos.is_empty() {
        return Err(TrainError::Data("no training photo can be read".into()));
    }
    let sheet = contact_sheet(&settings.options.augment, &plain, &photos, &keys, VIEWS);
    write_whole(path, &png(&sheet)).map_err(TrainError::io("write", path))?;
    Ok(AugmentSheet { photos: photos.len(), views: VIEWS })
}

/// The training photos: the first of each class, then the second ones, and so on.
fn chosen(collected: &Collected) -> Vec<usize> {
    let mut seen = vec![0; collected.classes.len()];
    let mut ranked = Vec::new();
    for (number, sample) in
        collected.samples.iter().enumerate().filter(|(_, sample)| sample.part == Part::Train)
    {
        let rank = &mut seen[sample.label as usize];
        ranked.push((*rank, sample.label, number));
        *rank += 1;
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, number)| number).collect()
}
