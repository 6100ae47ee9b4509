//! Zip archives, also inside zip archives.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::{MAX_RECORD_BYTES, record_error, refuse_lfs_pointer, too_large_message};
use crate::image_ref::{ReadError, RecordReader};

/// Splits a path that leads to a zip archive, or into one, into the path of the archive and the path of the
/// folder inside it, with `/` as separator: `data/photos.zip/train` into `data/photos.zip` and `train`. `None`
/// if no file on the way has the extension `.zip`.
pub(crate) fn split_archive_path(path: &Path) -> Option<(PathBuf, String)> {
    // Without the slash at the end, with which a file would be looked for as a folder.
    let path: PathBuf = path.components().collect();
    let archive = path.ancestors().find(|ancestor| is_zip_file(ancestor) && ancestor.is_file())?;
    let inner = path.strip_prefix(archive).ok()?;
    let names: Option<Vec<&str>> = inner.components().map(|name| name.as_os_str().to_str()).collect();
    Some((archive.into(), names?.join("/")))
}

/// Whether a file is a zip archive by its extension.
pub(crate) fn is_zip_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"))
}

/// A file in a zip archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZipMember {
    /// Number of its entry in the archive.
    pub(crate) index: usize,
    /// Path as stored in the archive, with `/` as separator.
    pub(crate) path: String,
    /// Whether it is a link.
    pub(crate) is_link: bool,
}

/// A zip archive whose files are read by the number of their entry.
pub(crate) struct ZipShard {
    /// Path of the archive; for one inside another archive, a path below that of the other.
    path: PathBuf,
    archive: ZipArchive<FileSection>,
    /// Paths of the entries by number, for messages.
    names: Vec<String>,
}

impl fmt::Debug for ZipShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZipShard").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ZipShard {
    /// Opens the archive `path` and reads the list of its files.
    ///
    /// # Errors
    /// A message for a file that cannot be read or is no zip archive.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        refuse_lfs_pointer(path)?;
        let file = File::open(path).map_err(|error| format!("the archive cannot be opened: {error}"))?;
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        Self::from_section(path, FileSection { file: Arc::new(file), start: 0, length, position: 0 })
    }

    /// Opens the zip archive that is `member` of this archive. If it is compressed, it is decompressed into a
    /// temporary file without a name, which disappears with the result.
    ///
    /// # Errors
    /// A message for a member that cannot be read or is no zip archive.
    pub(crate) fn open_nested(&self, member: &ZipMember) -> Result<Self, String> {
        let path = self.path.join(&member.path);
        let mut archive = self.archive.clone();
        let mut entry = archive.by_index(member.index).map_err(|error| error_message(&error))?;
        if entry.compression() == CompressionMethod::Stored
            && let (Some(offset), length) = (entry.data_start(), entry.size())
        {
            drop(entry);
            return Self::from_section(&path, self.archive.clone().into_inner().section(offset, length));
        }
        let io_message = |error: io::Error| format!("the archive cannot be decompressed: {error}");
        let mut file = tempfile::tempfile().map_err(io_message)?;
        let length = io::copy(&mut entry, &mut file).map_err(io_message)?;
        Self::from_section(&path, FileSection { file: Arc::new(file), start: 0, length, position: 0 })
    }

    fn from_section(path: &Path, section: FileSection) -> Result<Self, String> {
        let archive = ZipArchive::new(section).map_err(|error| error_message(&error))?;
        let names = (0..archive.len()).map(|index| {
            let entry = archive.by_index_data(index).map_err(|error| error_message(&error))?;
            // Programs on Windows write backslashes, although the format asks for slashes.
            let name = entry.name().map_err(|error| error_message(&error))?;
            Ok(name.replace('\\', "/"))
        });
        let names = names.collect::<Result<_, String>>()?;
        Ok(Self { path: path.into(), archive, names })
    }

    /// The files of the archive in the order of its directory, without folders.
    pub(crate) fn members(&self) -> Vec<ZipMember> {
        let entries = self.names.iter().enumerate();
        let files = entries.filter(|(_, name)| !name.ends_with('/'));
        files
            .map(|(index, name)| {
                let is_link = self.archive.by_index_data(index).is_ok_and(|entry| entry.is_symlink());
                ZipMember { index, path: name.clone(), is_link }
            })
            .collect()
    }

    /// Whether two files have the same path: then only the last of them can be read.
    pub(crate) fn has_duplicate_names(&self) -> bool {
        self.archive.has_duplicate_names()
    }
}

impl RecordReader for ZipShard {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, index: usize) -> String {
        self.names[index].clone()
    }

    /// The bytes of the entry with the number `index`.
    fn read(&self, index: usize) -> Result<Vec<u8>, ReadError> {
        // A clone shares the directory and has its own position.
        let mut archive = self.archive.clone();
        let entry = archive.by_index(index).map_err(|error| record_error(error_message(&error)))?;
        let size = entry.size();
        if size > MAX_RECORD_BYTES {
            return Err(record_error(too_large_message(size)));
        }
        let mut bytes = Vec::new();
        // The size in the directory may be wrong.
        let read = entry.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| record_error(format!("the file in the archive is damaged: {error}")))?;
        if bytes.len() as u64 > MAX_RECORD_BYTES {
            return Err(record_error(too_large_message(bytes.len() as u64)));
        }
        Ok(bytes)
    }
}

/// The message for the user about an archive or an entry that cannot be read.
fn error_message(error: &ZipError) -> String {
    match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
            "the archive is encrypted: create it again without a password".into()
        }
        ZipError::UnsupportedArchive(problem) => {
            format!(
                "the archive is not supported ({problem}): create it again with the usual compression (deflate)"
            )
        }
        _ => format!("the archive cannot be read: {error}; check that the file is a complete .zip archive"),
    }
}

/// A part of a file that is read from several threads at a time: each clone has its own position.
#[derive(Clone)]
struct FileSection {
    file: Arc<File>,
    /// Where the part begins in the file, in bytes.
    start: u64,
    length: u64,
    /// Where the next byte is read, relative to `start`.
    position: u64,
}

impl FileSection {
    /// The part of this part that begins at `offset` and has `length` bytes.
    fn section(self, offset: u64, length: u64) -> Self {
        let length = length.min(self.length.saturating_sub(offset));
        Self { start: self.start + offset, length, position: 0, ..self }
    }
}

impl Read for FileSection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let limit = buffer.len().min(left);
        let count = read_at(&self.file, &mut buffer[..limit], self.start + self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for FileSection {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let target = match position {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// Reads from `file` at `offset` without moving its position, which all threads share.
#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

/// Reads from `file` at `offset`. The position of the file moves, but nothing else reads from it.
#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}
