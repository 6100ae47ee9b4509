//! Parses the header segments of a JPEG.

use super::JpegError;
use super::huffman::HuffmanTable;

/// The position in the row-major block of each coefficient in zigzag order.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

pub(super) const NO_FRAME: JpegError = JpegError::Damaged("a scan comes before the frame header");

/// The marker of the frame header of a progressive JPEG.
const SOF_PROGRESSIVE: u8 = 0xC2;

/// A color component of the frame: gray, or one of Y, Cb and Cr, or one of R, G and B.
pub(super) struct FrameComponent {
    /// The number by which scan headers name the component.
    id: u8,
    /// Sampling factors (horizontal, vertical).
    pub(super) sampling: (usize, usize),
    /// Index of the quantization table.
    quant_index: usize,
    /// The row-major quantization table, as it was at the start of the component's first scan.
    pub(super) quant_table: Option<[i32; 64]>,
}

/// A frame header (SOF segment): the size of the image and how its color components are stored.
pub(super) struct Frame {
    /// Width and height in pixels.
    pub(super) size: (usize, usize),
    /// Whether the coefficients come in several scans, each of which makes them more precise.
    pub(super) progressive: bool,
    pub(super) components: Vec<FrameComponent>,
    /// The largest sampling factors of the components (horizontal, vertical).
    pub(super) max_sampling: (usize, usize),
}

impl Frame {
    /// Number of MCUs (horizontal, vertical) that cover the image. An MCU is the unit of a scan of several
    /// components: of each component it holds as many 8 x 8 blocks, across and down, as its sampling factors
    /// say.
    pub(super) fn n_mcus(&self) -> (usize, usize) {
        let (width, height) = self.size;
        let (h_max, v_max) = self.max_sampling;
        (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max))
    }

    /// Number of 8 x 8 blocks (horizontal, vertical) that cover the pixels of the component with this index.
    /// A scan of a single component holds exactly these blocks; MCUs can add blocks at the right and bottom
    /// edge.
    pub(super) fn n_blocks(&self, component: usize) -> (usize, usize) {
        let (width, height) = self.size;
        let (h_max, v_max) = self.max_sampling;
        let (h, v) = self.components[component].sampling;
        ((width * h).div_ceil(8 * h_max), (height * v).div_ceil(8 * v_max))
    }

    /// Parses an SOF segment (the frame header), given its marker and the bytes after its length. Returns
    /// [`JpegError::Unsupported`], so that the fallback decoder is used, unless it has 8 bits per sample, one
    /// or three components, and sampling factors that divide the largest ones.
    fn from_sof_segment(marker: u8, segment: &[u8]) -> Result<Self, JpegError> {
        // The height is stored before the width, each as two bytes.
        let (&[precision, h0, h1, w0, w1, n_components], rest) =
            segment.split_first_chunk().ok_or(TOO_SHORT)?;
        let size = (usize::from(u16::from_be_bytes([w0, w1])), usize::from(u16::from_be_bytes([h0, h1])));
        if precision != 8 || size.0 == 0 || size.1 == 0 || !matches!(n_components, 1 | 3) {
            return Err(JpegError::Unsupported);
        }
        // Three bytes per component; the sampling factors (horizontal, vertical) are four bits each.
        let specs = rest.as_chunks::<3>().0.get(..n_components.into()).ok_or(TOO_SHORT)?;
        let mut components: Vec<FrameComponent> = specs
            .iter()
            .map(|&[id, sampling, quant_index]| FrameComponent {
                id,
                sampling: (usize::from(sampling >> 4), usize::from(sampling & 15)),
                quant_index: quant_index.into(),
                quant_table: None,
            })
            .collect();
        if let [single] = &mut components[..] {
            single.sampling = (1, 1); // an MCU of a single component is one block
        }
        let max_factor =
            |factor: fn(&FrameComponent) -> usize| components.iter().map(factor).max().unwrap_or(1);
        let max_sampling = (max_factor(|c| c.sampling.0), max_factor(|c| c.sampling.1));
        let is_supported = |(h, v): (usize, usize)| {
            (1..=4).contains(&h)
                && (1..=4).contains(&v)
                && max_sampling.0.is_multiple_of(h)
                && max_sampling.1.is_multiple_of(v)
        };
        if !components.iter().all(|component| is_supported(component.sampling)) {
            return Err(JpegError::Unsupported);
        }
        Ok(Self { size, progressive: marker == SOF_PROGRESSIVE, components, max_sampling })
    }
}

/// A component of a scan: its index in the components of the frame, and the indices of its Huffman tables in
/// `dc_tables` and `ac_tables` of [`JpegHeaders`].
#[derive(Clone, Copy)]
pub(super) struct ScanComponent {
    pub(super) index: usize,
    pub(super) dc_table: usize,
    pub(super) ac_table: usize,
}

/// A scan header (SOS segment): which components the scan holds, and which part of their coefficients.
pub(super) struct ScanHeader {
    pub(super) components: Vec<ScanComponent>,
    /// The scan holds the coefficients from this one to `last_coefficient`, in zigzag order; 0 is DC.
    pub(super) first_coefficient: usize,
    pub(super) last_coefficient: usize,
    /// The lowest bit of the coefficients that is known before this scan; 0 if no bit is known.
    pub(super) approx_high: u32,
    /// The lowest bit of the coefficients that is known after this scan.
    pub(super) approx_low: u32,
}

const TOO_SHORT: JpegError = JpegError::Damaged("a header segment is too short");

/// What the header segments read so far define; later segments may redefine the tables.
#[derive(Default)]
pub(super) struct JpegHeaders {
    quant_tables: [Option<[i32; 64]>; 4],
    pub(super) dc_tables: [Option<HuffmanTable>; 4],
    pub(super) ac_tables: [Option<HuffmanTable>; 4],
    /// MCUs between restart markers; 0 without restarts.
    pub(super) restart_interval: usize,
    has_jfif: bool,
    /// The color transform of the Adobe segment; 0 is RGB.
    adobe_transform: Option<u8>,
    pub(super) frame: Option<Frame>,
}

impl JpegHeaders {
    /// Parses the header segments of the file `bytes` into `self`, from `offset` to the next scan. Returns the
    /// header of the scan and the offset of its compressed data; `None` at the end of the image. Bytes between
    /// segments are skipped, as in libjpeg.
    pub(super) fn read_until_scan(
        &mut self,
        bytes: &[u8],
        mut offset: usize,
    ) -> Result<Option<(ScanHeader, usize)>, JpegError> {
        loop {
            // A marker is one or more bytes 0xFF and a byte that tells the kind of segment.
            offset +=
                memchr::memchr(0xFF, bytes.get(offset..).unwrap_or_default()).ok_or_else(super::truncated)?;
            offset += bytes[offset..].iter().position(|&byte| byte != 0xFF).ok_or_else(super::truncated)?;
            let marker = bytes[offset];
            offset += 1;
            match marker {
                0x00 | 0x01 | 0xD0..=0xD8 => continue, // no segment follows
                0xD9 => return Ok(None),               // end of the image
                _ => {}
            }
            let rest = &bytes[offset..];
            let &length = rest.first_chunk().ok_or_else(super::truncated)?;
            let length = usize::from(u16::from_be_bytes(length));
            let segment = rest.get(..length).ok_or_else(super::truncated)?.get(2..).ok_or(TOO_SHORT)?;
            offset += length;
            match marker {
                // SOF of a baseline, extended or progressive frame.
                0xC0..=0xC2 => {
                    if self.frame.is_some() {
                        return Err(JpegError::Damaged("the file has more than one frame header"));
                    }
                    self.frame = Some(Frame::from_sof_segment(marker, segment)?);
                }
                0xC4 => self.parse_huffman_tables(segment)?,
                0xC3 | 0xC5..=0xCF => return Err(JpegError::Unsupported), // other frames, arithmetic coding
                0xDA => return Ok(Some((self.parse_scan_header(segment)?, offset))),
                0xDB => self.parse_quant_tables(segment)?,
                // DRI: the restart interval.
                0xDD => {
                    let &interval = segment.first_chunk().ok_or(TOO_SHORT)?;
                    self.restart_interval = u16::from_be_bytes(interval).into();
                }
                0xDC => return Err(JpegError::Unsupported), // DNL: the height comes after the first scan
                0xE0 if segment.len() >= 12 && segment.starts_with(b"JFIF\0") => self.has_jfif = true,
                0xEE if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                    self.adobe_transform = Some(segment[11]);
                }
                _ => {}
            }
        }
    }

    /// Prepares the AC Huffman tables of the scan with this `header` for
    /// [`BitReader::skip_ac`](super::huffman::BitReader::skip_ac). Called only for scans with blocks to skip,
    /// because the preparation takes time.
    pub(super) fn build_skip_entries(&mut self, header: &ScanHeader) {
        for component in &header.components {
            if let Some(Some(table)) = self.ac_tables.get_mut(component.ac_table) {
                table.build_skip_entries();
            }
        }
    }

    /// Parses a DHT segment, which defines one or more Huffman tables, into `dc_tables` and `ac_tables`. The
    /// scan headers refer to the tables by their index.
    fn parse_huffman_tables(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let Some((&class_and_index, rest)) = segment.split_first() {
            // The high 4 bits are the class (0 for DC, 1 for AC), the low 4 bits the index.
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(TOO_SHORT)?;
            let n_symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(n_symbols).ok_or(TOO_SHORT)?;
            let tables = if class_and_index >> 4 == 0 { &mut self.dc_tables } else { &mut self.ac_tables };
            let slot = tables.get_mut(usize::from(class_and_index & 15)).filter(|_| class_and_index < 0x20);
            *slot.ok_or(NO_SUCH_TABLE)? = Some(HuffmanTable::from_counts(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    /// Parses a DQT segment, which defines one or more quantization tables, into `quant_tables`. Their values
    /// are in zigzag order in the file and in row-major order in `self`.
    fn parse_quant_tables(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let Some((&precision_and_index, rest)) = segment.split_first() {
            let mut quant_table = [0; 64];
            // The high 4 bits tell the size of a value (0 for 8 bits), the low 4 bits the index of the table.
            let is_16_bit = precision_and_index >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if is_16_bit { 128 } else { 64 }).ok_or(TOO_SHORT)?;
            for (index, &position) in ZIGZAG.iter().enumerate() {
                quant_table[usize::from(position)] = if is_16_bit {
                    i32::from(u16::from_be_bytes([values[2 * index], values[2 * index + 1]]))
                } else {
                    i32::from(values[index])
                };
            }
            *self.quant_tables.get_mut(usize::from(precision_and_index & 15)).ok_or(NO_SUCH_TABLE)? =
                Some(quant_table);
            segment = rest;
        }
        Ok(())
    }

    /// Parses an SOS segment (the scan header), given the bytes after its length: the components, their
    /// Huffman tables and the range of coefficients of the scan. A component whose first scan this is gets
    /// its quantization table here, because later segments may redefine the table.
    fn parse_scan_header(&mut self, segment: &[u8]) -> Result<ScanHeader, JpegError> {
        let frame = self.frame.as_mut().ok_or(NO_FRAME)?;
        let (&n_components, rest) = segment.split_first().ok_or(TOO_SHORT)?;
        let (specs, rest) = rest.split_at_checked(2 * usize::from(n_components)).ok_or(TOO_SHORT)?;
        let &[first, last, approx_bits] = rest.first_chunk().ok_or(TOO_SHORT)?;
        let mut components: Vec<ScanComponent> = Vec::new();
        for &[id, tables] in specs.as_chunks::<2>().0 {
            let component = frame.components.iter().position(|component| component.id == id);
            let component = component.ok_or(JpegError::Damaged("a scan has an unknown color component"))?;
            if components.iter().any(|scan_component| scan_component.index == component) {
                return Err(JpegError::Damaged("a scan has the same color component twice"));
            }
            components.push(ScanComponent {
                index: component,
                dc_table: usize::from(tables >> 4),
                ac_table: usize::from(tables & 15),
            });
            let frame_component = &mut frame.components[component];
            if frame_component.quant_table.is_none() {
                let quant_table = self.quant_tables.get(frame_component.quant_index).copied().flatten();
                frame_component.quant_table = Some(quant_table.ok_or(NO_SUCH_TABLE)?);
            }
        }
        // The coefficients `first..=last` in zigzag order, and which of their bits the scan has (libjpeg's
        // `Ah` and `Al`). A scan that is not progressive holds all bits of all coefficients.
        let (first_coefficient, last_coefficient, approx_high, approx_low) = if frame.progressive {
            (first.into(), last.into(), u32::from(approx_bits >> 4), u32::from(approx_bits & 15))
        } else {
            (0, 63, 0, 0)
        };
        // A progressive scan holds DC coefficients only, or AC coefficients of one component.
        let is_valid = first_coefficient <= last_coefficient
            && last_coefficient < 64
            && approx_low <= 13
            && (approx_high == 0 || approx_high == approx_low + 1)
            && match first_coefficient {
                _ if !frame.progressive => true,
                0 => last_coefficient == 0,
                _ => components.len() == 1,
            };
        if components.is_empty() || !is_valid {
            return Err(JpegError::Damaged("a scan header is invalid"));
        }
        Ok(ScanHeader { components, first_coefficient, last_coefficient, approx_high, approx_low })
    }

    /// Whether the three components are RGB and not YCbCr. As in libjpeg, a JFIF segment means YCbCr;
    /// otherwise the color transform of the Adobe segment decides (0 is RGB); without one, components with
    /// the ids `R`, `G` and `B` are RGB.
    pub(super) fn is_rgb(&self) -> bool {
        let ids = self.frame.iter().flat_map(|frame| frame.components.iter().map(|component| component.id));
        match self.adobe_transform {
            _ if self.has_jfif => false,
            Some(transform) => transform == 0,
            None => ids.eq(*b"RGB"),
        }
    }
}

const NO_SUCH_TABLE: JpegError = JpegError::Damaged("a table has an invalid number or is not defined");

#[cfg(test)]
mod tests {
    use super::ZIGZAG;

    #[test]
    fn the_zigzag_follows_the_diagonals() {
        let mut positions: Vec<usize> = (0..64).collect();
        // Even diagonals go up, odd ones down.
        positions.sort_by_key(|position| {
            let (row, column) = (position / 8, position % 8);
            let along = if (row + column) % 2 == 0 { column } else { row };
            (row + column, along)
        });
        assert!(positions.iter().zip(ZIGZAG).all(|(&position, zigzag)| position == usize::from(zigzag)));
    }
}
