//! Parsers of image headers: size, pixel format, number of frames, orientation.

mod tiff;

use image::metadata::Orientation;

use super::{ColorMode, ColorSpace, Inspection};

/// Detects the format from the first bytes and parses the header.
pub(super) fn read(bytes: &[u8]) -> Option<Inspection> {
    match bytes {
        [0xFF, 0xD8, ..] => jpeg(bytes),
        [0x89, b'P', b'N', b'G', ..] => png(bytes),
        [b'G', b'I', b'F', b'8', ..] => gif(bytes),
        [b'B', b'M', ..] => bmp(bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(bytes),
        [b'I', b'I', ..] | [b'M', b'M', ..] => tiff::read(bytes),
        _ => None,
    }
}

fn color_mode(color_space: ColorSpace, transparent: bool, bits: u8) -> ColorMode {
    ColorMode { color_space, transparent, bits, is_float: false }
}

fn exif_orientation(exif: &[u8]) -> Option<u8> {
    Orientation::from_exif_chunk(exif).map(Orientation::to_exif)
}

fn u16_be(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_be(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u16_le(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_le(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Reads the segments up to the first scan; skips stray bytes between segments.
fn jpeg(bytes: &[u8]) -> Option<Inspection> {
    let (mut frame, mut orientation) = (None, None);
    let mut offset = 2;
    loop {
        offset += bytes
            .get(offset..)?
            .windows(2)
            .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF))?;
        let marker = bytes[offset + 1];
        offset += 2;
        if matches!(marker, 0x01 | 0xD0..=0xD8) {
            continue;
        }
        if matches!(marker, 0xD9 | 0xDA) {
            break;
        }
        let length = usize::from(u16_be(bytes, offset)?).max(2);
        let segment = bytes.get(offset + 2..offset + length)?;
        match (marker, segment) {
            (0xC0..=0xCF, &[bits, _, _, _, _, components, ..]) if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let color_space = match components {
                    1 => ColorSpace::Gray,
                    3 => ColorSpace::Rgb,
                    4 => ColorSpace::Cmyk,
                    _ => ColorSpace::Other,
                };
                frame =
                    Some((u16_be(segment, 3)?, u16_be(segment, 1)?, color_mode(color_space, false, bits)));
            }
            (0xE1, [b'E', b'x', b'i', b'f', 0, 0, exif @ ..]) => {
                orientation = orientation.or_else(|| exif_orientation(exif));
            }
            _ => {}
        }
        offset += length;
    }
    let (width, height, mode) = frame?;
    let size = (width.into(), height.into());
    Some(Inspection { format: "JPEG", size, mode, frames: 1, orientation: orientation.unwrap_or(1) })
}

fn png(bytes: &[u8]) -> Option<Inspection> {
    let size = (u32_be(bytes, 16)?, u32_be(bytes, 20)?);
    let (bits, kind) = (*bytes.get(24)?, *bytes.get(25)?);
    let (color_space, transparent) = match kind {
        0 => (ColorSpace::Gray, false),
        3 => (ColorSpace::Palette, false),
        4 => (ColorSpace::Gray, true),
        6 => (ColorSpace::Rgb, true),
        _ => (ColorSpace::Rgb, false),
    };
    // Colors of a palette have 8 bits, whatever the size of the indices.
    let bits = if color_space == ColorSpace::Palette { 8 } else { bits };
    let mode = color_mode(color_space, transparent, bits);
    let mut inspection = Inspection { format: "PNG", size, mode, frames: 1, orientation: 1 };
    let mut offset = 8;
    // Chunks after the end of a truncated file are ignored.
    while let (Some(length), Some(kind)) = (u32_be(bytes, offset), bytes.get(offset + 4..offset + 8)) {
        let length = length as usize;
        match (kind, bytes.get(offset + 8..).and_then(|rest| rest.get(..length))) {
            (b"IEND", _) | (_, None) => break,
            (b"tRNS", _) => inspection.mode.transparent = true,
            (b"acTL", Some(chunk)) => inspection.frames = u32_be(chunk, 0).unwrap_or(1).max(1) as usize,
            (b"eXIf", Some(exif)) => {
                inspection.orientation = exif_orientation(exif).unwrap_or(inspection.orientation);
            }
            _ => {}
        }
        offset += length + 12;
    }
    Some(inspection)
}

fn gif(bytes: &[u8]) -> Option<Inspection> {
    let size = (u16_le(bytes, 6)?.into(), u16_le(bytes, 8)?.into());
    let color_table_size = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut offset = 13 + color_table_size(*bytes.get(10)?);
    let (mut frames, mut transparent) = (0, false);
    while let Some(block) = bytes.get(offset) {
        match block {
            0x2C => {
                let Some(&flags) = bytes.get(offset + 9) else { break };
                frames += 1;
                offset += 11 + color_table_size(flags);
            }
            0x21 => {
                // A graphic control extension before the first frame.
                if let (Some([0xF9, 4, flags]), 0) = (bytes.get(offset + 1..offset + 4), frames) {
                    transparent = flags & 1 == 1;
                }
                offset += 2;
            }
            _ => break,
        }
        while let Some(&length) = bytes.get(offset) {
            offset += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
    let mode = color_mode(ColorSpace::Palette, transparent, 8);
    Some(Inspection { format: "GIF", size, mode, frames: frames.max(1), orientation: 1 })
}

fn bmp(bytes: &[u8]) -> Option<Inspection> {
    const CORE_HEADER_SIZE: u32 = 12;
    let (size, bits) = if u32_le(bytes, 14)? == CORE_HEADER_SIZE {
        ((u16_le(bytes, 18)?.into(), u16_le(bytes, 20)?.into()), u16_le(bytes, 24)?)
    } else {
        // A negative height means rows from top to bottom.
        let side = |offset| u32_le(bytes, offset).map(|side| (side as i32).unsigned_abs());
        ((side(18)?, side(22)?), u16_le(bytes, 28)?)
    };
    let color_space = if bits <= 8 { ColorSpace::Palette } else { ColorSpace::Rgb };
    let mode = color_mode(color_space, false, 8);
    Some(Inspection { format: "BMP", size, mode, frames: 1, orientation: 1 })
}

fn webp(bytes: &[u8]) -> Option<Inspection> {
    let (mut size, mut transparent, mut frames, mut orientation) = (None, false, 0, 1);
    let mut offset = 12;
    while let (Some(kind), Some(length)) = (bytes.get(offset..offset + 4), u32_le(bytes, offset + 4)) {
        let rest = bytes.get(offset + 8..).unwrap_or_default();
        match (kind, rest) {
            (b"VP8X", &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..]) => {
                let side = |bytes: [u8; 3]| 1 + u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                size = Some((side([w0, w1, w2]), side([h0, h1, h2])));
                transparent = flags & 0x10 != 0;
            }
            (b"VP8 ", _) if size.is_none() => {
                let side = |offset| Some(u32::from(u16_le(rest, offset)? & 0x3FFF));
                size = side(6).zip(side(8));
            }
            (b"VP8L", _) if size.is_none() => {
                let packed = u32_le(rest, 1)?;
                size = Some(((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1));
                transparent = packed >> 28 & 1 == 1;
            }
            (b"ANMF", _) => frames += 1,
            (b"EXIF", _) => {
                let exif = &rest[..rest.len().min(length as usize)];
                let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
                orientation = exif_orientation(exif).unwrap_or(orientation);
            }
            _ => {}
        }
        // Chunks start at even offsets.
        offset = offset.saturating_add(8 + length as usize + (length as usize & 1));
    }
    let mode = color_mode(ColorSpace::Rgb, transparent, 8);
    Some(Inspection { format: "WebP", size: size?, mode, frames: frames.max(1), orientation })
}
