//! TIFF image file directories, one per page.

use std::collections::BTreeSet;

use super::{ColorMode, ColorSpace, Inspection};

pub(super) fn read(bytes: &[u8]) -> Option<Inspection> {
    let mut tiff = TiffReader { bytes, is_little_endian: bytes[0] == b'I', is_big_tiff: false };
    tiff.is_big_tiff = match tiff.uint_at(2, 2)? {
        42 => false,
        43 => true,
        _ => return None,
    };
    let first = if tiff.is_big_tiff { tiff.uint_at(8, 8)? } else { tiff.uint_at(4, 4)? };
    let page = tiff.page_at(first)?;
    // The chain of directories may have a cycle.
    let (mut offsets, mut next_offset) = (BTreeSet::from([first]), page.next_offset);
    while let Some(page) =
        next_offset.filter(|&offset| offset > 0 && offsets.insert(offset)).map(|offset| tiff.page_at(offset))
    {
        next_offset = page.and_then(|page| page.next_offset);
        if next_offset.is_none() {
            break;
        }
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

struct TiffPage {
    inspection: Inspection,
    /// Offset of the next directory; 0 after the last.
    next_offset: Option<usize>,
}

impl TiffReader<'_> {
    /// The unsigned integer of `length` bytes at `offset`.
    fn uint_at(&self, offset: usize, length: usize) -> Option<usize> {
        let bytes = self.bytes.get(offset..offset.checked_add(length)?)?;
        let push_byte = |number: usize, &byte: &u8| (number << 8) | usize::from(byte);
        Some(if self.is_little_endian {
            bytes.iter().rev().fold(0, push_byte)
        } else {
            bytes.iter().fold(0, push_byte)
        })
    }

    /// Reads the image file directory at `offset`.
    fn page_at(&self, offset: usize) -> Option<TiffPage> {
        let (count_size, entry_size, value_size) = if self.is_big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let entries = self.uint_at(offset, count_size)?;
        let (mut size, mut bits, mut n_samples, mut n_extra_samples) = ((0, 0), 1, 1, 0);
        let (mut photometric, mut is_float, mut orientation) = (1, false, 1);
        let mut position = offset + count_size;
        for _ in 0..entries {
            let (tag, kind) = (self.uint_at(position, 2)?, self.uint_at(position + 2, 2)?);
            let count = self.uint_at(position + 4, value_size)?;
            let value_offset = position + 4 + value_size;
            let type_size = match kind {
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
                    256 => size.0 = first()?,
                    257 => size.1 = first()?,
                    258 => bits = first()?,
                    262 => photometric = first()?,
                    274 => orientation = first()?,
                    277 => n_samples = first()?,
                    338 => n_extra_samples = count,
                    339 => is_float = first()? == 3,
                    _ => {}
                }
            }
            position = position.checked_add(entry_size)?;
        }
        let color_space = match (photometric, n_samples) {
            (0 | 1, _) => ColorSpace::Gray,
            (2 | 6, _) => ColorSpace::Rgb,
            (3, _) => ColorSpace::Palette,
            (5, _) => ColorSpace::Cmyk,
            _ => ColorSpace::Other,
        };
        let bits = u8::try_from(bits).ok()?;
        let mode = ColorMode { color_space, transparent: n_extra_samples > 0, bits, is_float };
        let size = (u32::try_from(size.0).ok()?, u32::try_from(size.1).ok()?);
        let orientation = u8::try_from(orientation).ok().filter(|known| (1..=8).contains(known)).unwrap_or(1);
        let inspection = Inspection { format: "TIFF", size, mode, frames: 1, orientation };
        let next_offset = self.uint_at(position, if self.is_big_tiff { 8 } else { 4 });
        Some(TiffPage { inspection, next_offset })
    }
}
