//! Parsers of image headers: size, pixel format, number of frames, orientation.

mod tiff;

use image::metadata::Orientation;

use super::{ColorMode, ColorSpace, Inspection};

/// Reads how an image is stored from its header; `None` for an unknown format or an incomplete header. The
/// format is detected from the first bytes. Nothing is decoded, so the pixel data may still be damaged.
///
/// ```
/// use headstock_loader::checks::inspect;
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::GrayImage::new(4, 3).write_to(&mut file, image::ImageFormat::Png)?;
/// let inspection = inspect(file.get_ref()).ok_or("not an image")?;
/// assert_eq!((inspection.format, inspection.size, inspection.frames), ("PNG", (4, 3), 1));
/// assert_eq!(inspection.mode.to_string(), "gray");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn inspect(bytes: &[u8]) -> Option<Inspection> {
    match bytes {
        [0xFF, 0xD8, ..] => read_jpeg(bytes),
        [0x89, b'P', b'N', b'G', ..] => read_png(bytes),
        [b'G', b'I', b'F', b'8', ..] => read_gif(bytes),
        [b'B', b'M', ..] => read_bmp(bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => read_webp(bytes),
        [b'P', kind @ b'1'..=b'6', header @ ..] => read_pnm(*kind, header),
        [b'I', b'I', ..] | [b'M', b'M', ..] => tiff::read(bytes),
        _ => None,
    }
}

/// A color mode whose values are whole numbers.
fn color_mode(color_space: ColorSpace, transparent: bool, bits: u8) -> ColorMode {
    ColorMode { color_space, transparent, bits, is_float: false }
}

/// The orientation, 1 to 8, in EXIF data that starts with the TIFF header; `None` if it is missing or
/// invalid.
fn exif_orientation(exif: &[u8]) -> Option<u8> {
    Orientation::from_exif_chunk(exif).map(Orientation::to_exif)
}

/// The 16-bit big-endian integer at `offset`; `None` if `bytes` end before.
fn u16_be(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The 32-bit big-endian integer at `offset`; `None` if `bytes` end before.
fn u32_be(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The 16-bit little-endian integer at `offset`; `None` if `bytes` end before.
fn u16_le(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The 32-bit little-endian integer at `offset`; `None` if `bytes` end before.
fn u32_le(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// How a JPEG is stored: size and color mode from the frame header, the orientation from the EXIF segment.
/// Reads all segments up to the first scan (compressed data); skips stray bytes between them. `None` if there
/// is no frame header.
fn read_jpeg(bytes: &[u8]) -> Option<Inspection> {
    let (mut frame, mut orientation) = (None, None);
    // The first two bytes are the start-of-image marker.
    let mut offset = 2;
    loop {
        offset += bytes
            .get(offset..)?
            .windows(2)
            .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF))?;
        let marker = bytes[offset + 1];
        offset += 2;
        // Markers without a segment.
        if matches!(marker, 0x01 | 0xD0..=0xD8) {
            continue;
        }
        // The end of the image, or the start of the first scan.
        if matches!(marker, 0xD9 | 0xDA) {
            break;
        }
        let length = usize::from(u16_be(bytes, offset)?).max(2);
        let segment = bytes.get(offset + 2..offset + length)?;
        match (marker, segment) {
            // A frame header (SOF): bits per sample, height, width, number of components. Three markers of
            // this range are not frame headers.
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
            // An APP1 segment with EXIF data.
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

/// How a PNG is stored: size and color mode from the header chunk; transparency, number of animation frames
/// and orientation from chunks that may come later. `None` if the header is incomplete.
fn read_png(bytes: &[u8]) -> Option<Inspection> {
    // After the signature (8 bytes), the length and the type of the header chunk: size, bit depth, color
    // type.
    let size = (u32_be(bytes, 16)?, u32_be(bytes, 20)?);
    let (bits, color_type) = (*bytes.get(24)?, *bytes.get(25)?);
    let (color_space, transparent) = match color_type {
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
            // The number of frames of an animated PNG.
            (b"acTL", Some(chunk)) => inspection.frames = u32_be(chunk, 0).unwrap_or(1).max(1) as usize,
            (b"eXIf", Some(exif)) => {
                inspection.orientation = exif_orientation(exif).unwrap_or(inspection.orientation);
            }
            _ => {}
        }
        // A chunk also has a length, a type and a checksum of 4 bytes each.
        offset += length + 12;
    }
    Some(inspection)
}

/// How a GIF is stored: the size from the header, and the number of frames, which are counted by skipping
/// from block to block. `None` if the header is incomplete.
fn read_gif(bytes: &[u8]) -> Option<Inspection> {
    // After the signature (6 bytes): width, height, flags.
    let size = (u16_le(bytes, 6)?.into(), u16_le(bytes, 8)?.into());
    // The bytes of a color table of 2^(n + 1) RGB colors: n is in the lowest 3 bits of the flags, and the
    // highest bit says whether there is a table.
    let color_table_size = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    // The first table follows the header of 13 bytes.
    let mut offset = 13 + color_table_size(*bytes.get(10)?);
    let (mut frames, mut transparent) = (0, false);
    while let Some(block) = bytes.get(offset) {
        match block {
            // A frame: 10 bytes, the last of which has flags, a color table, and one more byte.
            0x2C => {
                let Some(&flags) = bytes.get(offset + 9) else { break };
                frames += 1;
                offset += 11 + color_table_size(flags);
            }
            // An extension: two bytes.
            0x21 => {
                // A graphic control extension before the first frame says whether a color is transparent.
                if let (Some([0xF9, 4, flags]), 0) = (bytes.get(offset + 1..offset + 4), frames) {
                    transparent = flags & 1 == 1;
                }
                offset += 2;
            }
            _ => break,
        }
        // Both end with data in sub-blocks, each with its length before it; the last is empty.
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

/// How a BMP is stored: size and bits per pixel from the header. Width and height have 2 bytes each in the
/// oldest version of the header, and 4 in the others. `None` if the header is incomplete.
fn read_bmp(bytes: &[u8]) -> Option<Inspection> {
    // The size of the oldest header, `BITMAPCOREHEADER`.
    const CORE_HEADER_SIZE: u32 = 12;
    let (size, bits) = if u32_le(bytes, 14)? == CORE_HEADER_SIZE {
        ((u16_le(bytes, 18)?.into(), u16_le(bytes, 20)?.into()), u16_le(bytes, 24)?)
    } else {
        // A negative height means rows from top to bottom.
        let side = |offset| u32_le(bytes, offset).map(|side| (side as i32).unsigned_abs());
        ((side(18)?, side(22)?), u16_le(bytes, 28)?)
    };
    let color_space = if bits <= 8 { ColorSpace::Palette } else { ColorSpace::Rgb };
    let mode = color_mode(color_space, /* transparent */ false, 8);
    Some(Inspection { format: "BMP", size, mode, frames: 1, orientation: 1 })
}

/// How a WebP is stored: the size and the transparency from the first chunk that has them, the number of
/// animation frames, and the EXIF orientation. `None` if no chunk has the size.
fn read_webp(bytes: &[u8]) -> Option<Inspection> {
    let (mut size, mut transparent, mut frames, mut orientation) = (None, false, 0, 1);
    // The chunks start after `RIFF`, the file length and `WEBP`.
    let mut offset = 12;
    while let (Some(kind), Some(length)) = (bytes.get(offset..offset + 4), u32_le(bytes, offset + 4)) {
        // From the contents of the chunk to the end of the file.
        let contents = bytes.get(offset + 8..).unwrap_or_default();
        match (kind, contents) {
            // The header of the extended format: flags (0x10 for alpha), then width - 1 and height - 1 in 24
            // bits each.
            (b"VP8X", &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..]) => {
                let side = |bytes: [u8; 3]| 1 + u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                size = Some((side([w0, w1, w2]), side([h0, h1, h2])));
                transparent = flags & 0x10 != 0;
            }
            // A lossy image: after 6 other bytes, width and height in 14 bits each.
            (b"VP8 ", _) if size.is_none() => {
                let side = |offset| Some(u32::from(u16_le(contents, offset)? & 0x3FFF));
                size = side(6).zip(side(8));
            }
            // A lossless image: after a signature byte, width - 1 and height - 1 in 14 bits each, then the
            // alpha bit.
            (b"VP8L", _) if size.is_none() => {
                let packed = u32_le(contents, 1)?;
                size = Some(((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1));
                transparent = packed >> 28 & 1 == 1;
            }
            // A frame of an animation.
            (b"ANMF", _) => frames += 1,
            (b"EXIF", _) => {
                let exif = &contents[..contents.len().min(length as usize)];
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

/// How a PNM is stored, by the digit of its signature and the `header` after it: width, height and, unless it
/// is a bitmap, the largest value, as text. `None` if the header is incomplete.
fn read_pnm(kind: u8, header: &[u8]) -> Option<Inspection> {
    // A comment lasts from `#` to the end of the line.
    let mut in_comment = false;
    let text = header.iter().map(|&byte| {
        in_comment = if byte == b'\n' || byte == b'\r' { false } else { in_comment || byte == b'#' };
        if in_comment { b' ' } else { byte }
    });
    let mut text = text.peekable();
    let mut next_number = || {
        while text.next_if(u8::is_ascii_whitespace).is_some() {}
        let digits: String =
            std::iter::from_fn(|| text.next_if(u8::is_ascii_digit)).take(10).map(char::from).collect();
        digits.parse::<u32>().ok()
    };
    let size = (next_number()?, next_number()?);
    let (color_space, bits) = match kind {
        b'1' | b'4' => (ColorSpace::Gray, 1),
        b'2' | b'5' => (ColorSpace::Gray, if next_number()? > 255 { 16 } else { 8 }),
        _ => (ColorSpace::Rgb, if next_number()? > 255 { 16 } else { 8 }),
    };
    let mode = color_mode(color_space, /* transparent */ false, bits);
    Some(Inspection { format: "PNM", size, mode, frames: 1, orientation: 1 })
}
