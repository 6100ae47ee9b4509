//! How the pages of a TIFF are stored.

use std::collections::BTreeSet;

use super::{ColorMode, ColorSpace, Inspection};
use crate::tiff_tags::{TiffDirectory, TiffTags};

/// How a TIFF is stored, for [`inspect`](crate::checks::inspect): reads the header of the first page and
/// counts the pages. `None` if the file is no TIFF or the first page is incomplete.
pub(super) fn read(bytes: &[u8]) -> Option<Inspection> {
    let tiff = TiffTags::open(bytes)?;
    let first_page = tiff.directory_at(tiff.first_directory)?;
    let inspection = inspect_page(&tiff, &first_page)?;
    // Each directory has the offset of the next one. Offsets seen before are a cycle, where counting ends.
    let (mut offsets, mut next_offset) = (BTreeSet::from([tiff.first_directory]), first_page.next_offset);
    while let Some(offset) = next_offset.filter(|&offset| offset > 0 && offsets.insert(offset)) {
        next_offset = tiff.directory_at(offset).and_then(|page| page.next_offset);
    }
    Some(Inspection { frames: offsets.len(), ..inspection })
}

/// How the page of this directory is stored. A tag that is missing has its default in the standard; only the
/// first value of a tag is read. `None` if a value is missing or invalid.
fn inspect_page(tiff: &TiffTags<'_>, page: &TiffDirectory) -> Option<Inspection> {
    let (mut width, mut height, mut bits, mut n_samples, mut n_extra_samples) = (0, 0, 1, 1, 0);
    let (mut photometric, mut is_float, mut orientation) = (1, false, 1);
    for entry in &page.entries {
        let first = || tiff.values(entry).next();
        match entry.tag {
            256 => width = first()?,              // ImageWidth
            257 => height = first()?,             // ImageLength
            258 => bits = first()?,               // BitsPerSample
            262 => photometric = first()?,        // PhotometricInterpretation
            274 => orientation = first()?,        // Orientation
            277 => n_samples = first()?,          // SamplesPerPixel
            338 => n_extra_samples = entry.count, // ExtraSamples, such as alpha
            339 => is_float = first()? == 3,      // SampleFormat
            _ => {}
        }
    }
    // PhotometricInterpretation: 0 and 1 are gray, 2 is RGB, 6 YCbCr, 3 a palette, 5 CMYK.
    let color_space = match (photometric, n_samples) {
        (0 | 1, _) => ColorSpace::Gray,
        (2 | 6, _) => ColorSpace::Rgb,
        (3, _) => ColorSpace::Palette,
        (5, _) => ColorSpace::Cmyk,
        _ => ColorSpace::Other,
    };
    let bits = u8::try_from(bits).ok()?;
    let mode = ColorMode { color_space, transparent: n_extra_samples > 0, bits, is_float };
    let size = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    let orientation = u8::try_from(orientation).ok().filter(|known| (1..=8).contains(known)).unwrap_or(1);
    Some(Inspection { format: "TIFF", size, mode, frames: 1, orientation })
}
