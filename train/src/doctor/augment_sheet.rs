//! A contact sheet of augmented images.

use std::path::Path;

use headstock_inference::{PretrainedBackbone, Progress};
use headstock_loader::encode::png;
use headstock_loader::{EvalTransform, Resampling, Resize, contact_sheet, decode};
use sha2::{Digest, Sha256};

use crate::atomic_write::write_atomically;
use crate::config::Settings;
use crate::error::{Remedy, TrainError};
use crate::samples::{DatasetListing, Subset};

/// Number of images on a sheet, of as many classes as possible.
const N_IMAGES: usize = 6;

/// Number of augmented views of each image.
const N_VIEWS: u32 = 7;

/// The transform if there are no weights that define it.
const DEFAULT_TRANSFORM: EvalTransform =
    EvalTransform { resize: Resize::ShortSide(256), crop: (224, 224), interpolation: Resampling::Bilinear };

/// Summary of a written sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentSheet {
    /// The number of images, one per row.
    pub images: usize,
    /// The number of augmented views in a row, after the unaugmented one.
    pub views: u32,
}

/// Writes a PNG to `path` that shows the user what `[augment]` does. It has a row for each of a few training
/// images: the unaugmented view, then the first augmented views that training uses.
///
/// # Errors
/// [`TrainError::Usage`] if `[augment]` is empty or the file name does not end in `.png`,
/// [`TrainError::Data`] if no image can be read, and the errors of listing the data and of the weights.
pub fn write_augment_sheet(
    settings: &Settings,
    path: &Path,
    progress: &dyn Progress,
) -> Result<AugmentSheet, TrainError> {
    if settings.augment.is_empty() {
        let problem = "there is no augmentation, so all augmented copies of a photo would be the same";
        return Err(TrainError::Usage(problem.into()).with_remedy(Remedy::AddAugmentation));
    }
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png")) {
        let problem = "the sheet is a PNG picture: the file name must end in .png";
        return Err(TrainError::Usage(problem.into()));
    }
    let eval_transform = match &settings.backbone {
        Some(backbone) => PretrainedBackbone::open(backbone, progress)?.transform(),
        None => DEFAULT_TRANSFORM,
    };
    let listing = DatasetListing::read(settings, progress)?;
    // The hash of an image determines its random augmentation.
    let (mut images, mut hashes) = (Vec::new(), Vec::new());
    for sample in select_samples(&listing) {
        let Ok(bytes) = listing.images[sample].read() else { continue };
        let Ok(image) = decode(&bytes, settings.decode) else { continue };
        images.push(image);
        hashes.push(Sha256::digest(&bytes).into());
        if images.len() == N_IMAGES {
            break;
        }
    }
    if images.is_empty() {
        let problem = "no training photo can be read";
        return Err(TrainError::Data(problem.into()).with_remedy(Remedy::ExamineImages));
    }
    let sheet = contact_sheet(&settings.augment, &eval_transform, &images, &hashes, N_VIEWS);
    write_atomically(path, &png(&sheet))?;
    Ok(AugmentSheet { images: images.len(), views: N_VIEWS })
}

/// The indices of all training samples in the order in which the sheet, a picture of augmented images,
/// prefers them: the first sample of each class, then the second of each class, and so on, so that the few
/// images on it show as many classes as possible.
fn select_samples(listing: &DatasetListing) -> Vec<usize> {
    let mut seen = vec![0; listing.samples.classes.len()];
    let mut ranked = Vec::new();
    for (index, sample) in
        listing.samples.rows.iter().enumerate().filter(|(_, sample)| sample.subset == Subset::Train)
    {
        // How many samples of this class come before this one.
        let rank = &mut seen[sample.label as usize];
        ranked.push((*rank, sample.label, index));
        *rank += 1;
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, index)| index).collect()
}
