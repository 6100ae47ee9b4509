//! Scans: from bits to coefficients.

use memchr::memchr;

use super::frame::{Frame, Part, ScanHeader, Tables, ZIGZAG};
use super::huffman::{Bits, Coefficient, PADDING, Table};
use super::{Fault, cut};

/// Coefficients of 8 x 8, row by row.
pub(super) type Block = [i16; 64];

/// The blocks of a component, or some rows of them.
pub(super) struct Blocks {
    /// Blocks a row; of each group of blocks there is the whole.
    pub(super) columns: usize,
    pub(super) blocks: Vec<Block>,
}

impl Blocks {
    pub(super) fn new(columns: usize, rows: usize) -> Self {
        Self { columns, blocks: vec![[0; 64]; columns * rows] }
    }

    fn rows(&self) -> usize {
        self.blocks.len() / self.columns
    }
}

/// What is wanted of the coefficients of a block.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    All,
    /// The first one, which the next block's differs from.
    First,
}

/// The compressed bytes of a scan without what marks them: a slice for each interval between restarts.
#[derive(Default)]
pub(super) struct Intervals {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Intervals {
    /// Takes the scan that begins at byte `at`; gives where the next segment begins.
    pub(super) fn take(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
        self.bytes.clear();
        self.ends.clear();
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let run = memchr(0xFF, rest).ok_or_else(cut)?;
            self.bytes.extend_from_slice(&rest[..run]);
            at += run;
            let behind = rest[run..].iter().position(|&byte| byte != 0xFF).ok_or_else(cut)?;
            match rest[run + behind] {
                0x00 => self.bytes.push(0xFF),
                marker @ 0xD0..=0xD7 => {
                    if usize::from(marker - 0xD0) != self.ends.len() % 8 {
                        return Err(Fault::Damaged("restarts in the wrong order"));
                    }
                    self.end();
                }
                _ => {
                    self.end();
                    return Ok(at);
                }
            }
            at += behind + 1;
        }
    }

    fn end(&mut self) {
        self.bytes.extend([0; PADDING]);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: usize) -> Result<Bits<'_>, Fault> {
        let end = *self.ends.get(index).ok_or_else(cut)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Ok(Bits::new(&self.bytes[start..end]))
    }
}

/// A component's part in a scan, with its tables at hand.
struct Decoder<'a> {
    part: Part,
    dc: Option<&'a Table>,
    ac: Option<&'a Table>,
    /// The first coefficient of the block before.
    before: i32,
}

const NO_TABLE: Fault = Fault::Damaged("a Huffman table that is not there");

/// Reads a scan into `blocks`, row of groups by row of groups, over those that are there when they are fewer. `wanted` says what
/// of a component's block in a column and row; `done` is told of each row of groups that is complete.
pub(super) fn read(
    (tables, frame): (&Tables, &Frame),
    header: &ScanHeader,
    intervals: &Intervals,
    blocks: &mut [Blocks],
    wanted: impl Fn(usize, usize, usize) -> Wanted,
    mut done: impl FnMut(usize, &[Blocks]),
) -> Result<(), Fault> {
    let mut decoders: Vec<Decoder<'_>> = header
        .parts
        .iter()
        .map(|&part| Decoder {
            part,
            dc: tables.dc.get(part.dc).and_then(Option::as_ref),
            ac: tables.ac.get(part.ac).and_then(Option::as_ref),
            before: 0,
        })
        .collect();
    // Alone a component comes block by block, else in groups of as many blocks as its sampling factors say.
    let alone = header.parts.len() == 1;
    let (across, down) = if alone { frame.blocks(header.parts[0].component) } else { frame.units() };
    let interval = if tables.restart == 0 { across * down } else { tables.restart };
    let mut bits = intervals.get(0)?;
    let mut ended = 0; // blocks that are told to have nothing more in this band
    let mut left = interval;
    let mut next = 1;
    for row in 0..down {
        for column in 0..across {
            if left == 0 {
                bits.check()?;
                bits = intervals.get(next)?;
                next += 1;
                left = interval;
                ended = 0;
                for decoder in &mut decoders {
                    decoder.before = 0;
                }
            }
            left -= 1;
            for decoder in &mut decoders {
                let component = decoder.part.component;
                let (h, v) = if alone { (1, 1) } else { frame.components[component].sampling };
                let these = &mut blocks[component];
                let rows = these.rows();
                for y in row * v..(row + 1) * v {
                    let start = (y % rows) * these.columns;
                    for x in column * h..(column + 1) * h {
                        let block = &mut these.blocks[start + x];
                        if frame.progressive {
                            decoder.refine(&mut bits, header, block, &mut ended)?;
                        } else {
                            decoder.whole(&mut bits, block, wanted(component, x, y))?;
                        }
                    }
                }
            }
        }
        bits.check()?;
        done(row, blocks);
    }
    // A restart that nothing follows does no harm.
    if intervals.ends.len() > next + 1 {
        return Err(Fault::Damaged("more restarts than the picture has"));
    }
    Ok(())
}

impl Decoder<'_> {
    #[inline(always)]
    fn first(&mut self, bits: &mut Bits<'_>) -> Result<i32, Fault> {
        let difference = bits.difference(self.dc.ok_or(NO_TABLE)?)?;
        self.before = self.before.wrapping_add(difference);
        Ok(self.before)
    }

    /// A block of a baseline scan.
    #[inline(always)]
    fn whole(&mut self, bits: &mut Bits<'_>, block: &mut Block, wanted: Wanted) -> Result<(), Fault> {
        let ac = self.ac.ok_or(NO_TABLE)?;
        // A copy that nothing else points to stays in registers.
        let mut local = *bits;
        *block = [0; 64];
        block[0] = self.first(&mut local)? as i16;
        if wanted == Wanted::First {
            local.leap(ac)?;
        } else {
            rest(&mut local, ac, block)?;
        }
        *bits = local;
        Ok(())
    }

    /// What a progressive scan adds to a block. Source: libjpeg's `jdphuff.c`.
    fn refine(
        &mut self,
        bits: &mut Bits<'_>,
        header: &ScanHeader,
        block: &mut Block,
        ended: &mut u32,
    ) -> Result<(), Fault> {
        match (header.band, header.bit_before) {
            ((0, _), 0) => block[0] = (self.first(bits)? << header.bit) as i16,
            ((0, _), _) => block[0] |= (bits.take(1) << header.bit) as i16,
            _ if *ended > 0 => {
                *ended -= 1;
                if header.bit_before > 0 {
                    refine_rest(bits, header.band, header.bit, block)?;
                }
            }
            ((first, last), 0) => {
                let ac = self.ac.ok_or(NO_TABLE)?;
                let mut at = first;
                while at <= last {
                    match bits.coefficient(ac)? {
                        Coefficient::Value { run, value } => {
                            at += run as usize;
                            block[place(at)?] = (value << header.bit) as i16;
                            at += 1;
                        }
                        Coefficient::Run(15) => at += 16,
                        Coefficient::Run(run) => {
                            *ended = (1 << run) - 1 + bits.take(run);
                            return Ok(());
                        }
                    }
                }
                if at > last + 1 {
                    return Err(TOO_MANY);
                }
            }
            (band, _) => self.refine_band(bits, band, header.bit, block, ended)?,
        }
        Ok(())
    }

    /// One more bit of the coefficients that are known, and those that begin with it.
    fn refine_band(
        &self,
        bits: &mut Bits<'_>,
        (first, last): (usize, usize),
        bit: u32,
        block: &mut Block,
        ended: &mut u32,
    ) -> Result<(), Fault> {
        let ac = self.ac.ok_or(NO_TABLE)?;
        let mut at = first;
        while at <= last {
            let (zeros, value) = match bits.coefficient(ac)? {
                // The value's one bit is its sign.
                Coefficient::Value { run, value: value @ (1 | -1) } => (run, value << bit),
                Coefficient::Value { .. } => {
                    return Err(Fault::Damaged("a coefficient that begins with two bits"));
                }
                Coefficient::Run(15) => (15, 0),
                Coefficient::Run(run) => {
                    *ended = (1 << run) - 1 + bits.take(run);
                    return refine_rest(bits, (at, last), bit, block);
                }
            };
            let mut zeros = zeros;
            while at <= last {
                let coefficient = &mut block[place(at)?];
                if *coefficient != 0 {
                    refine_one(bits, bit, coefficient);
                } else if zeros == 0 {
                    *coefficient = value as i16;
                    break;
                } else {
                    zeros -= 1;
                }
                at += 1;
            }
            at += 1;
        }
        Ok(())
    }
}

/// The coefficients of a block but the first.
#[inline(always)]
fn rest(bits: &mut Bits<'_>, ac: &Table, block: &mut Block) -> Result<(), Fault> {
    let mut at = 1;
    while at < 64 {
        match bits.coefficient(ac)? {
            Coefficient::Value { run, value } => {
                at += run as usize;
                block[place(at)?] = value as i16;
                at += 1;
            }
            Coefficient::Run(15) => at += 16,
            Coefficient::Run(_) => return Ok(()),
        }
    }
    if at > 64 { Err(TOO_MANY) } else { Ok(()) }
}

const TOO_MANY: Fault = Fault::Damaged("a block with more than 64 coefficients");

/// Where the coefficient of this frequency stands.
#[inline(always)]
fn place(at: usize) -> Result<usize, Fault> {
    ZIGZAG.get(at).map(|&place| usize::from(place & 63)).ok_or(TOO_MANY)
}

fn refine_rest(
    bits: &mut Bits<'_>,
    (first, last): (usize, usize),
    bit: u32,
    block: &mut Block,
) -> Result<(), Fault> {
    for at in first..=last {
        let coefficient = &mut block[place(at)?];
        if *coefficient != 0 {
            refine_one(bits, bit, coefficient);
        }
    }
    Ok(())
}

fn refine_one(bits: &mut Bits<'_>, bit: u32, coefficient: &mut i16) {
    let step = 1i16 << bit;
    if bits.take(1) == 1 && *coefficient & step == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { step } else { -step });
    }
}
