//! Huffman codes and the bits that they are read from.

use super::{JpegError, truncated};

/// Bits of a code that are looked up at once.
const LOOKUP_BITS: u32 = 10;
/// Bits that are looked up where coefficients are passed over.
const SKIP_LOOKUP_BITS: u32 = 12;
/// The longest code.
const MAX_CODE_LENGTH: usize = 16;

/// What the next [`LOOKUP_BITS`] bits begin with.
#[derive(Clone, Copy, Default)]
struct LookupEntry {
    /// Of the code, and of the value where `whole`; 0 where the code is longer than what was looked up.
    bits: u8,
    symbol: u8,
    /// Whether the value's bits were looked up as well.
    has_value: bool,
    value: i16,
}

/// A step over coefficients that nobody wants.
#[derive(Clone, Copy, Default)]
struct SkipEntry {
    /// How many bits are passed over; 0 where not even one coefficient lies within what was looked up.
    bits: u8,
    /// How many coefficients.
    n_coefficients: u8,
    /// Whether the block ends there.
    ends_block: bool,
}

/// A table of codes, as a DHT segment gives it.
pub(super) struct HuffmanTable {
    lookup: Vec<LookupEntry>,
    /// Of codes of each length: the first code that is longer, shifted to 16 bits, and what turns a code into an index.
    code_limits: [u32; MAX_CODE_LENGTH + 1],
    symbol_offsets: [i32; MAX_CODE_LENGTH + 1],
    symbols: Vec<u8>,
    skip_entries: Vec<SkipEntry>,
}

impl HuffmanTable {
    /// The table of `counts` codes of 1 to 16 bits for `symbols`, in order.
    pub(super) fn new(counts: &[u8; MAX_CODE_LENGTH], symbols: &[u8]) -> Result<Self, JpegError> {
        let mut table = Self {
            lookup: vec![LookupEntry::default(); 1 << LOOKUP_BITS],
            code_limits: [0; MAX_CODE_LENGTH + 1],
            symbol_offsets: [0; MAX_CODE_LENGTH + 1],
            symbols: symbols.to_vec(),
            skip_entries: Vec::new(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1..).zip(counts) {
            table.symbol_offsets[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                let &symbol = symbols.get(index).ok_or(JpegError::Damaged("a Huffman table is too short"))?;
                if code >= 1 << length {
                    return Err(JpegError::Damaged("a Huffman table has more codes than there are"));
                }
                table.insert_code(code, length, symbol);
                code += 1;
                index += 1;
            }
            table.code_limits[length as usize] = code << (MAX_CODE_LENGTH as u32 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// Notes `code` of `length` bits with all bits that may follow.
    fn insert_code(&mut self, code: u32, length: u32, symbol: u8) {
        let Some(free) = LOOKUP_BITS.checked_sub(length) else { return };
        let size = u32::from(symbol & 15);
        let first = (code << free) as usize;
        for (following, entry) in (0u32..).zip(&mut self.lookup[first..][..1 << free]) {
            let has_value = size > 0 && size <= free;
            let value = if has_value { sign_extend(following >> (free - size), size) as i16 } else { 0 };
            let bits = (length + if has_value { size } else { 0 }) as u8;
            *entry = LookupEntry { bits, symbol, has_value, value };
        }
    }

    /// Makes ready for [`BitReader::leap`].
    pub(super) fn build_skip_entries(&mut self) {
        if !self.skip_entries.is_empty() {
            return;
        }
        let skip_entry = |bits: u32| {
            let mut entry = SkipEntry::default();
            while !entry.ends_block {
                let bits_left = SKIP_LOOKUP_BITS - u32::from(entry.bits);
                // What is not there is taken as zeros; a code that reaches into them does not count.
                let rest = (bits << (MAX_CODE_LENGTH as u32 - SKIP_LOOKUP_BITS) << entry.bits) & 0xFFFF;
                let Some((length, symbol)) = self.decode_code(rest) else { break };
                let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
                if length + size > bits_left {
                    break;
                }
                entry.bits += (length + size) as u8;
                entry.ends_block = size == 0 && run < 15;
                entry.n_coefficients += if entry.ends_block { 0 } else { run as u8 + 1 };
            }
            entry
        };
        self.skip_entries = (0..1 << SKIP_LOOKUP_BITS).map(skip_entry).collect();
    }

    /// The code at the start of 16 bits: its length and symbol.
    fn decode_code(&self, bits: u32) -> Option<(u32, u8)> {
        let length = (1..=MAX_CODE_LENGTH).find(|&length| bits < self.code_limits[length])?;
        let code = (bits >> (MAX_CODE_LENGTH - length)) as i32;
        let symbol = self.symbols.get(usize::try_from(code + self.symbol_offsets[length]).ok()?)?;
        Some((length as u32, *symbol))
    }
}

/// A value of `size` bits with its sign (`HUFF_EXTEND` of the standard).
fn sign_extend(bits: u32, size: u32) -> i32 {
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
pub(super) struct BitReader<'a> {
    /// With [`PADDING`] behind the last.
    bytes: &'a [u8],
    position: usize,
    buffer: u64,
    n_bits: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, buffer: 0, n_bits: 0 }
    }

    /// Has 56 bits ready at least; behind the end they are zeros.
    #[inline(always)]
    fn refill(&mut self) {
        let next = self
            .bytes
            .get(self.position..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |&next| u64::from_be_bytes(next));
        self.buffer |= next >> self.n_bits;
        self.position += ((63 - self.n_bits) >> 3) as usize;
        self.n_bits |= 56;
    }

    #[inline(always)]
    fn refill_if_low(&mut self) {
        // A code and its value are 31 bits at most.
        if self.n_bits < 32 {
            self.refill();
        }
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn consume(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.n_bits -= bits;
    }

    /// The next bits as a number; up to 16.
    #[inline(always)]
    pub(super) fn read_bits(&mut self, bits: u32) -> u32 {
        self.refill_if_low();
        let value = if bits == 0 { 0 } else { self.peek(bits) };
        self.consume(bits);
        value
    }

    /// Whether more was read than there is.
    pub(super) fn is_past_end(&self) -> bool {
        let read = self.position * 8 - self.n_bits as usize;
        read > self.bytes.len().saturating_sub(PADDING) * 8
    }

    /// An error where more was read than there is.
    pub(super) fn check_not_past_end(&self) -> Result<(), JpegError> {
        if self.is_past_end() { Err(truncated()) } else { Ok(()) }
    }

    /// The next symbol, and its value where that was looked up as well.
    #[inline(always)]
    fn next_symbol(&mut self, table: &HuffmanTable) -> Result<LookupEntry, JpegError> {
        self.refill_if_low();
        let entry = table.lookup[self.peek(LOOKUP_BITS) as usize];
        if entry.bits > 0 {
            self.consume(u32::from(entry.bits));
            return Ok(entry);
        }
        let (length, symbol) = table
            .decode_code(self.peek(16))
            .ok_or(JpegError::Damaged("a Huffman code that is in no table"))?;
        self.consume(length);
        Ok(LookupEntry { symbol, ..LookupEntry::default() })
    }

    /// The next coefficient but the first.
    #[inline(always)]
    pub(super) fn read_coefficient(&mut self, table: &HuffmanTable) -> Result<Coefficient, JpegError> {
        let entry = self.next_symbol(table)?;
        let (run, size) = (u32::from(entry.symbol >> 4), u32::from(entry.symbol & 15));
        Ok(if entry.has_value {
            Coefficient::Value { run, value: entry.value.into() }
        } else if size == 0 {
            Coefficient::Run(run)
        } else {
            let value = sign_extend(self.peek(size), size);
            self.consume(size);
            Coefficient::Value { run, value }
        })
    }

    /// By how much the first coefficient differs from that of the block before.
    #[inline(always)]
    pub(super) fn read_dc_difference(&mut self, table: &HuffmanTable) -> Result<i32, JpegError> {
        match self.read_coefficient(table)? {
            Coefficient::Value { run: 0, value } => Ok(value),
            Coefficient::Run(0) => Ok(0),
            _ => Err(JpegError::Damaged("a first coefficient out of range")),
        }
    }

    /// Passes over the coefficients of a block but the first.
    #[inline(always)]
    pub(super) fn skip_ac(&mut self, table: &HuffmanTable) -> Result<(), JpegError> {
        let mut index = 1;
        while index < 64 {
            self.refill_if_low();
            let skip = table.skip_entries[self.peek(SKIP_LOOKUP_BITS) as usize];
            // A block that is full has no end mark: what was looked up behind it is not its own.
            if skip.bits > 0 && index + u32::from(skip.n_coefficients) < 64 {
                self.consume(skip.bits.into());
                index += u32::from(skip.n_coefficients);
                if skip.ends_block {
                    return Ok(());
                }
                continue;
            }
            index += match self.read_coefficient(table)? {
                Coefficient::Value { run, .. } => run + 1,
                Coefficient::Run(15) => 16,
                Coefficient::Run(_) => return Ok(()),
            };
        }
        if index > 64 { Err(JpegError::Damaged("a block with more than 64 coefficients")) } else { Ok(()) }
    }
}
