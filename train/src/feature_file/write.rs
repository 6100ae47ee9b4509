//! Writes files of features in chunks, so that memory does not grow with the number of rows.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock_loader::Split;
use npyz::{DType, TypeStr, WriteOptions, WriterBuilder};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;
use tempfile::NamedTempFile;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::FeatureFormat;
use crate::atomic_write::{persist, refuse_to_overwrite_unless, temp_file_beside};
use crate::error::TrainError;

/// Number of rows in memory at a time.
const CHUNK_ROWS: usize = 512;

/// The sample that a row of a feature file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleInfo {
    /// The image's path relative to the data root.
    pub path: String,
    /// The name of its class.
    pub class: String,
    /// The number of its class.
    pub label: u32,
    /// The split that it is in; `None` if the data is not split. All rows of a file have one, or none.
    pub split: Option<Split>,
}

impl SampleInfo {
    /// The name of the split, empty without one.
    fn split_name(&self) -> &str {
        self.split.map_or("", Split::as_str)
    }
}

/// Whether the rows of a file have splits.
fn have_splits(rows: &[SampleInfo]) -> bool {
    rows.iter().any(|row| row.split.is_some())
}

/// The columns of the CSV of the same name as the `.npy` or `.npz` file; the last only with splits.
const HEADER: [&str; 5] = ["row", "path", "class", "label", "split"];

/// Writes a file of features to a temporary file, which is renamed once it is complete.
pub struct FeatureFileWriter {
    format: FeatureFormat,
    path: PathBuf,
    file: NamedTempFile,
    /// The CSV that describes the rows, for `.npy` and `.npz`.
    table: Option<(PathBuf, NamedTempFile)>,
}

impl FeatureFileWriter {
    /// Prepares to write the feature file `path`: creates temporary files in its folder, before the features
    /// are computed, so that a folder that is not writable is reported at once. The extension determines the
    /// format. The CSV of `.npy` and `.npz` has the same name with `.csv`; a CSV with other contents is not
    /// replaced.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for an unknown extension, a folder of that name, or a CSV with other contents;
    /// [`TrainError::Inference`] if the folder is not writable.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let format = FeatureFormat::from_path(path)?;
        if path.is_dir() {
            return Err(TrainError::Usage(format!(
                "{} is a folder: choose the name of a file",
                path.display()
            )));
        }
        let table = match format {
            FeatureFormat::Npy | FeatureFormat::Npz => {
                let table = path.with_extension("csv");
                let headers = [&HEADER[..], &HEADER[..4]].map(|columns| format!("{}\n", columns.join(",")));
                refuse_to_overwrite_unless(&table, &headers.map(String::into_bytes))?;
                let file = temp_file_beside(&table)?;
                Some((table, file))
            }
            FeatureFormat::Safetensors | FeatureFormat::Parquet => None,
        };
        Ok(Self { format, path: path.into(), file: temp_file_beside(path)?, table })
    }

    /// Writes the samples `rows` with `width` features each, and renames the temporary files to their final
    /// names. `read` returns the features `[len, F]` of a range of rows; it is called for chunks, so that
    /// memory does not grow with the number of rows.
    ///
    /// # Errors
    /// [`TrainError::Inference`] if a file cannot be written, and the errors of `read`.
    pub fn write(
        mut self,
        rows: &[SampleInfo],
        width: usize,
        read: &mut dyn FnMut(Range<usize>) -> Result<Vec<f32>, TrainError>,
    ) -> Result<(), TrainError> {
        let mut chunks = FeatureChunks { n_rows: rows.len(), width, read };
        let out = self.file.as_file_mut();
        let result = match self.format {
            FeatureFormat::Npy => write_npy(out, &mut chunks),
            FeatureFormat::Npz => write_npz(out, rows, &mut chunks),
            FeatureFormat::Safetensors => write_safetensors(out, rows, &mut chunks),
            FeatureFormat::Parquet => write_parquet(out, rows, &mut chunks),
        };
        result.map_err(|error: WriteError| match error.downcast::<TrainError>() {
            Ok(error) => *error,
            Err(error) => TrainError::io("write", &self.path)(io::Error::other(error)),
        })?;
        if let Some((path, file)) = &mut self.table {
            write_csv(file.as_file_mut(), rows).map_err(TrainError::io("write", path))?;
        }
        persist(self.file, &self.path)?;
        self.table.map_or(Ok(()), |(path, file)| persist(file, &path))
    }
}

/// An error of writing the file, or the [`TrainError`] of reading the features.
type WriteError = Box<dyn Error + Send + Sync>;

/// The features to write, which are read in chunks of [`CHUNK_ROWS`] rows.
struct FeatureChunks<'a> {
    n_rows: usize,
    /// Number of features, `F`.
    width: usize,
    /// Returns the features `[len, F]` of a range of rows.
    read: &'a mut dyn FnMut(Range<usize>) -> Result<Vec<f32>, TrainError>,
}

impl FeatureChunks<'_> {
    /// The shape of the features, `[N, F]`.
    fn shape(&self) -> [u64; 2] {
        [self.n_rows as u64, self.width as u64]
    }

    /// Reads the features chunk by chunk, so that memory does not grow with the number of rows, and calls
    /// `visit` with the range of rows of each chunk and its features `[len, F]`.
    fn for_each_chunk(
        &mut self,
        mut visit: impl FnMut(Range<usize>, Vec<f32>) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        for start in (0..self.n_rows).step_by(CHUNK_ROWS) {
            let rows = start..(start + CHUNK_ROWS).min(self.n_rows);
            let values = (self.read)(rows.clone())?;
            visit(rows, values)?;
        }
        Ok(())
    }

    /// Writes the features to `writer` as an array `[N, F]` of `float32` in the `.npy` format.
    fn write_array(&mut self, writer: impl Write) -> Result<(), WriteError> {
        let mut array =
            WriteOptions::<f32>::new().default_dtype().shape(&self.shape()).writer(writer).begin_nd()?;
        self.for_each_chunk(|_, values| Ok(array.extend(values)?))?;
        Ok(array.finish()?)
    }
}

/// Writes a `.npy` file: the features, as an array `[N, F]` of `float32`. The labels are in the CSV beside
/// it.
fn write_npy(file: &mut File, chunks: &mut FeatureChunks<'_>) -> Result<(), WriteError> {
    let mut out = BufWriter::new(file);
    chunks.write_array(&mut out)?;
    Ok(out.flush()?)
}

/// Writes a `.npz` file: the arrays `features` `[N, F]`, `labels` `[N]`, `classes` `[C]` (the name of each label),
/// `paths` `[N]` and, if the data is split, `splits` `[N]` in a ZIP archive.
fn write_npz(file: &mut File, rows: &[SampleInfo], chunks: &mut FeatureChunks<'_>) -> Result<(), WriteError> {
    // Like numpy's savez: no compression, and members may exceed 4 GiB.
    let options =
        SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).large_file(true);
    let mut archive = ZipWriter::new(BufWriter::new(file));
    archive.start_file("features.npy", options)?;
    chunks.write_array(&mut archive)?;
    archive.start_file("labels.npy", options)?;
    let labels = WriteOptions::<i64>::new().default_dtype().shape(&[rows.len() as u64]);
    let mut labels = labels.writer(&mut archive).begin_nd()?;
    labels.extend(rows.iter().map(|row| i64::from(row.label)))?;
    labels.finish()?;
    let classes = class_names(rows);
    let paths: Vec<&str> = rows.iter().map(|row| row.path.as_str()).collect();
    let splits: Vec<&str> = rows.iter().map(SampleInfo::split_name).collect();
    let mut texts = vec![("classes", classes.iter().map(String::as_str).collect()), ("paths", paths)];
    if have_splits(rows) {
        texts.push(("splits", splits));
    }
    for (name, values) in texts {
        archive.start_file(format!("{name}.npy"), options)?;
        write_texts(&mut archive, &values)?;
    }
    archive.finish()?.flush()?;
    Ok(())
}

/// The name of each label from 0 to the largest; the number for a label without rows.
fn class_names(rows: &[SampleInfo]) -> Vec<String> {
    let n_classes = rows.iter().map(|row| row.label as usize + 1).max().unwrap_or(0);
    let mut names: Vec<String> = (0..n_classes).map(|label| label.to_string()).collect();
    for row in rows {
        names[row.label as usize].clone_from(&row.class);
    }
    names
}

/// Writes an array of texts as numpy does that of a list of `str`: as many UTF-32 characters for each as the
/// longest has.
fn write_texts(writer: impl Write, values: &[&str]) -> Result<(), WriteError> {
    // numpy has no texts of length 0.
    let longest = values.iter().map(|value| value.chars().count()).max().unwrap_or(0).max(1);
    let type_str: TypeStr = format!("<U{longest}").parse()?;
    let options = WriteOptions::<str>::new().dtype(DType::Plain(type_str));
    let mut array = options.shape(&[values.len() as u64]).writer(writer).begin_nd()?;
    for value in values {
        array.push(*value)?;
    }
    Ok(array.finish()?)
}

/// Writes a `.safetensors` file: the tensors `labels` `[N]` and `features` `[N, F]`, with the paths and class
/// names in the metadata. It writes the format by hand, since the crate `safetensors` needs whole tensors in
/// memory: the length of the header, the header as JSON, then the bytes of the tensors.
fn write_safetensors(
    file: &mut File,
    rows: &[SampleInfo],
    chunks: &mut FeatureChunks<'_>,
) -> Result<(), WriteError> {
    let [count, width] = chunks.shape();
    // Features are `f32` (4 bytes), labels `i64` (8 bytes).
    let (features_bytes, labels_bytes) = (count * width * 4, count * 8);
    let end = labels_bytes + features_bytes;
    let paths: Vec<&str> = rows.iter().map(|row| row.path.as_str()).collect();
    let classes: Vec<&str> = rows.iter().map(|row| row.class.as_str()).collect();
    let mut metadata = json!({ "path": paths, "class": classes });
    if have_splits(rows) {
        metadata["split"] = rows.iter().map(SampleInfo::split_name).collect();
    }
    let header = json!({
        "__metadata__": { "headstock": metadata.to_string() },
        "labels": { "dtype": "I64", "shape": [count], "data_offsets": [0, labels_bytes] },
        "features": { "dtype": "F32", "shape": [count, width], "data_offsets": [labels_bytes, end] },
    });
    let mut header = header.to_string();
    // The format asks for tensors that are aligned to 8 bytes.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut out = BufWriter::new(file);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for row in rows {
        out.write_all(&i64::from(row.label).to_le_bytes())?;
    }
    chunks.for_each_chunk(|_, values| {
        for value in values {
            out.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    })?;
    Ok(out.flush()?)
}

/// The columns of a Parquet file of features, in Parquet's schema language, without that of the split.
const COLUMNS: &str = "
    REQUIRED BINARY path (STRING);
    REQUIRED BINARY class (STRING);
    REQUIRED INT64 label;
    REQUIRED GROUP features (LIST) { REPEATED GROUP list { REQUIRED FLOAT element; } }
";

/// The column of the split, which comes last and only if the data is split.
const SPLIT_COLUMN: &str = "REQUIRED BINARY split (STRING);";

/// Writes a Parquet file with these columns and one row per sample; each chunk is a row group.
fn write_parquet(
    file: &mut File,
    rows: &[SampleInfo],
    chunks: &mut FeatureChunks<'_>,
) -> Result<(), WriteError> {
    let split_column = if have_splits(rows) { SPLIT_COLUMN } else { "" };
    let schema = Arc::new(parse_message_type(&format!("message features {{ {COLUMNS} {split_column} }}"))?);
    let width = chunks.width;
    // Features hardly ever repeat, so that a dictionary would only be another copy.
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    chunks.for_each_chunk(|range, values| {
        let rows = &rows[range];
        let byte_column = |field: fn(&SampleInfo) -> &str| -> Vec<ByteArray> {
            rows.iter().map(|row| ByteArray::from(field(row))).collect()
        };
        let (paths, classes) = (byte_column(|row| &row.path), byte_column(|row| &row.class));
        let splits = byte_column(SampleInfo::split_name);
        let labels: Vec<i64> = rows.iter().map(|row| i64::from(row.label)).collect();
        // The first element of a list has repetition level 0; present elements have definition level 1.
        let repetition_levels: Vec<i16> = (0..values.len()).map(|i| i16::from(i % width != 0)).collect();
        let definition_levels = vec![1; values.len()];
        let mut group = writer.next_row_group()?;
        let mut column = 0;
        while let Some(mut column_writer) = group.next_column()? {
            // The columns are in the order of the schema; those without lists need no levels (`None`).
            match column {
                0 => column_writer.typed::<ByteArrayType>().write_batch(&paths, None, None)?,
                1 => column_writer.typed::<ByteArrayType>().write_batch(&classes, None, None)?,
                2 => column_writer.typed::<Int64Type>().write_batch(&labels, None, None)?,
                4 => column_writer.typed::<ByteArrayType>().write_batch(&splits, None, None)?,
                _ => column_writer.typed::<FloatType>().write_batch(
                    &values,
                    Some(&definition_levels),
                    Some(&repetition_levels),
                )?,
            };
            column_writer.close()?;
            column += 1;
        }
        group.close()?;
        Ok(())
    })?;
    writer.close()?;
    Ok(())
}

/// Writes the CSV beside a feature file, which names the photo and the class of each row of the features.
fn write_csv(to: &mut File, rows: &[SampleInfo]) -> io::Result<()> {
    let mut table = csv::Writer::from_writer(BufWriter::new(to));
    let n_columns = if have_splits(rows) { HEADER.len() } else { HEADER.len() - 1 };
    table.write_record(&HEADER[..n_columns])?;
    for (i, row) in rows.iter().enumerate() {
        let (number, label) = (i.to_string(), row.label.to_string());
        let fields = [number.as_str(), &row.path, &row.class, &label, row.split_name()];
        table.write_record(&fields[..n_columns])?;
    }
    table.flush()
}
