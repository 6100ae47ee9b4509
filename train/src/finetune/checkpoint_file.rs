//! Training checkpoints: a state as JSON and arrays by name in one safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;

use headstock_inference::tensors::StoredTensors;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, serialize_to_file};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::atomic_write::TEMP_PREFIX;
use crate::error::TrainError;

/// Key of the state in the metadata of the safetensors file.
const METADATA_KEY: &str = "headstock";

/// The arrays of a checkpoint to save, by name.
pub(super) type NamedArrays<'a> = BTreeMap<String, &'a [f32]>;

/// A loaded checkpoint: the state, and the arrays by name.
pub(super) type StoredCheckpoint<P> = (P, BTreeMap<String, Vec<f32>>);

/// Writes a checkpoint of a training to `path`: the `state` (such as counters of steps) as JSON, and the
/// `arrays` by name (such as the model's values). It is atomic: an existing file stays until the new one is
/// on disk.
///
/// # Errors
/// [`TrainError::Inference`].
pub(super) fn save(path: &Path, state: &impl Serialize, arrays: &NamedArrays<'_>) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp_path = path.with_file_name(format!("{TEMP_PREFIX}{name}"));
    let state = serde_json::to_string(state).map_err(TrainError::format(path))?;
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), state)]);
    let arrays: Result<Vec<_>, _> = arrays
        .iter()
        .map(|(name, values)| {
            Ok((name, TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values))?))
        })
        .collect();
    let arrays = arrays.map_err(TrainError::format::<SafeTensorError>(path))?;
    serialize_to_file(arrays, Some(metadata), &temp_path).map_err(TrainError::format(path))?;
    let synced = File::open(&temp_path).and_then(|file| file.sync_all());
    synced.and_then(|()| fs::rename(&temp_path, path)).map_err(TrainError::io("write", path))
}

/// Reads the checkpoint that [`save`] wrote to `path`, to resume a training: returns the state, of type `P`,
/// and the arrays by name. `None` if there is no file, because nothing has been saved yet.
///
/// # Errors
/// [`TrainError::Inference`] for a file that cannot be read or is damaged.
pub(super) fn load<P: DeserializeOwned>(path: &Path) -> Result<Option<StoredCheckpoint<P>>, TrainError> {
    if !path.exists() {
        return Ok(None);
    }
    let file = StoredTensors::open(path)?;
    let no_state = || TrainError::format(path)("the file is not a training checkpoint: start a new run");
    let entry = file.metadata_entry(METADATA_KEY).ok_or_else(no_state)?;
    let state = serde_json::from_str(entry).map_err(TrainError::format(path))?;
    let arrays = file
        .tensors()?
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_vec1().map_err(TrainError::format(path))?)))
        .collect::<Result<_, TrainError>>()?;
    Ok(Some((state, arrays)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_loaded_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        assert!(load::<f64>(&path).unwrap().is_none());
        let values = [f32::MIN_POSITIVE / 2.0, -0.0, 1.0 / 3.0, f32::NAN];
        save(&path, &0.1f64, &NamedArrays::from([("b".into(), values.as_slice()), ("a".into(), &[])]))
            .unwrap();
        let (state, arrays) = load::<f64>(&path).unwrap().unwrap();
        assert_eq!(state.to_bits(), 0.1f64.to_bits());
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&arrays["b"]), bits(&values));
        assert!(arrays["a"].is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        save(&path, &1u8, &NamedArrays::new()).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(load::<u8>(&path).unwrap_err().to_string().contains("last.safetensors"));
    }
}
