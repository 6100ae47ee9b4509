//! What the decoders of `image` do not look for in the chunks of a PNG or WebP file.

use image::metadata::Orientation;

/// The orientation in the EXIF chunk of a PNG, which may stand behind the picture; none where the file is cut short.
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

/// Whether there are fewer bytes than the RIFF header of a WebP says, or than one of its chunks: metadata behind the picture would
/// not be missed, and memory for as much as a chunk claims would be asked for.
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
