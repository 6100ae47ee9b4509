//! Reads the directories of a TIFF or BigTIFF: the tags that describe each page, without its pixels.

/// A TIFF or BigTIFF whose header was read.
pub(crate) struct TiffTags<'a> {
    bytes: &'a [u8],
    is_little_endian: bool,
    /// Whether offsets are 64-bit.
    is_big_tiff: bool,
    /// Offset of the directory of the first page.
    pub(crate) first_directory: usize,
}

/// An image file directory, which describes one page.
pub(crate) struct TiffDirectory {
    pub(crate) entries: Vec<TiffEntry>,
    /// Offset of the next directory: 0 after the last, `None` if the file ends before.
    pub(crate) next_offset: Option<usize>,
}

/// A tag of a directory whose values are bytes or unsigned integers, with their place.
pub(crate) struct TiffEntry {
    pub(crate) tag: usize,
    /// Number of values.
    pub(crate) count: usize,
    /// Bytes of a value.
    value_size: usize,
    /// Offset of the values, or of their offset if they do not fit into the entry.
    position: usize,
}

/// Bytes of a value of the type BYTE, ASCII, SHORT, LONG, UNDEFINED, IFD, LONG8 or IFD8; `None` for other types, which
/// are not needed.
fn value_size(value_type: usize) -> Option<usize> {
    match value_type {
        1 | 2 | 7 => Some(1),
        3 => Some(2),
        4 | 13 => Some(4),
        16 | 18 => Some(8),
        _ => None,
    }
}

impl<'a> TiffTags<'a> {
    /// Reads the header of the file `bytes`; `None` if it is no TIFF.
    pub(crate) fn open(bytes: &'a [u8]) -> Option<Self> {
        let is_little_endian = match bytes {
            [b'I', b'I', ..] => true,
            [b'M', b'M', ..] => false,
            _ => return None,
        };
        let mut tiff = Self { bytes, is_little_endian, is_big_tiff: false, first_directory: 0 };
        // The version number after the byte order.
        tiff.is_big_tiff = match tiff.uint_at(2, 2)? {
            42 => false,
            43 => true,
            _ => return None,
        };
        tiff.first_directory = if tiff.is_big_tiff { tiff.uint_at(8, 8)? } else { tiff.uint_at(4, 4)? };
        Some(tiff)
    }

    /// The unsigned integer of `length` bytes at `offset`, in the file's byte order; `None` if the file ends
    /// before.
    fn uint_at(&self, offset: usize, length: usize) -> Option<usize> {
        let bytes = self.bytes.get(offset..offset.checked_add(length)?)?;
        let push_byte = |number: usize, &byte: &u8| (number << 8) | usize::from(byte);
        Some(if self.is_little_endian {
            bytes.iter().rev().fold(0, push_byte)
        } else {
            bytes.iter().fold(0, push_byte)
        })
    }

    /// Bytes of an offset or of a number of values.
    fn word_size(&self) -> usize {
        if self.is_big_tiff { 8 } else { 4 }
    }

    /// Reads the directory at `offset`: a count, then entries of a tag, a type, a number of values and the
    /// values (or their offset, if they do not fit). `None` if it is incomplete.
    pub(crate) fn directory_at(&self, offset: usize) -> Option<TiffDirectory> {
        let (count_size, entry_size) = if self.is_big_tiff { (8, 20) } else { (2, 12) };
        let n_entries = self.uint_at(offset, count_size)?;
        let mut entries = Vec::new();
        let mut position = offset + count_size;
        for _ in 0..n_entries {
            let (tag, value_type) = (self.uint_at(position, 2)?, self.uint_at(position + 2, 2)?);
            let count = self.uint_at(position + 4, self.word_size())?;
            if let Some(value_size) = value_size(value_type).filter(|_| count > 0) {
                let position = position + 4 + self.word_size();
                entries.push(TiffEntry { tag, count, value_size, position });
            }
            position += entry_size;
        }
        Some(TiffDirectory { entries, next_offset: self.uint_at(position, self.word_size()) })
    }

    /// The unsigned integers or the bytes of `entry`, as many as the file has.
    pub(crate) fn values(&self, entry: &TiffEntry) -> impl Iterator<Item = usize> {
        let &TiffEntry { count, value_size, position, .. } = entry;
        let is_inline = count.checked_mul(value_size).is_some_and(|size| size <= self.word_size());
        let start = if is_inline { Some(position) } else { self.uint_at(position, self.word_size()) };
        let value_at =
            move |index: usize| self.uint_at(start?.checked_add(index.checked_mul(value_size)?)?, value_size);
        (0..count).map_while(value_at)
    }

    /// The values of the tag with the number `tag` in `directory`; none if it has no such tag.
    pub(crate) fn tag_values(&self, directory: &TiffDirectory, tag: usize) -> impl Iterator<Item = usize> {
        let entry = directory.entries.iter().find(|entry| entry.tag == tag);
        entry.into_iter().flat_map(|entry| self.values(entry))
    }
}
