//! The parts of a Parquet file as they are read, and a look at what the reader (60.1) believes: it takes memory for as much as a page
//! says that it holds, and a few bytes can say gigabytes.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// A page of more bytes than this is larger than what it is packed in, but not by more than [`MAX_COMPRESSION_RATIO`].
const LARGE_PAGE: u64 = 1 << 26;
/// By how much photos, or anything that is not made to be packed, can shrink; DEFLATE itself gives 1,032.
const MAX_COMPRESSION_RATIO: u64 = 1 << 10;

/// A file that is opened for each part that is read: the clones of a `File` share the place where they read.
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

/// The file from a page on, or its last bytes.
pub(super) struct CheckedReader {
    file: BufReader<File>,
    is_checked: bool,
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not before: where it knows a page's header already, the reader asks for what lies behind it and does not read.
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
        const LAST: u64 = 8;
        let is_end = start.saturating_add(LAST) == self.length;
        Ok(CheckedReader { file: self.open_at(start)?, is_checked: is_end })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.saturating_add(length as u64) > self.length {
            return Err(ParquetError::EOF("the file is cut short".into()));
        }
        let mut bytes = vec![0; length];
        self.open_at(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Whether the page of this header can become as large as it says.
fn check_page_size(header: &[u8]) -> Result<(), String> {
    let (uncompressed, compressed) = page_sizes(header).ok_or("a page does not say its size")?;
    if uncompressed > LARGE_PAGE.max(compressed.saturating_mul(MAX_COMPRESSION_RATIO)) {
        return Err(format!("a page of {compressed} bytes claims to unfold to {uncompressed}"));
    }
    Ok(())
}

/// How large a page becomes and how large it is stored. Source: `PageHeader` of `parquet.thrift`, whose first fields are its kind and
/// these two, in Thrift's compact protocol.
fn page_sizes(mut header: &[u8]) -> Option<(u64, u64)> {
    /// The next field, an `i32`.
    const NEXT_I32: u8 = 0x15;
    let mut next = || -> Option<u64> {
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
            // An i32 takes five bytes.
            if shift == 35 {
                return None;
            }
        }
        header = rest;
        // What is negative the reader refuses.
        Some(zigzag >> 1)
    };
    let (_kind, uncompressed, compressed) = (next()?, next()?, next()?);
    Some((uncompressed, compressed))
}

/// The pages of a column.
pub(super) struct CheckedPages(pub(super) Box<dyn PageReader>);

/// Of a dictionary that holds fewer bytes than it says it has values, the reader would make them all first.
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
