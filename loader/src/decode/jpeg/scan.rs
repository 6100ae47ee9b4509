//! Scans: from bits to coefficients.

use memchr::memchr;

use super::frame::{Frame, JpegHeaders, ScanComponent, ScanHeader, ZIGZAG};
use super::huffman::{BitReader, Coefficient, HuffmanTable, PADDING};
use super::{JpegError, truncated};

/// Coefficients of 8 x 8, row by row.
pub(super) type Block = [i16; 64];

/// The blocks of a component, or some rows of them.
pub(super) struct BlockGrid {
    /// Blocks a row; of each group of blocks there is the whole.
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

/// What is wanted of the coefficients of a block.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum NeededCoefficients {
    All,
    /// The first one, which the next block's differs from.
    DcOnly,
}

/// The compressed bytes of a scan without what marks them: a slice for each interval between restarts.
#[derive(Default)]
pub(super) struct RestartIntervals {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl RestartIntervals {
    /// Takes the scan that begins at byte `at`; gives where the next segment begins.
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
                        return Err(JpegError::Damaged("restarts in the wrong order"));
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

/// A component's part in a scan, with its tables at hand.
struct ComponentDecoder<'a> {
    component: ScanComponent,
    dc: Option<&'a HuffmanTable>,
    ac: Option<&'a HuffmanTable>,
    /// The first coefficient of the block before.
    previous_dc: i32,
}

const NO_HUFFMAN_TABLE: JpegError = JpegError::Damaged("a Huffman table that is not there");

/// Reads a scan into `blocks`, row of groups by row of groups, over those that are there when they are fewer. `wanted` says what
/// of a component's block in a column and row; `done` is told of each row of groups that is complete.
pub(super) fn read_scan(
    (tables, frame): (&JpegHeaders, &Frame),
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
            dc: tables.dc_tables.get(component.dc).and_then(Option::as_ref),
            ac: tables.ac_tables.get(component.ac).and_then(Option::as_ref),
            previous_dc: 0,
        })
        .collect();
    // Alone a component comes block by block, else in groups of as many blocks as its sampling factors say.
    let is_single = header.components.len() == 1;
    let (unit_columns, unit_rows) =
        if is_single { frame.n_blocks(header.components[0].index) } else { frame.n_mcus() };
    let interval =
        if tables.restart_interval == 0 { unit_columns * unit_rows } else { tables.restart_interval };
    let mut bits = intervals.reader(0)?;
    let mut eob_run = 0; // blocks that are told to have nothing more in this band
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
    // A restart that nothing follows does no harm.
    if intervals.ends.len() > next_interval + 1 {
        return Err(JpegError::Damaged("more restarts than the picture has"));
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

    /// A block of a baseline scan.
    #[inline(always)]
    fn read_baseline_block(
        &mut self,
        bits: &mut BitReader<'_>,
        block: &mut Block,
        needed: NeededCoefficients,
    ) -> Result<(), JpegError> {
        let ac = self.ac.ok_or(NO_HUFFMAN_TABLE)?;
        // A copy that nothing else points to stays in registers.
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

    /// What a progressive scan adds to a block. Source: libjpeg's `jdphuff.c`.
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

    /// One more bit of the coefficients that are known, and those that begin with it.
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
                // The value's one bit is its sign.
                Coefficient::Value { run, value: value @ (1 | -1) } => (run, value << approx_low),
                Coefficient::Value { .. } => {
                    return Err(JpegError::Damaged("a coefficient that begins with two bits"));
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

/// The coefficients of a block but the first.
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

const TOO_MANY_COEFFICIENTS: JpegError = JpegError::Damaged("a block with more than 64 coefficients");

/// Where the coefficient of this frequency stands.
#[inline(always)]
fn block_position(index: usize) -> Result<usize, JpegError> {
    ZIGZAG.get(index).map(|&position| usize::from(position & 63)).ok_or(TOO_MANY_COEFFICIENTS)
}

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
