//! Checks the pages of a Parquet file before the `parquet` crate (60.1) reads them: it allocates the size
//! that a page header claims, and a few bytes can claim gigabytes.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// Uncompressed page size in bytes above which [`MAX_COMPRESSION_RATIO`] is enforced.
const LARGE_PAGE: u64 = 1 << 26;
/// Maximum plausible compression ratio; that of DEFLATE is 1,032.
const MAX_COMPRESSION_RATIO: u64 = 1 << 10;

/// A Parquet file as the `parquet` crate reads it. It is reopened for each read, because clones of a `File`
/// share one position.
pub(super) struct ReopeningFile {
    path: PathBuf,
    /// Size of the file in bytes.
    length: u64,
}

impl ReopeningFile {
    /// The file `path`; looks up its size.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), length: fs::metadata(path)?.len() })
    }

    /// Opens the file again, to be read from the byte offset `start` on.
    fn open_at(&self, start: u64) -> io::Result<BufReader<File>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(file))
    }
}

impl Length for ReopeningFile {
    fn len(&self) -> u64 {
        self.length
    }
}

/// A reader from the start of a page or of the file footer. It checks the page header before the `parquet`
/// crate reads it and trusts the size in it.
pub(super) struct CheckedReader {
    file: BufReader<File>,
    /// Whether the header was checked, or there is none because this is the footer.
    is_checked: bool,
}

impl Read for CheckedReader {
    /// Reads from the file. Before the first read it checks the page header, which must be the next bytes, so
    /// that a damaged header cannot make the `parquet` crate allocate gigabytes.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Checked on the first read, not when opening: if the `parquet` crate knows the page header already,
        // it opens a reader behind the header and does not read.
        if !self.is_checked {
            check_page_size(self.file.fill_buf()?).map_err(io::Error::other)?;
            self.is_checked = true;
        }
        self.file.read(buffer)
    }
}

impl ChunkReader for ReopeningFile {
    type T = CheckedReader;

    /// A reader from the byte offset `start` on, which the `parquet` crate asks for at the start of a page or
    /// of the file footer; the footer has no page header to check.
    fn get_read(&self, start: u64) -> Result<CheckedReader> {
        /// The last bytes of a Parquet file: the size of its metadata and `PAR1`.
        const FOOTER_SIZE: u64 = 8;
        let is_footer = start.saturating_add(FOOTER_SIZE) == self.length;
        Ok(CheckedReader { file: self.open_at(start)?, is_checked: is_footer })
    }

    /// The `length` bytes from the byte offset `start` on. If the file is shorter, this fails before it
    /// allocates memory, because a damaged file can claim any length.
    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.saturating_add(length as u64) > self.length {
            return Err(ParquetError::EOF("the file is truncated".into()));
        }
        let mut bytes = vec![0; length];
        self.open_at(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Checks that the uncompressed size in the page header at the start of the bytes `header` is plausible for
/// its compressed size, before the `parquet` crate allocates a buffer of that size.
fn check_page_size(header: &[u8]) -> Result<(), String> {
    let (uncompressed, compressed) = page_sizes(header).ok_or(
        "the file is damaged: the size of a block of data is missing; copy or download the file again",
    )?;
    if uncompressed > LARGE_PAGE.max(compressed.saturating_mul(MAX_COMPRESSION_RATIO)) {
        return Err(format!(
            "the file is damaged: {compressed} compressed bytes cannot contain {uncompressed} bytes of data; \
             copy or download the file again"
        ));
    }
    Ok(())
}

/// Reads (uncompressed size, compressed size) of a page, in bytes, from its header: the second and third
/// field of `PageHeader` in `parquet.thrift`, in Thrift's compact protocol. `None` for bytes that are no page
/// header.
fn page_sizes(mut header: &[u8]) -> Option<(u64, u64)> {
    /// Byte before a field that follows the previous one (1 in the high bits) and is an `i32` (5 in the low
    /// bits).
    const NEXT_I32: u8 = 0x15;
    // Reads a field: a variable-length integer of 7 bits per byte, low bits first. The high bit of a byte
    // says that another one follows. The lowest bit of the integer is the sign (zigzag encoding).
    let mut next_i32 = || -> Option<u64> {
        let (&NEXT_I32, mut unread) = header.split_first()? else { return None };
        let (mut zigzag, mut shift) = (0u64, 0u32);
        loop {
            let (&byte, after) = unread.split_first()?;
            unread = after;
            zigzag |= u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
            // An i32 takes at most five bytes.
            if shift == 35 {
                return None;
            }
        }
        header = unread;
        // The sign is dropped: the `parquet` crate rejects negative sizes.
        Some(zigzag >> 1)
    };
    let (_kind, uncompressed, compressed) = (next_i32()?, next_i32()?, next_i32()?);
    Some((uncompressed, compressed))
}

/// The pages of a column as the wrapped reader gives them, except that dictionary pages are checked.
pub(super) struct CheckedPages(pub(super) Box<dyn PageReader>);

/// Returns `page` unchanged, or an error for a dictionary page that claims more values than it has bytes: the
/// `parquet` crate would allocate memory for all of them first.
fn check_dictionary(page: Page) -> Result<Page> {
    match page {
        Page::DictionaryPage { ref buf, num_values, .. } if num_values as usize > buf.len() => {
            let problem = format!(
                "the file is damaged: a dictionary of {} bytes cannot contain {num_values} values; copy or \
                 download the file again",
                buf.len()
            );
            Err(ParquetError::General(problem))
        }
        page => Ok(page),
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.0.get_next_page()?.map(check_dictionary).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.0.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.0.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.0.take_deferred_dictionary()?.map(check_dictionary).transpose()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.0.at_record_boundary()
    }
}
