//! Reads NumPy arrays.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use npyz::{Deserialize, NpyFile, Order};

use super::{FeatureArchive, FeatureTable, IntegerArray, csv, data_error};
use crate::error::TrainError;

/// Reads the features `[N, F]` at `path`, and the CSV beside them.
pub(super) fn read(path: &Path) -> Result<FeatureArchive, TrainError> {
    let table = read_table(path).map_err(data_error(path))?;
    let csv_path = path.with_extension("csv");
    let columns = csv::read(&csv_path, table.n_rows()).map_err(data_error(&csv_path))?;
    columns.into_archive(table).map_err(data_error(&csv_path))
}

fn read_table(path: &Path) -> Result<FeatureTable, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let (values, shape) = read_floats(&mut BufReader::new(file), bytes).map_err(|error| error.to_string())?;
    FeatureTable::new(values, &shape)
}

/// The values of an array in a file of `bytes` bytes, in C order, and its shape.
pub(super) fn read_floats(reader: &mut dyn Read, bytes: u64) -> io::Result<(Vec<f32>, Vec<usize>)> {
    let file = open_npy(reader)?;
    let shape = checked_shape(&file, bytes)?;
    let values = match try_read::<f32, _>(file) {
        Ok(values) => values?,
        Err(file) => match try_read::<f64, _>(file) {
            Ok(values) => values?.into_iter().map(|value| value as f32).collect(),
            Err(file) => return Err(wrong_type_error(&file, "float32")),
        },
    };
    Ok((values, shape))
}

/// Like [`read_floats`], for integers of any width.
pub(super) fn read_integers(reader: &mut dyn Read, bytes: u64) -> io::Result<IntegerArray> {
    /// Reads an array of `T` as `i64`, or returns the file if its type is another.
    fn read_as<T: Deserialize + TryInto<i64>, R: Read>(
        file: NpyFile<R>,
    ) -> Result<io::Result<Vec<i64>>, NpyFile<R>> {
        let too_large = || io::Error::other("a label does not fit into 64 bits");
        Ok(try_read::<T, R>(file)?.and_then(|values| {
            values.into_iter().map(|value| value.try_into().map_err(|_| too_large())).collect()
        }))
    }
    let file = open_npy(reader)?;
    let shape = checked_shape(&file, bytes)?;
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

/// The values, or the file itself if they are of another type.
fn try_read<T: Deserialize, R: Read>(file: NpyFile<R>) -> Result<io::Result<Vec<T>>, NpyFile<R>> {
    file.try_data::<T>().map(Iterator::collect)
}

fn wrong_type_error<R: Read>(file: &NpyFile<R>, expected: &str) -> io::Error {
    io::Error::other(format!("it holds {}; save it as {expected}", file.dtype().descr()))
}

/// npyz multiplies the sides of the shape unchecked, and panics on overflow in builds with overflow checks.
fn open_npy<R: Read>(reader: R) -> io::Result<NpyFile<R>> {
    catch_unwind(AssertUnwindSafe(|| NpyFile::new(reader)))
        .unwrap_or_else(|_| Err(io::Error::other("its header has a shape that is too large")))
}

/// The shape of an array in a file of `bytes` bytes; a header that claims more values than bytes is refused.
fn checked_shape<R: Read>(file: &NpyFile<R>, bytes: u64) -> io::Result<Vec<usize>> {
    if file.order() == Order::Fortran && file.shape().len() > 1 {
        return Err(io::Error::other("it is in Fortran order; save numpy.ascontiguousarray(x)"));
    }
    let n_values = file.shape().iter().try_fold(1u64, |values, &side| values.checked_mul(side));
    if n_values.is_none_or(|values| values > bytes) {
        return Err(io::Error::other(format!(
            "its header has shape {:?}, but the file has only {bytes} bytes",
            file.shape()
        )));
    }
    file.shape().iter().map(|&side| usize::try_from(side).map_err(io::Error::other)).collect()
}
