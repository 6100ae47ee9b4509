//! Tar archives, compressed or not.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entries, EntryType};

use super::cursors::{Cursor, Cursors};
use super::{MOST_BYTES, Records, damaged};
use crate::decode::DecodeError;

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its path, as the archive has it.
    pub(crate) path: String,
    /// Where its bytes begin in the archive, uncompressed.
    pub(crate) offset: u64,
    /// How many they are.
    pub(crate) size: u64,
}

/// Is shown a member, and may read it.
pub(crate) type Meet<'a> = dyn FnMut(Member, &mut dyn Read) -> Result<(), String> + 'a;

/// Shows `meet` each file of the archive, in order. What is neither file nor folder, such as a link, is counted.
///
/// # Errors
/// What is wrong with the archive, and what `meet` gives.
pub(crate) fn walk(path: &Path, meet: &mut Meet<'_>) -> Result<usize, String> {
    let told = |error: io::Error| said(&error);
    let file = File::open(path).map_err(told)?;
    let left = Cell::new(MOST_OF_HEADERS);
    if is_compressed(&file).map_err(told)? {
        let from = MultiGzDecoder::new(BufReader::new(file));
        let mut archive = Archive::new(Metered { from, left: &left });
        meet_all(archive.entries().map_err(told)?, &left, None, meet)
    } else {
        let length = file.metadata().map_err(told)?.len();
        let mut archive = Archive::new(Metered { from: file, left: &left });
        meet_all(archive.entries_with_seek().map_err(told)?, &left, Some(length), meet)
    }
}

/// The archive, of which no more is read than is `left`: `tar` reads long names and extended headers whole, and a few bytes can
/// unfold to gigabytes of them.
struct Metered<'a, R> {
    from: R,
    left: &'a Cell<u64>,
}

/// More bytes than this between two files are no headers.
const MOST_OF_HEADERS: u64 = 1 << 20;

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("a header takes more than {MOST_OF_HEADERS} bytes")));
        }
        let count = self.from.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.from.seek(place)
    }
}

fn meet_all<R: Read>(
    entries: Entries<'_, R>,
    left: &Cell<u64>,
    length: Option<u64>,
    meet: &mut Meet<'_>,
) -> Result<usize, String> {
    let mut others = 0;
    for entry in entries {
        let mut entry = entry.map_err(|error| said(&error))?;
        // The file itself, whether it is read or passed over, and what comes before the next one.
        left.set(entry.size().saturating_add(MOST_OF_HEADERS));
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            _ => {
                others += 1;
                continue;
            }
        }
        let path = match String::from_utf8(entry.path_bytes().into_owned()) {
            Ok(path) => path,
            Err(error) => {
                let name = String::from_utf8_lossy(error.as_bytes()).escape_debug().to_string();
                return Err(format!("the name `{name}` is not UTF-8"));
            }
        };
        let member = Member { path, offset: entry.raw_file_position(), size: entry.size() };
        if length.is_some_and(|length| member.offset.saturating_add(member.size) > length) {
            return Err(format!("`{}` is cut short", member.path.escape_debug()));
        }
        meet(member, &mut entry)?;
    }
    Ok(others)
}

fn is_compressed(mut file: &File) -> io::Result<bool> {
    let mut magic = Vec::new();
    file.take(2).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(magic == [0x1F, 0x8B])
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the file is cut short".into(),
        _ => error.to_string(),
    }
}

/// Members of an archive, as records.
#[derive(Debug)]
pub(crate) struct TarShard {
    path: PathBuf,
    members: Vec<Member>,
    is_compressed: bool,
    cursors: Cursors<Unpacked>,
}

impl TarShard {
    /// # Errors
    /// What the system says of the file.
    pub(crate) fn new(path: &Path, members: Vec<Member>) -> io::Result<Self> {
        let is_compressed = is_compressed(&File::open(path)?)?;
        Ok(Self { path: path.into(), members, is_compressed, cursors: Cursors::default() })
    }
}

impl Records for TarShard {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, number: usize) -> String {
        self.members[number].path.clone()
    }

    fn read(&self, number: usize) -> Result<Vec<u8>, DecodeError> {
        let Member { offset, size, .. } = self.members[number];
        if !self.is_compressed {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            return exactly(&mut file, size);
        }
        let open = || -> Result<Unpacked, DecodeError> {
            let bytes = MultiGzDecoder::new(BufReader::new(File::open(&self.path)?));
            Ok(Unpacked { bytes, at: 0, next: 0 })
        };
        self.cursors.read(number, open, |unpacked| {
            let passed = offset - unpacked.at;
            if io::copy(&mut unpacked.bytes.by_ref().take(passed), &mut io::sink())? != passed {
                return Err(damaged("the archive is cut short"));
            }
            let bytes = exactly(&mut unpacked.bytes, size)?;
            (unpacked.at, unpacked.next) = (offset + size, number + 1);
            Ok(bytes)
        })
    }
}

fn exactly(from: &mut impl Read, size: u64) -> Result<Vec<u8>, DecodeError> {
    if size > MOST_BYTES {
        return Err(damaged(format!("it takes {size} bytes, more than the {MOST_BYTES} that are allowed")));
    }
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(damaged("the archive is cut short")) }
}

/// A compressed archive, read up to somewhere.
#[derive(Debug)]
struct Unpacked {
    bytes: MultiGzDecoder<BufReader<File>>,
    /// Bytes that were read.
    at: u64,
    /// The member that comes next.
    next: usize,
}

impl Cursor for Unpacked {
    fn before(&self, record: usize) -> Option<usize> {
        (self.next <= record).then_some(self.next)
    }
}
