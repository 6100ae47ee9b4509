//! Decodes scans: from bits to coefficients.

use memchr::memchr;

use super::frame::{Frame, JpegHeaders, ScanComponent, ScanHeader, ZIGZAG};
use super::huffman::{BitReader, Coefficient, HuffmanTable, PADDING};
use super::{JpegError, truncated};

/// The 8 x 8 coefficients of a block, row-major.
pub(super) type Block = [i16; 64];

/// The blocks of a component, or of some of its block rows.
pub(super) struct BlockGrid {
    /// Blocks per row, including the padding of the last MCU.
    pub(super) columns: usize,
    pub(super) blocks: Vec<Block>,
}

impl BlockGrid {
    pub(super) fn new(columns: usize, rows: usize) -> Self {
        Self { columns, blocks: vec![[0; 64]; columns * rows] }
    }

    fn rows(&self) -> usize {
        self.blocks.len() / self.columns
    }
}

/// The coefficients of a block that are needed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum NeededCoefficients {
    All,
    /// Only the DC coefficient, which the next block's DC coefficient is relative to.
    DcOnly,
}

/// The compressed bytes of a scan without markers and escapes, one slice per restart interval.
#[derive(Default)]
pub(super) struct RestartIntervals {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl RestartIntervals {
    /// Loads the scan data that starts at `offset`; returns the offset of the next segment.
    pub(super) fn load_scan(&mut self, bytes: &[u8], mut offset: usize) -> Result<usize, JpegError> {
        self.bytes.clear();
        self.ends.clear();
        loop {
            let rest = bytes.get(offset..).unwrap_or_default();
            let run = memchr(0xFF, rest).ok_or_else(truncated)?;
            self.bytes.extend_from_slice(&rest[..run]);
            offset += run;
            let marker_offset = rest[run..].iter().position(|&byte| byte != 0xFF).ok_or_else(truncated)?;
            match rest[run + marker_offset] {
                0x00 => self.bytes.push(0xFF),
                marker @ 0xD0..=0xD7 => {
                    if usize::from(marker - 0xD0) != self.ends.len() % 8 {
                        return Err(JpegError::Damaged("restart markers are out of order"));
                    }
                    self.end_interval();
                }
                _ => {
                    self.end_interval();
                    return Ok(offset);
                }
            }
            offset += marker_offset + 1;
        }
    }

    fn end_interval(&mut self) {
        self.bytes.extend([0; PADDING]);
        self.ends.push(self.bytes.len());
    }

    fn reader(&self, index: usize) -> Result<BitReader<'_>, JpegError> {
        let end = *self.ends.get(index).ok_or_else(truncated)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Ok(BitReader::new(&self.bytes[start..end]))
    }
}

/// Decoding state of a component in a scan.
struct ComponentDecoder<'a> {
    component: ScanComponent,
    dc: Option<&'a HuffmanTable>,
    ac: Option<&'a HuffmanTable>,
    /// The DC coefficient of the previous block.
    previous_dc: i32,
}

const NO_HUFFMAN_TABLE: JpegError = JpegError::Damaged("an undefined Huffman table is used");

/// Reads a scan into `blocks`. If a grid has fewer rows than the photo, later rows overwrite earlier ones.
/// `needed` gives the coefficients needed of a block, by component, column and row. `on_mcu_row` is called
/// after each row of MCUs with its number and the blocks.
pub(super) fn read_scan(
    headers: &JpegHeaders,
    frame: &Frame,
    header: &ScanHeader,
    intervals: &RestartIntervals,
    blocks: &mut [BlockGrid],
    needed: impl Fn(usize, usize, usize) -> NeededCoefficients,
    mut on_mcu_row: impl FnMut(usize, &[BlockGrid]),
) -> Result<(), JpegError> {
    let mut decoders: Vec<ComponentDecoder<'_>> = header
        .components
        .iter()
        .map(|&component| ComponentDecoder {
            component,
            dc: headers.dc_tables.get(component.dc).and_then(Option::as_ref),
            ac: headers.ac_tables.get(component.ac).and_then(Option::as_ref),
            previous_dc: 0,
        })
        .collect();
    // A scan of one component is coded block by block; a scan of several in MCUs of (h x v) blocks per
    // component.
    let is_single = header.components.len() == 1;
    let (unit_columns, unit_rows) =
        if is_single { frame.n_blocks(header.components[0].index) } else { frame.n_mcus() };
    let interval =
        if headers.restart_interval == 0 { unit_columns * unit_rows } else { headers.restart_interval };
    let mut bits = intervals.reader(0)?;
    let mut eob_run = 0; // blocks without further coefficients in this band
    let mut units_left = interval;
    let mut next_interval = 1;
    for row in 0..unit_rows {
        for column in 0..unit_columns {
            if units_left == 0 {
                bits.check_not_past_end()?;
                bits = intervals.reader(next_interval)?;
                next_interval += 1;
                units_left = interval;
                eob_run = 0;
                for decoder in &mut decoders {
                    decoder.previous_dc = 0;
                }
            }
            units_left -= 1;
            for decoder in &mut decoders {
                let component = decoder.component.index;
                let (h, v) = if is_single { (1, 1) } else { frame.components[component].sampling };
                let grid = &mut blocks[component];
                let rows = grid.rows();
                for y in row * v..(row + 1) * v {
                    let start = (y % rows) * grid.columns;
                    for x in column * h..(column + 1) * h {
                        let block = &mut grid.blocks[start + x];
                        if frame.progressive {
                            decoder.read_progressive_block(&mut bits, header, block, &mut eob_run)?;
                        } else {
                            decoder.read_baseline_block(&mut bits, block, needed(component, x, y))?;
                        }
                    }
                }
            }
        }
        bits.check_not_past_end()?;
        on_mcu_row(row, blocks);
    }
    // One restart marker at the end is harmless.
    if intervals.ends.len() > next_interval + 1 {
        return Err(JpegError::Damaged("more restart markers than expected"));
    }
    Ok(())
}

impl ComponentDecoder<'_> {
    #[inline(always)]
    fn read_dc(&mut self, bits: &mut BitReader<'_>) -> Result<i32, JpegError> {
        let difference = bits.read_dc_difference(self.dc.ok_or(NO_HUFFMAN_TABLE)?)?;
        self.previous_dc = self.previous_dc.wrapping_add(difference);
        Ok(self.previous_dc)
    }

    /// Reads a block of a baseline scan.
    #[inline(always)]
    fn read_baseline_block(
        &mut self,
        bits: &mut BitReader<'_>,
        block: &mut Block,
        needed: NeededCoefficients,
    ) -> Result<(), JpegError> {
        let ac = self.ac.ok_or(NO_HUFFMAN_TABLE)?;
        // A local copy stays in registers.
        let mut reader = *bits;
        *block = [0; 64];
        block[0] = self.read_dc(&mut reader)? as i16;
        if needed == NeededCoefficients::DcOnly {
            reader.skip_ac(ac)?;
        } else {
            read_ac(&mut reader, ac, block)?;
        }
        *bits = reader;
        Ok(())
    }

    /// Reads what a progressive scan adds to a block. Source: libjpeg's `jdphuff.c`.
    fn read_progressive_block(
        &mut self,
        bits: &mut BitReader<'_>,
        header: &ScanHeader,
        block: &mut Block,
        eob_run: &mut u32,
    ) -> Result<(), JpegError> {
        match (header.band, header.approx_high) {
            ((0, _), 0) => block[0] = (self.read_dc(bits)? << header.approx_low) as i16,
            ((0, _), _) => block[0] |= (bits.read_bits(1) << header.approx_low) as i16,
            _ if *eob_run > 0 => {
                *eob_run -= 1;
                if header.approx_high > 0 {
                    refine_nonzero(bits, header.band, header.approx_low, block)?;
                }
            }
            ((first, last), 0) => {
                let ac = self.ac.ok_or(NO_HUFFMAN_TABLE)?;
                let mut index = first;
                while index <= last {
                    match bits.read_coefficient(ac)? {
                        Coefficient::Value { run, value } => {
                            index += run as usize;
                            block[block_position(index)?] = (value << header.approx_low) as i16;
                            index += 1;
                        }
                        Coefficient::Run(15) => index += 16,
                        Coefficient::Run(run) => {
                            *eob_run = (1 << run) - 1 + bits.read_bits(run);
                            return Ok(());
                        }
                    }
                }
                if index > last + 1 {
                    return Err(TOO_MANY_COEFFICIENTS);
                }
            }
            (band, _) => self.refine_ac_band(bits, band, header.approx_low, block, eob_run)?,
        }
        Ok(())
    }

    /// Reads one more bit of the nonzero coefficients, and coefficients that become nonzero with this bit.
    fn refine_ac_band(
        &self,
        bits: &mut BitReader<'_>,
        (first, last): (usize, usize),
        approx_low: u32,
        block: &mut Block,
        eob_run: &mut u32,
    ) -> Result<(), JpegError> {
        let ac = self.ac.ok_or(NO_HUFFMAN_TABLE)?;
        let mut index = first;
        while index <= last {
            let (zeros, value) = match bits.read_coefficient(ac)? {
                // A new coefficient has one bit, which is its sign.
                Coefficient::Value { run, value: value @ (1 | -1) } => (run, value << approx_low),
                Coefficient::Value { .. } => {
                    return Err(JpegError::Damaged("an invalid coefficient in a refinement scan"));
                }
                Coefficient::Run(15) => (15, 0),
                Coefficient::Run(run) => {
                    *eob_run = (1 << run) - 1 + bits.read_bits(run);
                    return refine_nonzero(bits, (index, last), approx_low, block);
                }
            };
            let mut zeros = zeros;
            while index <= last {
                let coefficient = &mut block[block_position(index)?];
                if *coefficient != 0 {
                    refine_coefficient(bits, approx_low, coefficient);
                } else if zeros == 0 {
                    *coefficient = value as i16;
                    break;
                } else {
                    zeros -= 1;
                }
                index += 1;
            }
            index += 1;
        }
        Ok(())
    }
}

/// Reads the AC coefficients of a baseline block.
#[inline(always)]
fn read_ac(bits: &mut BitReader<'_>, ac: &HuffmanTable, block: &mut Block) -> Result<(), JpegError> {
    let mut index = 1;
    while index < 64 {
        match bits.read_coefficient(ac)? {
            Coefficient::Value { run, value } => {
                index += run as usize;
                block[block_position(index)?] = value as i16;
                index += 1;
            }
            Coefficient::Run(15) => index += 16,
            Coefficient::Run(_) => return Ok(()),
        }
    }
    if index > 64 { Err(TOO_MANY_COEFFICIENTS) } else { Ok(()) }
}

const TOO_MANY_COEFFICIENTS: JpegError = JpegError::Damaged("a block has more than 64 coefficients");

/// The position in the block of the coefficient with this zigzag index.
#[inline(always)]
fn block_position(index: usize) -> Result<usize, JpegError> {
    ZIGZAG.get(index).map(|&position| usize::from(position & 63)).ok_or(TOO_MANY_COEFFICIENTS)
}

/// Reads one more bit of the nonzero coefficients `first..=last`.
fn refine_nonzero(
    bits: &mut BitReader<'_>,
    (first, last): (usize, usize),
    approx_low: u32,
    block: &mut Block,
) -> Result<(), JpegError> {
    for index in first..=last {
        let coefficient = &mut block[block_position(index)?];
        if *coefficient != 0 {
            refine_coefficient(bits, approx_low, coefficient);
        }
    }
    Ok(())
}

fn refine_coefficient(bits: &mut BitReader<'_>, approx_low: u32, coefficient: &mut i16) {
    let step = 1i16 << approx_low;
    if bits.read_bits(1) == 1 && *coefficient & step == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { step } else { -step });
    }
}
