//! The segments of a JPEG, and the frame that they tell of.

use super::JpegError;
use super::huffman::HuffmanTable;

/// Coefficients from low to high frequency: where each stands in its block, row by row.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A component of the frame.
pub(super) struct FrameComponent {
    id: u8,
    /// Sampling factors, across and down.
    pub(super) sampling: (usize, usize),
    quant_table_index: usize,
    /// Steps of the coefficients, row by row, as they were when the component's first scan began.
    pub(super) quant_table: Option<[i32; 64]>,
}

/// What a frame header says.
pub(super) struct Frame {
    /// Width and height in pixels.
    pub(super) size: (usize, usize),
    pub(super) progressive: bool,
    pub(super) components: Vec<FrameComponent>,
    /// The greatest sampling factors, across and down.
    pub(super) max_sampling: (usize, usize),
}

impl Frame {
    /// Whole groups of blocks, across and down.
    pub(super) fn n_mcus(&self) -> (usize, usize) {
        (self.size.0.div_ceil(8 * self.max_sampling.0), self.size.1.div_ceil(8 * self.max_sampling.1))
    }

    /// The blocks that hold pixels of a component, across and down.
    pub(super) fn n_blocks(&self, component: usize) -> (usize, usize) {
        let (h, v) = self.components[component].sampling;
        (
            (self.size.0 * h).div_ceil(8 * self.max_sampling.0),
            (self.size.1 * v).div_ceil(8 * self.max_sampling.1),
        )
    }

    fn parse(segment: &[u8], progressive: bool) -> Result<Self, JpegError> {
        let (&[precision, h0, h1, w0, w1, count], rest) =
            segment.split_first_chunk().ok_or(SEGMENT_TOO_SHORT)?;
        let size = (usize::from(u16::from_be_bytes([w0, w1])), usize::from(u16::from_be_bytes([h0, h1])));
        if precision != 8 || size.0 == 0 || size.1 == 0 || !matches!(count, 1 | 3) {
            return Err(JpegError::Unsupported);
        }
        let specs = rest.as_chunks::<3>().0.get(..count.into()).ok_or(SEGMENT_TOO_SHORT)?;
        let mut components: Vec<FrameComponent> = specs
            .iter()
            .map(|&[id, sampling, quant_table_index]| FrameComponent {
                id,
                sampling: (usize::from(sampling >> 4), usize::from(sampling & 15)),
                quant_table_index: quant_table_index.into(),
                quant_table: None,
            })
            .collect();
        if let [single] = &mut components[..] {
            single.sampling = (1, 1); // its blocks come one by one
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
        Ok(Self { size, progressive, components, max_sampling })
    }
}

/// A component's part in a scan, and its tables.
#[derive(Clone, Copy)]
pub(super) struct ScanComponent {
    pub(super) index: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// What a scan header says.
pub(super) struct ScanHeader {
    pub(super) components: Vec<ScanComponent>,
    /// First and last coefficient, from low to high frequency.
    pub(super) band: (usize, usize),
    /// The bit from which on coefficients are known before this scan (0: none are) and after it.
    pub(super) approx_high: u32,
    pub(super) approx_low: u32,
}

const SEGMENT_TOO_SHORT: JpegError = JpegError::Damaged("a segment is too short");

/// What the segments have said so far.
#[derive(Default)]
pub(super) struct JpegHeaders {
    quant_tables: [Option<[i32; 64]>; 4],
    pub(super) dc_tables: [Option<HuffmanTable>; 4],
    pub(super) ac_tables: [Option<HuffmanTable>; 4],
    /// Groups of blocks between restarts; 0 where there are none.
    pub(super) restart_interval: usize,
    has_jfif: bool,
    adobe_transform: Option<u8>,
    pub(super) frame: Option<Frame>,
}

/// A segment that ends a run of others.
pub(super) enum Reached {
    /// A scan; its bits begin at this byte.
    Scan(ScanHeader, usize),
    /// The end of the picture.
    End,
}

impl JpegHeaders {
    /// Reads segments from byte `at` on up to a scan or the end. Bytes between segments are passed over, as libjpeg does.
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
            let segment =
                rest.get(..length).ok_or_else(super::truncated)?.get(2..).ok_or(SEGMENT_TOO_SHORT)?;
            offset += length;
            match marker {
                0xC0..=0xC2 => {
                    if self.frame.is_some() {
                        return Err(JpegError::Damaged("two frames"));
                    }
                    self.frame = Some(Frame::parse(segment, marker == 0xC2)?);
                }
                0xC4 => self.parse_huffman_tables(segment)?,
                0xC3 | 0xC5..=0xCF => return Err(JpegError::Unsupported),
                0xDA => return Ok(Reached::Scan(self.parse_scan_header(segment)?, offset)),
                0xDB => self.parse_quant_tables(segment)?,
                0xDD => {
                    let &interval = segment.first_chunk().ok_or(SEGMENT_TOO_SHORT)?;
                    self.restart_interval = u16::from_be_bytes(interval).into();
                }
                0xDC => return Err(JpegError::Unsupported), // a height that comes later
                0xE0 if segment.len() >= 12 && segment.starts_with(b"JFIF\0") => self.has_jfif = true,
                0xEE if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                    self.adobe_transform = Some(segment[11]);
                }
                _ => {}
            }
        }
    }

    /// Makes ready for passing over coefficients of a scan.
    pub(super) fn build_skip_entries(&mut self, header: &ScanHeader) {
        for component in &header.components {
            if let Some(Some(table)) = self.ac_tables.get_mut(component.ac) {
                table.build_skip_entries();
            }
        }
    }

    fn parse_huffman_tables(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let Some((&kind, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(SEGMENT_TOO_SHORT)?;
            let symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols).ok_or(SEGMENT_TOO_SHORT)?;
            let tables = if kind >> 4 == 0 { &mut self.dc_tables } else { &mut self.ac_tables };
            let slot = tables.get_mut(usize::from(kind & 15)).filter(|_| kind < 0x20);
            *slot.ok_or(NO_SUCH_TABLE)? = Some(HuffmanTable::new(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    fn parse_quant_tables(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let Some((&kind, rest)) = segment.split_first() {
            let mut quant_table = [0; 64];
            let is_16_bit = kind >> 4 != 0;
            let (values, rest) =
                rest.split_at_checked(if is_16_bit { 128 } else { 64 }).ok_or(SEGMENT_TOO_SHORT)?;
            for (index, &position) in ZIGZAG.iter().enumerate() {
                quant_table[usize::from(position)] = if is_16_bit {
                    i32::from(u16::from_be_bytes([values[2 * index], values[2 * index + 1]]))
                } else {
                    i32::from(values[index])
                };
            }
            *self.quant_tables.get_mut(usize::from(kind & 15)).ok_or(NO_SUCH_TABLE)? = Some(quant_table);
            segment = rest;
        }
        Ok(())
    }

    fn parse_scan_header(&mut self, segment: &[u8]) -> Result<ScanHeader, JpegError> {
        let frame = self.frame.as_mut().ok_or(JpegError::Damaged("a scan without a frame"))?;
        let (&count, rest) = segment.split_first().ok_or(SEGMENT_TOO_SHORT)?;
        let (specs, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or(SEGMENT_TOO_SHORT)?;
        let &[first, last, bits] = rest.first_chunk().ok_or(SEGMENT_TOO_SHORT)?;
        let mut components: Vec<ScanComponent> = Vec::new();
        for &[id, tables] in specs.as_chunks::<2>().0 {
            let component = frame.components.iter().position(|component| component.id == id);
            let component = component.ok_or(JpegError::Damaged("a scan of no component of the frame"))?;
            if components.iter().any(|scan_component| scan_component.index == component) {
                return Err(JpegError::Damaged("a scan has a component twice"));
            }
            components.push(ScanComponent {
                index: component,
                dc: usize::from(tables >> 4),
                ac: usize::from(tables & 15),
            });
            let frame_component = &mut frame.components[component];
            if frame_component.quant_table.is_none() {
                let quant_table = self.quant_tables.get(frame_component.quant_table_index).copied().flatten();
                frame_component.quant_table = Some(quant_table.ok_or(NO_SUCH_TABLE)?);
            }
        }
        let (mut band, mut approx_high, mut approx_low) =
            ((first.into(), last.into()), u32::from(bits >> 4), u32::from(bits & 15));
        if !frame.progressive {
            (band, approx_high, approx_low) = ((0, 63), 0, 0);
        }
        let is_valid = band.0 <= band.1
            && band.1 < 64
            && approx_low <= 13
            && (approx_high == 0 || approx_high == approx_low + 1)
            && (!frame.progressive || if band.0 == 0 { band.1 == 0 } else { components.len() == 1 });
        if components.is_empty() || !is_valid {
            return Err(JpegError::Damaged("a scan header makes no sense"));
        }
        Ok(ScanHeader { components, band, approx_high, approx_low })
    }

    /// Whether three components are red, green and blue, not brightness and two colours (libjpeg's rules).
    pub(super) fn is_rgb(&self) -> bool {
        let ids = self.frame.iter().flat_map(|frame| frame.components.iter().map(|component| component.id));
        match self.adobe_transform {
            _ if self.has_jfif => false,
            Some(transform) => transform == 0,
            None => ids.eq(*b"RGB"),
        }
    }
}

const NO_SUCH_TABLE: JpegError = JpegError::Damaged("a table that is not there");

#[cfg(test)]
mod tests {
    use super::ZIGZAG;

    #[test]
    fn the_zigzag_follows_the_diagonals() {
        let mut positions: Vec<usize> = (0..64).collect();
        // Of a diagonal the even ones go up, the odd ones down.
        positions.sort_by_key(|position| {
            let (row, column) = (position / 8, position % 8);
            let along = if (row + column) % 2 == 0 { column } else { row };
            (row + column, along)
        });
        assert!(positions.iter().zip(ZIGZAG).all(|(&position, zigzag)| position == usize::from(zigzag)));
    }
}
