//! Download of weights and their config files.

use std::path::{Path, PathBuf};

use crate::cache::find_blob;
use crate::client::RequestedFile;
use crate::error::HubError;
use crate::files::{CommitContents, Selection, fetch};
use crate::name::HubSource;
use crate::pickle::is_pickled;
use crate::progress::DownloadProgress;
use crate::repo_kind::RepoKind;
use crate::settings::HubSettings;

/// The file that names the architecture and holds timm's preprocessing.
const CONFIG: &str = "config.json";

/// The file that holds transformers' preprocessing.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// The local files of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// The `.safetensors` file.
    pub weights: PathBuf,
    /// timm's or transformers' `config.json`, if there is one.
    pub config: Option<PathBuf>,
    /// transformers' `preprocessor_config.json`, if there is one.
    pub preprocessor: Option<PathBuf>,
    /// The name in messages and run records: the path, or the `hf://` name with its commit.
    pub origin: String,
}

/// Fetches weights, and `config.json` and `preprocessor_config.json` from the same folder if they exist, with
/// the settings of [`HubSettings::from_environment`].
///
/// # Errors
/// [`HubError`]. Damaged files have been removed from the cache.
pub fn fetch_weights(source: &HubSource, progress: &dyn DownloadProgress) -> Result<WeightFiles, HubError> {
    fetch_weights_with(source, &HubSettings::from_environment(), progress)
}

/// Returns local paths of the weights `source`, and of `config.json` and `preprocessor_config.json` from the
/// same folder if they exist; downloads those that the cache lacks, and reports this to `progress`.
///
/// It reads no environment variables: cache folder, access token and timeouts are those of `settings`.
///
/// # Errors
/// The errors of [`fetch_weights`].
pub fn fetch_weights_with(
    source: &HubSource,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<WeightFiles, HubError> {
    let select = |contents: &CommitContents<'_>| {
        Ok(Selection { files: select_files(source, contents.listed)?, details: () })
    };
    let resolved = fetch(&source.0, /* description */ None, &select, settings, progress)?;
    // The three files in the order of `select_files`; a file that the repository lacks is `None`.
    let [config, preprocessor, weights] =
        <[_; 3]>::try_from(resolved.files).expect("three files are selected");
    let weights = weights.expect("a commit without the weights is an error");
    Ok(WeightFiles { weights, config, preprocessor, origin: resolved.origin })
}

/// The file of weights with this SHA-256, in hexadecimal, of any repository in the cache of `settings`; `None` if there
/// is none. Nothing is downloaded.
#[must_use]
pub fn find_cached_weights(sha256: &str, settings: &HubSettings) -> Option<PathBuf> {
    find_blob(&settings.cache, RepoKind::Weights, sha256)
}

/// The files to download for `source`: both config files, which may be missing, and the weights. The small
/// files come first, so that problems show before the weights are downloaded. If the paths of all files of
/// the repository are known (`listed`) and the weights are not among them, the error says what is.
fn select_files(source: &HubSource, listed: Option<&[String]>) -> Result<Vec<RequestedFile>, HubError> {
    let weights = source.weights_path();
    if let Some(listed) = listed
        && !listed.iter().any(|file| file == weights)
    {
        return Err(weights_not_found(source, listed));
    }
    let config = |file| RequestedFile { file: source.sibling_path(file), is_config: true };
    Ok(vec![config(CONFIG), config(PREPROCESSOR), RequestedFile { file: weights.into(), is_config: false }])
}

/// The error for a repository whose files, `listed`, do not include the requested weights. To help the user
/// correct the name, it names the other `.safetensors` files, or else a PyTorch file, or else all files.
fn weights_not_found(source: &HubSource, listed: &[String]) -> HubError {
    let name = source.0.repo_name();
    let mut found = listed.to_vec();
    if found.iter().any(|file| file.ends_with(".safetensors")) {
        found.retain(|file| file.ends_with(".safetensors"));
    } else if let Some(pickled) = found.iter().find(|file| is_pickled(Path::new(file))) {
        return HubError::Pickled { name, pickled: pickled.clone() };
    }
    HubError::FileNotFound { name, file: source.weights_path().into(), found }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::verify::hash_sha256;

    #[test]
    fn weights_in_the_cache_are_found_by_their_hash() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "weights").unwrap();
        let sha256 = hash_sha256(&file).unwrap();
        let settings = HubSettings { cache: root.path().into(), ..HubSettings::from_environment() };
        let blobs = |name: &str| root.path().join(name).join("blobs");
        let find = || find_cached_weights(&sha256, &settings);
        for (name, contents) in [("datasets--a--b", "weights"), ("models--a--b", "damaged")] {
            fs::create_dir_all(blobs(name)).unwrap();
            fs::write(blobs(name).join(&sha256), contents).unwrap();
            assert_eq!(find(), None, "{name}");
        }
        fs::create_dir_all(blobs("models--c--d")).unwrap();
        fs::rename(&file, blobs("models--c--d").join(&sha256)).unwrap();
        assert_eq!(find(), Some(blobs("models--c--d").join(&sha256)));
        let elsewhere = HubSettings { cache: root.path().join("absent"), ..settings.clone() };
        assert_eq!(find_cached_weights(&sha256, &elsewhere), None);
    }
}
