//! Reads NumPy arrays.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use npyz::{Deserialize, NpyFile, Order};

use super::{FeatureArchive, FeatureTable, IntegerArray, csv, data_error};
use crate::error::TrainError;

/// Reads a `.npy` file: the features `[N, F]` at `path`, and the labels from the CSV of the same name.
pub(super) fn read(path: &Path) -> Result<FeatureArchive, TrainError> {
    let table = read_table(path).map_err(data_error(path))?;
    let csv_path = path.with_extension("csv");
    let columns = csv::read(&csv_path, table.n_rows()).map_err(data_error(&csv_path))?;
    columns.into_archive(table).map_err(data_error(&csv_path))
}

/// Reads the features `[N, F]` at `path`, without the labels.
fn read_table(path: &Path) -> Result<FeatureTable, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let len = file.metadata().map_err(|error| error.to_string())?.len();
    let (values, shape) = read_floats(&mut BufReader::new(file), len).map_err(|error| error.to_string())?;
    FeatureTable::new(values, &shape)
}

/// Reads an array of `float32` or `float64` from a file of `n_bytes` bytes in the `.npy` format. Returns its
/// values in C order, rounded to `f32`, and its shape.
pub(super) fn read_floats(reader: &mut dyn Read, n_bytes: u64) -> io::Result<(Vec<f32>, Vec<usize>)> {
    let file = open_npy(reader)?;
    let shape = checked_shape(&file, n_bytes)?;
    let values = match try_read::<f32, _>(file) {
        Ok(values) => values?,
        Err(file) => match try_read::<f64, _>(file) {
            Ok(values) => values?.into_iter().map(|value| value as f32).collect(),
            Err(file) => return Err(wrong_type_error(&file, "float32")),
        },
    };
    Ok((values, shape))
}

/// Reads an array of integers of any type, such as `uint8` or `int64`, from a file of `n_bytes` bytes in the
/// `.npy` format, and converts them to `i64`.
pub(super) fn read_integers(reader: &mut dyn Read, n_bytes: u64) -> io::Result<IntegerArray> {
    /// Reads an array of the integer type `T` as `i64`. The outer error returns the file if the array has a
    /// different type, to try the next one; the inner error means that the values cannot be read.
    fn read_as<T: Deserialize + TryInto<i64>, R: Read>(
        file: NpyFile<R>,
    ) -> Result<io::Result<Vec<i64>>, NpyFile<R>> {
        let too_large = || io::Error::other("a number is too large for int64");
        Ok(try_read::<T, R>(file)?.and_then(|values| {
            values.into_iter().map(|value| value.try_into().map_err(|_| too_large())).collect()
        }))
    }
    let file = open_npy(reader)?;
    let shape = checked_shape(&file, n_bytes)?;
    let values = read_as::<i64, _>(file)
        .or_else(read_as::<i32, _>)
        .or_else(read_as::<i16, _>)
        .or_else(read_as::<i8, _>)
        .or_else(read_as::<u64, _>)
        .or_else(read_as::<u32, _>)
        .or_else(read_as::<u16, _>)
        .or_else(read_as::<u8, _>);
    match values {
        Ok(values) => Ok(IntegerArray { values: values?, shape }),
        Err(file) => Err(wrong_type_error(&file, "int64")),
    }
}

/// Reads an array of texts, as numpy writes a list of `str`, from a file of `n_bytes` bytes in the `.npy` format.
/// Returns its values and its shape.
pub(super) fn read_strings(reader: &mut dyn Read, n_bytes: u64) -> io::Result<(Vec<String>, Vec<usize>)> {
    let file = open_npy(reader)?;
    let shape = checked_shape(&file, n_bytes)?;
    match try_read::<String, _>(file) {
        Ok(values) => Ok((values?, shape)),
        Err(file) => Err(wrong_type_error(&file, "str")),
    }
}

/// Reads the values of an array as type `T`. The outer error returns the file if the array has a different
/// type, to try another; the inner error means that the values cannot be read.
fn try_read<T: Deserialize, R: Read>(file: NpyFile<R>) -> Result<io::Result<Vec<T>>, NpyFile<R>> {
    file.try_data::<T>().map(Iterator::collect)
}

/// The error that an array has a type that cannot be read; it asks for the type `expected`.
fn wrong_type_error<R: Read>(file: &NpyFile<R>, expected: &str) -> io::Error {
    io::Error::other(format!("the array holds {}: save the array as {expected}", file.dtype().descr()))
}

/// Opens an array in the `.npy` format and reads its header; an error for a shape that is too large. npyz
/// multiplies the sides of the shape unchecked, and panics on overflow in builds with overflow checks.
fn open_npy<R: Read>(reader: R) -> io::Result<NpyFile<R>> {
    catch_unwind(AssertUnwindSafe(|| NpyFile::new(reader)))
        .unwrap_or_else(|_| Err(io::Error::other("the header of the array has a shape that is too large")))
}

/// Returns the shape of the array in a file of `n_bytes` bytes. An array in Fortran order is refused, and so
/// is a header that claims more values than the file has bytes, before memory is allocated for them.
fn checked_shape<R: Read>(file: &NpyFile<R>, n_bytes: u64) -> io::Result<Vec<usize>> {
    if file.order() == Order::Fortran && file.shape().len() > 1 {
        return Err(io::Error::other("the array is in Fortran order: save numpy.ascontiguousarray(x)"));
    }
    let n_values = file.shape().iter().try_fold(1u64, |values, &side| values.checked_mul(side));
    if n_values.is_none_or(|values| values > n_bytes) {
        return Err(io::Error::other(format!(
            "the header of the array has shape {:?}, but the file has only {n_bytes} bytes: save the array again",
            file.shape()
        )));
    }
    file.shape().iter().map(|&side| usize::try_from(side).map_err(io::Error::other)).collect()
}
