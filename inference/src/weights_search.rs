//! Finds the weights of a model by their hash, where they are not in the place that its run names.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_hub::{HubSettings, find_cached_weights, hash_sha256};

use crate::run_files::{CONFIG_FILE, MODEL_FILE};

/// The result of a search.
pub(crate) struct WeightsSearch {
    /// The file with the hash.
    pub(crate) found: Option<PathBuf>,
    /// The folders that were searched, for messages.
    pub(crate) places: Vec<String>,
}

impl WeightsSearch {
    /// Searches the file with this `sha256`, in hexadecimal, in `folders` and the folders in them, and in the cache
    /// of the Hugging Face hub. Files called as the last part of `name`, or in a folder that is called so, come
    /// first: each file is read as a whole to hash it. Nothing is downloaded.
    pub(crate) fn run(sha256: &str, name: &str, folders: &[PathBuf]) -> Self {
        let hub = HubSettings::from_environment();
        let name = name.rsplit('/').next().unwrap_or_default();
        let is_called_so =
            |file: &PathBuf| file.components().rev().take(2).any(|part| part.as_os_str() == name);
        let mut files: Vec<PathBuf> = folders.iter().flat_map(|folder| weight_files(folder, true)).collect();
        files.sort_by_key(|file| !is_called_so(file));
        let has_hash = |file: &PathBuf| hash_sha256(file).is_ok_and(|found| found == sha256);
        let found = files.into_iter().find(has_hash).or_else(|| find_cached_weights(sha256, &hub));
        let mut places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        places.dedup();
        places.push(format!("the cache {}", hub.cache.display()));
        Self { found, places }
    }
}

/// The `.safetensors` files in `folder`, sorted, then with `subfolders` those in the folders in it. A run has no
/// weights of its own, so its model is left out. A folder that cannot be read counts as empty.
fn weight_files(folder: &Path, subfolders: bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    let (folders, mut files): (Vec<PathBuf>, Vec<PathBuf>) =
        paths.into_iter().partition(|path| path.is_dir());
    let is_run = folder.join(CONFIG_FILE).is_file();
    files.retain(|file| {
        let is_model = is_run && file.file_name().is_some_and(|name| name == MODEL_FILE);
        file.extension().is_some_and(|extension| extension == "safetensors") && !is_model
    });
    if subfolders {
        files.extend(folders.iter().flat_map(|folder| weight_files(folder, false)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_folders_and_the_folders_in_them() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in ["run/backbone", "run/deep/er", "other"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("weights"), "weights").unwrap();
        let sha256 = hash_sha256(&path("weights")).unwrap();
        let find = |name: &str| WeightsSearch::run(&sha256, name, &[path("run"), path("other")]);
        let copy = |name: &str| fs::copy(path("weights"), path(name)).unwrap();
        // Too deep, no weights by its name, and the model of a run.
        copy("run/deep/er/a.safetensors");
        copy("run/a.bin");
        copy("run/model.safetensors");
        fs::write(path("run/headstock.toml"), "").unwrap();
        fs::write(path("run/b.safetensors"), "other weights").unwrap();
        let nothing = find("backbone");
        assert_eq!(nothing.found, None);
        assert_eq!(
            nothing.places[..2],
            [path("run"), path("other")].map(|folder| folder.display().to_string())
        );
        assert!(
            nothing.places.len() == 3 && nothing.places[2].starts_with("the cache "),
            "{:?}",
            nothing.places
        );

        copy("other/c.safetensors");
        assert_eq!(find("backbone").found, Some(path("other/c.safetensors")));
        copy("run/backbone/model.safetensors");
        assert_eq!(find("x").found, Some(path("run/backbone/model.safetensors")));
        // The name decides which of two comes first.
        assert_eq!(find("c.safetensors").found, Some(path("other/c.safetensors")));
        assert_eq!(find("hf://a/c.safetensors").found, Some(path("other/c.safetensors")));
    }
}
