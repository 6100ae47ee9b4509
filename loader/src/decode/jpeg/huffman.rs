//! Huffman codes and the bits that they are read from.

use super::{Fault, cut};

/// Bits of a code that are looked up at once.
const LOOK: u32 = 10;
/// Bits that are looked up where coefficients are passed over.
const SKIP_LOOK: u32 = 12;
/// The longest code.
const LONGEST: usize = 16;

/// What the next [`LOOK`] bits begin with.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// Of the code, and of the value where `whole`; 0 where the code is longer than what was looked up.
    bits: u8,
    symbol: u8,
    /// Whether the value's bits were looked up as well.
    whole: bool,
    value: i16,
}

/// A step over coefficients that nobody wants.
#[derive(Clone, Copy, Default)]
struct Leap {
    /// How many bits are passed over; 0 where not even one coefficient lies within what was looked up.
    bits: u8,
    /// How many coefficients.
    coefficients: u8,
    /// Whether the block ends there.
    ends: bool,
}

/// A table of codes, as a DHT segment gives it.
pub(super) struct Table {
    entries: Vec<Entry>,
    /// Of codes of each length: the first code that is longer, shifted to 16 bits, and what turns a code into an index.
    limits: [u32; LONGEST + 1],
    offsets: [i32; LONGEST + 1],
    symbols: Vec<u8>,
    leaps: Vec<Leap>,
}

impl Table {
    /// The table of `counts` codes of 1 to 16 bits for `symbols`, in order.
    pub(super) fn new(counts: &[u8; LONGEST], symbols: &[u8]) -> Result<Self, Fault> {
        let mut table = Self {
            entries: vec![Entry::default(); 1 << LOOK],
            limits: [0; LONGEST + 1],
            offsets: [0; LONGEST + 1],
            symbols: symbols.to_vec(),
            leaps: Vec::new(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1..).zip(counts) {
            table.offsets[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                let &symbol = symbols.get(index).ok_or(Fault::Damaged("a Huffman table is too short"))?;
                if code >= 1 << length {
                    return Err(Fault::Damaged("a Huffman table has more codes than there are"));
                }
                table.enter(code, length, symbol);
                code += 1;
                index += 1;
            }
            table.limits[length as usize] = code << (LONGEST as u32 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// Notes `code` of `length` bits with all bits that may follow.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        let Some(free) = LOOK.checked_sub(length) else { return };
        let size = u32::from(symbol & 15);
        let first = (code << free) as usize;
        for (following, entry) in (0u32..).zip(&mut self.entries[first..][..1 << free]) {
            let whole = size > 0 && size <= free;
            let value = if whole { extended(following >> (free - size), size) as i16 } else { 0 };
            let bits = (length + if whole { size } else { 0 }) as u8;
            *entry = Entry { bits, symbol, whole, value };
        }
    }

    /// Makes ready for [`Bits::leap`].
    pub(super) fn prepare_leaps(&mut self) {
        if !self.leaps.is_empty() {
            return;
        }
        let leap = |bits: u32| {
            let mut leap = Leap::default();
            while !leap.ends {
                let left = SKIP_LOOK - u32::from(leap.bits);
                // What is not there is taken as zeros; a code that reaches into them does not count.
                let rest = (bits << (LONGEST as u32 - SKIP_LOOK) << leap.bits) & 0xFFFF;
                let Some((length, symbol)) = self.code(rest) else { break };
                let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
                if length + size > left {
                    break;
                }
                leap.bits += (length + size) as u8;
                leap.ends = size == 0 && run < 15;
                leap.coefficients += if leap.ends { 0 } else { run as u8 + 1 };
            }
            leap
        };
        self.leaps = (0..1 << SKIP_LOOK).map(leap).collect();
    }

    /// The code at the start of 16 bits: its length and symbol.
    fn code(&self, bits: u32) -> Option<(u32, u8)> {
        let length = (1..=LONGEST).find(|&length| bits < self.limits[length])?;
        let code = (bits >> (LONGEST - length)) as i32;
        let symbol = self.symbols.get(usize::try_from(code + self.offsets[length]).ok()?)?;
        Some((length as u32, *symbol))
    }
}

/// A value of `size` bits with its sign (`HUFF_EXTEND` of the standard).
fn extended(bits: u32, size: u32) -> i32 {
    let bits = bits as i32;
    if size > 0 && bits < 1 << (size - 1) { bits - (1 << size) + 1 } else { bits }
}

/// What stands for one coefficient.
pub(super) enum Coefficient {
    /// This many zeros, and then this value.
    Value { run: u32, value: i32 },
    /// No value: `run` is 15 for 16 zeros, or how the band ends.
    Run(u32),
}

/// Zeros behind the bytes of each interval: a word can be read wherever they are not used up.
pub(super) const PADDING: usize = 8;

/// The bits of one interval, the next one on top.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    /// With [`PADDING`] behind the last.
    bytes: &'a [u8],
    at: usize,
    word: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, word: 0, count: 0 }
    }

    /// Has 56 bits ready at least; behind the end they are zeros.
    #[inline(always)]
    fn refill(&mut self) {
        let next = self
            .bytes
            .get(self.at..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |&next| u64::from_be_bytes(next));
        self.word |= next >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    #[inline(always)]
    fn need(&mut self) {
        // A code and its value are 31 bits at most.
        if self.count < 32 {
            self.refill();
        }
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.word >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn pass(&mut self, bits: u32) {
        self.word <<= bits;
        self.count -= bits;
    }

    /// The next bits as a number; up to 16.
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        self.need();
        let value = if bits == 0 { 0 } else { self.peek(bits) };
        self.pass(bits);
        value
    }

    /// Whether more was read than there is.
    pub(super) fn is_overdrawn(&self) -> bool {
        let read = self.at * 8 - self.count as usize;
        read > self.bytes.len().saturating_sub(PADDING) * 8
    }

    /// An error where more was read than there is.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.is_overdrawn() { Err(cut()) } else { Ok(()) }
    }

    /// The next symbol, and its value where that was looked up as well.
    #[inline(always)]
    fn entry(&mut self, table: &Table) -> Result<Entry, Fault> {
        self.need();
        let entry = table.entries[self.peek(LOOK) as usize];
        if entry.bits > 0 {
            self.pass(u32::from(entry.bits));
            return Ok(entry);
        }
        let (length, symbol) =
            table.code(self.peek(16)).ok_or(Fault::Damaged("a Huffman code that is in no table"))?;
        self.pass(length);
        Ok(Entry { symbol, ..Entry::default() })
    }

    /// The next coefficient but the first.
    #[inline(always)]
    pub(super) fn coefficient(&mut self, table: &Table) -> Result<Coefficient, Fault> {
        let entry = self.entry(table)?;
        let (run, size) = (u32::from(entry.symbol >> 4), u32::from(entry.symbol & 15));
        Ok(if entry.whole {
            Coefficient::Value { run, value: entry.value.into() }
        } else if size == 0 {
            Coefficient::Run(run)
        } else {
            let value = extended(self.peek(size), size);
            self.pass(size);
            Coefficient::Value { run, value }
        })
    }

    /// By how much the first coefficient differs from that of the block before.
    #[inline(always)]
    pub(super) fn difference(&mut self, table: &Table) -> Result<i32, Fault> {
        match self.coefficient(table)? {
            Coefficient::Value { run: 0, value } => Ok(value),
            Coefficient::Run(0) => Ok(0),
            _ => Err(Fault::Damaged("a first coefficient out of range")),
        }
    }

    /// Passes over the coefficients of a block but the first.
    #[inline(always)]
    pub(super) fn leap(&mut self, table: &Table) -> Result<(), Fault> {
        let mut at = 1;
        while at < 64 {
            self.need();
            let leap = table.leaps[self.peek(SKIP_LOOK) as usize];
            // A block that is full has no end mark: what was looked up behind it is not its own.
            if leap.bits > 0 && at + u32::from(leap.coefficients) < 64 {
                self.pass(leap.bits.into());
                at += u32::from(leap.coefficients);
                if leap.ends {
                    return Ok(());
                }
                continue;
            }
            at += match self.coefficient(table)? {
                Coefficient::Value { run, .. } => run + 1,
                Coefficient::Run(15) => 16,
                Coefficient::Run(_) => return Ok(()),
            };
        }
        if at > 64 { Err(Fault::Damaged("a block with more than 64 coefficients")) } else { Ok(()) }
    }
}
