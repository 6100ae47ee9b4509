//! Reads NumPy archives.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use zip::ZipArchive;

use super::npy::{read_floats, read_integers, read_strings};
use super::{FeatureArchive, FeatureTable};

/// Reads a `.npz` file of `N` samples with `F` features each: the arrays `features` `[N, F]`, `labels` `[N]`
/// and, if present, `groups` `[N]`, `classes` `[C]`, `paths` `[N]` and `splits` `[N]`.
pub(super) fn read(path: &Path) -> Result<FeatureArchive, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| error.to_string())?;
    let (values, shape) = read_array(&mut archive, "features", read_floats)?;
    let table = FeatureTable::new(values, &shape)?;
    let labels = read_array(&mut archive, "labels", read_integers)?;
    let has_groups = array_names(&archive).iter().any(|name| name == "groups");
    let groups = if has_groups { Some(read_array(&mut archive, "groups", read_integers)?) } else { None };
    let archive_of_arrays = FeatureArchive::from_arrays(table, labels, groups)?;
    let classes = read_texts(&mut archive, "classes")?;
    let (paths, splits) = (read_texts(&mut archive, "paths")?, read_texts(&mut archive, "splits")?);
    let classes = classes.map(|names| name_labels(&archive_of_arrays.labels, &names)).transpose()?;
    FeatureArchive { classes, ..archive_of_arrays }.with_rows(paths, splits)
}

/// Reads the array `name` of texts, if the archive has one; an error unless it has one dimension.
fn read_texts<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
) -> Result<Option<Vec<String>>, String> {
    if !array_names(archive).iter().any(|array| array == name) {
        return Ok(None);
    }
    let (values, shape) = read_array(archive, name, read_strings)?;
    if shape.len() != 1 {
        return Err(format!("`{name}` has shape {shape:?}, but needs one dimension"));
    }
    Ok(Some(values))
}

/// The class name of each sample: `names[label]`.
fn name_labels(labels: &[i64], names: &[String]) -> Result<Vec<String>, String> {
    let name_of = |label: &i64| {
        let name = usize::try_from(*label).ok().and_then(|label| names.get(label)).cloned();
        name.ok_or_else(|| {
            format!(
                "there is a label {label}, but `classes` has {} names: give the name of each label, in the \
                 order of the labels",
                names.len()
            )
        })
    };
    labels.iter().map(name_of).collect()
}

/// The names of the arrays in the archive: those of its `.npy` members, without the extension.
fn array_names<R: Read + Seek>(archive: &ZipArchive<R>) -> Vec<String> {
    archive
        .file_names()
        .filter_map(|name| npyz::npz::array_name_from_file_name(&name.ok()?).map(str::to_owned))
        .collect()
}

/// Reads the array `name` of the archive with `read_values`, which receives a reader of the array's `.npy`
/// file and that file's length in bytes. The error for a missing array lists the arrays of the archive.
fn read_array<T, R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    read_values: impl Fn(&mut dyn Read, u64) -> io::Result<T>,
) -> Result<T, String> {
    let present = array_names(archive);
    let file_name = npyz::npz::file_name_from_array_name(name);
    if !present.iter().any(|array| array == name) {
        return Err(format!(
            "there is no array `{name}`: rename an array to `{name}`, or add it; the file has the arrays: {}",
            present.join(", ")
        ));
    }
    let mut member = archive.by_name(&file_name).map_err(|error| format!("`{name}`: {error}"))?;
    let bytes = member.size();
    read_values(&mut member, bytes).map_err(|error| format!("`{name}`: {error}"))
}
