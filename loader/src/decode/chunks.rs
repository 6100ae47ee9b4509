//! Scans the chunks of PNG and WebP files for what the decoders of `image` ignore.

use image::metadata::Orientation;

/// The EXIF orientation of a PNG, by which the decoded image is turned upright (`NoTransforms` without an
/// EXIF chunk); `None` if the file is truncated. All chunks are scanned, because the EXIF chunk may come
/// after the pixels.
pub(super) fn png_orientation(bytes: &[u8]) -> Option<Orientation> {
    const CHECKSUM: usize = 4;
    let mut orientation = Orientation::NoTransforms;
    let (_signature, mut chunks) = bytes.split_first_chunk::<8>()?;
    loop {
        let (&length, chunk) = chunks.split_first_chunk()?;
        let (chunk_type, data) = chunk.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(length) as usize;
        match chunk_type {
            b"IEND" => return Some(orientation),
            b"eXIf" => orientation = Orientation::from_exif_chunk(data.get(..length)?).unwrap_or(orientation),
            _ => {}
        }
        chunks = data.get(length..)?.get(CHECKSUM..)?;
    }
}

/// A chunk of a PNG.
pub(super) struct PngChunk<'a> {
    pub(super) kind: &'a [u8; 4],
    /// The data, as much as the file has.
    pub(super) data: &'a [u8],
    pub(super) is_complete: bool,
}

/// The chunks of a PNG, to the end of the file or to what is no chunk, such as zeros in place of lost data.
pub(super) fn png_chunks(bytes: &[u8]) -> impl Iterator<Item = PngChunk<'_>> {
    const SIGNATURE: usize = 8;
    const CHECKSUM: usize = 4;
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&length, chunk) = rest.split_first_chunk()?;
        let (kind, chunk) = chunk.split_first_chunk::<4>()?;
        if !kind.iter().all(u8::is_ascii_alphabetic) {
            return None;
        }
        let length = u32::from_be_bytes(length) as usize;
        let data = &chunk[..length.min(chunk.len())];
        rest = chunk.get(data.len() + CHECKSUM..).unwrap_or_default();
        Some(PngChunk { kind, data, is_complete: data.len() == length })
    })
}

/// Whether a PNG has a palette of colors that are not three bytes each, at which its decoder would panic.
pub(super) fn has_incomplete_palette(bytes: &[u8]) -> bool {
    let mut header = png_chunks(bytes).take_while(|chunk| chunk.kind != b"IDAT");
    header.any(|chunk| chunk.kind == b"PLTE" && !chunk.data.len().is_multiple_of(3))
}

/// Whether a WebP has fewer bytes than its RIFF header or one of its chunks declares. Checked before
/// decoding, because the decoder would not notice missing metadata after the pixels, and would allocate as
/// much memory as a chunk declares.
pub(super) fn is_truncated_webp(bytes: &[u8]) -> bool {
    /// Bytes of `RIFF`, the file length and `WEBP`.
    const HEADER: usize = 12;
    let read_length = |offset: usize| {
        let length = bytes.get(offset..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    };
    let Some(riff_end) = read_length(4).and_then(|length| length.checked_add(8)) else { return true };
    if bytes.len() < riff_end {
        return true;
    }
    // A chunk has a type and a length of 4 bytes each, and data that is padded to an even length.
    let mut chunk_start = HEADER;
    while let Some(length) = read_length(chunk_start + 4).filter(|_| chunk_start < riff_end) {
        let Some(data_end) = length.checked_add(chunk_start + 8).filter(|&end| end <= bytes.len()) else {
            return true;
        };
        chunk_start = data_end + length % 2;
    }
    false
}
