//! The headers of the formats, read as far as they say how a photo is stored.

mod tiff;

use image::metadata::Orientation;

use super::{Colours, Inspection, Mode};

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

fn mode(colours: Colours, transparent: bool, bits: u8) -> Mode {
    Mode { colours, transparent, bits, float: false }
}

fn oriented(exif: &[u8]) -> Option<u8> {
    Orientation::from_exif_chunk(exif).map(Orientation::to_exif)
}

fn big16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn big32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn little16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn little32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The segments up to the first scan. Bytes between segments are passed over.
fn jpeg(bytes: &[u8]) -> Option<Inspection> {
    let (mut frame, mut orientation) = (None, None);
    let mut at = 2;
    loop {
        at += bytes.get(at..)?.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF))?;
        let marker = bytes[at + 1];
        at += 2;
        if matches!(marker, 0x01 | 0xD0..=0xD8) {
            continue;
        }
        if matches!(marker, 0xD9 | 0xDA) {
            break;
        }
        let length = usize::from(big16(bytes, at)?).max(2);
        let segment = bytes.get(at + 2..at + length)?;
        match (marker, segment) {
            (0xC0..=0xCF, &[bits, _, _, _, _, components, ..]) if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let colours = match components {
                    1 => Colours::Grey,
                    3 => Colours::Rgb,
                    4 => Colours::Cmyk,
                    _ => Colours::Other,
                };
                frame = Some((big16(segment, 3)?, big16(segment, 1)?, mode(colours, false, bits)));
            }
            (0xE1, [b'E', b'x', b'i', b'f', 0, 0, exif @ ..]) => {
                orientation = orientation.or_else(|| oriented(exif));
            }
            _ => {}
        }
        at += length;
    }
    let (width, height, mode) = frame?;
    let (size, orientation) = ((width.into(), height.into()), orientation.unwrap_or(1));
    Some(Inspection { format: "JPEG", size, mode, frames: 1, orientation })
}

fn png(bytes: &[u8]) -> Option<Inspection> {
    let size = (big32(bytes, 16)?, big32(bytes, 20)?);
    let (bits, kind) = (*bytes.get(24)?, *bytes.get(25)?);
    let (colours, alpha) = match kind {
        0 => (Colours::Grey, false),
        3 => (Colours::Palette, false),
        4 => (Colours::Grey, true),
        6 => (Colours::Rgb, true),
        _ => (Colours::Rgb, false),
    };
    // The colours of a table have 8 bits, however short their numbers are.
    let bits = if colours == Colours::Palette { 8 } else { bits };
    let mut photo =
        Inspection { format: "PNG", size, mode: mode(colours, alpha, bits), frames: 1, orientation: 1 };
    let mut at = 8;
    // What lies behind a cut is not there to be told.
    while let (Some(length), Some(kind)) = (big32(bytes, at), bytes.get(at + 4..at + 8)) {
        let length = length as usize;
        match (kind, bytes.get(at + 8..).and_then(|rest| rest.get(..length))) {
            (b"IEND", _) | (_, None) => break,
            (b"tRNS", _) => photo.mode.transparent = true,
            (b"acTL", Some(chunk)) => photo.frames = big32(chunk, 0).unwrap_or(1).max(1) as usize,
            (b"eXIf", Some(exif)) => photo.orientation = oriented(exif).unwrap_or(photo.orientation),
            _ => {}
        }
        at += length + 12;
    }
    Some(photo)
}

fn gif(bytes: &[u8]) -> Option<Inspection> {
    let size = (little16(bytes, 6)?.into(), little16(bytes, 8)?.into());
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + table(*bytes.get(10)?);
    let (mut frames, mut transparent) = (0, false);
    while let Some(block) = bytes.get(at) {
        match block {
            0x2C => {
                let Some(&flags) = bytes.get(at + 9) else { break };
                frames += 1;
                at += 11 + table(flags);
            }
            0x21 => {
                // A graphic control extension before the first picture.
                if let (Some([0xF9, 4, flags]), 0) = (bytes.get(at + 1..at + 4), frames) {
                    transparent = flags & 1 == 1;
                }
                at += 2;
            }
            _ => break,
        }
        while let Some(&length) = bytes.get(at) {
            at += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
    let (mode, frames) = (mode(Colours::Palette, transparent, 8), frames.max(1));
    Some(Inspection { format: "GIF", size, mode, frames, orientation: 1 })
}

fn bmp(bytes: &[u8]) -> Option<Inspection> {
    const CORE: u32 = 12;
    let (size, bits) = if little32(bytes, 14)? == CORE {
        ((little16(bytes, 18)?.into(), little16(bytes, 20)?.into()), little16(bytes, 24)?)
    } else {
        // A height below 0 is one that is counted from above.
        let side = |at| little32(bytes, at).map(|side| (side as i32).unsigned_abs());
        ((side(18)?, side(22)?), little16(bytes, 28)?)
    };
    let colours = if bits <= 8 { Colours::Palette } else { Colours::Rgb };
    Some(Inspection { format: "BMP", size, mode: mode(colours, false, 8), frames: 1, orientation: 1 })
}

fn webp(bytes: &[u8]) -> Option<Inspection> {
    let (mut size, mut transparent, mut frames, mut orientation) = (None, false, 0, 1);
    let mut at = 12;
    while let (Some(kind), Some(length)) = (bytes.get(at..at + 4), little32(bytes, at + 4)) {
        let rest = bytes.get(at + 8..).unwrap_or_default();
        match (kind, rest) {
            (b"VP8X", &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..]) => {
                let side = |bytes: [u8; 3]| 1 + u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                size = Some((side([w0, w1, w2]), side([h0, h1, h2])));
                transparent = flags & 0x10 != 0;
            }
            (b"VP8 ", _) if size.is_none() => {
                let side = |at| Some(u32::from(little16(rest, at)? & 0x3FFF));
                size = side(6).zip(side(8));
            }
            (b"VP8L", _) if size.is_none() => {
                let packed = little32(rest, 1)?;
                size = Some(((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1));
                transparent = packed >> 28 & 1 == 1;
            }
            (b"ANMF", _) => frames += 1,
            (b"EXIF", _) => {
                let exif = &rest[..rest.len().min(length as usize)];
                let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
                orientation = oriented(exif).unwrap_or(orientation);
            }
            _ => {}
        }
        // Chunks begin at even places.
        at = at.saturating_add(8 + length as usize + (length as usize & 1));
    }
    let mode = mode(Colours::Rgb, transparent, 8);
    Some(Inspection { format: "WebP", size: size?, mode, frames: frames.max(1), orientation })
}
