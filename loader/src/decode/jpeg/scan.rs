//! Decodes scans: from bits to coefficients.

use std::ops::RangeInclusive;

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
    /// Blocks of zeros.
    pub(super) fn new(columns: usize, rows: usize) -> Self {
        Self { columns, blocks: vec![[0; 64]; columns * rows] }
    }

    /// Number of rows of blocks.
    fn rows(&self) -> usize {
        self.blocks.len() / self.columns
    }
}

/// The compressed bytes of one scan, without markers and escapes. A restart marker starts a new interval,
/// which is decoded independently of the others; a scan without such markers is one interval.
pub(super) struct RestartIntervals {
    /// Whether the file may end within a scan.
    may_be_truncated: bool,
    /// The intervals one after the other, each followed by [`PADDING`] zeros.
    bytes: Vec<u8>,
    /// The end of each interval in `bytes`.
    ends: Vec<usize>,
}

impl RestartIntervals {
    /// No intervals yet, of a file that ends too early if `may_be_truncated`.
    pub(super) fn new(may_be_truncated: bool) -> Self {
        Self { may_be_truncated, bytes: Vec::new(), ends: Vec::new() }
    }

    /// Replaces the restart intervals by those of the scan whose compressed data starts at `offset` of the
    /// file `bytes`: removes the 0 after each data byte 0xFF and cuts the data at the restart markers.
    /// Returns the offset of the next segment, or of the end of the file if it may be truncated.
    pub(super) fn load_scan(&mut self, bytes: &[u8], mut offset: usize) -> Result<usize, JpegError> {
        self.bytes.clear();
        self.ends.clear();
        loop {
            let rest = bytes.get(offset..).unwrap_or_default();
            let n_data = memchr(0xFF, rest).unwrap_or(rest.len());
            self.bytes.extend_from_slice(&rest[..n_data]);
            offset += n_data;
            // A marker may start with several bytes 0xFF.
            let Some(n_fill) = rest[n_data..].iter().position(|&byte| byte != 0xFF) else {
                self.end_interval();
                return if self.may_be_truncated { Ok(bytes.len()) } else { Err(truncated()) };
            };
            match rest[n_data + n_fill] {
                // An escaped data byte 0xFF.
                0x00 => self.bytes.push(0xFF),
                // A restart marker; they count from 0 to 7 and start again.
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
            offset += n_fill + 1;
        }
    }

    /// Ends the interval that the last bytes belong to.
    fn end_interval(&mut self) {
        self.bytes.extend([0; PADDING]);
        self.ends.push(self.bytes.len());
    }

    /// A bit reader at the start of the restart interval `index`. If the scan has fewer intervals, it is an
    /// error, or a reader without data if the file may be truncated.
    fn interval_reader(&self, index: usize) -> Result<BitReader<'_>, JpegError> {
        let Some(&end) = self.ends.get(index) else {
            return if self.may_be_truncated { Ok(BitReader::new(&[])) } else { Err(truncated()) };
        };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Ok(BitReader::new(&self.bytes[start..end]))
    }
}

/// Decodes the blocks of one component of a scan.
struct ComponentDecoder<'a> {
    component: ScanComponent,
    dc_table: Option<&'a HuffmanTable>,
    ac_table: Option<&'a HuffmanTable>,
    /// The DC coefficient of the previous block.
    previous_dc: i32,
}

const NO_HUFFMAN_TABLE: JpegError = JpegError::Damaged("a scan uses an undefined Huffman table");

/// Decodes the scan of `header` from its compressed data `intervals` into `blocks`, one grid of coefficients
/// per component. If a grid has fewer rows than the image, later rows overwrite earlier ones. `needs_ac` says
/// whether the AC coefficients of a block are needed, by component, column and row. `on_mcu_row` is called with the number
/// of a row of MCUs (groups of blocks of all components) and `blocks` after this row is decoded.
///
/// Where a truncated file ends, the rest of the unit (an MCU or a block) is decoded from zeros, and later units
/// get no coefficients: as in libjpeg, whose `insufficient_data` this is.
pub(super) fn read_scan(
    headers: &JpegHeaders,
    frame: &Frame,
    header: &ScanHeader,
    intervals: &RestartIntervals,
    blocks: &mut [BlockGrid],
    needs_ac: impl Fn(usize, usize, usize) -> bool,
    mut on_mcu_row: impl FnMut(usize, &[BlockGrid]),
) -> Result<(), JpegError> {
    let mut decoders: Vec<ComponentDecoder<'_>> = header
        .components
        .iter()
        .map(|&component| ComponentDecoder {
            component,
            dc_table: headers.dc_tables.get(component.dc_table).and_then(Option::as_ref),
            ac_table: headers.ac_tables.get(component.ac_table).and_then(Option::as_ref),
            previous_dc: 0,
        })
        .collect();
    // The unit of a scan of one component is a block; the unit of a scan of several components is an MCU,
    // which has h x v blocks of each component.
    let is_single = header.components.len() == 1;
    let (unit_columns, unit_rows) =
        if is_single { frame.n_blocks(header.components[0].index) } else { frame.n_mcus() };
    let units_per_interval =
        if headers.restart_interval == 0 { unit_columns * unit_rows } else { headers.restart_interval };
    let mut bits = intervals.interval_reader(0)?;
    let mut eob_run = 0; // blocks without further coefficients in this band
    let mut units_left = units_per_interval;
    let mut next_interval = 1;
    let mut data_ended = false;
    for row in 0..unit_rows {
        for column in 0..unit_columns {
            if units_left == 0 {
                if !data_ended {
                    bits.check_not_past_end()?;
                }
                bits = intervals.interval_reader(next_interval)?;
                next_interval += 1;
                units_left = units_per_interval;
                eob_run = 0;
                for decoder in &mut decoders {
                    decoder.previous_dc = 0;
                }
            }
            units_left -= 1;
            let may_end = intervals.may_be_truncated && next_interval >= intervals.ends.len();
            for decoder in &mut decoders {
                let component = decoder.component.index;
                let (h, v) = if is_single { (1, 1) } else { frame.components[component].sampling };
                let grid = &mut blocks[component];
                let rows = grid.rows();
                for y in row * v..(row + 1) * v {
                    let start = (y % rows) * grid.columns;
                    for x in column * h..(column + 1) * h {
                        let block = &mut grid.blocks[start + x];
                        let decoded = match frame.progressive {
                            _ if data_ended => {
                                // Coefficients of earlier scans stay.
                                if !frame.progressive {
                                    *block = [0; 64];
                                }
                                Ok(())
                            }
                            true => decoder.read_progressive_block(&mut bits, header, block, &mut eob_run),
                            false => decoder.read_baseline_block(&mut bits, block, needs_ac(component, x, y)),
                        };
                        // Zeros in place of missing data need not make sense.
                        decoded.or_else(
                            |error| if may_end && bits.is_past_end() { Ok(()) } else { Err(error) },
                        )?;
                    }
                }
            }
            data_ended |= may_end && bits.is_past_end();
        }
        if !data_ended {
            bits.check_not_past_end()?;
        }
        on_mcu_row(row, blocks);
    }
    // One restart marker at the end is harmless.
    if intervals.ends.len() > next_interval + 1 {
        return Err(JpegError::Damaged("the file has more restart markers than expected"));
    }
    Ok(())
}

impl ComponentDecoder<'_> {
    /// Reads the DC coefficient of the next block, not dequantized: the stored difference plus the DC
    /// coefficient of the previous block.
    #[inline(always)]
    fn read_dc(&mut self, bits: &mut BitReader<'_>) -> Result<i32, JpegError> {
        let difference = bits.read_dc_difference(self.dc_table.ok_or(NO_HUFFMAN_TABLE)?)?;
        self.previous_dc = self.previous_dc.wrapping_add(difference);
        Ok(self.previous_dc)
    }

    /// Decodes the next block of a baseline scan into `block`, not dequantized. Without `needs_ac` its AC
    /// coefficients become 0; their bits are skipped.
    #[inline(always)]
    fn read_baseline_block(
        &mut self,
        bits: &mut BitReader<'_>,
        block: &mut Block,
        needs_ac: bool,
    ) -> Result<(), JpegError> {
        let ac_table = self.ac_table.ok_or(NO_HUFFMAN_TABLE)?;
        // A local copy stays in registers.
        let mut reader = *bits;
        *block = [0; 64];
        let decoded = self.read_dc(&mut reader).and_then(|dc| {
            block[0] = dc as i16;
            if needs_ac {
                // After an early end the coefficients stay 0.
                read_ac(&mut reader, ac_table, 1..=63, 0, block).map(|_| ())
            } else {
                reader.skip_ac(ac_table)
            }
        });
        *bits = reader;
        decoded
    }

    /// Decodes what a progressive scan adds to `block`: the first bits of its coefficients, or one more bit
    /// of coefficients whose higher bits are known. `eob_run` is the number of blocks, from this one on, that
    /// get no new AC coefficients in this scan; it is updated. Source: libjpeg's `jdphuff.c`.
    fn read_progressive_block(
        &mut self,
        bits: &mut BitReader<'_>,
        header: &ScanHeader,
        block: &mut Block,
        eob_run: &mut u32,
    ) -> Result<(), JpegError> {
        let (first, last) = (header.first_coefficient, header.last_coefficient);
        match (first, header.approx_high) {
            // A first scan has the high bits of the DC coefficient, each later scan one more bit.
            (0, 0) => block[0] = (self.read_dc(bits)? << header.approx_low) as i16,
            (0, _) => block[0] |= (bits.read_bits(1) << header.approx_low) as i16,
            // No new AC coefficients in this block.
            _ if *eob_run > 0 => {
                *eob_run -= 1;
                if header.approx_high > 0 {
                    refine_nonzero(bits, first..=last, header.approx_low, block)?;
                }
            }
            // A first scan has the high bits of AC coefficients.
            (_, 0) => {
                let ac_table = self.ac_table.ok_or(NO_HUFFMAN_TABLE)?;
                if let Some(run) = read_ac(bits, ac_table, first..=last, header.approx_low, block)? {
                    *eob_run = (1 << run) - 1 + bits.read_bits(run);
                }
            }
            _ => self.refine_ac_band(bits, first..=last, header.approx_low, block, eob_run)?,
        }
        Ok(())
    }

    /// Decodes a block of a refinement scan of a progressive JPEG: bit `approx_low` of the AC coefficients in
    /// `band` (zigzag indices), whose higher bits are known. The file has a bit for each nonzero coefficient,
    /// and the coefficients that become nonzero. Where it says that the rest of this block and some blocks
    /// after it get no new coefficients, `eob_run` becomes the number of blocks after it.
    fn refine_ac_band(
        &self,
        bits: &mut BitReader<'_>,
        band: RangeInclusive<usize>,
        approx_low: u32,
        block: &mut Block,
        eob_run: &mut u32,
    ) -> Result<(), JpegError> {
        let (first, last) = band.into_inner();
        let ac_table = self.ac_table.ok_or(NO_HUFFMAN_TABLE)?;
        let mut index = first;
        while index <= last {
            let (mut zeros_left, value) = match bits.read_coefficient(ac_table)? {
                // A new coefficient has one bit, which is its sign.
                Coefficient::Value { run, value: value @ (1 | -1) } => (run, value << approx_low),
                Coefficient::Value { .. } => {
                    return Err(JpegError::Damaged("a refinement scan has an invalid coefficient"));
                }
                Coefficient::Run(15) => (15, 0),
                Coefficient::Run(run) => {
                    *eob_run = (1 << run) - 1 + bits.read_bits(run);
                    return refine_nonzero(bits, index..=last, approx_low, block);
                }
            };
            while index <= last {
                let coefficient = &mut block[block_position(index)?];
                if *coefficient != 0 {
                    refine_coefficient(bits, approx_low, coefficient);
                } else if zeros_left == 0 {
                    *coefficient = value as i16;
                    break;
                } else {
                    zeros_left -= 1;
                }
                index += 1;
            }
            index += 1;
        }
        Ok(())
    }
}

/// Decodes the AC coefficients in `band` (zigzag indices) of the next block, of a baseline scan or of the first
/// progressive scan of the band, into the row-major `block`. They must be 0 before; their lowest bit in the scan
/// is bit `approx_low`. If the band ends early, returns the number that says so, see [`Coefficient::Run`].
#[inline(always)]
fn read_ac(
    bits: &mut BitReader<'_>,
    ac_table: &HuffmanTable,
    band: RangeInclusive<usize>,
    approx_low: u32,
    block: &mut Block,
) -> Result<Option<u32>, JpegError> {
    let (mut index, last) = band.into_inner();
    while index <= last {
        match bits.read_coefficient(ac_table)? {
            Coefficient::Value { run, value } => {
                index += run as usize;
                block[block_position(index)?] = (value << approx_low) as i16;
                index += 1;
            }
            Coefficient::Run(15) => index += 16, // 16 zeros
            Coefficient::Run(run) => return Ok(Some(run)),
        }
    }
    if index > last + 1 { Err(TOO_MANY_COEFFICIENTS) } else { Ok(None) }
}

const TOO_MANY_COEFFICIENTS: JpegError = JpegError::Damaged("a block has more than 64 coefficients");

/// The position in a row-major block of the coefficient with this zigzag index.
#[inline(always)]
fn block_position(index: usize) -> Result<usize, JpegError> {
    // The mask lets the compiler omit bounds checks.
    ZIGZAG.get(index).map(|&position| usize::from(position & 63)).ok_or(TOO_MANY_COEFFICIENTS)
}

/// Reads one more bit, bit `approx_low`, of those coefficients in `band` (zigzag indices) of `block` that are
/// already nonzero. For a block to which a refinement scan of a progressive JPEG adds no new coefficients.
fn refine_nonzero(
    bits: &mut BitReader<'_>,
    band: RangeInclusive<usize>,
    approx_low: u32,
    block: &mut Block,
) -> Result<(), JpegError> {
    for index in band {
        let coefficient = &mut block[block_position(index)?];
        if *coefficient != 0 {
            refine_coefficient(bits, approx_low, coefficient);
        }
    }
    Ok(())
}

/// Reads bit `approx_low` of a coefficient whose higher bits are known and not 0, in a refinement scan of a
/// progressive JPEG: if the bit is 1, the coefficient grows away from 0.
fn refine_coefficient(bits: &mut BitReader<'_>, approx_low: u32, coefficient: &mut i16) {
    let step = 1i16 << approx_low;
    if bits.read_bits(1) == 1 && *coefficient & step == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { step } else { -step });
    }
}
