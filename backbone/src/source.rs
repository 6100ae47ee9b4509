//! Local and remote sources of weights.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_hub::{
    DownloadProgress, HubError, HubSource, WeightFiles, conversion_hint, fetch_weights, is_pickled,
};
use headstock_split::hub_names::{HubKind, name_in_missing_path, name_in_other_notation};
use thiserror::Error;

/// The place of weights: a file, a directory, or a repository on the Hugging Face hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightsSource {
    /// A `.safetensors` file, or a directory that holds one.
    Local(PathBuf),
    /// A repository on the hub.
    Hub(HubSource),
}

/// Why no weights were found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The path does not exist.
    #[error("no model weights found at {}: {}", path.display(), missing_hint(hub_name.as_deref()))]
    Missing {
        /// The path.
        path: PathBuf,
        /// The `hf://` name that may be meant by it.
        hub_name: Option<String>,
    },
    /// A name of the Hugging Face hub in the notation of another program, or the address of its page.
    #[error("{weights} is neither a path nor an hf:// name: did you mean \"{hub_name}\"?")]
    OtherNotation {
        /// The weights as given.
        weights: String,
        /// The `hf://` name that is meant.
        hub_name: String,
    },
    /// The directory cannot be listed.
    #[error("failed to list the files in {}: check the permissions of the folder", path.display())]
    ListDirectory {
        /// The directory.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The directory has no `.safetensors` file, several of which none is named `model.safetensors`, or weights
    /// that are split over several files (sharded).
    #[error("{} has {problem}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What it has, and what to do.
        problem: String,
    },
    /// The file is in PyTorch's pickle format.
    #[error(
        "{} is not a .safetensors file but a PyTorch file: {}",
        .0.display(), conversion_hint(&.0.display().to_string())
    )]
    Pickled(PathBuf),
    /// The hub or the network connection failed, or the `hf://` name is wrong.
    #[error(transparent)]
    Hub(#[from] HubError),
}

impl WeightsSource {
    /// Parses `weights`, an `hf://` name, or a path relative to the folder `base`.
    ///
    /// # Errors
    /// [`HubError::InvalidName`] for a malformed `hf://` name, [`SourceError::OtherNotation`] for the address of a
    /// page of the hub.
    pub fn parse(weights: &str, base: &Path) -> Result<Self, SourceError> {
        if let Some(hub_name) = name_in_other_notation(weights, HubKind::Weights) {
            return Err(SourceError::OtherNotation { weights: weights.into(), hub_name });
        }
        match weights.strip_prefix("hf://") {
            Some(name) => Ok(Self::Hub(name.parse()?)),
            None => Ok(Self::Local(base.join(weights))),
        }
    }

    /// Returns the local files of the weights. Weights on the hub are downloaded first, unless they are in
    /// the cache; `progress` receives the progress of the download.
    ///
    /// # Errors
    /// [`SourceError`]; [`SourceError::Hub`] for weights on the hub.
    pub fn fetch(&self, progress: &dyn DownloadProgress) -> Result<WeightFiles, SourceError> {
        match self {
            Self::Local(path) => resolve_local(path),
            Self::Hub(source) => Ok(fetch_weights(source, progress)?),
        }
    }
}

/// What to do about a path that does not exist; `hub_name` is the `hf://` name that may be meant.
fn missing_hint(hub_name: Option<&str>) -> String {
    match hub_name {
        Some(name) => {
            format!("did you mean \"{name}\" on the Hugging Face hub? If not, correct the path")
        }
        None => "correct the path".into(),
    }
}

/// Finds the local weights at `path`, a `.safetensors` file or a directory that holds one, and the config
/// files in the same directory, if any.
fn resolve_local(path: &Path) -> Result<WeightFiles, SourceError> {
    let (weights, directory) = if path.is_dir() {
        (find_in_directory(path)?, path)
    } else if path.is_file() {
        if is_pickled(path) {
            return Err(SourceError::Pickled(path.into()));
        }
        (path.to_path_buf(), path.parent().unwrap_or(Path::new("")))
    } else {
        let hub_name = name_in_missing_path(path, HubKind::Weights);
        return Err(SourceError::Missing { path: path.into(), hub_name });
    };
    let sibling = |name: &str| Some(directory.join(name)).filter(|file| file.is_file());
    Ok(WeightFiles {
        weights,
        config: sibling("config.json"),
        preprocessor: sibling("preprocessor_config.json"),
        origin: path.display().to_string(),
    })
}

/// Finds the weights in a directory: `model.safetensors`, or else the only `.safetensors` file. If there is
/// no such file, the error says what is there instead (sharded weights, a PyTorch file, several files).
fn find_in_directory(directory: &Path) -> Result<PathBuf, SourceError> {
    let paths = |entries: fs::ReadDir| entries.map(|entry| Ok(entry?.path())).collect();
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .and_then(paths)
        .map_err(|source| SourceError::ListDirectory { path: directory.into(), source })?;
    files.sort_unstable();
    let file_name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sharded = files.iter().any(|file| file_name(file).ends_with(".safetensors.index.json"));
    let pickled = files.iter().find(|file| is_pickled(file)).map(file_name);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    if let Some(model_file) = files.iter().find(|file| file_name(file) == "model.safetensors") {
        return Ok(model_file.clone());
    }
    let problem = match files.as_slice() {
        _ if sharded => {
            "model weights that are split over several files (sharded), which is not supported: save \
                         the weights as one file, model.safetensors, and use that file"
                .into()
        }
        [only] => return Ok(only.clone()),
        [] => {
            let advice = pickled.map_or_else(
                || "put the model weights there, or give the file or folder that has them".into(),
                |file| conversion_hint(&file),
            );
            format!("no .safetensors file: {advice}")
        }
        several => {
            let names: Vec<String> = several.iter().map(file_name).collect();
            format!("several .safetensors files: give the path of one of them ({})", names.join(", "))
        }
    };
    Err(SourceError::Directory { path: directory.into(), problem })
}
