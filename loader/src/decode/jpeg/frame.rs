//! Parses the header segments of a JPEG.

use super::JpegError;
use super::huffman::HuffmanTable;

/// The position in the row-major block of each coefficient in zigzag order.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A color component of the frame.
pub(super) struct FrameComponent {
    id: u8,
    /// Sampling factors (horizontal, vertical).
    pub(super) sampling: (usize, usize),
    quant_index: usize,
    /// The row-major quantization table, as it was at the start of the component's first scan.
    pub(super) quant_table: Option<[i32; 64]>,
}

/// A frame header (SOF segment).
pub(super) struct Frame {
    /// Width and height in pixels.
    pub(super) size: (usize, usize),
    pub(super) progressive: bool,
    pub(super) components: Vec<FrameComponent>,
    /// The largest sampling factors of the components (horizontal, vertical).
    pub(super) max_sampling: (usize, usize),
}

impl Frame {
    /// Number of MCUs (horizontal, vertical).
    pub(super) fn n_mcus(&self) -> (usize, usize) {
        (self.size.0.div_ceil(8 * self.max_sampling.0), self.size.1.div_ceil(8 * self.max_sampling.1))
    }

    /// Number of blocks of a component that contain pixels (horizontal, vertical).
    pub(super) fn n_blocks(&self, component: usize) -> (usize, usize) {
        let (h, v) = self.components[component].sampling;
        (
            (self.size.0 * h).div_ceil(8 * self.max_sampling.0),
            (self.size.1 * v).div_ceil(8 * self.max_sampling.1),
        )
    }

    fn parse(marker: u8, segment: &[u8]) -> Result<Self, JpegError> {
        let (&[precision, h0, h1, w0, w1, count], rest) = segment.split_first_chunk().ok_or(TOO_SHORT)?;
        let size = (usize::from(u16::from_be_bytes([w0, w1])), usize::from(u16::from_be_bytes([h0, h1])));
        if precision != 8 || size.0 == 0 || size.1 == 0 || !matches!(count, 1 | 3) {
            return Err(JpegError::Unsupported);
        }
        let specs = rest.as_chunks::<3>().0.get(..count.into()).ok_or(TOO_SHORT)?;
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
        Ok(Self { size, progressive: marker == 0xC2, components, max_sampling })
    }
}

/// A component of a scan: its index in the frame and the indices of its Huffman tables.
#[derive(Clone, Copy)]
pub(super) struct ScanComponent {
    pub(super) index: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A scan header (SOS segment).
pub(super) struct ScanHeader {
    pub(super) components: Vec<ScanComponent>,
    /// First and last coefficient, in zigzag order.
    pub(super) band: (usize, usize),
    /// The lowest bit of the coefficients that is known before this scan; 0 if none is.
    pub(super) approx_high: u32,
    /// The lowest bit of the coefficients that is known after this scan.
    pub(super) approx_low: u32,
}

const TOO_SHORT: JpegError = JpegError::Damaged("a segment is too short");

/// The contents of the segments read so far.
#[derive(Default)]
pub(super) struct JpegHeaders {
    quant_tables: [Option<[i32; 64]>; 4],
    pub(super) dc_tables: [Option<HuffmanTable>; 4],
    pub(super) ac_tables: [Option<HuffmanTable>; 4],
    /// MCUs between restart markers; 0 without restarts.
    pub(super) restart_interval: usize,
    has_jfif: bool,
    adobe_transform: Option<u8>,
    pub(super) frame: Option<Frame>,
}

/// Where [`JpegHeaders::read_until_scan`] stopped.
pub(super) enum Reached {
    /// At a scan, with the offset of its compressed data.
    Scan(ScanHeader, usize),
    /// At the end-of-image marker.
    End,
}

impl JpegHeaders {
    /// Reads segments from `offset` to the next scan or the end. Bytes between segments are skipped, as in
    /// libjpeg.
    pub(super) fn read_until_scan(&mut self, bytes: &[u8], mut offset: usize) -> Result<Reached, JpegError> {
        loop {
            offset +=
                memchr::memchr(0xFF, bytes.get(offset..).unwrap_or_default()).ok_or_else(super::truncated)?;
            offset += bytes[offset..].iter().position(|&byte| byte != 0xFF).ok_or_else(super::truncated)?;
            let marker = bytes[offset];
            offset += 1;
            match marker {
                0x00 | 0x01 | 0xD0..=0xD8 => continue,
                0xD9 => return Ok(Reached::End),
                _ => {}
            }
            let rest = &bytes[offset..];
            let &length = rest.first_chunk().ok_or_else(super::truncated)?;
            let length = usize::from(u16::from_be_bytes(length));
            let segment = rest.get(..length).ok_or_else(super::truncated)?.get(2..).ok_or(TOO_SHORT)?;
            offset += length;
            match marker {
                0xC0..=0xC2 => {
                    if self.frame.is_some() {
                        return Err(JpegError::Damaged("more than one frame header"));
                    }
                    self.frame = Some(Frame::parse(marker, segment)?);
                }
                0xC4 => self.parse_huffman_tables(segment)?,
                0xC3 | 0xC5..=0xCF => return Err(JpegError::Unsupported),
                0xDA => return Ok(Reached::Scan(self.parse_scan_header(segment)?, offset)),
                0xDB => self.parse_quant_tables(segment)?,
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

    /// Prepares the AC tables of a scan for [`BitReader::skip_ac`](super::huffman::BitReader::skip_ac).
    pub(super) fn build_skip_entries(&mut self, header: &ScanHeader) {
        for component in &header.components {
            if let Some(Some(table)) = self.ac_tables.get_mut(component.ac) {
                table.build_skip_entries();
            }
        }
    }

    /// A DHT segment.
    fn parse_huffman_tables(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let Some((&class_and_index, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(TOO_SHORT)?;
            let symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols).ok_or(TOO_SHORT)?;
            let tables = if class_and_index >> 4 == 0 { &mut self.dc_tables } else { &mut self.ac_tables };
            let slot = tables.get_mut(usize::from(class_and_index & 15)).filter(|_| class_and_index < 0x20);
            *slot.ok_or(NO_SUCH_TABLE)? = Some(HuffmanTable::new(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    /// A DQT segment.
    fn parse_quant_tables(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let Some((&class_and_index, rest)) = segment.split_first() {
            let mut quant_table = [0; 64];
            let is_16_bit = class_and_index >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if is_16_bit { 128 } else { 64 }).ok_or(TOO_SHORT)?;
            for (index, &position) in ZIGZAG.iter().enumerate() {
                quant_table[usize::from(position)] = if is_16_bit {
                    i32::from(u16::from_be_bytes([values[2 * index], values[2 * index + 1]]))
                } else {
                    i32::from(values[index])
                };
            }
            *self.quant_tables.get_mut(usize::from(class_and_index & 15)).ok_or(NO_SUCH_TABLE)? =
                Some(quant_table);
            segment = rest;
        }
        Ok(())
    }

    /// An SOS segment.
    fn parse_scan_header(&mut self, segment: &[u8]) -> Result<ScanHeader, JpegError> {
        let frame = self.frame.as_mut().ok_or(JpegError::Damaged("a scan without a frame"))?;
        let (&count, rest) = segment.split_first().ok_or(TOO_SHORT)?;
        let (specs, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or(TOO_SHORT)?;
        let &[first, last, bits] = rest.first_chunk().ok_or(TOO_SHORT)?;
        let mut components: Vec<ScanComponent> = Vec::new();
        for &[id, tables] in specs.as_chunks::<2>().0 {
            let component = frame.components.iter().position(|component| component.id == id);
            let component = component.ok_or(JpegError::Damaged("a scan of an unknown component"))?;
            if components.iter().any(|scan_component| scan_component.index == component) {
                return Err(JpegError::Damaged("a scan lists a component twice"));
            }
            components.push(ScanComponent {
                index: component,
                dc: usize::from(tables >> 4),
                ac: usize::from(tables & 15),
            });
            let frame_component = &mut frame.components[component];
            if frame_component.quant_table.is_none() {
                let quant_table = self.quant_tables.get(frame_component.quant_index).copied().flatten();
                frame_component.quant_table = Some(quant_table.ok_or(NO_SUCH_TABLE)?);
            }
        }
        let (band, approx_high, approx_low) = if frame.progressive {
            ((first.into(), last.into()), u32::from(bits >> 4), u32::from(bits & 15))
        } else {
            ((0, 63), 0, 0)
        };
        let is_valid = band.0 <= band.1
            && band.1 < 64
            && approx_low <= 13
            && (approx_high == 0 || approx_high == approx_low + 1)
            && (!frame.progressive || if band.0 == 0 { band.1 == 0 } else { components.len() == 1 });
        if components.is_empty() || !is_valid {
            return Err(JpegError::Damaged("an invalid scan header"));
        }
        Ok(ScanHeader { components, band, approx_high, approx_low })
    }

    /// Whether three components are RGB and not YCbCr (libjpeg's rules).
    pub(super) fn is_rgb(&self) -> bool {
        let ids = self.frame.iter().flat_map(|frame| frame.components.iter().map(|component| component.id));
        match self.adobe_transform {
            _ if self.has_jfif => false,
            Some(transform) => transform == 0,
            None => ids.eq(*b"RGB"),
        }
    }
}

const NO_SUCH_TABLE: JpegError = JpegError::Damaged("an undefined table is used");

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
