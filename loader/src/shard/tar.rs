//! Tar archives, optionally gzipped.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entries, EntryType};

use super::cursor_pool::{Cursor, CursorPool};
use super::{MAX_RECORD_BYTES, record_error, refuse_lfs_pointer, too_large_message};
use crate::image_ref::{ReadError, RecordReader};

/// A file in a tar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TarMember {
    /// Path as stored in the archive.
    pub(crate) path: String,
    /// Offset of its data in the uncompressed archive, in bytes.
    pub(crate) offset: u64,
    /// Size of its data in bytes.
    pub(crate) size: u64,
}

/// Callback for each file of an archive: takes the file's entry and a reader of its data, which need not be
/// used. An error is a message that ends the reading.
pub(crate) type VisitMember<'a> = dyn FnMut(TarMember, &mut dyn Read) -> Result<(), String> + 'a;

/// Reads the tar archive `path`, gzipped or not, and calls `visit` for each file in it, in order. Returns the
/// number of members that are neither file nor folder, such as links, which are skipped.
///
/// # Errors
/// A message for a damaged archive, or the error of `visit`.
pub(crate) fn visit_members(path: &Path, visit: &mut VisitMember<'_>) -> Result<usize, String> {
    let to_message = |error: io::Error| error_message(&error);
    refuse_lfs_pointer(path)?;
    let file = File::open(path).map_err(to_message)?;
    // Limits what the `tar` crate reads; see `LimitedReader`.
    let bytes_left = Cell::new(MAX_HEADER_BYTES);
    if is_gzip(&file).map_err(to_message)? {
        let decoder = MultiGzDecoder::new(BufReader::new(file));
        let mut archive = Archive::new(LimitedReader { inner: decoder, bytes_left: &bytes_left });
        // `None`: the uncompressed size is not known.
        visit_entries(archive.entries().map_err(to_message)?, &bytes_left, None, visit)
    } else {
        let size = file.metadata().map_err(to_message)?.len();
        let mut archive = Archive::new(LimitedReader { inner: file, bytes_left: &bytes_left });
        visit_entries(archive.entries_with_seek().map_err(to_message)?, &bytes_left, Some(size), visit)
    }
}

/// A reader that fails after `bytes_left` bytes: the `tar` crate reads long names and extended headers whole,
/// and a few compressed bytes can claim gigabytes of them.
struct LimitedReader<'a, R> {
    inner: R,
    /// Shared with [`visit_entries`], which sets it for each entry.
    bytes_left: &'a Cell<u64>,
}

/// Maximum size of the headers before a file, in bytes.
const MAX_HEADER_BYTES: u64 = 1 << 20;

impl<R: Read> Read for LimitedReader<'_, R> {
    /// Reads from the archive, at most `bytes_left` bytes, and subtracts what was read. It fails if none are
    /// left: then a header is too large, and the `tar` crate would take too much memory for it.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = buffer.len().min(usize::try_from(self.bytes_left.get()).unwrap_or(usize::MAX));
        if limit == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("a header takes more than {MAX_HEADER_BYTES} bytes")));
        }
        let count = self.inner.read(&mut buffer[..limit])?;
        self.bytes_left.set(self.bytes_left.get() - count as u64);
        Ok(count)
    }
}

impl<R: Seek> Seek for LimitedReader<'_, R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}

/// Calls `visit` for each file of `entries`, the members of an archive, and returns the number of members
/// that are neither file nor folder. Before each next member it sets `bytes_left`, the number of bytes that
/// the archive's [`LimitedReader`] may still read. `archive_size` is the size of an archive that is not
/// compressed, to detect a truncated file before its data is read; `None` if it is compressed.
fn visit_entries<R: Read>(
    entries: Entries<'_, R>,
    bytes_left: &Cell<u64>,
    archive_size: Option<u64>,
    visit: &mut VisitMember<'_>,
) -> Result<usize, String> {
    let mut n_others = 0;
    for entry in entries {
        let mut entry = entry.map_err(|error| error_message(&error))?;
        // The data of this file, read or skipped, and the headers of the next one.
        bytes_left.set(entry.size().saturating_add(MAX_HEADER_BYTES));
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            _ => {
                n_others += 1;
                continue;
            }
        }
        let path = match String::from_utf8(entry.path_bytes().into_owned()) {
            Ok(path) => path,
            Err(error) => {
                let name = String::from_utf8_lossy(error.as_bytes()).escape_debug().to_string();
                return Err(format!(
                    "the name `{name}` in the archive is not UTF-8: rename the file and create the archive \
                     again"
                ));
            }
        };
        let member = TarMember { path, offset: entry.raw_file_position(), size: entry.size() };
        if archive_size.is_some_and(|size| member.offset.saturating_add(member.size) > size) {
            return Err(format!(
                "the archive ends in the middle of the file `{}`: copy or download the archive again",
                member.path.escape_debug()
            ));
        }
        visit(member, &mut entry)?;
    }
    Ok(n_others)
}

/// Whether the file is gzipped: whether it starts with the two bytes of gzip's signature. Afterwards the file
/// is at its start again.
fn is_gzip(mut file: &File) -> io::Result<bool> {
    let mut magic = Vec::new();
    file.take(2).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(magic == [0x1F, 0x8B])
}

/// The message for the user about an archive that cannot be read.
fn error_message(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TRUNCATED.into(),
        _ => format!("the archive cannot be read: {error}; check that the file is a complete .tar archive"),
    }
}

/// The message for an archive that ends too early.
const TRUNCATED: &str = "the archive is truncated: copy or download the file again";

/// A tar archive whose images are read by index.
#[derive(Debug)]
pub(crate) struct TarShard {
    path: PathBuf,
    /// The image files; record `i` is `members[i]`.
    members: Vec<TarMember>,
    is_gzip: bool,
    /// Readers at several positions; used only if the archive is gzipped.
    cursors: CursorPool<GzipCursor>,
}

impl TarShard {
    /// The archive `path`, whose records are its files `members`.
    ///
    /// # Errors
    /// The system error if the file cannot be read.
    pub(crate) fn new(path: &Path, members: Vec<TarMember>) -> io::Result<Self> {
        let is_gzip = is_gzip(&File::open(path)?)?;
        Ok(Self { path: path.into(), members, is_gzip, cursors: CursorPool(Mutex::default()) })
    }
}

impl RecordReader for TarShard {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, index: usize) -> String {
        self.members[index].path.clone()
    }

    /// The bytes of the image file `members[index]`. A plain archive is read at the file's offset. A gzipped
    /// one can only be read forward: the pooled reader that stopped nearest before the file skips to it.
    fn read(&self, index: usize) -> Result<Vec<u8>, ReadError> {
        let TarMember { offset, size, .. } = self.members[index];
        if !self.is_gzip {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            return read_exact_size(&mut file, size);
        }
        let open = || -> Result<GzipCursor, ReadError> {
            let reader = MultiGzDecoder::new(BufReader::new(File::open(&self.path)?));
            Ok(GzipCursor { reader, position: 0, next_member: 0 })
        };
        self.cursors.read(index, open, |cursor| {
            let n_skipped = offset - cursor.position;
            if io::copy(&mut cursor.reader.by_ref().take(n_skipped), &mut io::sink())? != n_skipped {
                return Err(record_error(TRUNCATED));
            }
            let bytes = read_exact_size(&mut cursor.reader, size)?;
            cursor.position = offset + size;
            cursor.next_member = index + 1;
            Ok(bytes)
        })
    }
}

/// Reads exactly `size` bytes, the data of one image; an error if there are fewer, or if `size` exceeds the
/// limit for an image.
fn read_exact_size(reader: &mut impl Read, size: u64) -> Result<Vec<u8>, ReadError> {
    if size > MAX_RECORD_BYTES {
        return Err(record_error(too_large_message(size)));
    }
    let mut bytes = Vec::new();
    reader.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(record_error(TRUNCATED)) }
}

/// A forward-only reader of a gzipped archive.
#[derive(Debug)]
struct GzipCursor {
    reader: MultiGzDecoder<BufReader<File>>,
    /// Number of uncompressed bytes read.
    position: u64,
    /// Index of the first member that has not been read or skipped.
    next_member: usize,
}

impl Cursor for GzipCursor {
    fn position_before(&self, record: usize) -> Option<usize> {
        (self.next_member <= record).then_some(self.next_member)
    }
}
