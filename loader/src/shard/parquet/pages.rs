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

/// A file that is reopened for each read, because clones of a `File` share one position.
pub(super) struct ReopeningFile {
    path: PathBuf,
    length: u64,
}

impl ReopeningFile {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), length: fs::metadata(path)?.len() })
    }

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

/// A reader from the start of a page, which checks the page header first, or of the file footer.
pub(super) struct CheckedReader {
    file: BufReader<File>,
    is_checked: bool,
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Checked on the first read, not when opening: if the crate knows the page header, it opens a reader
        // behind it and does not read.
        if !self.is_checked {
            check_page_size(self.file.fill_buf()?).map_err(io::Error::other)?;
            self.is_checked = true;
        }
        self.file.read(buffer)
    }
}

impl ChunkReader for ReopeningFile {
    type T = CheckedReader;

    fn get_read(&self, start: u64) -> Result<CheckedReader> {
        const FOOTER_SIZE: u64 = 8;
        let is_footer = start.saturating_add(FOOTER_SIZE) == self.length;
        Ok(CheckedReader { file: self.open_at(start)?, is_checked: is_footer })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.saturating_add(length as u64) > self.length {
            return Err(ParquetError::EOF("the file is truncated".into()));
        }
        let mut bytes = vec![0; length];
        self.open_at(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Checks that the uncompressed size in a page header is plausible.
fn check_page_size(header: &[u8]) -> Result<(), String> {
    let (uncompressed, compressed) = page_sizes(header).ok_or("a page does not say its size")?;
    if uncompressed > LARGE_PAGE.max(compressed.saturating_mul(MAX_COMPRESSION_RATIO)) {
        return Err(format!("a page of {compressed} bytes claims to decompress to {uncompressed}"));
    }
    Ok(())
}

/// Uncompressed and compressed size in a page header: the second and third field of `PageHeader` in
/// `parquet.thrift`, in Thrift's compact protocol.
fn page_sizes(mut header: &[u8]) -> Option<(u64, u64)> {
    /// Field header: the next field, of type `i32`.
    const NEXT_I32: u8 = 0x15;
    let mut next_i32 = || -> Option<u64> {
        let (&NEXT_I32, mut rest) = header.split_first()? else { return None };
        let (mut zigzag, mut shift) = (0u64, 0u32);
        loop {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
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
        header = rest;
        // The crate rejects negative values.
        Some(zigzag >> 1)
    };
    let (_kind, uncompressed, compressed) = (next_i32()?, next_i32()?, next_i32()?);
    Some((uncompressed, compressed))
}

/// The pages of a column, with dictionary pages checked.
pub(super) struct CheckedPages(pub(super) Box<dyn PageReader>);

/// Rejects a dictionary with more values than bytes; the crate would allocate all values first.
fn check_dictionary(page: Page) -> Result<Page> {
    match page {
        Page::DictionaryPage { ref buf, num_values, .. } if num_values as usize > buf.len() => {
            let problem = format!("a dictionary of {} bytes claims {num_values} values", buf.len());
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
