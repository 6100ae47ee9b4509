//! Reads tensors from a safetensors file one at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use super::{FeatureArchive, FeatureTable, IntegerArray, check_labels_match_classes};

/// Reads a `.safetensors` file of `N` samples with `F` features each: the tensors `features` `[N, F]`,
/// `labels` `[N]` and, if present, `groups` `[N]` and the class names that `extract` writes into
/// the metadata.
pub(super) fn read(path: &Path) -> Result<FeatureArchive, String> {
    let mut file = SafetensorsReader::open(path)?;
    let (values, shape) = file.read_floats("features")?;
    let table = FeatureTable::new(values, &shape)?;
    let labels = file.read_integers("labels")?;
    let groups = file.header.info("groups").is_some().then(|| file.read_integers("groups")).transpose()?;
    let archive = FeatureArchive::from_arrays(table, labels, groups)?;
    let ExtractMetadata { class: classes, path: paths, split: splits } = file.read_metadata()?;
    if let Some(classes) = &classes {
        let (names, rows) = (classes.len(), archive.labels.len());
        if names != rows {
            return Err(format!(
                "the metadata entry `headstock` has {names} class names, but `features` has {rows} rows: \
                 each row needs one class name"
            ));
        }
        check_labels_match_classes(&archive.labels, classes)?;
    }
    FeatureArchive { classes, ..archive }.with_rows(paths, splits)
}

/// The metadata entry `headstock`: what is known about each row.
#[derive(Default, Deserialize)]
struct ExtractMetadata {
    class: Option<Vec<String>>,
    path: Option<Vec<String>>,
    split: Option<Vec<String>>,
}

/// An open safetensors file.
struct SafetensorsReader {
    /// The name, type, shape and position of each tensor, and the metadata.
    header: Metadata,
    file: BufReader<File>,
    /// The offset of the tensors' bytes in the file.
    data_start: u64,
}

impl SafetensorsReader {
    /// Opens the file at `path` and reads its header. Checks that the header and the tensors that it lists
    /// add up to the length of the file, so that no read goes past its end.
    fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let bytes = file.metadata().map_err(|error| error.to_string())?.len();
        let mut file = BufReader::new(file);
        // The file starts with the length of the header in 8 bytes.
        let mut header_size = [0; 8];
        file.read_exact(&mut header_size)
            .map_err(|_| "the file is too short for a safetensors file: save or copy the file again")?;
        let header_size = u64::from_le_bytes(header_size);
        let data_start = header_size.checked_add(8).filter(|&start| start <= bytes);
        let data_start = data_start.ok_or_else(|| {
            format!(
                "the file should begin with a header of {header_size} bytes, but the whole file has only \
                 {bytes}: save the file again"
            )
        })?;
        let mut header = Vec::new();
        file.by_ref().take(header_size).read_to_end(&mut header).map_err(|error| error.to_string())?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| {
            format!("the header (list of tensors) is invalid, so the file is damaged: {error}")
        })?;
        let (available, claimed) = (bytes - data_start, header.data_len());
        if claimed as u64 != available {
            return Err(format!(
                "the header lists {claimed} bytes of tensors, but {available} bytes follow it in the file: \
                 save the file again"
            ));
        }
        Ok(Self { header, file, data_start })
    }

    /// Looks up the tensor `name` in the header: its type, its shape and the offsets of its bytes. The error
    /// for a missing tensor lists the tensors of the file.
    fn info(&self, name: &str) -> Result<TensorInfo, String> {
        let missing = || {
            format!(
                "there is no tensor `{name}`: rename a tensor to `{name}`, or add it; the file has the \
                 tensors: {}",
                self.header.offset_keys().join(", ")
            )
        };
        self.header.info(name).cloned().ok_or_else(missing)
    }

    /// Reads the float tensor `name`: returns its values, converted to `f32`, and its shape.
    fn read_floats(&mut self, name: &str) -> Result<(Vec<f32>, Vec<usize>), String> {
        let info = self.info(name)?;
        let values = match info.dtype {
            Dtype::F32 => self.read_values(&info, |bytes| Some(f32::from_le_bytes(bytes))),
            Dtype::F64 => self.read_values(&info, |bytes| Some(f64::from_le_bytes(bytes) as f32)),
            Dtype::F16 => self.read_values(&info, |bytes| Some(f16::from_le_bytes(bytes).to_f32())),
            Dtype::BF16 => self.read_values(&info, |bytes| Some(bf16::from_le_bytes(bytes).to_f32())),
            other => Err(format!("the tensor has the data type {other:?}: save it as F32")),
        };
        Ok((values.map_err(|problem| format!("`{name}`: {problem}"))?, info.shape))
    }

    /// Reads the integer tensor `name`, of any integer type, and converts its values to `i64`.
    fn read_integers(&mut self, name: &str) -> Result<IntegerArray, String> {
        let info = self.info(name)?;
        let values = match info.dtype {
            Dtype::I64 => self.read_values(&info, |bytes| Some(i64::from_le_bytes(bytes))),
            Dtype::I32 => self.read_values(&info, |bytes| Some(i32::from_le_bytes(bytes).into())),
            Dtype::I16 => self.read_values(&info, |bytes| Some(i16::from_le_bytes(bytes).into())),
            Dtype::I8 => self.read_values(&info, |bytes| Some(i8::from_le_bytes(bytes).into())),
            Dtype::U64 => self.read_values(&info, |bytes| i64::try_from(u64::from_le_bytes(bytes)).ok()),
            Dtype::U32 => self.read_values(&info, |bytes| Some(u32::from_le_bytes(bytes).into())),
            Dtype::U16 => self.read_values(&info, |bytes| Some(u16::from_le_bytes(bytes).into())),
            Dtype::U8 => self.read_values(&info, |bytes| Some(u8::from_le_bytes(bytes).into())),
            other => Err(format!("the tensor has the data type {other:?}: save it as I64")),
        };
        Ok(IntegerArray {
            values: values.map_err(|problem| format!("`{name}`: {problem}"))?,
            shape: info.shape,
        })
    }

    /// Reads the values of the tensor that `info` describes, `SIZE` bytes each, and converts each with
    /// `decode`, which returns `None` for a value that is too large for `T`.
    fn read_values<T, const SIZE: usize>(
        &mut self,
        info: &TensorInfo,
        decode: impl Fn([u8; SIZE]) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let (begin, end) = info.data_offsets;
        self.file.seek(SeekFrom::Start(self.data_start + begin as u64)).map_err(|error| error.to_string())?;
        let mut values = Vec::with_capacity((end - begin) / SIZE);
        for _ in 0..(end - begin) / SIZE {
            let mut bytes = [0; SIZE];
            self.file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
            values.push(decode(bytes).ok_or("a number is too large for I64")?);
        }
        Ok(values)
    }

    /// Reads the class names, paths and splits of the rows from the metadata entry `headstock`, which `extract`
    /// writes as JSON; nothing for a file without this entry.
    fn read_metadata(&self) -> Result<ExtractMetadata, String> {
        let metadata = self.header.metadata().as_ref().and_then(|metadata| metadata.get("headstock"));
        let parsed = metadata.map(|note| serde_json::from_str::<ExtractMetadata>(note)).transpose();
        let parsed = parsed.map_err(|error| {
            format!(
                "the metadata entry `headstock` (class names) is invalid: {error}; write the file again with \
                 `extract`"
            )
        })?;
        Ok(parsed.unwrap_or_default())
    }
}
