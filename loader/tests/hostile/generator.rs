//! Deterministic mutations of image files and shards, from random damage to malicious headers.

/// Mutated file `number`: the name of the seed file it is made from, and its bytes. `seeds` are names and
/// bytes of valid files.
pub(crate) fn mutated_file(seeds: &[(String, Vec<u8>)], number: usize) -> (String, Vec<u8>) {
    let mut random = Random(number as u64);
    let (name, seed) = &seeds[number % seeds.len()];
    let same_format: Vec<&(String, Vec<u8>)> =
        seeds.iter().filter(|(seed_name, _)| extension(seed_name) == extension(name)).collect();
    let donor = &same_format[random.below(same_format.len())].1;
    let mut bytes = seed.clone();
    let mutate = MUTATIONS[(number / seeds.len() + number) % MUTATIONS.len()];
    for _ in 0..1 + random.below(3) {
        mutate(&mut bytes, donor, &mut random);
    }
    if random.below(4) > 0 {
        correct_checksums(&mut bytes);
    }
    (name.clone(), bytes)
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// A mutation in place, with the bytes of a valid file of the same format to take parts from.
type Mutation = fn(&mut Vec<u8>, &[u8], &mut Random);

const MUTATIONS: [Mutation; 13] = [
    flip_bits,
    flip_header_bit,
    set_bytes,
    truncate,
    remove_bytes,
    splice,
    repeat_piece,
    drop_piece,
    move_piece,
    replace_piece,
    change_length,
    change_size,
    insert_large_metadata,
];

/// Flips up to 8 random bits.
fn flip_bits(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(8) {
        if let Some(byte) = random.pick(bytes) {
            *byte ^= 1 << random.below(8);
        }
    }
}

/// Flips a bit of the first 100 bytes.
fn flip_header_bit(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let header = bytes.len().min(100);
    if let Some(byte) = random.pick(&mut bytes[..header]) {
        *byte ^= 1 << random.below(8);
    }
}

/// Sets up to 16 adjacent bytes to one value.
fn set_bytes(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let value = [0, 0xFF, 0x7F, 0x80, random.below(256) as u8][random.below(5)];
    let range = random.range(bytes.len());
    bytes[range.start..range.end.min(range.start + 16)].fill(value);
}

fn truncate(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    bytes.truncate(random.below(bytes.len() + 1));
}

fn remove_bytes(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let range = random.range(bytes.len());
    bytes.drain(range.start..range.end.min(range.start + 64));
}

/// Joins the start of one file and the end of another.
fn splice(bytes: &mut Vec<u8>, donor: &[u8], random: &mut Random) {
    bytes.truncate(random.below(bytes.len() + 1));
    bytes.extend(&donor[random.below(donor.len() + 1)..]);
}

/// Inserts copies of a piece after it.
fn repeat_piece(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let piece = random.piece(bytes);
    let copies = [1, 2, 300][random.below(3)].min(100_000 / piece.len().max(1));
    let repeated = bytes[piece.clone()].repeat(copies);
    bytes.splice(piece.end..piece.end, repeated);
}

fn drop_piece(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    bytes.drain(random.piece(bytes));
}

/// Moves a piece to before a random piece.
fn move_piece(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let piece = random.piece(bytes);
    let moved: Vec<u8> = bytes.drain(piece).collect();
    let before = random.piece(bytes).start;
    bytes.splice(before..before, moved);
}

/// Replaces a piece by a piece of `donor`.
fn replace_piece(bytes: &mut Vec<u8>, donor: &[u8], random: &mut Random) {
    let (donor_piece, piece) = (random.piece(donor), random.piece(bytes));
    bytes.splice(piece, donor[donor_piece].iter().copied());
}

/// Overwrites the length of a piece.
fn change_length(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let piece = random.piece(bytes);
    let length_offset = piece.start
        + if bytes.starts_with(b"RIFF") { 4 } else { 2 * usize::from(bytes.starts_with(b"\xFF")) };
    let values: [&[u8]; 6] =
        [&[0, 0], &[0, 1], &[0xFF, 0xFF], &[0; 4], &[0xFF; 4], &[0x7F, 0xFF, 0xFF, 0xFF]];
    overwrite(bytes, length_offset, values[random.below(values.len())]);
}

/// Overwrites the width or height with values from 0 to 65,535.
fn change_size(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let side = [0, 1, 2, 255, 4_096, 16_383, 65_535, 65_535][random.below(8)];
    let axes = [[true, true], [true, false], [false, true]][random.below(3)];
    let find = |pattern: &[u8]| bytes.windows(pattern.len()).position(|window| window == pattern);
    let little = u16::to_le_bytes(side).to_vec();
    let (big4, little4) = (u32::from(side).to_be_bytes().to_vec(), u32::from(side).to_le_bytes().to_vec());
    let fields: [(usize, Vec<u8>); 2] = match &bytes[..] {
        [0xFF, 0xD8, ..] => {
            let frame = [0xC0, 0xC1, 0xC2].into_iter().find_map(|marker| find(&[0xFF, marker, 0]));
            let size_offset = frame.unwrap_or(0) + 5;
            [(size_offset, side.to_be_bytes().to_vec()), (size_offset + 2, side.to_be_bytes().to_vec())]
        }
        [0x89, ..] => [(16, big4.clone()), (20, big4)],
        [b'G', ..] => {
            // The size of the screen, or of a frame.
            let frame =
                find(&[0x2C, 0, 0, 0, 0]).filter(|_| random.below(2) == 0).map_or(6, |offset| offset + 5);
            [(frame, little.clone()), (frame + 2, little)]
        }
        [b'B', ..] => [(18, little4.clone()), (22, little4)],
        [b'R', ..] => [(26, little.clone()), (28, little)],
        _ => {
            let tag = |tag: u8| find(&[tag, 1, 4, 0]).or_else(|| find(&[1, tag, 0, 4])).unwrap_or(0) + 8;
            [(tag(0), little4.clone()), (tag(1), little4)]
        }
    };
    for ((offset, value), is_changed) in fields.into_iter().zip(axes) {
        if is_changed {
            overwrite(bytes, offset, &value);
        }
    }
}

/// Inserts 64 KB of metadata: EXIF, text, or bytes that are not valid metadata.
fn insert_large_metadata(bytes: &mut Vec<u8>, _: &[u8], random: &mut Random) {
    let mut data = b"Exif\0\0MM\0*\0\0\0\x08\xFF\xFF".to_vec();
    data.extend((0..65_000).map(|_| random.below(256) as u8));
    let segment = match bytes.first() {
        Some(0xFF) => [&[0xFF, 0xE1], &((data.len() + 2) as u16).to_be_bytes()[..], &data].concat(),
        Some(0x89) => [&(data.len() as u32).to_be_bytes()[..], b"eXIf", &data, &[0; 4]].concat(),
        Some(b'R') => [b"EXIF", &(data.len() as u32).to_le_bytes()[..], &data].concat(),
        Some(b'G') => data
            .chunks(255)
            .flat_map(|block| [&[0x21, 0xFE, block.len() as u8], block, &[0]].concat())
            .collect(),
        _ => data,
    };
    let end = random.piece(bytes).end;
    bytes.splice(end..end, segment);
}

/// Writes `value` at `offset`; the part beyond the end is dropped.
fn overwrite(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (byte, &value) in bytes.iter_mut().skip(offset).zip(value) {
        *byte = value;
    }
}

/// The offsets of the pieces of a file: segments, chunks or blocks; every 16 bytes in formats without pieces.
fn pieces(bytes: &[u8]) -> Vec<usize> {
    let read_u32 = |offset: usize, is_little_endian: bool| {
        let bytes = bytes.get(offset..offset + 4)?.try_into().ok()?;
        Some(if is_little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize)
    };
    let (mut offset, is_little_endian, header) = match bytes {
        [0xFF, ..] => {
            return (0..bytes.len().saturating_sub(1))
                .filter(|&i| bytes[i] == 0xFF && bytes[i + 1] >= 0xC0)
                .collect();
        }
        [0x89, ..] => (8, false, 12),
        [b'R', ..] => (12, true, 8),
        [b'G', ..] => return (0..bytes.len()).filter(|&i| matches!(bytes[i], 0x21 | 0x2C)).collect(),
        _ => return (0..bytes.len()).step_by(16).collect(),
    };
    let mut starts = Vec::new();
    while let Some(length) = read_u32(offset + if is_little_endian { 4 } else { 0 }, is_little_endian) {
        starts.push(offset);
        offset += header + length + if is_little_endian { length % 2 } else { 0 };
    }
    starts
}

/// Corrects the checksums of a PNG or tar, so that damage is not found by checksums alone.
fn correct_checksums(bytes: &mut [u8]) {
    if bytes.get(257..262) == Some(b"ustar") {
        for header in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        return;
    }
    if !bytes.starts_with(b"\x89PNG") {
        return;
    }
    let starts = pieces(bytes);
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(bytes.len());
        if start + 12 <= end && end <= bytes.len() {
            let sum = crc(&bytes[start + 4..end - 4]).to_be_bytes();
            bytes[end - 4..end].copy_from_slice(&sum);
        }
    }
}

/// The CRC-32 of a PNG chunk.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// The random generator SplitMix64.
struct Random(u64);

impl Random {
    /// 64 random bits.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A random number in `0..end`; 0 if `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end as u64).max(1)) as usize
    }

    /// A random byte; `None` if there are none.
    fn pick<'a>(&mut self, bytes: &'a mut [u8]) -> Option<&'a mut u8> {
        let index = self.below(bytes.len());
        bytes.get_mut(index)
    }

    /// A random range within `0..end`.
    fn range(&mut self, end: usize) -> std::ops::Range<usize> {
        let start = self.below(end);
        start..start + self.below(end - start + 1)
    }

    /// The range of a random piece.
    fn piece(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let starts = pieces(bytes);
        let index = self.below(starts.len());
        let start = starts.get(index).copied().unwrap_or(0).min(bytes.len());
        start..starts.get(index + 1).copied().unwrap_or(bytes.len()).clamp(start, bytes.len())
    }
}
