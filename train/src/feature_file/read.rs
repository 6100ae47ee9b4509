//! Features made elsewhere.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use npyz::{Deserialize, NpyFile, Order};
use zip::ZipArchive;

use crate::error::TrainError;

/// Features in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureTable {
    /// `[N, F]`, row-major.
    pub values: Vec<f32>,
    /// The number of features, `F`.
    pub width: usize,
}

/// What an archive of features holds.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureArchive {
    /// The features, `[N, F]`.
    pub table: FeatureTable,
    /// The labels, `[N]`.
    pub labels: Vec<i64>,
    /// The group that each sample belongs to, `[N]`, where the archive has them.
    pub groups: Option<Vec<i64>>,
}

/// Reads `features` `[N, F]` (f32, or f64 that is rounded), `labels` `[N]` (integers) and, where they are there, `groups`
/// `[N]` (integers) from numpy's archive.
///
/// # Errors
/// [`TrainError::Data`], which names the file and the array.
pub fn read_npz(path: &Path) -> Result<FeatureArchive, TrainError> {
    read(path).map_err(|problem| TrainError::Data(format!("{}: {problem}", path.display())))
}

fn read(path: &Path) -> Result<FeatureArchive, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| error.to_string())?;
    let (values, shape) = array(&mut archive, "features", floats)?;
    let (labels, label_shape) = array(&mut archive, "labels", integers)?;
    let grouped = arrays(&archive).iter().any(|name| name == "groups");
    let groups = if grouped { Some(array(&mut archive, "groups", integers)?) } else { None };
    let &[rows, width] = shape.as_slice() else {
        return Err(format!("`features` is {shape:?}, not [samples, features]"));
    };
    if rows == 0 || width == 0 {
        return Err(format!("`features` is {shape:?}: there is nothing in it"));
    }
    let shapes = [("labels", Some(&label_shape)), ("groups", groups.as_ref().map(|(_, shape)| shape))];
    for (name, shape) in shapes {
        if let Some(shape) = shape.filter(|shape| **shape != [rows]) {
            return Err(format!("`{name}` is {shape:?}, but `features` has {rows} rows"));
        }
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let (row, column) = (at / width, at % width);
        return Err(format!("feature {column} of row {row} is {}: features must be finite", values[at]));
    }
    let groups = groups.map(|(groups, _)| groups);
    Ok(FeatureArchive { table: FeatureTable { values, width }, labels, groups })
}

/// The names of the arrays.
fn arrays<R: Read + Seek>(archive: &ZipArchive<R>) -> Vec<String> {
    archive
        .file_names()
        .filter_map(|name| npyz::npz::array_name_from_file_name(&name.ok()?).map(str::to_owned))
        .collect()
}

/// The values of the array `name` in C order, and its shape.
fn array<T, R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    values: impl Fn(&mut dyn Read, u64) -> io::Result<(Vec<T>, Vec<usize>)>,
) -> Result<(Vec<T>, Vec<usize>), String> {
    let present = arrays(archive);
    let file_name = npyz::npz::file_name_from_array_name(name);
    if !present.iter().any(|array| array == name) {
        return Err(format!("there is no array `{name}`; it has: {}", present.join(", ")));
    }
    let mut member = archive.by_name(&file_name).map_err(|error| format!("`{name}`: {error}"))?;
    let bytes = member.size();
    values(&mut member, bytes).map_err(|error| format!("`{name}`: {error}"))
}

fn floats(reader: &mut dyn Read, bytes: u64) -> io::Result<(Vec<f32>, Vec<usize>)> {
    let file = opened(reader)?;
    let shape = shape(&file, bytes)?;
    let values = match typed::<f32, _>(file) {
        Ok(values) => values?,
        Err(file) => match typed::<f64, _>(file) {
            Ok(values) => values?.into_iter().map(|value| value as f32).collect(),
            Err(file) => return Err(unknown_type(&file, "float32")),
        },
    };
    Ok((values, shape))
}

fn integers(reader: &mut dyn Read, bytes: u64) -> io::Result<(Vec<i64>, Vec<usize>)> {
    fn widened<T: Deserialize + TryInto<i64>, R: Read>(
        file: NpyFile<R>,
    ) -> Result<io::Result<Vec<i64>>, NpyFile<R>> {
        let too_large = || io::Error::other("a label is beyond 64 bits");
        Ok(typed::<T, R>(file)?.and_then(|values| {
            values.into_iter().map(|value| value.try_into().map_err(|_| too_large())).collect()
        }))
    }
    let file = opened(reader)?;
    let shape = shape(&file, bytes)?;
    let values = widened::<i64, _>(file)
        .or_else(widened::<i32, _>)
        .or_else(widened::<i16, _>)
        .or_else(widened::<i8, _>)
        .or_else(widened::<u64, _>)
        .or_else(widened::<u32, _>)
        .or_else(widened::<u16, _>)
        .or_else(widened::<u8, _>);
    match values {
        Ok(values) => Ok((values?, shape)),
        Err(file) => Err(unknown_type(&file, "int64")),
    }
}

/// The values, or the file back where they are of another type.
fn typed<T: Deserialize, R: Read>(file: NpyFile<R>) -> Result<io::Result<Vec<T>>, NpyFile<R>> {
    file.try_data::<T>().map(Iterator::collect)
}

fn unknown_type<R: Read>(file: &NpyFile<R>, wanted: &str) -> io::Error {
    io::Error::other(format!("it holds {}; save it as {wanted}", file.dtype().descr()))
}

/// npyz multiplies the sides of the shape unchecked: where overflow is checked, it panics on one that cannot be.
fn opened<R: Read>(reader: R) -> io::Result<NpyFile<R>> {
    catch_unwind(AssertUnwindSafe(|| NpyFile::new(reader)))
        .unwrap_or_else(|_| Err(io::Error::other("it says that it is larger than can be")))
}

/// The shape of an array in a member of so many `bytes`: a header that promises more is not believed.
fn shape<R: Read>(file: &NpyFile<R>, bytes: u64) -> io::Result<Vec<usize>> {
    if file.order() == Order::Fortran && file.shape().len() > 1 {
        return Err(io::Error::other("it is in Fortran order; save numpy.ascontiguousarray of it"));
    }
    let values = file.shape().iter().try_fold(1u64, |values, &side| values.checked_mul(side));
    if values.is_none_or(|values| values > bytes) {
        return Err(io::Error::other(format!(
            "it says that it is {:?}, but has {bytes} bytes",
            file.shape()
        )));
    }
    file.shape().iter().map(|&side| usize::try_from(side).map_err(io::Error::other)).collect()
}
