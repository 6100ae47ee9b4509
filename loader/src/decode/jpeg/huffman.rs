//! Huffman tables and the bit reader.

use super::{JpegError, truncated};

/// Bits of the lookup table for decoding.
const LOOKUP_BITS: u32 = 10;
/// Bits of the lookup table for skipping coefficients.
const SKIP_LOOKUP_BITS: u32 = 12;
/// Length of the longest code in bits.
const MAX_CODE_LENGTH: usize = 16;

/// The symbol at the start of the next [`LOOKUP_BITS`] bits.
#[derive(Clone, Copy, Default)]
struct LookupEntry {
    /// Bits of the code, plus those of the value if `has_value`; 0 if the code is longer than
    /// [`LOOKUP_BITS`].
    bits: u8,
    symbol: u8,
    /// Whether the bits of the value fit into the lookup as well.
    has_value: bool,
    value: i16,
}

/// Coefficients at the start of the next [`SKIP_LOOKUP_BITS`] bits that can be skipped together.
#[derive(Clone, Copy, Default)]
struct SkipEntry {
    /// Bits to skip; 0 if not even one coefficient fits into the lookup.
    bits: u8,
    /// Coefficients skipped.
    n_coefficients: u8,
    /// Whether the block ends after them.
    ends_block: bool,
}

/// A Huffman table of a DHT segment.
pub(super) struct HuffmanTable {
    lookup: Vec<LookupEntry>,
    /// By code length: the first code that is longer, shifted to 16 bits.
    code_limits: [u32; MAX_CODE_LENGTH + 1],
    /// By code length: the offset from a code to its index in `symbols`.
    symbol_offsets: [i32; MAX_CODE_LENGTH + 1],
    symbols: Vec<u8>,
    skip_entries: Vec<SkipEntry>,
}

impl HuffmanTable {
    /// `counts` are the numbers of codes of 1 to 16 bits, which stand for `symbols` in order.
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
                    return Err(JpegError::Damaged("a Huffman table has too many codes"));
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

    /// Enters `code` of `length` bits into `lookup`, for all bits that may follow it.
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

    /// Builds the table for [`BitReader::skip_ac`], if it does not exist yet.
    pub(super) fn build_skip_entries(&mut self) {
        if !self.skip_entries.is_empty() {
            return;
        }
        let skip_entry = |bits: u32| {
            let mut entry = SkipEntry::default();
            while !entry.ends_block {
                let bits_left = SKIP_LOOKUP_BITS - u32::from(entry.bits);
                // Bits beyond the lookup are zeros here; a code that uses them is not counted.
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

    /// Length and symbol of the code at the start of 16 bits.
    fn decode_code(&self, bits: u32) -> Option<(u32, u8)> {
        let length = (1..=MAX_CODE_LENGTH).find(|&length| bits < self.code_limits[length])?;
        let code = (bits >> (MAX_CODE_LENGTH - length)) as i32;
        let symbol = self.symbols.get(usize::try_from(code + self.symbol_offsets[length]).ok()?)?;
        Some((length as u32, *symbol))
    }
}

/// The signed value of `size` bits (`HUFF_EXTEND` in libjpeg, `EXTEND` in the standard).
fn sign_extend(bits: u32, size: u32) -> i32 {
    let bits = bits as i32;
    if size > 0 && bits < 1 << (size - 1) { bits - (1 << size) + 1 } else { bits }
}

/// A decoded coefficient symbol.
pub(super) enum Coefficient {
    /// `run` zeros, then `value`.
    Value { run: u32, value: i32 },
    /// No value: 15 means 16 zeros; any other number ends the block or starts an end-of-band run.
    Run(u32),
}

/// Zero bytes after each interval, so that a 64-bit word can be read at every data byte.
pub(super) const PADDING: usize = 8;

/// Reads the bits of one restart interval. The next bit is the top bit of `buffer`.
#[derive(Clone, Copy)]
pub(super) struct BitReader<'a> {
    /// Ends with [`PADDING`] zero bytes.
    bytes: &'a [u8],
    position: usize,
    buffer: u64,
    n_bits: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, buffer: 0, n_bits: 0 }
    }

    /// Fills `buffer` to at least 56 bits; after the end with zeros.
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

    /// The next `bits` bits (up to 16) as a number.
    #[inline(always)]
    pub(super) fn read_bits(&mut self, bits: u32) -> u32 {
        self.refill_if_low();
        let value = if bits == 0 { 0 } else { self.peek(bits) };
        self.consume(bits);
        value
    }

    /// Whether more bits were read than the interval has.
    pub(super) fn is_past_end(&self) -> bool {
        let read = self.position * 8 - self.n_bits as usize;
        read > self.bytes.len().saturating_sub(PADDING) * 8
    }

    /// An error if more bits were read than the interval has.
    pub(super) fn check_not_past_end(&self) -> Result<(), JpegError> {
        if self.is_past_end() { Err(truncated()) } else { Ok(()) }
    }

    /// The next symbol, with its value if the lookup has it.
    #[inline(always)]
    fn next_symbol(&mut self, table: &HuffmanTable) -> Result<LookupEntry, JpegError> {
        self.refill_if_low();
        let entry = table.lookup[self.peek(LOOKUP_BITS) as usize];
        if entry.bits > 0 {
            self.consume(u32::from(entry.bits));
            return Ok(entry);
        }
        let (length, symbol) =
            table.decode_code(self.peek(16)).ok_or(JpegError::Damaged("an undefined Huffman code"))?;
        self.consume(length);
        Ok(LookupEntry { symbol, ..LookupEntry::default() })
    }

    /// The next AC coefficient.
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

    /// The difference between the DC coefficient of this block and the previous one.
    #[inline(always)]
    pub(super) fn read_dc_difference(&mut self, table: &HuffmanTable) -> Result<i32, JpegError> {
        match self.read_coefficient(table)? {
            Coefficient::Value { run: 0, value } => Ok(value),
            Coefficient::Run(0) => Ok(0),
            _ => Err(JpegError::Damaged("a DC coefficient is out of range")),
        }
    }

    /// Skips the AC coefficients of a block.
    #[inline(always)]
    pub(super) fn skip_ac(&mut self, table: &HuffmanTable) -> Result<(), JpegError> {
        let mut index = 1;
        while index < 64 {
            self.refill_if_low();
            let skip = table.skip_entries[self.peek(SKIP_LOOKUP_BITS) as usize];
            // A full block has no end code, so the lookup may reach into the next block.
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
        if index > 64 { Err(JpegError::Damaged("a block has more than 64 coefficients")) } else { Ok(()) }
    }
}
