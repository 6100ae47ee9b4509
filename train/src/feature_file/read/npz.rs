//! Reads NumPy archives.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use zip::ZipArchive;

use super::npy::{read_floats, read_integers};
use super::{FeatureArchive, FeatureTable};

/// Reads a `.npz` file of `N` samples with `F` features each: the arrays `features` `[N, F]`, `labels` `[N]`
/// and, if present, `groups` `[N]`.
pub(super) fn read(path: &Path) -> Result<FeatureArchive, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| error.to_string())?;
    let (values, shape) = read_array(&mut archive, "features", read_floats)?;
    let table = FeatureTable::new(values, &shape)?;
    let labels = read_array(&mut archive, "labels", read_integers)?;
    let has_groups = array_names(&archive).iter().any(|name| name == "groups");
    let groups = if has_groups { Some(read_array(&mut archive, "groups", read_integers)?) } else { None };
    FeatureArchive::from_arrays(table, labels, groups)
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
