//! Huffman tables and the bit reader.

use super::{JpegError, truncated};

/// Bits of the lookup table for decoding.
const LOOKUP_BITS: u32 = 10;
/// Bits of the lookup table for skipping coefficients.
const SKIP_LOOKUP_BITS: u32 = 12;
/// Length of the longest code in bits.
const MAX_CODE_LENGTH: usize = 16;

/// What the next [`LOOKUP_BITS`] bits start with: a Huffman code and possibly the value that follows it.
#[derive(Clone, Copy, Default)]
struct LookupEntry {
    /// Bits of the code, plus those of the value if `has_value`; 0 if the code is longer than
    /// [`LOOKUP_BITS`].
    bits: u8,
    /// The high 4 bits are the number of zero coefficients before the value, the low 4 bits the number of
    /// bits of the value.
    symbol: u8,
    /// Whether the bits of the value fit into the lookup as well, so that `value` is known.
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

/// A Huffman table of a DHT segment, prepared for decoding. [`LookupEntry::symbol`] says what a symbol means.
pub(super) struct HuffmanTable {
    /// What to decode, by the next [`LOOKUP_BITS`] bits.
    lookup: Vec<LookupEntry>,
    /// By code length: the end (exclusive) of the codes of up to this length, padded with zeros to 16 bits.
    code_ends: [u32; MAX_CODE_LENGTH + 1],
    /// By code length: the index in `symbols` of a code, minus the code.
    symbol_offsets: [i32; MAX_CODE_LENGTH + 1],
    /// The symbols in the order of their codes.
    symbols: Vec<u8>,
    /// What to skip, by the next [`SKIP_LOOKUP_BITS`] bits; empty until
    /// [`build_skip_entries`](Self::build_skip_entries).
    skip_entries: Vec<SkipEntry>,
}

impl HuffmanTable {
    /// Builds the table from the two lists of a DHT segment: `counts[i]` codes have `i + 1` bits, and all
    /// codes, from short to long, stand for `symbols` in order. The file does not store the codes: each is
    /// the one before plus 1, followed by a 0 bit wherever the length grows (canonical Huffman code).
    pub(super) fn from_counts(counts: &[u8; MAX_CODE_LENGTH], symbols: &[u8]) -> Result<Self, JpegError> {
        let mut table = Self {
            lookup: vec![LookupEntry::default(); 1 << LOOKUP_BITS],
            code_ends: [0; MAX_CODE_LENGTH + 1],
            symbol_offsets: [0; MAX_CODE_LENGTH + 1],
            symbols: symbols.to_vec(),
            skip_entries: Vec::new(),
        };
        let (mut code, mut index) = (0u32, 0usize); // of the next symbol
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
            table.code_ends[length as usize] = code << (MAX_CODE_LENGTH as u32 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// Enters the Huffman code `code` of `length` bits, which stands for `symbol`, into `lookup`: once for
    /// each sequence of bits that may follow the code within [`LOOKUP_BITS`]. The value of a coefficient
    /// follows its code; if all bits of the value are among these, it is decoded here as well. A code that is
    /// too long for `lookup` is left out.
    fn insert_code(&mut self, code: u32, length: u32, symbol: u8) {
        let Some(n_following) = LOOKUP_BITS.checked_sub(length) else { return };
        let value_bits = u32::from(symbol & 15); // see `LookupEntry::symbol`
        let first = (code << n_following) as usize;
        for (following, entry) in (0u32..).zip(&mut self.lookup[first..][..1 << n_following]) {
            let has_value = value_bits > 0 && value_bits <= n_following;
            let value = if has_value {
                sign_extend(following >> (n_following - value_bits), value_bits) as i16
            } else {
                0
            };
            let bits = (length + if has_value { value_bits } else { 0 }) as u8;
            *entry = LookupEntry { bits, symbol, has_value, value };
        }
    }

    /// Builds `skip_entries`, if it is still empty: for each possible sequence of the next
    /// [`SKIP_LOOKUP_BITS`] bits, how many AC coefficients lie completely in it and how many bits they take.
    /// [`BitReader::skip_ac`] skips these coefficients at once.
    pub(super) fn build_skip_entries(&mut self) {
        if !self.skip_entries.is_empty() {
            return;
        }
        let skip_entry = |lookup_bits: u32| {
            let mut entry = SkipEntry::default();
            while !entry.ends_block {
                let bits_left = SKIP_LOOKUP_BITS - u32::from(entry.bits);
                // Bits beyond the lookup are zeros here; a code that uses them is not counted.
                let padded_bits = lookup_bits << (MAX_CODE_LENGTH as u32 - SKIP_LOOKUP_BITS);
                let next_bits = (padded_bits << entry.bits) & 0xFFFF;
                let Some((length, symbol)) = self.decode_code(next_bits) else { break };
                let (run, value_bits) = (u32::from(symbol >> 4), u32::from(symbol & 15));
                if length + value_bits > bits_left {
                    break;
                }
                // A symbol without a value ends the block, or it means 16 zeros.
                entry.bits += (length + value_bits) as u8;
                entry.ends_block = value_bits == 0 && run < 15;
                entry.n_coefficients += if entry.ends_block { 0 } else { run as u8 + 1 };
            }
            entry
        };
        self.skip_entries = (0..1 << SKIP_LOOKUP_BITS).map(skip_entry).collect();
    }

    /// Decodes the Huffman code at the start of `next_bits` (16 bits): its length in bits and its symbol.
    /// `None` if no code of the table matches. Slower than `lookup`, but for codes of any length.
    fn decode_code(&self, next_bits: u32) -> Option<(u32, u8)> {
        // Padded to 16 bits, longer codes are greater than all shorter ones.
        let length = (1..=MAX_CODE_LENGTH).find(|&length| next_bits < self.code_ends[length])?;
        let code = (next_bits >> (MAX_CODE_LENGTH - length)) as i32;
        let symbol_index = usize::try_from(code + self.symbol_offsets[length]).ok()?;
        Some((length as u32, *self.symbols.get(symbol_index)?))
    }
}

/// The signed value that `size` bits stand for (`HUFF_EXTEND` in libjpeg, `EXTEND` in the standard): a
/// leading 0 bit means a negative value.
fn sign_extend(bits: u32, size: u32) -> i32 {
    let bits = bits as i32;
    if size > 0 && bits < 1 << (size - 1) { bits - (1 << size) + 1 } else { bits }
}

/// A decoded Huffman symbol with its value: the next coefficients of a block in zigzag order.
pub(super) enum Coefficient {
    /// `run` zeros, then `value`.
    Value { run: u32, value: i32 },
    /// No value: 15 means 16 zeros; any other number ends the block or starts an end-of-band run.
    Run(u32),
}

/// Zero bytes after each interval, so that a 64-bit word can be read at every data byte.
pub(super) const PADDING: usize = 8;

/// Reads the bits of one restart interval: the part of a scan between two restart markers, or a whole scan.
#[derive(Clone, Copy)]
pub(super) struct BitReader<'a> {
    /// Ends with [`PADDING`] zero bytes.
    bytes: &'a [u8],
    /// Offset of the next byte that is not counted in `n_bits`.
    position: usize,
    /// The next bits, from the top bit down.
    buffer: u64,
    /// Number of bits of `buffer` that can be consumed.
    n_bits: u32,
}

impl<'a> BitReader<'a> {
    /// A reader of the interval `bytes`, which ends with [`PADDING`] zero bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, buffer: 0, n_bits: 0 }
    }

    /// Reads bytes of the interval into `buffer` until it has at least 56 bits, enough for several codes and
    /// values. Zeros follow the last bits of the interval.
    #[inline(always)]
    fn refill(&mut self) {
        let next = self
            .bytes
            .get(self.position..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |&next| u64::from_be_bytes(next));
        // Adds as many whole bytes to `n_bits` as fit, which gives 56 to 63. Only they are counted; the bits
        // after them are read again by the next refill.
        self.buffer |= next >> self.n_bits;
        self.position += ((63 - self.n_bits) >> 3) as usize;
        self.n_bits |= 56;
    }

    /// Refills `buffer` if it may have too few bits for a code and its value.
    #[inline(always)]
    fn refill_if_low(&mut self) {
        // A code and its value are 31 bits at most.
        if self.n_bits < 32 {
            self.refill();
        }
    }

    /// The next `bits` bits (1 to 32) as a number, without consuming them.
    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    /// Drops the next `bits` bits; `buffer` must hold them.
    #[inline(always)]
    fn consume(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.n_bits -= bits;
    }

    /// Reads the next `bits` bits (up to 16) as a number.
    #[inline(always)]
    pub(super) fn read_bits(&mut self, bits: u32) -> u32 {
        self.refill_if_low();
        let value = if bits == 0 { 0 } else { self.peek(bits) };
        self.consume(bits);
        value
    }

    /// The number of bits of the interval that were not read yet; negative if more bits were read than the
    /// interval has, because zeros follow its last bits.
    fn n_bits_left(&self) -> isize {
        let n_data_bits = self.bytes.len().saturating_sub(PADDING) * 8;
        (n_data_bits + self.n_bits as usize) as isize - (self.position * 8) as isize
    }

    /// Whether more bits were read than the interval has.
    pub(super) fn is_past_end(&self) -> bool {
        self.n_bits_left() < 0
    }

    /// An error if more bits were read than the interval has: the scan is truncated.
    pub(super) fn check_not_past_end(&self) -> Result<(), JpegError> {
        if self.is_past_end() { Err(truncated()) } else { Ok(()) }
    }

    /// Decodes the next Huffman code with `table` to its symbol: the number of zero coefficients before a
    /// value, and the number of bits of this value, which follow the code. The entry also has the value if
    /// `lookup` contains it (`has_value`); otherwise its bits are the next to read.
    #[inline(always)]
    fn next_symbol(&mut self, table: &HuffmanTable) -> Result<LookupEntry, JpegError> {
        self.refill_if_low();
        let entry = table.lookup[self.peek(LOOKUP_BITS) as usize];
        if entry.bits > 0 {
            self.consume(u32::from(entry.bits));
            return Ok(entry);
        }
        let (length, symbol) = match table.decode_code(self.peek(16)) {
            Some(code) => code,
            // The interval ends within a code, which libjpeg then reads as the symbol 0.
            None if self.n_bits_left() < MAX_CODE_LENGTH as isize => (MAX_CODE_LENGTH as u32, 0),
            None => return Err(JpegError::Damaged("an undefined Huffman code")),
        };
        self.consume(length);
        Ok(LookupEntry { symbol, ..LookupEntry::default() })
    }

    /// Decodes the next Huffman code and the bits of its value: a coefficient with the number of zeros before
    /// it, or only a number of zeros.
    #[inline(always)]
    pub(super) fn read_coefficient(&mut self, table: &HuffmanTable) -> Result<Coefficient, JpegError> {
        let entry = self.next_symbol(table)?;
        let (run, value_bits) = (u32::from(entry.symbol >> 4), u32::from(entry.symbol & 15));
        Ok(if entry.has_value {
            Coefficient::Value { run, value: entry.value.into() }
        } else if value_bits == 0 {
            Coefficient::Run(run)
        } else {
            let value = sign_extend(self.peek(value_bits), value_bits);
            self.consume(value_bits);
            Coefficient::Value { run, value }
        })
    }

    /// Reads the difference between the DC coefficient of the next block and that of the previous block of
    /// the same component; the file stores only this difference.
    #[inline(always)]
    pub(super) fn read_dc_difference(&mut self, table: &HuffmanTable) -> Result<i32, JpegError> {
        match self.read_coefficient(table)? {
            Coefficient::Value { run: 0, value } => Ok(value),
            Coefficient::Run(0) => Ok(0),
            _ => Err(JpegError::Damaged("a DC coefficient is out of range")),
        }
    }

    /// Skips the AC coefficients of a block whose pixels are not needed. A lookup skips several at once,
    /// which is faster than reading them. The table needs its [skip
    /// entries](HuffmanTable::build_skip_entries).
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
                Coefficient::Run(15) => 16,           // 16 zeros
                Coefficient::Run(_) => return Ok(()), // the block ends
            };
        }
        if index > 64 { Err(JpegError::Damaged("a block has more than 64 coefficients")) } else { Ok(()) }
    }
}
