//! Reads and writes tensors in `.safetensors` files without copying them in memory: a head can be as large as
//! the features.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{CpuStorage, Device, Storage, Tensor};
use headstock_heads::Tensors;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensorError, View, serialize_to_file};

use crate::error::FileError;

/// Writes `tensors` and `metadata` to the file `path` in the safetensors format. Unlike candle's
/// `safetensors::save`, it does not copy `f32` tensors in memory.
pub fn write(
    path: &Path,
    tensors: &Tensors,
    metadata: HashMap<String, String>,
) -> Result<(), SafeTensorError> {
    // `serialize_to_file` replaces the file by a temporary one that only its owner may read. The file gets
    // back the permissions of a new file, which follow the umask as those of the other files of a run.
    let permissions = File::create(path)?.metadata()?.permissions();
    let storages: Vec<_> = tensors.values().map(Tensor::storage_and_layout).collect();
    // The bytes of each tensor: borrowed if they are contiguous `f32` values on the CPU, otherwise a copy.
    let mut bytes: Vec<Cow<'_, [u8]>> = Vec::with_capacity(tensors.len());
    for (tensor, (storage, layout)) in tensors.values().zip(&storages) {
        bytes.push(match (&**storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
                bytemuck::cast_slice(&values[start..end]).into()
            }
            _ => tensor.data(),
        });
    }
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        views.push((name, TensorView::new(View::dtype(tensor), tensor.dims().to_vec(), bytes)?));
    }
    serialize_to_file(views, Some(metadata), path)?;
    Ok(fs::set_permissions(path, permissions)?)
}

/// An open `.safetensors` file whose header has been read.
pub struct StoredTensors<'a> {
    path: &'a Path,
    file: File,
    header: Metadata,
}

impl<'a> StoredTensors<'a> {
    /// Opens the `.safetensors` file `path` and reads its header, which must match the length of the file.
    /// Tensors are read later by [`tensors`](Self::tensors).
    pub fn open(path: &'a Path) -> Result<Self, FileError> {
        let mut file = File::open(path).map_err(FileError::io("read", path))?;
        let header = read_header(&mut file).map_err(|error| read_error(path, error))?;
        Ok(Self { path, file, header })
    }

    /// The value of `key` in the metadata of the file; `None` if there is none.
    pub fn metadata_entry(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Reads all tensors of the file, one at a time, and returns them by name.
    pub fn tensors(mut self) -> Result<Tensors, FileError> {
        // `offset_keys` are in the order of the tensors in the file, which `read_tensor` relies on.
        let read = |name: String| {
            let info = self.header.info(&name).expect("it is a name of the header");
            let tensor = read_tensor(&mut self.file, info).map_err(|error| read_error(self.path, error))?;
            Ok((name, tensor))
        };
        self.header.offset_keys().into_iter().map(read).collect()
    }
}

/// Reads and checks the header of a `.safetensors` file: 8 bytes with its length, then JSON with the names,
/// types, shapes and offsets of the tensors, and the metadata. `file` is then at the first tensor. The
/// crate's own [`SafeTensors::read_metadata`](safetensors::SafeTensors::read_metadata) needs the whole file
/// in memory.
fn read_header(file: &mut File) -> candle_core::Result<Metadata> {
    let file_size = file.metadata()?.len();
    let mut size_bytes = [0; 8];
    let remaining = file_size.checked_sub(size_bytes.len() as u64).ok_or(SafeTensorError::HeaderTooSmall)?;
    file.read_exact(&mut size_bytes)?;
    let header_size = u64::from_le_bytes(size_bytes);
    let data_size = remaining.checked_sub(header_size).ok_or(SafeTensorError::InvalidHeaderLength)?;
    let mut header = vec![0; header_size as usize];
    file.read_exact(&mut header)?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    if header.data_len() as u64 != data_size {
        return Err(SafeTensorError::MetadataIncompleteBuffer.into());
    }
    Ok(header)
}

/// Reads a tensor whose bytes are next in `file`. `info` is its type, shape and byte range. `f32` values are
/// read directly into the tensor's buffer, because a head can be large; other types are copied once.
fn read_tensor(file: &mut File, info: &TensorInfo) -> candle_core::Result<Tensor> {
    let (start, end) = info.data_offsets;
    if info.dtype == Dtype::F32 {
        let mut values = vec![0.0f32; (end - start) / size_of::<f32>()];
        file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
        Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu)
    } else {
        let mut bytes = vec![0; end - start];
        file.read_exact(&mut bytes)?;
        TensorView::new(info.dtype, info.shape.clone(), &bytes)?.load(&Device::Cpu)
    }
}

/// Converts an error of reading the file `path`: [`FileError::Io`] if it cannot be read,
/// [`FileError::Format`] if its contents are invalid.
fn read_error(path: &Path, error: candle_core::Error) -> FileError {
    match error {
        candle_core::Error::Io(error) => FileError::io("read", path)(error),
        error => FileError::format(path)(error),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use tempfile::TempDir;

    use super::*;

    /// Tensors of several types and shapes, some of them not contiguous.
    fn sample_tensors() -> Tensors {
        let grid = Tensor::arange(0f32, 60.0, &Device::Cpu).unwrap().reshape((12, 5)).unwrap();
        let as_type = |dtype| grid.to_dtype(dtype).unwrap();
        Tensors::from([
            ("whole".into(), grid.clone()),
            ("rows".into(), grid.narrow(0, 3, 4).unwrap()),
            ("columns".into(), grid.narrow(1, 1, 2).unwrap()),
            ("turned".into(), grid.t().unwrap()),
            ("scalar".into(), grid.sum_all().unwrap()),
            ("bytes".into(), as_type(DType::U8).narrow(0, 0, 1).unwrap()),
            ("halves".into(), as_type(DType::F16)),
            ("doubles".into(), as_type(DType::F64)),
            ("labels".into(), as_type(DType::U32)),
            ("numbers".into(), as_type(DType::I64)),
        ])
    }

    fn metadata() -> HashMap<String, String> {
        HashMap::from([("about".into(), "a \"text\"".into())])
    }

    fn serialize(tensors: &Tensors) -> Vec<u8> {
        safetensors::serialize(tensors, Some(metadata())).unwrap()
    }

    #[test]
    fn the_file_equals_the_serialization_by_safetensors() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, &sample_tensors(), metadata()).unwrap();
        assert!(fs::read(&path).unwrap() == serialize(&sample_tensors()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "files");
    }

    #[test]
    fn tensors_equal_those_that_candle_reads() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, &sample_tensors(), metadata()).unwrap();
        let stored = StoredTensors::open(&path).unwrap();
        assert_eq!(stored.metadata_entry("about"), Some("a \"text\""));
        assert_eq!(stored.metadata_entry("other"), None);
        let found = stored.tensors().unwrap();
        let expected: Tensors =
            candle_core::safetensors::load(&path, &Device::Cpu).unwrap().into_iter().collect();
        assert!(found.keys().eq(sample_tensors().keys()));
        for (name, tensor) in &found {
            assert_eq!(
                (tensor.dtype(), tensor.dims()),
                (expected[name].dtype(), expected[name].dims()),
                "{name}"
            );
        }
        assert!(serialize(&found) == serialize(&expected));
    }

    #[test]
    fn a_truncated_or_extended_file_is_refused() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut bytes = serialize(&sample_tensors());
        bytes.push(0);
        for end in (0..bytes.len() - 1).chain([bytes.len()]) {
            fs::write(&path, &bytes[..end]).unwrap();
            let problem = StoredTensors::open(&path).err().map(|error| error.to_string());
            assert!(problem.is_some_and(|problem| problem.contains("model.safetensors: ")), "{end} bytes");
        }
    }

    #[test]
    fn a_damaged_header_is_refused_where_candle_refuses_it() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        let bytes = serialize(&sample_tensors());
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        for position in 0..header {
            for flipped in [1, 16, 128] {
                let mut damaged = bytes.clone();
                damaged[position] ^= flipped;
                fs::write(&path, damaged).unwrap();
                let ours = StoredTensors::open(&path).and_then(StoredTensors::tensors).is_ok();
                let candles = candle_core::safetensors::load(&path, &Device::Cpu).is_ok();
                assert_eq!(ours, candles, "bit {flipped} of byte {position}");
            }
        }
    }
}
