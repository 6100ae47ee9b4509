//! Completes a PNG that ends too early, so that its decoder accepts it.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc, Decompress, FlushDecompress, Status};

use super::chunks::png_chunks;
use super::{DecodeError, TRUNCATED, check_size};

/// The filter of a row with the highest number.
const LAST_FILTER: u8 = 4;

const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1A\n";

/// The header of a PNG, as far as the size of its rows depends on it.
struct PngHeader {
    width: u64,
    height: u64,
    bits_per_pixel: u64,
    is_interlaced: bool,
}

/// Makes a complete PNG of `bytes`, which end too early: the rows that are there, and 0 for all samples of the
/// others, which is what Pillow has there. Chunks of an animation are left out.
///
/// # Errors
/// [`DecodeError`] if the file ends in its header, or if it has more than `max_pixels` pixels: no memory is
/// allocated for them.
pub(super) fn complete_png(bytes: &[u8], max_pixels: u64) -> Result<Vec<u8>, DecodeError> {
    let truncated = || DecodeError::Damaged { format: "PNG", message: TRUNCATED.into() };
    let mut header = None;
    let (mut complete, mut compressed) = (SIGNATURE.to_vec(), Vec::new());
    for chunk in png_chunks(bytes) {
        match chunk.kind {
            b"IHDR" => {
                header = Some(PngHeader::parse(chunk.data).ok_or_else(truncated)?);
                write_chunk(&mut complete, chunk.kind, chunk.data);
            }
            b"IDAT" => compressed.extend_from_slice(chunk.data),
            b"acTL" | b"fcTL" | b"fdAT" => {}
            _ if chunk.is_complete => write_chunk(&mut complete, chunk.kind, chunk.data),
            _ => {}
        }
    }
    let header = header.ok_or_else(truncated)?;
    check_size("PNG", header.width, header.height, max_pixels)?;
    let rows = header.complete_rows(&compressed);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::none());
    let compressed = encoder.write_all(&rows).and_then(|()| encoder.finish()).unwrap_or_default();
    // The length of a chunk has 31 bits.
    for part in compressed.chunks(1 << 30) {
        write_chunk(&mut complete, b"IDAT", part);
    }
    write_chunk(&mut complete, b"IEND", b"");
    Ok(complete)
}

/// Appends a chunk with its checksum.
pub(super) fn write_chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let mut checksum = Crc::new();
    checksum.update(kind);
    checksum.update(data);
    png.extend((data.len() as u32).to_be_bytes());
    png.extend_from_slice(kind);
    png.extend_from_slice(data);
    png.extend(checksum.sum().to_be_bytes());
}

impl PngHeader {
    /// Parses the data of the header chunk; `None` if it is too short.
    fn parse(data: &[u8]) -> Option<Self> {
        let &[w0, w1, w2, w3, h0, h1, h2, h3, depth, color_type, _, _, interlacing] = data.first_chunk()?;
        let n_samples = match color_type {
            2 => 3,
            4 => 2,
            6 => 4,
            _ => 1, // gray or palette
        };
        Some(Self {
            width: u32::from_be_bytes([w0, w1, w2, w3]).into(),
            height: u32::from_be_bytes([h0, h1, h2, h3]).into(),
            bits_per_pixel: n_samples * u64::from(depth.min(16)),
            is_interlaced: interlacing != 0,
        })
    }

    /// The passes of the image, each with the number of its rows and the bytes of one, which include the byte
    /// of the filter. An image that is not interlaced has one.
    fn passes(&self) -> Vec<(u64, u64)> {
        // Of each pass of Adam7 the first row and column, and the steps to the next.
        const ADAM7: [[u64; 4]; 7] = [
            [0, 0, 8, 8],
            [0, 4, 8, 8],
            [4, 0, 8, 4],
            [0, 2, 4, 4],
            [2, 0, 4, 2],
            [0, 1, 2, 2],
            [1, 0, 2, 1],
        ];
        let passes: &[_] = if self.is_interlaced { &ADAM7 } else { &[[0, 0, 1, 1]] };
        passes
            .iter()
            .map(|&[y, x, y_step, x_step]| {
                let n_rows = self.height.saturating_sub(y).div_ceil(y_step);
                let n_columns = self.width.saturating_sub(x).div_ceil(x_step);
                (n_rows, 1 + (n_columns * self.bits_per_pixel).div_ceil(8))
            })
            .filter(|&(n_rows, n_bytes)| n_rows > 0 && n_bytes > 1)
            .collect()
    }

    /// The filtered rows of all passes, decompressed as far as possible; rows that are missing or incomplete
    /// are zeros.
    fn complete_rows(&self, compressed: &[u8]) -> Vec<u8> {
        let passes = self.passes();
        let total: u64 = passes.iter().map(|(n_rows, n_bytes)| n_rows * n_bytes).sum();
        let mut rows = vec![0; total as usize];
        let n_decompressed = decompress(compressed, &mut rows);
        // Zeros in place of data can decompress to a filter that there is not; it ends the image, too.
        let mut n_complete = 0;
        let row_lengths =
            passes.iter().flat_map(|&(n_rows, n_bytes)| (0..n_rows).map(move |_| n_bytes as usize));
        for length in row_lengths {
            if n_complete + length > n_decompressed || rows[n_complete] > LAST_FILTER {
                break;
            }
            n_complete += length;
        }
        rows[n_complete..].fill(0);
        rows
    }
}

/// Decompresses into `out` until the data ends or is damaged. Returns the number of bytes written.
fn decompress(compressed: &[u8], out: &mut [u8]) -> usize {
    let mut decompressor = Decompress::new(/* zlib_header */ true);
    loop {
        let (n_in, n_out) = (decompressor.total_in() as usize, decompressor.total_out() as usize);
        let status = decompressor.decompress(&compressed[n_in..], &mut out[n_out..], FlushDecompress::None);
        let has_progress =
            (decompressor.total_in() as usize, decompressor.total_out() as usize) != (n_in, n_out);
        if !matches!(status, Ok(Status::Ok)) || !has_progress {
            return decompressor.total_out() as usize;
        }
    }
}
