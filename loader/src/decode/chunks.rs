//! Scans the chunks of PNG and WebP files for what the decoders of `image` ignore.

use image::metadata::Orientation;

/// The orientation in the EXIF chunk of a PNG, which may come after the pixels; `None` if the file is
/// truncated.
pub(super) fn png_orientation(bytes: &[u8]) -> Option<Orientation> {
    const CHECKSUM: usize = 4;
    let mut orientation = Orientation::NoTransforms;
    let (_signature, mut rest) = bytes.split_first_chunk::<8>()?;
    loop {
        let (&length, chunk) = rest.split_first_chunk()?;
        let (chunk_type, data) = chunk.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(length) as usize;
        match chunk_type {
            b"IEND" => return Some(orientation),
            b"eXIf" => orientation = Orientation::from_exif_chunk(data.get(..length)?).unwrap_or(orientation),
            _ => {}
        }
        rest = data.get(length..)?.get(CHECKSUM..)?;
    }
}

/// Whether a WebP has fewer bytes than its RIFF header or one of its chunks declares. The decoder would not
/// notice missing metadata after the pixels, and would allocate as much memory as a chunk declares.
pub(super) fn is_truncated_webp(bytes: &[u8]) -> bool {
    const HEADER: usize = 12;
    let length = |offset: usize| {
        let length = bytes.get(offset..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    };
    let Some(end) = length(4).and_then(|length| length.checked_add(8)) else { return true };
    if bytes.len() < end {
        return true;
    }
    let mut chunk_offset = HEADER;
    while let Some(length) = length(chunk_offset + 4).filter(|_| chunk_offset < end) {
        let Some(next) = length.checked_add(chunk_offset + 8).filter(|&next| next <= bytes.len()) else {
            return true;
        };
        chunk_offset = next + length % 2;
    }
    false
}
