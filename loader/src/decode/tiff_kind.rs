//! Tells the RAW files of cameras and scientific images, which are TIFFs too, from photos.

use crate::tiff_tags::{TiffDirectory, TiffTags};

/// A kind of TIFF that is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TiffKind {
    /// The format that Adobe defined for RAW files.
    Dng,
    /// A RAW file of a camera of this maker; [`Maker::Other`] has no format that is named here.
    Raw(Maker),
    /// An image with more than four samples for each pixel.
    ManyBands,
}

/// The maker of a camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    Nikon,
    Sony,
    Other,
}

/// At most so many directories are examined; a RAW file has previews and the data of the sensor.
const MAX_DIRECTORIES: usize = 16;

// The tags of the standard, of its supplement for cameras (TIFF/EP) and of DNG.
const COMPRESSION: usize = 259;
const PHOTOMETRIC: usize = 262;
const MAKE: usize = 271;
const SAMPLES_PER_PIXEL: usize = 277;
const SUB_DIRECTORIES: usize = 330;
const DNG_VERSION: usize = 50_706;

/// `PhotometricInterpretation` of CMYK, which has a fifth sample if it is transparent.
const SEPARATED: usize = 5;
/// `PhotometricInterpretation` of the data of a sensor, with and without a filter of colors.
const SENSOR_DATA: [usize; 2] = [32_803, 34_892];
/// `Compression` of the data of sensors of Nikon, Sony, Samsung and Pentax.
const SENSOR_COMPRESSION: [usize; 4] = [34_713, 32_767, 32_770, 65_535];

/// The kind of the file `bytes` if it is a TIFF that is not decoded.
pub(super) fn detect_tiff_kind(bytes: &[u8]) -> Option<TiffKind> {
    let tiff = TiffTags::open(bytes)?;
    let first = tiff.directory_at(tiff.first_directory)?;
    if tiff.tag_values(&first, DNG_VERSION).next().is_some() {
        return Some(TiffKind::Dng);
    }
    if has_sensor_data(&tiff, &first) {
        let make = tiff.tag_values(&first, MAKE).take(8).map(|byte| char::from(byte as u8));
        let make: String = make.flat_map(char::to_uppercase).collect();
        return Some(TiffKind::Raw(match make {
            _ if make.starts_with("NIKON") => Maker::Nikon,
            _ if make.starts_with("SONY") => Maker::Sony,
            _ => Maker::Other,
        }));
    }
    let n_samples = tiff.tag_values(&first, SAMPLES_PER_PIXEL).next().unwrap_or(1);
    let is_cmyk = tiff.tag_values(&first, PHOTOMETRIC).next() == Some(SEPARATED);
    (n_samples > 4 && !is_cmyk).then_some(TiffKind::ManyBands)
}

/// Whether the directory `first`, one of those that it refers to, or one that follows it describes the data
/// of a sensor.
fn has_sensor_data(tiff: &TiffTags<'_>, first: &TiffDirectory) -> bool {
    let describes_sensor_data = |directory: &TiffDirectory| {
        let has = |tag, values: &[usize]| {
            tiff.tag_values(directory, tag).next().is_some_and(|value| values.contains(&value))
        };
        has(PHOTOMETRIC, &SENSOR_DATA) || has(COMPRESSION, &SENSOR_COMPRESSION)
    };
    let mut offsets: Vec<usize> = tiff.tag_values(first, SUB_DIRECTORIES).take(MAX_DIRECTORIES).collect();
    let mut next_offset = first.next_offset;
    while let Some(offset) = next_offset.filter(|&offset| offset > 0 && offsets.len() < 2 * MAX_DIRECTORIES) {
        offsets.push(offset);
        next_offset = tiff.directory_at(offset).and_then(|directory| directory.next_offset);
    }
    describes_sensor_data(first)
        || offsets.iter().filter_map(|&offset| tiff.directory_at(offset)).any(|d| describes_sensor_data(&d))
}
