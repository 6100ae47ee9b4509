//! TIFF image file directories, one per page.

use std::collections::BTreeSet;

use super::{ColorMode, ColorSpace, Inspection};

/// How a TIFF is stored, for [`inspect`](crate::checks::inspect): reads the header of the first page and
/// counts the pages. `bytes` must not be empty. `None` if the file is no TIFF or the first page is
/// incomplete.
pub(super) fn read(bytes: &[u8]) -> Option<Inspection> {
    let mut tiff = TiffReader { bytes, is_little_endian: bytes[0] == b'I', is_big_tiff: false };
    // The version number after the byte order.
    tiff.is_big_tiff = match tiff.uint_at(2, 2)? {
        42 => false,
        43 => true,
        _ => return None,
    };
    let first_offset = if tiff.is_big_tiff { tiff.uint_at(8, 8)? } else { tiff.uint_at(4, 4)? };
    let page = tiff.page_at(first_offset)?;
    // Each directory has the offset of the next one. Offsets seen before are a cycle, where counting ends.
    let (mut offsets, mut next_offset) = (BTreeSet::from([first_offset]), page.next_offset);
    while let Some(offset) = next_offset.filter(|&offset| offset > 0 && offsets.insert(offset)) {
        next_offset = tiff.page_at(offset).and_then(|page| page.next_offset);
    }
    Some(Inspection { frames: offsets.len(), ..page.inspection })
}

/// Reads integers and directories of a TIFF or BigTIFF.
struct TiffReader<'a> {
    bytes: &'a [u8],
    is_little_endian: bool,
    /// Whether offsets are 64-bit.
    is_big_tiff: bool,
}

/// The contents of an image file directory, which describes one page.
struct TiffPage {
    inspection: Inspection,
    /// Offset of the next directory: 0 after the last, `None` if the file ends before.
    next_offset: Option<usize>,
}

impl TiffReader<'_> {
    /// The unsigned integer of `length` bytes at `offset`, in the file's byte order; `None` if the file ends
    /// before.
    fn uint_at(&self, offset: usize, length: usize) -> Option<usize> {
        let bytes = self.bytes.get(offset..offset.checked_add(length)?)?;
        let push_byte = |number: usize, &byte: &u8| (number << 8) | usize::from(byte);
        Some(if self.is_little_endian {
            bytes.iter().rev().fold(0, push_byte)
        } else {
            bytes.iter().fold(0, push_byte)
        })
    }

    /// Reads the image file directory of one page at `offset`: a count, then entries of a tag, a type, a
    /// number of values and the values (or their offset, if they do not fit). It says how the page is stored
    /// and where the next directory is. A tag that is missing has its default in the standard; only the first
    /// value of a tag is read. `None` if the directory is incomplete or the size invalid.
    fn page_at(&self, offset: usize) -> Option<TiffPage> {
        let (count_size, entry_size, value_size) = if self.is_big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let n_entries = self.uint_at(offset, count_size)?;
        let (mut width, mut height, mut bits, mut n_samples, mut n_extra_samples) = (0, 0, 1, 1, 0);
        let (mut photometric, mut is_float, mut orientation) = (1, false, 1);
        let mut position = offset + count_size;
        for _ in 0..n_entries {
            let (tag, value_type) = (self.uint_at(position, 2)?, self.uint_at(position + 2, 2)?);
            let count = self.uint_at(position + 4, value_size)?;
            let value_offset = position + 4 + value_size;
            // BYTE, SHORT, LONG and LONG8; values of other types are not needed.
            let type_size = match value_type {
                1 => 1,
                3 => 2,
                4 => 4,
                16 => 8,
                _ => 0,
            };
            if type_size > 0 && count > 0 {
                let is_inline = count.checked_mul(type_size).is_some_and(|size| size <= value_size);
                let first = || {
                    let offset =
                        if is_inline { value_offset } else { self.uint_at(value_offset, value_size)? };
                    self.uint_at(offset, type_size)
                };
                match tag {
                    256 => width = first()?,         // ImageWidth
                    257 => height = first()?,        // ImageLength
                    258 => bits = first()?,          // BitsPerSample
                    262 => photometric = first()?,   // PhotometricInterpretation
                    274 => orientation = first()?,   // Orientation
                    277 => n_samples = first()?,     // SamplesPerPixel
                    338 => n_extra_samples = count,  // ExtraSamples, such as alpha
                    339 => is_float = first()? == 3, // SampleFormat
                    _ => {}
                }
            }
            position = position.checked_add(entry_size)?;
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
        let inspection = Inspection { format: "TIFF", size, mode, frames: 1, orientation };
        let next_offset = self.uint_at(position, if self.is_big_tiff { 8 } else { 4 });
        Some(TiffPage { inspection, next_offset })
    }
}
